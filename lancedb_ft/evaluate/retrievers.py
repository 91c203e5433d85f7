"""The real search path of a LanceDB table, and finished runs, as retrievers."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import pyarrow as pa

from lancedb_ft.errors import (
    FilterError,
    InputError,
    NoTextIndexError,
    QueryError,
    RerankError,
)
from lancedb_ft.evaluate.queries import (
    RememberedBatch,
    TextEncoder,
    check_queries,
    query_embedder,
    searched_column,
)
from lancedb_ft.evaluate.stored import StoredScorer
from lancedb_ft.reranking import degraded_reason
from lancedb_ft.reranking.running import rerank_hybrid, rerank_one
from lancedb_ft.table import id_column_of, text_column_of
from lancedb_ft.types import Retriever, Run

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker
    from lancedb.table import Table

__all__ = ["require_reranker", "retriever", "run_retriever"]

Mode = Literal["vector", "fts", "hybrid"]
_Hits: TypeAlias = dict[str, float]

# LanceDB runs a query in its own threads; more callers than this only wait for one another.
_MAX_THREADS = 8


def run_retriever(run: Run) -> Retriever:
    """Let a finished run answer: the best ``k`` of what it has, nothing for other queries.

    Equal scores are ordered by document id.

    Examples
    --------
    >>> run_retriever({"q1": {"d1": 0.2, "d2": 0.9}})({"q1": "any text"}, 1)
    {'q1': {'d2': 0.9}}
    """

    def answer(queries: Mapping[str, str], k: int) -> dict[str, _Hits]:
        check_queries(queries, k)
        return {
            query_id: dict(
                sorted(run.get(query_id, {}).items(), key=lambda hit: (-hit[1], hit[0]))[:k]
            )
            for query_id in queries
        }

    return answer


def retriever(
    table: Table,
    *,
    mode: Mode = "vector",
    column: str | None = None,
    encoder: TextEncoder | None = None,
    id_column: str | None = None,
    text_column: str | None = None,
    where: str | None = None,
    reranker: Reranker | None = None,
    distance_type: Literal["l2", "cosine", "dot"] | None = None,
    nprobes: int | None = None,
    refine_factor: int | None = None,
) -> Retriever:
    """Search a table as plain LanceDB does, index and all, to measure what is really served.

    Parameters
    ----------
    table
        The table, at the version it is open at.
    mode
        ``vector``, ``fts`` (full-text, BM25) or ``hybrid`` (both, fused).
    column
        The vector column, shown or parked; by default the one that plain LanceDB searches.
    encoder
        Embeds the queries; by default the embedding function the table has for the column.
    id_column
        The column whose values, as text, are the ids of the run (``id``, ``_id`` or ``doc_id``).
        Rows that share an id (chunks of a document) count once, with the best score.
    text_column
        The column with the full-text index, by default the one the vectors are made from.
    where
        Filter applied before the search.
    reranker
        Orders the ``k`` candidates of each leg anew. Hybrid without one fuses by reciprocal rank
        (``RRFReranker(K=60)``), as LanceDB does.
    distance_type
        By default what LanceDB takes: the metric of the column's index, or l2 without an index
        (which ranks normalised vectors as cosine does).
    nprobes, refine_factor
        As in LanceDB, for the vector leg.

    Returns
    -------
    Retriever
        Scores are ``-distance``, the BM25 score, or the reranker's relevance. Equal relevances
        after reranking are kept in the order LanceDB serves them, the later one lowered by a unit
        in the last place. A query without a vector (blank text) has no vector leg; in hybrid mode
        a leg holds ``k`` candidates, as in LanceDB with ``limit(k)``. With a vector leg it also has
        ``score(queries, {query_id: [doc_id, ...]})``: the cosines of the stored vectors of any
        documents, found or not (`StoredScorer`). A query whose reranker fails raises `RerankError`:
        give one that has a deadline ``RerankGuard(deadline_s=None)`` to be measured.

    Raises
    ------
    NoTextIndexError
        ``fts`` or ``hybrid`` without a full-text index (LanceDB would score every row by force,
        with other scores).
    NoEmbedderError
        ``vector`` or ``hybrid``, no encoder, and the table names no function for the column.
    FilterError
        ``where`` is not valid.
    InputError
        Anything else that cannot work: an unknown mode or column, a ``distance_type`` that the
        index does not have (LanceDB would silently leave the index and scan every vector), a
        reranker that is none or that cannot rerank in this mode.
    """
    if mode not in ("vector", "fts", "hybrid"):
        raise InputError(f"mode is {mode!r}; it must be 'vector', 'fts' or 'hybrid'.")
    schema = table.schema
    ids = id_column_of(schema, id_column, table=table.name)
    _check_where(table, where, ids)
    require_reranker(reranker, mode)
    vector_leg = text_leg = score = None
    if mode != "fts":
        name = searched_column(schema, table.name, column)
        _check_distance_type(table, name, distance_type)
        embed = RememberedBatch(query_embedder(schema, table.name, name, encoder))
        score = StoredScorer(table, ids, name, embed)
        vector_leg = _VectorLeg(name, embed, distance_type, nprobes, refine_factor)
    if mode != "vector":
        text_leg = text_column_of(schema, text_column, table=table.name)
        if not any(i.index_type == "FTS" and text_leg in i.columns for i in table.list_indices()):
            raise NoTextIndexError(table.name, column=text_leg)
    if mode == "hybrid" and reranker is None:
        from lancedb.rerankers import RRFReranker

        reranker = RRFReranker(K=60)
    columns = _columns(schema, ids, reranker, text_column, table.name)
    return _TableRetriever(table, ids, columns, where, reranker, vector_leg, text_leg, score)


@dataclass(frozen=True)
class _VectorLeg:
    column: str
    embed: Callable[[list[str]], dict[str, Any]]
    distance_type: str | None
    nprobes: int | None
    refine_factor: int | None


@dataclass(frozen=True)
class _TableRetriever:
    """See `retriever`."""

    table: Table
    id_column: str
    columns: list[str]
    where: str | None
    reranker: Reranker | None
    vector_leg: _VectorLeg | None
    text_leg: str | None
    score: StoredScorer | None

    def __call__(self, queries: Mapping[str, str], k: int) -> dict[str, _Hits]:
        """Return the best ``k`` documents for each query."""
        check_queries(queries, k)
        texts = list(dict.fromkeys(queries.values()))
        vectors = self.vector_leg.embed(texts) if self.vector_leg and texts else {}

        def answer(text: str) -> _Hits:
            return self._search(text, vectors.get(text), k)

        if len(texts) == 1:  # as an application asks, and as its latency is measured: no threads
            found = {texts[0]: answer(texts[0])}
            return {query_id: dict(found[text]) for query_id, text in queries.items()}
        with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
            found = dict(zip(texts, pool.map(answer, texts), strict=True))
        return {query_id: dict(found[text]) for query_id, text in queries.items()}

    def _search(self, text: str, vector: Any | None, k: int) -> _Hits:
        leg = self.vector_leg
        by_vector = None if leg is None or vector is None else self._by_vector(leg, vector, k)
        by_text = None if self.text_leg is None else self._by_text(text, k)
        if self.reranker is None:
            hits = by_vector if self.text_leg is None else by_text
            if hits is None:
                return {}
            name, sign = ("_distance", -1.0) if self.text_leg is None else ("_score", 1.0)
            return self._pooled(hits, sign * hits[name].to_numpy().astype(np.float64))
        ranked = self._reranked(text, by_vector, by_text, k)
        if ranked is None:
            return {}
        if reason := degraded_reason(ranked):
            # Answered in another order than the one that is measured: no figure of it.
            name = str(self.reranker)
            reason = reason.removeprefix(f"{name}: ")
            raise RerankError(name, reason=f"{reason}, while it was measured")
        return self._pooled(ranked, _as_served(ranked["_relevance_score"].to_numpy()))

    def _by_vector(self, leg: _VectorLeg, vector: Any, k: int) -> pa.Table:
        query = self.table.search(vector, vector_column_name=leg.column, query_type="vector")
        if leg.distance_type is not None:
            query = query.distance_type(leg.distance_type)
        if leg.nprobes is not None:
            query = query.nprobes(leg.nprobes)
        if leg.refine_factor is not None:
            query = query.refine_factor(leg.refine_factor)
        return self._run(query, "_distance", k)

    def _by_text(self, text: str, k: int) -> pa.Table:
        from lancedb.query import MatchQuery

        # A plain string that begins and ends with a quote would become a phrase query, which
        # fails on an index without positions. A MatchQuery is never parsed.
        query = self.table.search(MatchQuery(text, self.text_leg), query_type="fts")
        return self._run(query, "_score", k)

    def _run(self, query: Any, score: str, k: int) -> pa.Table:
        # Naming the score column keeps lance from logging a deprecation for each query.
        query = query.select([*self.columns, score]).with_row_id(True).limit(k)
        if self.where is not None:
            query = query.where(self.where)
        hits = query.to_arrow()
        # Lance returns equal full-text scores in an order that changes from call to call.
        direction = "ascending" if score == "_distance" else "descending"
        return hits.sort_by([(score, direction), ("_rowid", "ascending")])

    def _reranked(
        self, text: str, by_vector: pa.Table | None, by_text: pa.Table | None, k: int
    ) -> pa.Table | None:
        assert self.reranker is not None
        if self.vector_leg is not None and self.text_leg is not None:
            if by_vector is None and by_text is not None:
                # No vector for this query: an empty leg in the shape LanceDB gives one.
                by_vector = by_text.slice(0, 0).rename_columns(
                    ["_distance" if n == "_score" else n for n in by_text.column_names]
                )
            return rerank_hybrid(self.reranker, text, by_vector, by_text, k=k)
        hits = by_vector if self.text_leg is None else by_text
        if hits is None or not hits.num_rows:
            return None
        mode = "vector" if self.text_leg is None else "fts"
        return rerank_one(self.reranker, text, hits, mode=mode, k=k)

    def _pooled(self, hits: pa.Table, scores: Any) -> _Hits:
        """Name the rows by id; of rows that share one the best counts."""
        best: _Hits = {}
        for doc_id, score in zip(hits[self.id_column].to_pylist(), scores.tolist(), strict=True):
            if doc_id is None:
                raise InputError(
                    f"A row of table {self.table.name!r} has no {self.id_column!r} (null), so it "
                    "cannot be named in a result. Fill it, or name another key with id_column=."
                )
            name = str(doc_id)
            best[name] = max(score, best.get(name, score))
        return best


def _as_served(relevance: Any) -> Any:
    """Make scores strictly decreasing, so that no tie break changes the order served."""
    scores = relevance.astype(np.float64)
    for i in range(1, len(scores)):
        scores[i] = min(scores[i], np.nextafter(scores[i - 1], -np.inf))
    return scores


def _columns(
    schema: pa.Schema, ids: str, reranker: Reranker | None, text_column: str | None, table: str
) -> list[str]:
    """Return what must be fetched: the ids, and for a reranker that reads, the text."""
    from lancedb.rerankers import RRFReranker

    if reranker is None or isinstance(reranker, RRFReranker):
        return [ids]
    read = getattr(reranker, "column", None)
    if read is None:
        read = text_column_of(schema, text_column, table=table)
    elif read not in schema.names:
        raise InputError(
            f"The reranker reads the column {read!r}, which table {table!r} does not have; its "
            f"columns are {schema.names}."
        )
    return list(dict.fromkeys([ids, str(read)]))


def _check_where(table: Table, where: str | None, id_column: str) -> None:
    if where is None:
        return
    try:
        table.search().where(where).select([id_column]).limit(1).to_arrow()
    except (ValueError, RuntimeError) as error:
        raise FilterError(where, reason=str(error).splitlines()[0]) from error


def require_reranker(reranker: Reranker | None, mode: Mode) -> None:
    """Refuse what is no reranker, or cannot rerank in a mode.

    Raises
    ------
    InputError, QueryError
        It is so.
    """
    from lancedb.rerankers.base import Reranker as Base

    if reranker is None:
        return
    if not isinstance(reranker, Base):
        raise InputError(
            f"reranker is a {type(reranker).__name__}; expected a lancedb.rerankers.Reranker."
        )
    method = {"vector": "rerank_vector", "fts": "rerank_fts", "hybrid": "rerank_hybrid"}[mode]
    if getattr(type(reranker), method) is getattr(Base, method):
        raise QueryError(
            f"{type(reranker).__name__} cannot rerank in mode {mode!r}: it has no {method}."
        )


def _check_distance_type(table: Table, column: str, distance_type: str | None) -> None:
    if distance_type is None:
        return
    if distance_type not in ("l2", "cosine", "dot"):
        raise InputError(f"distance_type is {distance_type!r}; expected 'l2', 'cosine' or 'dot'.")
    for index in table.list_indices():
        if list(index.columns) != [column]:
            continue
        stats = table.index_stats(index.name)
        built = stats.distance_type if stats is not None else None
        if built is not None and built != distance_type:
            raise InputError(
                f"The index {index.name!r} on {column!r} was built for {built!r}, and "
                f"distance_type is {distance_type!r}: LanceDB would leave the index out and scan "
                "every vector. Leave distance_type out, or build the index anew."
            )
