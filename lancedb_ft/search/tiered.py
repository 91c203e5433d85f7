"""One result list out of two tiers: the core by its vectors and words, the hot rows as they can.

Both legs run once over the whole table. All rows get the score of reciprocal rank fusion, except
that one without a vector of its present text gets the vector share that rows at its place by full
text have elsewhere (see `calibration`): a hot row, or one that is quiet and not settled yet. A
reranker then reads the hot rows and a few core rows, the first and those around the last place of
the answer. Core rows stay where they are; a hot row goes to where the core rows that were read
beside it stand: their scores by fusion, as a rising function of their scores by the reranker, say
what the hot row's is worth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.reranking import degraded_reason
from lancedb_ft.reranking.running import rerank_one
from lancedb_ft.search.calibration import falling
from lancedb_ft.search.filters import filter_told
from lancedb_ft.search.fusion import RRF_K
from lancedb_ft.search.snapshot import ROW_ID, Snapshot
from lancedb_ft.search.tiers import Filled, Tiers, filled_column
from lancedb_ft.search.trace import stage

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker

    from lancedb_ft.search.trace import Trace

__all__ = ["LEGS", "TIER", "Labels", "Ranking", "label", "labels_of", "rank", "reranked", "tiered"]

TIER, LEGS = "_tier", "_legs"
_RELEVANCE = "_relevance_score"

#: Runs a part of the query that may take long, and gives None where there was no time for it.
InTime: TypeAlias = Callable[[Callable[[], pa.Table]], "pa.Table | None"]

#: What no score of two fused legs passes: first in both.
_TOP = 2.0 / (RRF_K + 1)


@dataclass(frozen=True)
class Labels:
    """Which of some rows are hot, and which have a text and no vector of it."""

    hot: frozenset[int]
    pending: frozenset[int]


@dataclass
class Ranking:
    """Rows of both tiers with their scores, and what is known of each."""

    scores: dict[int, float]
    labels: Labels
    legs: Mapping[str, frozenset[int]]

    def order(self) -> list[int]:
        """Return the ids from best to worst; of equal scores the lower id first."""
        return sorted(self.scores, key=lambda row_id: (-self.scores[row_id], row_id))


def labels_of(
    snapshot: Snapshot, tiers: Tiers, row_ids: Sequence[int], *, now_s: float | None = None
) -> Labels:
    """Say which of these rows are hot, and which wait for a vector."""
    if not row_ids:
        return Labels(frozenset(), frozenset())
    filled = _filled_column(snapshot)
    hot = None if tiers.updated_at is not None else _by_filter(snapshot, tiers, row_ids, now_s)
    tiers.late(snapshot.ds, table=snapshot.table, now_s=now_s)  # the column of times can be used
    # Two narrow columns of a few rows: 0.5 ms where a filter that names the rows takes 1.3.
    names = [name for name in (tiers.updated_at, filled and filled.name) if name]
    rows = snapshot.take(pa.array(row_ids, pa.uint64()), list(dict.fromkeys(names)))
    if hot is None:
        changed = rows[str(tiers.updated_at)]
        hot = _of(row_ids, tiers.hot_mask(changed, now_s=now_s).tolist())
    if filled is None:
        return Labels(hot, hot)
    pending = _of(row_ids, rows[filled.name].is_null().to_pylist())
    if tiers.row_versions and filled.by_model:
        hot &= pending
    return Labels(hot, _with_text(snapshot, filled, pending))


def _of(row_ids: Sequence[int], mask: Sequence[bool]) -> frozenset[int]:
    return frozenset(row_id for row_id, holds in zip(row_ids, mask, strict=True) if holds)


def _by_filter(
    snapshot: Snapshot, tiers: Tiers, row_ids: Sequence[int], now_s: float | None
) -> frozenset[int]:
    # Lance looks rows up by id where a filter names them, and knows no versions there.
    some = f"_rowid IN ({','.join(map(str, row_ids))})"
    named = "_rowid IS NOT NULL" if tiers.row_versions else some
    predicate = tiers.late(snapshot.ds, table=snapshot.table, now_s=now_s)
    with filter_told(snapshot.ds, tiers.predicate):
        found = snapshot.ds.scanner(
            columns=[], filter=f"{named} AND ({predicate})", with_row_id=True
        ).to_table()
    return frozenset(found[ROW_ID].to_pylist()).intersection(row_ids)


def _with_text(snapshot: Snapshot, filled: Filled, pending: frozenset[int]) -> frozenset[int]:
    """Leave out rows that have nothing to embed, and were found by another column."""
    if not pending or filled.source is None or set(snapshot.text_columns) <= {filled.source}:
        return pending
    row_ids = sorted(pending)
    texts = snapshot.take(pa.array(row_ids, pa.uint64()), [filled.source])[filled.source]
    return _of(row_ids, [bool(text and text.strip()) for text in texts.to_pylist()])


def _filled_column(snapshot: Snapshot) -> Filled | None:
    """Return the column that is null where a row has no vector of its present text."""
    if snapshot not in _filled:
        _filled[snapshot] = filled_column(snapshot.schema, table=snapshot.table)
    return _filled[snapshot]


# Of each snapshot, since reading it takes a parse of the table's state.
_filled: WeakKeyDictionary[Snapshot, Filled | None] = WeakKeyDictionary()


def rank(
    vector_ids: Sequence[int],
    text_ids: Sequence[int],
    labels: Labels,
    tiers: Tiers,
    *,
    depth: int,
) -> Ranking:
    """Fuse two legs by rank, with the expected share where a vector is missing.

    Parameters
    ----------
    vector_ids, text_ids
        What each leg found, best first.
    labels
        Of all of these rows.
    tiers
        The policy, with its calibration.
    depth
        How many rows the vector leg brought.
    """
    by_vector = {row_id: 1.0 / place for place, row_id in enumerate(vector_ids, RRF_K + 1)}
    by_text = {row_id: place for place, row_id in enumerate(text_ids, 1)}
    scores = dict(by_vector)
    for row_id, place in by_text.items():
        share = by_vector.get(row_id, 0.0)
        if row_id in labels.pending and by_vector:  # without that leg no row has a share of it
            # An older vector may be right still, so it can help and does not hold the row back.
            share = max(share, _expected(tiers, place, depth))
        scores[row_id] = 1.0 / (RRF_K + place) + share
    legs = {"vector": frozenset(by_vector), "fts": frozenset(by_text)}
    return Ranking(scores, labels, legs)


def _expected(tiers: Tiers, place: int, depth: int) -> float:
    if tiers.calibration is None:
        return 1.0 / (RRF_K + place)
    shares = tiers.calibration.shares(depth)
    return shares[min(place, len(shares)) - 1]


def to_read(ranking: Ranking, k: int, near: int) -> list[int]:
    """Return the rows a reranker reads: all hot ones, and the core rows it measures them by."""
    order = ranking.order()
    core = [row_id for row_id in order if row_id not in ranking.labels.hot]
    hot = [row_id for row_id in order if row_id in ranking.labels.hot]
    if not hot:
        return []
    cut = sum(1 for row_id in order[:k] if row_id not in ranking.labels.hot)
    start = max(0, cut - (near + 1) // 2)
    beside = core[:1] + core[start : start + near]
    return list(dict.fromkeys([*hot, *beside])) if near else hot


def reranked(ranking: Ranking, found: Mapping[int, float]) -> Ranking:
    """Move the hot rows to where a reranker's scores put them among the core rows it read.

    Parameters
    ----------
    ranking
        From `rank`.
    found
        The reranker's score of each row it read, higher is better, on any scale.
    """
    hot = [row_id for row_id in found if row_id in ranking.labels.hot]
    core = [row_id for row_id in found if row_id not in ranking.labels.hot]
    read = np.asarray([found[row_id] for row_id in hot], np.float64)
    worth = _worth(
        read,
        np.asarray([found[row_id] for row_id in core], np.float64),
        np.asarray([ranking.scores[row_id] for row_id in core], np.float64),
    )
    moved = dict(zip(hot, worth.tolist(), strict=True))
    return Ranking({**ranking.scores, **moved}, ranking.labels, ranking.legs)


def _worth(
    read: npt.NDArray[np.float64], beside: npt.NDArray[np.float64], fused: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Translate a reranker's scores to scores of the fusion, by rows that have both.

    Between two of them in proportion; beyond the best and the worst straight on towards the top
    and zero: what the reranker likes better than all core rows it read stands above them all. With
    none of them, the order alone counts.
    """
    if not len(beside):
        places = np.empty(len(read))
        places[np.argsort(-read, kind="stable")] = np.arange(1, len(read) + 1)
        return np.asarray(2.0 / (RRF_K + places))
    order = np.argsort(-beside, kind="stable")
    down = np.asarray(falling(fused[order], np.ones(len(order))))
    x, y = beside[order][::-1], down[::-1]  # rising
    # The distance that is a lot: what the rows beside span, or, for one alone, what is read.
    span = float(x[-1] - x[0]) or float(np.abs(read - x[0]).max(initial=0.0)) or 1.0
    above, below = np.maximum(read - x[-1], 0.0) / span, np.maximum(x[0] - read, 0.0) / span
    best, least = float(fused.max()), float(fused.min())
    over = best + (_TOP - best) * above / (1.0 + above)
    under = least - least * below / (1.0 + below)
    worth = np.where(above > 0, over, np.interp(read, x, y))
    return np.asarray(np.where(below > 0, under, worth))


def _at_once(task: Callable[[], pa.Table]) -> pa.Table | None:
    return task()


def tiered(
    snapshot: Snapshot,
    tiers: Tiers,
    text: str,
    vector_hits: pa.Table,
    text_hits: pa.Table,
    *,
    k: int,
    reranker: Reranker | None = None,
    read_columns: Sequence[str] = (),
    in_time: InTime = _at_once,
    trace: Trace | None = None,
    now_s: float | None = None,
) -> pa.Table:
    """Merge the legs of a hybrid query over two tiers.

    Parameters
    ----------
    snapshot, tiers
        The version of the table, and its policy.
    text
        The query.
    vector_hits, text_hits
        What the legs found, best first, with ``_rowid``.
    k
        How many rows are wanted.
    reranker, read_columns
        What reads the hot rows, and the columns it needs.
    in_time
        Runs the reranker; gives None where there was no time for it.
    trace
        Where to write down what was done.
    now_s
        The present, in seconds since 1970, by default that of the clock.

    Returns
    -------
    pa.Table
        Best first: ``_rowid``, ``_relevance_score``, ``_tier`` (``hot`` or ``core``) and ``_legs``
        (which of ``vector`` and ``fts`` found the row).
    """
    vector_ids, text_ids = vector_hits[ROW_ID].to_pylist(), text_hits[ROW_ID].to_pylist()
    with stage(trace, "tiers"):
        ids = list(dict.fromkeys([*vector_ids, *text_ids]))
        labels = labels_of(snapshot, tiers, ids, now_s=now_s)
    ranking = rank(vector_ids, text_ids, labels, tiers, depth=len(vector_ids))
    read = to_read(ranking, k, tiers.near) if reranker is not None else []
    metadata = None
    if reranker is not None and read:
        rows = _rows_to_read(snapshot, ranking, read, read_columns)
        found = in_time(lambda: rerank_one(reranker, text, rows, mode="fts", k=len(read)))
        # One that failed, and says so, or was late, moves nothing.
        metadata = None if found is None else found.schema.metadata
        if found is not None and not degraded_reason(found):
            scores = (float(score) for score in found[_RELEVANCE].to_pylist())
            pairs = zip(found[ROW_ID].to_pylist(), scores, strict=True)
            ranking = reranked(ranking, dict(pairs))
    _note(trace, ranking, len(read))
    return _hits(ranking, ranking.order()[:k]).replace_schema_metadata(metadata)


def label(
    snapshot: Snapshot, tiers: Tiers, hits: pa.Table, leg: str, *, now_s: float | None = None
) -> pa.Table:
    """Add to what one leg found, in its order, the tier of each row and the leg's name."""
    ids = hits[ROW_ID].to_pylist()
    hot = labels_of(snapshot, tiers, ids, now_s=now_s).hot
    names = ["hot" if row_id in hot else "core" for row_id in ids]
    hits = hits.append_column(TIER, pa.array(names, pa.string()))
    return hits.append_column(LEGS, pa.array([[leg]] * len(ids), pa.list_(pa.string())))


def _rows_to_read(
    snapshot: Snapshot, ranking: Ranking, read: list[int], columns: Sequence[str]
) -> pa.Table:
    rows = snapshot.take(pa.array(read, pa.uint64()), columns)
    rows = rows.append_column(ROW_ID, pa.array(read, pa.uint64()))
    fused = [ranking.scores[row_id] for row_id in read]
    return rows.append_column("_score", pa.array(fused, pa.float32()))


def _hits(ranking: Ranking, order: list[int]) -> pa.Table:
    hot = ranking.labels.hot
    legs = [[leg for leg, ids in ranking.legs.items() if row_id in ids] for row_id in order]
    return pa.table(
        {
            ROW_ID: pa.array(order, pa.uint64()),
            _RELEVANCE: pa.array([ranking.scores[row_id] for row_id in order], pa.float32()),
            TIER: pa.array(["hot" if row_id in hot else "core" for row_id in order], pa.string()),
            LEGS: pa.array(legs, pa.list_(pa.string())),
        }
    )


def _note(trace: Trace | None, ranking: Ranking, n_read: int) -> None:
    """Write into a trace how many rows of each tier there were, and how many were read."""
    if trace is None:
        return
    n_hot = len(ranking.labels.hot)
    trace.count("candidates_hot", n_hot)
    trace.count("candidates_core", len(ranking.scores) - n_hot)
    trace.count("candidates_without_vector", len(ranking.labels.pending))
    trace.count("tiers_reranked", n_read)
