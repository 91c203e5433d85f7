"""One SQL expression as a filter, checked: all of what was written, and nothing around it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lancedb_ft.errors import FilterError

if TYPE_CHECKING:
    import lance

__all__ = ["files_are_gone", "filter_told", "one_expression"]

#: What of a filter is no syntax: quoted text and names, comments.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)
_OPENED = re.compile(r"['\"`]|/\*")


def one_expression(where: str) -> str:
    r"""Return a filter in parentheses that it does not close itself, to be joined with others.

    Raises
    ------
    FilterError
        It is no text, blank, or more or less than one expression.

    Examples
    --------
    >>> " AND ".join(one_expression(each) for each in ("tenant = 7", "year > 2020 -- new ones"))
    '(tenant = 7\n) AND (year > 2020 -- new ones\n)'
    """
    if not isinstance(where, str):
        raise FilterError(str(where), reason=f"it is a {type(where).__name__}, not text.")
    try:
        where.encode()
    except UnicodeEncodeError as error:
        raise FilterError(ascii(where), reason=f"it is not valid Unicode text: {error}.") from error
    if not where.strip():
        # Not "no filter": a blank where a tenant's filter should stand must not show every row.
        raise FilterError(where, reason="it is blank. Leave it out to search all rows.")
    # LanceDB reads one expression and ignores what follows: "a = 1; b = 2" and "a = 1 LIMIT 0"
    # would silently mean "a = 1". In parentheses that it does not close itself, all of it must be
    # one expression. The line break ends a "--" comment.
    rest = _QUOTED.sub("", where)
    if _OPENED.search(rest):  # what is joined with it would be a part of that
        raise FilterError(where, reason="a quote or a comment in it has no end.")
    if not _balanced(rest):
        raise FilterError(where, reason="its parentheses do not match.")
    return f"({where}\n)"


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0


@contextmanager
def filter_told(ds: lance.LanceDataset, where: str | None) -> Iterator[None]:
    """Raise `FilterError` for what fails inside, where the filter by itself fails, too.

    Parameters
    ----------
    ds
        The version of the table.
    where
        From `one_expression`; None where there is none to blame.
    """
    try:
        yield
    except BaseException as error:
        reason = _fault_of(ds, where) if where is not None and _of_lance(error) else None
        if where is None or reason is None:
            raise
        shown = where[1:-2] if where.endswith("\n)") else where
        raise FilterError(shown, reason=reason) from error


def _fault_of(ds: lance.LanceDataset, where: str) -> str | None:
    """Return what Lance has against a filter, None where it has nothing."""
    try:
        ds.count_rows(filter=where)
    except BaseException as error:
        if not _of_lance(error):
            raise
        if files_are_gone(error):
            return None  # not the filter's fault
        told = str(error).split(", /")[0].removeprefix("Invalid user input: ")
        return told.rstrip(". ") + "."
    return None


def _of_lance(error: BaseException) -> bool:
    # Lance panics at SQL that it does not know, such as "id = ?", and pyo3 raises that as a
    # BaseException of a class that cannot be imported.
    panicked = type(error).__name__ == "PanicException"
    return panicked or isinstance(error, (ValueError, OSError, RuntimeError))


def files_are_gone(error: BaseException) -> bool:
    """Say whether a read failed because files of its version do not exist any more.

    Lance raises that as ``OSError``, or as ``ArrowInvalid`` where it comes out of a query plan.
    """
    return isinstance(error, (OSError, ValueError)) and "Not found: " in str(error)
