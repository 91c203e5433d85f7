"""Training data in LanceDB tables: one reader for all kinds, at a version that is recorded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from lancedb_ft.data.formats import Row
from lancedb_ft.data.qrels import JudgedTables
from lancedb_ft.data.reader import TableReader
from lancedb_ft.data.training.flat import LOOKED_AT, columns_of_schema
from lancedb_ft.data.training.kinds import as_kind, refuse_unreadable
from lancedb_ft.data.training.roles import find_roles, unread_columns
from lancedb_ft.data.training.rows import SPLIT_COLUMN, PartFilter, RowCollector
from lancedb_ft.errors import InputError
from lancedb_ft.table import check_table_name
from lancedb_ft.training_sets import TrainingSet, require_kind, require_score_range

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import Table

__all__ = [
    "check_target_table",
    "parts_of_table",
    "read_ranking",
    "read_training_set",
    "write_training_table",
]

#: Schema metadata of a table that `write_training_table` wrote: kind, loss and prompts.
MARK_KEY = "lancedb_ft_training_set"
_BATCH_ROWS = 8192


def read_training_set(
    table: Table,
    kind: str | None = None,
    *,
    columns: Mapping[str, str] | None = None,
    score_range: tuple[float, float] | None = None,
    where: str | None = None,
    limit: int | None = None,
    version: int | None = None,
    split: str | None = None,
    max_rejected: float = 0.1,
) -> TrainingSet:
    """Read training data of any kind from one table.

    Parameters
    ----------
    table
        One row an example. Ranking data in three tables are read by `read_ranking`, pairs that
        name documents by id by `read_pairs`.
    kind
        A key of `lancedb_ft.training_sets.KINDS`; by default what the table was written as, or
        what its columns are of.
    columns
        ``{role: column}`` where the columns have none of the usual names, such as
        ``{"anchor": "subject", "positive": "reply"}``. The roles are the columns of the kind.
    score_range
        Lowest and highest score of scored pairs, which are mapped to 0..1. By default 0 to 1 or
        0 to 5, whichever the scores are of.
    where
        SQL filter.
    limit
        Read that many rows at most.
    version
        Of the table; by default the newest.
    split
        Only rows that have this part in a column ``split``, if there is one: ``train``, ``dev``
        (also called ``validation``) or ``test``.
    max_rejected
        Share of rows, 0 to 1, that may be unusable: a missing or blank text, a score out of its
        range, an NLI label of -1 (the annotators did not agree).

    Returns
    -------
    TrainingSet
        ``source`` holds the database, the table with its Lance version, the columns, ``n_rows``
        read, how many were ``rejected`` by reason, the ``unread_columns`` and, of scored pairs, the
        ``score_range``.

    Raises
    ------
    BadRowsError
        More rows than allowed are unusable, or none is left.
    ColumnNotFoundError
        A column does not exist.
    FilterError
        ``where`` cannot be parsed.
    InputError
        The columns are of no known kind, or of one of several: a label or a score is not guessed
        at; or it cannot be told what scale the scores are of.
    """
    if kind is not None:
        require_kind(kind)
    require_score_range(score_range)
    rows = TableReader.of(table, version)
    mark = _mark_of(rows.schema)
    name = f"Table {rows.name!r}"
    known = kind or mark.get("kind")
    there = columns_of_schema(rows.schema, _first_rows(rows, where))
    found, roles = find_roles(there, known, columns, source=rows.name)
    collector = RowCollector(found, list(roles), score_range)
    parts = PartFilter(split, rows.schema.names)
    read = {**roles, SPLIT_COLUMN: SPLIT_COLUMN} if parts.on else roles
    for row in rows.rows(read, where=where, limit=limit):
        if parts.keeps(row.get(SPLIT_COLUMN)):
            collector.add(row)
    source = {
        "kind": found,
        "database": rows.database,
        "tables": {"rows": rows.to_dict()},
        "columns": roles,
        "where": where,
        "limit": limit,
        "unread_columns": unread_columns(there, roles),
        **parts.told(collector.n_rows, name),
    }
    made = collector.training_set(source, name=name, max_rejected=max_rejected)
    if found == mark.get("kind"):
        made = replace(
            made,
            loss=mark.get("loss"),
            query_prompt=mark.get("query_prompt"),
            document_prompt=mark.get("document_prompt"),
        )
    return made if known is None else as_kind(made, known)


def parts_of_table(table: Table) -> list[str]:
    """List what stands in the column ``split``; none where there is no such column."""
    rows = TableReader.of(table)
    if SPLIT_COLUMN not in rows.schema.names:
        return []
    values = (str(row[SPLIT_COLUMN]) for row in rows.rows({SPLIT_COLUMN: SPLIT_COLUMN}))
    return list(dict.fromkeys(values))


def read_ranking(
    docs: Table,
    queries_table: Table,
    qrels_table: Table,
    *,
    split: str | None = None,
    split_column: str = "split",
    id_column: str | None = None,
    text_column: str | None = None,
    max_rejected: float = 0.1,
) -> TrainingSet:
    """Read graded judgements of three tables; grade 0, a judged miss, is kept.

    Parameters are those of `read_qrels`, which reads the same tables as pairs to measure with.

    Raises
    ------
    BadRowsError
        More judgements than allowed name unknown queries or documents, or none is left.
    ColumnNotFoundError
        A column does not exist.
    InputError
        No query has that value of ``split_column``.
    """
    tables = JudgedTables(docs, queries_table, qrels_table, id_column, text_column, max_rejected)
    return tables.ranking(split_column if split is not None else None, split)


def write_training_table(
    training_set: TrainingSet,
    db: lancedb.DBConnection,
    name: str,
    *,
    mode: Literal["create", "overwrite"] = "create",
) -> Table:
    """Write training data to a table, which `read_training_set` reads back with its prompts.

    Parameters
    ----------
    training_set
        What is written.
    db, name
        Where.
    mode
        ``create`` refuses a table that exists; ``overwrite`` replaces one that this function
        wrote, and no other.

    Raises
    ------
    InputError
        The table exists and may not be replaced; no table can have that name; or some rows would
        not be read back (see `refuse_unreadable`).
    """
    if mode not in ("create", "overwrite"):
        raise InputError(f"mode is {mode!r}; it must be 'create' or 'overwrite'.")
    check_target_table(db, name, overwrite=mode == "overwrite")
    refuse_unreadable(training_set)
    told = {
        "kind": training_set.kind,
        "loss": training_set.loss,
        "query_prompt": training_set.query_prompt,
        "document_prompt": training_set.document_prompt,
    }
    schema = training_set.table.schema.with_metadata({MARK_KEY: json.dumps(told)})
    batches = training_set.table.to_batches(max_chunksize=_BATCH_ROWS)
    return db.create_table(
        name,
        data=pa.RecordBatchReader.from_batches(schema, batches),
        mode=mode,
        storage_options={"new_table_enable_stable_row_ids": "true"},
    )


def check_target_table(db: lancedb.DBConnection, name: str, *, overwrite: bool = False) -> None:
    """Refuse a table that cannot be written, before the work for it is done.

    Raises
    ------
    InputError
        No table can have that name; it exists, and is not to be replaced; or it is no training
        data that `write_training_table` wrote, but maybe the documents themselves.
    """
    check_table_name(name)
    if name not in db.list_tables().tables:
        return
    if not overwrite:
        raise InputError(
            f"The database {str(db.uri)!r} has a table {name!r}. Pass mode='overwrite' "
            "(--overwrite) to replace it, or give another name."
        )
    schema = db.open_table(name).schema
    if MARK_KEY.encode() not in (schema.metadata or {}):
        raise InputError(
            f"The table {name!r} is no training data that lancedb-ft wrote (its columns are "
            f"{schema.names}), so it is not replaced. Give another name, or drop it yourself."
        )


def _first_rows(rows: TableReader, where: str | None) -> list[Row]:
    """Return some of what may be a label or a judgement, which tells what the rows are."""
    names = {field.name: field.name for field in rows.schema if _is_telling(field)}
    if not names:
        return []
    first = rows.rows(names, where=where, limit=LOOKED_AT)
    return [Row(number, values) for number, values in enumerate(first, 1)]


def _is_telling(field: pa.Field) -> bool:
    types = pa.types
    return bool(
        field.name == "label" or types.is_boolean(field.type) or types.is_floating(field.type)
    )


def _mark_of(schema: pa.Schema) -> dict[str, Any]:
    mark = (schema.metadata or {}).get(MARK_KEY.encode())
    return dict(json.loads(mark)) if mark else {}
