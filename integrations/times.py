"""Times in the filters of other frameworks: what a caller may write for one, and its SQL."""

from __future__ import annotations

import re
from datetime import date, datetime, timedelta
from typing import Any, NamedTuple

import pyarrow as pa

from lancedb_ft.errors import FilterError
from lancedb_ft.search.times import nanoseconds_per_unit, time_sql

__all__ = ["Moment", "compared_times", "moment_of"]

_EPOCH = datetime(1970, 1, 1)
#: ISO 8601 as Python 3.10 does not read it all: ``Z``, an offset without a colon, nanoseconds.
_ISO = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)"
    r"(?:[T ](?P<clock>\d\d:\d\d(?::\d\d)?)(?:(?<=:\d\d:\d\d)[.,](?P<fraction>\d{1,9}))?"
    r"(?P<zone>Z|[+-]\d\d(?::?\d\d)?)?)?",
    re.ASCII | re.IGNORECASE,
)
_SECOND_NS = 10**9
#: What a count of units can be in a column.
_LEAST, _MOST = -(2**63), 2**63 - 1


class Moment(NamedTuple):
    """A time as SQL, rounded down to what the column can hold; ``exact`` where nothing was lost."""

    sql: str
    exact: bool


def compared_times(kind: pa.DataType, column: str, operator: str, value: Any) -> str:
    """Return a comparison of a column of times as SQL.

    Parameters
    ----------
    kind, column
        Type and name of the column.
    operator
        ``==``, ``!=``, ``>``, ``>=``, ``<``, ``<=``, ``in``, ``not in`` or ``nin``.
    value
        A time, for the last three a list of times; see `moment_of`.

    Raises
    ------
    FilterError
        Something is no time.
    """
    name = f"`{column}`"
    if operator[0] in "<>":
        moment = moment_of(kind, column, value)
        # Lance would round what the column cannot hold, and 9:00 be >= 9:00:00.5. For a time
        # between two that it can hold, "from then on" is "after the earlier one".
        asked = operator if moment.exact else {">": ">", "<": "<="}[operator[0]]
        return f"{name} {asked} {moment.sql}"
    values = [value] if operator in ("==", "!=") else value
    # A time that the column cannot hold equals none of its values.
    equal = [m.sql for m in (moment_of(kind, column, each) for each in values) if m.exact]
    if operator in ("==", "in"):
        return f"{name} IN ({', '.join(equal)})" if equal else "FALSE"
    return f"({name} NOT IN ({', '.join(equal)}) OR {name} IS NULL)" if equal else "TRUE"


def moment_of(kind: pa.DataType, column: str, value: Any) -> Moment:
    """Return a time to be compared with a column of times.

    Parameters
    ----------
    kind, column
        Type and name of the column.
    value
        A `datetime`, a `date` (its first moment), or either as ISO 8601 text. Without a time zone
        it is UTC, as times without one are everywhere in lancedb-ft.

    Raises
    ------
    FilterError
        It is something else.
    """
    since_ns = _nanoseconds(value)
    if since_ns is None:
        raise FilterError(
            f"{column}: {value!r:.80}",
            reason=f"column {column!r} is of type {kind}, which is compared with a time: a "
            "datetime, a date, or ISO 8601 text such as 2026-01-15T09:30:00Z or 2026-01-15.",
        )
    count, lost = divmod(since_ns, nanoseconds_per_unit(kind))
    held = min(max(count, _LEAST), _MOST)  # "until the year 9999" is a time for nanoseconds, too
    return Moment(time_sql(kind, held), exact=not lost and held == count)


def _nanoseconds(value: Any) -> int | None:
    """Return the nanoseconds from 1970 until then, in UTC; None for what is no time."""
    try:
        if isinstance(value, datetime):
            return _of_datetime(value)
        if isinstance(value, date):
            return _of_datetime(datetime(value.year, value.month, value.day))
        found = _ISO.fullmatch(value.strip()) if isinstance(value, str) else None
        return None if found is None else _of_text(found)
    except (TypeError, ValueError):  # the 30th of February; pandas' NaT, which is a datetime
        return None


def _of_datetime(value: datetime) -> int:
    clock = (value.hour, value.minute, value.second, value.microsecond)
    wall = datetime(value.year, value.month, value.day, *clock)
    # Not astimezone: the first and the last day there is have no neighbours in other zones.
    since = wall - _EPOCH - (value.utcoffset() or timedelta())
    beyond = int(getattr(value, "nanosecond", 0))  # of a Timestamp of pandas
    return since // timedelta(microseconds=1) * 1000 + beyond


def _of_text(found: re.Match[str]) -> int:
    wall = datetime.fromisoformat(f"{found['day']}T{found['clock'] or '00:00'}")
    fraction = int((found["fraction"] or "0").ljust(9, "0"))
    return _of_datetime(wall) + fraction - _offset_s(found["zone"] or "Z") * _SECOND_NS


def _offset_s(zone: str) -> int:
    if zone in "Zz":
        return 0
    digits = zone[1:].replace(":", "").ljust(4, "0")
    hours, minutes = int(digits[:2]), int(digits[2:])
    if hours > 23 or minutes > 59:
        raise ValueError(zone)
    return (-1 if zone[0] == "-" else 1) * (hours * 3600 + minutes * 60)
