"""Which rows are hot: changed so lately that they are not embedded by the fine-tuned model yet.

A table under churn has a stable core, whose vectors the fine-tuned model made, and a few hot rows.
Those are found by full text at once, and by vector when they have one; they are embedded when they
have been quiet for a while (see `lancedb_ft.settle`), which is when they belong to the core.
"""

from __future__ import annotations

import math
import re
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.errors.base import listing
from lancedb_ft.generation import STATE_KEY, read_state
from lancedb_ft.search.calibration import Calibration
from lancedb_ft.search.filters import one_expression
from lancedb_ft.search.times import holds_times, nanoseconds_per_unit, time_sql
from lancedb_ft.table import embedding_entries, require_column, stable_row_ids, vector_columns

if TYPE_CHECKING:
    import lance

__all__ = ["Filled", "Tiers", "filled_column", "require_tiers", "seconds_of"]

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

#: Whole numbers from here on are none that a float can be.
_TOO_LARGE = 1e308

#: What all types of time reach, nanoseconds from 1678 to 2262 the least: years 1700 and 2200.
_MOMENTS = (-8_520_336_000.0, 7_258_118_400.0)

#: The version that was the newest at a moment is looked up anew after this share of `settle`.
_CUTOFF_AGE = 0.01


def seconds_of(duration: str | float, *, name: str = "settle") -> float:
    """Return a duration in seconds: a number, or ``30s``, ``5m``, ``12h``, ``7d``, ``2w``.

    Raises
    ------
    InputError
        It is neither, or below zero.

    Examples
    --------
    >>> seconds_of("7d")
    604800.0
    """
    if is_number(duration):
        seconds = float(duration) if abs(duration) < _TOO_LARGE else math.nan
    else:
        found = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw]?)", str(duration).strip())
        seconds = float(found[1]) * _UNITS[found[2] or "s"] if found else -1.0
    if not 0 <= seconds < float("inf"):
        raise InputError(f"{name} is {duration!r}; give seconds, or a time such as 30s, 12h or 7d.")
    return seconds


@dataclass(frozen=True)
class Tiers:
    """The policy that says which rows are hot; name one of the three ways.

    Parameters
    ----------
    updated_at
        Column with the time of each row's last change: timestamps, dates, or seconds since 1970.
        Those without a time zone are UTC, so write ``datetime.now(timezone.utc)``. Rows without
        one belong to the core.
    where
        SQL over the table's columns that is true for hot rows, such as ``status = 'draft'``.
    row_versions
        Take the time from Lance, which keeps for each row the version that last changed it; the
        table needs stable row ids. A version that was cleaned up counts as old, so keep versions
        for as long as ``settle``. Settling is a change, too, so a row that has its vector, or the
        mark beside it, belongs to the core however late its version is. (A plain `update` leaves
        the mark: such a row is embedded by the next settle.)
    settle
        A row that has not changed for this long is quiet and belongs to the core. Not used with
        ``where``.
    near
        How many core rows around the last place of the answer a reranker reads beside the hot
        ones. All other core rows keep the order that their vectors and words gave them.
    calibration
        What makes scores comparable across tiers, from `lancedb_ft.calibrate`. Without, a hot row
        that has no vector is taken to stand as high by vector as by full text.

    Raises
    ------
    InputError
        None or several of the three, or a value that cannot be used.

    Examples
    --------
    >>> Tiers(updated_at="updated_at", settle="7d").settle_s
    604800.0
    """

    updated_at: str | None = None
    where: str | None = None
    row_versions: bool = False
    settle: str | float = "7d"
    near: int = 4
    calibration: Calibration | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.row_versions, bool):
            raise InputError(f"row_versions is {self.row_versions!r}; it must be True or False.")
        if self.updated_at is not None and not isinstance(self.updated_at, str):
            raise InputError(f"updated_at is {self.updated_at!r}; it must be the name of a column.")
        if self.calibration is not None and not isinstance(self.calibration, Calibration):
            raise InputError(
                f"calibration is a {type(self.calibration).__name__}, and must be what "
                "lancedb_ft.calibrate returned."
            )
        ways = [self.updated_at is not None, self.where is not None, self.row_versions]
        if sum(ways) != 1:
            raise InputError(
                "Tiers takes one of updated_at=COLUMN, where=SQL and row_versions=True; "
                f"{sum(ways)} were given."
            )
        if self.where is not None:
            one_expression(self.where)
        check_whole("near", self.near, least=0)
        seconds_of(self.settle)

    @property
    def settle_s(self) -> float:
        """How long a row must have been quiet, in seconds."""
        return seconds_of(self.settle)

    @property
    def predicate(self) -> str | None:
        """The caller's own SQL as one expression; what fails there is the caller's to mend."""
        return None if self.where is None else one_expression(self.where)

    @property
    def key(self) -> str:
        """What the policy looks at; the same for policies that differ in time or calibration."""
        # Not True: by that policy embedded rows were hot, too, and other rows had settled.
        versions = "unfilled" if self.row_versions else False
        return f"updated_at:{self.updated_at} where:{self.where} row_versions:{versions}"

    def hot(self, ds: lance.LanceDataset, *, table: str, now_s: float | None = None) -> str:
        """Return SQL that is true for the rows that are hot now.

        Parameters
        ----------
        ds
            The version of the table.
        table
            Its name, for errors.
        now_s
            The present, in seconds since 1970, by default that of the clock.

        Raises
        ------
        ColumnNotFoundError
            There is no such column, or it holds no times.
        InputError
            Row versions are asked of a table without stable row ids.
        """
        late = self.late(ds, table=table, now_s=now_s)
        filled = filled_column(ds.schema, table=table) if self.row_versions else None
        if filled is None or not filled.by_model:
            return late
        return f"({late} AND `{filled.name}` IS NULL)"

    def late(self, ds: lance.LanceDataset, *, table: str, now_s: float | None = None) -> str:
        """Return SQL as `hot` does, for row versions with the rows that are embedded already.

        Raises
        ------
        ColumnNotFoundError, InputError
            See `hot`.
        """
        cutoff_s = self._cutoff_s(now_s)
        if self.predicate is not None:
            return self.predicate
        if self.updated_at is not None:
            return f"`{self.updated_at}` > {_literal(ds.schema, self.updated_at, cutoff_s, table)}"
        if not stable_row_ids(ds):
            raise InputError(
                f"Table {table!r} has no stable row ids, so Lance does not keep when a row "
                "changed. Use Tiers(updated_at=COLUMN), or make the table anew with "
                'storage_options={"new_table_enable_stable_row_ids": "true"}.'
            )
        return f"_row_last_updated_at_version > {_version_at(ds, cutoff_s, self.settle_s)}"

    def _cutoff_s(self, now_s: float | None) -> float:
        """Return the moment since when a row must not have changed, within what columns can hold.

        Raises
        ------
        InputError
            The present is no number.
        """
        present = time.time() if now_s is None else now_s
        if not is_number(present):
            raise InputError(f"now_s is {now_s!r}; it must be in seconds since 1970.")
        if not abs(present) < _TOO_LARGE:
            raise InputError(f"now_s is {now_s!r}; it must be finite.")
        return min(max(present - self.settle_s, _MOMENTS[0]), _MOMENTS[1])

    def hot_mask(
        self, changed: pa.ChunkedArray, *, now_s: float | None = None
    ) -> npt.NDArray[np.bool_]:
        """Say for values of `updated_at` whether their rows are hot; as `hot` does, in memory.

        Parameters
        ----------
        changed
            Times of change, of a type that `hot` takes.
        now_s
            The present, in seconds since 1970, by default that of the clock.
        """
        cutoff_s = self._cutoff_s(now_s)
        bound: float = cutoff_s
        if holds_times(changed.type):
            bound = _count_of(changed.type, cutoff_s)
            # In the unit of the column, as in SQL: a coarser one would lose what lies between.
            dated = pa.types.is_date(changed.type)
            changed = changed.cast(pa.date32()).cast(pa.int32()) if dated else changed
            changed = changed.cast(pa.int64())
        elif pa.types.is_integer(changed.type):
            bound = int(cutoff_s)
        late = pc.fill_null(pc.greater(changed, bound), False)
        return np.asarray(late.combine_chunks().to_numpy(zero_copy_only=False))

    def quiet(self, ds: lance.LanceDataset, *, table: str, now_s: float | None = None) -> str:
        """Return SQL that is true for all rows that are not hot."""
        return f"(({self.hot(ds, table=table, now_s=now_s)}) IS NOT TRUE)"

    def since(self, ds: lance.LanceDataset, cutoff_s: float, *, table: str) -> str | None:
        """Return SQL for rows that a time of change says were hot at an earlier cutoff."""
        if self.where is not None:
            return None
        return self.hot(ds, table=table, now_s=cutoff_s + self.settle_s)


def require_tiers(tiers: Tiers) -> None:
    """Refuse what is no policy.

    Raises
    ------
    InputError
        It is something else.
    """
    if not isinstance(tiers, Tiers):
        raise InputError(
            f"tiers is a {type(tiers).__name__}, and must be a Tiers: Tiers(updated_at=COLUMN)."
        )


class Filled(NamedTuple):
    """The column that is null where a row has no vector of its present text.

    ``source`` is what the vectors are made from, where that is known, and ``by_model`` says whether
    lancedb-ft can make them.
    """

    name: str
    source: str | None
    by_model: bool


def filled_column(schema: pa.Schema, *, table: str) -> Filled | None:
    """Return the column that is null where a row has no vector of its present text, if any.

    Where the vectors have marks (see `lancedb_ft.reindex`) that is their column: a deferred row may
    keep the vector of an earlier text, and has no mark.
    """
    if STATE_KEY.encode() in (schema.metadata or {}):
        active = read_state(schema, table=table).active
        if active is None:
            return None
        names = [n for n in (active.hash_column, active.column) if n and n in schema.names]
        function = active.function is not None
        return Filled(names[0], active.source_column, function) if names else None
    shown = [
        n
        for n in vector_columns(schema)
        if not isinstance(schema.field(n).type, pa.BaseExtensionType)
    ]
    if len(shown) != 1:
        return None
    entries = (e for e in embedding_entries(schema) if e["vector_column"] == shown[0])
    source = next((str(entry["source_column"]) for entry in entries), None)
    return Filled(shown[0], source, source is not None)


def _count_of(kind: pa.DataType, at_s: float) -> int:
    """Return a moment in units of a type of time, rounded down as `>` needs it."""
    return math.floor(at_s * 1e6) * 1000 // nanoseconds_per_unit(kind)


def _literal(schema: pa.Schema, name: str, at_s: float, table: str) -> str:
    kind = require_column(schema, name, table=table).type
    if pa.types.is_floating(kind):
        return repr(float(at_s))
    if pa.types.is_integer(kind):
        bounds = np.iinfo(kind.to_pandas_dtype())  # Lance knows no literal beyond
        return str(min(max(int(at_s), bounds.min), bounds.max))
    if holds_times(kind):
        return time_sql(kind, _count_of(kind, at_s))
    times = [field_.name for field_ in schema if holds_times(field_.type)]
    raise ColumnNotFoundError(
        name,
        table=table,
        available=schema.names,
        expected=f"a timestamp, a date, or seconds since 1970, found {kind}; times are in "
        f"{listing(times)}",
    )


_cutoffs: dict[tuple[str, float], tuple[float, float, int]] = {}
_lock = threading.Lock()


def _version_at(ds: lance.LanceDataset, at_s: float, settle_s: float) -> int:
    """Return the newest version that was committed at or before a moment; 0 for none.

    Found by halving the list of versions, which reads a few of their manifests, and remembered for
    as long as it may be off by without harm. Versions that are gone count as older.
    """
    key = (str(ds.uri), settle_s)
    with _lock:
        asked_s, known_s, version = _cutoffs.get(key, (0.0, -1.0, 0))
    slack_s = _CUTOFF_AGE * settle_s
    if asked_s <= at_s < asked_s + slack_s and version <= int(ds.version) and known_s >= 0:
        return version
    numbers = sorted(ref["version"] for ref in ds.version_refs() if ref["version"] <= ds.version)
    low, high = 0, len(numbers)
    while low < high:
        middle = (low + high) // 2
        if _committed_s(ds, numbers[middle]) <= at_s:
            low = middle + 1
        else:
            high = middle
    # Where even the oldest one that is kept is younger: rows of the versions before it are old.
    version = numbers[low - 1] if low else (numbers[0] - 1 if numbers else 0)
    with _lock:
        _cutoffs[key] = (at_s, time.time(), version)
    return version


def _committed_s(ds: lance.LanceDataset, version: int) -> float:
    try:
        found: Any = ds.checkout_version(version).get_version()["timestamp"]
    except (OSError, ValueError):
        return 0.0  # cleaned up meanwhile, so it is among the oldest
    return float(found.timestamp())
