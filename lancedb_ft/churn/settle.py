"""Settle: embed the rows that have been quiet long enough, which makes them part of the core."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.churn.turn import turn
from lancedb_ft.churn.vectors import Remembering
from lancedb_ft.errors import LancedbFtError, ReindexConflictError
from lancedb_ft.generation import Generation, TableState, read_state
from lancedb_ft.reindex.checks.models_of import model_of
from lancedb_ft.reindex.commits import Change, now, retrying, transition
from lancedb_ft.reindex.filling.moved_rows import rewrite_rows
from lancedb_ft.reindex.indexes.vector_index import refresh_index
from lancedb_ft.reindex.sweeping.mend import Mended, Mender
from lancedb_ft.reindex.sweeping.sweep import sweepable
from lancedb_ft.reindex.sweeping.wrong_rows import find_wrong, has_marks, swept_version
from lancedb_ft.search.filters import filter_told
from lancedb_ft.search.tiers import Tiers, require_tiers, seconds_of
from lancedb_ft.table import dataset, require_table, stable_row_ids

if TYPE_CHECKING:
    import lance
    import pyarrow as pa
    from lancedb.table import Table

    from lancedb_ft.types import Progress

__all__ = ["SettleReport", "settle", "settle_watch"]

#: Rows that move in one commit: bounds memory, and what a kill can lose.
_WINDOW = 4096
#: After a pass that read so many rows it is worth a commit to remember up to where all is right.
_WORTH_REMEMBERING = 256
#: Ten times as long, after lost rounds, is still a time that a thread can wait for.
_LONGEST_PAUSE_S = 30 * 86_400.0


@dataclass
class SettleReport:
    """What a settle did.

    ``n_read`` rows were looked at: quiet, and without a mark or changed since the last time.
    ``n_settled`` of them were written with the vector of their text, ``n_encoded`` texts were
    embedded for that. ``n_hot`` rows are hot still. ``notes`` says what could not be done.
    """

    table: str
    version: int = 0
    n_read: int = 0
    n_settled: int = 0
    n_encoded: int = 0
    n_hot: int = 0
    seconds: float = 0.0
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


def settle(
    table: Table,
    tiers: Tiers,
    *,
    now_s: float | None = None,
    store: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> SettleReport:
    """Embed the rows that are quiet by the policy and have no vector of their present text.

    The work is in proportion to what became quiet: the rows that `lancedb_ft.write` deferred have
    no mark, which a look at one narrow column tells. Texts that others changed are found too: with
    stable row ids by their versions, otherwise where ``updated_at`` says so, or by a `sweep`.

    Parameters
    ----------
    table
        The table.
    tiers
        The policy.
    now_s
        The present, in seconds since 1970, by default that of the clock.
    store, device
        Where our models are, and run.
    progress
        Called with rows done and rows to do.

    Raises
    ------
    ReindexConflictError
        Other writers committed first each time; what was settled before stays.
    StoreError, InputError
        The active generation's model cannot be had here, or the policy does not fit the table.
    """
    started = time.perf_counter()
    require_table(table)
    require_tiers(tiers)
    run = _Settle(table, tiers, time.time() if now_s is None else now_s, store, device, progress)
    run()
    run.report.seconds = time.perf_counter() - started
    return run.report


class _Settle:
    def __init__(
        self,
        table: Table,
        tiers: Tiers,
        now_s: float,
        store: str | None,
        device: str | None,
        progress: Progress | None,
    ) -> None:
        self._table, self._tiers, self._now_s = table, tiers, now_s
        self._store, self._device, self._progress = store, device, progress
        self._models: list[Remembering] = []
        self.report = SettleReport(table.name)

    def __call__(self) -> None:
        ds = dataset(self._table)
        self.report.version = int(ds.version)
        # The same moment for all, so that nothing falls between what is asked one by one.
        hot = self._tiers.hot(ds, table=self._table.name, now_s=self._now_s)
        with filter_told(ds, self._tiers.predicate):
            self.report.n_hot = int(ds.count_rows(hot))
        state = read_state(ds.schema, table=self._table.name)
        ids: list[Any] = []
        wrong: list[Generation] = []
        looked: list[Generation] = []
        for g in sweepable(state):
            if g.phase == "active" and g.function is None:
                self.report.notes.append(
                    f"nothing says which model made column {g.column!r}: rows without a vector "
                    "stay so, until the table is re-indexed with a model"
                )
            if g.column not in ds.schema.names or g.source_column is None or g.function is None:
                continue
            found = find_wrong(ds, [g], where=self._where(ds, g))[g.number]
            self.report.n_read += found.n_read
            looked.append(g)
            if len(found.ids):
                wrong.append(g)
                ids.append(found.ids)
        menders = [m for m in (self._mender(ds, g) for g in wrong) if m is not None]
        wanted = np.unique(np.concatenate(ids)).tolist() if menders else []
        if wanted:
            self._move(wanted, menders)
        # Without stable ids a row that was compacted meanwhile is found by nothing: another time.
        all_found = stable_row_ids(ds) or self.report.n_settled == len(wanted)
        if self.report.n_read > _WORTH_REMEMBERING and all_found:
            self._remember(ds, looked)

    def _where(self, ds: lance.LanceDataset, g: Generation) -> str:
        """Return SQL for the rows to look at."""
        quiet = self._tiers.quiet(ds, table=self._table.name, now_s=self._now_s)
        if not has_marks(ds, g):
            return quiet  # and no vector, see `find_wrong`
        changed = self._changed(ds, g)
        if changed is None:
            return quiet
        return f"{quiet} AND ({' OR '.join([f'`{g.hash_column}` IS NULL', *changed])})"

    def _changed(self, ds: lance.LanceDataset, g: Generation) -> list[str] | None:
        """Return SQL for what may have changed since all quiet rows were right; None: all rows."""
        settled = g.details.get("settled") or {}
        stable = stable_row_ids(ds)
        if settled.get("policy") == self._tiers.key:
            versions = [f"_row_last_updated_at_version > {int(settled['version'])}"]
            cutoff_s = float(settled["now_s"]) - float(settled["settle_s"])
            quieted = self._tiers.since(ds, cutoff_s, table=self._table.name)
            return [*(versions if stable else []), *([f"({quieted})"] if quieted else [])]
        swept = swept_version(ds, g)
        return None if swept is None else [f"_row_last_updated_at_version > {swept}"]

    def _mender(self, ds: lance.LanceDataset, g: Generation) -> Mender | None:
        try:
            model = model_of(self._table, g, store=self._store, device=self._device)
        except LancedbFtError as error:
            if g.phase == "active":
                raise
            self.report.notes.append(f"generation {g.number} was not settled: {error}")
            return None
        remembering = Remembering(model)
        self._models.append(remembering)
        return Mender(g, remembering, has_marks(ds, g))

    def _move(self, ids: list[int], menders: list[Mender]) -> None:
        for start in range(0, len(ids), _WINDOW):
            window = ids[start : start + _WINDOW]
            self._tell(start, len(ids))
            made: list[Mended] = []

            def changes(rows: pa.Table, made: list[Mended] = made) -> dict[str, pa.Array]:
                batch = rows.combine_chunks().to_batches()[0]
                made[:] = [mender(batch, None) for mender in menders]
                return {name: column for one in made for name, column in one.columns.items()}

            def attempt(window: list[int] = window, made: list[Mended] = made) -> int:
                # The first one embeds, and nobody waits for that. One that lost has the vectors,
                # and has its turn among the writes: beside steady ones it would lose for ever.
                with turn(self._table) if made else nullcontext():
                    made.clear()
                    ds = dataset(self._table)
                    if any(m.generation.column not in ds.schema.names for m in menders):
                        raise ReindexConflictError(
                            "settle", attempts=1, last="a column was removed"
                        )
                    return rewrite_rows(self._table, ds, window, changes)

            self.report.n_settled += retrying(attempt, what="write the settled rows")
            self.report.n_encoded += sum(one.n_encoded for one in made)
            for model in self._models:
                model.forget()
        for mender in menders:
            refresh_index(self._table, mender.generation.column)
        self._tell(len(ids), len(ids))

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)

    def _remember(self, ds: lance.LanceDataset, generations: list[Generation]) -> None:
        """Write down that all rows that were quiet at this version and moment are right."""
        numbers = {g.number for g in generations if has_marks(ds, g)}
        settled = {
            "version": int(ds.version),
            "now_s": round(self._now_s, 3),
            "settle_s": self._tiers.settle_s,
            "policy": self._tiers.key,
            "at": now(),
        }

        def decide(state: TableState, newest: lance.LanceDataset) -> Change | None:
            kept = [g for g in state.generations if g.number in numbers]
            return Change(state.put(*(g.with_(details={"settled": settled}) for g in kept)))

        if numbers:
            transition(self._table, decide, what="remember what has settled")


def settle_watch(
    table: Table,
    tiers: Tiers,
    *,
    every_s: float = 30.0,
    stop: threading.Event | None = None,
    store: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    on_conflict: Callable[[ReindexConflictError, float], None] | None = None,
) -> Iterator[SettleReport]:
    """Settle again and again; yield a report for each round that settled something.

    Parameters
    ----------
    table, tiers, store, device, progress
        See `settle`.
    every_s
        Seconds between rounds; doubled, up to ten times as long, after each lost round.
    stop
        Ends the loop when set.
    on_conflict
        Called with the error and the seconds until the next attempt when a round lost.
    """
    every_s = min(seconds_of(every_s, name="every_s"), _LONGEST_PAUSE_S)
    stop = stop or threading.Event()
    lost = 0
    while not stop.is_set():
        try:
            report = settle(table, tiers, store=store, device=device, progress=progress)
            lost = 0
            if report.n_settled:
                yield report
        except ReindexConflictError as error:
            lost += 1
            if on_conflict is not None:
                on_conflict(error, every_s * min(10, 2**lost))
        stop.wait(every_s * min(10, 2**lost))
