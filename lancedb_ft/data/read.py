"""Read pairs from the columns of LanceDB tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.arguments import check_whole
from lancedb_ft.data.texts import query_id_of
from lancedb_ft.errors import BadRowsError, FilterError, InputError
from lancedb_ft.table import (
    database_uri,
    dataset,
    id_column_of,
    require_column,
    text_column_of,
)
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = [
    "PairCollector",
    "TableReader",
    "pairs_from_columns",
    "read_pairs",
    "read_texts",
    "unique_texts",
]

_BATCH_ROWS = 8192
#: Grades are kept as 32-bit numbers; no scale of relevance comes near.
MAX_GRADE = 2**31 - 1


def read_pairs(
    pairs_table: Table,
    docs: Table,
    *,
    query: str = "query",
    doc_id: str = "doc_id",
    query_id: str | None = None,
    grade: str | None = None,
    negative_id: str | None = None,
    id_column: str | None = None,
    text_column: str | None = None,
    where: str | None = None,
    limit: int | None = None,
    max_rejected: float = 0.1,
) -> Pairs:
    """Join a table of queries and document ids (clicks, say) to the documents.

    The same query with the same document counts once, with its highest grade.

    Parameters
    ----------
    pairs_table
        Table with one row a pair.
    docs
        Table with the documents.
    query, doc_id
        Columns of ``pairs_table``: the query text and the id of the document that answers it.
    query_id
        Column with the id of the query; without it a hash of the text, so that the same text is
        the same query.
    grade
        Column with the relevance, a whole number. Rows of grade 0 say that the document does not
        answer the query: they are left out, and counted under ``skipped``.
    negative_id
        Column with the id of a document that does not answer the query (null: none known). A
        column of negatives is kept only if every pair has one.
    id_column, text_column
        Columns of ``docs``; found by themselves when there is an ``id`` and a ``text``.
    where
        SQL filter over ``pairs_table``.
    limit
        Read that many rows of ``pairs_table`` at most.
    max_rejected
        Share of rows, 0 to 1, that may be unusable: no query, no document of that id, no text.

    Returns
    -------
    Pairs
        ``source`` holds the database, the tables with their Lance versions, ``n_rows`` read and
        how many were ``rejected`` and ``skipped``, by reason.

    Raises
    ------
    BadRowsError
        More rows than allowed are unusable, or no pair is left.
    ColumnNotFoundError
        A column does not exist or has the wrong type.
    FilterError
        ``where`` cannot be parsed.
    """
    rows = TableReader.of(pairs_table)
    require_column(rows.schema, query, table=rows.name, text=True)
    roles = {
        "query": query,
        "doc_id": doc_id,
        "query_id": query_id,
        "grade": grade,
        "negative_id": negative_id,
    }
    columns = {role: column for role, column in roles.items() if column is not None}
    read = list(rows.rows(columns, where=where, limit=limit))
    wanted = {_key(row[role]) for row in read for role in ("doc_id", "negative_id") if role in row}
    documents = TableReader.of(docs)
    texts = read_texts(documents, id_column=id_column, text_column=text_column, wanted=wanted)
    collector = PairCollector(texts, with_negatives=negative_id is not None)
    for row in read:
        collector.add(
            query=row["query"],
            doc_id=row["doc_id"],
            query_id=row.get("query_id", ...),
            grade=row.get("grade", 1),
            negative_id=row.get("negative_id"),
        )
    source = {
        "kind": "pairs",
        "database": documents.database,
        "tables": {"pairs": rows.to_dict(), "docs": documents.to_dict()},
        "columns": columns,
        "id_column": id_column,
        "text_column": text_column,
        "where": where,
        "limit": limit,
    }
    return collector.pairs(source, name=f"Table {rows.name!r}", max_rejected=max_rejected)


def pairs_from_columns(
    table: Table,
    *,
    query: str = "title",
    document: str = "text",
    id_column: str | None = None,
    where: str | None = None,
    limit: int | None = None,
    max_rejected: float = 0.1,
) -> Pairs:
    """Take two text columns of one table as pairs, such as title -> body.

    Parameters
    ----------
    table
        Table with the documents.
    query, document
        Columns with the text that stands for the query and the text that answers it.
    id_column
        Column with the document's id; ``id``, ``_id`` or ``doc_id`` by default.
    where, limit, max_rejected
        As for `read_pairs`. A row whose two texts are equal teaches nothing and is rejected.

    Raises
    ------
    BadRowsError, ColumnNotFoundError, FilterError
        As for `read_pairs`.
    """
    rows = TableReader.of(table)
    for column in (query, document):
        require_column(rows.schema, column, table=rows.name, text=True)
    key = id_column_of(rows.schema, id_column, table=rows.name)
    columns = {"query": query, "document": document, "doc_id": key}
    read = list(rows.rows(columns, where=where, limit=limit))
    texts = unique_texts((row["doc_id"], row["document"]) for row in read)
    collector = PairCollector(texts)
    for row in read:
        collector.add(query=row["query"], doc_id=row["doc_id"])
    source = {
        "kind": "columns",
        "database": rows.database,
        "tables": {"docs": rows.to_dict()},
        "columns": [query, document],
        "id_column": id_column,
        "where": where,
        "limit": limit,
    }
    return collector.pairs(source, name=f"Table {rows.name!r}", max_rejected=max_rejected)


# --- parts that read_qrels needs as well ---------------------------------------------------


@dataclass(frozen=True)
class TableReader:
    """One version of a table, opened for reading; what is read is what the lineage records."""

    name: str
    version: int
    schema: pa.Schema
    database: str
    _dataset: Any = field(repr=False)

    @classmethod
    def of(cls, table: Table | TableReader, version: int | None = None) -> TableReader:
        """Open a version, by default the newest; what was opened already stays as it is.

        Raises
        ------
        InputError
            The table has no such version.
        """
        if isinstance(table, TableReader):
            return table
        found = dataset(table)
        if version is not None:
            try:
                found = found.checkout_version(version)
            except (ValueError, OSError, OverflowError, TypeError) as error:
                raise InputError(f"Table {table.name!r} has no version {version!r}.") from error
        return cls(str(table.name), int(found.version), found.schema, database_uri(table), found)

    def to_dict(self) -> dict[str, Any]:
        """``{"name", "version"}`` for the lineage."""
        return {"name": self.name, "version": self.version}

    def rows(
        self, columns: Mapping[str, str], *, where: str | None = None, limit: int | None = None
    ) -> Iterator[dict[str, Any]]:
        """Stream rows as ``{role: value}`` for ``columns``, ``{role: column}``."""
        for column in columns.values():
            require_column(self.schema, column, table=self.name)
        if where is not None:
            self._check_filter(where)
        if limit is not None:
            check_whole("limit", limit, least=1)
        batches = self._dataset.to_batches(
            columns=sorted(set(columns.values())),
            filter=where,
            limit=limit,
            batch_size=_BATCH_ROWS,
        )
        for batch in batches:
            values = [batch.column(column).to_pylist() for column in columns.values()]
            for row in zip(*values, strict=True):
                yield dict(zip(columns, row, strict=True))

    def _check_filter(self, where: str) -> None:
        try:
            self._dataset.scanner(filter=where, columns=[], with_row_id=True).explain_plan()
        except (ValueError, OSError, RuntimeError) as error:
            raise FilterError(where, reason=str(error).split("\n", 1)[0]) from error


#: Stands for the text of an id that another row of the table has with another text.
_AMBIGUOUS = object()


def read_texts(
    documents: TableReader,
    *,
    id_column: str | None,
    text_column: str | None,
    wanted: set[str] | None = None,
) -> dict[str, Any]:
    """Return ``{id: text}`` of the wanted documents, whole numbers as ids made text.

    Raises
    ------
    ColumnNotFoundError
        There is no id or no text column, or the ids are neither text nor whole numbers.
    """
    key = id_column_of(documents.schema, id_column, table=documents.name)
    text = text_column_of(documents.schema, text_column, table=documents.name)
    rows = documents.rows({"id": key, "text": text})
    return unique_texts(
        (row["id"], row["text"]) for row in rows if wanted is None or _key(row["id"]) in wanted
    )


def unique_texts(rows: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return ``{id: text}``; an id that has several texts stands for none (`_AMBIGUOUS`)."""
    texts: dict[str, Any] = {}
    for identifier, text in rows:
        key = _key(identifier)
        if key and texts.setdefault(key, text) != text:
            texts[key] = _AMBIGUOUS
    return texts


def _key(value: Any) -> str:
    """Return an id as text; empty if it is none."""
    if isinstance(value, str):
        return value if value.strip() else ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return ""


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
        key = query_id_of(query) if query_id is ... else _key(query_id)
        if self._queries.setdefault(key, query) != query and query_id is not ...:
            self.rejected["query id with two texts"] += 1
            return
        negative = self.texts[_key(negative_id)] if _key(negative_id) else None
        row = [key, self._queries[key], _key(doc_id), self.texts[_key(doc_id)], grade, negative]
        known = self._rows.setdefault((key, row[2], negative), row)
        if known is not row:
            alike = known[4] == grade
            known[4] = max(known[4], grade)
            self.skipped[f"repeated pair ({'merged' if alike else 'the highest grade kept'})"] += 1

    def _reason(self, query: Any, doc_id: Any, query_id: Any, grade: Any, negative: Any) -> str:
        if query is _AMBIGUOUS:
            return "query id with two texts"
        if _is_blank(query):
            return "no query"
        if query_id is not ... and not _key(query_id):
            return "no query id"
        whole = isinstance(grade, (int, float)) and float(grade).is_integer()
        if not whole or not 0 <= grade <= MAX_GRADE:
            return "grade is not a whole number of 0 or more"
        if negative is not None and (reason := self._document_reason(negative)):
            return f"negative: {reason}"
        if negative is not None and _key(negative) == _key(doc_id):
            return "negative: is the document itself"
        return self._document_reason(doc_id, query)

    def _document_reason(self, doc_id: Any, query: str | None = None) -> str:
        key = _key(doc_id)
        if not key:
            return "no document id"
        if key not in self.texts:
            return "no document of this id"
        text = self.texts[key]
        if text is _AMBIGUOUS:
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
