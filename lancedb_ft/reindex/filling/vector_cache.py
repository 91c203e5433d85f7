"""An optional LanceDB table of vectors by text, so that no text is encoded twice by one model.

Tables come and go, are made anew from the same sources, and share texts; the vector of a text by a
model does not change. The table is only ever appended to while a job runs, so that any number of
writers may use it at once; what two of them appended both, and what is beyond its bound, goes when
one of them is done.
"""

from __future__ import annotations

import logging
import re
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import InputError, ReindexConflictError
from lancedb_ft.reindex.commits import lost_a_race, retrying
from lancedb_ft.table import database_uri, dataset, storage_options

if TYPE_CHECKING:
    from lancedb.db import DBConnection
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder

__all__ = ["VectorCache", "check_cache", "open_cache"]

_log = logging.getLogger("lancedb_ft.reindex")

#: The table's name where only a database is given.
DEFAULT_NAME = "ft_vectors"

#: Rows that the cache keeps, of all models together: 8 GB at 384 dimensions. The oldest go first.
MAX_ROWS = 5_000_000

# Rows that are collected before they are appended: few, large appends.
_FLUSH_ROWS = 32_768
# Fragments from which on compaction pays.
_MANY_FRAGMENTS = 64

_SCHEMA = pa.schema(
    [
        pa.field("made_by", pa.string(), nullable=False),
        pa.field("key", pa.binary(16), nullable=False),
        pa.field("vector", pa.binary(), nullable=False),
    ]
)


def open_cache(table: Table, place: str, encoder: Encoder) -> VectorCache:
    """Open the cache at a place, made if it is not there.

    Parameters
    ----------
    table
        The table that is re-indexed.
    place
        The name of a table in the same database, or, with a slash in it, the path or URI of a
        database, where it is the table ``ft_vectors``.
    encoder
        Whose vectors are to be found there, and kept.

    Raises
    ------
    InputError
        A table of that name is there and is no such cache, or no table can have that name.
    """
    found = check_cache(table, place)
    made_by = f"{encoder.document_fingerprint}/{encoder.precision}/{encoder.backend}"
    return VectorCache(found, made_by=made_by, dims=encoder.dims)


def check_cache(table: Table, place: str) -> Table:
    """Return the table of the cache at a place, made if it is not there; see `open_cache`.

    Raises
    ------
    InputError
        As `open_cache` would raise it.
    """
    import lancedb

    if not isinstance(place, str):
        raise InputError(
            f"cache is {place!r:.80}; it must be the name of a table, or the path or URI of a "
            "database, with a slash in it."
        )
    options = storage_options(table)
    elsewhere = "/" in place
    if not elsewhere and not re.fullmatch(r"[A-Za-z0-9_.-]+", place):
        raise InputError(
            f"cache is {place!r}, and the name of a table has letters, digits, '_', '-' and '.' "
            "only. Another database is told by a slash: './my cache'."
        )
    uri, name = (place, DEFAULT_NAME) if elsewhere else (database_uri(table), place)
    db = lancedb.connect(uri, storage_options=options)
    found = _opened(db, name)
    if found is None:
        found = _created(db, name, f"{uri.rstrip('/')}/{name}.lance", options)
    if found.schema.names != _SCHEMA.names:
        raise InputError(
            f"Table {name!r} in {uri!r} is no cache of vectors: it has the columns "
            f"{found.schema.names}, and a cache has {_SCHEMA.names}. Name another table."
        )
    return found


def _opened(db: DBConnection, name: str) -> Table | None:
    try:
        return db.open_table(name)
    except (ValueError, FileNotFoundError):
        return None


def _created(db: DBConnection, name: str, uri: str, options: dict[str, str] | None) -> Table:
    """Create the table, unless another process was first: then return what that one made.

    ``db.create_table`` can put an empty version over what was created, and filled, meanwhile. This
    commit says that there was no version before it, and so is the first or none.
    """
    from lance import LanceDataset, LanceOperation

    try:
        LanceDataset.commit(
            uri,
            LanceOperation.Overwrite(_SCHEMA, []),
            read_version=0,
            max_retries=0,
            storage_options=options,
            enable_stable_row_ids=True,
        )
    except OSError:
        found = _opened(db, name)
        if found is None:
            raise
        return found
    return db.open_table(name)


class VectorCache:
    """The vectors that one model made, by text.

    A text is known by 128 bits of BLAKE2b, compared in full: at 10^8 texts, any two collide with
    probability 10^-23. 16 bytes of memory are used for each vector that is there at the start.

    Parameters
    ----------
    table
        Where they are, with the columns ``made_by``, ``key`` and ``vector``.
    made_by
        Fingerprint of the documents' model, precision and whatever else decides the numbers.
    dims
        Length of the vectors.
    """

    def __init__(self, table: Table, *, made_by: str, dims: int) -> None:
        self._table = table
        self._made_by = f"{made_by}/{dims}"
        self._dims = dims
        self._new: list[tuple[npt.NDArray[Any], npt.NDArray[np.float32]]] = []
        # One version, so that row ids stay those of the index.
        self._ds: Any = dataset(table)
        rows = self._keys_of(self._ds)
        keys = _short(rows["key"])
        order = np.argsort(keys, kind="stable")
        self._keys, self._ids = keys[order], rows["_rowid"].to_numpy()[order]

    @property
    def name(self) -> str:
        """Where it is, as a URI."""
        return str(self._table.uri)

    def __len__(self) -> int:
        """Return how many vectors of this model were there at the start."""
        return len(self._keys)

    def _keys_of(self, ds: Any) -> pa.Table:
        where = "made_by = '" + self._made_by.replace("'", "''") + "'"
        return ds.scanner(columns=["key"], filter=where, with_row_id=True).to_table()

    def find(self, texts: pa.Array) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Look texts up, none null.

        Returns
        -------
        tuple
            ``found``, a bool a text, and the vectors of those found, shape (found.sum(), dims).
        """
        found = np.zeros(len(texts), dtype=bool)
        if not len(self._keys):
            return found, np.zeros((0, self._dims), np.float32)
        keys = _text_keys(texts)
        short = keys.view(np.int64)[:, 0]
        at = np.minimum(np.searchsorted(self._keys, short), len(self._keys) - 1)
        maybe = np.flatnonzero(self._keys[at] == short)
        if not len(maybe):
            return found, np.zeros((0, self._dims), np.float32)
        rows = self._ds._take_rows(self._ids[at[maybe]].tolist(), columns=["key", "vector"])
        same = (_bytes(rows["key"], 16) == keys[maybe]).all(axis=1)
        found[maybe[same]] = True
        vectors = _bytes(rows["vector"], 4 * self._dims).view(np.float32)
        return found, vectors[same]

    def put(self, texts: pa.Array, vectors: npt.NDArray[np.float32]) -> None:
        """Keep the vectors of texts that `find` did not have; appended now and then."""
        self._new.append((_text_keys(texts), vectors))
        if sum(len(keys) for keys, _ in self._new) >= _FLUSH_ROWS:
            self.flush()

    def flush(self) -> None:
        """Append what was put since the last time."""
        if not self._new:
            return
        keys = np.concatenate([keys for keys, _ in self._new])
        vectors = np.ascontiguousarray(np.concatenate([v for _, v in self._new]), np.float32)
        columns = [
            pa.array([self._made_by] * len(keys)),
            _binary(keys, pa.binary(16)),
            _binary(vectors, pa.binary(4 * self._dims)).cast(pa.binary()),
        ]
        rows = pa.table(columns, schema=_SCHEMA)
        self._new = []

        def attempt() -> None:
            self._table.checkout_latest()
            self._table.add(rows)

        retrying(attempt, what="keep vectors in the cache")

    def close(self) -> None:
        """Append the rest; remove what stands twice, and the oldest beyond `MAX_ROWS`.

        Another writer may be at the same: then removing is left to it, or to the next one. Any
        other failure is logged: the table is filled all the same.
        """
        try:
            self.flush()
            self._trim()
        except (OSError, RuntimeError, ReindexConflictError) as error:
            if not lost_a_race(error):
                _log.warning("The cache at %s was not brought up to date: %s", self.name, error)

    def _trim(self) -> None:
        ds = dataset(self._table)
        n_new = ds.version != self._ds.version
        if not n_new:
            return
        excess = ds.count_rows() - MAX_ROWS
        if excess > 0:
            # Row ids are given in the order of appending, and compaction keeps them.
            ids = ds.scanner(columns=[], with_row_id=True).to_table()["_rowid"].to_numpy()
            ds.delete(f"_rowid <= {int(np.partition(ids, excess - 1)[excess - 1])}")
        rows = self._keys_of(ds)
        full = _bytes(rows["key"], 16).view("V16").reshape(-1)
        _, first = np.unique(full, return_index=True)
        if len(first) < len(full):
            twice = np.delete(rows["_rowid"].to_numpy(), first)
            ds.delete(f"_rowid IN ({','.join(map(str, twice.tolist()))})")
        if len(ds.get_fragments()) > _MANY_FRAGMENTS:
            ds.optimize.compact_files()


def _text_keys(texts: pa.Array) -> npt.NDArray[np.uint8]:
    """Return 16 bytes a text, shape (texts, 16)."""
    joined = b"".join(
        blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        for text in texts.to_pylist()
    )
    return np.frombuffer(joined, np.uint8).reshape(-1, 16)


def _short(keys: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Return the first half of each key, which finds it."""
    return np.array(_bytes(keys, 16).view(np.int64)[:, 0])


def _bytes(column: pa.ChunkedArray, width: int) -> npt.NDArray[np.uint8]:
    """Return a column of equally long byte strings as a matrix."""
    fixed = column.cast(pa.binary(width)).combine_chunks()
    chunks = fixed.chunks if isinstance(fixed, pa.ChunkedArray) else [fixed]
    parts = [
        np.frombuffer(c.buffers()[1], np.uint8, len(c) * width, c.offset * width)
        for c in chunks
        if len(c)
    ]
    flat = np.concatenate(parts) if parts else np.zeros(0, np.uint8)
    return flat.reshape(-1, width)


def _binary(rows: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return the bytes of each row of a matrix."""
    return pa.FixedSizeBinaryArray.from_buffers(
        kind, len(rows), [None, pa.py_buffer(np.ascontiguousarray(rows))]
    )
