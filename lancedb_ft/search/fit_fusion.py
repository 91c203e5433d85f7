"""Learning how to fuse, on judged queries that nothing else was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError, NotBetterError
from lancedb_ft.evaluate import (
    average,
    bootstrap_means,
    compare,
    evaluate,
    parse_metric,
    per_query,
)
from lancedb_ft.search.fusion import RRF_K, Fusion, LegHits, relative_scores
from lancedb_ft.types import Comparison, Estimate, Pairs, Run

__all__ = ["FusionFit", "fit_fusion_of_runs", "fused_run"]

_Floats: TypeAlias = npt.NDArray[np.float64]

#: Shares of the vector leg that are tried.
_SHARES = tuple(round(0.1 * step, 1) for step in range(1, 10))
_FOLDS = 5
#: How often the queries are dealt into folds: what one deal favours by chance, another does not.
_ROUNDS = 4
#: Keeps the weights finite where the candidates can be separated without an error.
_RIDGE = 1e-3


@dataclass(frozen=True)
class FusionFit:
    """A learned fusion and what it is worth.

    Parameters
    ----------
    fusion
        Fitted on all queries.
    kind
        ``weighted``, ``relative`` or ``learned``: which of them was best.
    comparison
        Reciprocal rank fusion as it is served (``base``) against what the same fit, made without
        the query, does to each query (``tuned``).
    kinds
        What each kind reaches on queries it was not fitted on.
    metric
        What was maximised.
    """

    fusion: Fusion
    kind: str
    comparison: Comparison
    kinds: Mapping[str, Estimate]
    metric: str

    @property
    def wins(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.comparison.delta[self.metric].ci95[0] > 0

    def check(self) -> FusionFit:
        """Return itself if it wins.

        Raises
        ------
        NotBetterError
            It does not; the error holds the evidence.
        """
        if not self.wins:
            raise NotBetterError(
                "The learned fusion",
                than="reciprocal rank fusion",
                metric=self.metric,
                evidence=self.to_dict(),
                cure='Leave fusion= out, or try one of its kinds by name: fusion="relative".',
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence in plain types."""
        weights = ("vector_rank", "text_rank", "vector_score", "text_score")
        return {
            "kind": self.kind,
            "weights": dict(zip(weights, self.fusion.weights, strict=True)),
            "candidates": self.fusion.candidates,
            "metric": self.metric,
            "wins": self.wins,
            **self.comparison.to_dict(),
            "kinds": {kind: found.to_dict() for kind, found in self.kinds.items()},
        }


def fit_fusion_of_runs(
    vector: Run, text: Run, pairs: Pairs, *, metric: str = "ndcg@10", seed: int = 0
) -> FusionFit:
    """Learn how to fuse two runs.

    Weighted and relative fusion are tried with nine weights each, on the first ``k`` documents of
    the legs (``k`` the cutoff of the metric) and on all of them; learned fusion gets its four
    weights by regression (ListNet: cross entropy between the grades and the softmax of the
    scores, weights kept at 0 or above). The kind that is best is kept. All of that is also done on
    four fifths of the queries, five times and in four deals, and the queries left out are what the
    evidence is made of.

    Parameters
    ----------
    vector, text
        The legs' runs on the same queries, best first, higher scores are better.
    pairs
        Judged queries: a dev set, which no model was trained on.
    metric
        What is maximised; its cutoff is how many rows are served.
    seed
        Of the folds and of the bootstrap.

    Raises
    ------
    InputError
        There are fewer than ten queries, or the metric has no cutoff.

    References
    ----------
    Cao, Qin, Liu, Tsai, Li: Learning to Rank: From Pairwise Approach to Listwise Approach. ICML
    2007. Bruch, Gai, Ingber: An Analysis of Fusion Functions for Hybrid Retrieval. ACM TOIS 2023
    (that weighted scores beat reciprocal ranks once a few queries are judged).
    """
    legs = _Legs(vector, text, pairs, metric)
    rng = np.random.default_rng(seed)
    rounds = [legs.left_out(rng.permutation(len(legs.queries)) % _FOLDS) for _ in range(_ROUNDS)]
    everything = np.ones(len(legs.queries), bool)
    fitted = legs.fit(everything)
    kind = legs.best_of(fitted, everything)
    served = [
        evaluate(run, pairs, metrics=metric, name="learned", n_resamples=1) for run, _ in rounds
    ]
    base = legs.run(Fusion.rrf().with_candidates(legs.k), legs.queries)
    comparison = compare(
        evaluate(base, pairs, metrics=metric, name="rrf", seed=seed),
        average(served, name="learned", seed=seed),
        seed=seed,
    )
    kinds = {name: np.mean([values[name] for _, values in rounds], axis=0) for name in fitted}
    return FusionFit(fitted[kind], kind, comparison, _estimates(kinds), metric)


def fused_run(fusion: Fusion, vector: Run, text: Run, *, k: int) -> dict[str, dict[str, float]]:
    """Fuse two runs as a search would serve them; scores are minus the rank.

    Each leg brings the fusion's ``candidates``, or else ``k``.
    """
    depth = max(k, fusion.candidates or k)
    return {
        query_id: {
            doc_id: -float(rank)
            for rank, (doc_id, _) in enumerate(
                fusion.fuse(_leg(vector, query_id, depth), _leg(text, query_id, depth))[:k], 1
            )
        }
        for query_id in vector.keys() | text.keys()
    }


def _leg(run: Run, query_id: str, depth: int) -> LegHits:
    hits = run.get(query_id, {})
    return LegHits(list(hits)[:depth], list(hits.values())[:depth])


class _Legs:
    """The runs of the two legs, with what is computed from them once."""

    def __init__(self, vector: Run, text: Run, pairs: Pairs, metric: str) -> None:
        cutoff = parse_metric(metric).k
        if cutoff is None:
            raise InputError(f"The metric {metric!r} has no cutoff; say how deep: {metric}@10.")
        self.k = cutoff
        self.metric = metric
        self.qrels = pairs.qrels
        self.queries = list(pairs.queries)
        if len(self.queries) < 2 * _FOLDS:
            raise InputError(
                f"There are {len(self.queries)} judged queries; a fusion cannot be learned on "
                f"fewer than {2 * _FOLDS}, and a few hundred are needed to tell what it is worth."
            )
        self._vector = {q: vector.get(q, {}) for q in self.queries}
        self._text = {q: text.get(q, {}) for q in self.queries}
        self.depth = max(self.k, *(len(hits) for hits in self._vector.values()))
        self._values: dict[Fusion, _Floats] = {}

    def run(self, fusion: Fusion, queries: Sequence[str]) -> dict[str, dict[str, float]]:
        """Return what a fusion serves for some of the queries."""
        vector = {q: self._vector[q] for q in queries}
        return fused_run(fusion, vector, {q: self._text[q] for q in queries}, k=self.k)

    def values(self, fusion: Fusion) -> _Floats:
        """Return the metric of every query, shape (n_queries,)."""
        if fusion not in self._values:
            found = per_query(self.run(fusion, self.queries), self.qrels, [self.metric])
            values = found[self.metric]
            self._values[fusion] = np.array([values[q] for q in self.queries])
        return self._values[fusion]

    def fit(self, inside: npt.NDArray[np.bool_]) -> dict[str, Fusion]:
        """Return the best fusion of each kind on the queries of a mask."""
        depths = tuple(dict.fromkeys((self.k, self.depth)))
        tried = {
            "weighted": [
                Fusion.weighted(vector=share).with_candidates(depth)
                for depth in depths
                for share in _SHARES
            ],
            "relative": [
                Fusion.relative(vector=share).with_candidates(depth)
                for depth in depths
                for share in _SHARES
            ],
        }
        best = {
            kind: max(fusions, key=lambda fusion: self.values(fusion)[inside].mean())
            for kind, fusions in tried.items()
        }
        return {**best, "learned": self._learned(inside)}

    def best_of(self, fitted: Mapping[str, Fusion], inside: npt.NDArray[np.bool_]) -> str:
        """Return the kind that is best on the queries of a mask."""
        return max(fitted, key=lambda kind: self.values(fitted[kind])[inside].mean())

    def left_out(self, folds: npt.NDArray[np.int64]) -> tuple[Run, dict[str, _Floats]]:
        """Fit without each fold; return what then serves its queries, and each kind's values."""
        served: dict[str, Mapping[str, float]] = {}
        values: dict[str, _Floats] = {}
        for fold in range(_FOLDS):
            inside, outside = folds != fold, np.flatnonzero(folds == fold)
            fitted = self.fit(inside)
            for kind, fusion in fitted.items():
                values.setdefault(kind, np.empty(len(folds)))
                values[kind][outside] = self.values(fusion)[outside]
            best = fitted[self.best_of(fitted, inside)]
            served |= self.run(best, [self.queries[i] for i in outside])
        return served, values

    def _learned(self, inside: npt.NDArray[np.bool_]) -> Fusion:
        features, present, target = self._matrices
        judged = inside & (target.sum(axis=1) > 0)
        if not judged.any():
            return Fusion.rrf()  # no leg found anything relevant: there is nothing to learn from
        weights = _list_net(features[judged], present[judged], target[judged])
        # A row that is first in both legs gets the score 1.
        weights = weights / weights.sum()
        by_rank = weights[:2] * (RRF_K + 1)
        return Fusion(
            vector_rank=float(by_rank[0]),
            text_rank=float(by_rank[1]),
            vector_score=float(weights[2]),
            text_score=float(weights[3]),
            candidates=self.depth,
        )

    @cached_property
    def _matrices(self) -> tuple[_Floats, npt.NDArray[np.bool_], _Floats]:
        """Features (n, candidates, 4), which candidates there are, and their share of the grades.

        The features are the four that `Fusion` weighs, the ranks' scaled to 0..1.
        """
        rows = [self._features(query_id) for query_id in self.queries]
        width = max(1, *(len(found) for found in rows))
        features = np.zeros((len(rows), width, 4))
        present = np.zeros((len(rows), width), bool)
        target = np.zeros((len(rows), width))
        for i, (query_id, found) in enumerate(zip(self.queries, rows, strict=True)):
            for j, (doc_id, values) in enumerate(found.items()):
                features[i, j], present[i, j] = values, True
                target[i, j] = max(0, self.qrels[query_id].get(doc_id, 0))
        total = target.sum(axis=1, keepdims=True)
        return features, present, target / np.where(total > 0, total, 1.0)

    def _features(self, query_id: str) -> dict[str, list[float]]:
        found: dict[str, list[float]] = {}
        for at, run in enumerate((self._vector, self._text)):
            leg = _leg(run, query_id, self.depth)
            relative = relative_scores(leg.scores)
            for rank, (doc_id, score) in enumerate(zip(leg.ids, relative, strict=True), RRF_K + 1):
                values = found.setdefault(doc_id, [0.0] * 4)
                values[at], values[2 + at] = (RRF_K + 1) / rank, score
        return found


def _list_net(features: _Floats, present: npt.NDArray[np.bool_], target: _Floats) -> _Floats:
    """Return four weights, 0 or above: those with the wrong sign are left out one by one."""
    used = np.ones(4, bool)
    while True:
        weights = np.zeros(4)
        weights[used] = _newton(features[:, :, used], present, target)
        if (weights >= 0).all() and weights.any():
            return weights
        if used.sum() == 1:  # nothing separates the candidates: trust both ranks alike
            return np.array([0.5, 0.5, 0.0, 0.0])
        used[np.argmin(weights)] = False


def _newton(features: _Floats, present: npt.NDArray[np.bool_], target: _Floats) -> _Floats:
    """Minimise the mean cross entropy with a little ridge: convex, so Newton's steps find it."""
    n, _, n_weights = features.shape
    weights = np.zeros(n_weights)
    wanted = np.einsum("qc,qcf->f", target, features) / n
    for _ in range(50):
        scores = np.where(present, features @ weights, -np.inf)
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        means = np.einsum("qc,qcf->qf", chances, features)
        gradient = means.mean(axis=0) - wanted + _RIDGE * weights
        second = np.einsum("qc,qcf,qcg->fg", chances, features, features) / n
        hessian = second - means.T @ means / n + _RIDGE * np.eye(n_weights)
        step = np.linalg.solve(hessian, gradient)
        # Damped: far from the minimum a full step overshoots.
        weights -= step / max(1.0, float(np.abs(step).max()) / 5.0)
        if np.abs(step).max() < 1e-6:
            break
    return weights


def _estimates(values: Mapping[str, _Floats]) -> dict[str, Estimate]:
    matrix = np.stack(list(values.values()))
    bounds = np.quantile(bootstrap_means(matrix), [0.025, 0.975], axis=0).T
    return {
        kind: Estimate(float(series.mean()), (float(low), float(high)), len(series))
        for (kind, series), (low, high) in zip(values.items(), bounds, strict=True)
    }
