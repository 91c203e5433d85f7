"""One fragment: which of its rows are right, and the file that makes the others so.

Nothing here commits. A fragment's vectors and text hashes are written, in physical order, to new
data files, and whoever commits them (see `backfill`) decides when. So the same functions serve a
process that fills one fragment after the other and workers that fill many at once.

The mark beside each vector says which text it was made from, and that it still is that vector (see
`row_marks`). A row is right when its text and vector give the stored mark; everything else is
encoded again. That one rule covers a first fill, a
killed run, rows that others wrote or changed meanwhile, and a replacement that was committed over
a newer text.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.reindex.hashes import hash_values, row_marks, text_hashes

if TYPE_CHECKING:
    import lance
    from lance.fragment import DataFile

    from lancedb_ft.generation import Generation

__all__ = [
    "WINDOW_ROWS",
    "Columns",
    "VectorsOf",
    "is_right",
    "signature",
    "vectors_and_mismatches",
    "write_fragment",
]

#: Rows read, encoded and written at a time: bounds memory, and what a kill can lose.
WINDOW_ROWS = 8192


@dataclass(frozen=True)
class Columns:
    """The columns of a generation, as filling needs them.

    Parameters
    ----------
    text
        What the vectors are made from.
    vector, hash
        What is filled: the vectors, and the hashes of the texts they were made from.
    dims
        Length of the vectors.
    """

    text: str
    vector: str
    hash: str
    dims: int

    @classmethod
    def of(cls, generation: Generation) -> Columns:
        """Return those of a generation that keeps hashes."""
        return cls(
            str(generation.source_column),
            generation.column,
            str(generation.hash_column),
            generation.dims,
        )

    @property
    def names(self) -> list[str]:
        """All three."""
        return [self.text, self.hash, self.vector]

    def wrong(self, batch: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        """Say for each row whether its vector is not that of its text."""
        return _mismatch(text_hashes(batch[self.text]), batch[self.hash], batch[self.vector])


class VectorsOf(Protocol):
    """Makes, or finds, the vectors of texts."""

    def __call__(self, texts: pa.Array, hashes: pa.Array) -> npt.NDArray[np.float32]:
        """Return one vector a text, shape (texts, dims); no text is null or blank."""
        ...


def signature(fragment: Any) -> str:
    """Identify a fragment's files: a new or replaced one changes it, a deletion does not."""
    return "|".join(f"{f.path}:{list(f.fields)}" for f in fragment.data_files())


def is_right(ds: lance.LanceDataset, fragment: Any, columns: Columns) -> bool:
    """Say whether every live row of a fragment has the vector of its text."""
    return all(not columns.wrong(batch).any() for batch in _read(ds, fragment, columns.names))


def write_fragment(
    ds: lance.LanceDataset,
    fragment: Any,
    columns: Columns,
    vectors_of: VectorsOf,
    *,
    storage_options: dict[str, str] | None = None,
) -> list[DataFile]:
    """Write a fragment's vectors and hashes; deleted rows are null, right ones stay as they are.

    Parameters
    ----------
    ds
        The version that is read.
    fragment
        Of that version.
    columns
        What to read and to fill.
    vectors_of
        Called with the texts whose vectors are not right.
    storage_options
        Of the object store, if any.

    Returns
    -------
    list of DataFile
        To be committed in this order, each as a ``DataReplacement``: one for both columns, or
        first the vectors and then the hashes. Should the process die in between, the old hash says
        that the vectors are not those of the text, and they are made again.
    """
    from lance.file import LanceFileWriter

    schemas = [pa.schema(fields) for fields in _fields_by_file(ds, fragment, columns)]
    names = [f"{uuid.uuid4()}.lance" for _ in schemas]
    with contextlib.ExitStack() as stack:
        writers = [
            stack.enter_context(
                LanceFileWriter(
                    f"{ds.uri}/data/{name}",
                    schema,
                    version=ds.data_storage_version,
                    storage_options=storage_options,
                )
            )
            for name, schema in zip(names, schemas, strict=True)
        ]

        def write(arrays: dict[str, pa.Array], places: npt.NDArray[np.int64], length: int) -> None:
            for writer, schema in zip(writers, schemas, strict=True):
                rows = [arrays[name] for name in schema.names]
                writer.write_batch(_spread(rows, places, length, schema))

        _write_rows(_read(ds, fragment, columns.names), fragment, columns, vectors_of, write)
    return [_data_file(ds, fragment, *made) for made in zip(names, schemas, strict=True)]


def _fields_by_file(
    ds: lance.LanceDataset, fragment: Any, columns: Columns
) -> list[list[tuple[str, pa.DataType]]]:
    """Return which columns go into one file: both, wherever Lance can replace both at once.

    It cannot where they stand in different files, as in a fragment that was appended with the new
    function registered: the writer fills the vectors and knows nothing of hashes.
    """
    ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
    fields = [
        (columns.vector, pa.list_(pa.float32(), columns.dims)),
        (columns.hash, pa.int64()),
    ]
    places = [
        next((f.path for f in fragment.data_files() if ids[name] in f.fields), None)
        for name, _ in fields
    ]
    return [fields] if places[0] == places[1] else [[field] for field in fields]


def _write_rows(
    batches: Iterator[pa.RecordBatch],
    fragment: Any,
    columns: Columns,
    vectors_of: VectorsOf,
    write: Any,
) -> None:
    written = 0
    for batch in batches:
        offsets = (batch["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.int64)
        vectors, marks = _filled(batch, columns, vectors_of)
        stop = int(offsets[-1]) + 1
        write({columns.vector: vectors, columns.hash: marks}, offsets - written, stop - written)
        written = stop
    if written < fragment.physical_rows:
        nothing = {
            columns.vector: pa.nulls(0, pa.list_(pa.float32(), columns.dims)),
            columns.hash: pa.nulls(0, pa.int64()),
        }
        write(nothing, np.zeros(0, np.int64), fragment.physical_rows - written)


def _filled(
    batch: pa.RecordBatch, columns: Columns, vectors_of: VectorsOf
) -> tuple[pa.FixedSizeListArray, pa.Array]:
    """Return the right vectors and marks of a batch; only the wrong ones are made."""
    texts = batch[columns.text]
    hashes = text_hashes(texts)
    _, blank = hash_values(hashes)
    wrong = _mismatch(hashes, batch[columns.hash], batch[columns.vector]) & ~blank
    matrix = np.zeros((len(texts), columns.dims), np.float32)
    kept = ~wrong & ~blank
    if kept.any():
        stored = batch[columns.vector]
        stored = getattr(stored, "storage", stored).filter(pa.array(kept))
        matrix[kept] = stored.flatten().to_numpy().reshape(-1, columns.dims)
    places = np.flatnonzero(wrong)
    if len(places):
        matrix[places] = vectors_of(texts.take(pa.array(places)), hashes.take(pa.array(places)))
    vectors = pa.FixedSizeListArray.from_arrays(
        pa.array(matrix.reshape(-1)), columns.dims, mask=pa.array(blank)
    )
    return vectors, row_marks(hashes, vectors)


def _data_file(ds: lance.LanceDataset, fragment: Any, name: str, schema: pa.Schema) -> DataFile:
    from lance.fragment import DataFile

    field_ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
    like = fragment.data_files()[0]
    return DataFile(
        name,
        [field_ids[column] for column in schema.names],
        list(range(len(schema.names))),
        like.file_major_version,
        like.file_minor_version,
    )


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
    """Say for each row whether the stored mark is not that of the text's hash and the vector."""
    blank = hash_values(hashes)[1]
    marks, unmarked = hash_values(row_marks(hashes, vectors))
    found, absent = hash_values(stored)
    no_vector = vectors.is_null().to_numpy(zero_copy_only=False)
    differ = (blank != no_vector) | (unmarked != absent) | (marks != found)
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
