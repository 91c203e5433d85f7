"""Status: where a table stands, readable by someone woken at night."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from lancedb_ft.embedding import ALIAS, FineTunedEmbeddings
from lancedb_ft.errors import InputError, StoreError
from lancedb_ft.generation import Generation, TableState, read_state
from lancedb_ft.reindex.columns import gone_columns, told_gone, way_out
from lancedb_ft.reindex.indexes.vector_index import describe_index
from lancedb_ft.reindex.lock import job_owner
from lancedb_ft.reindex.sweeping.wrong_rows import (
    changed_since,
    find_wrong,
    has_marks,
    swept_version,
)
from lancedb_ft.store import resolve_model
from lancedb_ft.table import dataset, embedding_entries, stable_row_ids

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = ["GenerationStatus", "ReindexStatus", "reindex_status"]

#: Rows that are read, and bytes of vectors, without being asked to: a second or two.
_CHEAP_ROWS = 50_000
_CHEAP_BYTES = 256 * 2**20


@dataclass(frozen=True)
class GenerationStatus:
    """One generation: how much of it is there.

    A count is None where it was not made or cannot be; ``unknown`` then says why, and which command
    would tell. ``n_stale`` are vectors marked as those of an earlier text, or overwritten since;
    ``n_unmarked`` were written by others after the last sweep, right or not; ``n_null`` are rows
    with a text and no vector. ``swept_at`` is when all rows were last compared.
    """

    number: int
    column: str
    model: str | None
    fingerprint: str | None
    phase: str
    n_vectors: int | None
    n_null: int | None
    n_stale: int | None
    index: dict[str, Any] | None
    staged_at: str | None
    switched_at: str | None
    n_unmarked: int | None = None
    swept_at: str | None = None
    unknown: str = ""


@dataclass(frozen=True)
class ReindexStatus:
    """State of a table: its generations, who works on it, and what to do next.

    ``searches_right`` says whether plain searches answer with the vectors of the rows' present
    texts: None where that is not known. ``headline`` says it in words.
    """

    table: str
    version: int
    rows: int
    generations: tuple[GenerationStatus, ...]
    running: str | None
    searches_right: bool | None
    headline: str
    advice: str
    history: tuple[dict[str, Any], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self)


def reindex_status(
    table: Table, *, vector_column: str | None = None, stale: bool | None = None
) -> ReindexStatus:
    """Say where a table stands.

    Parameters
    ----------
    table
        The table.
    vector_column
        Which column is meant, for an untouched table with several.
    stale
        True counts stale and missing vectors whatever it costs (a scan of texts and vectors). None
        counts them where that is cheap: in a table of up to 50,000 rows, or where stable row ids
        say that no more changed since the last sweep.
    """
    ds = dataset(table)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    rows = ds.count_rows()
    generations = tuple(_generation(table, ds, g, rows, stale) for g in state.generations)
    running = job_owner(table)
    right, headline = _headline(table.name, ds, state, generations, rows)
    return ReindexStatus(
        table=table.name,
        version=ds.version,
        rows=rows,
        generations=generations,
        running=running,
        searches_right=right,
        headline=headline,
        advice=_advice(ds, state, running),
        history=tuple(dict(event) for event in state.history),
    )


def _generation(
    table: Table, ds: lance.LanceDataset, g: Generation, rows: int, stale: bool | None
) -> GenerationStatus:
    there = bool(g.column) and g.column in ds.schema.names
    status = GenerationStatus(
        number=g.number,
        column=g.column,
        model=g.model,
        fingerprint=g.fingerprint,
        phase=g.phase,
        n_vectors=None if there else 0,
        n_null=None,
        n_stale=None,
        index=describe_index(table, g.column) if there else None,
        staged_at=g.details.get("staged_at"),
        switched_at=g.details.get("switch_at"),
        swept_at=(g.details.get("swept") or {}).get("at"),
    )
    if has_marks(ds, g):
        status = replace(status, n_vectors=ds.count_rows(f"`{g.hash_column}` IS NOT NULL"))
    gone = gone_columns(ds.schema, g)
    if gone:
        return replace(status, unknown=told_gone(g, gone[0]))
    if g.phase == "removing" or not there:
        unknown = "it is being removed" if g.phase == "removing" else "it has no column yet"
        return replace(status, unknown=unknown)
    if has_marks(ds, g):
        return _counted(table.name, ds, g, status, rows, stale)
    return _unmarked(table.name, ds, g, status, rows, stale)


def _counted(
    name: str,
    ds: lance.LanceDataset,
    g: Generation,
    status: GenerationStatus,
    rows: int,
    stale: bool | None,
) -> GenerationStatus:
    """Count in a generation with marks, if that is cheap or asked for."""
    if g.phase == "staging" and not stale:
        return replace(status, unknown="it is being filled")
    since = None if stale else swept_version(ds, g)
    to_read = rows if since is None else changed_since(ds, since)
    if stale or (stale is None and to_read <= _CHEAP_ROWS):
        wrong = find_wrong(ds, [g], since=since)[g.number]
        return replace(
            status, n_stale=wrong.n_stale, n_unmarked=wrong.n_unmarked, n_null=wrong.n_missing
        )
    if since is not None:
        why = f"{to_read:,} rows changed since the last sweep"
    elif stable_row_ids(ds):
        why = f"{rows:,} rows were never swept"
    else:
        why = f"without stable row ids only a scan of {rows:,} rows tells"
    return replace(status, unknown=f"{why}: {_sweep(name)} mends them, status --stale counts them")


def _unmarked(
    name: str,
    ds: lance.LanceDataset,
    g: Generation,
    status: GenerationStatus,
    rows: int,
    stale: bool | None,
) -> GenerationStatus:
    """Count missing vectors; which ones are stale nothing can say."""
    if g.source_column is None or g.source_column not in ds.schema.names:
        unknown = "raw vectors: nothing says which text and model they are of"
    else:
        unknown = "no marks say which text each vector is of: re-index once (reindex run)"
    cheap = stale is None and rows * g.dims * 4 <= _CHEAP_BYTES
    if not stale and not cheap:
        return replace(status, unknown=f"{unknown}; status --stale counts missing vectors")
    n_vectors = ds.count_rows(f"`{g.column}` IS NOT NULL")
    n_null: int | None = rows - n_vectors
    if n_null and g.source_column in ds.schema.names:
        n_null = find_wrong(ds, [g])[g.number].n_missing
    return replace(status, n_vectors=n_vectors, n_null=n_null, unknown=unknown)


def _sweep(name: str) -> str:
    return f"lancedb-ft sweep --table {name}"


def _headline(
    name: str,
    ds: lance.LanceDataset,
    state: TableState,
    generations: tuple[GenerationStatus, ...],
    rows: int,
) -> tuple[bool | None, str]:
    """Say whether searches are right, and if not, what mends that."""
    active = state.active
    shown = next((s for s in generations if active and s.number == active.number), None)
    if active is None or shown is None:
        return None, "No vector searches: the table has no vector column yet."
    broken = _broken(ds, state, active)
    if broken:
        return False, f"SEARCHES ARE BROKEN: {broken}"
    who = f"{active.model or 'an unnamed model'} in column {active.column}"
    wrong = (shown.n_stale or 0) + (shown.n_null or 0)
    if wrong:
        told = [f"{shown.n_stale:,} may be found by an earlier text" if shown.n_stale else ""]
        told += [f"{shown.n_null:,} cannot be found" if shown.n_null else ""]
        cure = (
            f"run {_sweep(name)}"
            if active.function is not None
            else "no sweep can make their vectors, as nothing says which model the others are of. "
            "Write them, or re-index (lancedb-ft reindex run)"
        )
        return False, (
            f"Searches work, but of {rows:,} rows {' and '.join(filter(None, told))}: {cure}. "
            f"They answer with {who}."
        )
    if shown.n_stale is None or shown.n_null is None:
        return None, f"Searches work, with {who}; not known if all are up to date: {shown.unknown}."
    if shown.n_unmarked:
        return None, (
            f"Searches are right, with {who}, as far as is known: {shown.n_unmarked:,} of {rows:,} "
            f"rows have vectors that their writer made. {_sweep(name)} makes sure."
        )
    return True, f"Searches are right: {who}, all {rows:,} rows up to date."


def _broken(ds: lance.LanceDataset, state: TableState, active: Generation) -> str:
    """Say what keeps a text search from being answered by the active generation, if anything."""
    if active.column not in ds.schema.names:
        return f"{told_gone(active, active.column)}."
    if hasattr(ds.schema.field(active.column).type, "storage_type"):
        return f"column {active.column} is hidden. {_shown_again(ds, state)}"
    if active.function is None:
        return ""
    entries = [e for e in embedding_entries(ds.schema) if e["vector_column"] == active.column]
    if not entries:
        return f"the metadata lost the embedding function of column {active.column}."
    if entries[0]["name"] != ALIAS:
        return ""
    function = FineTunedEmbeddings.create(**entries[0]["model"])
    if function.name.startswith("hf://"):
        return ""  # not asked over the network
    try:
        found = resolve_model(function.name, store=function.store)
    except (StoreError, InputError) as error:
        return f"the model cannot be had here: {error}"
    if function.fingerprint not in (None, found.fingerprint):
        return f"the weights of {function.name} are not those of the vectors: put them back."
    return ""


def _shown_again(ds: lance.LanceDataset, state: TableState) -> str:
    earlier = state.previous
    if earlier is not None and not gone_columns(ds.schema, earlier):
        return "Go back: lancedb-ft reindex rollback."
    return "Take ARROW:extension:name and ARROW:extension:metadata out of its field metadata."


def _advice(ds: lance.LanceDataset, state: TableState, running: str | None) -> str:
    coming = state.coming
    for g in (state.active, coming, state.previous):
        gone = [] if g is None else gone_columns(ds.schema, g)
        if g is not None and gone:
            told = told_gone(g, gone[0])
            return f"{told[0].upper()}{told[1:]}. {way_out(ds.schema, state, g, gone[0])}"
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
    removing = next((g for g in state.generations if g.phase == "removing"), None)
    if removing is not None:
        abandoned = removing.details.get("removed_by") == "abandon"
        verb = "finish --abandon" if abandoned else "finish"
        return f"A '{verb}' was interrupted. Run 'lancedb-ft reindex {verb}' again."
    if state.previous is not None:
        return (
            f"Searching with generation {state.active.number if state.active else '?'}. Go back "
            f"to {state.previous.model or 'the vectors before'} with 'lancedb-ft reindex rollback',"
            " or remove the old vectors with 'reindex finish'."
        )
    return "Nothing to do."
