"""A cross-encoder as the teacher that judges candidates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lancedb_ft.errors import InputError
from lancedb_ft.reranking import get_scorer

__all__ = ["CrossEncoderTeacher", "cross_encoder_teacher"]


def cross_encoder_teacher(
    model: Any,
    *,
    store: str | None = None,
    device: str | None = None,
    precision: str = "auto",
    max_tokens: int | None = None,
) -> CrossEncoderTeacher:
    """Make a teacher of a cross-encoder: a model that reads query and document together.

    Parameters
    ----------
    model
        ``name@version`` of a reranker in the store, a folder, or a ``CrossEncoder`` of
        sentence-transformers that is loaded already.
    store
        Where ``name@version`` is looked up.
    device, precision, max_tokens
        Of a model that is named (see `lancedb_ft.reranking.get_scorer`); a loaded one has its own.

    Returns
    -------
    CrossEncoderTeacher
        Gives raw logits; the margin is measured on their sigmoid.

    Raises
    ------
    InputError
        The loaded model gives more than one score a pair.
    StoreError, MissingExtraError
        As `lancedb_ft.reranking.get_scorer`.
    """
    if isinstance(model, (str, Path)):
        scorer = get_scorer(str(model), store=store, device=device, precision=precision)
        return CrossEncoderTeacher(
            lambda pairs: scorer.score(pairs, max_tokens=max_tokens), ref=scorer.ref or str(model)
        )
    if getattr(model, "num_labels", 1) != 1:
        raise InputError(
            f"The cross-encoder gives {model.num_labels} scores a pair; a teacher gives one."
        )

    def logits(pairs: Sequence[tuple[str, str]]) -> Any:
        import torch

        return model.predict(
            list(pairs), activation_fn=torch.nn.Identity(), show_progress_bar=False
        )

    return CrossEncoderTeacher(logits, ref=type(model).__name__)


class CrossEncoderTeacher:
    """See `cross_encoder_teacher`."""

    scale = "logit"

    def __init__(self, logits: Callable[[Sequence[tuple[str, str]]], Any], *, ref: str) -> None:
        self._logits = logits
        self.ref = ref

    def __call__(self, query: str, documents: list[str], /) -> list[float]:
        """Return the logit of each document."""
        return self.score_pairs([(query, document) for document in documents])

    def score_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[float]:
        """Return the logit of each pair, of many queries at once: fuller batches, less padding."""
        if not pairs:
            return []
        return [float(logit) for logit in np.asarray(self._logits(pairs), np.float64)]
