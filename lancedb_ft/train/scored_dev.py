"""A dev set of scored pairs: measured is whether cosines rank them as their scores do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from lancedb_ft.data.texts import stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.queries import TextEncoder, vectors_of
from lancedb_ft.train.config import SPEARMAN
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Estimate, Evaluation

__all__ = ["ScoredDevSet", "make_scored_dev_set", "spearman"]

#: Dev pairs at most; so many give an interval of about 0.03 to either side at a correlation of .7.
MAX_PAIRS = 1_500
N_RESAMPLES = 1_000


@dataclass(frozen=True)
class ScoredDevSet:
    """Held-out pairs of texts with a score.

    Parameters
    ----------
    left, right, scores
        One entry a pair.
    """

    left: Sequence[str] = field(repr=False)
    right: Sequence[str] = field(repr=False)
    scores: Sequence[float] = field(repr=False)

    @property
    def metric(self) -> str:
        """Spearman's rank correlation, the measure of the STS benchmarks."""
        return SPEARMAN

    @property
    def n_queries(self) -> int:
        """Number of pairs."""
        return len(self.scores)

    @property
    def n_documents(self) -> int:
        """Number of pairs."""
        return len(self.scores)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all pairs in order."""
        digest = hashlib.sha256(b"scored")
        for row in zip(self.left, self.right, self.scores, strict=True):
            digest.update("\x1f".join(map(str, row)).encode("utf-8", "surrogatepass") + b"\x1e")
        return digest.hexdigest()

    def check_metric(self, metric: str) -> None:
        """Raise `InputError` for any other metric."""
        if metric != SPEARMAN:
            raise InputError(
                f"metric is {metric!r}; scored pairs are measured by {SPEARMAN!r}. Pass dev= pairs "
                "of queries and documents to decide by a metric of retrieval."
            )

    def measure(self, encoder: TextEncoder, metric: str, *, name: str = "") -> Evaluation:
        """Correlate cosines with scores.

        Returns
        -------
        Evaluation
            With a 95 % percentile interval from a bootstrap over pairs.
        """
        self.check_metric(metric)
        n = len(self.scores)
        vectors = encoder.encode([*self.left, *self.right], kind="document")
        _, matrix = vectors_of(vectors, 2 * n, "texts")
        matrix = matrix / np.maximum(np.linalg.norm(matrix, axis=1, keepdims=True), 1e-12)
        cosines = (matrix[:n].astype(np.float64) * matrix[n:]).sum(axis=1)
        return Evaluation(name, n, {SPEARMAN: _estimate(cosines, np.asarray(self.scores))})


def make_scored_dev_set(dev: TrainingSet, *, seed: int) -> ScoredDevSet:
    """Take held-out scored pairs, at most `MAX_PAIRS`, chosen by ``seed``.

    Raises
    ------
    InputError
        There are fewer than two pairs, or all have the same score: nothing can be ranked.
    """
    rows = dev.table.to_pylist()
    if len(rows) > MAX_PAIRS:
        rows.sort(key=lambda row: stable_key(seed, f"{row['sentence1']}\x1f{row['sentence2']}"))
        rows = rows[:MAX_PAIRS]
    scores = [float(row["score"]) for row in rows]
    if len(set(scores)) < 2:
        raise InputError(
            f"The dev set has {len(rows)} scored pairs with {len(set(scores))} different scores: "
            "there is nothing to rank. Pass more pairs."
        )
    return ScoredDevSet(
        [row["sentence1"] for row in rows], [row["sentence2"] for row in rows], scores
    )


def spearman(left: npt.ArrayLike, right: npt.ArrayLike) -> float:
    """Return Spearman's rank correlation, from -1 to 1; equal values share their mean rank.

    0 where either side has one value only: nothing is ranked.

    Examples
    --------
    >>> spearman([1, 2, 3], [10, 20, 90])
    1.0
    """
    a, b = (ranks - ranks.mean() for ranks in (_ranks(left), _ranks(right)))
    length = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float(np.clip((a * b).sum() / length, -1.0, 1.0)) if length > 0 else 0.0


def _ranks(values: npt.ArrayLike) -> npt.NDArray[np.float64]:
    _, inverse, counts = np.unique(np.asarray(values), return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    means: npt.NDArray[np.float64] = ends - (counts - 1) / 2.0
    return means[inverse]


def _estimate(cosines: npt.NDArray[np.float64], scores: npt.NDArray[np.float64]) -> Estimate:
    n = len(scores)
    rng = np.random.default_rng(0)
    draws = (rng.integers(n, size=n) for _ in range(N_RESAMPLES))
    resampled = [spearman(cosines[rows], scores[rows]) for rows in draws]
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Estimate(spearman(cosines, scores), (float(low), float(high)), n)
