"""Fitting a query adapter: matrices in, matrices out.

The documents' vectors never change, so they are computed once, and a step costs one small matrix
product: thousands of documents are told from the right one at each, and an epoch of 6,000 pairs
takes half a second on one core.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.encoder.query_adapter import adapted
from lancedb_ft.errors import InputError, TrainingError
from lancedb_ft.evaluate.metrics import parse_metric
from lancedb_ft.store.query_adapter import QueryAdapter
from lancedb_ft.train.checks import check_rate, check_seed

if TYPE_CHECKING:
    import torch

__all__ = ["AdapterConfig", "Examples", "fit_adapter"]

_Floats = npt.NDArray[np.float32]
_Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class AdapterConfig:
    """How a query adapter is trained; recorded in the manifest as it stands here.

    Parameters
    ----------
    rank
        Of a low-rank adapter; None for a full matrix.
    epochs
        Passes over the pairs; the best one on dev is kept.
    batch_size
        Pairs a step.
    learning_rate
        At the first step, falling to 0. None: 3e-4 for a full matrix, 1e-3 for a low rank.
    temperature
        Divides the cosines before the softmax.
    negatives
        Documents of the corpus, drawn anew at each step, that a query is told from beside those of
        the other pairs in the batch.
    identity
        Weight of the mean squared distance between a query's vector before and after: how hard the
        adapter is held to change nothing.
    seed
        Of the order of the pairs, the documents drawn, and the start of a low-rank adapter.
    metric
        What decides which epoch is the best.

    Raises
    ------
    InputError
        A value is out of its range.

    Notes
    -----
    Measured with all-MiniLM-L6-v2 on 6,000 pairs of tldr, nDCG@10 on test (n = 2,571), base .385:
    full matrix .409, rank 64 .408, an MLP with 256 hidden units .411, which is no gain worth a
    third kind. Temperature .05 gives .406 to .409, .03 .404, .1 .396. With 1,024 documents drawn a
    step .408, with 4,096 .409, at a third of the time. Holding it to the identity does not help
    there (1: .408, 3: .406) nor on 560 pairs of scifact (test .640, without and with 1: .646, the
    first of 16 epochs being the best): keeping the best epoch is what guards it, so ``identity`` is
    0 unless asked for.
    """

    rank: int | None = None
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float | None = None
    temperature: float = 0.05
    negatives: int = 1024
    identity: float = 0.0
    seed: int = 0
    metric: str = "ndcg@10"

    def __post_init__(self) -> None:
        """Reject what would fail or mean nothing."""
        parse_metric(self.metric)
        check_seed("seed", self.seed)
        for name, least in (("epochs", 1), ("batch_size", 1), ("negatives", 0)):
            check_whole(name, getattr(self, name), least=least)
        if self.rank is not None:
            check_whole("rank", self.rank, least=1)
        if self.learning_rate is not None:
            check_rate("learning_rate", self.learning_rate)
        if not is_number(self.temperature) or not 0 < self.temperature <= 1:
            raise InputError(
                f"temperature is {self.temperature!r}; it must be a number above 0 and at most 1."
            )
        if not is_number(self.identity) or not 0 <= self.identity < math.inf:
            raise InputError(f"identity is {self.identity!r}; it must be a number, 0 or more.")

    @property
    def kind(self) -> str:
        """A key of `lancedb_ft.store.query_adapter.KINDS`."""
        return "linear" if self.rank is None else "low-rank"

    @property
    def rate(self) -> float:
        """The learning rate at the first step."""
        if self.learning_rate is not None:
            return float(self.learning_rate)
        return 3e-4 if self.rank is None else 1e-3

    def to_dict(self) -> dict[str, Any]:
        """Return every argument by name, the learning rate filled in."""
        return {**asdict(self), "learning_rate": self.rate}


@dataclass(frozen=True)
class Examples:
    """What an adapter is fitted to.

    Parameters
    ----------
    queries
        The model's vectors of the distinct queries, before any truncation, shape (n, width).
    documents
        Vectors of the documents as they are served, of length 1, shape (m, dims); no text twice.
    pairs
        Rows of ``queries`` and ``documents`` that belong together, shape (pairs, 2).
    """

    queries: _Floats
    documents: _Floats
    pairs: _Rows

    def positives(self) -> list[list[int]]:
        """Return for each query the rows of its documents: never negatives of one another."""
        found: list[list[int]] = [[] for _ in range(len(self.queries))]
        for query, document in self.pairs.tolist():
            found[query].append(document)
        return found


def fit_adapter(
    examples: Examples,
    config: AdapterConfig,
    *,
    after_step: Callable[[int, float, float], None],
    after_epoch: Callable[[int, QueryAdapter], None],
) -> None:
    """Fit an adapter by the cross entropy of the right document among many (InfoNCE).

    Parameters
    ----------
    examples, config
        What to fit to, and how.
    after_step
        Called with the step, the loss and the learning rate.
    after_epoch
        Called with the epoch and the adapter as it is then.

    Raises
    ------
    TrainingError
        The loss is not a number any more.

    Notes
    -----
    van den Oord et al., "Representation Learning with Contrastive Predictive Coding",
    arXiv 1807.03748.
    """
    import torch

    dice = torch.Generator().manual_seed(config.seed)
    queries, documents = torch.tensor(examples.queries), torch.tensor(examples.documents)
    pairs = torch.tensor(examples.pairs)
    draw = _Drawer(examples.positives(), len(documents), config.negatives, dice)
    tensors = _start(queries.shape[1], config.rank, dice)
    optimizer = torch.optim.Adam(tensors.values(), lr=config.rate)
    n_steps, step = config.epochs * -(-len(pairs) // config.batch_size), 0
    for epoch in range(1, config.epochs + 1):
        shuffled = pairs[torch.randperm(len(pairs), generator=dice)]
        for batch in torch.split(shuffled, config.batch_size):
            rate = config.rate * (1 - step / n_steps)
            optimizer.param_groups[0]["lr"] = rate
            loss = _loss(tensors, queries[batch[:, 0]], documents, draw(batch), config)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            step += 1
            if not math.isfinite(value := loss.item()):
                raise TrainingError(
                    f"The training diverged at step {step} of {n_steps}: the loss is {value}. "
                    "Lower the learning rate."
                )
            after_step(step, value, rate)
        arrays = {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}
        after_epoch(epoch, QueryAdapter(config.kind, arrays))


def _start(width: int, rank: int | None, dice: torch.Generator) -> dict[str, torch.Tensor]:
    """Return the tensors of an adapter that changes nothing yet."""
    import torch

    shapes: dict[str, Sequence[int]] = {"bias": (width,)}
    shapes |= {"weight": (width, width)} if rank is None else {"up": (width, rank)}
    tensors = {name: torch.zeros(*shape) for name, shape in shapes.items()}
    if rank is not None:
        # As in LoRA: one factor random, the other zero, so that the product is zero and can move.
        tensors["down"] = torch.randn(rank, width, generator=dice) / width**0.5
    return {name: tensor.requires_grad_() for name, tensor in tensors.items()}


@dataclass(frozen=True)
class _Candidates:
    """The documents of one step: their rows, the right one of each pair, and which do not count."""

    rows: torch.Tensor
    labels: torch.Tensor
    masked: torch.Tensor


class _Drawer:
    """Draws the documents that the queries of a batch are told from."""

    def __init__(
        self, positives: list[list[int]], n_documents: int, negatives: int, dice: torch.Generator
    ) -> None:
        self._positives = positives
        self._n_documents = n_documents
        self._negatives = negatives
        self._dice = dice

    def __call__(self, batch: torch.Tensor) -> _Candidates:
        import torch

        right = batch[:, 1].contiguous()
        if self._negatives >= self._n_documents:
            rows = torch.arange(self._n_documents)
        else:
            drawn = torch.randint(self._n_documents, (self._negatives,), generator=self._dice)
            rows = torch.unique(torch.cat([right, drawn]))
        places = {row: place for place, row in enumerate(rows.tolist())}
        masked = torch.zeros(len(batch), len(rows), dtype=torch.bool)
        for line, (query, document) in enumerate(batch.tolist()):
            for other in self._positives[query]:
                if other != document and other in places:
                    masked[line, places[other]] = True
        return _Candidates(rows, torch.searchsorted(rows, right), masked)


def _loss(
    tensors: Mapping[str, torch.Tensor],
    queries: torch.Tensor,
    documents: torch.Tensor,
    candidates: _Candidates,
    config: AdapterConfig,
) -> torch.Tensor:
    from torch.nn.functional import cross_entropy, normalize

    turned = normalize(adapted(queries, tensors)[:, : documents.shape[1]], dim=1)
    scores = turned @ documents[candidates.rows].T / config.temperature
    loss = cross_entropy(scores.masked_fill(candidates.masked, -math.inf), candidates.labels)
    if config.identity:
        before = normalize(queries[:, : documents.shape[1]], dim=1)
        loss = loss + config.identity * (turned - before).square().sum(dim=1).mean()
    return loss
