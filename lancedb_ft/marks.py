"""A hash of the text that each vector was made from, bound to that vector."""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["hash_values", "row_marks", "same_text", "text_hashes"]

#: Bits of a mark that are of the vector; the others are of the text. A changed text goes unseen
#: with probability 2^-40, a vector that somebody else wrote with 2^-24.
_VECTOR_BITS = 24


def text_hashes(texts: pa.Array) -> pa.Array:
    """Hash each text to 64 bits; null and blank texts, which have no vector, give null.

    The first eight bytes of BLAKE2b (RFC 7693) over the UTF-8 text: at 10^8 rows, the chance
    that some changed text keeps its hash is below 10^-11.

    Returns
    -------
    pa.Array
        int64, as long as ``texts``.

    Examples
    --------
    >>> text_hashes(pa.array(["a", " ", None])).null_count
    2
    """
    values = np.zeros(len(texts), dtype=np.int64)
    blank = np.ones(len(texts), dtype=bool)
    for position, text in enumerate(texts.to_pylist()):
        if text is None or not text.strip():
            continue
        digest = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
        values[position] = int.from_bytes(digest, "little", signed=True)
        blank[position] = False
    return pa.array(values, mask=blank)


def hash_values(hashes: pa.Array) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    """Return ``(values, is_null)`` of an int64 array as NumPy arrays."""
    null = hashes.is_null().to_numpy(zero_copy_only=False)
    return hashes.fill_null(0).to_numpy(zero_copy_only=False), null


def row_marks(hashes: pa.Array, vectors: pa.Array) -> pa.Array:
    """Bind the hash of each text to the vector beside it; null where either is null.

    The hash of the text alone is not enough: a writer that has the function writes a new text and
    its vector and leaves the hash as it is. Set back to the old text by an ``update``, which leaves
    the vector, the row would agree with its hash and have the vector of another text.

    Parameters
    ----------
    hashes
        As `text_hashes` gives them.
    vectors
        float32 lists of one length, or the extension type of a parked column; as long as `hashes`.

    Returns
    -------
    pa.Array
        int64: 40 bits of the text's hash, then 24 of a checksum of the bytes of the vector.

    Examples
    --------
    >>> hashes = text_hashes(pa.array(["a", "a"]))
    >>> vectors = pa.array([[1.0, 0.0], [0.0, 1.0]], pa.list_(pa.float32(), 2))
    >>> len(set(row_marks(hashes, vectors).to_pylist()))
    2
    """
    values, blank = hash_values(hashes)
    there = vectors.is_valid().to_numpy(zero_copy_only=False)
    storage = getattr(vectors, "storage", vectors)
    low = np.int64((1 << _VECTOR_BITS) - 1)
    marks = values & ~low
    marks[there] |= _checksums(storage.filter(pa.array(there))) & low
    return pa.array(marks, mask=blank | ~there)


def same_text(marks: pa.Array, hashes: pa.Array) -> pa.Array:
    """Say for each row whether its mark is of the text of that hash, whatever its vector is."""
    return pc.equal(
        pc.shift_right(marks, _VECTOR_BITS),
        pc.shift_right(hashes, _VECTOR_BITS),
    )


def _checksums(vectors: pa.FixedSizeListArray) -> npt.NDArray[np.int64]:
    """Hash rows of numbers to 64 bits each: multilinear, then mixed (Lemire & Kaser 2014)."""
    dims = vectors.type.list_size
    words = vectors.flatten().to_numpy().view(np.uint32).reshape(-1, dims).astype(np.uint64)
    sums = words @ _mixed(np.arange(1, dims + 1, dtype=np.uint64)) + np.uint64(dims)
    return _mixed(sums).view(np.int64)


def _mixed(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Spread every bit over all 64: the finalizer of SplitMix64 (Steele et al. 2014)."""
    values = values * np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    values ^= values >> np.uint64(31)
    return values
