"""Network students: the teacher with fewer layers, or another model, trained on its vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import InputError, TrainingError
from lancedb_ft.store.quiet import without_progress_bars
from lancedb_ft.train.compute import Compute, in_chunks
from lancedb_ft.train.losses import LOSSES, LossSettings, build_loss
from lancedb_ft.train.runs import written

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["append_map", "even_layers", "imitate", "keep_layers", "saved_student", "side_batches"]

Floats: TypeAlias = "npt.NDArray[np.float32]"
_Batch: TypeAlias = "tuple[str, npt.NDArray[np.int64]]"

_OPTIMIZER = "optimizer.pt"
#: Texts that must come out of a saved student as they did before.
_PROBES = ("one text to compare", "and another, a little longer: 42 words or so")


def even_layers(n_layers: int, n_kept: int) -> list[int]:
    """Return evenly spaced layers, the last among them.

    Examples
    --------
    >>> even_layers(6, 3), even_layers(12, 4), even_layers(6, 1)
    ([1, 3, 5], [2, 5, 8, 11], [5])
    """
    return [round((place + 1) * n_layers / n_kept) - 1 for place in range(n_kept)]


def keep_layers(model: SentenceTransformer, n_kept: int) -> list[int]:
    """Take layers out of a model, in place; return those that stay.

    Raises
    ------
    InputError
        It has no more layers than that, or is not made of one row of layers.
    """
    import torch

    network: Any = getattr(model[0], "auto_model", None)
    total = getattr(getattr(network, "config", None), "num_hidden_layers", None)
    rows = [
        name
        for name, module in (network.named_modules() if network is not None else ())
        if isinstance(module, torch.nn.ModuleList) and len(module) == total
    ]
    if len(rows) != 1 or not isinstance(total, int):
        raise InputError(
            "Cannot tell the layers of this teacher's network apart. Name a model as the student "
            "instead, or student='static'."
        )
    if total == 1:
        raise InputError(
            f"student is 'layers:{n_kept}', and the teacher has one layer, of which none can be "
            "taken out. Name a model as the student instead, or student='static'."
        )
    if not 1 <= n_kept < total:
        raise InputError(
            f"student is 'layers:{n_kept}', and the teacher has {total} layers: a student has "
            f"from 1 to {total - 1} of them."
        )
    kept = even_layers(total, n_kept)
    owner, _, leaf = rows[0].rpartition(".")
    layers = network.get_submodule(rows[0])
    setattr(network.get_submodule(owner), leaf, torch.nn.ModuleList(layers[i] for i in kept))
    _renumber(network, rows[0], kept)
    return kept


def _renumber(network: Any, row: str, kept: list[int]) -> None:
    """Tell the config and the layers how many there are, and which they are now."""
    config = network.config
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[i] for i in kept]
    config.num_hidden_layers = len(kept)
    for place, layer in zip(count(), network.get_submodule(row), strict=False):
        for module in layer.modules():
            if hasattr(module, "layer_idx"):
                module.layer_idx = place


def append_map(model: SentenceTransformer, matrix: Floats | None) -> SentenceTransformer:
    """Return a model whose vectors go through a linear map, and then have length 1.

    Parameters
    ----------
    matrix
        Shape ``(dims of the model, dims of the result)``; None for no map.
    """
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Normalize

    modules = [module for module in model if not isinstance(module, Normalize)]
    if matrix is not None:
        dense = Dense(
            matrix.shape[0],
            matrix.shape[1],
            bias=False,
            activation_function=torch.nn.Identity(),
            init_weight=torch.from_numpy(np.ascontiguousarray(matrix.T)),
        )
        modules.append(dense.to(model.device))
    return SentenceTransformer(
        modules=[*modules, Normalize()],
        device=str(model.device),
        prompts={name: prompt for name, prompt in model.prompts.items() if prompt is not None},
        default_prompt_name=model.default_prompt_name,
    )


def saved_student(model: SentenceTransformer, folder: Path) -> None:
    """Save a student, and see that what is loaded from there is the same model.

    Raises
    ------
    InputError
        It is not: its config does not say all that its network is.
    """
    with without_progress_bars():
        model.eval().save_pretrained(str(folder), create_model_card=False)
    again = load_sentence_transformer(folder, device=str(model.device)).float()
    here, there = (_matrix(Encoder.of(m), _PROBES) for m in (model, again))
    if not np.allclose(here, there, atol=1e-4):
        raise InputError(
            "This teacher's network cannot be shortened: saved and loaded again, it is another "
            "model. Name a model as the student instead, or student='static'."
        )


def _matrix(encoder: Encoder, texts: Sequence[str]) -> Floats:
    return np.asarray(encoder.encode(texts).values, np.float32).reshape(len(texts), -1)


# --- training ------------------------------------------------------------------------------


def side_batches(
    n_queries: int, n_documents: int, *, batch_size: int, seed: int, epoch: int
) -> list[_Batch]:
    """Cut the texts into batches of one side each, since each side may have its prompt.

    Returns
    -------
    list of tuple
        ``("query" or "document", rows)``; documents are counted behind the queries.
    """
    dice = np.random.default_rng((seed, epoch))
    batches: list[_Batch] = []
    for side, first, n_texts in (("query", 0, n_queries), ("document", n_queries, n_documents)):
        order = first + dice.permutation(n_texts)
        n_batches = -(-n_texts // batch_size)
        batches += [(side, part) for part in np.array_split(order, max(n_batches, 1)) if len(part)]
    return [batches[place] for place in dice.permutation(len(batches))]


class Schedule:
    """Linear warm-up over a tenth of the steps, then linear to 0."""

    def __init__(self, peak: float, n_steps: int) -> None:
        self._peak, self._n_steps = peak, n_steps
        self._warmup = max(1, n_steps // 10)

    def rate(self, step: int) -> float:
        """Return the learning rate of a step, from 0."""
        rising = (step + 1) / self._warmup
        falling = (self._n_steps - step) / max(1, self._n_steps - self._warmup)
        return self._peak * min(rising, falling, 1.0)


def imitate(
    model: SentenceTransformer,
    texts: Sequence[str],
    targets: Floats,
    batches: Callable[[int], list[_Batch]],
    *,
    prompts: dict[str, str | None],
    compute: Compute,
    epochs: int,
    learning_rate: float,
    checkpoint: tuple[int, Path] | None,
    progress: Callable[[int], None],
) -> Iterator[tuple[int, Callable[[Path], None]]]:
    """Train a model towards vectors by their squared distance; pause after each epoch.

    The loss is ``mse`` of `LOSSES`.

    Parameters
    ----------
    model
        In float32; of vectors of length 1.
    texts, targets
        In the same order; targets of length 1, shape ``(texts, dims)``.
    batches
        Gives those of an epoch, from 0; the same for the same epoch.
    checkpoint
        The epochs done, and the folder with the optimizer after them.

    Yields
    ------
    tuple
        The epochs done, and a function that writes the optimizer to a folder.

    Raises
    ------
    TrainingError
        The loss is no longer a number.
    """
    import torch

    distance = build_loss(LOSSES["mse"], in_chunks(model, compute), LossSettings())
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
    per_epoch = len(batches(0))
    schedule = Schedule(learning_rate, epochs * per_epoch)
    done, folder = checkpoint or (0, Path())
    if checkpoint is not None:
        optimizer.load_state_dict(torch.load(folder / _OPTIMIZER, weights_only=True))
    for epoch in range(done, epochs):
        for place, (side, rows) in enumerate(batches(epoch)):
            told: Any = model.preprocess(
                [texts[row] for row in rows], prompt=prompts[side], task=side
            )
            features = {
                key: value.to(model.device) if isinstance(value, torch.Tensor) else value
                for key, value in told.items()
            }
            wanted = torch.from_numpy(targets[rows]).to(model.device)
            # The loss is a mean over dimensions; the squared distance is their sum.
            loss = distance([features], wanted) * targets.shape[1]
            if not torch.isfinite(loss):
                raise TrainingError("The student diverged. Use a lower learning rate.")
            for group in optimizer.param_groups:
                group["lr"] = schedule.rate(epoch * per_epoch + place)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            progress(len(rows))
        yield epoch + 1, partial(_save_optimizer, optimizer)


def _save_optimizer(optimizer: Any, folder: Path) -> None:
    import torch

    with written(folder):
        torch.save(optimizer.state_dict(), folder / _OPTIMIZER)
