"""The training loop of rerankers: steps, dev figures, checkpoints.

A loop of our own. sentence-transformers' losses tokenize inside the loss, pad by numbers of pairs
and hold a whole batch of lists in memory; here a batch is computed in parts of about equal length.
There is no dropout, so nothing is drawn by chance but the order, which follows from the seed: a run
that goes on from its checkpoint ends with the weights it would have had.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.encoder.tokens import BatchLimit, token_batches
from lancedb_ft.errors import StoreError
from lancedb_ft.evaluate import compare
from lancedb_ft.reranking import CrossEncoderModel, Scorer
from lancedb_ft.reranking.pairs import PairTokenizer
from lancedb_ft.train.compute import PLAIN_ATTENTION_TOKENS, Compute
from lancedb_ft.train.rerankers.config import RerankerConfig
from lancedb_ft.train.rerankers.data import LabelledTexts
from lancedb_ft.train.rerankers.dev import DevLists
from lancedb_ft.train.rerankers.losses import RerankerLoss, require_reranker_loss
from lancedb_ft.train.runs import Best, RunFolder, load_weights, save_weights, written
from lancedb_ft.train.steps import OnEvent, Steps, diverged
from lancedb_ft.types import Evaluation, Progress

if TYPE_CHECKING:
    import torch

__all__ = ["RerankerCourse", "fit_reranker"]

#: Pairs whose activations are held at once, on a CPU and on a GPU.
PAIRS_AT_ONCE = {"cpu": 32, "cuda": 512}
_MAX_NORM = 1.0
_WEIGHTS, _OPTIMIZER = "model.safetensors", "optimizer.pt"


class RerankerCourse(Steps):
    """Follows one run of `lancedb_ft.train.train_reranker`.

    Parameters
    ----------
    model
        In training; measured as it is at each step.
    dev
        What it is measured on. Step 0 is the model before training, with its new head if it is
        made of an embedder.
    config, run, compute
        See `fit_reranker`.
    interval, progress, on_event
        As in `Steps`.
    """

    def __init__(
        self,
        model: CrossEncoderModel,
        dev: DevLists,
        *,
        config: RerankerConfig,
        run: RunFolder,
        compute: Compute,
        interval: int,
        progress: Progress | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(
            run, metric=config.metric, interval=interval, progress=progress, on_event=on_event
        )
        self._model = model
        self._scorer = Scorer(model)
        self._dev = dev
        self._max_tokens = config.max_tokens
        self._compute = compute
        self._first_stage = dev.first_stage()

    def evaluate(self, step: int, n_steps: int) -> None:
        """Measure dev; its deciding metric has a ``gain``, paired with the first search, too."""
        found = self._measure(step)
        gain = compare(self._first_stage, found).delta[self._metric].to_dict()
        figures = found.to_dict()
        figures[self._metric] = {**figures[self._metric], "gain": gain}
        value = found.metrics[self._metric].mean
        best = self._run.best()
        # Of equals the earlier stays, so that a resumed run changes nothing.
        if step and (best is None or value > best.value):
            self._run.keep_best(self._model.network, Best(step, value))
        self.figures[step] = figures
        self._run.write_figures(self.figures)
        told = {"metric": self._metric, "value": value, "dev": figures, "probe": None}
        self.tell("evaluation", step=step, steps=n_steps, **told)

    def _measure(self, step: int) -> Evaluation:
        try:
            with self._compute.autocast():
                return self._dev.measure(self._scorer, max_tokens=self._max_tokens)
        except StoreError as error:
            if step == 0:
                raise
            raise diverged(step) from error


def fit_reranker(
    model: CrossEncoderModel,
    lists: Sequence[LabelledTexts],
    course: RerankerCourse,
    run: RunFolder,
    *,
    config: RerankerConfig,
    compute: Compute,
) -> None:
    """Train a cross-encoder in place, from the run's last checkpoint if it has one.

    Parameters
    ----------
    model
        In float32; ends with the weights of the last step.
    lists
        What to learn from.
    course
        Told of every step.
    run
        Where checkpoints go.
    config
        With its learning rate filled in.
    compute
        Device, precision, and most tokens of one forward pass.
    """
    import torch

    network = model.network
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.rate_at(0, 1), weight_decay=0.0)
    per_epoch = config.steps_per_epoch(len(lists))
    n_steps = per_epoch * config.epochs
    # Without the untrained model's figures there is nothing to compare with, so begin anew.
    done = (run.last_checkpoint() if course.figures else None) or 0
    if done:
        _load_checkpoint(network, optimizer, run.checkpoint_path(done))
    batch_loss = _BatchLoss(model, lists, config, compute)
    course.begin(done, n_steps)
    with _plain_attention(network, config.max_tokens, compute):
        for step in range(done, n_steps):
            rate = config.rate_at(step, n_steps)
            for group in optimizer.param_groups:
                group["lr"] = rate
            order = _order(len(lists), config.seed, step // per_epoch)
            start = step % per_epoch * config.batch_size
            loss = batch_loss.backward([lists[i] for i in order[start : start + config.batch_size]])
            if not math.isfinite(loss):
                raise diverged(step + 1)
            torch.nn.utils.clip_grad_norm_(network.parameters(), _MAX_NORM)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            course.after_loss(step + 1, n_steps, loss, rate)
            if course.after_step(step + 1, n_steps):
                _save_checkpoint(network, optimizer, run.checkpoint_path(step + 1))
                course.saved(step + 1)


def _order(n_lists: int, seed: int, epoch: int) -> list[int]:
    order = list(range(n_lists))
    random.Random(f"{seed}/{epoch}").shuffle(order)
    return order


class _BatchLoss:
    """The loss of a batch of lists, and its gradients, computed in parts."""

    def __init__(
        self,
        model: CrossEncoderModel,
        lists: Sequence[LabelledTexts],
        config: RerankerConfig,
        compute: Compute,
    ) -> None:
        limit = min(config.max_tokens, model.max_tokens)
        self._network = model.network
        self._tokenizer = PairTokenizer(model.tokenizer, limit)
        self._loss: RerankerLoss = require_reranker_loss(config.loss)
        self._compute = compute
        self._pairs_at_once = PAIRS_AT_ONCE.get(compute.device.partition(":")[0], 32)
        self._limit = BatchLimit(compute.chunk_tokens or 1 << 30, self._pairs_at_once)

    def backward(self, batch: Sequence[LabelledTexts]) -> float:
        """Add the gradients of a batch; return its loss."""
        _, labels, mask = self._matrices(batch)
        count = float(self._loss.count(labels, labels, mask))
        total = 0.0
        for part in self._parts(batch):
            places, labels, mask = self._matrices(part)
            scores = self._scores(part)
            matrix = scores.new_zeros(labels.shape)
            matrix[places] = scores
            loss = self._loss.total(matrix, labels, mask) / max(count, 1.0)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            total += loss.item()
        return total

    def _parts(self, batch: Sequence[LabelledTexts]) -> Iterator[list[LabelledTexts]]:
        part: list[LabelledTexts] = []
        n_pairs = 0
        for one in batch:
            if part and n_pairs + len(one.texts) > self._pairs_at_once:
                yield part
                part, n_pairs = [], 0
            part.append(one)
            n_pairs += len(one.texts)
        yield part

    def _matrices(self, lists: Sequence[LabelledTexts]) -> Any:
        """Return where each pair stands, and labels and mask, shape (lists, texts)."""
        import torch

        lengths = [len(one.texts) for one in lists]
        rows = torch.repeat_interleave(torch.arange(len(lists)), torch.tensor(lengths))
        columns = torch.cat([torch.arange(n) for n in lengths])
        labels = torch.zeros(len(lists), max(lengths))
        labels[rows, columns] = torch.tensor([x for one in lists for x in one.labels])
        mask = torch.zeros(labels.shape, dtype=torch.bool)
        mask[rows, columns] = True
        device = self._compute.device
        return (rows.to(device), columns.to(device)), labels.to(device), mask.to(device)

    def _scores(self, lists: Sequence[LabelledTexts]) -> torch.Tensor:
        import torch

        tokens = self._tokenizer.tokens([(one.query, text) for one in lists for text in one.texts])
        lengths = np.fromiter((len(pair.ids) for pair in tokens), np.int64, len(tokens))
        places, found = [], []
        for chunk in token_batches(lengths, self._limit):
            features = self._tokenizer.features([tokens[i] for i in chunk], self._compute.device)
            with self._compute.autocast():
                found.append(self._network(**features).logits[:, 0].float())
            places.append(torch.from_numpy(chunk))
        scores = torch.cat(found)
        return scores[torch.argsort(torch.cat(places)).to(scores.device)]


@contextlib.contextmanager
def _plain_attention(network: Any, max_tokens: int, compute: Compute) -> Iterator[None]:
    """Compute attention by plain matrix products, within; see `lancedb_ft.train.compute`."""
    short = compute.device == "cpu" and max_tokens <= PLAIN_ATTENTION_TOKENS
    change = short and getattr(network.config, "_attn_implementation", None) == "sdpa"
    if change:
        network.set_attn_implementation("eager")
    try:
        yield
    finally:
        if change:
            network.set_attn_implementation("sdpa")


def _save_checkpoint(network: Any, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    import torch

    folder.mkdir(parents=True, exist_ok=True)
    save_weights(network, folder / _WEIGHTS)
    with written(folder):
        torch.save(optimizer.state_dict(), folder / _OPTIMIZER)


def _load_checkpoint(network: Any, optimizer: torch.optim.Optimizer, folder: Path) -> None:
    import torch

    load_weights(network, folder / _WEIGHTS)
    optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, weights_only=True))
