"""One fragment: which of its rows are right, and the file that makes the others so.

Nothing here commits. A fragment's vectors and text hashes are written, in physical order, to new
data files, and whoever commits them (see `backfill`) decides when. So the same functions serve a
process that fills one fragment after the other and workers that fill many at once.

The mark beside each vector says which text it was made from, and that it still is that vector (see
`row_marks`). A row is right when its text and vector give the stored mark; everything else is
encoded again. That one rule covers a first fill, a killed run, rows that others wrote or changed
meanwhile, and a replacement that was committed over a newer text.

One thread reads and hashes the next window of rows and another writes the last one, while the
caller's thread encodes.
"""

from __future__ import annotations

import contextlib
import functools
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.flow import ahead, behind
from lancedb_ft.marks import hash_values, row_marks, text_hashes
from lancedb_ft.table import STREAMED

if TYPE_CHECKING:
    import lance
    from lance.fragment import DataFile

    from lancedb_ft.generation import Generation

__all__ = [
    "WINDOW_ROWS",
    "Columns",
    "VectorsOf",
    "grouped",
    "is_right",
    "made_right",
    "signature",
    "source_file",
    "texts_to_encode",
    "vectors_and_mismatches",
    "write_fragment",
    "wrong_rows",
]

#: Rows read, encoded and written at a time: bounds memory, and what a kill can lose.
WINDOW_ROWS = 8192

# The most fragments that are encoded and committed together.
_GROUP_FRAGMENTS = 64


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
    donors
        Other columns of the table with vectors of the same documents' model, as long or longer:
        what is right there is taken over, cut and normalised as the model itself would do it.
    """

    text: str
    vector: str
    hash: str
    dims: int
    donors: tuple[Columns, ...] = ()

    @classmethod
    def of(cls, generation: Generation, donors: Sequence[Generation] = ()) -> Columns:
        """Return those of a generation that keeps hashes, with those that it may take from."""
        return cls(
            str(generation.source_column),
            generation.column,
            str(generation.hash_column),
            generation.dims,
            tuple(cls.of(donor) for donor in donors),
        )

    @property
    def names(self) -> list[str]:
        """All three."""
        return [self.text, self.hash, self.vector]

    @property
    def all_names(self) -> list[str]:
        """All three, and those of the donors; the text once."""
        return list(dict.fromkeys([*self.names, *(n for d in self.donors for n in d.names)]))

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


def source_file(ds: lance.LanceDataset, fragment: Any, columns: Columns) -> str | None:
    """Return the file that holds a fragment's texts: as long as it stays, so do they."""
    field = next(f.id() for f in ds.lance_schema.fields() if f.name() == columns.text)
    return next((str(f.path) for f in fragment.data_files() if field in f.fields), None)


def grouped(fragments: Sequence[Any]) -> Iterator[list[Any]]:
    """Put small fragments together, up to a window of rows; a large one stands alone."""
    group: list[Any] = []
    n_rows = 0
    for fragment in fragments:
        rows = fragment.count_rows()
        if group and (n_rows + rows > WINDOW_ROWS or len(group) == _GROUP_FRAGMENTS):
            yield group
            group, n_rows = [], 0
        group.append(fragment)
        n_rows += rows
    if group:
        yield group


def texts_to_encode(
    ds: lance.LanceDataset, fragments: Sequence[Any], columns: Columns
) -> tuple[pa.Array, pa.Array]:
    """Return the texts, and their hashes, whose vectors would be made: for small fragments."""
    texts, hashes = [pa.array([], pa.large_string())], [pa.array([], pa.int64())]
    for fragment in fragments:
        for batch in _read(ds, fragment, columns.all_names):
            window = _Window.of(batch, columns)
            texts.append(window.missing(batch[columns.text]).cast(pa.large_string()))
            hashes.append(window.missing(window.hashes))
    return pa.concat_arrays(texts), pa.concat_arrays(hashes)


def is_right(ds: lance.LanceDataset, fragment: Any, columns: Columns) -> bool:
    """Say whether every live row of a fragment has the vector of its text."""
    return all(not columns.wrong(batch).any() for batch in _read(ds, fragment, columns.names))


def wrong_rows(ds: lance.LanceDataset, fragment: Any, columns: Columns) -> list[int]:
    """Return the row addresses of a fragment's rows that are not right."""
    found: list[int] = []
    for batch in _read(ds, fragment, columns.names):
        found += batch["_rowaddr"].filter(pa.array(columns.wrong(batch))).to_pylist()
    return found


def made_right(rows: pa.Table, columns: Columns, vectors_of: VectorsOf) -> dict[str, pa.Array]:
    """Return the vectors and hashes of rows; those that are right stay as they are."""
    batch = rows.select(columns.all_names).combine_chunks().to_batches()[0]
    window = _Window.of(batch, columns)
    vectors = _filled(batch[columns.text], window, columns, vectors_of)
    return {columns.vector: vectors, columns.hash: row_marks(window.hashes, vectors)}


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
        stack.push(functools.partial(_discard, ds.uri, names))
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

        def write(
            hashes: pa.Array, vectors: pa.Array, places: npt.NDArray[np.int64], length: int
        ) -> None:
            arrays = {columns.vector: vectors, columns.hash: row_marks(hashes, vectors)}
            for writer, schema in zip(writers, schemas, strict=True):
                rows = [arrays[name] for name in schema.names]
                writer.write_batch(_spread(rows, places, length, schema))

        batches = _read(ds, fragment, columns.all_names)
        # Within the writers, which close after the last batch is with them.
        with (
            ahead((batch, _Window.of(batch, columns)) for batch in batches) as windows,
            behind(write) as put,
        ):
            _write_rows(windows, fragment, columns, vectors_of, put)
    return [_data_file(ds, fragment, *made) for made in zip(names, schemas, strict=True)]


def _discard(uri: str, names: list[str], failed: type[BaseException] | None, *_of: Any) -> None:
    """Remove the files of a fragment that was not finished: a full disk needs the room."""
    if failed is not None and "://" not in uri:
        for name in names:
            Path(uri, "data", name).unlink(missing_ok=True)


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
    windows: Iterator[tuple[pa.RecordBatch, _Window]],
    fragment: Any,
    columns: Columns,
    vectors_of: VectorsOf,
    put: Callable[..., None],
) -> None:
    written = 0
    for batch, window in windows:
        offsets = (batch["_rowaddr"].to_numpy() & 0xFFFFFFFF).astype(np.int64)
        vectors = _filled(batch[columns.text], window, columns, vectors_of)
        stop = int(offsets[-1]) + 1
        put(window.hashes, vectors, offsets - written, stop - written)
        written = stop
    if written < fragment.physical_rows:
        no_vectors = pa.nulls(0, pa.list_(pa.float32(), columns.dims))
        gap = fragment.physical_rows - written
        put(pa.nulls(0, pa.int64()), no_vectors, np.zeros(0, np.int64), gap)


@dataclass(frozen=True)
class _Window:
    """Some rows of a fragment, looked through: what is there, and what is to be encoded."""

    hashes: pa.Array
    blank: npt.NDArray[np.bool_]
    matrix: npt.NDArray[np.float32]
    places: npt.NDArray[np.int64]

    @classmethod
    def of(cls, batch: pa.RecordBatch, columns: Columns) -> _Window:
        """Look through a batch with all columns."""
        hashes = text_hashes(batch[columns.text])
        blank = hash_values(hashes)[1]
        matrix = np.zeros((batch.num_rows, columns.dims), np.float32)
        wrong = ~blank
        for place in (columns, *columns.donors):
            marked, stored = batch[place.hash], batch[place.vector]
            right = wrong & ~_mismatch(hashes, marked, stored)
            if right.any():
                matrix[right] = _cut(stored, right, place.dims, columns.dims)
                wrong &= ~right
        return cls(hashes, blank, matrix, np.flatnonzero(wrong))

    def missing(self, values: pa.Array) -> pa.Array:
        """Return the values of the rows that are to be encoded."""
        return values.take(pa.array(self.places))


def _filled(
    texts: pa.Array, window: _Window, columns: Columns, vectors_of: VectorsOf
) -> pa.FixedSizeListArray:
    """Return the vectors of a window; only the wrong ones are made."""
    if len(window.places):
        made = vectors_of(window.missing(texts), window.missing(window.hashes))
        window.matrix[window.places] = made
    mask = pa.array(window.blank)
    return pa.FixedSizeListArray.from_arrays(
        pa.array(window.matrix.reshape(-1)), columns.dims, mask=mask
    )


def _cut(
    stored: pa.Array, rows: npt.NDArray[np.bool_], dims: int, wanted: int
) -> npt.NDArray[np.float32]:
    """Return some stored vectors, shortened to the wanted length where they are longer."""
    values = getattr(stored, "storage", stored).filter(pa.array(rows)).flatten().to_numpy()
    vectors: npt.NDArray[np.float32] = values.reshape(-1, dims)
    if wanted == dims:
        return vectors
    vectors = vectors[:, :wanted]
    lengths: npt.NDArray[np.float32] = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), np.float32)


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
        **STREAMED,
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
    names = [text, hashed, column]
    for batch in ds.scanner(columns=names, batch_size=WINDOW_ROWS, **STREAMED).to_batches():
        hashes = text_hashes(batch[text])
        wrong = _mismatch(hashes, batch[hashed], batch[column])
        n_wrong += int(wrong.sum())
        has_text = ~hash_values(hashes)[1]
        right.append(position + np.flatnonzero(has_text & ~wrong))
        position += batch.num_rows
    return n_wrong, np.concatenate(right) if right else np.zeros(0, np.int64)
