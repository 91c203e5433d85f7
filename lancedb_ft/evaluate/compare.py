"""Evaluate a retriever, and compare two evaluations, with bootstrap intervals over queries."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.metrics import judged_queries, parse_metrics, per_query
from lancedb_ft.types import (
    DEFAULT_METRICS,
    Comparison,
    Delta,
    Estimate,
    Evaluation,
    Pairs,
    Progress,
    Qrels,
    Retriever,
    Run,
)

__all__ = ["average", "bootstrap_means", "compare", "evaluate"]

_Floats: TypeAlias = npt.NDArray[np.float64]

# Draws held at once: 4 million int64 and as many counts are 64 MB.
_DRAWS_PER_CHUNK = 4_000_000
# Queries asked at once when somebody watches the progress.
_QUERIES_PER_STEP = 64


def evaluate(
    retriever: Retriever | Run,
    pairs: Pairs | None = None,
    *,
    queries: Mapping[str, str] | None = None,
    qrels: Qrels | None = None,
    metrics: str | Sequence[str] = DEFAULT_METRICS,
    k: int | None = None,
    name: str = "",
    seed: int = 0,
    n_resamples: int = 10_000,
    allow_unjudged: bool = False,
    progress: Progress | None = None,
) -> Evaluation:
    """Ask a retriever all queries and measure its answers.

    Parameters
    ----------
    retriever
        A retriever, or a finished run ``{query_id: {doc_id: score}}``.
    pairs
        Test pairs; or else give ``queries`` and ``qrels``.
    queries
        ``{query_id: text}``; not needed for a finished run, which is then measured on all queries
        of ``qrels``.
    qrels
        ``{query_id: {doc_id: grade}}``, grade > 0 means relevant.
    metrics
        Names such as ``ndcg@10``, see `lancedb_ft.evaluate.metrics`.
    k
        Documents to ask a retriever for, per query; the largest cutoff by default. A metric
        without a cutoff looks at all of them, and so needs it.
    name
        Shown in reports.
    seed, n_resamples
        Of the bootstrap over queries that gives the 95 % intervals.
    allow_unjudged
        Leave out queries without a relevant document (they are not asked, and ``n`` does not count
        them) instead of raising.
    progress
        Called as queries are answered.

    Returns
    -------
    Evaluation
        Means with 95 % percentile intervals, and every query's values. Queries without an answer
        count 0. With a single query nothing is known about the spread: the interval is [0, 1].

    Raises
    ------
    InputError
        Queries without judgments, judgments without a query, ``k`` below a cutoff, an unknown
        metric, or a retriever that answers something that is not a run.
    """
    parsed = parse_metrics(metrics)
    texts, judgments = _targets(pairs, queries, qrels)
    start = time.perf_counter()
    if isinstance(retriever, Mapping):
        run: Run = retriever
        if texts is not None:
            judged_queries(texts, judgments, allow_unjudged=allow_unjudged)
    elif callable(retriever):
        if texts is None:
            raise InputError("A retriever needs the texts to ask: pass pairs= or queries=.")
        asked = judged_queries(texts, judgments, allow_unjudged=allow_unjudged)
        depth = _depth([metric.k for metric in parsed.values()], k)
        run = _ask(retriever, {q: texts[q] for q in asked}, depth, progress)
    else:
        raise InputError(
            f"A retriever is a callable (queries, k) or a run {{query_id: {{doc_id: score}}}}, "
            f"found {type(retriever).__name__}."
        )
    seconds = time.perf_counter() - start
    values = per_query(run, judgments, list(parsed), allow_unjudged=allow_unjudged)
    return Evaluation(
        name=name,
        n=len(next(iter(values.values()))),
        metrics=_estimates(values, seed=seed, n_resamples=n_resamples),
        per_query=values,
        seconds=seconds,
    )


def compare(
    base: Evaluation, tuned: Evaluation, *, n_resamples: int = 10_000, seed: int = 0
) -> Comparison:
    """Compare two evaluations of the same queries by a paired bootstrap over queries.

    The interval is the 2.5 and 97.5 percentile of the resampled mean differences. The p-value
    tests "no difference" two-sided by the shift method (resampled means moved to mean 0; Smucker,
    Allan and Carterette, CIKM 2007), with one added above and below (Davison and Hinkley,
    Bootstrap Methods and their Application, 1997, 4.4): it is never 0, and at least
    ``1 / (n_resamples + 1)``. Interval and p-value are different estimates, so at the very edge
    one may say "difference" where the other does not.

    With a single query the interval is [-1, 1] and p is 1: nothing is known about the spread.

    Parameters
    ----------
    base, tuned
        Evaluations of `evaluate`, on the same queries and with the same metrics.
    n_resamples
        Resamples of the queries.
    seed
        Of the random generator; the same seed gives the same figures.

    Raises
    ------
    InputError
        The queries or metrics differ, or an evaluation does not hold its per-query values.
    """
    if set(base.metrics) != set(tuned.metrics):
        raise InputError(
            f"The metrics differ: {list(base.metrics)} and {list(tuned.metrics)}. "
            "Evaluate both with the same metrics=."
        )
    differences = []
    for metric in base.metrics:
        ours, theirs = base.per_query.get(metric), tuned.per_query.get(metric)
        if not ours or not theirs:
            raise InputError(
                f"An evaluation holds no per-query values of {metric!r}, and a paired comparison "
                "needs them. Evaluate again instead of comparing reports."
            )
        _same_queries(base.name or "base", ours, tuned.name or "tuned", theirs)
        differences.append([theirs[query_id] - ours[query_id] for query_id in ours])
    matrix = np.asarray(differences, np.float64)
    deltas = _deltas(matrix, n_resamples=n_resamples, seed=seed)
    return Comparison(base, tuned, dict(zip(base.metrics, deltas, strict=True)))


def average(
    evaluations: Sequence[Evaluation],
    *,
    name: str = "",
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Evaluation:
    """Average several runs on the same queries, such as trainings with different seeds.

    Each query's value is its mean over the runs, and the interval is over queries: it says how
    the mean of these runs would vary with other queries, not with other seeds.

    Raises
    ------
    InputError
        There are none, or their queries or metrics differ.

    Examples
    --------
    >>> runs = [{"q": {"d": 1.0}}, {"q": {"e": 1.0}}]
    >>> both = [evaluate(run, qrels={"q": {"d": 1}}, metrics="hit@5") for run in runs]
    >>> average(both).metrics["hit@5"].mean
    0.5
    """
    if not evaluations:
        raise InputError("There are no evaluations to average.")
    first = evaluations[0]
    for other in evaluations[1:]:
        compare(first, other, n_resamples=1)  # raises where they cannot be compared
    values = {
        metric: {
            query_id: float(np.mean([e.per_query[metric][query_id] for e in evaluations]))
            for query_id in first.per_query[metric]
        }
        for metric in first.metrics
    }
    return Evaluation(
        name=name,
        n=first.n,
        metrics=_estimates(values, seed=seed, n_resamples=n_resamples),
        per_query=values,
        seconds=sum(e.seconds for e in evaluations),
    )


def bootstrap_means(values: _Floats, *, n_resamples: int = 10_000, seed: int = 0) -> _Floats:
    """Return the means of resamples of the columns, drawn with replacement.

    Parameters
    ----------
    values
        Shape (n_series, n): the series share each resample, so their means stay paired.
    n_resamples
        How many resamples, at least 1.
    seed
        Of `numpy.random.default_rng`.

    Returns
    -------
    numpy.ndarray
        Shape (n_resamples, n_series), float64. Memory beyond it is bounded at about 100 MB, or
        16 bytes per column where one resample is more.

    Raises
    ------
    InputError
        There is nothing to resample, or no resamples were asked for.
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.shape[1]:
        raise InputError(f"A bootstrap needs values of shape (n_series, n), found {values.shape}.")
    if n_resamples < 1:
        raise InputError(f"n_resamples is {n_resamples}; it must be at least 1.")
    n = values.shape[1]
    rng = np.random.default_rng(seed)
    means = np.empty((n_resamples, len(values)))
    step = max(1, _DRAWS_PER_CHUNK // n)
    for first in range(0, n_resamples, step):
        rows = min(step, n_resamples - first)
        draws = rng.integers(n, size=(rows, n))
        # How often each column was drawn: one matrix product then serves all series.
        draws += np.arange(rows)[:, None] * n
        counts = np.bincount(draws.ravel(), minlength=rows * n).reshape(rows, n)
        means[first : first + rows] = counts @ values.T / n
    return means


def _estimates(
    values: Mapping[str, Mapping[str, float]], *, seed: int, n_resamples: int
) -> dict[str, Estimate]:
    matrix = np.asarray([list(series.values()) for series in values.values()], np.float64)
    n = matrix.shape[1]
    means = matrix.mean(axis=1)
    if n < 2:
        intervals = np.tile([0.0, 1.0], (len(matrix), 1))
    else:
        resampled = bootstrap_means(matrix, n_resamples=n_resamples, seed=seed)
        intervals = _interval(resampled, matrix)
    return {
        metric: Estimate(float(mean), (float(low), float(high)), n)
        for metric, mean, (low, high) in zip(values, means, intervals, strict=True)
    }


def _deltas(differences: _Floats, *, n_resamples: int, seed: int) -> list[Delta]:
    n = differences.shape[1]
    means = differences.mean(axis=1)
    if n < 2:
        return [Delta(float(mean), (-1.0, 1.0), n, p=1.0) for mean in means]
    resampled = bootstrap_means(differences, n_resamples=n_resamples, seed=seed)
    intervals = _interval(resampled, differences)
    # The tolerance keeps sums that are equal but for rounding on the side of "no difference".
    extreme = np.abs(resampled - means) >= np.abs(means) - 1e-12
    p_values = (1 + extreme.sum(axis=0)) / (n_resamples + 1)
    return [
        Delta(float(mean), (float(low), float(high)), n, p=float(p))
        for mean, (low, high), p in zip(means, intervals, p_values, strict=True)
    ]


def _interval(resampled: _Floats, values: _Floats) -> _Floats:
    """Return the 95 % percentile intervals, shape (n_series, 2)."""
    bounds: _Floats = np.quantile(resampled, [0.025, 0.975], axis=0).T
    # A mean lies between the extremes; rounding of the matrix product may not say otherwise.
    return np.clip(bounds, values.min(axis=1)[:, None], values.max(axis=1)[:, None])


def _targets(
    pairs: Pairs | None, queries: Mapping[str, str] | None, qrels: Qrels | None
) -> tuple[Mapping[str, str] | None, Qrels]:
    if pairs is not None:
        if queries is not None or qrels is not None:
            raise InputError("Pass either pairs or queries= and qrels=, not both.")
        if not isinstance(pairs, Pairs):
            raise InputError(
                f"pairs is a {type(pairs).__name__}; expected Pairs, or queries= and qrels=."
            )
        if not len(pairs):
            raise InputError("There are no test pairs.")
        return pairs.queries, pairs.qrels
    if qrels is None:
        raise InputError("Nothing to measure against: pass pairs, or queries= and qrels=.")
    if queries is not None and (missing := [q for q in qrels if q not in queries]):
        raise InputError(
            f"{len(missing)} of {len(qrels)} judged queries have no text in queries= "
            f"(first: {', '.join(repr(q) for q in missing[:5])}). Are the two of one data set?"
        )
    return queries, qrels


def _depth(cutoffs: Sequence[int | None], k: int | None) -> int:
    largest = max((cutoff for cutoff in cutoffs if cutoff is not None), default=0)
    if k is None:
        if None in cutoffs:
            raise InputError(
                "A metric without a cutoff measures the whole ranking: say how many documents "
                "that is with k=, such as k=1000, or give the metric a cutoff, such as 'map@100'."
            )
        return largest
    if k < max(largest, 1):
        raise InputError(
            f"k is {k}, and the metrics look at {max(largest, 1)} documents. Raise k, or lower "
            "the cutoff of the metrics."
        )
    return k


def _ask(
    retriever: Callable[..., Any], queries: Mapping[str, str], k: int, progress: Progress | None
) -> Run:
    ids = list(queries)
    step = _QUERIES_PER_STEP if progress is not None else len(ids)
    run: dict[str, Mapping[str, float]] = {}
    for first in range(0, len(ids), step):
        part = {q: queries[q] for q in ids[first : first + step]}
        answers = retriever(part, k)
        if not isinstance(answers, Mapping) or not answers.keys() <= part.keys():
            raise InputError(
                "A retriever returns {query_id: {doc_id: score}} for the queries it was asked; "
                f"this one returned {_described(answers, part)}."
            )
        run.update(answers)
        if progress is not None:
            progress(min(first + step, len(ids)), len(ids))
    return run


def _described(answers: Any, asked: Mapping[str, str]) -> str:
    if not isinstance(answers, Mapping):
        return f"a {type(answers).__name__}"
    unknown = [repr(q) for q in answers if q not in asked]
    return f"answers to {len(unknown)} queries it was not asked ({', '.join(unknown[:5])})"


def _same_queries(
    base_name: str, base: Mapping[str, float], tuned_name: str, tuned: Mapping[str, float]
) -> None:
    if base.keys() == tuned.keys():
        return
    told = []
    for name, only in (
        (base_name, base.keys() - tuned.keys()),
        (tuned_name, tuned.keys() - base.keys()),
    ):
        if only:
            shown = ", ".join(repr(q) for q in sorted(only)[:5])
            told.append(f"{len(only)} only in {name!r} ({shown})")
    raise InputError(
        f"The evaluations are not on the same queries: {'; '.join(told)}. "
        "Evaluate both on the same test set."
    )
