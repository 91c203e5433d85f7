"""Backfill: give every row the vector of its present text, fragment by fragment.

A fragment's vectors and text hashes are written to one new data file and committed as a
``DataReplacement``: that does not conflict with appends, deletes, index builds or metadata, and
works for a column that compaction wrote into one file with others. It conflicts, retryably, with
an update of the same rows and with compaction: the fragment is then planned again.

The hash beside each vector says which text it was made from. A row is right when the hash of its
text equals the stored one; everything else is encoded again. That one rule covers a first fill, a
killed run, rows that others wrote or changed meanwhile, and a replacement that was committed over
a newer text.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import ReindexError
from lancedb_ft.reindex.commits import MAX_ATTEMPTS, retrying
from lancedb_ft.reindex.hashes import hash_values, text_hashes
from lancedb_ft.table import dataset, storage_options

if TYPE_CHECKING:
    import lance
    from lance.fragment import DataFile
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.spill import Spill
    from lancedb_ft.types import Progress

__all__ = ["Backfill", "FillReport", "vectors_and_mismatches"]

#: Rows read, encoded and spilled at a time: bounds memory, and what a kill can lose.
WINDOW_ROWS = 8192


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
        self._column = generation.column
        self._hash_column = str(generation.hash_column)
        self._text_column = str(generation.source_column)
        self._dims = generation.dims
        self._encoder = encoder
        self._spill = spill
        self._progress = progress
        # Fragments found right, by a signature of their files: unchanged files need no second look.
        self._right: dict[int, str] = {}
        self.report = FillReport()

    def run(self) -> FillReport:
        """Fill until a whole pass finds nothing to do.

        Raises
        ------
        ReindexError
            Writers change the texts faster than they can be encoded.
        """
        started = time.perf_counter()
        for _ in range(MAX_ATTEMPTS):
            if self._one_round() == 0:
                self._spill.clear()
                self.report.seconds += time.perf_counter() - started
                return self.report
        raise ReindexError(
            f"After {MAX_ATTEMPTS} passes over table {self._table.name!r} there are still rows "
            "whose text changed meanwhile. Run the same command again when fewer rows change."
        )

    def _one_round(self) -> int:
        """Fill each fragment that is not known to be right; return how many were not."""
        ds = dataset(self._table)
        fragments = ds.get_fragments()
        alive = {fragment.fragment_id for fragment in fragments}
        self._right = {n: s for n, s in self._right.items() if n in alive}
        pending = [f for f in fragments if self._right.get(f.fragment_id) != _signature(f)]
        total = ds.count_rows()
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
        import lance
        from lance import LanceOperation

        def attempt() -> int:
            ds = dataset(self._table)
            fragment = ds.get_fragment(fragment_id)
            if fragment is None:  # compacted away: its rows stand in a new fragment
                return 1
            if self._is_right(ds, fragment):
                self._right[fragment_id] = _signature(fragment)
                return 0
            for columns in self._columns_to_commit(ds, fragment):
                # Also finds what an attempt that lost its race, or the first of two files, encoded.
                self._spill.refresh()
                data_file = self._write(ds, fragment, columns, done, total)
                group = LanceOperation.DataReplacementGroup(fragment_id, data_file)
                ds = lance.LanceDataset.commit(
                    ds,
                    LanceOperation.DataReplacement([group]),
                    read_version=ds.version,
                    max_retries=0,
                )
            self._spill.clear()
            self.report.fragments += 1
            # Not marked right: the next round reads it once more, as committed, because another
            # writer may have rewritten the text column between our read and our commit.
            return 1

        return retrying(attempt, what=f"fill fragment {fragment_id}")

    def _is_right(self, ds: lance.LanceDataset, fragment: Any) -> bool:
        return all(
            not self._wrong(batch).any()
            for batch in _read(ds, fragment, [self._text_column, self._hash_column, self._column])
        )

    def _wrong(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Say for each row whether its vector is not that of its text."""
        return _mismatch(
            text_hashes(batch[self._text_column]), batch[self._hash_column], batch[self._column]
        )

    def _columns_to_commit(self, ds: lance.LanceDataset, fragment: Any) -> list[list[str]]:
        """Return which columns go into one file: both, wherever Lance can replace both at once.

        It cannot where they stand in different files, as in a fragment that was appended with the
        new function registered: the writer fills the vectors and knows nothing of hashes. Then
        the vectors go first. Should the process die in between, the old hash says that the
        vectors are not those of the text, and they are made again.
        """
        ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
        columns = [self._column, self._hash_column]
        places = [
            next((f.path for f in fragment.data_files() if ids[column] in f.fields), None)
            for column in columns
        ]
        return [columns] if places[0] == places[1] else [[column] for column in columns]

    def _write(
        self, ds: lance.LanceDataset, fragment: Any, columns: list[str], done: int, total: int
    ) -> DataFile:
        """Write the fragment's vectors or hashes, in physical order, deleted rows as nulls."""
        from lance.file import LanceFileWriter
        from lance.fragment import DataFile

        types = {
            self._column: pa.list_(pa.float32(), self._dims),
            self._hash_column: pa.int64(),
        }
        schema = pa.schema([(column, types[column]) for column in columns])
        name = f"{uuid.uuid4()}.lance"
        with LanceFileWriter(
            f"{ds.uri}/data/{name}",
            schema,
            version=ds.data_storage_version,
            storage_options=storage_options(self._table),
        ) as writer:
            written = 0
            for batch in _read(ds, fragment, [self._text_column, self._hash_column, self._column]):
                offsets = (batch["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.int64)
                vectors, hashes = self._vectors(batch, done + written, total)
                stop = int(offsets[-1]) + 1
                arrays = {self._column: vectors, self._hash_column: hashes}
                writer.write_batch(
                    _spread([arrays[c] for c in columns], offsets - written, stop - written, schema)
                )
                written = stop
            if written < fragment.physical_rows:
                nothing = fragment.physical_rows - written
                writer.write_batch(_nulls(nothing, schema))
        field_ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
        like = fragment.data_files()[0]
        return DataFile(
            name,
            [field_ids[column] for column in columns],
            list(range(len(columns))),
            like.file_major_version,
            like.file_minor_version,
        )

    def _vectors(
        self, batch: pa.RecordBatch, done: int, total: int
    ) -> tuple[pa.FixedSizeListArray, pa.Array]:
        """Return the right vectors and hashes of a batch; only the wrong ones are encoded."""
        texts = batch[self._text_column]
        hashes = text_hashes(texts)
        values, blank = hash_values(hashes)
        wrong = _mismatch(hashes, batch[self._hash_column], batch[self._column]) & ~blank
        matrix = np.zeros((len(texts), self._dims), np.float32)
        stored = batch[self._column]
        stored = getattr(stored, "storage", stored)
        kept = ~wrong & ~blank
        if kept.any():
            matrix[kept] = (
                stored.filter(pa.array(kept)).flatten().to_numpy().reshape(-1, self._dims)
            )
        found, spilled = self._spill.find(values[wrong])
        places = np.flatnonzero(wrong)
        matrix[places[found]] = spilled
        missing = places[~found]
        if len(missing):
            matrix[missing] = self._encode(texts.take(pa.array(missing)), done, total)
        self.report.encoded += len(missing)
        self.report.reused += int(found.sum())
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.reshape(-1)), self._dims, mask=pa.array(blank)
        )
        if len(missing):
            self._spill.put(hashes.take(pa.array(missing)), vectors.take(pa.array(missing)))
        return vectors, hashes

    def _encode(self, texts: pa.Array, done: int, total: int) -> npt.NDArray[np.float32]:
        started = time.perf_counter()
        progress = self._progress

        def told(n: int, _of: int | None, /) -> None:
            if progress is not None:
                progress(min(total, done + n), total)

        encoded = self._encoder.encode(texts, kind="document", progress=told)
        self.report.encode_seconds += time.perf_counter() - started
        if encoded.null_count or encoded.type.list_size != self._dims:
            raise ReindexError(
                f"The model gave {encoded.null_count} empty vectors and {encoded.type.list_size} "
                f"dimensions for {len(texts)} texts; {self._dims} dimensions were expected."
            )
        matrix: npt.NDArray[np.float32] = encoded.flatten().to_numpy().reshape(-1, self._dims)
        if not np.isfinite(matrix).all():
            raise ReindexError("The model gave vectors with NaN or infinite values.")
        return matrix


def _signature(fragment: Any) -> str:
    """Identify a fragment's files: a new or replaced one changes it, a deletion does not."""
    return "|".join(f"{f.path}:{list(f.fields)}" for f in fragment.data_files())


def _read(ds: lance.LanceDataset, fragment: Any, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """Stream live rows of one fragment in physical order, with their row addresses."""
    scanner = ds.scanner(
        columns=columns,
        fragments=[fragment],
        with_row_address=True,
        batch_size=WINDOW_ROWS,
        scan_in_order=True,
    )
    return (batch for batch in scanner.to_batches() if batch.num_rows)


def _mismatch(hashes: pa.Array, stored: pa.Array, vectors: pa.Array) -> npt.NDArray[np.bool_]:
    """Say for each row whether the stored hash and vector do not belong to the text's hash."""
    values, blank = hash_values(hashes)
    stored_values, unhashed = hash_values(stored)
    no_vector = vectors.is_null().to_numpy(zero_copy_only=False)
    differ = (blank != unhashed) | (~blank & (values != stored_values)) | (blank != no_vector)
    return np.asarray(differ, dtype=bool)


def _spread(
    arrays: list[pa.Array], offsets: npt.NDArray[np.int64], length: int, schema: pa.Schema
) -> pa.RecordBatch:
    """Lay live rows out at their physical offsets; the gaps, deleted rows, become nulls."""
    if length == len(offsets):
        return pa.record_batch(arrays, schema=schema)
    places = np.full(length, -1, dtype=np.int64)
    places[offsets] = np.arange(len(offsets))
    indices = pa.array(places, mask=places < 0)
    return pa.record_batch([pc.take(array, indices) for array in arrays], schema=schema)


def _nulls(length: int, schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.nulls(length, f.type) for f in schema], schema=schema)


def vectors_and_mismatches(
    ds: lance.LanceDataset, generation: Generation
) -> tuple[int, npt.NDArray[np.int64]]:
    """Compare every row's text with the hash stored beside its vector.

    Returns
    -------
    tuple
        The number of rows whose vector is missing or of another text, and the positions (for
        ``ds.take``) of all rows that have a text and a right vector.
    """
    text, hashed, column = (
        str(generation.source_column),
        str(generation.hash_column),
        generation.column,
    )
    n_wrong, position = 0, 0
    right: list[npt.NDArray[np.int64]] = []
    for batch in ds.to_batches(columns=[text, hashed, column], batch_size=WINDOW_ROWS):
        hashes = text_hashes(batch[text])
        wrong = _mismatch(hashes, batch[hashed], batch[column])
        n_wrong += int(wrong.sum())
        has_text = ~hash_values(hashes)[1]
        right.append(position + np.flatnonzero(has_text & ~wrong))
        position += batch.num_rows
    return n_wrong, np.concatenate(right) if right else np.zeros(0, np.int64)
