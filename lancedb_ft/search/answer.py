"""Answering one query on one snapshot: the legs, the fusion, the rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow as pa

from lancedb_ft.reranking import degraded_reason
from lancedb_ft.reranking.running import rerank_hybrid, rerank_one
from lancedb_ft.search.embed import QueryVectors
from lancedb_ft.search.facets import count_values, matching_rows, require_facets
from lancedb_ft.search.fusion import fused_hits, reciprocal_rank_fusion
from lancedb_ft.search.highlights import HIGHLIGHTS, highlights
from lancedb_ft.search.info import SearchInfo, told
from lancedb_ft.search.legs import Legs, describe_target
from lancedb_ft.search.options import Highlight
from lancedb_ft.search.pages import KeptRanking, PageToken, Rankings
from lancedb_ft.search.query import SearchRequest, text_terms
from lancedb_ft.search.served_ranking import chosen
from lancedb_ft.search.snapshot import ROW_ID, DeletedRowsError, Snapshot
from lancedb_ft.search.text_query import text_queries
from lancedb_ft.search.tiered import LEGS, TIER, label, tiered
from lancedb_ft.search.tiers import Tiers
from lancedb_ft.search.trace import Trace, stage
from lancedb_ft.table import require_column

__all__ = ["SCORES", "answer"]

#: The columns a result can have besides those of the table; the last that is there ranks it.
SCORES = ("_distance", "_score", "_relevance_score")


def answer(
    snapshot: Snapshot,
    request: SearchRequest,
    *,
    vectors: QueryVectors,
    rankings: Rankings | None = None,
    trace: Trace | None = None,
) -> pa.Table:
    """Return the best rows of the snapshot, best first.

    Parameters
    ----------
    snapshot
        The version of the table to search; for a page, the one its token names.
    request
        The checked query.
    vectors
        What embeds the query.
    rankings
        Where rankings that are shown in pages are kept.
    trace
        What is told of the query, if anybody listens.
    """
    request = chosen(request, snapshot, trace)
    columns = snapshot.columns_to_return(request.select)
    if request.options.facets is not None:
        require_facets(snapshot, request.options.facets)
    if trace is not None:
        _describe(trace, snapshot, request)
    try:
        found = _answer(snapshot, request, columns, vectors, rankings, trace)
    except DeletedRowsError:
        snapshot.masks_deleted = True  # from now on: they come back until the index is rebuilt
        found = _answer(snapshot, request, columns, vectors, rankings, trace)
    extra = (*SCORES, TIER, LEGS, HIGHLIGHTS)
    kept = [*columns, *(name for name in extra if name in found.column_names)]
    if request.select is not None and ROW_ID in request.select:
        kept.insert(len(columns), ROW_ID)
    return found.select(kept)


def _answer(
    snapshot: Snapshot,
    request: SearchRequest,
    columns: Sequence[str],
    vectors: QueryVectors,
    rankings: Rankings | None,
    trace: Trace | None,
) -> pa.Table:
    if request.options.page is not None:
        return _page(snapshot, request, columns, vectors, rankings, trace)
    k = snapshot.clamp(request.k)
    depth = snapshot.clamp(request.depth(k))
    legs = Legs(snapshot, request, depth, vectors, trace)
    ranked = _ranking(legs, columns, k)
    return _finished(legs, ranked, columns)


def _page(
    snapshot: Snapshot,
    request: SearchRequest,
    columns: Sequence[str],
    vectors: QueryVectors,
    rankings: Rankings | None,
    trace: Trace | None,
) -> pa.Table:
    token = PageToken.of(request, table=snapshot.table, version=snapshot.version)
    is_first = token.offset == 0
    k, depth = snapshot.clamp(request.k), snapshot.clamp(token.depth)
    as_before = dict.fromkeys(token.left_out, "left out, as on the first page")
    request = replace(request, left_out={**request.left_out, **as_before})
    legs = Legs(snapshot, request, depth, vectors, trace, began_s=token.began_s)
    # Rows that a reranker read have their columns already, so these are a part of the key.
    read = columns if request.reranker is not None else ()
    key = (token.version, depth, token.query, token.ranking, read)
    kept = None if rankings is None or is_first else rankings.get(key)
    if kept is None:
        kept = KeptRanking(_ranking(legs, columns, 2 * depth), tuple(legs.degraded))
        if rankings is not None:
            rankings.put(key, kept)
    else:
        legs.degraded += kept.degraded
        if trace is not None:
            trace.notes["ranking"] = "kept from the page before"
    rows = kept.rows.slice(token.offset, k)
    is_last = token.offset + k >= kept.rows.num_rows
    next_page = None if is_last else str(token.without(kept.degraded).next(k))
    return _finished(legs, rows, columns, next_page=next_page, is_first=is_first)


def _ranking(legs: Legs, columns: Sequence[str], k: int) -> pa.Table:
    """Return the best rows: ``_rowid`` and scores, and their columns if a reranker read them."""
    ranked = _hybrid(legs, columns, k) if legs.request.mode == "hybrid" else _one(legs, columns, k)
    least = legs.request.options.min_score
    # Where the reranker did not do its part, the scores are not those that the bound is for.
    if least is None or any(reason.startswith("rerank") for reason in legs.degraded):
        return ranked
    score = next(name for name in reversed(SCORES) if name in ranked.column_names)
    return ranked.filter(pa.array(ranked[score].to_numpy().astype(np.float64) >= least))


def _one(legs: Legs, columns: Sequence[str], k: int) -> pa.Table:
    mode, reranker, tiers = legs.request.mode, legs.request.reranker, legs.request.options.tiers
    hits = legs.one(mode)
    if tiers is not None and reranker is not None:
        none = hits.slice(0, 0)  # of the other leg
        return _tiered(legs, tiers, *((hits, none) if mode == "vector" else (none, hits)), k)
    if tiers is not None:
        hits = label(legs.snapshot, tiers, hits, mode, now_s=legs.began_s)
    if reranker is None:
        return hits
    wanted = _columns_for_reranker(legs, columns)
    with stage(legs.trace, "take"):
        rows = _with_columns(legs.snapshot, hits, wanted)
    reranked = legs.in_time("rerank", lambda: rerank_one(reranker, legs.text, rows, mode=mode, k=k))
    if reranked is not None:
        return _checked(legs, reranked)
    ranks = reciprocal_rank_fusion([range(min(k, rows.num_rows))])  # a score there must be
    scores = pa.array([score for _, score in ranks], pa.float32())
    return rows.slice(0, k).append_column("_relevance_score", scores)


def _hybrid(legs: Legs, columns: Sequence[str], k: int) -> pa.Table:
    vector_hits, text_hits = legs.both()
    reranker = legs.request.reranker
    if legs.request.options.tiers is not None:
        return _tiered(legs, legs.request.options.tiers, vector_hits, text_hits, k)
    if reranker is None:
        return _fused(legs, vector_hits, text_hits, k)
    wanted = _columns_for_reranker(legs, columns)
    with stage(legs.trace, "take"):
        both = _both_with_columns(legs.snapshot, vector_hits, text_hits, wanted)
    reranked = legs.in_time("rerank", lambda: rerank_hybrid(reranker, legs.text, *both, k=k))
    if reranked is None:
        return _fused(legs, vector_hits, text_hits, k)
    return _checked(legs, reranked)


def _tiered(
    legs: Legs, tiers: Tiers, vector_hits: pa.Table, text_hits: pa.Table, k: int
) -> pa.Table:
    ranked = tiered(
        legs.snapshot,
        tiers,
        legs.request.text or "",
        vector_hits,
        text_hits,
        k=k,
        reranker=legs.request.reranker,
        read_columns=() if legs.request.reranker is None else _columns_for_reranker(legs, ()),
        in_time=partial(legs.in_time, "rerank"),
        trace=legs.trace,
        now_s=legs.began_s,
    )
    if legs.trace is not None and legs.request.mode == "hybrid":
        legs.trace.fusion = "rrf"
    return _checked(legs, ranked)


def _checked(legs: Legs, reranked: pa.Table) -> pa.Table:
    """Return what a reranker made, without the mark that it was not all it should be."""
    reason = degraded_reason(reranked)
    if reason:
        legs.degrade(f"rerank: {reason}")
    return reranked.replace_schema_metadata(None)


def _fused(legs: Legs, vector_hits: pa.Table, text_hits: pa.Table, k: int) -> pa.Table:
    with stage(legs.trace, "fuse"):
        fusion = legs.request.options.fusion
        best = fused_hits(fusion, vector_hits, text_hits)[:k]
    if legs.trace is not None:
        legs.trace.fusion = str(fusion or "rrf")
    return pa.table(
        {
            ROW_ID: pa.array([row_id for row_id, _ in best], pa.uint64()),
            "_relevance_score": pa.array([score for _, score in best], pa.float32()),
        }
    )


# --- the rows --------------------------------------------------------------------------------


def _finished(
    legs: Legs,
    ranked: pa.Table,
    columns: Sequence[str],
    *,
    next_page: str | None = None,
    is_first: bool = True,
) -> pa.Table:
    """Return the rows with their columns, and with all else that was asked for."""
    options, snapshot, trace = legs.request.options, legs.snapshot, legs.trace
    if any(name not in ranked.column_names for name in columns) or legs.request.reranker is None:
        with stage(trace, "take"):
            ranked = _with_columns(snapshot, ranked, columns)
    facets = None
    if options.facets is not None and is_first:  # they are the same for all pages
        facets = legs.in_time("facets", lambda: _matching(legs))
    if options.highlight is not None:
        with stage(trace, "highlight"):
            ranked = _with_highlights(legs, ranked)
    if trace is not None:
        _describe_found(trace, legs, ranked)
    if facets is None and next_page is None and options.page is None and not legs.degraded:
        return ranked
    info = SearchInfo(
        version=snapshot.version,
        degraded=tuple(legs.degraded),
        next_page=next_page,
        facets={} if facets is None else count_values(facets, options.n_facet_values),
        n_matching=None if facets is None else facets.num_rows,
    )
    return told(ranked, info)


def _matching(legs: Legs) -> pa.Table:
    request, snapshot = legs.request, legs.snapshot
    words = []
    if request.mode != "vector":
        made = text_queries(
            text_terms(legs.text),
            legs.text_columns,
            indexes=snapshot.text_indexes,
            match=request.options.match,
        )
        words = [query for query, _ in made]
    brought = None if legs.vector_hits is None else legs.vector_hits[ROW_ID]
    return matching_rows(
        snapshot, request.options.facets or (), words=words, where=request.where, others=brought
    )


def _with_highlights(legs: Legs, ranked: pa.Table) -> pa.Table:
    snapshot = legs.snapshot
    wanted = legs.request.options.highlight or Highlight()
    columns = wanted.columns
    if columns is None:
        columns = legs.request.text_columns or snapshot.text_columns
    for name in columns:
        require_column(snapshot.schema, name, table=snapshot.table, text=True)
    rows = snapshot.take(ranked[ROW_ID].combine_chunks(), columns)
    marked = highlights(
        legs.text,
        rows,
        wanted=wanted,
        indexes=snapshot.text_indexes,
        match=legs.request.options.match,
    )
    return ranked.append_column(HIGHLIGHTS, marked)


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


def _columns_for_reranker(legs: Legs, columns: Sequence[str]) -> tuple[str, ...]:
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


# --- the trace -------------------------------------------------------------------------------


def _describe(trace: Trace, snapshot: Snapshot, request: SearchRequest) -> None:
    trace.table, trace.version = snapshot.table, snapshot.version
    trace.mode, trace.k = request.mode, request.k
    if request.reranker is not None:
        trace.reranker = str(request.reranker).split(" object at ")[0].lstrip("<")
    if request.mode != "fts":
        describe_target(trace, snapshot.target(request.column))


def _describe_found(trace: Trace, legs: Legs, found: pa.Table) -> None:
    trace.degraded = list(legs.degraded)
    if ROW_ID in found.column_names:
        trace.row_ids = tuple(found[ROW_ID].to_pylist())
    score = next(name for name in reversed(SCORES) if name in found.column_names)
    trace.scores = tuple(found[score].to_pylist())
    if TIER in found.column_names and trace.row_ids:
        tiers = found[TIER].to_pylist()
        trace.of_rows["tier"] = dict(zip(trace.row_ids, tiers, strict=True))
