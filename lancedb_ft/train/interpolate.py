"""Weights between the base model and a tuned one: a cheap guard against forgetting.

``(1 - alpha) * base + alpha * tuned``, for each weight. Between the two ends much of the gain is
kept while little is lost elsewhere (WiSE-FT, arXiv:2109.01903; for embedding models LM-Cocktail,
arXiv:2311.13534). alpha is chosen on the dev set, and 1, the tuned model as it is, may win.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.arguments import is_number
from lancedb_ft.errors import InputError, NoGainError, RegressionError
from lancedb_ft.train.probe import Watch

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = [
    "COARSE",
    "Trial",
    "best_trial",
    "interpolate",
    "require_alphas",
    "try_alphas",
    "weights_of",
]

#: What is tried between the two ends, and how far from the best of them once more on either side.
COARSE, FINE_STEP = (0.25, 0.5, 0.75), 0.125


@dataclass(frozen=True)
class Trial:
    """What a model between base and tuned reaches.

    Parameters
    ----------
    alpha
        0 is the base, 1 the tuned model.
    value
        The dev figure that decides.
    dev
        Dev figures, ``{metric: {"mean", "ci95"}}``.
    probes
        Figures of the probes, as `Watch.measure` gives them.
    allowed
        Whether no probe lost more than it may.
    """

    alpha: float
    value: float
    dev: Mapping[str, Any] = field(repr=False)
    probes: Mapping[str, Any] = field(default_factory=dict, repr=False)
    allowed: bool = True

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest says: no values of single queries."""
        probes = {
            name: {"mean": figures["mean"], "ci95": figures["ci95"]}
            for name, figures in self.probes.items()
        }
        return {
            "alpha": self.alpha,
            "dev": dict(self.dev),
            "probe": probes,
            "allowed": self.allowed,
        }


def interpolate(
    base: Mapping[str, torch.Tensor], tuned: Mapping[str, torch.Tensor], alpha: float
) -> dict[str, torch.Tensor]:
    """Return the weights between two models of one architecture.

    Parameters
    ----------
    base, tuned
        State dicts with the same keys and shapes.
    alpha
        0 gives ``base``, 1 gives ``tuned``, exactly.

    Raises
    ------
    InputError
        The models differ in more than their weights, or ``alpha`` is not from 0 to 1.

    Examples
    --------
    >>> import torch
    >>> interpolate({"w": torch.zeros(2)}, {"w": torch.tensor([1.0, 2.0])}, 0.5)
    {'w': tensor([0.5000, 1.0000])}
    """
    import torch

    require_alphas([alpha])
    strange = sorted(set(base) ^ set(tuned)) or sorted(
        key for key in base if base[key].shape != tuned[key].shape
    )
    if strange:
        raise InputError(
            f"There is nothing between these two models: {strange[0]!r} is not the same in both "
            f"({len(strange)} such weights). They must be of one architecture and vocabulary; name "
            "the model that the tuned one was trained from."
        )
    return {
        key: torch.lerp(weights.float(), tuned[key].to(weights.device).float(), alpha).to(
            weights.dtype
        )
        if weights.is_floating_point()
        else tuned[key]
        for key, weights in base.items()
    }


def require_alphas(alphas: Sequence[float]) -> None:
    """Raise `InputError` unless there are some, all of them from 0 to 1."""
    several = isinstance(alphas, Sequence) and not isinstance(alphas, str)
    if not several or not alphas or not all(is_number(a) and 0 <= a <= 1 for a in alphas):
        raise InputError(
            f"alphas are {alphas!r}; they must be several numbers, such as (0.25, 0.5), each from "
            "0, the base, to 1, the tuned model."
        )


def weights_of(model: SentenceTransformer) -> dict[str, torch.Tensor]:
    """Return a copy of the weights, which further changes of the model leave alone."""
    return {key: value.detach().clone() for key, value in model.state_dict().items()}


def try_alphas(
    measure: Callable[[float], Trial],
    *,
    alphas: Sequence[float] | None = None,
    known: Sequence[Trial] = (),
) -> list[Trial]:
    """Measure models between base and tuned.

    Parameters
    ----------
    measure
        Measures one.
    alphas
        What to try. None: 0, 0.25, 0.5, 0.75 and 1, then an eighth to either side of the best.
    known
        Trials that need not be measured again, such as both ends.

    Returns
    -------
    list of Trial
        By alpha, each once.
    """
    trials = {trial.alpha: trial for trial in known}

    def ask(wanted: Sequence[float]) -> None:
        for alpha in wanted:
            if alpha not in trials:
                trials[alpha] = measure(alpha)

    if alphas is not None:
        require_alphas(alphas)
        ask([float(alpha) for alpha in alphas])
    else:
        ask((0.0, *COARSE, 1.0))
        best = max(_ranked(trials.values()), key=lambda trial: trial.value)
        ask([a for a in (best.alpha - FINE_STEP, best.alpha + FINE_STEP) if 0 < a < 1])
    return [trials[alpha] for alpha in sorted(trials)]


def _ranked(trials: Any) -> list[Trial]:
    """Return the trials that are allowed, or all if none is."""
    return [trial for trial in trials if trial.allowed] or list(trials)


def best_trial(trials: Sequence[Trial], watch: Watch, *, metric: str, n_queries: int) -> Trial:
    """Return the best trial of those that lose no more than they may; of equals the lowest alpha.

    Parameters
    ----------
    trials
        That of alpha 0, the base, among them.
    watch
        Knows the probes and their limit.
    metric, n_queries
        Of the dev set, for errors.

    Raises
    ------
    NoGainError
        None beats the base on dev.
    RegressionError
        Those that beat it lose too much on a probe.
    """
    base = next(trial for trial in trials if trial.alpha == 0)
    better = [trial for trial in trials if trial.value > base.value]
    if not better:
        top = max(trial.value for trial in trials)
        raise NoGainError(metric=metric, base=base.value, best=top, n_queries=n_queries)
    allowed = [trial for trial in better if trial.allowed]
    if allowed:
        return max(allowed, key=lambda trial: (trial.value, -trial.alpha))
    raise regression(
        watch,
        max(better, key=lambda trial: trial.value).probes,
        metric=metric,
        gain=(base.value, max(trial.value for trial in better)),
    )


def regression(
    watch: Watch, figures: Mapping[str, Any], *, metric: str, gain: tuple[float, float]
) -> RegressionError:
    """Return the error that tells which probe lost how much.

    Parameters
    ----------
    watch
        Knows the base and the limit.
    figures
        Of the probes, for the model that is best on dev.
    metric, gain
        The dev figure of the base and of that model.
    """
    name = watch.worst(figures)
    base, found = watch.figures[0][name], figures[name]
    return RegressionError(
        probe=name,
        base=float(base["mean"]),
        tuned=float(found["mean"]),
        n_queries=int(found["n"]),
        probe_metric=next(probe.metric for probe in watch.probes if probe.name == name),
        max_regression=float(watch.max_regression or 0.0),
        metric=metric,
        dev_base=gain[0],
        dev_tuned=gain[1],
    )
