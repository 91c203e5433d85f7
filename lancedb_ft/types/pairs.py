"""`Pairs` to train and to test with, and a `Split` of them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import ColumnNotFoundError, InputError

__all__ = ["Pairs", "Split", "hash_rows", "take_rows"]


def hash_rows(table: pa.Table, *, salt: str = "") -> str:
    """Return the SHA-256 of all rows in order, whatever the order of the columns."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(table.column_names):
        digest.update(f"\x1e{name}\x1d".encode())
        for value in table[name].to_pylist():
            digest.update(str(value).encode("utf-8", "surrogatepass") + b"\x1f")
    return digest.hexdigest()


def take_rows(table: pa.Table, indices: Any) -> pa.Table:
    """Return the rows at these positions (an int array or a boolean mask as Arrow array)."""
    is_mask = isinstance(indices, (pa.Array, pa.ChunkedArray)) and pa.types.is_boolean(indices.type)
    return table.filter(indices) if is_mask else table.take(indices)


@dataclass(frozen=True)
class Pairs:
    """Queries, each with a document that answers it.

    Parameters
    ----------
    table
        Arrow table with the string columns ``query_id``, ``query``, ``doc_id``, ``document``, an
        int column ``grade`` (relevance, > 0; 1 everywhere if absent) and, optionally, a string
        column ``negative`` (a document text that does not answer the query).
    source
        Where the pairs come from (database, tables, Lance versions), kept in the lineage.

    Raises
    ------
    ColumnNotFoundError
        A column is missing or not text.
    InputError
        A text is null or blank.

    Examples
    --------
    >>> pairs = Pairs.of([("q1", "how to cancel?", "d1", "Cancel in the settings.")])
    >>> len(pairs), pairs.qrels
    (1, {'q1': {'d1': 1}})
    """

    table: pa.Table
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the columns, give them one type and one order."""
        texts = ["query_id", "query", "doc_id", "document"]
        if "negative" in self.table.column_names:
            texts.append("negative")
        columns: dict[str, Any] = {}
        for name in texts:
            if name not in self.table.column_names:
                raise ColumnNotFoundError(
                    name, table="pairs", available=self.table.column_names, expected="text"
                )
            column = self.table[name]
            if pa.types.is_dictionary(column.type):
                column = pc.cast(column, column.type.value_type)
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise ColumnNotFoundError(
                    name,
                    table="pairs",
                    available=self.table.column_names,
                    expected=f"text, found {column.type}",
                )
            blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
            if n_blank := pc.sum(blank).as_py():
                raise InputError(f"{n_blank} of {len(column)} pairs have no {name}.")
            columns[name] = column.cast(pa.string())
        if "grade" in self.table.column_names:
            grade = self.table["grade"].cast(pa.int32())
        else:
            grade = pa.chunked_array([pa.array([1] * self.table.num_rows, pa.int32())])
        if self.table.num_rows and (grade.null_count or pc.min(grade).as_py() < 1):
            raise InputError("The grade of a pair must be 1 or higher.")
        columns["grade"] = grade
        object.__setattr__(self, "table", pa.table(columns))

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, str, str]], **source: Any) -> Pairs:
        """Make pairs from ``(query_id, query, doc_id, document)`` rows."""
        names = ["query_id", "query", "doc_id", "document"]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return cls(pa.table(arrays, names=names), source)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return int(self.table.num_rows)

    @property
    def queries(self) -> dict[str, str]:
        """``{query_id: text}``, each query once, in the order of the pairs."""
        return dict(
            zip(
                self.table["query_id"].to_pylist(),
                self.table["query"].to_pylist(),
                strict=True,
            )
        )

    @property
    def corpus(self) -> dict[str, str]:
        """``{doc_id: text}`` of the documents that stand in the pairs."""
        return dict(
            zip(
                self.table["doc_id"].to_pylist(),
                self.table["document"].to_pylist(),
                strict=True,
            )
        )

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """``{query_id: {doc_id: grade}}``; of a pair given twice the higher grade counts."""
        qrels: dict[str, dict[str, int]] = {}
        for row in self.table.select(["query_id", "doc_id", "grade"]).to_pylist():
            grades = qrels.setdefault(row["query_id"], {})
            grades[row["doc_id"]] = max(row["grade"], grades.get(row["doc_id"], 0))
        return qrels

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all rows in order: the same pairs have the same fingerprint anywhere."""
        return hash_rows(self.table)

    def take(self, indices: Any) -> Pairs:
        """Return the pairs at these positions (an int array or a boolean mask as Arrow array)."""
        return Pairs(take_rows(self.table, indices), self.source)

    def __repr__(self) -> str:
        """Say how many, not what."""
        return f"Pairs(n={len(self)}, queries={len(set(self.table['query_id'].to_pylist()))})"


@dataclass(frozen=True)
class Split:
    """Pairs in three parts; no document and no query stands in two of them.

    ``info`` says how it was made (seed, shares, groups) and is kept in the lineage.
    """

    train: Pairs
    dev: Pairs
    test: Pairs
    info: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Pairs]:
        """``{"train": ..., "dev": ..., "test": ...}``."""
        return {"train": self.train, "dev": self.dev, "test": self.test}
