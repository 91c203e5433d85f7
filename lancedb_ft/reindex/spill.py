"""Vectors that were computed and are not yet part of a commit, on local disk.

A fragment can hold a million rows, hours of work, and is committed whole. What a killed process
had encoded is found again here by the hash of its text, so that the next run goes on where that
one stopped, also when compaction moved the rows meanwhile.
"""

from __future__ import annotations

import os
import shutil
import uuid
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.reindex.hashes import hash_values

__all__ = ["Spill"]


class Spill:
    """Vectors of one model by text hash.

    Parameters
    ----------
    folder
        Where the files are; made if needed. One folder belongs to one fingerprint.
    dims
        Length of the vectors.
    """

    def __init__(self, folder: Path, dims: int) -> None:
        self._folder = folder
        self._dims = dims
        self._vectors: list[npt.NDArray[np.float32]] = []
        self.refresh()

    def refresh(self) -> None:
        """Read what is there, also what this object put since; memory-mapped, so cheap."""
        self._folder.mkdir(parents=True, exist_ok=True)
        hashes: list[npt.NDArray[np.int64]] = []
        self._vectors = []
        for path in sorted(self._folder.glob("*.arrow")):
            found = self._read(path)
            if found is not None:
                hashes.append(found[0])
                self._vectors.append(found[1])
        self._index(hashes)

    def _read(self, path: Path) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]] | None:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all().combine_chunks()
        except pa.ArrowInvalid:  # a disk that filled up can leave half a file: encode those again
            path.unlink()
            return None
        vectors = table["vector"].chunk(0).flatten().to_numpy()
        return table["hash"].chunk(0).to_numpy(), vectors.reshape(-1, self._dims)

    def _index(self, hashes: list[npt.NDArray[np.int64]]) -> None:
        lengths = [len(h) for h in hashes]
        flat = np.concatenate(hashes) if hashes else np.zeros(0, np.int64)
        self._order = np.argsort(flat, kind="stable")
        self._sorted = flat[self._order]
        self._starts = np.cumsum([0, *lengths])

    def __len__(self) -> int:
        """Return how many vectors the last `refresh` found."""
        return len(self._sorted)

    def find(
        self, hashes: npt.NDArray[np.int64]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Look hashes up.

        Returns
        -------
        tuple
            ``found``, a bool per hash, and the vectors of those found, shape (found.sum(), dims).
        """
        found = np.zeros(len(hashes), dtype=bool)
        if not len(self._sorted):
            return found, np.zeros((0, self._dims), np.float32)
        at = np.minimum(np.searchsorted(self._sorted, hashes), len(self._sorted) - 1)
        found = self._sorted[at] == hashes
        rows = self._order[at[found]]
        chunk = np.searchsorted(self._starts, rows, side="right") - 1
        vectors = np.empty((len(rows), self._dims), np.float32)
        for number in np.unique(chunk):
            mine = chunk == number
            vectors[mine] = self._vectors[number][rows[mine] - self._starts[number]]
        return found, vectors

    def put(self, hashes: pa.Array, vectors: pa.FixedSizeListArray) -> None:
        """Keep vectors with their hashes; rows without a hash are left out."""
        values, null = hash_values(hashes)
        storage = vectors.filter(pa.array(~null))
        table = pa.table({"hash": pa.array(values[~null]), "vector": storage})
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.arrow"
        partial = path.with_suffix(".partial")
        with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        os.replace(partial, path)

    def clear(self) -> None:
        """Remove all files: what they held is committed."""
        self._vectors = []
        self._index([])
        shutil.rmtree(self._folder, ignore_errors=True)
