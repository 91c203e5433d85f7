"""The losses, by name. A new one is one more entry."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LOSSES", "Loss", "require_loss"]


@dataclass(frozen=True)
class Loss:
    """A loss over pairs or triplets of texts.

    Parameters
    ----------
    name
        What users call it.
    description
        One line, for listings.
    build
        Makes the loss of sentence-transformers around a model.
    in_batch_negatives
        The other documents of a batch are its negatives: a batch of one pair without a negative of
        its own teaches nothing.
    """

    name: str
    description: str
    build: Callable[[Any], nn.Module]
    in_batch_negatives: bool


def _multiple_negatives_ranking(model: Any) -> nn.Module:
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    return MultipleNegativesRankingLoss(model)


#: Every loss that ``train(loss=...)`` accepts.
LOSSES: Mapping[str, Loss] = {
    "mnrl": Loss(
        name="mnrl",
        description=(
            "MultipleNegativesRankingLoss: the right document against all others of the batch "
            "(InfoNCE, temperature 0.05; arXiv:1705.00652, 1807.03748)"
        ),
        build=_multiple_negatives_ranking,
        in_batch_negatives=True,
    ),
}


def require_loss(name: str) -> Loss:
    """Return the loss of that name.

    Raises
    ------
    InputError
        There is none; the error lists those there are.
    """
    if name not in LOSSES:
        known = ", ".join(f"{loss.name!r} ({loss.description})" for loss in LOSSES.values())
        raise InputError(f"There is no loss {name!r}. There is: {known}.")
    return LOSSES[name]
