"""The arguments that decide what a training run gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lancedb_ft.arguments import check_whole
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.metrics import parse_metric
from lancedb_ft.train.checks import (
    check_above_0,
    check_max_tokens,
    check_rate,
    check_seed,
    check_share,
    whole_from,
)
from lancedb_ft.train.losses import require_loss

__all__ = [
    "EVALUATIONS_PER_EPOCH",
    "LEARNING_RATES",
    "POOLINGS",
    "SPEARMAN",
    "TrainingConfig",
    "default_learning_rate",
]

#: Peak learning rates where none is given, by the largest number of dimensions they are for.
#: all-MiniLM-L6-v2 (384), 6,000 pairs of tldr, nDCG@10 on test: base .385, at 5e-5 .453, at 1e-4
#: .463, at 2e-4 .456.
#: Larger models forget more at such rates; theirs is what sentence-transformers' examples use.
LEARNING_RATES = {384: 1e-4, None: 2e-5}

#: Dev evaluations an epoch where no interval is given.
EVALUATIONS_PER_EPOCH = 4

#: How the vectors of tokens become that of a text.
POOLINGS = ("mean", "cls")

#: The metric of scored pairs.
SPEARMAN = "spearman"


@dataclass(frozen=True)
class TrainingConfig:
    """How to train; recorded in the manifest as it stands here.

    Parameters
    ----------
    loss
        A key of `LOSSES`; None for that of each set, see `lancedb_ft.train.examples.default_loss`.
    epochs
        Passes over the data, 1 or more.
    batch_size
        Rows a step, 1 or more; with in-batch negatives also how many documents each query is told
        from. On several processes: of each.
    learning_rate
        Peak of the schedule: linear warm-up, then linear to 0. None: by the size of the model, see
        `LEARNING_RATES`.
    warmup
        Share of the steps that warm up, 0 up to below 1.
    raise_warmup
        Warm up for longer when the loss oscillates early, see `lancedb_ft.train.warmup`.
    max_tokens
        Longer texts are cut in training and in dev evaluations; the saved model keeps its own
        limit. None: the model's own.
    seed
        Of the order of the rows and of the choice of the dev set.
    eval_steps
        Steps between dev evaluations; None: `EVALUATIONS_PER_EPOCH`.
    metric
        What decides which checkpoint is the best: ``ndcg@10`` and the like, or ``spearman`` for
        scored pairs. None: that of the dev set.
    early_stopping
        Stop when so many evaluations in a row did not beat the best one; None: never.
    temperature
        Divides the similarities before the softmax of the loss, above 0; None for the loss's own.
    matryoshka_dims
        Shorter lengths of the vectors to train as well, see `lancedb_ft.train.losses.build_loss`.
    cached
        Use the cached form of a loss that has one, see `lancedb_ft.train.losses.CACHED_FORMS`.
    mini_batch_size
        Texts of one forward pass of a cached loss.
    guide
        The model that tells false negatives, for GISTEmbed; None for the base model.
    lora_rank
        Train adapters of this rank beside the frozen weights (arXiv:2106.09685), merged on save.
    pooling
        ``mean`` or ``cls``; None for the model's own.
    negatives
        Hard negatives mined for each pair before the first step, see `lancedb_ft.train.negatives`.
    curriculum
        Stages that the negatives of each row are divided into, 2 or more: the first epochs are
        trained on the easiest, the last on the hardest, see `lancedb_ft.data.mine.curriculum`.

    Raises
    ------
    InputError
        A value is out of its range, or names something that does not exist.
    """

    loss: str | None = None
    epochs: int = 1
    batch_size: int = 64
    learning_rate: float | None = None
    warmup: float = 0.1
    raise_warmup: bool = False
    max_tokens: int | None = 128
    seed: int = 0
    eval_steps: int | None = None
    metric: str | None = None
    early_stopping: int | None = None
    temperature: float | None = None
    matryoshka_dims: tuple[int, ...] = ()
    cached: bool = False
    mini_batch_size: int = 32
    guide: str | None = None
    lora_rank: int | None = None
    pooling: str | None = None
    negatives: int = 0
    curriculum: int | None = None

    def __post_init__(self) -> None:
        """Reject what would fail, or mean nothing, hours later."""
        lengths = _lengths("matryoshka_dims", self.matryoshka_dims)
        object.__setattr__(self, "matryoshka_dims", lengths)
        for name, check in _CHECKS.items():
            value = getattr(self, name)
            if value is not None:
                check(name, value)

    def interval(self, steps_per_epoch: int) -> int:
        """Return the number of steps from one dev evaluation to the next."""
        if self.eval_steps is not None:
            return self.eval_steps
        return max(1, math.ceil(steps_per_epoch / EVALUATIONS_PER_EPOCH))

    def to_dict(self) -> dict[str, Any]:
        """Return every argument by name."""
        return {**asdict(self), "matryoshka_dims": list(self.matryoshka_dims)}


def default_learning_rate(dims: int) -> float:
    """Return the peak learning rate for a model by the length of its vectors."""
    fitting = [top for top in LEARNING_RATES if top is not None and dims <= top]
    return LEARNING_RATES[min(fitting, default=None)]


# --- checks --------------------------------------------------------------------------------


def _metric(name: str, value: Any) -> None:
    if value != SPEARMAN:
        parse_metric(value)


def _pooling(name: str, value: Any) -> None:
    if value not in POOLINGS:
        raise InputError(f"{name} is {value!r}; it must be one of {', '.join(POOLINGS)}.")


def _lengths(name: str, value: Any) -> tuple[int, ...]:
    """Return lengths of vectors as a tuple; what cannot be one is told before it is iterated."""
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {value!r}; it must be several lengths, such as (256, 128).")
    found = tuple(value)
    for dims in found:
        check_whole(f"each of {name}", dims, least=1)
    return found


_CHECKS: Mapping[str, Callable[[str, Any], Any]] = {
    "loss": lambda name, value: require_loss(value),
    "metric": _metric,
    "epochs": whole_from(1),
    "batch_size": whole_from(1),
    "seed": check_seed,
    "negatives": whole_from(0, 100),
    "curriculum": whole_from(2, 100),
    "eval_steps": whole_from(1),
    "max_tokens": check_max_tokens,
    "early_stopping": whole_from(1),
    "mini_batch_size": whole_from(1),
    "lora_rank": whole_from(1),
    "learning_rate": check_rate,
    "warmup": check_share,
    "temperature": check_above_0,
    "pooling": _pooling,
}
