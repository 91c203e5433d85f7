"""Switch, roll back, finish: which of a table's generations is served, as users ask for it.

The commits themselves are in `lancedb_ft.reindex.switch`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from lancedb_ft.arguments import is_number
from lancedb_ft.embedding import require_model
from lancedb_ft.errors import InputError, ReindexStateError
from lancedb_ft.generation import STATE_KEY, Generation, TableState
from lancedb_ft.reindex import switch as steps
from lancedb_ft.reindex.columns import require_columns
from lancedb_ft.reindex.faults import storage_told
from lancedb_ft.reindex.gates.approval import Approval
from lancedb_ft.reindex.generation_job import GenerationJob
from lancedb_ft.reindex.indexes.dropping import drop_dangling_indexes
from lancedb_ft.reindex.indexes.vector_index import refresh_index
from lancedb_ft.reindex.lock import forget_spills, job_lock
from lancedb_ft.reindex.target import encoder_of, state_of
from lancedb_ft.table import dataset, vector_columns

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.types import Evaluation, Gate

#: Seconds between the indexes and the columns that `finish` drops.
GRACE_S = 10.0

__all__ = ["finish", "mend_index", "require_generations", "rollback", "switch"]


@storage_told
def switch(
    table: Table,
    *,
    gate: Gate | None = None,
    force: bool = False,
    id_column: str | None = None,
    base: Evaluation | None = None,
    base_model: str | None = None,
    store: str | None = None,
) -> TableState:
    """Show the generation that is ready, if the gate says yes.

    Raises
    ------
    ReindexStateError
        No generation is ready.
    InputError
        Neither a gate nor ``force`` was given.
    GateError
        The gate said no.
    """
    if gate is None and not force:
        raise InputError(
            "A switch needs a gate, so that it is measured, or force=True (--force) to go without."
        )
    approval = Approval(gate, force, id_column, base, base_model, store)
    with job_lock(table):
        state = _kept_state(table)
        coming, old = _ready(state), state.active
        mend_index(table, old)
        if coming is None:
            shown = f"It searches with generation {old.number} ({old.model}). " if old else ""
            raise ReindexStateError(
                f"Table {table.name!r} has no generation that is ready to be shown. {shown}"
                "For another model run lancedb-ft reindex run first.",
                table=table.name,
                state=state.coming.phase if state.coming else "none",
            )
        require_model(coming.function)
        approval = approval.prepared(table, old, text_column=coming.source_column)
        require_generations(table, state, coming)
        job = GenerationJob(table, coming, encoder_of(table, coming, store=store), None)
        job.fill()
        return job.show(job.judge(old, approval), force=force)


@storage_told
def rollback(table: Table, to: int | None = None) -> TableState:
    """Show the generation that was shown before, in one commit; `switch` goes forward again.

    Parameters
    ----------
    table
        The table.
    to
        The number of one that was shown earlier still, and is kept; one that is shown already
        stays, so that a call that may have been killed can be made again.

    Raises
    ------
    ReindexStateError
        There is none: the table was never switched, or `finish` removed it.
    ModelNotFoundError
        The earlier model is gone, so that no text could be searched for.
    """
    with job_lock(table):
        state = _kept_state(table)
        shown = next((g for g in state.generations if g.number == to), state.previous)
        require_model(shown.function if shown is not None else None)
        mend_index(table, shown)  # before readers come to it
        return steps.rollback(table, to)


@storage_told
def finish(
    table: Table,
    *,
    abandon: bool = False,
    grace_s: float | None = None,
    drop: Sequence[str] = (),
) -> list[Generation]:
    """Remove the old vectors after a switch; with ``abandon``, the new ones before it.

    A query that was planned before the switch still reads the old column, and an ``optimize()``
    that began before this call still writes its index. So the functions and indexes go first and
    the columns ``grace_s`` later; as long again this call looks that no index comes back.

    Parameters
    ----------
    table
        The table.
    abandon
        Remove what is staged or ready and not shown, instead of what was shown before. What a
        rollback hid goes only where nothing else is on its way.
    grace_s
        Seconds, 0 or more; None for `GRACE_S`. The longest that one query takes in your
        application, or one ``optimize()`` if those run meanwhile.
    drop
        Names of columns that may go although nothing says that they were vectors: no function is
        known for them, and their names do not tell.

    Returns
    -------
    list of Generation
        Those removed.

    Raises
    ------
    ReindexStateError
        There is nothing to remove, or a column that may be data is not named in ``drop``.
    InputError
        ``grace_s`` is no number, or below 0.
    """
    grace_s = GRACE_S if grace_s is None else grace_s
    if not is_number(grace_s) or not grace_s >= 0:
        raise InputError(f"grace_s is {grace_s!r:.80}; it must be a number of seconds, 0 or more.")
    with job_lock(table):
        drop_dangling_indexes(table)
        mend_index(table, _kept_state(table).active)
        if not abandon:
            return steps.finish(table, grace_s=grace_s, drop=drop)
        removed = steps.abandon(table, grace_s=grace_s)
        for generation in removed:
            forget_spills(table, generation)
        return removed


def _kept_state(table: Table) -> TableState:
    """Return the state that a re-index left.

    Raises
    ------
    ReindexStateError
        There is none, and the table has several vector columns that could have been meant.
    """
    schema = dataset(table).schema
    if STATE_KEY.encode() not in (schema.metadata or {}) and len(vector_columns(schema)) > 1:
        raise ReindexStateError(
            f"Table {table.name!r} was never re-indexed, so nothing is ready or kept. Run "
            f"lancedb-ft reindex run first, and name one of its vector columns "
            f"{sorted(vector_columns(schema))} with --vector-column.",
            table=table.name,
            state="never re-indexed",
        )
    return state_of(table)


def _ready(state: TableState) -> Generation | None:
    """Return the generation that can be shown; one that a rollback hid only without another."""
    ready = [g for g in state.waiting if g.phase == "ready"]
    return min(ready, key=lambda g: (g.rolled_back, g.number), default=None)


def mend_index(table: Table, shown: Generation | None) -> None:
    """Rid the index of a column that is, or will be, shown of rows that were replaced.

    A killed run may not have come to it. As long as they are in it they can take the places of
    rows that are there (see `leftovers`).
    """
    if shown is not None and shown.hash_column in dataset(table).schema.names:
        refresh_index(table, shown.column)


def require_generations(table: Table, state: TableState, *generations: Generation | None) -> None:
    """Refuse, before anything is written, where a column of these is gone."""
    schema = dataset(table).schema
    for generation in generations:
        if generation is not None:
            require_columns(schema, state, generation, table=table.name)
