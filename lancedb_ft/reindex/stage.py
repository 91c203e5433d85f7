"""Stage: an empty, parked vector column for the new model, beside a column of text hashes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NoReturn

import pyarrow as pa

from lancedb_ft.errors import InputError, ReindexStateError
from lancedb_ft.generation import Generation, TableState, parked_metadata
from lancedb_ft.reindex.commits import Change, now, other_functions, retrying, transition
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

    from lancedb_ft.reindex.target import Target

__all__ = ["refuse_another", "require_stable_format", "stage"]


def stage(table: Table, target: Target, *, writers_have_plugin: bool = False) -> Generation:
    """Return the generation of the target, made if the table does not have it yet.

    Three commits, each of metadata only: the intent (so that a killed stage is found again), the
    two empty columns, and, where all writers are known to have the plugin, the embedding
    function, so that rows written from now on get both vectors.

    Parameters
    ----------
    table
        The table.
    target
        The model and the columns, see `Target`.
    writers_have_plugin
        Say that every process that writes to the table imports lancedb_ft. Taken for granted
        where the present function is ours already. Otherwise rows written meanwhile stay
        without new vectors until the sweeps before and after the switch.

    Raises
    ------
    ReindexStateError
        Another model, or other dims of this one, are being staged.
    InputError
        The table is in Lance's legacy format, which takes no empty columns.
    """
    state = transition(
        table,
        lambda state, ds: _intend(table, state, ds, target),
        what="stage",
        vector_column=target.vector_column,
    )
    generation = _of_target(state, target)
    retrying(lambda: _add_columns(table, generation), what="add the columns")
    active = state.active
    function = active.function if active is not None else None
    ours = function is not None and function["name"] == "ft-embed"
    if ours or writers_have_plugin:
        transition(
            table,
            lambda state, ds: _register(state, ds, generation.number),
            what="register the function",
        )
    return generation


def _intend(
    table: Table, state: TableState, ds: lance.LanceDataset, target: Target
) -> Change | None:
    require_stable_format(table.name, ds)
    if _staged(state, target) is not None:
        return None
    coming = state.coming
    if coming is not None and not coming.rolled_back:
        refuse_another(table.name, coming)
    number, column = _unused(state, ds)
    generation = Generation(
        number=number,
        column=column,
        dims=target.dims,
        phase="staging",
        source_column=target.text_column,
        function=target.entry(column),
        hash_column=f"{column}_hash",
        details={
            "precision": target.precision,
            "backend": target.backend,
            "agreement": target.agreement,
            "document_fingerprint": target.model.document_fingerprint,
            "staged_at": now(),
        },
    )
    return Change(state.put(generation).record(event="stage", generation=number, at=now()))


def require_stable_format(table: str, ds: lance.LanceDataset) -> None:
    """Refuse a table of Lance's first file format before anything is written to it."""
    if ds.data_storage_version in ("0.1", "legacy"):
        raise InputError(
            f"Table {table!r} is in Lance's legacy file format ({ds.data_storage_version}), which "
            "takes no new empty columns. Write it anew under another name first, in the present "
            f'format: db.create_table("{table}_new", old.to_arrow()), or, where it does not fit '
            "into memory, db.create_table(NAME, old.to_lance().to_batches(), schema=old.schema). "
            "Make its indexes there, and re-index that one."
        )


def _unused(state: TableState, ds: lance.LanceDataset) -> tuple[int, str]:
    """Return a generation's number and column; a column of that name may be the user's own."""
    active = state.active
    base = re.sub(r"__g\d+$", "", active.column) if active is not None else "vector"
    number = state.next_number
    while {f"{base}__g{number}", f"{base}__g{number}_hash"} & {*ds.schema.names}:
        number += 1
    return number, f"{base}__g{number}"


def refuse_another(table: str, coming: Generation) -> NoReturn:
    """Raise the error that another re-index must be finished, or given up, first."""
    raise ReindexStateError(
        f"Table {table!r} is already being re-indexed to {coming.model} (generation "
        f"{coming.number}, {coming.phase}) with {coming.dims} dims, of column "
        f"{coming.source_column!r}. Finish that first with the same command as before, "
        "or give it up: lancedb-ft reindex finish --abandon.",
        table=table,
        state=coming.phase,
    )


def _is_of(generation: Generation, target: Target) -> bool:
    made = (generation.fingerprint, generation.dims, generation.source_column)
    return made == (target.fingerprint, target.dims, target.text_column)


def _staged(state: TableState, target: Target) -> Generation | None:
    """Return the generation with columns of its own that was begun for the target."""
    found = [g for g in state.waiting if _is_of(g, target) and not g.query_only]
    return found[-1] if found else None


def _of_target(state: TableState, target: Target) -> Generation:
    staged = _staged(state, target)
    if staged is None:
        raise ReindexStateError(
            "The staged generation vanished: another process abandoned or switched it.",
            table=target.table_name,
            state="gone",
        )
    return staged


def _add_columns(table: Table, generation: Generation) -> None:
    ds = dataset(table)
    wanted: dict[str, Any] = {
        generation.column: pa.field(
            generation.column,
            pa.list_(pa.float32(), generation.dims),
            metadata=parked_metadata(generation.dims),
        ),
        str(generation.hash_column): pa.field(generation.hash_column, pa.int64()),
    }
    missing = [f for name, f in wanted.items() if name not in ds.schema.names]
    if missing:
        ds.add_columns(missing)


def _register(state: TableState, ds: lance.LanceDataset, number: int) -> Change | None:
    generation = state.of(number)
    entry = generation.function
    others = other_functions(ds, {generation.column})
    if entry is None or len(others) < len(other_functions(ds, set())):
        return None
    return Change(
        state.put(generation.with_(details={"registered": True})), functions=[*others, entry]
    )
