"""The columns that a table's generations need: which text they read, and which of them are gone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lancedb_ft.errors import ReindexStateError
from lancedb_ft.table import text_column_of

if TYPE_CHECKING:
    import pyarrow as pa

    from lancedb_ft.generation import Generation, TableState

__all__ = ["gone_columns", "require_columns", "source_column_of", "told_gone", "way_out"]


def source_column_of(
    schema: pa.Schema, state: TableState, column: str | None = None, *, table: str
) -> str:
    """Return the text column to embed: the one named, or that of the vector column which is shown.

    Raises
    ------
    ColumnNotFoundError
        There is no such text column, or none can be told.
    ReindexStateError
        The shown vectors are made from a column that is gone.
    """
    active = state.active
    if active is None:
        return text_column_of(schema, column, table=table)
    if column is None and active.source_column in gone_columns(schema, active):
        require_columns(schema, state, active, table=table)
    known = column or active.source_column
    return text_column_of(schema, known, table=table, vector_column=active.column)


def gone_columns(schema: pa.Schema, generation: Generation) -> list[str]:
    """Return those of a generation's columns that somebody renamed or dropped."""
    g = generation
    needed = {
        "removing": (),  # being dropped
        "staging": (g.source_column,),  # the others are made when its run goes on
    }.get(g.phase, (g.column, g.hash_column, g.source_column))
    return [name for name in needed if name and name not in schema.names]


def require_columns(
    schema: pa.Schema, state: TableState, generation: Generation, *, table: str
) -> None:
    """Refuse to work on a generation that lacks a column, and say how to get it back.

    Raises
    ------
    ReindexStateError
        A column is gone.
    """
    gone = gone_columns(schema, generation)
    if gone:
        raise ReindexStateError(
            f"Table {table!r}: {told_gone(generation, gone[0])}. "
            f"{way_out(schema, state, generation, gone[0])}",
            table=table,
            state=f"{gone[0]} is gone",
        )


def told_gone(generation: Generation, column: str) -> str:
    """Say of which use the column was."""
    use = {
        generation.column: "the vectors",
        generation.hash_column: "the marks",
    }.get(column, "the text")
    return f"column {column!r}, {use} of generation {generation.number}, was renamed or dropped"


def way_out(schema: pa.Schema, state: TableState, generation: Generation, column: str) -> str:
    """Say what to do, in the order of what it costs; all of it can be done."""
    g = generation
    back = f"table.alter_columns({{'path': NEW_NAME, 'rename': {column!r}}})"
    if g.phase != "active":
        verb = "finish" if g.phase == "previous" else "finish --abandon"
        other = f"or do without that generation: lancedb-ft reindex {verb}"
    elif column == g.source_column:
        other = "or embed another column: lancedb-ft reindex run --text-column NAME"
    elif column == g.column and _can_go_back(schema, state):
        other = "or, if it was dropped, go back: lancedb-ft reindex rollback"
    else:
        model = g.model if g.fingerprint else "NAME"
        other = (
            "or, if it was dropped, encode all rows again: "
            f"lancedb-ft reindex run --model {model} --re-embed --force"
        )
    return f"Rename it back, {back}, {other}."


def _can_go_back(schema: pa.Schema, state: TableState) -> bool:
    earlier = state.previous
    return earlier is not None and earlier.column in schema.names
