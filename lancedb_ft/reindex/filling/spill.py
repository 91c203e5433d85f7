"""Vectors that were computed lately, on local disk: those not yet committed, and some that are.

A fragment can hold a million rows, hours of work, and is committed whole. What a killed process
had encoded is found again here by the hash of its text, so that the next run goes on where that
one stopped, also when compaction moved the rows meanwhile. What was committed stays for a while,
within a bound, so that a text that comes again in another fragment is not encoded again.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.marks import hash_values

__all__ = ["Spill"]

#: Of what is committed already, so many bytes and files are kept until the run ends.
KEPT_BYTES = 1 << 30
KEPT_FILES = 256


@dataclass(frozen=True)
class _Part:
    """One file: hashes in order, where each one's vector is, and the vectors, memory-mapped."""

    path: Path
    hashes: npt.NDArray[np.int64]
    rows: npt.NDArray[np.int64]
    vectors: npt.NDArray[np.float32]


class Spill:
    """Vectors of one model by text hash.

    64 bits of hash tell texts apart here: among the 700,000 vectors of 384 dimensions that it may
    hold at a time, any two collide with probability 10^-8.

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
        self._parts: dict[str, _Part] = {}
        self._committed: list[str] = []
        self.refresh()

    def refresh(self) -> None:
        """Find what another process put, or removed, since; memory-mapped, so cheap."""
        self._folder.mkdir(parents=True, exist_ok=True)
        there = {path.name: path for path in sorted(self._folder.glob("*.arrow"))}
        self._parts = {name: part for name, part in self._parts.items() if name in there}
        for name, path in there.items():
            if name not in self._parts:
                self._open(path)

    def _open(self, path: Path) -> None:
        try:
            table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        except pa.ArrowInvalid:  # a disk that filled up can leave half a file: encode those again
            path.unlink()
            return
        hashes = table["hash"].chunk(0).to_numpy()
        vectors = table["vector"].chunk(0).flatten().to_numpy().reshape(-1, self._dims)
        order = np.argsort(hashes, kind="stable")
        self._parts[path.name] = _Part(path, hashes[order], order, vectors)

    def __len__(self) -> int:
        """Return how many vectors there are."""
        return sum(len(part.hashes) for part in self._parts.values())

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
        places: list[npt.NDArray[np.int64]] = []
        vectors: list[npt.NDArray[np.float32]] = []
        for part in self._parts.values():
            wanted = np.flatnonzero(~found)
            if not len(wanted):
                break
            at = np.minimum(np.searchsorted(part.hashes, hashes[wanted]), len(part.hashes) - 1)
            hit = part.hashes[at] == hashes[wanted]
            if hit.any():
                found[wanted[hit]] = True
                places.append(wanted[hit])
                vectors.append(part.vectors[part.rows[at[hit]]])
        if not places:
            return found, np.zeros((0, self._dims), np.float32)
        return found, np.concatenate(vectors)[np.argsort(np.concatenate(places))]

    def put(self, hashes: pa.Array, vectors: pa.FixedSizeListArray) -> None:
        """Keep vectors with their hashes; rows without a hash are left out."""
        values, null = hash_values(hashes)
        storage = vectors.filter(pa.array(~null))
        if not len(storage):
            return
        table = pa.table({"hash": pa.array(values[~null]), "vector": storage})
        self._folder.mkdir(parents=True, exist_ok=True)
        path = self._folder / f"{uuid.uuid4().hex}.arrow"
        partial = path.with_suffix(".partial")
        try:
            with (
                pa.OSFile(str(partial), "wb") as sink,
                pa.ipc.new_file(sink, table.schema) as writer,
            ):
                writer.write_table(table)
            os.replace(partial, path)
        except OSError:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        self._open(path)

    def committed(self) -> None:
        """Say that what is here is part of the table: from now on the oldest may go."""
        known = set(self._committed)
        self._committed += [name for name in self._parts if name not in known]
        size = sum(part.vectors.nbytes for part in self._parts.values())
        while self._committed and (size > KEPT_BYTES or len(self._parts) > KEPT_FILES):
            part = self._parts.pop(self._committed.pop(0), None)
            if part is not None:
                size -= part.vectors.nbytes
                part.path.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove all files: what they held is committed."""
        self._parts, self._committed = {}, []
        shutil.rmtree(self._folder, ignore_errors=True)
