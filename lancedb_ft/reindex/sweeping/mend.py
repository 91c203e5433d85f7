"""Make the vectors of some rows right again, in every generation that keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.marks import hash_values, row_marks, text_hashes
from lancedb_ft.reindex.filling.fragments import Columns
from lancedb_ft.reindex.sweeping.wrong_rows import missing

if TYPE_CHECKING:
    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.checks.models_of import Embeds
    from lancedb_ft.types import Progress

__all__ = ["MIN_COSINE", "Mended", "Mender", "cosines", "matrix_of"]

#: Lowest cosine between a stored vector and the same text encoded again. Batches of other shapes
#: move float32 results by 1e-6 and bfloat16 ones by 1e-4; another model is below 0.9.
MIN_COSINE = 0.999


@dataclass(frozen=True)
class Mended:
    """New columns for rows, and how many of the rows were wrong and were encoded."""

    columns: Mapping[str, pa.Array] = field(default_factory=dict)
    n_wrong: int = 0
    n_encoded: int = 0


@dataclass(frozen=True)
class Mender:
    """Makes new columns for rows, for one generation.

    Parameters
    ----------
    generation, model
        Whose vectors, and what makes them.
    marked
        Whether marks stand beside the vectors.
    every_row
        Encode all rows and replace the vectors that the model would not make, whatever their marks
        say.
    """

    generation: Generation
    model: Embeds
    marked: bool
    every_row: bool = False

    def __call__(self, rows: pa.RecordBatch, progress: Progress | None) -> Mended:
        """Return the columns of these rows with the wrong vectors replaced; none if none is."""
        texts = rows[str(self.generation.source_column)]
        hashes = text_hashes(texts)
        blank = hash_values(hashes)[1]
        wrong = self._wrong(rows)
        asked = ~blank if self.every_row else wrong & ~blank
        stored = rows[self.generation.column]
        matrix = matrix_of(stored, self.generation.dims)
        if asked.any():
            made = self.model.encode(
                texts.filter(pa.array(asked)), kind="document", progress=progress
            )
            fresh = matrix_of(made, self.generation.dims)
            if self.every_row:
                wrong[asked] |= ~(cosines(matrix[asked], fresh) >= MIN_COSINE)
            matrix[asked] = np.where(wrong[asked][:, None], fresh, matrix[asked])
        if not wrong.any():
            return Mended(n_encoded=int(asked.sum()))
        # A generation without marks keeps what it has for rows without text.
        null = blank if self.marked else ~np.asarray(stored.is_valid()) & ~wrong
        vectors = pa.FixedSizeListArray.from_arrays(
            pa.array(matrix.reshape(-1)), self.generation.dims, mask=pa.array(null)
        )
        columns = {self.generation.column: vectors}
        if self.marked:
            columns[str(self.generation.hash_column)] = row_marks(hashes, vectors)
        return Mended(columns, int(wrong.sum()), int(asked.sum()))

    def _wrong(self, rows: pa.RecordBatch) -> npt.NDArray[np.bool_]:
        if self.marked:
            return Columns.of(self.generation).wrong(rows)
        return missing(rows, self.generation)


def matrix_of(vectors: pa.Array, dims: int) -> npt.NDArray[np.float32]:
    """Return float32 vectors as a new matrix, shape (rows, dims); zeros where one is null."""
    storage = getattr(vectors, "storage", vectors)
    matrix = np.zeros((len(storage), dims), np.float32)
    there = np.asarray(storage.is_valid())
    values = storage.filter(pa.array(there)).flatten().to_numpy(zero_copy_only=False)
    matrix[there] = values.reshape(-1, dims)
    return matrix


def cosines(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the cosine of each pair of rows; 0 where one is zero, NaN where one has NaN."""
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(axis=1) / np.maximum(lengths, 1e-12))
