"""The target: what a table is re-indexed to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lancedb_ft.embedding import function_entry, store_for, stores_of_database
from lancedb_ft.encoder import get_encoder, resolve_device
from lancedb_ft.errors import InputError, LancedbFtError
from lancedb_ft.generation import TableState, read_state
from lancedb_ft.reindex.columns import gone_columns, source_column_of
from lancedb_ft.store import ModelStore, resolve_model
from lancedb_ft.table import dataset, require_column

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.store import ResolvedModel
    from lancedb_ft.types import ModelVersion

__all__ = [
    "Target",
    "donors_of",
    "encoder_of",
    "kept_generation",
    "make_target",
    "state_of",
    "store_of_model",
]


@dataclass(frozen=True)
class Target:
    """What a table is re-indexed to: a model, and the columns it reads and replaces."""

    table_name: str
    model: ResolvedModel
    text_column: str
    dims: int
    precision: str
    vector_column: str | None = None
    backend: str = "torch"
    agreement: Mapping[str, Any] | None = None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model."""
        return self.model.fingerprint

    def entry(self, column: str) -> dict[str, Any]:
        """Return LanceDB's entry for the model's function on that vector column."""
        dims = self.dims if self.dims != self.model.dims else None
        return function_entry(
            self.model, source_column=self.text_column, vector_column=column, dims=dims
        )


def make_target(
    table: Table,
    model: str | ModelVersion,
    *,
    text_column: str | None,
    vector_column: str | None,
    store: str | None,
    dims: int | None,
    device: str | None,
    precision: str,
    backend: str = "torch",
) -> tuple[Target, Encoder]:
    """Resolve the model, check the columns, and load the encoder; the table is only read.

    Raises
    ------
    ColumnNotFoundError, ModelNotFoundError, InputError
        The table or the model is not as named.
    """
    ds = dataset(table)
    if vector_column is not None:
        require_column(ds.schema, vector_column, table=table.name)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    text = source_column_of(ds.schema, state, text_column, table=table.name)
    resolved = resolve_model(model, store=store_of_model(table, state, model, store))
    encoder = get_encoder(resolved, device=device, precision=precision, dims=dims, backend=backend)
    target = Target(
        table_name=table.name,
        model=resolved,
        text_column=text,
        dims=encoder.dims,
        precision=encoder.precision,
        vector_column=vector_column,
        backend=encoder.backend,
    )
    return target, encoder


def encoder_of(
    table: Table, generation: Generation, *, store: str | None, device: str | None = None
) -> Encoder:
    """Return the encoder of a generation, in its precision and with its fingerprint.

    A backend that is not there does not stop the work: torch gives the same vectors, as was
    looked at when the generation was begun.

    Raises
    ------
    InputError
        The generation names no model.
    FingerprintError
        The weights are not those that filled it.
    """
    if generation.model is None:
        raise InputError(f"Generation {generation.number} of {table.name!r} names no model.")
    backend = str(generation.details.get("backend", "torch"))
    there = backend == "torch" or (find_spec(backend) and resolve_device(device) == "cpu")
    return get_encoder(
        generation.model,
        store=store_for(table, store, of=generation.function),
        device=device,
        precision=str(generation.details.get("precision", "auto")),
        dims=generation.dims,
        fingerprint=generation.fingerprint,
        backend=backend if there else "torch",
    )


def kept_generation(state: TableState, target: Target) -> Generation | None:
    """Return the generation of the target that was shown before, or is ready, if it can be mended.

    Going back to its model fills what changed since, instead of everything.
    """
    for generation in sorted(state.generations, key=lambda g: -g.number):
        if (
            generation.phase in ("previous", "ready")
            and generation.hash_column is not None
            and not generation.query_only
            and (generation.fingerprint, generation.dims) == (target.fingerprint, target.dims)
            and generation.source_column == target.text_column
        ):
            return generation
    return None


def donors_of(table: Table, generation: Generation) -> tuple[Generation, ...]:
    """Return the other generations whose vectors are those of this one, or begin with them."""
    schema = dataset(table).schema
    state = read_state(schema, table=table.name)
    made_by = (generation.document_fingerprint, generation.details.get("precision"))
    return tuple(
        g
        for g in state.generations
        if g.column not in ("", generation.column)
        and g.phase not in ("staging", "removing")
        and g.hash_column is not None
        and not gone_columns(schema, g)
        and g.source_column == generation.source_column
        and g.dims >= generation.dims
        and made_by[0] is not None
        and (g.document_fingerprint, g.details.get("precision")) == made_by
    )


def state_of(table: Table, vector_column: str | None = None) -> TableState:
    """Read the newest state of a table."""
    return read_state(dataset(table).schema, table=table.name, vector_column=vector_column)


def store_of_model(
    table: Table, state: TableState, model: str | ModelVersion, store: str | None
) -> str:
    """Return where a model that the table is to have is looked up: the first store that has it."""
    known = [g.function for g in state.generations if g.model == model]
    if store or known:
        return store_for(table, store, of=known[-1] if known else None)
    active = state.active
    places = stores_of_database(table, beside=active.function if active is not None else None)
    return next((place for place in places if _has(place, model)), store_for(table))


def _has(place: str, model: str | ModelVersion) -> bool:
    try:
        ModelStore(place).load(str(model))
    except LancedbFtError:
        return False
    return True
