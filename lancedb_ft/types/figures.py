"""Figures with their intervals: of one retriever, and of two compared."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ["DEFAULT_METRICS", "Comparison", "Delta", "Estimate", "Evaluation"]

#: The metrics of every report, in the order they are shown.
DEFAULT_METRICS = ("ndcg@10", "mrr@10", "recall@100", "hit@5", "hit@10")


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` queries with its 95 % bootstrap interval."""

    mean: float
    ci95: tuple[float, float]
    n: int

    def to_dict(self) -> dict[str, Any]:
        """``{"mean", "ci95"}``, the shape of the reports."""
        return {"mean": self.mean, "ci95": list(self.ci95)}

    def __str__(self) -> str:
        """``0.743 [0.718, 0.767]``."""
        return f"{self.mean:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"


@dataclass(frozen=True)
class Delta(Estimate):
    """A mean paired difference with its interval and the two-sided bootstrap p-value."""

    p: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """``{"mean", "ci95", "p"}``."""
        return {**super().to_dict(), "p": self.p}

    def __str__(self) -> str:
        """``+0.094 [+0.075, +0.113] p=0.000``."""
        return f"{self.mean:+.3f} [{self.ci95[0]:+.3f}, {self.ci95[1]:+.3f}] p={self.p:.3f}"


@dataclass(frozen=True)
class Evaluation:
    """Figures of one retriever on one query set.

    ``per_query`` holds ``{metric: {query_id: value}}``: what a paired comparison needs.
    """

    name: str
    n: int
    metrics: Mapping[str, Estimate]
    per_query: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """``{metric: {"mean", "ci95"}}``."""
        return {metric: estimate.to_dict() for metric, estimate in self.metrics.items()}


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the same queries, and the paired differences ``tuned - base``."""

    base: Evaluation
    tuned: Evaluation
    delta: Mapping[str, Delta]

    @property
    def n(self) -> int:
        """Number of queries that both answered."""
        return self.base.n

    def to_dict(self) -> dict[str, Any]:
        """``{"n", "base", "tuned", "delta"}``."""
        return {
            "n": self.n,
            "base": self.base.to_dict(),
            "tuned": self.tuned.to_dict(),
            "delta": {metric: delta.to_dict() for metric, delta in self.delta.items()},
        }
