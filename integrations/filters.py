"""The filters of other frameworks as SQL over a table's columns. Values never become syntax."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import date, datetime
from typing import Any

import pyarrow as pa

from lancedb_ft.errors import InputError
from lancedb_ft.search.filters import one_expression
from lancedb_ft.search.times import holds_times
from lancedb_ft.table import require_column

from .times import compared_times, moment_of

__all__ = ["combined", "comparison", "narrowed"]

_ORDERED = (">", ">=", "<", "<=")
#: Functions over columns that hold lists.
_LISTS = {"contains": "array_has", "any": "array_has_any", "all": "array_has_all"}


def comparison(schema: pa.Schema, table: str, column: str, operator: str, value: Any) -> str:
    """Return one comparison as SQL.

    Parameters
    ----------
    schema, table
        Of the table.
    column
        Name of a column; a column that does not exist is an error.
    operator
        ``==``, ``!=``, ``>``, ``>=``, ``<``, ``<=``, ``in``, ``not in``, ``contains``, ``any``,
        ``all`` (of lists), ``text_match``, ``text_match_insensitive`` or ``is_empty``.
    value
        Text, a number, a truth value, a time, None (for ``==`` and ``!=``), or a list of them. With
        a column of times a time, also as ISO 8601 text; one without a time zone is UTC.

    Raises
    ------
    ColumnNotFoundError
        There is no such column.
    InputError
        The operator is unknown, or does not take such a value; a `FilterError` where a column of
        times is compared with something else.
    """
    kind = require_column(schema, column, table=table).type
    name = f"`{column}`"
    if not isinstance(operator, str):
        raise InputError(f"The filter operator is {operator!r:.80}; it must be text, such as '=='.")
    if operator in (*_ORDERED, "==", "!=") and holds_times(kind) and _is_one(value):
        return compared_times(kind, column, operator, value)
    if operator in ("in", "not in", "nin") and holds_times(kind):
        return compared_times(kind, column, operator, _listed(value))
    if operator in _WRITTEN:
        return _WRITTEN[operator](name, value)
    if operator in _ORDERED:
        if not _is_one(value):
            raise InputError(f"{column} {operator} {value!r} compares with no order.")
        return f"{name} {operator} {_literal(value)}"
    if operator in _LISTS:
        return _in_lists(kind, column, operator, value)
    known = [*_WRITTEN, *_ORDERED, *_LISTS]
    raise InputError(f"The filter operator {operator!r} is not known here; these are: {known}.")


def combined(condition: str, parts: Sequence[str]) -> str:
    """Join conditions by ``and``, ``or`` or ``not`` (not all of them).

    Raises
    ------
    InputError
        There are none, or the condition is another one.
    """
    if not parts:
        raise InputError("The filter holds no conditions; leave it out to search all rows.")
    joined = {"and": " AND ", "or": " OR ", "not": " AND "}
    if condition.lower() not in joined:
        raise InputError(f"Filters are joined by {tuple(joined)}, not by {condition!r}.")
    text = joined[condition.lower()].join(f"({part})" for part in parts)
    # In SQL a comparison with null is neither true nor false; "not" means: not true.
    return f"NOT coalesce({text}, false)" if condition.lower() == "not" else text


def narrowed(*conditions: str | None) -> str | None:
    """Return a filter that only rows pass which pass all of these; None where all are None.

    Raises
    ------
    FilterError
        One of several is not one expression. By itself it could undo the others, as
        ``true) OR (true`` does. (A single one is left to the search to check.)
    """
    given = [condition for condition in conditions if condition is not None]
    if len(given) < 2:
        return given[0] if given else None
    return " AND ".join(map(one_expression, given))


def _equal(name: str, value: Any) -> str:
    return f"{name} IS NULL" if value is None else f"{name} = {_literal(value)}"


def _unequal(name: str, value: Any) -> str:
    if value is None:
        return f"{name} IS NOT NULL"
    return f"({name} != {_literal(value)} OR {name} IS NULL)"


def _in(name: str, value: Any) -> str:
    return f"{name} IN ({_literals(value)})"


def _not_in(name: str, value: Any) -> str:
    return f"({name} NOT IN ({_literals(value)}) OR {name} IS NULL)"


def _text_match(name: str, value: Any) -> str:
    return f"contains({name}, {_literal(str(value))})"


def _text_match_insensitive(name: str, value: Any) -> str:
    return f"contains(lower({name}), lower({_literal(str(value))}))"


def _is_empty(name: str, value: Any) -> str:
    return f"{name} IS NULL"


_WRITTEN: dict[str, Callable[[str, Any], str]] = {
    "==": _equal,
    "!=": _unequal,
    "in": _in,
    "not in": _not_in,
    "nin": _not_in,
    "text_match": _text_match,
    "text_match_insensitive": _text_match_insensitive,
    "is_empty": _is_empty,
}


def _is_one(value: Any) -> bool:
    return value is not None and not isinstance(value, (list, tuple, set))


def _in_lists(kind: pa.DataType, column: str, operator: str, value: Any) -> str:
    listed = [value] if operator == "contains" else _listed(value)
    wanted = _items(kind, column, listed)
    if len(wanted) < len(listed) and (operator != "any" or not wanted):
        return "FALSE"
    items = wanted[0] if operator == "contains" else f"[{', '.join(wanted)}]"
    return f"{_LISTS[operator]}(`{column}`, {items})"


def _items(kind: pa.DataType, column: str, values: Sequence[Any]) -> list[str]:
    """Return what is looked for in a column of lists, without times that it cannot hold."""
    of_lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if of_lists and holds_times(kind.value_type):
        moments = [moment_of(kind.value_type, column, value) for value in values]
        return [moment.sql for moment in moments if moment.exact]
    return [_literal(value) for value in values]


def _literals(values: Any) -> str:
    return ", ".join(_literal(value) for value in _listed(values))


def _listed(values: Any) -> list[Any]:
    if not isinstance(values, (list, tuple, set)) or not values:
        raise InputError(
            f"The filter needs a list of values that is not empty, not {values!r:.80}."
        )
    return list(values)


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, int) or (isinstance(value, float) and math.isfinite(value)):
        return repr(value)
    if isinstance(value, datetime):
        return f"timestamp '{value.isoformat(sep=' ')}'"
    if isinstance(value, date):
        return f"date '{value.isoformat()}'"
    raise InputError(f"A filter cannot compare with {value!r:.80}, a {type(value).__name__}.")
