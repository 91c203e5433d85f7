"""Ranking metrics per query, in numpy.

Definitions (``R`` relevant documents, grade > 0; ``k`` the cutoff; a rank counts from 1):

=================  ==============================================================================
``ndcg@k``         sum of ``grade / log2(rank + 1)`` over the first k, divided by that of the best
                   possible order of *all* judged documents. The gain is linear, as in trec_eval
                   and in ranx' ``ndcg`` (``2**grade - 1`` would be ranx' ``ndcg_burges``).
``mrr@k``          ``1 / rank`` of the first relevant document within the first k, else 0.
``map@k``          sum of the precisions at the relevant ranks up to k, divided by R (trec_eval
                   ``map_cut``), so a cutoff below R cannot reach 1.
``recall@k``       relevant documents within the first k, divided by R.
``precision@k``    relevant documents within the first k, divided by k, even if fewer were found.
``f1@k``           harmonic mean of the two; 0 where both are.
``hit@k``          1 if a relevant document is within the first k, else 0 (trec_eval ``success``).
=================  ==============================================================================

Without ``@k`` the whole ranking counts (``precision`` then divides by its length).

Equal scores are ordered by document id, ascending in code points. trec_eval's order is descending:
the choice is arbitrary, but it has to be one, and ours is that of a sorted listing and of
`lancedb_ft.evaluate.exact_retriever`. Files written by `write_run` are in this order.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import InputError
from lancedb_ft.types import DEFAULT_METRICS, Qrels, Run

__all__ = ["METRICS", "Metric", "parse_metric", "parse_metrics", "per_query"]

_Floats: TypeAlias = npt.NDArray[np.float64]
_Ints: TypeAlias = npt.NDArray[np.int64]

_NAME = re.compile(r"^(?P<kind>[a-z0-9_]+)(?:@(?P<k>[0-9]+))?$")


@dataclass(frozen=True)
class Metric:
    """A metric's kind (``ndcg``) and its cutoff; no cutoff means the whole ranking."""

    kind: str
    k: int | None

    def __str__(self) -> str:
        """``ndcg@10``."""
        return self.kind if self.k is None else f"{self.kind}@{self.k}"


@dataclass(frozen=True)
class _Ranking:
    """What the metrics read: rows are queries, columns are ranks, 0 where there is nothing."""

    gains: _Floats  # (n_queries, depth): grade of the document at that rank, if relevant
    ideal: _Floats  # (n_queries, width): grades of all relevant documents, highest first
    n_found: _Floats  # (n_queries,): length of the ranking
    n_relevant: _Floats  # (n_queries,): R, at least 1

    def hits(self, k: int | None) -> _Floats:
        """Count the relevant documents within the first ``k``."""
        found: _Floats = (self.gains[:, :k] > 0).sum(axis=1).astype(np.float64)
        return found


def _dcg(gains: _Floats, k: int | None) -> _Floats:
    gains = gains[:, :k]
    total: _Floats = gains @ (1.0 / np.log2(np.arange(2, gains.shape[1] + 2)))
    return total


def _ndcg(ranking: _Ranking, k: int | None) -> _Floats:
    # Equal rankings sum in the same order; the minimum only guards the last bit.
    return np.minimum(_dcg(ranking.gains, k) / _dcg(ranking.ideal, k), 1.0)


def _mrr(ranking: _Ranking, k: int | None) -> _Floats:
    relevant = ranking.gains[:, :k] > 0
    if not relevant.shape[1]:
        return np.zeros(len(relevant))
    return np.where(relevant.any(axis=1), 1.0 / (relevant.argmax(axis=1) + 1.0), 0.0)


def _map(ranking: _Ranking, k: int | None) -> _Floats:
    relevant = (ranking.gains[:, :k] > 0).astype(np.float64)
    precisions = relevant.cumsum(axis=1) / np.arange(1, relevant.shape[1] + 1)
    total: _Floats = (precisions * relevant).sum(axis=1)
    return total / ranking.n_relevant


def _recall(ranking: _Ranking, k: int | None) -> _Floats:
    return ranking.hits(k) / ranking.n_relevant


def _precision(ranking: _Ranking, k: int | None) -> _Floats:
    if k is not None:
        return ranking.hits(k) / k
    return ranking.hits(k) / np.maximum(ranking.n_found, 1.0)


def _f1(ranking: _Ranking, k: int | None) -> _Floats:
    precision, recall = _precision(ranking, k), _recall(ranking, k)
    total = precision + recall
    return 2.0 * precision * recall / np.where(total > 0, total, 1.0)


def _hit(ranking: _Ranking, k: int | None) -> _Floats:
    return np.minimum(ranking.hits(k), 1.0)


_FUNCTIONS: dict[str, Callable[[_Ranking, int | None], _Floats]] = {
    "ndcg": _ndcg,
    "mrr": _mrr,
    "map": _map,
    "recall": _recall,
    "precision": _precision,
    "f1": _f1,
    "hit": _hit,
}

#: The kinds of metrics, each usable as ``kind`` or ``kind@k``.
METRICS = tuple(_FUNCTIONS)


def parse_metric(name: str) -> Metric:
    """Read a metric's name.

    Parameters
    ----------
    name
        ``kind`` or ``kind@k``, with a kind of `METRICS` and ``k >= 1``.

    Raises
    ------
    InputError
        The kind is unknown or the cutoff is not a number from 1.

    Examples
    --------
    >>> parse_metric("ndcg@10")
    Metric(kind='ndcg', k=10)
    """
    match = _NAME.match(name) if isinstance(name, str) else None
    if match is None or match["kind"] not in _FUNCTIONS or match["k"] == "0":
        raise InputError(
            f"{name!r} is not a metric. Known are {', '.join(METRICS)}, each alone for the whole "
            "ranking or with a cutoff from 1, such as 'ndcg@10'."
        )
    return Metric(match["kind"], int(match["k"]) if match["k"] else None)


def parse_metrics(names: str | Sequence[str]) -> dict[str, Metric]:
    """Read one or several names; return ``{name: Metric}`` in their order.

    Raises
    ------
    InputError
        A name is unknown, or there is none.
    """
    names = [names] if isinstance(names, str) else list(names)
    if not names:
        raise InputError(f"No metric was named. The default is {', '.join(DEFAULT_METRICS)}.")
    return {name: parse_metric(name) for name in names}


def per_query(
    run: Run,
    qrels: Qrels,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    *,
    allow_unjudged: bool = False,
) -> dict[str, dict[str, float]]:
    """Return ``{metric: {query_id: value}}``, each value in [0, 1].

    A judged query that the run does not have, or has no documents for, counts 0.

    Parameters
    ----------
    run
        ``{query_id: {doc_id: score}}``, higher is better.
    qrels
        ``{query_id: {doc_id: grade}}``; a grade of 0 or below means not relevant.
    metrics
        Names as in `parse_metric`.
    allow_unjudged
        Leave out queries that have no relevant document: no metric is defined for them. Otherwise
        they are an error, because leaving them out silently changes what a mean is over.

    Raises
    ------
    InputError
        An unknown metric; queries of either side without a relevant document (unless allowed), or
        no query with one; scores or grades that are NaN or no numbers, ids that are no text.
    """
    parsed = parse_metrics(metrics)
    query_ids = judged_queries(run, qrels, allow_unjudged=allow_unjudged)
    cutoffs = [metric.k for metric in parsed.values()]
    depth = None if None in cutoffs else max(k for k in cutoffs if k is not None)
    ranking = _rank(run, qrels, query_ids, depth)
    return {
        name: dict(zip(query_ids, _FUNCTIONS[metric.kind](ranking, metric.k).tolist(), strict=True))
        for name, metric in parsed.items()
    }


def judged_queries(
    queries: Mapping[str, Any], qrels: Qrels, *, allow_unjudged: bool = False
) -> list[str]:
    """Return the ids of the queries with a relevant document, in the order of the judgments.

    Parameters
    ----------
    queries
        Anything keyed by query id (a run, or query texts): its ids must be judged too.
    qrels
        The judgments.
    allow_unjudged
        Leave out queries without a relevant document instead of raising.

    Raises
    ------
    InputError
        Some query has no relevant document and that is not allowed, or none has one.
    """
    try:
        judged = [q for q, grades in qrels.items() if any(grade > 0 for grade in grades.values())]
    except (TypeError, AttributeError) as error:
        raise InputError(
            f"The judgments must be {{query_id: {{doc_id: grade}}}} with integer grades: {error}"
        ) from error
    known = set(judged)
    without = [q for q in dict.fromkeys([*qrels, *queries]) if q not in known]
    if without and not allow_unjudged:
        shown = ", ".join(repr(q) for q in without[:5])
        raise InputError(
            f"{len(without)} of {len(without) + len(judged)} queries have no relevant document "
            f"({shown}{', ...' if len(without) > 5 else ''}), so no metric is defined for them. "
            "Judge them, remove them, or leave them out with allow_unjudged=True."
        )
    if not judged:
        raise InputError("No query has a relevant document (a grade above 0).")
    return judged


def _rank(run: Run, qrels: Qrels, query_ids: Sequence[str], depth: int | None) -> _Ranking:
    docs: list[str] = []
    raw_scores: list[float] = []
    grades: list[float] = []
    lengths, judged_lengths = [], []
    judged_grades: list[float] = []
    for query_id in query_ids:
        judged, found = qrels[query_id], run.get(query_id) or {}
        docs.extend(found)
        raw_scores.extend(found.values())
        grades.extend(judged.get(doc, 0) for doc in found)
        lengths.append(len(found))
        judged_grades.extend(judged.values())
        judged_lengths.append(len(judged))
    owner = np.repeat(np.arange(len(query_ids)), lengths)
    scores = _numbers(raw_scores, "score", lambda i: (query_ids[owner[i]], docs[i]))
    # Primary key last: by query, then score descending, then document id ascending.
    order = np.lexsort((_id_ranks(docs), -scores, owner))
    gains = np.maximum(_numbers(grades, "grade", None)[order], 0.0)

    judged_owner = np.repeat(np.arange(len(query_ids)), judged_lengths)
    ideal = np.maximum(_numbers(judged_grades, "grade", None), 0.0)
    best_first = np.lexsort((-ideal, judged_owner))
    n_relevant = np.bincount(judged_owner[ideal > 0], minlength=len(query_ids))
    return _Ranking(
        gains=_place(owner, gains, lengths, depth),
        ideal=_place(judged_owner, ideal[best_first], judged_lengths, depth),
        n_found=np.asarray(lengths, np.float64),
        n_relevant=n_relevant.astype(np.float64),
    )


def _numbers(
    values: list[float], what: str, where: Callable[[int], tuple[str, str]] | None
) -> _Floats:
    """Convert to float64; NaN has no rank, so it is an error."""
    try:
        array = np.asarray(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"Every {what} must be a number: {error}") from error
    if array.ndim != 1:
        raise InputError(f"Every {what} must be one number, and some are lists.")
    if bad := np.flatnonzero(np.isnan(array)).tolist():
        place = " (query {!r}, document {!r})".format(*where(bad[0])) if where else ""
        raise InputError(
            f"{len(bad)} of {len(array)} {what}s are NaN{place}; a NaN cannot be ranked. Find out "
            "what produced it: zero vectors and failed model calls are the usual causes."
        )
    return array


def _id_ranks(docs: list[str]) -> _Ints:
    """Return each document's place in the sorted ids (UTF-8 bytes sort as code points do)."""
    try:
        encoded = pa.array(docs, pa.string()).dictionary_encode()
    except (TypeError, ValueError) as error:
        raise InputError(f"Document ids must be text: {error}") from error
    ranks = np.empty(len(encoded.dictionary), np.int64)
    ranks[pc.sort_indices(encoded.dictionary).to_numpy()] = np.arange(len(ranks))
    of_each: _Ints = ranks[encoded.indices.to_numpy()]
    return of_each


def _place(owner: _Ints, values: _Floats, lengths: Sequence[int], depth: int | None) -> _Floats:
    """Lay values, sorted by their row, out as a matrix with ``depth`` columns at most."""
    longest = max(lengths, default=0)
    width = longest if depth is None else min(depth, longest)
    starts = np.cumsum([0, *lengths[:-1]])
    column = np.arange(len(values)) - np.repeat(starts, lengths)
    matrix = np.zeros((len(lengths), width))
    kept = column < width
    matrix[owner[kept], column[kept]] = values[kept]
    return matrix
