"""What a training does otherwise where a model is a table of token vectors (`StaticEmbedding`)."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from lancedb_ft.errors import InputError
from lancedb_ft.train.losses import CACHED_FORMS, Loss

if TYPE_CHECKING:
    from lancedb_ft.store import ResolvedModel

__all__ = ["check_static", "is_static_folder"]


def is_static_folder(folder: str | Path) -> bool:
    """Say whether the model in a folder begins with a table of token vectors."""
    try:
        first = json.loads((Path(folder) / "modules.json").read_text("utf-8"))[0]
    except (OSError, ValueError, LookupError, TypeError):
        return False
    return isinstance(first, dict) and str(first.get("type", "")).endswith("StaticEmbedding")


def check_static(losses: Iterable[Loss], model: ResolvedModel, *, guides: bool = False) -> None:
    """Refuse losses that need more of a model than a table of token vectors has.

    The cached losses cut a batch of token ids into parts, and GISTEmbed reads the texts back from
    them: sentence-transformers does neither with a table.

    Parameters
    ----------
    guides
        The model is the guide, and not what is trained.

    Raises
    ------
    InputError
        The model is such a table, and a loss such a one.
    """
    if not is_static_folder(model.path):
        return
    for loss in losses:
        if loss.needs_guide or (not guides and loss.name in CACHED_FORMS.values()):
            instead = "Name another guide" if guides else "Use loss 'mnrl'"
            raise InputError(
                f"Loss {loss.name!r} needs a model with a transformer, and {model.ref!r} is a "
                f"table of token vectors. {instead}."
            )
