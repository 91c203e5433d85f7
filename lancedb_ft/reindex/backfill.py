"""Backfill: give every row the vector of its present text, fragment by fragment.

A fragment's new files are committed as a ``DataReplacement``: that does not conflict with appends,
deletes, index builds or metadata, and works for a column that compaction wrote into one file with
others. It conflicts, retryably, with an update of the same rows and with compaction: the fragment
is then planned again. Which rows are right is told by `fragments`.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import ReindexError
from lancedb_ft.reindex.commits import MAX_ATTEMPTS, retrying
from lancedb_ft.reindex.fragments import Columns, is_right, signature, write_fragment
from lancedb_ft.reindex.hashes import hash_values
from lancedb_ft.table import dataset, storage_options

if TYPE_CHECKING:
    from collections.abc import Collection

    import lance
    from lance.fragment import DataFile
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.spill import Spill
    from lancedb_ft.types import Progress

__all__ = ["Backfill", "FillReport", "SpilledVectors"]


@dataclass
class FillReport:
    """What filling did."""

    rows: int = 0
    encoded: int = 0
    reused: int = 0
    fragments: int = 0
    rounds: int = 0
    seconds: float = 0.0
    encode_seconds: float = field(default=0.0, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, with the rate."""
        rate = self.rows / self.seconds if self.seconds else 0.0
        return {
            "rows": self.rows,
            "encoded": self.encoded,
            "reused": self.reused,
            "fragments": self.fragments,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(rate, 1),
            "encode_share": round(self.encode_seconds / self.seconds, 3) if self.seconds else 0.0,
        }


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
    """

    def __init__(
        self,
        table: Table,
        generation: Generation,
        encoder: Encoder,
        spill: Spill,
        progress: Progress | None = None,
    ) -> None:
        self._table = table
        self._columns = Columns.of(generation)
        self._spill = spill
        self._progress = progress
        # Fragments found right, by a signature of their files: unchanged files need no second look.
        self._right: dict[int, str] = {}
        self.report = FillReport()
        self._vectors = SpilledVectors(encoder, spill, self._columns.dims, self.report)

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
        for _ in range(MAX_ATTEMPTS):
            if self._one_round(only) == 0:
                self._spill.clear()
                self.report.seconds += time.perf_counter() - started
                return self.report
        raise ReindexError(
            f"After {MAX_ATTEMPTS} passes over table {self._table.name!r} there are still rows "
            "whose text changed meanwhile. Run the same command again when fewer rows change."
        )

    def _one_round(self, only: Collection[int] | None = None) -> int:
        """Fill each fragment that is not known to be right; return how many were not."""
        ds = dataset(self._table)
        fragments = ds.get_fragments()
        if only is not None:
            fragments = [f for f in fragments if f.fragment_id in only]
        alive = {fragment.fragment_id for fragment in fragments}
        self._right = {n: s for n, s in self._right.items() if n in alive}
        pending = [f for f in fragments if self._right.get(f.fragment_id) != signature(f)]
        total = ds.count_rows() if only is None else sum(f.count_rows() for f in fragments)
        done = total - sum(f.count_rows() for f in pending)
        filled = 0
        for fragment in pending:
            if self._progress is not None:
                self._progress(done, total)
            filled += self._fill(fragment.fragment_id, done, total)
            done += fragment.count_rows()
        if self._progress is not None:
            self._progress(done, total)
        self.report.rows = max(self.report.rows, total)
        self.report.rounds += 1 if filled else 0
        return filled

    def _fill(self, fragment_id: int, done: int, total: int) -> int:
        """Fill one fragment; return 1 if a file was committed, 0 if nothing was to do."""

        def attempt() -> int:
            ds = dataset(self._table)
            fragment = ds.get_fragment(fragment_id)
            if fragment is None:  # compacted away: its rows stand in a new fragment
                return 1
            if is_right(ds, fragment, self._columns):
                self._right[fragment_id] = signature(fragment)
                return 0
            self._spill.refresh()  # also finds what an attempt that lost its race encoded
            self._vectors.begin(self._progress, done, total)
            files = write_fragment(
                ds,
                fragment,
                self._columns,
                self._vectors,
                storage_options=storage_options(self._table),
            )
            _commit(ds, fragment_id, files)
            self._spill.clear()
            self.report.fragments += 1
            # Not marked right: the next round reads it once more, as committed, because another
            # writer may have rewritten the text column between our read and our commit.
            return 1

        return retrying(attempt, what=f"fill fragment {fragment_id}")


def _commit(ds: lance.LanceDataset, fragment_id: int, files: list[DataFile]) -> None:
    """Commit a fragment's files, one after the other; no retries on an older view of the table."""
    import lance
    from lance import LanceOperation

    for file in files:
        group = LanceOperation.DataReplacementGroup(fragment_id, file)
        ds = lance.LanceDataset.commit(
            ds, LanceOperation.DataReplacement([group]), read_version=ds.version, max_retries=0
        )


class SpilledVectors:
    """Encodes texts, and keeps what it encoded until it is committed.

    Parameters
    ----------
    encoder
        Encodes the texts.
    spill
        Where vectors are kept.
    dims
        Length of the vectors.
    report
        Counts what was encoded and what was found.
    """

    def __init__(self, encoder: Encoder, spill: Spill, dims: int, report: FillReport) -> None:
        self._encoder = encoder
        self._spill = spill
        self._dims = dims
        self._report = report
        self._progress: Progress | None = None
        self._done = self._total = 0

    def begin(self, progress: Progress | None, done: int, total: int) -> None:
        """Tell progress from now on, beginning with ``done`` of ``total`` rows."""
        self._progress, self._done, self._total = progress, done, total

    def __call__(self, texts: pa.Array, hashes: pa.Array) -> npt.NDArray[np.float32]:
        """Return one vector a text: found in the spill, or encoded and put there."""
        matrix = np.zeros((len(texts), self._dims), np.float32)
        found, spilled = self._spill.find(hash_values(hashes)[0])
        matrix[found] = spilled
        places = np.flatnonzero(~found)
        self._report.reused += int(found.sum())
        if len(places):
            missing = pa.array(places)
            encoded = self._encode(texts.take(missing))
            self._report.encoded += len(places)
            self._spill.put(hashes.take(missing), encoded)
            matrix[places] = encoded.flatten().to_numpy().reshape(-1, self._dims)
        self._done += len(texts)
        return matrix

    def _encode(self, texts: pa.Array) -> pa.FixedSizeListArray:
        started = time.perf_counter()
        encoded = self._encoder.encode(texts, kind="document", progress=self._tell)
        self._report.encode_seconds += time.perf_counter() - started
        if encoded.null_count or encoded.type.list_size != self._dims:
            raise ReindexError(
                f"The model gave {encoded.null_count} empty vectors and {encoded.type.list_size} "
                f"dimensions for {len(texts)} texts; {self._dims} dimensions were expected."
            )
        if not np.isfinite(encoded.flatten().to_numpy()).all():
            raise ReindexError("The model gave vectors with NaN or infinite values.")
        return encoded

    def _tell(self, n_encoded: int, _of: int | None, /) -> None:
        if self._progress is not None:
            self._progress(min(self._total, self._done + n_encoded), self._total)
