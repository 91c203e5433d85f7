"""Sweep: find the rows whose vectors no longer belong to their texts, and make them again.

A plain ``update`` changes a text and leaves its vector, a process without the plugin writes rows
without any, and LanceDB says nothing of it. The sweep mends the active generation and those kept
for a way back. Nothing is believed but the mark beside each vector, so a text that changes again
between reading and committing is found by the next pass, and a killed sweep is simply run again.

Fragments of which many rows are wrong get a new vector column, unless readers find them by an
index; a few rows of a big one move, see `moved_rows`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, dataclass, field, replace
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError, LancedbFtError, ReindexConflictError
from lancedb_ft.generation import STATE_KEY, Generation, TableState, read_state
from lancedb_ft.reindex.checks.models_of import model_of
from lancedb_ft.reindex.columns import gone_columns, require_columns, told_gone
from lancedb_ft.reindex.commits import Change, now, retrying, transition
from lancedb_ft.reindex.faults import storage_told
from lancedb_ft.reindex.filling.backfill import Backfill
from lancedb_ft.reindex.filling.moved_rows import movable, rewrite_rows
from lancedb_ft.reindex.filling.spill import Spill
from lancedb_ft.reindex.indexes.dropping import drop_dangling_indexes
from lancedb_ft.reindex.indexes.vector_index import describe_index, refresh_index
from lancedb_ft.reindex.lock import job_folder, spill_name
from lancedb_ft.reindex.sweeping.mend import Mended, Mender
from lancedb_ft.reindex.sweeping.wrong_rows import (
    WrongRows,
    changed_since,
    find_wrong,
    has_marks,
    swept_version,
)
from lancedb_ft.reindex.target import encoder_of
from lancedb_ft.table import dataset, stable_row_ids

if TYPE_CHECKING:
    import lance
    import pyarrow as pa
    from lancedb.table import Table

    from lancedb_ft.types import Progress

__all__ = ["SweepReport", "SweptGeneration", "sweep", "sweepable"]

#: Rows that move in one commit: bounds memory, and what a kill can lose.
_WINDOW = 4096
#: Share of a fragment's rows from which its column is written whole. With 384 dimensions, two
#: generations and short texts a moved row writes three times the bytes of its vector.
_WHOLE_SHARE = 0.25
#: Passes of one sweep, while writers go on changing texts.
_MAX_PASSES = 5

_NOTHING = WrongRows()

How = Literal["row versions", "scan", "missing only", "every row", "not swept"]


@dataclass
class SweptGeneration:
    """What a sweep did in one generation; ``note`` says what it could not do."""

    number: int
    column: str
    phase: str
    model: str | None
    how: How
    read: int = 0
    stale: int = 0
    unmarked: int = 0
    missing: int = 0
    encoded: int = 0
    unindexed: int | None = None
    note: str = ""


@dataclass
class SweepReport:
    """What a sweep found and did.

    ``version`` is the newest that was looked at; ``read`` counts rows looked at, over all passes;
    ``unmarked`` vectors were written by others, right or not. ``moved`` rows were written to a new
    fragment, ``fragments`` got a new vector column. ``complete``: the last pass found nothing.
    """

    table: str
    version: int = 0
    generations: list[SweptGeneration] = field(default_factory=list)
    moved: int = 0
    fragments: int = 0
    passes: int = 0
    complete: bool = False
    seconds: float = 0.0

    @property
    def encoded(self) -> int:
        """Texts that were encoded, over all generations."""
        return sum(g.encoded for g in self.generations)

    @property
    def mended(self) -> int:
        """Vectors that were wrong, or not known to be right, over all generations."""
        return sum(g.stale + g.unmarked + g.missing for g in self.generations)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        figures = asdict(self) | {"encoded": self.encoded, "mended": self.mended}
        return figures | {"seconds": round(self.seconds, 3)}


@storage_told
def sweep(
    table: Table,
    *,
    re_encode: Sequence[int] | Literal["all"] = (),
    vector_column: str | None = None,
    store: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> SweepReport:
    """Embed rows again whose vector is missing, or not that of their text; while all go on.

    All generations that are shown or kept (active, previous, ready after a rollback) are swept.
    With stable row ids only rows that changed since the last sweep are read; otherwise, and the
    first time, all are. Of a generation without marks (made by another function, or never
    re-indexed by us) only missing vectors are found and filled.

    Parameters
    ----------
    table
        The table.
    re_encode
        Encode all rows of these fragments, or of ``"all"``, and replace the vectors that their
        model would not make, whatever the marks say: what `verify` located.
    vector_column
        Which column is meant, for an untouched table with several.
    store
        The model store. None: the registry variable ``ft_store``, else ``LANCEDB_FT_STORE``, else
        the one that the table's function names, else ``ft_models`` inside the database.
    device
        Where to encode.
    progress
        Called with rows done and rows to do.

    Raises
    ------
    ReindexConflictError
        Other writers committed first each time.
    StorageError
        The storage took no more writes; what was committed stays.
    StoreError, InputError
        The active generation's model cannot be had here.
    """
    started = time.perf_counter()
    _check_fragments(re_encode)
    drop_dangling_indexes(table)
    run = _Sweep(table, vector_column, store, device, progress)
    if len(re_encode):
        run.every_row(re_encode)
    else:
        run.until_right()
    run.report.seconds = time.perf_counter() - started
    return run.report


def _check_fragments(asked: Any) -> None:
    """Refuse what names no fragments; whether the table has them is seen when they are read."""
    if isinstance(asked, (str, bytes)) or not isinstance(asked, Collection):
        right = isinstance(asked, str) and asked == "all"
    else:
        right = all(isinstance(n, Integral) and not isinstance(n, bool) for n in asked)
    if not right:
        raise InputError(
            f"re_encode is {asked!r:.80}; it must be the numbers of fragments, as verify names "
            "them, or 'all'."
        )


class _Offset:
    """Progress of a part, told as that of the whole."""

    def __init__(self, tell: Callable[[int, int], None], start: int, total: int) -> None:
        self._tell, self._start, self._total = tell, start, total

    def __call__(self, done: int, _of: int | None, /) -> None:
        self._tell(self._start + done, self._total)


def sweepable(state: TableState) -> list[Generation]:
    """Return the generations that a sweep looks at, the active one first; one a column."""
    rank = {"active": 0, "previous": 1, "ready": 2}
    kept = [g for g in state.generations if g.phase in rank and g.column]
    kept.sort(key=lambda g: (rank[g.phase], -g.number))
    return list({g.column: g for g in reversed(kept)}.values())[::-1]


class _Sweep:
    def __init__(
        self,
        table: Table,
        vector_column: str | None,
        store: str | None,
        device: str | None,
        progress: Progress | None,
    ) -> None:
        self._table = table
        self._vector_column = vector_column
        self._store = store
        self._device = device
        self._progress = progress
        self._since: dict[int, int] = {}
        self._menders: dict[int, Mender | None] = {}
        self._told: dict[int, SweptGeneration] = {}
        self.report = SweepReport(table.name)

    def until_right(self) -> None:
        """Pass over the table until nothing is wrong, and remember up to which version."""
        for _ in range(_MAX_PASSES):
            ds, found = self._one_pass()
            self.report.passes += 1
            if not any(len(wrong.ids) for wrong in found.values()):
                self.report.complete = True
                break
            self._mend(ds, found)
            if stable_row_ids(ds):
                self._since = dict.fromkeys(found, ds.version)
        self._finish(ds, remember=list(found))

    def every_row(self, fragments: Sequence[int] | Literal["all"]) -> None:
        """Encode every row of some fragments, and replace what its model would not make."""
        ds = dataset(self._table)
        there = {f.fragment_id for f in ds.get_fragments()}
        chosen = there if fragments == "all" else {int(n) for n in fragments}
        if chosen - there:
            raise InputError(
                f"Table {self._table.name!r} has no fragment {sorted(chosen - there)} any more: "
                "its rows were compacted into another. Run verify again to find them."
            )
        kept = self._kept(ds)
        rows = ds.scanner(
            columns=[],
            fragments=[ds.get_fragment(n) for n in sorted(chosen)],
            with_row_id=True,
        ).to_table()
        ids = rows["_rowid"].to_numpy()
        for g in kept:
            self._note(g, "every row", WrongRows(n_read=len(ids)))
            mender = self._mender(g, ds)
            self._menders[g.number] = mender and replace(mender, every_row=True)
        self._move(ids, kept)
        self.report.complete = True
        self._finish(ds, remember=[])

    def _one_pass(self) -> tuple[lance.LanceDataset, dict[int, WrongRows]]:
        ds = dataset(self._table)
        kept = self._kept(ds)
        groups: dict[tuple[int | None, bool], list[Generation]] = {}
        for g in kept:
            since = self._since.get(g.number, swept_version(ds, g))
            groups.setdefault((since, has_marks(ds, g)), []).append(g)
        found: dict[int, WrongRows] = {}
        for (since, marks), members in groups.items():
            found |= find_wrong(ds, members, since=since)
            how: How = "missing only" if not marks else "scan" if since is None else "row versions"
            for g in members:
                wrong = found[g.number]
                note = "" if marks else _no_marks(g)
                self._note(g, how, wrong, note)
        return ds, found

    def _state(self, ds: lance.LanceDataset) -> TableState:
        return read_state(ds.schema, table=self._table.name, vector_column=self._vector_column)

    def _kept(self, ds: lance.LanceDataset) -> list[Generation]:
        state = self._state(ds)
        kept = []
        for g in sweepable(state):
            gone = gone_columns(ds.schema, g)
            if gone and g.phase == "active":
                require_columns(ds.schema, state, g, table=self._table.name)
            if g.column in gone:
                continue  # a finish is at it
            if g.source_column in gone:
                self._note(g, "not swept", note=told_gone(g, str(g.source_column)))
                continue
            if g.source_column is None or g.function is None:
                self._note(g, "not swept", note="nothing says which model made these vectors")
            else:
                kept.append(g)
        return kept

    def _note(self, g: Generation, how: How, wrong: WrongRows = _NOTHING, note: str = "") -> None:
        told = self._told.get(g.number)
        if told is None:
            told = SweptGeneration(g.number, g.column, g.phase, g.model, how, note=note)
            self._told[g.number] = told
        told.read += wrong.n_read
        told.stale += wrong.n_stale
        told.unmarked += wrong.n_unmarked
        told.missing += wrong.n_missing

    def _mend(self, ds: lance.LanceDataset, found: dict[int, WrongRows]) -> None:
        state = self._state(ds)
        generations = [state.of(number) for number, wrong in found.items() if len(wrong.ids)]
        generations = [g for g in generations if self._mender(g, ds) is not None]
        may_move = movable(ds)
        ids: list[npt.NDArray[np.uint64]] = []
        for g in generations:
            wrong = found[g.number]
            whole = _whole(ds, wrong, may_move) if has_marks(ds, g) else set()
            if whole:
                self._refill(g, whole)
                # One that was compacted meanwhile was not filled: its rows move one by one.
                whole &= {f.fragment_id for f in dataset(self._table).get_fragments()}
            moving = ~np.isin(wrong.addresses >> np.uint64(32), sorted(whole))
            if may_move:
                ids.append(wrong.ids[moving])
        if ids:
            self._move(np.unique(np.concatenate(ids)), generations)

    def _refill(self, g: Generation, fragments: set[int]) -> None:
        """Write the vector column of some fragments anew."""
        encoder = encoder_of(self._table, g, store=self._store, device=self._device)
        folder = job_folder(self._table) / f"sweep-{spill_name(encoder, g.dims)}"
        backfill = Backfill(self._table, g, encoder, Spill(folder, g.dims), self._progress)
        filled = backfill.run(only=fragments)
        self.report.fragments += filled.fragments
        self.report.moved += filled.moved
        self._told[g.number].encoded += filled.encoded

    def _move(self, ids: npt.NDArray[np.uint64], generations: list[Generation]) -> None:
        """Write rows anew, window by window; what became right meanwhile stays."""
        menders = [m for m in (self._menders.get(g.number) for g in generations) if m is not None]
        for start in range(0, len(ids), _WINDOW):
            window = [int(n) for n in ids[start : start + _WINDOW]]
            self._tell(start, len(ids))
            made = self._rewrite(window, menders, _Offset(self._tell, start, len(ids)))
            for mender, mended in zip(menders, made, strict=True):
                told = self._told[mender.generation.number]
                told.encoded += mended.n_encoded
                told.stale += mended.n_wrong if mender.every_row else 0
        self._tell(len(ids), len(ids))

    def _rewrite(
        self, row_ids: list[int], menders: list[Mender], progress: Progress
    ) -> list[Mended]:
        made: list[Mended] = []

        def changes(rows: pa.Table) -> dict[str, pa.Array]:
            batch = rows.combine_chunks().to_batches()[0]
            made[:] = [mender(batch, progress) for mender in menders]
            return {name: values for mended in made for name, values in mended.columns.items()}

        def attempt() -> int:
            made[:] = [Mended() for _ in menders]
            ds = dataset(self._table)
            there = [m for m in menders if m.generation.column in ds.schema.names]
            # A finish meanwhile: nothing is mended that is being removed.
            if len(there) < len(menders):
                raise ReindexConflictError("sweep", attempts=1, last="a column was removed")
            return rewrite_rows(self._table, ds, row_ids, changes)

        self.report.moved += retrying(attempt, what="write the swept rows")
        return made

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(min(done, total), total)

    def _mender(self, g: Generation, ds: lance.LanceDataset) -> Mender | None:
        """Return what mends a generation; None where its model is gone, unless it is shown."""
        if g.number not in self._menders:
            try:
                model = model_of(self._table, g, store=self._store, device=self._device)
                self._menders[g.number] = Mender(g, model, has_marks(ds, g))
            except LancedbFtError as error:
                if g.phase == "active":
                    raise
                self._menders[g.number] = None
                self._told[g.number].note = f"not mended: {error}"
        return self._menders[g.number]

    def _finish(self, ds: lance.LanceDataset, *, remember: list[int]) -> None:
        """Refresh the indexes, tell what is unindexed, and write down up to where all is right."""
        for told in self._told.values():
            if told.stale or told.unmarked or told.missing:
                refresh_index(self._table, told.column)
                index = describe_index(self._table, told.column)
                told.unindexed = None if index is None else int(index["num_unindexed_rows"])
        unmended = {number for number, mender in self._menders.items() if mender is None}
        numbers = {n for n in remember if n not in unmended}
        if stable_row_ids(ds) and numbers:
            # What the last pass found is mended: all that is older than its version is right.
            _remember(self._table, numbers, ds.version, self._vector_column)
        # Not the newest: what others committed meanwhile has not been looked at.
        self.report.version = int(ds.version)
        self.report.generations = list(self._told.values())


def _whole(ds: lance.LanceDataset, wrong: WrongRows, may_move: bool) -> set[int]:
    """Return the fragments whose column is better written whole."""
    share = _WHOLE_SHARE if may_move else 0.0
    counts = wrong.by_fragment().items()
    return {n for n, count in counts if count >= share * ds.get_fragment(n).physical_rows}


def _no_marks(g: Generation) -> str:
    return (
        "no marks say which text each vector was made from: texts edited by a plain update "
        f"cannot be found, only missing vectors. Re-index once (reindex run --model {g.model})"
    )


def _remember(table: Table, numbers: set[int], version: int, vector_column: str | None) -> None:
    """Write down the swept version with all generations of the same columns, if it says more."""

    def decide(state: TableState, ds: lance.LanceDataset) -> Change | None:
        untouched = STATE_KEY.encode() not in (ds.schema.metadata or {})
        if untouched and vector_column is not None:
            return None  # a state would be that of this column only, for all who ask later
        columns = {g.column for g in state.generations if g.number in numbers}
        swept = [g for g in state.generations if g.column in columns]
        known = [swept_version(ds, g) for g in swept]
        if all(v is not None and not changed_since(ds, v) for v in known):
            return None
        details = {"swept": {"version": version, "at": now()}}
        return Change(state.put(*(g.with_(details=details) for g in swept)))

    transition(table, decide, what="remember the sweep", vector_column=vector_column)
