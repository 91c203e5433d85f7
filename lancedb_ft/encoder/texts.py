"""Rows of text as distinct texts, and the way back from their vectors to the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import InputError

__all__ = ["DistinctTexts", "Texts", "distinct_texts"]

#: What can be encoded: Arrow text (plain or dictionary-encoded) or a sequence of ``str | None``.
Texts: TypeAlias = "Sequence[str | None] | pa.Array | pa.ChunkedArray"


@dataclass(frozen=True)
class DistinctTexts:
    """The distinct texts of some rows.

    Parameters
    ----------
    texts
        ``large_string`` array without nulls, blanks or duplicates.
    codes
        For each row the position of its text in ``texts``, or -1 where the row is null or blank.
    """

    texts: pa.Array
    codes: npt.NDArray[np.int64]

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return len(self.codes)

    def row_counts(self) -> npt.NDArray[np.int64]:
        """Return how many rows have each text, shape ``(len(texts),)``."""
        return np.bincount(self.codes[self.codes >= 0], minlength=len(self.texts))

    def to_rows(self, vectors: npt.NDArray[np.float32]) -> pa.FixedSizeListArray:
        """Return one vector a row, null where the row has no text.

        Parameters
        ----------
        vectors
            Shape ``(len(texts), dims)``; used without a copy when every row has its own text.
        """
        dims = vectors.shape[1]
        no_text = self.codes < 0
        if len(self.codes) == len(vectors) and not no_text.any():
            # All distinct: Arrow's dictionary keeps the order of first appearance.
            return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), dims)
        rows = np.zeros((len(self.codes), dims), np.float32)
        rows[~no_text] = vectors[self.codes[~no_text]]
        mask = pa.array(no_text) if no_text.any() else None
        return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), dims, mask=mask)


def _as_column(texts: Any) -> pa.Array:
    if isinstance(texts, (str, bytes)):
        raise InputError("Expected a sequence of texts, found one text. Pass [text].")
    if not isinstance(texts, (pa.Array, pa.ChunkedArray)):
        try:
            return pa.array(list(texts), pa.large_string(), from_pandas=True)
        except (TypeError, ValueError, pa.ArrowException) as error:
            # ValueError covers lone surrogates, which are no text that Arrow can hold.
            raise InputError(
                f"Expected texts (str or None), found something else: {error}"
            ) from error
    column_type = texts.type
    if pa.types.is_dictionary(column_type):
        column_type = column_type.value_type
    if not (
        pa.types.is_string(column_type)
        or pa.types.is_large_string(column_type)
        or pa.types.is_string_view(column_type)
        or pa.types.is_null(column_type)
    ):
        raise InputError(f"Expected a column of text, found {texts.type}.")
    column = pc.cast(texts, pa.large_string())
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def distinct_texts(texts: Texts) -> DistinctTexts:
    """Find the distinct texts of some rows.

    Raises
    ------
    InputError
        One bare ``str``, a column that is not text, or values that are not texts.

    Examples
    --------
    >>> found = distinct_texts(["b", None, "a", "b", "  "])
    >>> found.texts.to_pylist(), found.codes.tolist()
    (['b', 'a'], [0, -1, 1, 0, -1])
    """
    encoded = pc.dictionary_encode(_as_column(texts))
    codes = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    blank = pc.equal(pc.utf8_trim_whitespace(encoded.dictionary), "")
    if not pc.any(blank, min_count=0).as_py():
        return DistinctTexts(encoded.dictionary, codes)
    kept = ~blank.to_numpy(zero_copy_only=False)
    # One more place at the end, so that the code -1 maps to -1.
    renumbered = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)
    return DistinctTexts(encoded.dictionary.filter(pa.array(kept)), renumbered[codes])
