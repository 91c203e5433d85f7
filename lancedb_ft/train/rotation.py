"""The order of dimensions: a rotation after which the first ones of a vector say the most.

A rotation changes no cosine between whole vectors. What it changes is what is left when vectors
are cut: with the directions sorted by variance, and then learned for the lengths that are wanted,
the first 128 of 384 dimensions of a model keep far more of its ranking than as they come. It is
learned on vectors that are there already, in seconds, and saved as one more linear module.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder import Encoder

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = ["add_rotation", "can_rotate", "encoded_sides", "learn_rotation", "rotation_beyond"]

#: Most Adam steps, pairs a step, peak learning rate (it falls to 0 in a straight line) and the
#: temperature of the similarities. all-MiniLM-L6-v2 tuned on 6,000 pairs of tldr, share of the
#: nDCG@10 of whole vectors, 2,035 dev queries in 30,746 documents, at 128 and 64 dimensions: as
#: they come .893 and .750, sorted by variance .942 and .790, learned .966 and .867.
STEPS, BATCH, LEARNING_RATE, TEMPERATURE = 300, 768, 1e-3, 0.05
#: Passes over the pairs, as 300 steps are over 6,000: fewer pairs would only be learned by heart.
PASSES = 40
#: How much leaving the rotations costs, against the loss.
_ORTHOGONAL = 100.0


def can_rotate(model: SentenceTransformer) -> bool:
    """Say whether a rotation can stand behind the model: one of its modules pools tokens."""
    return any(type(module).__name__ == "Pooling" for module in model)


def learn_rotation(
    queries: npt.NDArray[np.float32],
    documents: npt.NDArray[np.float32],
    dims: Sequence[int],
    *,
    seed: int,
    matched: bool = True,
) -> npt.NDArray[np.float32]:
    """Learn the rotation after which vectors cut to some lengths rank as whole ones do.

    The loss, summed over the lengths, is the cross-entropy of the right document among those of
    the batch plus the divergence from the ranking by whole vectors. It starts from the principal
    directions, not centred: cosines are measured from zero.

    Parameters
    ----------
    queries, documents
        Vectors of pairs that belong together, shape (pairs, length).
    dims
        The lengths, each below that of the vectors.
    seed
        Of the order of the pairs.
    matched
        Each query is answered by its document; otherwise only the ranking by whole vectors counts.

    Returns
    -------
    np.ndarray
        Orthogonal, shape (length, length): ``vectors @ rotation`` are the new vectors.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    >>> turn = learn_rotation(vectors, vectors, [2], seed=0)
    >>> bool(np.allclose(turn @ turn.T, np.eye(4), atol=1e-4))
    True
    """
    import torch
    from torch.nn.functional import cross_entropy, kl_div, log_softmax, normalize, softmax

    asked, answers = (torch.from_numpy(_unit(side)) for side in (queries, documents))
    turn = torch.nn.Parameter(torch.from_numpy(_principal(queries, documents)))
    optimizer = torch.optim.Adam([turn], lr=LEARNING_RATE)
    identity = torch.eye(len(turn))
    generator = torch.Generator().manual_seed(seed)
    n_steps = min(STEPS, max(PASSES, PASSES * len(asked) // BATCH))
    with torch.enable_grad():
        for step in range(n_steps):
            optimizer.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / n_steps)
            rows = torch.randperm(len(asked), generator=generator)[:BATCH]
            whole = softmax(asked[rows] @ answers[rows].T / TEMPERATURE, dim=1)
            a, b = asked[rows] @ turn, answers[rows] @ turn
            loss = _ORTHOGONAL * len(turn) * ((turn.T @ turn - identity) ** 2).mean()
            for n in dims:
                cut = normalize(a[:, :n], dim=1) @ normalize(b[:, :n], dim=1).T / TEMPERATURE
                loss = loss + kl_div(log_softmax(cut, dim=1), whole, reduction="batchmean")
                if matched:
                    loss = loss + cross_entropy(cut, torch.arange(len(rows)))
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    u, _, v = np.linalg.svd(turn.detach().numpy())
    rotation: npt.NDArray[np.float32] = (u @ v).astype(np.float32)
    return rotation


def add_rotation(model: SentenceTransformer, rotation: npt.NDArray[np.float32]) -> None:
    """Put a rotation behind a model, in place; into the linear module it ends with, if it has one.

    Parameters
    ----------
    model
        One that `can_rotate`.
    rotation
        As `learn_rotation` gives it.
    """
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    turn = torch.from_numpy(rotation).to(model.device)
    names = list(model._modules)
    modules = [model._modules[name] for name in names]
    place = len(modules) - (type(modules[-1]).__name__ == "Normalize")
    last = modules[place - 1]
    if isinstance(last, Dense) and _is_linear(last):
        with torch.no_grad():
            last.linear.weight.copy_(turn.T @ last.linear.weight)
        return
    made = Dense(
        len(rotation),
        len(rotation),
        bias=False,
        activation_function=torch.nn.Identity(),
        init_weight=turn.T.contiguous(),
    ).to(model.device)
    modules.insert(place, made)
    model._modules.clear()
    for position, module in enumerate(modules):
        model.add_module(str(position), module)


def rotation_beyond(
    model: SentenceTransformer, other: SentenceTransformer
) -> npt.NDArray[np.float32] | None:
    """Return the rotation that the other model has behind it and this one has not.

    With `add_rotation` of it both have the same modules, and this one keeps its cosines.

    Returns
    -------
    np.ndarray or None
        As `learn_rotation` gives it; None where the two differ in nothing, or in something else.
    """
    from sentence_transformers.sentence_transformer.modules import Dense

    here, there = ([type(module) for module in each] for each in (model, other))
    place = len(there) - (there[-1].__name__ == "Normalize") - 1
    if place < 1 or here != [*there[:place], *there[place + 1 :]]:
        return None
    last = list(other)[place]
    if not isinstance(last, Dense) or not _is_linear(last):
        return None
    turn: npt.NDArray[np.float32] = last.linear.weight.detach().cpu().float().numpy().T
    square = turn.shape[0] == turn.shape[1]
    orthogonal = square and np.allclose(turn @ turn.T, np.eye(len(turn)), atol=1e-3)
    return np.ascontiguousarray(turn) if orthogonal else None


def encoded_sides(
    model: SentenceTransformer, queries: Sequence[str], documents: Sequence[str]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the vectors of queries and documents, shape (texts, length) each."""
    encoder = Encoder.of(model)
    asked, answers = encoder.encode(queries, kind="query"), encoder.encode(documents)
    return _matrix(asked, encoder.dims), _matrix(answers, encoder.dims)


def _matrix(vectors: object, dims: int) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors.flatten().to_numpy().reshape(-1, dims)  # type: ignore[attr-defined]
    return found


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors / np.maximum(
        np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12
    )
    return found


def _principal(
    queries: npt.NDArray[np.float32], documents: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    """Return the directions along which the vectors differ from zero most, in columns, by size."""
    sides = [_unit(side).astype(np.float64) for side in (queries, documents)]
    _, directions = np.linalg.eigh(sum(side.T @ side for side in sides))
    return np.ascontiguousarray(directions[:, ::-1]).astype(np.float32)


def _is_linear(module: torch.nn.Module) -> bool:
    import torch

    plain = isinstance(module.activation_function, torch.nn.Identity)
    return plain and module.linear.bias is None and not module.use_residual  # type: ignore[union-attr]
