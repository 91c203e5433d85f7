"""A model folder as it goes into a store: copied from another, or written from a live model."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from lancedb_ft.store.quiet import without_progress_bars
from lancedb_ft.store.trust import inspect_folder

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["copy_model", "save_live"]


def copy_model(source: str | Path, target: Path) -> None:
    """Copy the files of a model folder that make vectors, and nothing else of it.

    Raises
    ------
    UnsafeModelError
        The folder holds something else than data.
    """
    folder = inspect_folder(source)
    # Weights of a version of this very store never change: one copy serves all query adapters.
    same_store = folder.root.is_relative_to(target.parents[1].resolve())
    for relative in folder.files:
        (target / relative).parent.mkdir(parents=True, exist_ok=True)
        shared = same_store and relative.endswith(".safetensors")
        if not (shared and _link(folder.root / relative, target / relative)):
            shutil.copyfile(folder.root / relative, target / relative)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source, target)
    except OSError:
        return False  # a file system without hard links
    return True


def save_live(model: SentenceTransformer, target: Path) -> None:
    """Write a live model as a folder, without a card."""
    # The card that sentence-transformers would write quotes the training data.
    with without_progress_bars():
        model.save_pretrained(str(target), create_model_card=False, safe_serialization=True)
