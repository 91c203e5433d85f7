"""Running any of LanceDB's rerankers on our legs, the way LanceDB's own hybrid query does.

One that is not ours may raise, or answer with anything: `ForeignReranker` keeps the query alive.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.errors import QueryError
from lancedb_ft.reranking.base import TextReranker
from lancedb_ft.reranking.foreign import ForeignReranker

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker

__all__ = ["rerank_hybrid", "rerank_one"]


def rerank_hybrid(
    reranker: Reranker, text: str, vector_rows: pa.Table, text_rows: pa.Table, *, k: int
) -> pa.Table:
    """Merge two legs with a reranker.

    Parameters
    ----------
    reranker
        Its ``rerank_hybrid`` gets the legs with scores scaled to 0..1 in each, and ``_rowid``.
    text
        The query.
    vector_rows, text_rows
        The candidates with ``_rowid`` and ``_distance`` or ``_score``, best first.
    k
        How many rows to keep.

    Returns
    -------
    pa.Table
        In the reranker's order, or fused and marked where it failed, with ``_relevance_score``;
        with ``return_score="all"`` also ``_distance`` and ``_score`` as they were.
    """
    from lancedb.query import LanceHybridQueryBuilder

    # LanceDB's own step between its legs and its result: scaling, the call, checking what came
    # back, putting the unscaled scores in place again. Repeating it here would drift from it.
    return LanceHybridQueryBuilder._combine_hybrid_results(
        fts_results=text_rows,
        vector_results=vector_rows,
        norm="score",
        fts_query=text,
        reranker=_surviving(reranker),
        limit=k,
        with_row_ids=True,
    )


def rerank_one(reranker: Reranker, text: str, rows: pa.Table, *, mode: str, k: int) -> pa.Table:
    """Rerank one leg, ``vector`` or ``fts``.

    Raises
    ------
    QueryError
        The reranker only merges two legs.
    """
    from lancedb.rerankers.util import check_reranker_result

    running = _surviving(reranker)
    methods: dict[str, Callable[[str, pa.Table], Any]] = {
        "vector": running.rerank_vector,
        "fts": running.rerank_fts,
    }
    try:
        reranked = methods[mode](text, rows)
    except NotImplementedError as error:
        raise QueryError(
            f'{reranker} merges two legs and cannot rerank mode="{mode}" alone. Leave reranker= '
            'out, or search with mode="hybrid".'
        ) from error
    check_reranker_result(reranked)
    return reranked.slice(0, k)


def _surviving(reranker: Reranker) -> Reranker:
    """Return the reranker so that the query survives it; our own see to that themselves."""
    return reranker if isinstance(reranker, TextReranker) else ForeignReranker(reranker)
