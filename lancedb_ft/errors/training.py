"""Training."""

from __future__ import annotations

from lancedb_ft.errors.base import LancedbFtError

__all__ = [
    "NoGainError",
    "RegressionError",
    "TrainingError",
]


class TrainingError(LancedbFtError):
    """Training could not be run or finished."""


class NoGainError(TrainingError):
    """No checkpoint was better than the base model on the dev set. Nothing was saved.

    ``ci95`` is the interval of the gain, where it has to be above zero.
    """

    exit_code = 3

    def __init__(
        self,
        *,
        metric: str,
        base: float,
        best: float,
        n_queries: int,
        than: str = "the base model",
        ci95: tuple[float, float] | None = None,
    ) -> None:
        self.metric = metric
        self.base = base
        self.best = best
        self.n_queries = n_queries
        self.than = than
        self.ci95 = ci95
        told, more = "", "More"
        if ci95 is not None and best > base:
            told = f" by more than chance (95 % interval [{ci95[0]:+.4f}, {ci95[1]:+.4f}])"
            more = "More dev queries, more"
        super().__init__(
            f"No checkpoint beats {than} on the dev set{told}: {metric} {best:.4f} at best, base "
            f"{base:.4f} (n = {n_queries}). Nothing was saved, keep {than}. {more} or "
            "cleaner pairs, or a lower learning rate, may change that."
        )


class RegressionError(TrainingError):
    """What gains on the dev set loses more than allowed on a probe. Nothing was saved."""

    exit_code = 3

    def __init__(
        self,
        *,
        probe: str,
        base: float,
        tuned: float,
        n_queries: int,
        max_regression: float,
        metric: str,
        probe_metric: str = "ndcg@10",
        dev_base: float,
        dev_tuned: float,
    ) -> None:
        self.probe = probe
        self.base = base
        self.tuned = tuned
        self.n_queries = n_queries
        self.max_regression = max_regression
        self.metric = metric
        self.probe_metric = probe_metric
        self.dev_base = dev_base
        self.dev_tuned = dev_tuned
        super().__init__(
            f"Whatever beats the base model on the dev set forgets too much: on {probe!r} "
            f"{probe_metric} falls from {base:.4f} to {tuned:.4f} (n = {n_queries}), and "
            f"{max_regression:g} is allowed, where {metric} on dev rises most, from "
            f"{dev_base:.4f} to {dev_tuned:.4f}. "
            "Nothing was saved. Use a lower learning rate, go part of the way with "
            "interpolate=True (--interpolate), train on older data too with replay= (--replay), or "
            "allow more with max_regression= (--max-regression)."
        )
