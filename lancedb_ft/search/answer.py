"""Answering one query on one snapshot: the legs, the fusion, the rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import NoEmbedderError
from lancedb_ft.search.embed import check_dims, embed_query, function_of
from lancedb_ft.search.fusion import reciprocal_rank_fusion
from lancedb_ft.search.pools import leg_pool
from lancedb_ft.search.query import SearchRequest
from lancedb_ft.search.rerank import rerank_hybrid, rerank_one
from lancedb_ft.search.snapshot import ROW_ID, DeletedRowsError, Snapshot, Target
from lancedb_ft.table import require_column

__all__ = ["SCORES", "answer"]

#: The columns a result can have besides those of the table; the last that is there ranks it.
SCORES = ("_distance", "_score", "_relevance_score")


def answer(snapshot: Snapshot, request: SearchRequest, *, embedder: Any = None) -> pa.Table:
    """Return the best rows of the snapshot, best first.

    Parameters
    ----------
    snapshot
        The version of the table to search.
    request
        The checked query.
    embedder
        What embeds queries unless the request says; None stands for the column's own function.
    """
    columns = snapshot.columns_to_return(request.select)
    k = snapshot.clamp(request.k)
    depth = snapshot.clamp(request.depth(k))
    run = _hybrid if request.mode == "hybrid" else _one_leg
    legs = _Legs(snapshot, request, depth, embedder)
    try:
        found = run(legs, columns, k)
    except DeletedRowsError:
        snapshot.masks_deleted = True  # from now on: they come back until the index is rebuilt
        found = run(legs, columns, k)
    kept = [*columns, *(name for name in SCORES if name in found.column_names)]
    if request.select is not None and ROW_ID in request.select:
        kept.insert(len(columns), ROW_ID)
    return found.select(kept)


class _Legs:
    """The two legs of one query; each can run in any thread."""

    def __init__(
        self, snapshot: Snapshot, request: SearchRequest, depth: int, embedder: Any
    ) -> None:
        self.snapshot = snapshot
        self.request = request
        self._depth = depth
        self._embedder = request.embedder if request.embedder is not None else embedder

    @property
    def text(self) -> str:
        """The text of the query; `SearchRequest` requires it wherever this is read."""
        return self.request.text or ""

    def by_text(self) -> pa.Table:
        """Run the full-text leg."""
        request = self.request
        return self.snapshot.text_hits(
            self.text,
            self.snapshot.require_text_columns(request.text_columns),
            depth=self._depth,
            where=request.where,
            prefilter=request.prefilter,
        )

    def by_vector(self) -> pa.Table:
        """Embed the query and run the vector leg."""
        target = self.snapshot.target(self.request.column)
        return self.snapshot.vector_hits(
            self._query_vector(target),
            target.column,
            depth=self._depth,
            where=self.request.where,
            prefilter=self.request.prefilter,
        )

    def _query_vector(self, target: Target) -> npt.NDArray[np.float32]:
        if self.request.vector is not None:
            return check_dims(self.request.vector, dims=target.dims, column=target.column)
        embedder = self._embedder
        if embedder is None:
            if target.function is None:
                raise NoEmbedderError(self.snapshot.table, columns=[target.column])
            embedder = function_of(target.function, table=self.snapshot.table)
        return embed_query(embedder, self.text, dims=target.dims, column=target.column)


def _one_leg(legs: _Legs, columns: Sequence[str], k: int) -> pa.Table:
    mode, reranker = legs.request.mode, legs.request.reranker
    hits = legs.by_text() if mode == "fts" else legs.by_vector()
    if reranker is None:
        return _with_columns(legs.snapshot, hits, columns)
    rows = _with_columns(legs.snapshot, hits, _columns_for_reranker(legs, columns))
    return rerank_one(reranker, legs.text, rows, mode=mode, k=k)


def _hybrid(legs: _Legs, columns: Sequence[str], k: int) -> pa.Table:
    legs.snapshot.require_text_columns(legs.request.text_columns)  # before any work is done
    # The text leg runs in the pool while this thread embeds the query and runs the other leg, so
    # the threads of the pool never wait for one another.
    by_text = leg_pool().submit(legs.by_text)
    try:
        vector_hits = legs.by_vector()
    finally:
        # Also when the vector leg failed: nothing may go on reading behind the caller's back.
        by_text.exception()
    text_hits = by_text.result()
    reranker = legs.request.reranker
    if reranker is None:
        return _fused(legs.snapshot, vector_hits, text_hits, columns, k)
    wanted = _columns_for_reranker(legs, columns)
    vector_rows, text_rows = _both_with_columns(legs.snapshot, vector_hits, text_hits, wanted)
    return rerank_hybrid(reranker, legs.text, vector_rows, text_rows, k=k)


def _fused(
    snapshot: Snapshot, vector_hits: pa.Table, text_hits: pa.Table, columns: Sequence[str], k: int
) -> pa.Table:
    rankings = [vector_hits[ROW_ID].to_pylist(), text_hits[ROW_ID].to_pylist()]
    best = reciprocal_rank_fusion(rankings)[:k]
    fused = pa.table(
        {
            ROW_ID: pa.array([row_id for row_id, _ in best], pa.uint64()),
            "_relevance_score": pa.array([score for _, score in best], pa.float32()),
        }
    )
    return _with_columns(snapshot, fused, columns)


def _with_columns(snapshot: Snapshot, hits: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Return the hits with these columns of their rows."""
    # Also where no column is wanted: only reading a row shows that it is not deleted.
    rows = snapshot.take(hits[ROW_ID].combine_chunks(), columns)
    return _joined(rows, hits)


def _both_with_columns(
    snapshot: Snapshot, vector_hits: pa.Table, text_hits: pa.Table, columns: Sequence[str]
) -> tuple[pa.Table, pa.Table]:
    """Return both legs with these columns; a row that both found is read once."""
    found = [*vector_hits[ROW_ID].chunks, *text_hits[ROW_ID].chunks]
    row_ids = pa.chunked_array(found, pa.uint64()).unique()
    rows = snapshot.take(row_ids, columns)
    position = {row_id: i for i, row_id in enumerate(row_ids.to_pylist())}
    both = []
    for hits in (vector_hits, text_hits):
        at = pa.array([position[row_id] for row_id in hits[ROW_ID].to_pylist()], pa.int64())
        both.append(_joined(rows.take(at), hits))
    return both[0], both[1]


def _joined(rows: pa.Table, hits: pa.Table) -> pa.Table:
    if not rows.num_columns:  # such a table cannot be given columns
        return hits
    for name in hits.column_names:
        rows = rows.append_column(name, hits[name])
    return rows


def _columns_for_reranker(legs: _Legs, columns: Sequence[str]) -> tuple[str, ...]:
    """Return the columns to fetch for a reranker: the wanted ones and the texts it may read."""
    snapshot, request = legs.snapshot, legs.request
    texts = list(request.text_columns or snapshot.text_columns)
    own = getattr(request.reranker, "column", None)  # what LanceDB's rerankers call it
    if isinstance(own, str):
        require_column(snapshot.schema, own, table=snapshot.table)
        texts.append(own)
    if request.mode != "fts":
        source = snapshot.target(request.column).source_column
        texts += [source] if source else []
    known = [name for name in texts if name in snapshot.schema.names]
    return tuple(dict.fromkeys([*columns, *known]))
