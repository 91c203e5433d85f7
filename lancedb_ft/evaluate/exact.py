"""Brute-force retrieval in memory: exact, deterministic, bounded memory.

float32 matrix products find the candidates, float64 decides among them. So the result does not
depend on block sizes or on how BLAS rounds, and equal documents have equal scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.evaluate.queries import (
    RememberedBatch,
    TextEncoder,
    check_queries,
    vectors_of,
)
from lancedb_ft.types import Progress, Retriever

__all__ = ["exact_retriever", "exact_retriever_of"]

_Floats: TypeAlias = npt.NDArray[Any]
_Places: TypeAlias = npt.NDArray[np.int64]

# One block of scores is 256 x 16,384 float32: 16 MB, and a copy of it to find the best.
_QUERIES_PER_BLOCK = 256
_DOCS_PER_BLOCK = 16_384


def exact_retriever(
    encoder: TextEncoder,
    corpus: Mapping[str, str] | pa.Table,
    *,
    id_column: str = "id",
    text_column: str = "text",
    metric: Literal["cosine", "dot"] = "cosine",
    progress: Progress | None = None,
) -> Retriever:
    """Encode a corpus once and search it by brute force.

    Parameters
    ----------
    encoder
        Encodes documents now, and queries whenever the retriever is called.
    corpus
        ``{doc_id: text}`` or an Arrow table.
    id_column, text_column
        Their names in an Arrow table.
    metric
        ``cosine`` or ``dot``; the same for normalised vectors.
    progress
        Handed to the encoder for the corpus.

    Returns
    -------
    Retriever
        Holds the vectors (4 bytes x documents x dims). Documents and queries without a vector
        (blank texts) are never found and find nothing.

    Raises
    ------
    ColumnNotFoundError
        The table lacks a column.
    InputError
        An empty corpus, a null or repeated id, vectors that are not finite.

    Examples
    --------
    >>> import numpy as np, pyarrow as pa
    >>> class Letters:
    ...     def encode(self, texts, *, kind="document", progress=None):
    ...         counts = [[float(text.count(letter)) for letter in "abc"] for text in texts]
    ...         return pa.array(counts, pa.list_(pa.float32(), 3))
    >>> search = exact_retriever(Letters(), {"d1": "aab", "d2": "bcc"})
    >>> search({"q1": "aa"}, 1)
    {'q1': {'d1': 0.894427...}}
    """
    if isinstance(corpus, Mapping):
        ids, texts = list(corpus), list(corpus.values())
    else:
        for column in (id_column, text_column):
            if column not in corpus.column_names:
                raise ColumnNotFoundError(column, table="corpus", available=corpus.column_names)
        ids, texts = corpus[id_column].to_pylist(), corpus[text_column].to_pylist()
    if not ids:
        raise InputError("The corpus is empty: there is nothing to search.")
    vectors = encoder.encode(texts, kind="document", progress=progress)
    return exact_retriever_of(
        ids, vectors, lambda asked: encoder.encode(asked, kind="query"), metric=metric
    )


def exact_retriever_of(
    ids: Sequence[Any],
    vectors: pa.Array | pa.ChunkedArray | _Floats,
    encode_queries: Callable[[list[str]], pa.Array | pa.ChunkedArray | _Floats],
    *,
    metric: Literal["cosine", "dot"] = "cosine",
) -> Retriever:
    """Search vectors that exist already by brute force.

    Parameters
    ----------
    ids
        One id a vector; anything that is not text is turned into it.
    vectors
        Shape (n_docs, dims): an Arrow array of fixed-size lists (null: never found) or a matrix.
    encode_queries
        Gives the vectors of query texts, in either form.
    metric
        ``cosine`` or ``dot``.

    Raises
    ------
    InputError
        A null or repeated id, another number of ids than of vectors, vectors that are not finite.
    """
    if metric not in ("cosine", "dot"):
        raise InputError(f"metric is {metric!r}; it must be 'cosine' or 'dot'.")
    if any(doc_id is None for doc_id in ids):
        raise InputError("A document of the corpus has no id (null).")
    names = [str(doc_id) for doc_id in ids]
    if len(set(names)) != len(names):
        raise InputError(
            f"{len(names) - len(set(names))} ids stand in the corpus more than once, so a result "
            "could not say which document it means."
        )
    rows, matrix = vectors_of(vectors, len(names), "documents")
    return _ExactRetriever([names[row] for row in rows], matrix, encode_queries, metric == "cosine")


class _ExactRetriever:
    """See `exact_retriever_of`."""

    def __init__(
        self,
        ids: list[str],
        matrix: _Floats,
        encode_queries: Callable[[list[str]], Any],
        cosine: bool,
    ) -> None:
        norms = np.linalg.norm(matrix, axis=1)
        keep = np.flatnonzero(norms > 0) if cosine else np.arange(len(ids))
        # Documents stand in the order of their ids, so that a position is also the tie break.
        order = np.array(sorted(keep.tolist(), key=lambda row: ids[row]), np.int64)
        self._ids = [ids[row] for row in order]
        self._docs = matrix[order]  # the only copy; scaled in place
        if cosine:
            self._docs /= norms[order, None]
        self._encode_queries = RememberedBatch(encode_queries)
        self._cosine = cosine
        self._places: dict[str, int] | None = None
        norms = np.linalg.norm(self._docs, axis=1)
        self._longest = float(norms.max()) if len(norms) else 0.0

    def __repr__(self) -> str:
        return f"exact_retriever(n_docs={len(self._ids)}, dims={self._docs.shape[1]})"

    def __call__(self, queries: Mapping[str, str], k: int) -> dict[str, dict[str, float]]:
        """Return the best ``k`` documents for each query."""
        check_queries(queries, k)
        run: dict[str, dict[str, float]] = {query_id: {} for query_id in queries}
        if not queries or not self._ids:
            return run
        texts = list(dict.fromkeys(queries.values()))
        rows, vectors = self._comparable(self._encode_queries(texts), len(texts))
        found: dict[str, dict[str, float]] = {}
        for first in range(0, len(rows), _QUERIES_PER_BLOCK):
            block = slice(first, first + _QUERIES_PER_BLOCK)
            for row, hits in zip(rows[block], self._search(vectors[block], k), strict=True):
                found[texts[int(row)]] = hits
        return {query_id: dict(found.get(text, {})) for query_id, text in queries.items()}

    def score(
        self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """Return the scores of the named documents, found or not; unknown ones are left out.

        The vectors of the queries are those of the last search, where it was for the same queries.
        """
        texts = list(dict.fromkeys(queries.values()))
        if not texts or not self._ids:
            return {query_id: {} for query_id in queries}
        if self._places is None:
            self._places = {doc_id: place for place, doc_id in enumerate(self._ids)}
        rows, vectors = self._comparable(self._encode_queries.again(texts), len(texts))
        vector_of = {texts[int(row)]: vector for row, vector in zip(rows, vectors, strict=True)}
        run: dict[str, dict[str, float]] = {}
        for query_id, text in queries.items():
            known = [doc_id for doc_id in documents.get(query_id, ()) if doc_id in self._places]
            if text not in vector_of or not known:
                run[query_id] = {}
                continue
            at = np.array([self._places[doc_id] for doc_id in known])
            scores = self._docs[at].astype(np.float64) @ vector_of[text].astype(np.float64)
            run[query_id] = dict(zip(known, scores.tolist(), strict=True))
        return run

    def _comparable(self, encoded: Any, n_texts: int) -> tuple[_Places, _Floats]:
        """Return which queries have a vector, and those, at length 1 for the cosine."""
        rows, vectors = vectors_of(encoded, n_texts, "queries")
        if vectors.shape[1] != self._docs.shape[1]:
            raise InputError(
                f"The query vectors have {vectors.shape[1]} dims and the corpus "
                f"{self._docs.shape[1]}: they are of different models."
            )
        if self._cosine:
            vectors, keep = _normalised(vectors)
            rows = rows[keep]
        return rows, vectors

    def _search(self, queries: _Floats, k: int) -> list[dict[str, float]]:
        # Rounding of a float32 dot product stays below dims * 2**-24 * |q| * |d|; both the
        # candidate and the k-th best it is compared with may be off by that.
        dims = queries.shape[1]
        margin = 2 * dims * 2.0**-24 * np.linalg.norm(queries, axis=1) * self._longest
        floor = np.full(len(queries), -np.inf)
        places: list[_Places] = [np.empty(0, np.int64)] * len(queries)
        for first in range(0, len(self._docs), _DOCS_PER_BLOCK):
            scores = queries @ self._docs[first : first + _DOCS_PER_BLOCK].T
            n_docs = scores.shape[1]
            if n_docs > k:
                kth_best = np.partition(scores, n_docs - k, axis=1)[:, n_docs - k]
                floor = np.maximum(floor, kth_best)
            for i, candidate in enumerate(scores >= (floor - margin)[:, None]):
                places[i] = np.concatenate([places[i], np.flatnonzero(candidate) + first])
                # A model that maps all texts to one point makes every document a candidate.
                if len(places[i]) > k + _DOCS_PER_BLOCK:
                    places[i], _ = self._best(queries[i], places[i], k)
        best = (self._best(query, at, k) for query, at in zip(queries, places, strict=True))
        return [
            {self._ids[place]: score for place, score in zip(at.tolist(), scores, strict=True)}
            for at, scores in best
        ]

    def _best(self, query: _Floats, places: _Places, k: int) -> tuple[_Places, list[float]]:
        """Score candidates in float64; sorted by score descending, then id ascending."""
        exact = np.empty(len(places))
        for first in range(0, len(places), _DOCS_PER_BLOCK):
            block = places[first : first + _DOCS_PER_BLOCK]
            # A sum along each row, not a matrix product: equal rows then give equal sums.
            products = self._docs[block].astype(np.float64) * query.astype(np.float64)
            exact[first : first + len(block)] = products.sum(axis=1)
        order = np.lexsort((places, -exact))[:k]
        return places[order], exact[order].tolist()


def _normalised(matrix: _Floats) -> tuple[_Floats, npt.NDArray[np.int64]]:
    """Return the rows at length 1, and which rows they were: a zero vector has no direction."""
    norms = np.linalg.norm(matrix, axis=1)
    keep = np.flatnonzero(norms > 0)
    return (matrix[keep] / norms[keep, None]).astype(np.float32, copy=False), keep
