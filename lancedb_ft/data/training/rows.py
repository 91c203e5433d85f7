"""From rows to training sets: every value is checked, and what is no good is counted by reason."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.qrels import value_of_part
from lancedb_ft.data.records import text_reason
from lancedb_ft.data.texts import document_id_of, query_id_of
from lancedb_ft.errors import BadRowsError, InputError
from lancedb_ft.training_sets import KINDS, TrainingSet

__all__ = [
    "MADE_IDS",
    "NLI_LABELS",
    "SPLIT_COLUMN",
    "PartFilter",
    "RowCollector",
    "check_rejected",
]

_CHUNK_ROWS = 8192
#: The column in which published data sets say what part a row is of.
SPLIT_COLUMN = "split"

#: Names of the labels of natural language inference.
NLI_LABELS = {"entailment": 0, "neutral": 1, "contradiction": 2, "0": 0, "1": 1, "2": 2}
#: The scales that scores are found to be of, if the caller names none.
_SCALES = ((0.0, 1.0), (0.0, 5.0))

#: How ids are made where there are none: the same text has the same id anywhere.
MADE_IDS: Mapping[str, Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "ranking": {
        "query_id": lambda row: query_id_of(row["query"]),
        "doc_id": lambda row: document_id_of(row["document"]),
    }
}

#: Takes a value, gives why it is none, and the value as it is kept.
Check = Callable[[Any], "tuple[str, Any]"]


@dataclass
class PartFilter:
    """Tells the rows of one part by their column ``split``, where there is one.

    Parameters
    ----------
    part
        ``train``, ``dev`` (also called ``validation``) or ``test``, or any other value of the
        column; None for all rows.
    names
        The columns there are.
    """

    part: str | None
    names: Sequence[str]
    others: Counter[str] = field(default_factory=Counter)

    @property
    def on(self) -> bool:
        """Whether there is anything to tell."""
        return self.part is not None and SPLIT_COLUMN in self.names

    def keeps(self, value: Any) -> bool:
        """Say whether a row with this in its column ``split`` is of the part."""
        if not self.on or value_of_part(str(self.part), [str(value)]) is not None:
            return True
        self.others[str(value)] += 1
        return False

    def told(self, n_rows: int, name: str) -> dict[str, Any]:
        """Return what the source records.

        Raises
        ------
        InputError
            No row is of the part.
        """
        if not self.on:
            return {}
        if not n_rows:
            raise InputError(
                f"{name} has no part {self.part!r} in its column {SPLIT_COLUMN!r}; it has "
                f"{', '.join(map(repr, self.others)) or 'no rows'}. If the column means something "
                "else, rename it, or write the rows without it: lancedb-ft convert IN OUT --split "
                "VALUE."
            )
        return {"split": self.part, "other_parts": dict(self.others)}


def check_rejected(n_rejected: int, n_rows: int, max_rejected: float) -> bool:
    """Say whether too many rows are bad.

    Raises
    ------
    InputError
        ``max_rejected`` is no share.
    """
    if not 0 <= max_rejected <= 1:
        raise InputError(f"max_rejected is {max_rejected}; it is a share, 0 to 1.")
    return n_rejected > max_rejected * n_rows


@dataclass
class RowCollector:
    """Takes rows one by one and keeps the good ones as Arrow.

    Parameters
    ----------
    kind
        A key of `lancedb_ft.training_sets.KINDS`.
    roles
        The columns that rows have. Columns that the kind does not need are kept only if every
        good row has a value there.
    score_range
        Of scored pairs; scores are mapped from it to 0..1. By default it is found: 0 to 1 or
        0 to 5.
    """

    kind: str
    roles: Sequence[str]
    score_range: tuple[float, float] | None = None
    n_rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    _missing: Counter[str] = field(default_factory=Counter)
    _held: dict[str, list[Any]] = field(default_factory=dict)
    _chunks: dict[str, list[pa.Array]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Choose the check of each column."""
        self.roles = list(self.roles)
        given = set(self.roles)
        # Ids that there are none of are made from the texts, as everywhere here.
        self._made = [role for role in MADE_IDS.get(self.kind, ()) if role not in given]
        needed = KINDS[self.kind].columns
        self._needed = {role for role in self.roles if role in needed or role not in self._optional}
        self._checks = {role: _check_of(self.kind, role) for role in self.roles}
        self.roles.extend(self._made)
        self._needed.update(self._made)
        self._held = {role: [] for role in self.roles}
        self._chunks = {role: [] for role in self.roles}
        if self.score_range is not None and not self.score_range[0] < self.score_range[1]:
            raise InputError(
                f"score_range is {self.score_range}; give the lowest and the highest score, such "
                "as (0, 5)."
            )

    @property
    def _optional(self) -> Mapping[str, pa.DataType]:
        return KINDS[self.kind].optional

    @property
    def n_good(self) -> int:
        """Rows kept so far."""
        return self.n_rows - sum(self.rejected.values())

    def reject(self, reason: str) -> None:
        """Count a row that could not even be read."""
        self.n_rows += 1
        self.rejected[reason] += 1

    def add(self, row: Mapping[str, Any]) -> None:
        """Take one row, ``{role: value}``."""
        self.n_rows += 1
        kept: dict[str, Any] = {}
        absent: list[str] = []
        for role, check in self._checks.items():
            value = row.get(role)
            if value is None and role not in self._needed:
                absent.append(role)
                kept[role] = None
                continue
            reason, kept[role] = ("no {}", None) if value is None else check(value)
            if reason:
                self.rejected[reason.format(role)] += 1
                return
        for role in self._made:
            kept[role] = MADE_IDS[self.kind][role](kept)
        if reason := _uneven(kept):
            self.rejected[reason] += 1
            return
        self._missing.update(absent)
        for role, value in kept.items():
            self._held[role].append(value)
        if len(self._held[self.roles[0]]) >= _CHUNK_ROWS:
            self._flush()

    def training_set(
        self,
        source: Mapping[str, Any],
        *,
        name: str,
        max_rejected: float = 0.1,
    ) -> TrainingSet:
        """Return the good rows, in their order.

        Parameters
        ----------
        source
            Where they come from; the counts are added.
        name
            The file or table, for errors.
        max_rejected
            Share of the rows, 0 to 1, that may be bad.

        Raises
        ------
        BadRowsError
            More rows are bad, or none is good.
        InputError
            It cannot be told what scale the scores are of.
        """
        self._flush()
        columns = {
            role: pa.chunked_array(self._chunks[role], _type_of(self.kind, role))
            for role in self.roles
            if role in self._needed or not self._missing[role]
        }
        table = pa.table(columns)
        told: dict[str, Any] = {}
        if self.kind == "scored" and table.num_rows:
            table, told = self._scaled(table, name, max_rejected)
        n_rejected = sum(self.rejected.values())
        if not table.num_rows or check_rejected(n_rejected, self.n_rows, max_rejected):
            raise BadRowsError(name, n_rows=self.n_rows, reasons=self.rejected)
        if self._missing:
            told["incomplete_columns"] = dict(self._missing)
        counts = {"n_rows": self.n_rows, "rejected": dict(self.rejected)}
        return TrainingSet(self.kind, table, {**source, **told, **counts})

    def _flush(self) -> None:
        for role, values in self._held.items():
            if values:
                self._chunks[role].append(pa.array(values, _type_of(self.kind, role)))
                self._held[role] = []

    def _scaled(
        self, table: pa.Table, name: str, max_rejected: float
    ) -> tuple[pa.Table, dict[str, Any]]:
        scores = table["score"]
        low, high = self.score_range or _scale_of(scores, name, max_rejected)
        good = _within(scores, low, high)
        if n_bad := table.num_rows - _n_true(good):
            self.rejected[f"score is not from {low:g} to {high:g}"] += n_bad
            table = table.filter(good)
        scaled = pc.divide(pc.subtract(table["score"], low), high - low)
        place = table.column_names.index("score")
        return table.set_column(place, "score", scaled), {"score_range": [low, high]}


def _scale_of(scores: pa.ChunkedArray, name: str, max_rejected: float) -> tuple[float, float]:
    """Find the scale of scores, most of which are good; refuse to guess between two."""
    n_all = len(scores)
    in_unit, in_five = (_n_true(_within(scores, *scale)) for scale in _SCALES)
    if in_unit == in_five and in_unit >= (1 - max_rejected) * n_all:
        return _SCALES[0]
    # Of scores from 0 to 5 a good share is above 1. A few such among scores from 0 to 1 are
    # mistakes, and dividing all by 5 for their sake would be a worse one.
    if in_five - in_unit > 0.1 * n_all and in_five >= (1 - max_rejected) * n_all:
        return _SCALES[1]
    raise InputError(
        f"{name}: cannot tell the scale of the scores. Of {n_all}, {in_unit} are from 0 to 1 and "
        f"{in_five} from 0 to 5; they go from {pc.min(scores).as_py():g} to "
        f"{pc.max(scores).as_py():g}. Say it with score_range=, such as (0, 5)."
    )


def _within(scores: pa.ChunkedArray, low: float, high: float) -> pa.ChunkedArray:
    return pc.and_(pc.greater_equal(scores, low), pc.less_equal(scores, high))


def _n_true(mask: pa.ChunkedArray) -> int:
    return int(pc.sum(mask).as_py() or 0)


def _type_of(kind: str, role: str) -> pa.DataType:
    known = {**KINDS[kind].columns, **KINDS[kind].optional}
    return known.get(role, pa.string())  # negative_2 and so on


# --- checks --------------------------------------------------------------------------------


def _text(value: Any) -> tuple[str, Any]:
    if reason := text_reason(value):
        return f"{{}} {reason}", None
    return ("", value) if value.strip() else ("blank {}", None)


def _name(value: Any) -> tuple[str, Any]:
    """Take a label or an id: text or a whole number."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return "", str(value)
    return _text(value)


def _number(value: Any) -> tuple[str, Any]:
    try:
        number = math.nan if isinstance(value, (bool, list)) else float(value)
    except (TypeError, ValueError, OverflowError):  # JSON has whole numbers of any length
        number = math.nan
    return ("", number) if math.isfinite(number) else ("{} is not a number", None)


def _grade(value: Any) -> tuple[str, Any]:
    reason, number = _number(value)
    if reason or not number.is_integer() or not 0 <= number < 2**31:
        return "{} is not a whole number of 0 or more", None
    return "", int(number)


def _nli_label(value: Any) -> tuple[str, Any]:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    label = str(value).strip().casefold().removesuffix(".0")  # of a CSV that pandas wrote
    if label in ("-1", "-", ""):
        return "{} is -1 (the annotators did not agree)", None
    if isinstance(value, bool) or label not in NLI_LABELS:
        return "{} is not entailment (0), neutral (1) or contradiction (2)", None
    return "", NLI_LABELS[label]


def _list_of(check: Check) -> Check:
    def checked(value: Any) -> tuple[str, Any]:
        if isinstance(value, str):
            value = _list_in(value)
        if not isinstance(value, (list, tuple)):
            return "{} is not a list", None
        kept = []
        for item in value:
            reason, good = ("an entry of {} is null", None) if item is None else check(item)
            if reason:
                return f"{reason} (an entry)" if "entry" not in reason else reason, None
            kept.append(good)
        return "", kept

    return checked


def _list_in(text: str) -> Any:
    """Return the list that a field of a CSV file holds as JSON."""
    try:
        return json.loads(text) if text.lstrip().startswith("[") else None
    except ValueError:
        return None


def _full_list(value: Any) -> tuple[str, Any]:
    reason, kept = _list_of(_text)(value)
    return (reason, kept) if reason or kept else ("no {}", None)


_CHECKS: Mapping[str, Check] = {
    "score": _number,
    "positive_score": _number,
    "negative_scores": _list_of(_number),
    "negatives": _full_list,
    "negative_ids": _list_of(_name),
    "query_id": _name,
    "doc_id": _name,
    "group": _name,
    "grade": _grade,
}


def _check_of(kind: str, role: str) -> Check:
    if role == "label":
        return _nli_label if kind == "nli" else _name
    return _CHECKS.get(role, _text)


def _uneven(row: Mapping[str, Any]) -> str:
    """Say which lists that belong together differ in length."""
    for role in ("negative_ids", "negative_scores"):
        if row.get(role) is not None and len(row[role]) != len(row["negatives"]):
            return f"negatives and {role} are not equally many"
    return ""
