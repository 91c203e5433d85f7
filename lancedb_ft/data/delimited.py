"""The rows of text files: CSV and TSV, also where a quote is astray, and columns by white space."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

from lancedb_ft.errors import InputError

__all__ = ["CUT_OFF", "Lines", "Row", "csv_rows", "headless_rows", "refuse_cut_off"]

#: Why the last line of a file that was not written or downloaded to its end is no row.
CUT_OFF = "cut off in the middle"

_NOT_AS_MANY = "not as many fields as the header"
_STRAY_QUOTE = "not valid CSV: a quote is not closed, or text follows the one that closes it"
#: From so many lines on, all of which have the fields of a row, they are no text between quotes.
_SWALLOWED_ROWS = 10

#: Called for each row that is read.
Step = Callable[[], None]


class Row(NamedTuple):
    """One row of a file: its values, or the reason why it has none.

    ``line`` is the line it ends on, from 1 (for Parquet, the row).
    """

    line: int
    values: dict[str, Any] | None
    reason: str = ""


def refuse_cut_off(row: Row, name: str) -> None:
    """Refuse a file that ends in the middle of a row: how many are missing, nobody knows.

    Raises
    ------
    InputError
        This row is where it ends.
    """
    if row.reason == CUT_OFF:
        raise InputError(
            f"{name} ends in the middle of line {row.line}: it was not written or downloaded to "
            "its end. Write or download it again, or remove that line."
        )


class Lines:
    """The lines of a text; those of the record that is being read can be given back.

    ``number`` is that of the line read last, from 1.
    """

    def __init__(self, text: IO[str]) -> None:
        self._text = text
        self._back: deque[str] = deque()
        self.number = 0
        self.taken: list[str] = []
        self.ended = False

    def __iter__(self) -> Lines:
        return self

    def __next__(self) -> str:
        try:
            line = self._back.popleft() if self._back else next(self._text)
        except StopIteration:
            self.ended = True
            raise
        self.taken.append(line)
        self.number += 1
        return line

    def begin(self) -> None:
        """Begin another record."""
        self.taken = []
        self.ended = False

    def give_back(self, lines: Sequence[str]) -> None:
        """Read these lines, the last that were read, once more."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)

    @property
    def is_whole(self) -> bool:
        """Whether the line read last has an end; the last one of a file need not have it."""
        return self.taken[-1].endswith(("\n", "\r"))


@contextmanager
def _large_fields() -> Iterator[None]:
    # The limit is the process's, and 128 KiB by default: a long document is no error.
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def csv_rows(path: Path, lines: Lines, delimiter: str, step: Step) -> Iterator[Row]:
    """Yield the rows of CSV under their header; what a stray quote swallows is read or counted.

    Raises
    ------
    InputError
        The header is no CSV, or names two columns alike.
    """
    # Strict, or text after a closing quote would be taken, and the end of the file close any.
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        step()
        lines.begin()
        try:
            with _large_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if names is None:
                told = f"The header of {str(path)!r} is not valid CSV: {error}"
                raise InputError(told) from error
            # Python 3.10 refuses U+0000; all else that strict reading finds is a matter of quotes.
            reason = f"not valid CSV: {error}" if "NUL" in str(error) else _STRAY_QUOTE
            yield from _broken_rows(lines, len(names), delimiter, reason)
            continue
        if names is None:
            names = _distinct(path, [name.strip() for name in fields])
        elif reason := _swallowed(lines.taken, fields, len(names), delimiter):
            yield from _broken_rows(lines, len(names), delimiter, reason)
        elif fields:
            yield _named(lines, fields, names)


def _distinct(path: Path, names: list[str]) -> list[str]:
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"The header of {str(path)!r} has {names.count(twice)} columns {twice!r}, and which of "
            "them is meant cannot be told: rename or drop the others."
        )
    return names


def _swallowed(taken: Sequence[str], fields: Sequence[str], n_names: int, delimiter: str) -> str:
    """Say why a record of several lines is not one; empty if it is.

    Two stray quotes make one text of all rows between them, by the rules of CSV a good one. It is
    told from what was meant where many lines, and the first and last without their quotes, each
    have just the delimiters of a row; a table in a text has more of them in the first line.
    """
    if len(taken) == 1:
        return ""
    if len(fields) != n_names:
        return _NOT_AS_MANY
    between = taken[1:-1]
    if len(between) < _SWALLOWED_ROWS or n_names == 1:
        return ""
    is_row_at_ends = all(line.count(delimiter) + 1 == n_names for line in (taken[0], taken[-1]))
    are_rows = is_row_at_ends and all(_n_fields(line, delimiter) == n_names for line in between)
    return _STRAY_QUOTE if are_rows else ""


def _broken_rows(lines: Lines, n_names: int, delimiter: str, reason: str) -> Iterator[Row]:
    """Reject the line on which a bad record begins, and go on at the next.

    The lines that a stray quote has taken are read again if most of them have the fields of a
    row. If not, they are the text of a record that is bad elsewhere, and none of them may become
    a row because it has a comma in it: each counts as a rejected one, so that the share of bad
    rows says how much is lost.
    """
    taken, others = lines.taken, lines.taken[1:]
    start = lines.number - len(others)
    full = [line for line in others if line.strip()]
    n_rows = sum(_n_fields(line, delimiter) == n_names for line in full)
    are_rows = 2 * n_rows > len(full)
    is_short = lines.ended or reason == _NOT_AS_MANY
    if is_short and not lines.is_whole and not are_rows:
        yield Row(lines.number, None, CUT_OFF)
        return
    # The quote that shows the mistake may be the first of the next record.
    is_found_out = reason == _STRAY_QUOTE and not lines.ended
    n_again = len(others) if are_rows else min(len(others), int(is_found_out))
    n_lost = len(taken) - n_again
    lines.give_back(taken[n_lost:])
    for number, line in enumerate(taken[:n_lost], start):
        if line.strip():
            yield Row(number, None, reason)


def _n_fields(line: str, delimiter: str) -> int:
    """Return the number of fields of a line that is a row by itself, 0 if it is none."""
    try:
        with _large_fields():
            return len(next(csv.reader([line], delimiter=delimiter, strict=True), []))
    except csv.Error:
        return 0


def _named(lines: Lines, fields: list[str], names: list[str]) -> Row:
    if len(fields) != len(names):
        is_cut = len(fields) < len(names) and not lines.is_whole and "".join(fields).strip()
        return Row(lines.number, None, CUT_OFF if is_cut else _NOT_AS_MANY)
    if any(not field.isascii() and _has_surrogates(field) for field in fields):
        return Row(lines.number, None, "not UTF-8")
    return Row(lines.number, dict(zip(names, fields, strict=True)))


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def headless_rows(lines: Lines, names: list[str], step: Step) -> Iterator[Row]:
    """Yield rows whose fields white space separates, as TREC has them."""
    lines.begin()
    for line in lines:
        step()
        if fields := line.split():
            yield _named(lines, fields, names)
        lines.begin()
