"""What arguments are asked everywhere: numbers, whole ones, and their ranges."""

from __future__ import annotations

from typing import Any, TypeGuard

from lancedb_ft.errors import InputError

__all__ = ["check_whole", "is_number", "is_whole"]


def is_number(value: Any) -> TypeGuard[float]:
    """Say whether it is a number that can be compared; NaN is one, and lies in no range.

    Examples
    --------
    >>> is_number(0.5), is_number(True)
    (True, False)
    """
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def is_whole(value: Any, least: int | None = None, most: int | None = None) -> TypeGuard[int]:
    """Say whether it is a whole number within a range; to Python True is one, to us it is not.

    Examples
    --------
    >>> is_whole(3, 1), is_whole(0, 1), is_whole(True, 1), is_whole(3.0, 1)
    (True, False, False, False)
    """
    if not isinstance(value, int) or isinstance(value, bool):
        return False
    return (least is None or value >= least) and (most is None or value <= most)


def check_whole(name: str, value: Any, *, least: int, most: int | None = None) -> None:
    """Raise `InputError` unless it is a whole number within a range."""
    if not is_whole(value, least, most):
        limit = f" and {most} or less" if most is not None else ""
        raise InputError(
            f"{name} is {value!r:.80}; it must be a whole number, {least} or more{limit}."
        )
