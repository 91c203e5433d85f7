"""Status: where a table stands, readable by someone woken at night."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from lancedb_ft.generation import read_state
from lancedb_ft.reindex.fragments import vectors_and_mismatches
from lancedb_ft.reindex.lock import job_owner
from lancedb_ft.reindex.vector_index import describe_index
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.generation import TableState

__all__ = ["GenerationStatus", "ReindexStatus", "reindex_status"]


@dataclass(frozen=True)
class GenerationStatus:
    """One generation: how much of it is there.

    ``n_stale`` is None where it was not counted, or cannot be (no text hashes): never a guess.
    """

    number: int
    column: str
    model: str | None
    fingerprint: str | None
    phase: str
    n_vectors: int
    n_null: int
    n_stale: int | None
    index: dict[str, Any] | None
    staged_at: str | None
    switched_at: str | None


@dataclass(frozen=True)
class ReindexStatus:
    """State of a table: its generations, who works on it, and what to do next."""

    table: str
    version: int
    rows: int
    generations: tuple[GenerationStatus, ...]
    running: str | None
    advice: str
    history: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self)


def reindex_status(
    table: Table, *, vector_column: str | None = None, stale: bool = False
) -> ReindexStatus:
    """Say where a table stands.

    Parameters
    ----------
    table
        The table.
    vector_column
        Which column is meant, for an untouched table with several.
    stale
        Also count rows whose vector is not that of their present text: a scan of the text.
    """
    ds = dataset(table)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    rows = ds.count_rows()
    generations = []
    for g in state.generations:
        there = g.column in ds.schema.names
        n_vectors = ds.count_rows(f"{g.column} is not null") if there else 0
        countable = stale and there and g.hash_column in ds.schema.names
        generations.append(
            GenerationStatus(
                number=g.number,
                column=g.column,
                model=g.model,
                fingerprint=g.fingerprint,
                phase=g.phase,
                n_vectors=n_vectors,
                n_null=rows - n_vectors,
                n_stale=vectors_and_mismatches(ds, g)[0] if countable else None,
                index=describe_index(table, g.column) if there else None,
                staged_at=g.details.get("staged_at"),
                switched_at=g.details.get("switch_at"),
            )
        )
    running = job_owner(table)
    return ReindexStatus(
        table=table.name,
        version=ds.version,
        rows=rows,
        generations=tuple(generations),
        running=running,
        advice=_advice(state, running),
        history=tuple(dict(event) for event in state.history),
    )


def _advice(state: TableState, running: str | None) -> str:
    coming = state.coming
    removing = [g for g in state.generations if g.phase == "removing"]
    if running is not None:
        return f"A job is running: {running}. Searches go on with the active generation."
    if coming is not None and coming.phase == "staging":
        return (
            f"A re-index to {coming.model} was interrupted. Searches are unaffected. Go on with "
            "the same 'lancedb-ft reindex run', or remove it with 'reindex finish --abandon'."
        )
    if coming is not None:
        return (
            f"Generation {coming.number} ({coming.model}) is filled and verified. Show it with "
            "'lancedb-ft reindex switch', or remove it with 'reindex finish --abandon'."
        )
    if removing:
        return "A finish was interrupted. Run 'lancedb-ft reindex finish' again."
    if state.previous is not None:
        return (
            f"Searching with generation {state.active.number if state.active else '?'}. Go back "
            "with 'lancedb-ft reindex rollback', or remove the old vectors with 'reindex finish'."
        )
    return "Nothing to do."
