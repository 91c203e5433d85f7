"""What was passed cannot be used, or a package is missing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lancedb_ft.errors.base import LancedbFtError, listing

__all__ = [
    "BadDataError",
    "BadRowsError",
    "ColumnNotFoundError",
    "FilterError",
    "InputError",
    "LeakError",
    "MissingExtraError",
    "QueryError",
    "TableNotFoundError",
]


class InputError(LancedbFtError, ValueError):
    """An argument, a file or a table cannot be used as given."""

    exit_code = 2


class TableNotFoundError(InputError):
    """The database has no such table."""

    def __init__(self, name: str, *, uri: str, available: Iterable[str] = ()) -> None:
        self.name = name
        self.uri = uri
        self.available = list(available)
        super().__init__(
            f"No table {name!r} in the database {uri!r}; it has {listing(self.available)}."
        )


class ColumnNotFoundError(InputError):
    """The table has no such column, or the column has the wrong type."""

    def __init__(
        self, column: str, *, table: str, available: Iterable[str] = (), expected: str = ""
    ) -> None:
        self.column = column
        self.table = table
        self.available = list(available)
        self.expected = expected
        wanted = f" ({expected})" if expected else ""
        what = (
            f"Column {column!r} of table {table!r} cannot be used"
            if column in self.available
            else f"Table {table!r} has no column {column!r}"
        )
        super().__init__(f"{what}{wanted}; its columns are {listing(self.available)}.")


class BadRowsError(InputError):
    """More rows were rejected than the caller allows. Nothing was written."""

    def __init__(self, source: str, *, n_rows: int, reasons: Mapping[str, int]) -> None:
        self.source = source
        self.n_rows = n_rows
        self.reasons = dict(reasons)
        told = "; ".join(f"{n} x {reason}" for reason, n in self.reasons.items()) or "no rows"
        super().__init__(
            f"{source}: {sum(self.reasons.values())} of {n_rows} rows rejected: {told}."
        )


class BadDataError(InputError):
    """An audit named errors in training data: training on it would teach what is wrong."""

    exit_code = 3

    def __init__(self, problems: Iterable[Mapping[str, Any]]) -> None:
        self.problems = [dict(problem) for problem in problems]
        told = " ".join(f"{p['name']} in {p['where']}: {p['told']}" for p in self.problems)
        super().__init__(f"The audit refuses this data. {told}")


class LeakError(InputError):
    """A document or query of one part of the split stands, as good as unchanged, in another."""

    exit_code = 3

    def __init__(self, message: str, *, n_leaks: int, examples: Iterable[Any] = ()) -> None:
        self.n_leaks = n_leaks
        self.examples = list(examples)
        super().__init__(message)


class FilterError(InputError):
    """The ``where`` expression is not valid SQL for this table."""

    def __init__(self, where: str, *, reason: str) -> None:
        self.where = where
        self.reason = reason
        super().__init__(
            f"The filter {where!r} is not valid: {reason} Use SQL over the table's columns, with "
            "text in single quotes and a quote inside it doubled: name = 'O''Brien'."
        )


class QueryError(InputError):
    """The query cannot be run as asked."""


class MissingExtraError(LancedbFtError, ImportError):
    """An optional dependency is missing."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        self.package = package
        self.extra = extra
        self.purpose = purpose
        super().__init__(
            f'{purpose} needs {package}. Install it with: pip install "lancedb-ft[{extra}]"'
        )
