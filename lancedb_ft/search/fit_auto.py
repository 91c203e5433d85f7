"""Learning which mode answers which query best, on judged queries that nothing was fitted on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError, NotBetterError
from lancedb_ft.evaluate import compare, evaluate
from lancedb_ft.search.auto import FEATURES, AutoMode, query_features
from lancedb_ft.types import Comparison, Estimate, Evaluation, Mode, Pairs, Run

__all__ = ["AutoFit", "fit_auto_of_runs"]

_Floats: TypeAlias = npt.NDArray[np.float64]

_FOLDS = 5
#: Strengths of the ridge that are tried; the highest leaves almost nothing but the constant.
_RIDGES = (10.0, 100.0, 1000.0)


@dataclass(frozen=True)
class AutoFit:
    """A learned choice of the mode and what it is worth.

    Parameters
    ----------
    rule
        Fitted on all queries.
    comparison
        The best single mode for all queries (``base``) against the choice that the same fit, made
        without the query, makes for each query (``tuned``).
    modes
        What each mode reaches on all queries.
    shares
        Share of the queries that got each mode.
    metric
        What was maximised.
    """

    rule: AutoMode
    comparison: Comparison
    modes: Mapping[str, Estimate]
    shares: Mapping[str, float]
    metric: str

    @property
    def wins(self) -> bool:
        """Whether the interval of the gain lies above 0."""
        return self.comparison.delta[self.metric].ci95[0] > 0

    def check(self) -> AutoFit:
        """Return itself if it wins.

        Raises
        ------
        NotBetterError
            It does not; the error holds the evidence.
        """
        if not self.wins:
            best = self.comparison.base.name
            raise NotBetterError(
                'mode="auto"',
                than=f"mode={best!r} for all queries",
                metric=self.metric,
                evidence=self.to_dict(),
                cure=f"Search with mode={best!r}.",
            )
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the evidence in plain types."""
        return {
            "best_mode": self.comparison.base.name,
            "metric": self.metric,
            "wins": self.wins,
            **self.comparison.to_dict(),
            "modes": {mode: found.to_dict() for mode, found in self.modes.items()},
            "shares": dict(self.shares),
        }


def fit_auto_of_runs(
    runs: Mapping[str, Run], pairs: Pairs, *, metric: str = "ndcg@10", seed: int = 0
) -> AutoFit:
    """Learn from one run of each mode which mode a query should get.

    For each mode the gain over the best single mode is predicted from `FEATURES` by ridge
    regression. The evidence is made as in `fit_fusion_of_runs`: five times on four fifths.

    Parameters
    ----------
    runs
        ``{mode: run}`` on the same queries, as each mode serves them.
    pairs
        Judged queries: a dev set, which no model was trained on.
    metric
        What is maximised.
    seed
        Of the folds and of the bootstrap.

    Raises
    ------
    InputError
        There are fewer than ten queries, or fewer than two modes.
    """
    queries = list(pairs.queries)
    if len(queries) < 2 * _FOLDS or len(runs) < 2:
        raise InputError(
            f"There are {len(queries)} judged queries and {len(runs)} modes; a choice cannot be "
            f"learned on fewer than {2 * _FOLDS} queries and 2 modes, and hundreds of queries are "
            "needed to tell what it is worth."
        )
    measured = {
        mode: evaluate(run, pairs, metrics=metric, name=mode, seed=seed)
        for mode, run in runs.items()
    }
    values = np.array([[m.per_query[metric][q] for q in queries] for m in measured.values()])
    features = np.array([query_features(text) for text in pairs.queries.values()])
    modes = list(measured)
    folds = np.random.default_rng(seed).permutation(len(queries)) % _FOLDS
    chosen: dict[str, str] = {}
    for fold in range(_FOLDS):
        rule = _fit(modes, values[:, folds != fold], features[folds != fold])
        for at in np.flatnonzero(folds == fold):
            chosen[queries[at]] = rule.choose(pairs.queries[queries[at]])
    best = modes[int(values.mean(axis=1).argmax())]
    shares = Counter(chosen.values())
    return AutoFit(
        rule=_fit(modes, values, features),
        comparison=compare(measured[best], _mixed(runs, chosen, pairs, metric, seed), seed=seed),
        modes={mode: found.metrics[metric] for mode, found in measured.items()},
        shares={mode: shares[mode] / len(queries) for mode in modes},
        metric=metric,
    )


def _mixed(
    runs: Mapping[str, Run], chosen: Mapping[str, str], pairs: Pairs, metric: str, seed: int
) -> Evaluation:
    run = {query_id: runs[mode].get(query_id, {}) for query_id, mode in chosen.items()}
    return evaluate(run, pairs, metrics=metric, name="auto", seed=seed)


def _fit(modes: list[str], values: _Floats, features: _Floats) -> AutoMode:
    """Fit the rule; ``values`` has the shape (n_modes, n_queries)."""
    default = int(values.mean(axis=1).argmax())
    means, spreads = features.mean(axis=0), features.std(axis=0)
    spreads = np.where(spreads > 0, spreads, 1.0)
    scaled = (features - means) / spreads
    gains = {}
    for at, mode in enumerate(modes):
        if at == default:
            continue
        constant, weights = _ridge(scaled, values[at] - values[default])
        weights = weights / spreads
        gains[mode] = (float(constant - weights @ means), *map(float, weights))
    return AutoMode(cast(Mode, modes[default]), gains)


def _ridge(features: _Floats, target: _Floats) -> tuple[float, _Floats]:
    """Regress with the ridge that predicts left-out queries best; features have the mean 0."""
    constant = float(target.mean())
    centred = target - constant
    best: tuple[float, _Floats] = (np.inf, np.zeros(len(FEATURES)))
    for ridge in _RIDGES:
        inverse = np.linalg.inv(features.T @ features + ridge * np.eye(features.shape[1]))
        weights = inverse @ features.T @ centred
        # The error on each query left out, without fitting again: residual / (1 - leverage).
        leverage = np.einsum("qf,fg,qg->q", features, inverse, features) + 1 / len(target)
        error = float((((centred - features @ weights) / (1 - leverage)) ** 2).mean())
        if error < best[0]:
            best = (error, weights)
    return constant, best[1]
