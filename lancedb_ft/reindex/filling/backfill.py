"""Backfill: give every row the vector of its present text, fragment by fragment.

A fragment's new files are committed as a ``DataReplacement``: that does not conflict with appends,
deletes, index builds or metadata, and works for a column that compaction wrote into one file with
others. It conflicts, retryably, with an update of the same rows and with compaction: the fragment
is then planned again. Which rows are right is told by `fragments`. Small fragments are encoded and
committed together. What an index of the shown column covers is not replaced: its wrong rows move.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import ReindexError
from lancedb_ft.reindex.commits import MAX_ATTEMPTS, retrying
from lancedb_ft.reindex.filling.fragments import (
    WINDOW_ROWS,
    Columns,
    grouped,
    is_right,
    made_right,
    source_file,
    texts_to_encode,
    write_fragment,
    wrong_rows,
)
from lancedb_ft.reindex.filling.moved_rows import must_move, rewrite_rows
from lancedb_ft.reindex.filling.right import RightFragments
from lancedb_ft.reindex.filling.vectors import FillReport, SpilledVectors
from lancedb_ft.table import dataset, storage_options

if TYPE_CHECKING:
    import lance
    from lance.fragment import DataFile
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.encoder.pool import EncoderPool
    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.filling.spill import Spill
    from lancedb_ft.reindex.filling.vector_cache import VectorCache
    from lancedb_ft.types import Progress

__all__ = ["Backfill", "FillReport", "SpilledVectors", "commit_files"]


class Backfill:
    """Fills one generation of one table.

    Parameters
    ----------
    table
        The table.
    generation
        The generation to fill; its model is that of ``encoder``.
    encoder
        Encodes the texts.
    spill
        Keeps encoded vectors until their fragment is committed.
    progress
        Called with the rows that are right so far and the rows in all.
    cache
        Vectors of other runs and tables.
    donors
        Other generations of the table with vectors of the same documents' model.
    pool
        Runs the encoder in several processes.
    right
        Remembers which fragments were found right; by default until the end of this run.
    """

    def __init__(
        self,
        table: Table,
        generation: Generation,
        encoder: Encoder,
        spill: Spill,
        progress: Progress | None = None,
        *,
        cache: VectorCache | None = None,
        donors: Sequence[Generation] = (),
        right: RightFragments | None = None,
        pool: EncoderPool | None = None,
    ) -> None:
        self._table = table
        self._columns = Columns.of(generation, donors)
        self._spill = spill
        self._progress = progress
        # Fragments found right: unchanged files need no second look.
        self._right = right or RightFragments(None, generation)
        self.report = FillReport()
        self._cache = cache
        self._pool = pool
        self._vectors = SpilledVectors(
            pool or encoder, spill, self._columns.dims, self.report, cache
        )

    def run(self, only: Collection[int] | None = None) -> FillReport:
        """Fill until a whole pass finds nothing to do.

        Parameters
        ----------
        only
            Look at these fragments alone, those of them that are there. None: at all.

        Raises
        ------
        ReindexError
            Writers change the texts faster than they can be encoded.
        """
        started = time.perf_counter()
        try:
            with self._pool or nullcontext():
                self._fill_all(only)
        finally:
            self._right.save()
            if self._cache is not None:
                self._cache.close()
            self.report.seconds += time.perf_counter() - started
        return self.report

    def _fill_all(self, only: Collection[int] | None) -> None:
        for _ in range(MAX_ATTEMPTS):
            ds = dataset(self._table)
            fragments = [f for f in ds.get_fragments() if only is None or f.fragment_id in only]
            if only is None:
                self._right.keep(f.fragment_id for f in fragments)
            pending = [f for f in fragments if not self._right.has(f)]
            total = sum(f.count_rows() for f in fragments)
            self.report.rows = max(self.report.rows, total)
            if not pending:
                self._tell(total, total)
                self._spill.clear()
                return
            self._one_round(pending, total)
        raise ReindexError(
            f"After {MAX_ATTEMPTS} passes over table {self._table.name!r} there are still rows "
            "whose text changed meanwhile. Run the same command again when fewer rows change."
        )

    def _one_round(self, pending: list[Any], total: int) -> None:
        """Look at each fragment that is not known to be right, and fill those that are not."""
        before = (self.report.fragments, self.report.moved)
        done = total - sum(f.count_rows() for f in pending)
        for group in grouped(pending):
            self._tell(done, total)
            self._fill([f.fragment_id for f in group], done, total)
            done += sum(f.count_rows() for f in group)
        changed = (self.report.fragments, self.report.moved) != before
        self.report.rounds += 1 if changed else 0

    def _fill(self, numbers: list[int], done: int, total: int) -> None:
        """Fill some fragments and commit them together."""

        def attempt() -> None:
            ds = dataset(self._table)
            wrong = self._wrong(ds, numbers)
            if not wrong:
                return
            self._spill.refresh()  # also finds what an attempt that lost its race encoded
            self._vectors.begin(self._progress, done, total)
            if len(wrong) > 1:
                self._encode_together(ds, wrong)
            kept = must_move(ds, self._columns.vector)
            replaced = [f for f in wrong if f.fragment_id not in kept]
            if replaced:
                self._commit(ds, [(f, self._written(ds, f)) for f in replaced])
                self.report.fragments += len(replaced)
            moved = [f for f in wrong if f.fragment_id in kept]
            self._move([n for f in moved for n in wrong_rows(ds, f, self._columns)])
            self._spill.committed()

        retrying(attempt, what=f"fill fragments {numbers}")

    def _move(self, addresses: list[int]) -> None:
        """Write rows anew, window by window; what loses a race is planned again by the caller."""
        for start in range(0, len(addresses), WINDOW_ROWS):
            # An address is never given to another row: of those that are gone nothing is read.
            window = addresses[start : start + WINDOW_ROWS]
            self.report.moved += rewrite_rows(
                self._table,
                dataset(self._table),
                window,
                lambda rows: made_right(rows, self._columns, self._vectors),
            )

    def _wrong(self, ds: lance.LanceDataset, numbers: list[int]) -> list[Any]:
        """Return those fragments that are still there and not right."""
        # One that was compacted away: its rows stand in a new fragment, for the next round.
        there = [f for f in map(ds.get_fragment, numbers) if f is not None]
        wrong = []
        for fragment in there:
            if is_right(ds, fragment, self._columns):
                self._right.add(fragment)
            else:
                wrong.append(fragment)
        return wrong

    def _encode_together(self, ds: lance.LanceDataset, fragments: list[Any]) -> None:
        """Put the vectors of many small fragments into the spill, in full batches."""
        texts, hashes = texts_to_encode(ds, fragments, self._columns)
        if len(texts):
            self._vectors(texts, hashes)
            self._vectors.found_again(len(texts))

    def _written(self, ds: lance.LanceDataset, fragment: Any) -> list[DataFile]:
        return write_fragment(
            ds,
            fragment,
            self._columns,
            self._vectors,
            storage_options=storage_options(self._table),
        )

    def _commit(self, ds: lance.LanceDataset, filled: Sequence[tuple[Any, list[DataFile]]]) -> None:
        """Commit, and note which fragments are right as committed.

        One whose text column was rewritten between our read and our commit is not: the one write
        that a replacement does not conflict with. The next round looks at it again.
        """
        after = commit_files(ds, [(f.fragment_id, files) for f, files in filled])
        for fragment, files in filled:
            now = after.get_fragment(fragment.fragment_id)
            if now is None:
                continue
            paths = {str(f.path) for f in now.data_files()}
            same_text = source_file(ds, fragment, self._columns) == source_file(
                after, now, self._columns
            )
            if same_text and all(str(file.path) in paths for file in files):
                self._right.add(now)

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(done, total)


def commit_files(
    ds: lance.LanceDataset, filled: Sequence[tuple[int, list[DataFile]]]
) -> lance.LanceDataset:
    """Commit the files of some fragments together; no retries on an older view of the table.

    Parameters
    ----------
    ds
        The version that the files were made from.
    filled
        For each fragment its number and its files, in the order `write_fragment` gave them.

    Returns
    -------
    lance.LanceDataset
        The version after the last commit.
    """
    import lance
    from lance import LanceOperation

    steps: dict[tuple[int, tuple[int, ...]], list[Any]] = {}
    for number, files in filled:
        for step, file in enumerate(files):
            group = LanceOperation.DataReplacementGroup(number, file)
            steps.setdefault((step, tuple(file.fields)), []).append(group)
    for key in sorted(steps):
        ds = lance.LanceDataset.commit(
            ds, LanceOperation.DataReplacement(steps[key]), read_version=ds.version, max_retries=0
        )
    return ds
