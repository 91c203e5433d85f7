"""The instructions that stand before texts, in training and ever after."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from lancedb_ft.errors import InputError
from lancedb_ft.train.examples import ALIKE
from lancedb_ft.training_sets import TrainingSet

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Prompts", "chosen_prompts", "prompts_of", "set_pooling", "set_prompts"]

#: Of queries and of documents; None where a model has none.
Prompts = tuple[str | None, str | None]

# The names that sentence-transformers 6 tries, in its order (encode_query, encode_document).
_NAMES = (("query",), ("document", "passage", "corpus"))


def prompts_of(folder: str | Path) -> Prompts:
    """Return the prompts that a model folder has for queries and for documents."""
    file = Path(folder) / "config_sentence_transformers.json"
    config = json.loads(file.read_text("utf-8")) if file.is_file() else {}
    prompts = config.get("prompts") or {}
    default = prompts.get(config.get("default_prompt_name"))
    query, document = (
        next((prompts[name] for name in names if name in prompts), default) for names in _NAMES
    )
    return query or None, document or None  # an empty one, as every saved model has, is none


def chosen_prompts(sets: Sequence[TrainingSet], base: Prompts) -> Prompts | None:
    """Return the prompts that a trained model is to have; None if it keeps those of its base.

    They are those of the first set that names any; a prompt that it leaves out is that of the
    base model.

    Raises
    ------
    InputError
        A set whose sides are alike names a query prompt that nothing is trained with.
    """
    asked = {_filled(each, base)[0] or "" for each in sets if each.kind not in ALIKE}
    for each in sets:
        if each.kind in ALIKE and each.query_prompt is not None:
            _check_trained(each, asked | {_filled(each, base)[1] or ""})
    for each in sets:
        if (each.query_prompt, each.document_prompt) != (None, None):
            return _filled(each, base)
    return None


def _filled(training_set: TrainingSet, base: Prompts) -> Prompts:
    own = (training_set.query_prompt, training_set.document_prompt)
    query, document = (o if o is not None else b for o, b in zip(own, base, strict=True))
    return query, document


def _check_trained(training_set: TrainingSet, trained: set[str]) -> None:
    if training_set.query_prompt not in trained:
        raise InputError(
            f"query_prompt is {training_set.query_prompt!r}, and nothing would be trained with "
            f"it: the two sides of {training_set.kind} data are alike, and get document_prompt. "
            "Give document_prompt (--document-prompt) instead, or both the same."
        )


def set_prompts(model: SentenceTransformer, prompts: Prompts | None) -> None:
    """Give a model its prompts: saved with it, they are used by whoever encodes with it."""
    if prompts is not None:
        query, document = prompts
        model.prompts = {**model.prompts, "query": query or "", "document": document or ""}


def set_pooling(model: SentenceTransformer, pooling: str | None) -> None:
    """Have a model pool the vectors of tokens in another way.

    Raises
    ------
    InputError
        The model has no pooling of its own, or joins several, whose vectors are longer.
    """
    if pooling is None:
        return
    for module in model:
        if isinstance(getattr(module, "pooling_mode", None), str):
            module.pooling_mode = pooling  # type: ignore[assignment]
            return
    raise InputError(
        f"pooling is {pooling!r}, and this model has no single pooling that could be replaced. "
        "Leave pooling out."
    )
