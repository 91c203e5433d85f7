"""The base of all errors, which keeps its fields through pickling."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

__all__ = ["LancedbFtError", "listing"]


def _rebuild(
    cls: type[LancedbFtError], args: tuple[Any, ...], state: dict[str, Any]
) -> LancedbFtError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


def listing(names: Iterable[str], limit: int = 20) -> str:
    """Return names for a message, so many of them at most."""
    names = list(names)
    if not names:
        return "none"
    shown = ", ".join(repr(name) for name in names[:limit])
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"


class LancedbFtError(Exception):
    """Base of all errors of this package."""

    exit_code = 1

    def __reduce__(self) -> tuple[Any, ...]:
        # BaseException would call cls(*args), and our signatures are not one message.
        return _rebuild, (type(self), self.args, self.__dict__)
