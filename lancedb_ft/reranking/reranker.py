"""`FineTunedReranker`: a cross-encoder of the store, for LanceDB's ``rerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.rerankers import Reranker

from lancedb_ft.encoder.precision import check_precision
from lancedb_ft.errors import ColumnNotFoundError, InputError, QueryError
from lancedb_ft.reranking.cache import get_scorer
from lancedb_ft.reranking.scorer import Scorer
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.types import ModelVersion

__all__ = ["FineTunedReranker"]

_RELEVANCE, _ROW = "_relevance_score", "_rowid"
#: Of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009), as in LanceDB.
_RRF_K = 60


class FineTunedReranker(Reranker):  # type: ignore[misc]  # lancedb is not typed
    """Reads each candidate together with the query, and puts the best answer first.

    For ``table.search(...).rerank(reranker)`` of LanceDB, sync and async, hybrid, vector and full
    text, and for ``lancedb_ft.search(..., reranker=reranker)``. The model is loaded by the first
    query, once a process; threads may share a reranker.

    ``_relevance_score`` is from 0 to 1, highest first. Rows with equal scores keep the order of
    the search; in hybrid search that of reciprocal rank fusion. Rows without a text, and rows that
    `top_k` leaves unread, have 0 and stand last.

    Parameters
    ----------
    model
        ``support-reranker@1``, a folder, ``hf://org/name@revision``, or a `ModelVersion`.
    store
        URI of the model store, for ``name@version``.
    column
        The column of text that is read.
    top_k
        Read only so many candidates, the best of the search; None for all.
    max_tokens
        Cut longer pairs of query and text; None for what the model reads.
    device, precision
        See `lancedb_ft.reranking.get_scorer`.
    return_score
        ``relevance``, or ``all`` to keep ``_distance`` and ``_score``, too.

    Raises
    ------
    ModelKindError
        The model is an embedder.
    ModelNotFoundError, StoreNotFoundError, FingerprintError, UnsafeModelError
        It is not there, or may not be loaded.
    InputError
        Another argument cannot be used.
    """

    def __init__(
        self,
        model: str | ModelVersion | ResolvedModel,
        *,
        store: str | None = None,
        column: str = "text",
        top_k: int | None = None,
        max_tokens: int | None = None,
        device: str | None = None,
        precision: str = "auto",
        return_score: str = "relevance",
    ) -> None:
        if return_score not in ("relevance", "all"):
            raise InputError(f"return_score is {return_score!r}; it must be 'relevance' or 'all'.")
        super().__init__(return_score)
        check_precision(precision)
        for name, value in (("top_k", top_k), ("max_tokens", max_tokens)):
            whole = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is not None and not whole:
                raise InputError(f"{name} is {value!r}; it must be a whole number, 1 or more.")
        self.model = resolve_model(model, store=store, kind="cross-encoder")
        self.column = column
        self.top_k = top_k
        self.max_tokens = max_tokens
        self.device = device
        self.precision = precision

    def __str__(self) -> str:
        """Say which model it is; shown in LanceDB's query plans."""
        return f"FineTunedReranker({self.model.ref})"

    def scorer(self) -> Scorer:
        """Return the running model, loaded at first use in this process."""
        return get_scorer(self.model, device=self.device, precision=self.precision)

    def rerank_hybrid(
        self, query: str, vector_results: pa.Table, fts_results: pa.Table
    ) -> pa.Table:
        """Merge the two legs of a hybrid search and rerank them."""
        return self._rerank(query, _merged(vector_results, fts_results))

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Rerank the rows of a vector search."""
        return self._rerank(query, vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Rerank the rows of a full-text search."""
        return self._rerank(query, fts_results)

    def _rerank(self, query: Any, rows: pa.Table) -> pa.Table:
        if self.column not in rows.column_names:
            raise ColumnNotFoundError(
                self.column,
                table="what the search returned",
                available=rows.column_names,
                expected="the text to rerank by; select it, or pass column=",
            )
        if _RELEVANCE in rows.column_names:
            rows = rows.drop_columns([_RELEVANCE])
        scores, order = self._order(_text_of(query), rows[self.column])
        ranked = rows.take(pa.array(order))
        ranked = ranked.append_column(_RELEVANCE, pa.array(scores[order], pa.float32()))
        return self._keep_relevance_score(ranked)

    def _order(
        self, query: str, column: pa.ChunkedArray
    ) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
        """Return the score of each row, and the rows from best to worst."""
        n_rows = len(column)
        scores = np.zeros(n_rows, np.float32)
        # Logits decide: a sigmoid is 1.0 for all that are high, and they would be ties.
        logits = np.full(n_rows, -np.inf)
        texts = column.slice(0, self.top_k).cast(pa.large_string()).to_pylist()
        places = [place for place, text in enumerate(texts) if text and text.strip()]
        if places:
            found = self._score(query, [texts[place] for place in places])
            logits[places] = found
            scores[places] = 1 / (1 + np.exp(-found.astype(np.float64)))
        return scores, np.argsort(-logits, kind="stable")

    def _score(self, query: str, texts: Sequence[str]) -> npt.NDArray[np.float32]:
        distinct = {text: place for place, text in enumerate(dict.fromkeys(texts))}
        pairs = [(query, text) for text in distinct]
        found = self.scorer().score(pairs, max_tokens=self.max_tokens)
        return found[[distinct[text] for text in texts]]


def _text_of(query: Any) -> str:
    """Return the words of a query: text, or what a full-text query object of LanceDB holds."""
    text = query if isinstance(query, str) else getattr(query, "query", None)
    if not isinstance(text, str) or not text.strip():
        raise QueryError(
            f"A reranker needs the words of the query, and got {type(query).__name__}. After a "
            "search by vector pass them: .rerank(reranker, query_string='how do I cancel?')."
        )
    return text


def _merged(vector_rows: pa.Table, text_rows: pa.Table) -> pa.Table:
    """Put two legs together: each row once, ordered by reciprocal rank fusion."""
    legs = [leg for leg in (vector_rows, text_rows) if leg.num_rows]
    if not legs:
        return pa.concat_tables([vector_rows, text_rows], promote_options="default")
    shares: dict[int, float] = {}
    for leg in legs:
        for rank, row_id in enumerate(leg[_ROW].to_pylist()):
            shares[row_id] = shares.get(row_id, 0.0) + 1 / (_RRF_K + rank)
    both = pa.concat_tables([vector_rows, text_rows], promote_options="default")
    ids = both[_ROW].to_pylist()
    first = {row_id: place for place, row_id in reversed(list(enumerate(ids)))}
    order = sorted(first, key=lambda row_id: (-shares[row_id], first[row_id]))
    merged = both.take(pa.array([first[row_id] for row_id in order], pa.int64()))
    # A row of both legs stands there as the vector search gave it; its text score is in the other.
    if "_score" in text_rows.column_names and text_rows.num_rows:
        places = pc.index_in(merged[_ROW], value_set=text_rows[_ROW].combine_chunks())
        at = merged.column_names.index("_score")
        merged = merged.set_column(at, "_score", text_rows["_score"].take(places))
    return merged
