"""Columns of times, and moments as SQL to compare them with."""

from __future__ import annotations

import pyarrow as pa

__all__ = ["holds_times", "nanoseconds_per_unit", "time_sql"]

#: Units of Arrow's timestamps: how long they are in nanoseconds, and their names in SQL.
_UNIT_NS = {"s": 10**9, "ms": 10**6, "us": 10**3, "ns": 1}
_UNIT_NAMES = {"s": "Second", "ms": "Millisecond", "us": "Microsecond", "ns": "Nanosecond"}
_DAY_NS = 86_400 * 10**9


def holds_times(kind: pa.DataType) -> bool:
    """Say whether a column of this type holds timestamps or dates."""
    return bool(pa.types.is_timestamp(kind) or pa.types.is_date(kind))


def nanoseconds_per_unit(kind: pa.DataType) -> int:
    """Return how long the unit of a type of time is: that of a timestamp, and a day for dates."""
    return _UNIT_NS[kind.unit] if pa.types.is_timestamp(kind) else _DAY_NS


def time_sql(kind: pa.DataType, count: int) -> str:
    r"""Return a moment as SQL, to be compared with a column.

    Parameters
    ----------
    kind
        The column's type, for which `holds_times` is true. Without a time zone it is UTC.
    count
        The moment in units of the type (see `nanoseconds_per_unit`) since 1970, in UTC.

    Examples
    --------
    >>> time_sql(pa.timestamp("s", tz="Asia/Kolkata"), 60)
    'arrow_cast(60, \'Timestamp(Second, Some("UTC"))\')'
    """
    # Not timestamp '...', which Lance reads as the wall clock of the column's zone, even where the
    # text names another one. A moment of one zone it turns into that of another by itself.
    if pa.types.is_date(kind):
        return f"arrow_cast({count}, 'Date32')"
    zone = "None" if kind.tz is None else 'Some("UTC")'
    return f"arrow_cast({count}, 'Timestamp({_UNIT_NAMES[kind.unit]}, {zone})')"
