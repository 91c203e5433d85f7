"""From the rows of a file to clean documents, queries and judgements."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from lancedb_ft.data.formats import format_of, parquet_schema
from lancedb_ft.data.texts import key_of
from lancedb_ft.errors import InputError

__all__ = [
    "ColumnTypes",
    "Fields",
    "as_column",
    "choose_fields",
    "choose_qrels_fields",
    "clean_item",
    "clean_judgement",
    "text_reason",
]

#: Names under which the field's data sets keep the id and the text, best first.
ITEM_NAMES: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "corpus": (
        ("_id", "id", "doc_id", "docid", "pid"),
        ("text", "contents", "body", "content", "passage", "document"),
    ),
    "queries": (
        ("_id", "id", "query_id", "query-id", "qid"),
        ("text", "query", "question", "contents"),
    ),
}
QRELS_NAMES: Mapping[str, tuple[str, ...]] = {
    "query_id": ("query_id", "query-id", "qid", "_qid", "queryid"),
    "doc_id": ("doc_id", "corpus-id", "corpus_id", "doc-id", "docid", "did", "pid"),
    "score": ("score", "grade", "relevance", "rel", "label"),
}
#: Columns of the tables written, and what LanceDB adds to its results.
_RESERVED = ("id", "title", "text", "split", "_distance", "_score", "_relevance_score")


@dataclass(frozen=True)
class Fields:
    """Which fields of a file hold what."""

    id: str
    text: str
    title: str | None = None
    split: str | None = None

    @property
    def used(self) -> tuple[str, ...]:
        """The names of those fields."""
        return tuple(n for n in (self.id, self.text, self.title, self.split) if n is not None)


def choose_fields(
    kind: Literal["corpus", "queries"],
    names: Sequence[str],
    *,
    path: Path,
    id_field: str | None = None,
    text_field: str | None = None,
) -> Fields:
    """Find the id and the text among the names of the fields.

    Raises
    ------
    InputError
        One of them is not there; the error lists those that are.
    """
    ids, texts = ITEM_NAMES[kind]
    chosen_text = _pick(text_field, texts, names, path, "text_field", "text")
    others = [name for name in names if name != chosen_text]
    return Fields(
        id=_pick(id_field, ids, others, path, "id_field", "id"),
        text=chosen_text,
        # The rows of a JSONL file may each have other fields, so the first one proves nothing.
        title="title" if kind == "corpus" and chosen_text != "title" else None,
        split="split" if kind == "queries" and chosen_text != "split" else None,
    )


def choose_qrels_fields(names: Sequence[str], *, path: Path) -> dict[str, str | None]:
    """Find query id, document id and (optional) score among the names of the fields."""
    return {
        "query_id": _pick(None, QRELS_NAMES["query_id"], names, path, "", "query id"),
        "doc_id": _pick(None, QRELS_NAMES["doc_id"], names, path, "", "document id"),
        "score": next((name for name in QRELS_NAMES["score"] if name in names), None),
    }


def _pick(
    given: str | None,
    candidates: Sequence[str],
    names: Sequence[str],
    path: Path,
    argument: str,
    what: str,
) -> str:
    wanted = (given,) if given is not None else candidates
    for name in wanted:
        if name in names:
            return name
    cure = f" Name it with {argument}=." if argument and given is None else ""
    raise InputError(
        f"{str(path)!r} has no field for the {what}: found {', '.join(map(repr, names))}, "
        f"expected {' or '.join(map(repr, wanted))}.{cure}"
    )


def clean_item(values: Mapping[str, Any], fields: Fields, *, join_title: bool) -> tuple[str, Any]:
    """Return ``(reason, "")`` for a bad row, ``("", {"id", "text", "title"?, "split"?})`` else."""
    identifier = key_of(values.get(fields.id))
    if not identifier:
        return f"no {fields.id} (text or a whole number)", None
    text = values.get(fields.text)
    title = values.get(fields.title) if fields.title else None
    if title is not None and (reason := text_reason(title)):
        return f"title {reason}", None
    if join_title and isinstance(title, str) and title.strip():
        text = f"{title} {text}" if isinstance(text, str) and text.strip() else title
    if text is None:
        return f"no {fields.text}", None
    if reason := text_reason(text) or text_reason(identifier):
        return f"{fields.text} {reason}", None
    if not text.strip():
        cure = " (it has a title: join_title keeps it)" if title and title.strip() else ""
        return f"blank {fields.text}{cure}", None
    item = {"id": identifier, "text": text}
    if fields.title:
        item["title"] = title or ""
    if fields.split:
        part = values.get(fields.split)
        if part is not None and not isinstance(part, str):
            return "split is not text", None
        item["split"] = part or None
    return "", item


def clean_judgement(
    values: Mapping[str, Any], fields: Mapping[str, str | None]
) -> tuple[str, tuple[str, str, int] | None]:
    """Return ``(reason, None)`` for a bad row, ``("", (query_id, doc_id, score))`` else."""
    query_id = key_of(values.get(str(fields["query_id"])))
    doc_id = key_of(values.get(str(fields["doc_id"])))
    if not query_id or not doc_id:
        return f"no {'query' if not query_id else 'document'} id", None
    score_field = fields["score"]
    score = 1 if score_field is None else values.get(score_field)
    if isinstance(score, bool) or not isinstance(score, (int, float, str)):
        return "score is not a whole number", None
    try:
        number = float(score)
    except (ValueError, OverflowError):  # JSON has whole numbers of any length
        return "score is not a whole number", None
    if not number.is_integer() or abs(number) >= 2**31:
        return "score is not a whole number", None
    if number < 0:
        return "score is negative", None
    return "", (query_id, doc_id, int(number))


def text_reason(text: Any) -> str:
    """Say why a value cannot be stored as text; empty if it can."""
    if not isinstance(text, str):
        return "is not text"
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return "is not valid Unicode"
    return ""


# --- the columns besides id, title and text ------------------------------------------------

_ARROW = {
    "bool": pa.bool_(),
    "int": pa.int64(),
    "float": pa.float64(),
    "text": pa.string(),
}


@dataclass
class ColumnTypes:
    """The types of the other scalar fields of a file, found while it is read.

    Numbers of both sorts become float64, any other mixture text. Nested fields are left out and
    counted in ``ignored``.
    """

    used: tuple[str, ...]
    types: dict[str, pa.DataType] = field(default_factory=dict)
    ignored: Counter[str] = field(default_factory=Counter)
    _kinds: dict[str, set[str]] = field(default_factory=dict)

    @classmethod
    def of(cls, path: Path, fields: Fields) -> ColumnTypes:
        """Start with what the file itself says: Parquet has a schema, the others have not."""
        found = cls(fields.used)
        if format_of(path) == "parquet":
            for column in parquet_schema(path):
                if column.name not in fields.used and found._takes(column.name):
                    kept = _stored(column.type)
                    if kept is None:
                        found.ignored[column.name] += 1
                    else:
                        found.types[column.name] = kept
        return found

    def see(self, values: Mapping[str, Any]) -> None:
        """Take note of the types in one row."""
        for name, value in values.items():
            if value is None or name in self.used or name in self.types:
                continue
            kind = _kind(value) if self._takes(name) else ""
            if kind:
                self._kinds.setdefault(name, set()).add(kind)
            else:
                self.ignored[name] += 1

    @property
    def columns(self) -> dict[str, pa.DataType]:
        """``{name: type}`` of the columns that are kept."""
        inferred = {name: _ARROW[_widest(kinds)] for name, kinds in self._kinds.items()}
        return {**self.types, **inferred}

    def _takes(self, name: str) -> bool:
        # LanceDB keeps names that begin with _row, and cannot read these two signs in a name.
        return bool(name) and name not in _RESERVED and not re.search(r"[.`]|^_row", name)


def _stored(data_type: pa.DataType) -> pa.DataType | None:
    if pa.types.is_dictionary(data_type):
        data_type = data_type.value_type
    if pa.types.is_nested(data_type):
        return None
    if pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type):
        return pa.string()
    if pa.types.is_timestamp(data_type) and data_type.unit == "ns":
        return pa.timestamp("us", data_type.tz)
    return data_type


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "text"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) and not text_reason(value) else ""


def _widest(kinds: set[str]) -> str:
    if len(kinds) == 1:
        return next(iter(kinds))
    return "float" if kinds == {"int", "float"} else "text"


def as_column(values: list[Any], data_type: pa.DataType) -> pa.Array:
    """Make an Arrow column; what is not of its type becomes text or null."""
    if pa.types.is_string(data_type):
        values = [_as_text(value) for value in values]
    elif pa.types.is_float64(data_type):
        values = [float(value) if isinstance(value, (int, float)) else None for value in values]
    return pa.array(values, data_type)


def _as_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return None if value is None or text_reason(value) else value
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None
