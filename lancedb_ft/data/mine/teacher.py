"""A cross-encoder as the teacher that judges candidates."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lancedb_ft.errors import InputError, MissingExtraError

__all__ = ["CrossEncoderTeacher", "cross_encoder_teacher"]


def cross_encoder_teacher(
    model: Any,
    *,
    batch_size: int = 32,
    device: str | None = None,
    max_tokens: int | None = None,
    ref: str | None = None,
) -> CrossEncoderTeacher:
    """Make a teacher of a cross-encoder: a model that reads query and document together.

    Parameters
    ----------
    model
        The folder of a model, or a sentence-transformers ``CrossEncoder`` that is loaded. Of a
        folder only safetensors are read, and no code.
    batch_size, device, max_tokens
        Of the model; ``max_tokens`` None is its own limit.
    ref
        What the lineage calls it; by default the folder's name.

    Returns
    -------
    CrossEncoderTeacher
        Gives raw logits; the margin is measured on their sigmoid.

    Raises
    ------
    InputError
        There is no such folder, or the model gives more than one score a pair.
    MissingExtraError
        sentence-transformers is not installed.
    """
    if isinstance(model, (str, Path)):
        folder = Path(model)
        if not folder.is_dir():
            raise InputError(f"There is no folder {str(folder)!r} with a cross-encoder.")
        try:
            from sentence_transformers import CrossEncoder
        except ImportError as error:
            raise MissingExtraError(
                "sentence-transformers", extra="encode", purpose="A cross-encoder"
            ) from error
        model = CrossEncoder(
            str(folder),
            device=device,
            max_length=max_tokens,
            local_files_only=True,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
        ref = ref or folder.name
    if getattr(model, "num_labels", 1) != 1:
        raise InputError(
            f"The cross-encoder gives {model.num_labels} scores a pair; a teacher gives one."
        )
    return CrossEncoderTeacher(model, batch_size, ref or type(model).__name__)


class CrossEncoderTeacher:
    """See `cross_encoder_teacher`."""

    scale = "logit"

    def __init__(self, model: Any, batch_size: int, ref: str) -> None:
        self._model = model
        self._batch_size = batch_size
        self.ref = ref

    def __call__(self, query: str, documents: list[str], /) -> list[float]:
        """Return the logit of each document."""
        import torch

        scores = self._model.predict(
            [(query, document) for document in documents],
            batch_size=self._batch_size,
            activation_fn=torch.nn.Identity(),
            show_progress_bar=False,
        )
        return [float(score) for score in scores]
