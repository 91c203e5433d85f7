"""The target: what a table is re-indexed to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lancedb_ft.embedding import function_entry
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError
from lancedb_ft.generation import TableState, read_state
from lancedb_ft.store import default_store_uri, resolve_model
from lancedb_ft.table import database_uri, dataset, require_column, text_column_of

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.store import ResolvedModel
    from lancedb_ft.types import ModelVersion

__all__ = ["Target", "encoder_of", "make_target", "state_of"]


@dataclass(frozen=True)
class Target:
    """What a table is re-indexed to: a model, and the columns it reads and replaces."""

    table_name: str
    model: ResolvedModel
    text_column: str
    dims: int
    precision: str
    vector_column: str | None = None

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
) -> tuple[Target, Encoder]:
    """Resolve the model, check the columns, and load the encoder; the table is only read.

    Raises
    ------
    ColumnNotFoundError, ModelNotFoundError, InputError
        The table or the model is not as named.
    """
    ds = dataset(table)
    text = text_column_of(ds.schema, text_column, table=table.name)
    if vector_column is not None:
        require_column(ds.schema, vector_column, table=table.name)
    resolved = resolve_model(model, store=_store(table, store))
    encoder = get_encoder(resolved, device=device, precision=precision, dims=dims)
    target = Target(
        table_name=table.name,
        model=resolved,
        text_column=text,
        dims=encoder.dims,
        precision=encoder.precision,
        vector_column=vector_column,
    )
    return target, encoder


def encoder_of(
    table: Table, generation: Generation, *, store: str | None, device: str | None = None
) -> Encoder:
    """Return the encoder of a generation, in its precision and with its fingerprint.

    Raises
    ------
    InputError
        The generation names no model.
    FingerprintError
        The weights are not those that filled it.
    """
    if generation.model is None:
        raise InputError(f"Generation {generation.number} of {table.name!r} names no model.")
    return get_encoder(
        generation.model,
        store=_store(table, store),
        device=device,
        precision=str(generation.details.get("precision", "auto")),
        dims=generation.dims,
        fingerprint=generation.fingerprint,
    )


def state_of(table: Table, vector_column: str | None = None) -> TableState:
    """Read the newest state of a table."""
    return read_state(dataset(table).schema, table=table.name, vector_column=vector_column)


def _store(table: Table, store: str | None) -> str:
    return store or default_store_uri(database_uri(table))
