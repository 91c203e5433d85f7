"""A storage that refuses writes: one error that says what to do, whichever library met it."""

from __future__ import annotations

import errno
import functools
import re
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from lancedb_ft.errors import LancedbFtError, StorageError
from lancedb_ft.table import require_table
from lancedb_ft.torn import torn_manifest_told

__all__ = ["storage_told"]

_Arguments = ParamSpec("_Arguments")
_Result = TypeVar("_Result")

_REASONS = {
    errno.ENOSPC: "full",
    errno.EDQUOT: "full",
    errno.EFBIG: "full",
    errno.EROFS: "read-only",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
}
#: Lance has no ``errno``; it quotes the number of the system.
_QUOTED = re.compile(r"\(os error (\d+)\)")


def storage_told(verb: Callable[_Arguments, _Result]) -> Callable[_Arguments, _Result]:
    """Make a verb raise `StorageError` where its storage is full, read-only or forbidden.

    The verb's first argument is the table. A manifest that was cut off meanwhile is told too: a
    commit meets it as well as whoever opens the table. What is no table is refused before.
    """

    @functools.wraps(verb)
    def told(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> _Result:
        table: Any = args[0] if args else kwargs.get("table")
        require_table(table)
        try:
            with torn_manifest_told(str(table.name), str(table.uri)):
                return verb(*args, **kwargs)
        except LancedbFtError:
            raise
        except (OSError, RuntimeError) as error:
            reason = _reason(error)
            if reason is None:
                raise
            raise StorageError(str(table.name), reason=reason, told=str(error)) from error

    return told


def _reason(error: OSError | RuntimeError) -> str | None:
    number = getattr(error, "errno", None)
    quoted = _QUOTED.search(str(error))
    if number is None and quoted is not None:
        number = int(quoted.group(1))
    return _REASONS.get(number) if number is not None else None
