"""The arguments that decide what the training of a reranker gives."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from lancedb_ft.arguments import check_whole
from lancedb_ft.evaluate import parse_metric
from lancedb_ft.train.checks import check_rate, check_seed, check_share
from lancedb_ft.train.config import EVALUATIONS_PER_EPOCH
from lancedb_ft.train.rerankers.losses import require_reranker_loss

__all__ = ["RERANKER_RATES", "RerankerConfig"]

#: Peak learning rates where none is given, by the largest width of the network they are for.
RERANKER_RATES = {384: 1e-4, None: 2e-5}


@dataclass(frozen=True)
class RerankerConfig:
    """How to train; recorded in the manifest as it stands here.

    Parameters
    ----------
    loss
        A key of `RERANKER_LOSSES`: ``bce``, ``lambda`` or ``listwise``.
    epochs
        Passes over the queries, 1 or more.
    batch_size
        Queries a step, each with all its texts; 1 or more.
    learning_rate
        Peak of the schedule: linear warm-up, then linear to 0. None: by the width of the network,
        see `RERANKER_RATES`.
    warmup
        Share of the steps that warm up, 0 up to below 1.
    max_tokens
        Longer pairs of query and text are cut in training and in dev evaluations.
    n_negatives
        Texts that do not answer, at most so many a query: of given ones the first.
    seed
        Of the new head, the order of the queries, and the choice of dev queries and negatives.
    eval_steps
        Steps between dev evaluations; None: `EVALUATIONS_PER_EPOCH`.
    metric
        What decides which checkpoint is the best, such as ``ndcg@10``.

    Raises
    ------
    InputError
        A value is out of its range, or names something that does not exist.
    """

    loss: str = "bce"
    epochs: int = 1
    batch_size: int = 16
    learning_rate: float | None = None
    warmup: float = 0.1
    max_tokens: int = 256
    n_negatives: int = 4
    seed: int = 0
    eval_steps: int | None = None
    metric: str = "ndcg@10"

    def __post_init__(self) -> None:
        """Reject what would fail, or mean nothing, hours later."""
        require_reranker_loss(self.loss)
        parse_metric(self.metric)
        check_seed("seed", self.seed)
        least = {"epochs": 1, "batch_size": 1, "max_tokens": 16, "n_negatives": 1}
        if self.eval_steps is not None:
            least["eval_steps"] = 1
        for name, low in least.items():
            check_whole(name, getattr(self, name), least=low)
        if self.learning_rate is not None:
            check_rate("learning_rate", self.learning_rate)
        check_share("warmup", self.warmup)

    def for_width(self, width: int) -> RerankerConfig:
        """Return the arguments with the learning rate filled in for a network of that width."""
        if self.learning_rate is not None:
            return self
        fitting = [top for top in RERANKER_RATES if top is not None and width <= top]
        return replace(self, learning_rate=RERANKER_RATES[min(fitting, default=None)])

    def rate_at(self, step: int, n_steps: int) -> float:
        """Return the learning rate of a step, counted from 0."""
        peak = self.learning_rate if self.learning_rate is not None else RERANKER_RATES[None]
        n_warm = round(self.warmup * n_steps)
        if step < n_warm:
            return peak * (step + 1) / n_warm
        return peak * (n_steps - step) / max(1, n_steps - n_warm)

    def steps_per_epoch(self, n_lists: int) -> int:
        """Return the number of batches that so many lists make."""
        return -(-n_lists // self.batch_size)

    def interval(self, n_lists: int) -> int:
        """Return the number of steps from one dev evaluation to the next."""
        per_epoch = self.steps_per_epoch(n_lists)
        return self.eval_steps or max(1, math.ceil(per_epoch / EVALUATIONS_PER_EPOCH))

    def to_dict(self) -> dict[str, Any]:
        """Return every argument by name."""
        return asdict(self)
