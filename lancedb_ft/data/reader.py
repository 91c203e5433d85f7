"""One version of a table, read row by row, and its texts by id."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.arguments import check_whole
from lancedb_ft.data.texts import key_of
from lancedb_ft.errors import FilterError, InputError
from lancedb_ft.table import (
    database_uri,
    dataset,
    id_column_of,
    require_column,
    scan,
    text_column_of,
)

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["AMBIGUOUS", "TableReader", "read_ids", "read_texts", "unique_texts"]

_BATCH_ROWS = 8192


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
AMBIGUOUS = object()


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
        (row["id"], row["text"]) for row in rows if wanted is None or key_of(row["id"]) in wanted
    )


def unique_texts(rows: Iterable[tuple[Any, Any]]) -> dict[str, Any]:
    """Return ``{id: text}``; an id that has several texts stands for none (`AMBIGUOUS`)."""
    texts: dict[str, Any] = {}
    for identifier, text in rows:
        key = key_of(identifier)
        if key and texts.setdefault(key, text) != text:
            texts[key] = AMBIGUOUS
    return texts


def read_ids(table: Table, id_column: str | None = None) -> set[str]:
    """Return the ids of all rows, whole numbers made text.

    Raises
    ------
    ColumnNotFoundError
        There is no id column.
    """
    column = id_column_of(table.schema, id_column, table=table.name)
    batches = scan(table, [column])
    return {key_of(value) for batch in batches for value in batch.column(column).to_pylist()}
