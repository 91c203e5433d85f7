"""`Searcher`: a table kept open for searching, followed through its versions."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import QueryError, SearchError, StoreError
from lancedb_ft.search.answer import SCORES, answer
from lancedb_ft.search.batch import embedded, requests_of
from lancedb_ft.search.embed import QueryVectors
from lancedb_ft.search.explanation import Explanation
from lancedb_ft.search.filters import files_are_gone
from lancedb_ft.search.followed import FollowedTable
from lancedb_ft.search.maintain import Maintenance, MaintenanceThread
from lancedb_ft.search.options import FIRST_PAGE, SearchOptions
from lancedb_ft.search.pages import PageToken, Rankings
from lancedb_ft.search.place import place_of
from lancedb_ft.search.pools import in_context, query_pool
from lancedb_ft.search.query import SearchRequest
from lancedb_ft.search.snapshot import Snapshot
from lancedb_ft.search.trace import Trace, new_trace
from lancedb_ft.table import id_column_of
from lancedb_ft.types import Retriever, Run

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker
    from lancedb.table import AsyncTable, Table

__all__ = ["Searcher"]

#: What a query can fail with because the table moved on under it.
_PASSING = (ValueError, OSError, RuntimeError, StoreError, SearchError)


class Searcher:
    """Search one table again and again, from any number of threads and tasks.

    It follows the table: rows written, indexes built and model generations switched by anyone, in
    any process, are seen by the next query. Each query runs on one version of the table: column,
    model, both legs and the rows that are returned belong together.

    It opens the table by its place, so it sees the newest version also where the handle it was
    made from lags behind or is checked out at an old one, and it keeps its own cache of index
    pages beside LanceDB's. Keep one per table.

    Parameters
    ----------
    table
        A table of a local or object-store database, sync or async.
    refresh_interval_s
        Look for a new version at most that often. 0 looks at every query, which takes 0.01 ms on a
        local disk and one listing on an object store.
    version
        Stay at this version and never look for another.
    embedder
        What embeds queries, for tables whose columns name no function: a LanceDB embedding
        function, an `Encoder`, a SentenceTransformer, or a function from a text to a vector. By
        default the function of the very column that is searched.
    nprobes
        How many partitions of an IVF index are searched at least; LanceDB's own default.
    refine_factor
        Fetch that many times more rows from a quantised index and rank them by exact distance.
    n_kept_vectors
        The vectors of so many queries are kept, by their text and the model that made them, so
        that a query asked again is not embedded again; 0 for none.
    maintenance
        Keep the table's indexes current from a thread of its own until this is closed; None: do
        not. One process a table is enough.

    Raises
    ------
    QueryError
        The table is remote or in memory only, or an argument cannot be used.
    SearchError
        The table cannot be read.

    Examples
    --------
    >>> with Searcher(docs) as searcher:                                     # doctest: +SKIP
    ...     searcher.search("how do I cancel?", k=5).to_pylist()
    """

    def __init__(
        self,
        table: Table | AsyncTable,
        *,
        refresh_interval_s: float = 0.0,
        version: int | None = None,
        embedder: Any = None,
        nprobes: int = 20,
        refine_factor: int | None = None,
        n_kept_vectors: int = 1024,
        maintenance: Maintenance | None = None,
    ) -> None:
        place = place_of(table)
        if maintenance is not None and not isinstance(maintenance, Maintenance):
            raise QueryError(f"maintenance is {maintenance!r:.80}; it must be a Maintenance(...).")
        self._vectors = QueryVectors(embedder, capacity=n_kept_vectors)
        self._table = FollowedTable(
            place,
            refresh_interval_s=refresh_interval_s,
            version=version,
            nprobes=nprobes,
            refine_factor=refine_factor,
        )
        self._rankings = Rankings()
        self.maintenance = None if maintenance is None else MaintenanceThread(place, maintenance)

    @property
    def version(self) -> int | None:
        """The version of the table that the last query saw; None when closed."""
        return self._table.version

    # --- searching -------------------------------------------------------------------------

    def search(
        self,
        query: str | None,
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | Mapping[str, float] | None = None,
        vector: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> pa.Table:
        """Search; arguments, result and errors are those of `lancedb_ft.search`."""
        return self._answer(
            SearchRequest.of(
                query,
                k=k,
                mode=mode,
                where=where,
                select=select,
                reranker=reranker,
                column=column,
                text_columns=text_columns,
                vector=vector,
                embedder=embedder,
                prefilter=prefilter,
                candidates=candidates,
                options=options,
            ),
            new_trace(),
        )

    async def search_async(
        self,
        query: str | None,
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | Mapping[str, float] | None = None,
        vector: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> pa.Table:
        """Search without blocking the event loop, embedding and reranking included."""
        request = SearchRequest.of(
            query,
            k=k,
            mode=mode,
            where=where,
            select=select,
            reranker=reranker,
            column=column,
            text_columns=text_columns,
            vector=vector,
            embedder=embedder,
            prefilter=prefilter,
            candidates=candidates,
            options=options,
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(
            query_pool(), in_context(self._answer, request, new_trace())
        )

    def search_many(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | Mapping[str, float] | None = None,
        vectors: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> list[pa.Table]:
        """Answer many queries; arguments, results and errors as `lancedb_ft.search_many`."""
        requests = requests_of(
            queries,
            k=k,
            mode=mode,
            where=where,
            select=select,
            reranker=reranker,
            column=column,
            text_columns=text_columns,
            vectors=vectors,
            embedder=embedder,
            prefilter=prefilter,
            candidates=candidates,
            options=options,
        )
        pool = query_pool()
        waiting = [pool.submit(in_context(self._answer, *one)) for one in self._ready(requests)]
        try:
            return [future.result() for future in waiting]
        finally:
            for future in waiting:  # where one failed
                future.cancel()

    async def search_many_async(
        self,
        queries: Sequence[str],
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | Mapping[str, float] | None = None,
        vectors: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> list[pa.Table]:
        """Answer many queries without blocking the event loop."""
        requests = requests_of(
            queries,
            k=k,
            mode=mode,
            where=where,
            select=select,
            reranker=reranker,
            column=column,
            text_columns=text_columns,
            vectors=vectors,
            embedder=embedder,
            prefilter=prefilter,
            candidates=candidates,
            options=options,
        )
        loop, pool = asyncio.get_running_loop(), query_pool()
        ready = await loop.run_in_executor(pool, in_context(self._ready, requests))
        return await asyncio.gather(
            *(loop.run_in_executor(pool, in_context(self._answer, *one)) for one in ready)
        )

    def explain(
        self,
        query: str | None,
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | Mapping[str, float] | None = None,
        vector: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> Explanation:
        """Run a query and say what it did; arguments and errors as `lancedb_ft.explain`."""
        request = SearchRequest.of(
            query,
            k=k,
            mode=mode,
            where=where,
            select=select,
            reranker=reranker,
            column=column,
            text_columns=text_columns,
            vector=vector,
            embedder=embedder,
            prefilter=prefilter,
            candidates=candidates,
            options=options,
        )
        trace = Trace()
        return Explanation(self._answer(request, trace), trace)

    def _ready(self, requests: Sequence[SearchRequest]) -> list[tuple[SearchRequest, Trace | None]]:
        """Embed the queries that need it in one batch, with the model of the newest version."""
        traces = [new_trace() for _ in requests]
        ready = embedded(requests, self._table.current(), self._vectors, traces)
        return list(zip(ready, traces, strict=True))

    def retriever(
        self,
        *,
        mode: str = "hybrid",
        id_column: str | None = None,
        where: str | None = None,
        column: str | None = None,
        reranker: Reranker | None = None,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> Retriever:
        """Return this search as a `Retriever`, for evaluation on the path that serves.

        Parameters
        ----------
        mode, where, column, reranker, candidates, options
            As for `search`.
        id_column
            The column with the ids that the qrels use; by default ``id``, ``_id`` or ``doc_id``.

        Raises
        ------
        ColumnNotFoundError
            There is no such column.
        """
        key = id_column_of(self._table.current().schema, id_column, table=self._table.place.name)

        def retrieve(queries: Mapping[str, str], k: int) -> Run:
            found = self.search_many(
                list(queries.values()),
                k=k,
                mode=mode,
                where=where,
                select=[key],
                reranker=reranker,
                column=column,
                candidates=candidates,
                options=options,
            )
            return {
                query_id: _scores_by_id(rows, key)
                for query_id, rows in zip(queries, found, strict=True)
            }

        return retrieve

    # --- life ------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the table and its caches; searching afterwards raises `SearchError`."""
        self._table.close()
        if self.maintenance is not None:
            self.maintenance.close()

    def __enter__(self) -> Searcher:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Name the table and the version in use."""
        state = "closed" if self.version is None else f"version={self.version}"
        return f"Searcher({self._table.place.name!r}, {state})"

    # --- one query -------------------------------------------------------------------------

    def _answer(self, request: SearchRequest, trace: Trace | None) -> pa.Table:
        if trace is None:
            return self._answered(request, None)
        try:
            found = self._answered(request, trace)
        except BaseException as error:
            trace.finish(error)
            raise
        trace.finish()
        return found

    def _answered(self, request: SearchRequest, trace: Trace | None) -> pa.Table:
        page = request.options.page
        if page is not None and page != FIRST_PAGE:
            return self._next_page(request, trace)
        snapshot = self._table.current()
        try:
            return self._answer_on(snapshot, request, trace)
        except _PASSING as error:
            fresh = self._table.moved_on(snapshot, error)
            if fresh is None:
                raise
            return self._answer_on(fresh, request, trace)

    def _next_page(self, request: SearchRequest, trace: Trace | None) -> pa.Table:
        version = PageToken.of(request, table=self._table.place.name, version=0).version
        snapshot = self._table.at(version)
        try:
            return self._answer_on(snapshot, request, trace)
        except _PASSING as error:
            if files_are_gone(error):
                raise self._table.expired(version) from error
            raise

    def _answer_on(
        self, snapshot: Snapshot, request: SearchRequest, trace: Trace | None
    ) -> pa.Table:
        return answer(
            snapshot, request, vectors=self._vectors, rankings=self._rankings, trace=trace
        )


def _scores_by_id(found: pa.Table, key: str) -> dict[str, float]:
    """Return ``{id: score}``, higher is better; of an id found twice the better one."""
    score = next(name for name in reversed(SCORES) if name in found.column_names)
    sign = -1.0 if score == "_distance" else 1.0
    scores: dict[str, float] = {}
    for doc_id, value in zip(found[key].to_pylist(), found[score].to_pylist(), strict=True):
        doc_id, value = str(doc_id), sign * value
        scores[doc_id] = max(value, scores.get(doc_id, value))
    return scores
