"""What every verb that trains asks of its arguments: one range a name, and one sentence for it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = [
    "MAX_SEED",
    "check_above_0",
    "check_max_tokens",
    "check_rate",
    "check_seed",
    "check_share",
    "check_texts_by_id",
    "require_dev",
    "whole_from",
]

#: The largest seed that numpy, torch and the trainer all take.
MAX_SEED = 2**32 - 1


def whole_from(least: int, most: int | None = None) -> Callable[[str, Any], None]:
    """Return the check for one range of whole numbers."""
    return lambda name, value: check_whole(name, value, least=least, most=most)


def check_seed(name: str, value: Any) -> None:
    """Raise `InputError` unless all that is seeded with it takes it."""
    check_whole(name, value, least=0, most=MAX_SEED)


def check_max_tokens(name: str, value: Any) -> None:
    """Raise `InputError` unless texts can be cut there; None is the model's own limit."""
    if value is not None:
        check_whole(name, value, least=8)


def check_rate(name: str, value: Any) -> None:
    """Raise `InputError` unless it is a learning rate."""
    if not is_number(value) or not 0 < value <= 1:  # not NaN either
        raise InputError(
            f"{name} is {value!r}; it must be a number above 0 and at most 1, for example 2e-5."
        )


def check_share(name: str, value: Any) -> None:
    """Raise `InputError` unless it is a share of the steps."""
    if not is_number(value) or not 0 <= value < 1:
        raise InputError(
            f"{name} is {value!r}; it is a share of the steps, a number from 0 to below 1."
        )


def check_above_0(name: str, value: Any) -> None:
    """Raise `InputError` unless it is a number above 0."""
    if not is_number(value) or not 0 < value < math.inf:
        raise InputError(f"{name} is {value!r}; it must be a number above 0, for example 0.05.")


def check_texts_by_id(name: str, value: Any) -> None:
    """Raise `InputError` unless it is None or texts by id; a text may be missing."""
    if value is None:
        return
    if not isinstance(value, Mapping):
        raise InputError(f"{name} is a {type(value).__name__}; it must be {{doc_id: text}}.")
    for doc_id, text in value.items():
        if text is not None and not isinstance(text, str):
            raise InputError(
                f"{name} has a {type(text).__name__} under {doc_id!r}; each value must be a text."
            )


def require_dev(dev: Any) -> None:
    """Raise `InputError` unless it can be a dev set and has rows."""
    if not isinstance(dev, (Pairs, TrainingSet)):
        raise InputError(
            f"dev is a {type(dev).__name__}; it must be Pairs or a TrainingSet. "
            "read_training_file() reads a file of them."
        )
    if not len(dev):
        raise InputError("The dev set is empty: it is what tells a better checkpoint from a worse.")
