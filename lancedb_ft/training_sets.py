"""`TrainingSet`: the data to train on, of one of seven types."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.types import Pairs, hash_rows, take_rows

__all__ = [
    "KINDS",
    "Kind",
    "TrainingData",
    "TrainingSet",
    "TrainingSplit",
    "require_kind",
    "require_score_range",
]

#: What each of the three labels of natural language inference means (SNLI, MultiNLI).
ENTAILMENT, NEUTRAL, CONTRADICTION = 0, 1, 2


@dataclass(frozen=True)
class Kind:
    """One type of training data.

    Parameters
    ----------
    name
        What users call it.
    description
        One line, for listings.
    columns
        Required columns and their types. ``negative_1`` stands for itself and any number of
        further ones: ``negative_2`` and so on.
    optional
        Columns that are kept where they are there.
    """

    name: str
    description: str
    columns: Mapping[str, pa.DataType]
    optional: Mapping[str, pa.DataType] = field(default_factory=dict)


_TEXT, _TEXTS = pa.string(), pa.list_(pa.string())
_NUMBER, _NUMBERS = pa.float64(), pa.list_(pa.float64())
_IDS = {"query_id": _TEXT, "doc_id": _TEXT}
#: Rows of one group (a label, say) are no negatives of one another.
_GROUP = {"group": _TEXT}

#: Every type of training data, by name.
KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "pairs",
            "texts that belong together",
            {"anchor": _TEXT, "positive": _TEXT},
            {**_IDS, **_GROUP},
        ),
        Kind(
            "triplets",
            "a text, one that belongs to it, and one or more that do not",
            {"anchor": _TEXT, "positive": _TEXT, "negative_1": _TEXT},
            {**_IDS, **_GROUP},
        ),
        Kind(
            "scored",
            "two texts and how alike they are, 0 to 1",
            {"sentence1": _TEXT, "sentence2": _TEXT, "score": _NUMBER},
        ),
        Kind(
            "nli",
            "a premise, a hypothesis, and 0 entailment, 1 neutral or 2 contradiction",
            {"premise": _TEXT, "hypothesis": _TEXT, "label": pa.int64()},
        ),
        Kind(
            "ranking",
            "a query, a document and its grade of relevance, 0 for a judged miss",
            {**_IDS, "query": _TEXT, "document": _TEXT, "grade": pa.int64()},
        ),
        Kind(
            "negatives",
            "a query, a document that answers it, others that do not; scores of a teacher",
            {"query": _TEXT, "positive": _TEXT, "negatives": _TEXTS},
            {
                **_IDS,
                "negative_ids": _TEXTS,
                "positive_score": _NUMBER,
                "negative_scores": _NUMBERS,
            },
        ),
        Kind("labelled", "a text and its label", {"text": _TEXT, "label": _TEXT}),
    )
}


def require_kind(name: str) -> Kind:
    """Return the type of that name.

    Raises
    ------
    InputError
        There is none; the error lists those there are.
    """
    if name not in KINDS:
        known = ", ".join(f"{kind.name!r} ({kind.description})" for kind in KINDS.values())
        raise InputError(f"There is no type of training data {name!r}. There is: {known}.")
    return KINDS[name]


def require_score_range(score_range: tuple[float, float] | None) -> None:
    """Refuse a scale that scores cannot be mapped from: to infinity, every score would be 0.

    Raises
    ------
    InputError
        An end is no finite number, or the first is not below the second.
    """
    if score_range is None:
        return
    low, high = score_range
    if not (math.isfinite(low) and math.isfinite(high) and low < high):
        raise InputError(
            f"score_range is {score_range}; give the lowest and the highest score, two finite "
            "numbers such as (0, 5)."
        )


@dataclass(frozen=True)
class TrainingSet:
    """Training data of one type, with the loss and the prompts it is to be trained with.

    Parameters
    ----------
    kind
        A key of `KINDS`, which says what the columns are.
    table
        The rows, every one complete: readers count and leave out what is not.
    source
        Where they come from (database, tables, Lance versions), kept in the lineage.
    loss
        A key of `lancedb_ft.train.losses.LOSSES`; None for the usual one of this type.
    query_prompt, document_prompt
        Instructions that stand before each text of either side, such as ``"query: "``. Of data
        whose sides are alike (scored, nli, labelled) both sides get ``document_prompt``.
    name
        Of this set among several that are trained together.

    Raises
    ------
    ColumnNotFoundError
        A column is missing or of the wrong type.
    InputError
        A value is null, blank, not finite or out of its range, or two columns have one name.

    Examples
    --------
    >>> rows = pa.table({"text": ["refund, please", "open an account"], "label": ["r", "a"]})
    >>> TrainingSet("labelled", rows)
    TrainingSet('labelled', n=2)
    """

    kind: str
    table: pa.Table
    source: Mapping[str, Any] = field(default_factory=dict)
    loss: str | None = None
    query_prompt: str | None = None
    document_prompt: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        """Check the columns, give them one type and one order."""
        kind = require_kind(self.kind)
        wanted = {**kind.columns, **_further_negatives(kind, self.table.column_names)}
        wanted |= {n: t for n, t in kind.optional.items() if n in self.table.column_names}
        columns = {name: self._column(name, kind_type) for name, kind_type in wanted.items()}
        for name, column in columns.items():
            _check_values(self.kind, name, column)
        object.__setattr__(self, "table", pa.table(columns))
        _check_lists(self.table)

    @classmethod
    def of_pairs(cls, pairs: Pairs) -> TrainingSet:
        """Take pairs as training data: triplets where each has a negative."""
        names = {
            "query": "anchor",
            "document": "positive",
            "negative": "negative_1",
            "query_id": "query_id",
            "doc_id": "doc_id",
        }
        found = {new: pairs.table[old] for old, new in names.items() if old in _names(pairs)}
        kind = "triplets" if "negative" in _names(pairs) else "pairs"
        return cls(kind, pa.table(found), pairs.source)

    def __len__(self) -> int:
        """Return the number of rows."""
        return int(self.table.num_rows)

    def __repr__(self) -> str:
        """Say how many, not what."""
        return f"TrainingSet({self.kind!r}, n={len(self)})"

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the type, the loss, the prompts and all rows in order."""
        facts = (self.kind, self.loss, self.query_prompt, self.document_prompt)
        return hash_rows(self.table, salt=repr(facts))

    def take(self, indices: Any) -> TrainingSet:
        """Return the rows at these positions (an int array or a boolean mask as Arrow array)."""
        return replace(self, table=take_rows(self.table, indices))

    @property
    def negative_columns(self) -> list[str]:
        """``negative_1``, ``negative_2`` and so on, those there are."""
        names = [name for name in self.table.column_names if _is_negative(name)]
        return sorted(names, key=lambda name: int(name.removeprefix("negative_")))

    def _column(self, name: str, wanted: pa.DataType) -> pa.ChunkedArray:
        available = self.table.column_names
        if name not in available:
            raise ColumnNotFoundError(
                name, table=f"{self.kind} to train on", available=available, expected=str(wanted)
            )
        if (n_alike := available.count(name)) > 1:
            raise InputError(
                f"The table has {n_alike} columns {name!r}, and {self.kind!r} data have one: "
                "rename or drop the others."
            )
        column = self.table[name]
        if pa.types.is_dictionary(column.type):
            column = pc.cast(column, column.type.value_type)
        if not _fits(column.type, wanted):
            raise ColumnNotFoundError(
                name,
                table=f"{self.kind} to train on",
                available=available,
                expected=f"{wanted}, found {column.type}",
            )
        return column.cast(wanted)


@dataclass(frozen=True)
class TrainingSplit:
    """A training set in three parts; what is judged in one stands in no part trained before it.

    ``info`` says how it was made (seed, shares, groups) and is kept in the lineage.
    """

    train: TrainingSet
    dev: TrainingSet
    test: TrainingSet
    info: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, TrainingSet]:
        """``{"train": ..., "dev": ..., "test": ...}``."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


#: What `lancedb_ft.train` takes: one set, or several that are trained together.
TrainingData: TypeAlias = Pairs | TrainingSet | Sequence[Pairs | TrainingSet]


def _names(pairs: Pairs) -> list[str]:
    return list(pairs.table.column_names)


def _is_negative(name: str) -> bool:
    return name.startswith("negative_") and name.removeprefix("negative_").isdecimal()


def _further_negatives(kind: Kind, names: Sequence[str]) -> dict[str, pa.DataType]:
    if "negative_1" not in kind.columns:
        return {}
    found = [name for name in names if _is_negative(name)]
    return dict.fromkeys(sorted(found, key=lambda n: int(n.removeprefix("negative_"))), _TEXT)


def _fits(found: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_list(wanted):
        is_list = pa.types.is_list(found) or pa.types.is_large_list(found)
        return is_list and _fits(found.value_type, wanted.value_type)
    if pa.types.is_string(wanted):
        return bool(pa.types.is_string(found) or pa.types.is_large_string(found))
    if pa.types.is_integer(wanted):
        return bool(pa.types.is_integer(found))
    return bool(pa.types.is_integer(found) or pa.types.is_floating(found))


# --- values --------------------------------------------------------------------------------


def _between(low: float, high: float) -> Callable[[pa.ChunkedArray], pa.ChunkedArray]:
    return lambda column: pc.and_(
        pc.greater_equal(column, pa.scalar(low).cast(column.type)),
        pc.less_equal(column, pa.scalar(high).cast(column.type)),
    )


#: A score of a teacher may be any number; what is no number makes every loss one.
_FINITE: tuple[Callable[[Any], Any], str] = (pc.is_finite, "a finite number")

#: The range of numbers: what holds for a good one, and how to say it.
_RANGES: Mapping[tuple[str, str], tuple[Callable[[Any], Any], str]] = {
    ("negatives", "positive_score"): _FINITE,
    ("negatives", "negative_scores"): _FINITE,
    ("scored", "score"): (_between(0.0, 1.0), "from 0 to 1"),
    ("nli", "label"): (_between(0, 2), "0 (entailment), 1 (neutral) or 2 (contradiction)"),
    ("ranking", "grade"): (_between(0, 2**31 - 1), "0 or higher"),
}


def _check_values(kind: str, name: str, column: pa.ChunkedArray) -> None:
    if column.null_count:
        raise InputError(f"{column.null_count} of {len(column)} rows have no {name}.")
    flat = pc.list_flatten(column) if pa.types.is_list(column.type) else column
    if flat.null_count:
        raise InputError(f"{flat.null_count} entries of {name} are null.")
    if pa.types.is_string(flat.type):
        n_blank = pc.sum(pc.equal(pc.utf8_trim_whitespace(flat), "")).as_py() or 0
        if n_blank:
            raise InputError(f"{n_blank} of {len(flat)} texts in {name} are blank.")
    holds, told = _RANGES.get((kind, name), (None, ""))
    if holds is not None:
        n_bad = len(flat) - (pc.sum(pc.fill_null(holds(flat), False)).as_py() or 0)
        if n_bad:
            raise InputError(
                f"{n_bad} of {len(flat)} {'rows' if flat is column else 'entries'} have a {name} "
                f"that is not {told}."
            )


def _check_lists(table: pa.Table) -> None:
    """Refuse lists that belong together and differ in length."""
    if "negatives" not in table.column_names:
        return
    lengths = pc.list_value_length(table["negatives"])
    for name in ("negative_ids", "negative_scores"):
        if name in table.column_names and not lengths.equals(pc.list_value_length(table[name])):
            raise InputError(f"negatives and {name} must have as many entries in each row.")
