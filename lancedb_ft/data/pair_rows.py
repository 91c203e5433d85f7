"""From rows to pairs: what can be none is counted by reason."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lancedb_ft.data.reader import AMBIGUOUS
from lancedb_ft.data.texts import key_of, query_id_of
from lancedb_ft.errors import BadRowsError, InputError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["PairCollector"]

#: Grades are kept as 32-bit numbers; no scale of relevance comes near.
MAX_GRADE = 2**31 - 1


def _is_blank(value: Any) -> bool:
    return not isinstance(value, str) or not value.strip()


@dataclass
class PairCollector:
    """Turns rows into pairs, and counts those that cannot be any.

    Parameters
    ----------
    texts
        ``{doc_id: text}``.
    with_negatives
        Whether rows may name a negative.
    with_misses
        Whether rows of grade 0 are kept, as ranking data need them; pairs have none.
    """

    texts: Mapping[str, Any]
    with_negatives: bool = False
    with_misses: bool = False
    n_rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    _rows: dict[tuple[str, str, str | None], list[Any]] = field(default_factory=dict)
    _queries: dict[str, str] = field(default_factory=dict)

    def add(
        self,
        *,
        query: Any,
        doc_id: Any,
        query_id: Any = ...,
        grade: Any = 1,
        negative_id: Any = None,
    ) -> None:
        """Take one row; ``query_id=...`` means that the text is the id."""
        self.n_rows += 1
        reason = self._reason(query, doc_id, query_id, grade, negative_id)
        if reason:
            self.rejected[reason] += 1
            return
        if grade == 0 and not self.with_misses:
            self.skipped["grade 0 (judged as no answer)"] += 1
            return
        key = query_id_of(query) if query_id is ... else key_of(query_id)
        if self._queries.setdefault(key, query) != query and query_id is not ...:
            self.rejected["query id with two texts"] += 1
            return
        negative = self.texts[key_of(negative_id)] if key_of(negative_id) else None
        row = [key, self._queries[key], key_of(doc_id), self.texts[key_of(doc_id)], grade, negative]
        known = self._rows.setdefault((key, row[2], negative), row)
        if known is not row:
            alike = known[4] == grade
            known[4] = max(known[4], grade)
            self.skipped[f"repeated pair ({'merged' if alike else 'the highest grade kept'})"] += 1

    def _reason(self, query: Any, doc_id: Any, query_id: Any, grade: Any, negative: Any) -> str:
        if query is AMBIGUOUS:
            return "query id with two texts"
        if _is_blank(query):
            return "no query"
        if query_id is not ... and not key_of(query_id):
            return "no query id"
        whole = isinstance(grade, (int, float)) and float(grade).is_integer()
        if not whole or not 0 <= grade <= MAX_GRADE:
            return "grade is not a whole number of 0 or more"
        if negative is not None and (reason := self._document_reason(negative)):
            return f"negative: {reason}"
        if negative is not None and key_of(negative) == key_of(doc_id):
            return "negative: is the document itself"
        return self._document_reason(doc_id, query)

    def _document_reason(self, doc_id: Any, query: str | None = None) -> str:
        key = key_of(doc_id)
        if not key:
            return "no document id"
        if key not in self.texts:
            return "no document of this id"
        text = self.texts[key]
        if text is AMBIGUOUS:
            return "document id stands for several texts"
        if _is_blank(text):
            return "document without text"
        if query is not None and text.strip() == query.strip():
            return "query and document are the same text"
        return ""

    def pairs(self, source: Mapping[str, Any], *, name: str, max_rejected: float) -> Pairs:
        """Return the pairs, in the order of their rows.

        Raises
        ------
        BadRowsError
            More than ``max_rejected`` of the rows were rejected, or no pair is left.
        """
        table = self._table(name, max_rejected)
        return Pairs(table, {**source, **self._counts()})

    def ranking(self, source: Mapping[str, Any], *, name: str, max_rejected: float) -> TrainingSet:
        """Return the judgements as ranking data, in the order of their rows.

        Raises
        ------
        BadRowsError
            As for `pairs`.
        """
        table = self._table(name, max_rejected)
        return TrainingSet("ranking", table, {**source, **self._counts()})

    def _table(self, name: str, max_rejected: float) -> pa.Table:
        if not 0 <= max_rejected <= 1:
            raise InputError(f"max_rejected is {max_rejected}; it is a share, 0 to 1.")
        n_rejected = sum(self.rejected.values())
        if not self._rows or n_rejected > max_rejected * self.n_rows:
            reasons = self.rejected if n_rejected else self.skipped
            raise BadRowsError(name, n_rows=self.n_rows, reasons=reasons)
        columns = list(zip(*self._rows.values(), strict=True))
        names = ["query_id", "query", "doc_id", "document"]
        data = {n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=False)}
        data["grade"] = pa.array([int(value) for value in columns[4]], pa.int32())
        if self.with_negatives and all(value is not None for value in columns[5]):
            data["negative"] = pa.array(columns[5], pa.string())
        return pa.table(data)

    def _counts(self) -> dict[str, Any]:
        return {
            "n_rows": self.n_rows,
            "rejected": dict(self.rejected),
            "skipped": dict(self.skipped),
        }
