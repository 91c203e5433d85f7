"""Many queries in one call: checked one by one, embedded in one batch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import QueryError
from lancedb_ft.search.budget import done_in_time
from lancedb_ft.search.embed import QueryVectors
from lancedb_ft.search.options import FIRST_PAGE, SearchOptions
from lancedb_ft.search.query import SearchRequest, as_floats
from lancedb_ft.search.snapshot import Snapshot
from lancedb_ft.search.trace import Trace, stage

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker

__all__ = ["embedded", "requests_of"]

_Vectors: TypeAlias = "list[npt.NDArray[np.float32]]"

#: What of the time of the legs the embedding of a batch may take: all of them follow it.
_SHARE = 0.75


def requests_of(
    queries: Sequence[str],
    *,
    k: int,
    mode: str,
    where: str | None,
    select: Sequence[str] | None,
    reranker: Reranker | None,
    column: str | None,
    text_columns: Sequence[str] | Mapping[str, float] | None,
    vectors: npt.ArrayLike | None,
    embedder: Any,
    prefilter: bool,
    candidates: int | None,
    options: SearchOptions | None,
) -> list[SearchRequest]:
    """Check the queries, none of which has been run yet.

    Raises
    ------
    QueryError
        One cannot be run as asked, or there are not as many vectors as queries.
    """
    if isinstance(queries, (str, bytes)) or not isinstance(queries, (Sequence, np.ndarray)):
        raise QueryError(
            f"queries is a {type(queries).__name__}; it must be a list of texts. For one query use "
            "search."
        )
    if isinstance(options, SearchOptions) and options.page not in (None, FIRST_PAGE):
        raise QueryError("A next page is of one query; ask for it with search.")
    matrix = _matrix(vectors, len(queries))
    return [
        SearchRequest.of(
            query,
            k=k,
            mode=mode,
            where=where,
            select=select,
            reranker=reranker,
            column=column,
            text_columns=text_columns,
            vector=None if matrix is None else matrix[row],
            embedder=embedder,
            prefilter=prefilter,
            candidates=candidates,
            options=options,
        )
        for row, query in enumerate(queries)
    ]


def _matrix(vectors: npt.ArrayLike | None, n_queries: int) -> npt.NDArray[np.float32] | None:
    if vectors is None:
        return None
    matrix = as_floats(vectors, what="vectors")
    if matrix.ndim != 2 or len(matrix) != n_queries:
        raise QueryError(
            f"vectors has the shape {matrix.shape}; it must have one row for each of the "
            f"{n_queries} queries."
        )
    return matrix


def embedded(
    requests: Sequence[SearchRequest],
    snapshot: Snapshot,
    vectors: QueryVectors,
    traces: Sequence[Trace | None],
) -> Sequence[SearchRequest]:
    """Return the requests with the vectors that they need, embedded in one batch.

    Each then names the column that goes with its vector, so that a switch of the model in between
    cannot part them. Where embedding takes longer than most of the time that the legs have, they
    are answered without vectors.

    Parameters
    ----------
    requests, snapshot, vectors
        The queries, the version of the table to embed them for, and what does.
    traces
        One for each query; the first that needs a vector is told what was kept and what was made.
    """
    needy = [at for at, r in enumerate(requests) if r.vector is None and r.mode != "fts"]
    if not needy:
        return requests
    first, told = requests[needy[0]], traces[needy[0]]
    target = snapshot.target(first.column)
    texts = [requests[at].text or "" for at in needy]

    def embed() -> _Vectors:
        return vectors.of(texts, target, table=snapshot.table, embedder=first.embedder, trace=told)

    with ExitStack() as timed:
        for at in needy:
            timed.enter_context(stage(traces[at], "embed"))
        found = _in_time(embed, first.legs_deadline_s)
    ready = list(requests)
    for place, at in enumerate(needy):
        ready[at] = (
            replace(requests[at], left_out={"vector": "late"})
            if found is None
            else replace(requests[at], vector=found[place], column=target.column)
        )
    return ready


def _in_time(embed: Callable[[], _Vectors], deadline_s: float) -> _Vectors | None:
    if math.isinf(deadline_s):
        return embed()
    now_s = time.monotonic()
    return done_in_time({"embed": embed}, now_s + _SHARE * (deadline_s - now_s)).get("embed")
