"""`search`, `search_many` and `explain` on a table, with the Searchers of the last ones kept."""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.search.explanation import Explanation
from lancedb_ft.search.options import SearchOptions
from lancedb_ft.search.place import place_of
from lancedb_ft.search.searcher import Searcher

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker
    from lancedb.table import AsyncTable, Table

__all__ = ["explain", "search", "search_many"]

# `search` keeps the Searchers of the tables it served last: the first query of a new one reads the
# indexes from disk. By place, so that a handle opened anew for each request finds it; by handle,
# because asking a handle for its place takes 0.1 ms, and a whole query 3 ms.
_MAX_KEPT = 8
_kept: OrderedDict[tuple[Any, ...], Searcher] = OrderedDict()
_by_handle: weakref.WeakKeyDictionary[Any, Searcher] = weakref.WeakKeyDictionary()
_kept_lock = threading.Lock()


def search(
    table: Table | AsyncTable,
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
    """Search a table, on its newest version.

    Applications that serve queries keep a `Searcher` instead, which is the same and can be async.

    Parameters
    ----------
    table
        A table of a local or object-store database.
    query
        Text. The full-text leg reads its first 128 words, as plain words: nothing in them is
        query syntax. The vector leg embeds it with the model of the column that is searched. May
        be None where ``mode="vector"`` and ``vector`` is given.
    k
        How many rows to return. A table with fewer returns all of them; 100,000 is the most.
    mode
        ``hybrid``, ``vector`` or ``fts`` (full-text search, BM25).
    where
        SQL over the table's columns: one expression.
    select
        The columns to return, by default all but vectors. ``_rowid`` may be among them.
    reranker
        Any `lancedb.rerankers.Reranker`; by default hybrid results are merged by
        `reciprocal_rank_fusion`.
    column
        The vector column to search, by default that of the active generation.
    text_columns
        The columns of the full-text leg, by default all that have a full-text index. As a mapping,
        with what the scores of each are multiplied by: ``{"title": 3, "text": 1}``. A row's score
        is that of its best column.
    vector
        A query vector of your own, shape ``(dims,)``; it must come from the model of the column.
    embedder
        What embeds this query instead of the column's own function; see `Searcher`.
    prefilter
        Filter before ranking, so that ``k`` rows come back if there are as many; False filters the
        ranked rows.
    candidates
        How many rows each leg brings to the fusion or the reranker; by default ``k``, as in
        LanceDB. Give a reranker that reads the texts more, such as 50.
    options
        Phrases and fuzzy words, bounds, facets, highlights, pages, a time budget: `SearchOptions`.

    Returns
    -------
    pa.Table
        Best first: the columns, then ``_relevance_score`` (hybrid, or reranked), ``_distance``
        (vector) or ``_score`` (fts), then ``_highlights`` if asked for. What else there is to say,
        facets, the next page, what was late, `SearchInfo.of` reads from its schema metadata.

    Raises
    ------
    QueryError
        The query, ``k``, the vector or another argument cannot be used as given.
    FilterError
        ``where`` is not one valid SQL expression over the table's columns.
    ColumnNotFoundError
        A column in ``select``, ``column`` or ``text_columns`` does not exist.
    NoTextIndexError
        ``fts`` or ``hybrid`` without a full-text index.
    NoPositionsError
        A phrase, and a full-text index without positions.
    NoEmbedderError
        A text query, and no function is known for the column.
    PageExpiredError
        The version that the pages are of was cleaned up.
    SearchTimeoutError
        Nothing was found before the time was over.
    SearchError
        The table cannot be read.

    Examples
    --------
    >>> search(docs, "how do I cancel?", k=5).to_pandas()                    # doctest: +SKIP
    """
    return _searcher_of(table).search(
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


def search_many(
    table: Table | AsyncTable,
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
    """Answer many queries at once: all texts are embedded in one batch, then run side by side.

    Parameters
    ----------
    table
        As for `search`.
    queries
        The texts; one asked twice is embedded once.
    vectors
        Query vectors of your own, shape ``(queries, dims)``, instead of embedding the texts.
    k, mode, where, select, reranker, column, text_columns, embedder, prefilter, candidates, options
        As for `search`, the same for all. The time of a budget begins with the call.

    Returns
    -------
    list of pa.Table
        One result for each query, in their order.

    Raises
    ------
    LancedbFtError
        As `search`: the first error ends the call.

    Examples
    --------
    >>> search_many(docs, ["how do I cancel?", "reset it"], k=5)             # doctest: +SKIP
    """
    return _searcher_of(table).search_many(
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


def explain(
    table: Table | AsyncTable,
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
    """Run a query as `search` does, and say how its answer came about.

    Parameters
    ----------
    table, query, k, mode, where, select, reranker, column, text_columns, vector, embedder
        As for `search`.
    prefilter, candidates, options
        As for `search`.

    Returns
    -------
    Explanation
        For each row its rank and score in each leg, in the fusion and by the reranker; the model,
        the indexes, the rows that are in none, and the milliseconds of each stage. It prints as
        text.

    Raises
    ------
    LancedbFtError
        As `search`.

    Examples
    --------
    >>> print(explain(docs, "how do I cancel?", k=5))                        # doctest: +SKIP
    """
    return _searcher_of(table).explain(
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


def _searcher_of(table: Table | AsyncTable) -> Searcher:
    with _kept_lock:
        # What is no table and has no weak reference is refused by `place_of`, which says so.
        known = _by_handle.get(table) if hasattr(table, "__weakref__") else None
        if known is not None:
            return known
        place = place_of(table)
        key = (place.uri, tuple(sorted((place.storage_options or {}).items())))
        if key not in _kept:
            _kept[key] = Searcher(table)
        _kept.move_to_end(key)
        while len(_kept) > _MAX_KEPT:
            _kept.popitem(last=False)
        _by_handle[table] = _kept[key]
        return _kept[key]
