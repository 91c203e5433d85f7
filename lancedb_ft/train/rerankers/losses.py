"""The losses of rerankers, by name. A new one is one more entry.

Each is a sum over the lists of a batch, divided by a number that the labels alone tell. So a batch
can be computed in parts, whatever fits into memory, with the gradients of the whole.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from lancedb_ft.errors import InputError

if TYPE_CHECKING:
    import torch

    #: Of scores, labels and mask, shape (lists, texts) each; the mask is False where a list is
    #: shorter than the longest.
    Total: TypeAlias = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]

__all__ = ["RERANKER_LOSSES", "RerankerLoss", "require_reranker_loss"]

#: NDCG-Loss2++ is so many times NDCG-Loss2, and LambdaRank.
_MU = 10.0


@dataclass(frozen=True)
class RerankerLoss:
    """A loss over a query's texts.

    Parameters
    ----------
    name
        What users call it.
    description
        One line, for listings.
    total
        The sum over some lists.
    count
        What the sum over a whole batch is divided by.
    compares
        It learns from differences within a list: one whose labels are all alike teaches nothing.
    """

    name: str
    description: str
    total: Total
    count: Total
    compares: bool


def _bce(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    import torch

    each = torch.nn.functional.binary_cross_entropy_with_logits(scores, labels, reduction="none")
    return each[mask].sum()


def _texts(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask.sum()


def _listwise(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    gains = labels.masked_fill(~mask, 0.0)
    shares = gains / gains.sum(dim=1, keepdim=True).clamp(min=1e-9)
    logs = scores.masked_fill(~mask, float("-inf")).log_softmax(dim=1)
    return -(shares * logs.masked_fill(~mask, 0.0)).sum()


def _lists(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return mask.any(dim=1).sum()


def _lambda(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    import torch

    order = scores.masked_fill(~mask, float("-inf")).argsort(dim=1, descending=True)
    scores, labels, mask = (t.gather(1, order) for t in (scores, labels, mask))
    n_texts = scores.shape[1]
    ranks = torch.arange(1, n_texts + 1, device=scores.device)
    discount = torch.log2(1.0 + ranks)
    gains = (2.0**labels - 1).masked_fill(~mask, 0.0)
    best = (gains.sort(dim=1, descending=True).values / discount).sum(dim=1, keepdim=True)
    gains = gains / best.clamp(min=1e-10)
    differences = (gains[:, :, None] - gains[:, None, :]).abs()
    # LambdaRank: what swapping two texts would change. Loss2: a tighter bound, by their distance.
    swap = (1 / discount[:, None] - 1 / discount[None, :]).abs()
    apart = (ranks[:, None] - ranks[None, :]).abs()
    near = 1 / torch.log2(1.0 + apart.clamp(min=1)) - 1 / torch.log2(2.0 + apart.clamp(min=1))
    weights = (_MU * near.fill_diagonal_(0.0) + swap) * differences
    logs = torch.nn.functional.logsigmoid(scores[:, :, None] - scores[:, None, :])
    return -(weights * logs / torch.log(torch.tensor(2.0)))[_ordered(labels, mask)].sum()


def _ordered(labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Say of which two texts the first is the better one."""
    both = mask[:, :, None] & mask[:, None, :]
    return both & (labels[:, :, None] > labels[:, None, :])


def _comparisons(scores: torch.Tensor, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    return _ordered(labels, mask).sum()


#: Every loss that ``train_reranker(loss=...)`` accepts.
RERANKER_LOSSES: Mapping[str, RerankerLoss] = {
    "bce": RerankerLoss(
        name="bce",
        description="each text alone: does it answer? (binary cross-entropy)",
        total=_bce,
        count=_texts,
        compares=False,
    ),
    "lambda": RerankerLoss(
        name="lambda",
        description=(
            "each two texts in the right order, weighted by what their swap does to nDCG "
            "(LambdaLoss, NDCG-Loss2++; Wang et al., CIKM 2018)"
        ),
        total=_lambda,
        count=_comparisons,
        compares=True,
    ),
    "listwise": RerankerLoss(
        name="listwise",
        description=(
            "the right texts out of the list (softmax cross-entropy; ListNet, Cao et al., ICML "
            "2007, with shares of the grades as target)"
        ),
        total=_listwise,
        count=_lists,
        compares=True,
    ),
}


def require_reranker_loss(name: str) -> RerankerLoss:
    """Return the loss of that name.

    Raises
    ------
    InputError
        There is none; the error lists those there are.
    """
    if name not in RERANKER_LOSSES:
        known = ", ".join(f"{one.name!r} ({one.description})" for one in RERANKER_LOSSES.values())
        raise InputError(f"There is no loss {name!r} for rerankers. There is: {known}.")
    return RERANKER_LOSSES[name]
