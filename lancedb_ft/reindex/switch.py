"""Switch, roll back, finish: one commit each changes what plain LanceDB sees."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import ReindexStateError
from lancedb_ft.generation import Generation, TableState
from lancedb_ft.reindex.columns import gone_columns, require_columns
from lancedb_ft.reindex.commits import Change, drop_columns, now, other_functions, transition
from lancedb_ft.reindex.indexes.dropping import drop_dangling_indexes, drop_indexes, guarded
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

#: Columns of these names hold vectors, whether or not a function is known for them.
_NAMED_AS_VECTORS = re.compile("vec|emb", re.IGNORECASE)

__all__ = ["abandon", "finish", "rollback", "show", "show_prepared"]


def show(
    table: Table, number: int, *, event: str = "switch", details: Mapping[str, Any] | None = None
) -> TableState:
    """Show one generation and park the one shown now, in one commit.

    Both embedding functions stay registered until `finish`, so that every write fills both
    columns and the way back stays right.

    Parameters
    ----------
    table
        The table.
    number
        The generation to show: ``ready``, or ``previous`` for a rollback.
    event
        What to write into the history.
    details
        Kept with the generation (the gate's report, whether the switch was forced).
    """
    return transition(
        table,
        lambda state, ds: _show(table, state, ds, number, event, dict(details or {})),
        what=event,
    )


def show_prepared(
    table: Table,
    prepare: Callable[[TableState], tuple[TableState, int]],
    *,
    details: Mapping[str, Any],
    vector_column: str | None = None,
) -> TableState:
    """Show a generation that no commit holds yet: written down and shown in one.

    Parameters
    ----------
    table
        The table.
    prepare
        Given the newest state, returns it with the generation in it, and the generation's number.
    details
        Kept with the generation.
    vector_column
        Which column is meant in a table that lancedb-ft never touched and that has several.
    """

    def decide(state: TableState, ds: lance.LanceDataset) -> Change | None:
        prepared, number = prepare(state)
        return _show(table, prepared, ds, number, "switch", dict(details))

    return transition(table, decide, what="switch", vector_column=vector_column)


def _show(
    table: Table,
    state: TableState,
    ds: lance.LanceDataset,
    number: int,
    event: str,
    details: dict[str, Any],
) -> Change | None:
    target = state.of(number)
    if target.phase == "active":
        return None
    if target.column in gone_columns(ds.schema, target):
        require_columns(ds.schema, state, target, table=table.name)
    if target.phase not in ("ready", "previous"):
        raise ReindexStateError(
            f"Generation {number} of table {table.name!r} is {target.phase}: it cannot be shown "
            "before it is filled and verified. Run lancedb-ft reindex run again.",
            table=table.name,
            state=target.phase,
        )
    shown = [g for g in state.generations if g.phase == "active"]
    # After a rollback the newer generation is ready again: complete, and never wrong to show.
    parked = [g.with_(phase="ready" if event == "rollback" else "previous") for g in shown]
    new_state = state.put(target.with_(phase="active", details={**details, f"{event}_at": now()}))
    new_state = new_state.put(*parked).record(
        event=event, generation=number, model=target.model, at=now(), **details
    )
    ours = {g.column for g in (*shown, target) if g.column}
    # A query-only generation has the column of the one before: that stays as it is.
    hidden = [g for g in shown if g.column != target.column]
    entries = [g.function for g in (target, *hidden) if g.function is not None]
    return Change(
        new_state,
        functions=[*entries, *other_functions(ds, ours)],
        show={target.column: target.dims} if target.column and len(hidden) == len(shown) else {},
        # A column that somebody dropped needs no parking: showing another one is the way out.
        park={g.column: g.dims for g in hidden if g.column in ds.schema.names},
    )


def rollback(table: Table, to: int | None = None) -> TableState:
    """Show the generation that was shown before, or the kept one of that number, in one commit.

    With a number the call can be made again: where that one is shown already, nothing changes.

    Raises
    ------
    ReindexStateError
        There is none: the table was never switched, or `finish` removed it.
    """
    from lancedb_ft.generation import read_state

    state = read_state(dataset(table).schema, table=table.name)
    previous = state.previous
    if to is not None:
        previous = next((g for g in state.generations if g.number == to), None)
        if previous is None or previous.phase not in ("previous", "active"):
            kept = [f"{g.number} ({g.model})" for g in state.generations if g.phase == "previous"]
            raise ReindexStateError(
                f"Table {table.name!r} does not keep generation {to} as an earlier one; it keeps "
                f"{', '.join(kept) or 'none'}.",
                table=table.name,
                state="no previous" if previous is None else previous.phase,
            )
    if previous is None:
        earlier = [g for g in state.generations if g.phase == "previous" and g.column]
        kept = [f"{g.number} ({g.model})" for g in earlier]
        others = f" It keeps {', '.join(kept)}: name one with to= (--to)." if kept else ""
        raise ReindexStateError(
            f"Table {table.name!r} has no earlier generation to go back to: none was shown before "
            "the one that is, or finish removed its vectors. Re-index with the earlier model "
            f"instead.{others}",
            table=table.name,
            state="no previous",
        )
    return show(table, previous.number, event="rollback")


def finish(table: Table, *, grace_s: float = 0.0, drop: Collection[str] = ()) -> list[Generation]:
    """Remove the generations that were shown before, with their columns and indexes.

    There is no rollback afterwards. The columns go ``grace_s`` seconds after their functions and
    indexes, when no query or ``optimize()`` that knew them is on its way any more; for as long
    afterwards, an index that comes back all the same is dropped.

    Raises
    ------
    ReindexStateError
        There is nothing to remove, or a column that may be data is not among those to ``drop``.
    """

    def earlier(state: TableState) -> list[Generation]:
        found = [g for g in state.generations if g.phase == "previous"]
        _refuse_data([g.column for g in found if _may_be_data(g) and g.column not in drop], table)
        return found

    return _remove(table, earlier, event="finish", grace_s=grace_s)


def abandon(table: Table, *, grace_s: float = 0.0) -> list[Generation]:
    """Remove a generation that was staged or is ready and is not shown; see `finish`.

    Where one is on its way and another one was rolled back, the first alone is removed: the other
    goes when this is called again.

    Raises
    ------
    ReindexStateError
        There is nothing to remove.
    """

    def unshown(state: TableState) -> list[Generation]:
        on_its_way = [g for g in state.waiting if not g.rolled_back]
        return on_its_way or list(state.waiting)

    return _remove(table, unshown, event="abandon", grace_s=grace_s)


def _remove(
    table: Table,
    chosen: Callable[[TableState], list[Generation]],
    *,
    event: str,
    grace_s: float,
) -> list[Generation]:
    """Withdraw functions, drop indexes, then columns, forget: resumable in that order.

    What an earlier call left half removed is removed to its end, and nothing else: after a killed
    `abandon` a `finish` does not take the way back away.
    """
    found: list[Generation] = []

    def withdraw(state: TableState, ds: lance.LanceDataset) -> Change:
        begun = [g for g in state.generations if g.phase == "removing"]
        found[:] = begun or [g.with_(details={"removed_by": event}) for g in chosen(state)]
        if not found:
            raise _nothing_to(table.name, state, event)
        marked = [g.with_(phase="removing") for g in found]
        columns = {g.column for g in found if g.column} - _kept_columns(state, found)
        return Change(state.put(*marked), functions=other_functions(ds, columns))

    def forget(state: TableState, ds: lance.LanceDataset) -> Change:
        for generation in found:
            state = state.drop(generation.number)
            state = state.record(
                event=generation.details.get("removed_by", event),
                generation=generation.number,
                model=generation.model,
                at=now(),
            )
        return Change(state)

    state = transition(table, withdraw, what=event)
    wanted = {c for g in found for c in (g.column, g.hash_column) if c}
    wanted -= _kept_columns(state, found)
    grace_s = grace_s if wanted else 0.0  # a query-only generation has no column of its own
    guarded(lambda: drop_indexes(table, wanted), grace_s)
    drop_columns(table, wanted)
    transition(table, forget, what=event)
    guarded(lambda: drop_dangling_indexes(table), grace_s)
    return found


def _may_be_data(g: Generation) -> bool:
    """Say whether a column may be no vectors, but coordinates or features of the application.

    The only list of numbers of a fixed length in a table is taken for its vectors.
    """
    return bool(g.column) and g.function is None and not _NAMED_AS_VECTORS.search(g.column)


def _refuse_data(columns: list[str], table: Table) -> None:
    if columns:
        raise ReindexStateError(
            f"finish would delete the column {columns[0]!r} of table {table.name!r}. Nothing says "
            "which model made it: it was taken for the vectors as the only list of numbers. If it "
            "is data of yours, keep it, and leave finish out; if not, delete it with "
            f"drop=[{columns[0]!r}] (--drop {columns[0]}).",
            table=table.name,
            state="may be data",
        )


def _nothing_to(table: str, state: TableState, event: str) -> ReindexStateError:
    have = ", ".join(f"{g.number} ({g.phase})" for g in state.generations)
    coming = state.coming
    cure = (
        f" To remove generation {coming.number} ({coming.model}), which is not shown: "
        "lancedb-ft reindex finish --abandon."
        if coming is not None
        else ""
    )
    return ReindexStateError(
        f"Table {table!r} has nothing to {event}: its generations are {have}.{cure}",
        table=table,
        state=have,
    )


def _kept_columns(state: TableState, found: list[Generation]) -> set[str]:
    """Return the columns of all other generations, which query-only ones share."""
    gone = {g.number for g in found}
    kept = [g for g in state.generations if g.number not in gone]
    return {c for g in kept for c in (g.column, g.hash_column) if c}
