"""Read pairs from the columns of LanceDB tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lancedb_ft.data.pair_rows import PairCollector
from lancedb_ft.data.reader import TableReader, read_texts, unique_texts
from lancedb_ft.data.texts import key_of
from lancedb_ft.table import (
    id_column_of,
    require_column,
)
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["pairs_from_columns", "read_pairs"]


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
    named = [role for role in ("doc_id", "negative_id") if role in columns]
    wanted = {key_of(row[role]) for row in read for role in named}
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
