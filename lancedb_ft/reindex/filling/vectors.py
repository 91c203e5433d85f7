"""Where vectors come from: found where they were made before, or encoded now and kept."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import ReindexError
from lancedb_ft.marks import hash_values

if TYPE_CHECKING:
    from lancedb_ft.encoder import Encoder
    from lancedb_ft.encoder.pool import EncoderPool
    from lancedb_ft.reindex.filling.spill import Spill
    from lancedb_ft.reindex.filling.vector_cache import VectorCache
    from lancedb_ft.types import Progress

__all__ = ["FillReport", "SpilledVectors"]


@dataclass
class FillReport:
    """What filling did.

    ``encoded`` are texts that the model read; ``reused`` rows have the vector of a text that this
    job encoded for another row, or before it was killed; ``cached`` ones were in the cache.
    ``fragments`` got new columns; ``moved`` rows were written to other fragments, see `moved_rows`.
    """

    rows: int = 0
    encoded: int = 0
    reused: int = 0
    cached: int = 0
    fragments: int = 0
    moved: int = 0
    rounds: int = 0
    seconds: float = 0.0
    cache: str | None = None
    encode_seconds: float = field(default=0.0, repr=False)

    @property
    def written(self) -> int:
        """Rows that were given a vector."""
        return self.encoded + self.reused + self.cached

    @property
    def cache_hit_rate(self) -> float | None:
        """Share of the texts looked up in the cache that were there; None without a cache."""
        looked_up = self.cached + self.encoded
        return self.cached / looked_up if self.cache is not None and looked_up else None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, with the rate and the encoder's busy share."""
        rate = self.rows / self.seconds if self.seconds else 0.0
        hits = self.cache_hit_rate
        return {
            "rows": self.rows,
            "encoded": self.encoded,
            "reused": self.reused,
            "cached": self.cached,
            "cache": self.cache,
            "cache_hit_rate": None if hits is None else round(hits, 4),
            "fragments": self.fragments,
            "moved": self.moved,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 3),
            "rows_per_s": round(rate, 1),
            "encode_share": round(self.encode_seconds / self.seconds, 3) if self.seconds else 0.0,
        }


class SpilledVectors:
    """Gives each text its vector: from the spill, the cache, or the encoder, in this order.

    Parameters
    ----------
    encoder
        Encodes what is not found.
    spill
        Where vectors are kept until they are committed, and a while longer.
    dims
        Length of the vectors.
    report
        Counts what was encoded and what was found.
    cache
        Vectors of other runs and tables, if there is one.
    """

    def __init__(
        self,
        encoder: Encoder | EncoderPool,
        spill: Spill,
        dims: int,
        report: FillReport,
        cache: VectorCache | None = None,
    ) -> None:
        self._encoder = encoder
        self._spill = spill
        self._dims = dims
        self._report = report
        self._cache = cache
        report.cache = None if cache is None else cache.name
        self._progress: Progress | None = None
        self._done = self._total = 0

    def begin(self, progress: Progress | None, done: int, total: int) -> None:
        """Tell progress from now on, beginning with ``done`` of ``total`` rows."""
        self._progress, self._done, self._total = progress, done, total

    def found_again(self, n_rows: int) -> None:
        """Take back the count of rows that were asked for ahead, and will be again."""
        self._report.reused -= n_rows
        self._done -= n_rows

    def __call__(self, texts: pa.Array, hashes: pa.Array) -> npt.NDArray[np.float32]:
        """Return one vector a text, shape (texts, dims); each distinct text is encoded once."""
        values, first, rows = np.unique(
            hash_values(hashes)[0], return_index=True, return_inverse=True
        )
        matrix = np.zeros((len(values), self._dims), np.float32)
        known, spilled = self._spill.find(values)
        matrix[known] = spilled
        self._report.reused += len(texts) - int((~known).sum())
        # In the order of the rows, which is that of the table.
        missing = np.sort(first[~known])
        if len(missing):
            wanted = texts.take(pa.array(missing))
            made = self._looked_up(wanted)
            self._spill.put(hashes.take(pa.array(missing)), made)
            matrix[rows[missing]] = _matrix(made)
        self._done += len(texts)
        return matrix[rows]

    def _looked_up(self, texts: pa.Array) -> pa.FixedSizeListArray:
        """Return the vectors of distinct texts that the spill does not have."""
        if self._cache is None:
            return self._encoded(texts)
        matrix = np.zeros((len(texts), self._dims), np.float32)
        found, vectors = self._cache.find(texts)
        matrix[found] = vectors
        self._report.cached += int(found.sum())
        if not found.all():
            missing = texts.filter(pa.array(~found))
            matrix[~found] = _matrix(self._encoded(missing))
            self._cache.put(missing, matrix[~found])
        return pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), self._dims)

    def _encoded(self, texts: pa.Array) -> pa.FixedSizeListArray:
        started = time.perf_counter()
        vectors = self._encoder.encode(texts, kind="document", progress=self._tell)
        self._report.encode_seconds += time.perf_counter() - started
        self._report.encoded += len(texts)
        if vectors.null_count or vectors.type.list_size != self._dims:
            raise ReindexError(
                f"The model gave {vectors.null_count} empty vectors and {vectors.type.list_size} "
                f"dimensions for {len(texts)} texts; {self._dims} dimensions were expected."
            )
        if not np.isfinite(_matrix(vectors)).all():
            raise ReindexError("The model gave vectors with NaN or infinite values.")
        return vectors

    def _tell(self, n_encoded: int, _of: int | None, /) -> None:
        if self._progress is not None:
            self._progress(min(self._total, self._done + n_encoded), self._total)


def _matrix(vectors: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors.flatten().to_numpy()
    return found.reshape(len(vectors), -1)
