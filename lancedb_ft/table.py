"""What we need of a LanceDB table: columns, ids, scans, metadata, row versions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.errors import ColumnNotFoundError, InputError, TableNotFoundError
from lancedb_ft.storage import storage_options_for, use_storage_options
from lancedb_ft.torn import torn_manifest_told

if TYPE_CHECKING:
    import lance
    import lancedb
    from lancedb.table import AsyncTable, Table

__all__ = [
    "STREAMED",
    "check_table_name",
    "connect",
    "database_uri",
    "dataset",
    "embedding_entries",
    "id_column_of",
    "is_text",
    "open_table",
    "read_corpus",
    "require_column",
    "require_main",
    "require_table",
    "rows_by_id",
    "scan",
    "stable_row_ids",
    "storage_options",
    "text_column_of",
    "vector_columns",
]

#: The schema metadata key in which LanceDB keeps its embedding functions (a JSON list).
FUNCTIONS_KEY = "embedding_functions"

#: How vectors of a whole table are streamed: by itself Lance reads hundreds of megabytes ahead.
STREAMED: Mapping[str, Any] = {
    "batch_readahead": 1,
    "fragment_readahead": 1,
    "io_buffer_size": 16 << 20,
}


#: What LanceDB takes as the name of a table.
_TABLE_NAME = re.compile(r"[A-Za-z0-9_.-]+")


def check_table_name(name: str) -> None:
    """Refuse a name that LanceDB would refuse, which says so only when the table is made.

    Raises
    ------
    InputError
        No table can have that name.
    """
    if not _TABLE_NAME.fullmatch(name) or name in (".", ".."):
        raise InputError(
            f"No table can be named {name!r}: a name is made of letters from a to z, digits, "
            "underscores, hyphens and periods, such as 'support_train'."
        )


def connect(uri: str, storage_options: dict[str, str] | None = None) -> lancedb.DBConnection:
    """Connect to a database that exists.

    Without options, those given to `use_storage_options` and then the environment count.

    Raises
    ------
    InputError
        ``uri`` is a local path without a database; LanceDB would create an empty one.
    """
    from pathlib import Path

    import lancedb

    if "://" not in uri and not Path(uri).is_dir():
        raise InputError(f"There is no LanceDB database at {uri!r}.")
    return lancedb.connect(uri, storage_options=storage_options or storage_options_for(uri))


def open_table(db: lancedb.DBConnection, name: str) -> Table:
    """Open a table.

    Raises
    ------
    TableNotFoundError
        The database has no table of this name; the error lists those it has.
    TornManifestError
        Its newest version was written in part only.
    """
    try:
        with torn_manifest_told(name, f"{db.uri}/{name}.lance"):
            return db.open_table(name)
    except (ValueError, FileNotFoundError) as error:
        available = db.list_tables().tables
        if name in available:
            raise InputError(
                f"The table {name!r} is listed and cannot be opened (was its creation killed?): "
                f"{error}"
            ) from error
        raise TableNotFoundError(name, uri=str(db.uri), available=available) from error


def database_uri(table: Table) -> str:
    """Return the URI of the database that holds the table."""
    connection = getattr(table, "_conn", None)
    uri = getattr(connection, "uri", None)
    if uri is None:
        raise InputError(f"Cannot tell the database of {table!r}; pass a table of a connection.")
    return str(uri)


def storage_options(table: Table) -> dict[str, str] | None:
    """Return the object-store options of the table's connection, if any.

    From then on they serve, in this process, all that lies in the same database: the model store
    is reached by its URI alone.
    """
    connection = getattr(table, "_conn", None)
    options = getattr(connection, "storage_options", None)
    if not options:
        return None
    uri = str(getattr(connection, "uri", ""))
    if "://" in uri:
        use_storage_options(uri, options)
    return dict(options)


def require_main(table: Table | AsyncTable) -> None:
    """Refuse a handle on a branch: its URI is that of main, which would be read and changed.

    Raises
    ------
    InputError
        The handle is on a branch.
    """
    branch = table.current_branch()
    if branch is not None:
        raise InputError(
            f"This handle of table {table.name!r} is on branch {branch!r}, and lancedb_ft works on "
            f"main only. Pass db.open_table({table.name!r}), or make a table of the branch and "
            "pass that: db.create_table(NAME, table.to_arrow())."
        )


def require_table(table: Table) -> None:
    """Refuse what is no table of a local or object-store database.

    Raises
    ------
    InputError
        It is something else.
    """
    from lancedb.table import LanceTable

    if not isinstance(table, LanceTable) or str(table.uri).startswith("memory://"):
        raise InputError(
            f"table is a {type(table).__name__}, and must be a table of a local or object-store "
            "LanceDB database: lancedb.connect(FOLDER).open_table(NAME)."
        )


def dataset(table: Table) -> lance.LanceDataset:
    """Open the newest version of the Lance data set behind a table.

    A handle that was checked out at an older version is not what re-indexing may work on, so
    this opens the data set anew, by its place.

    Raises
    ------
    InputError
        It is no table that stands in a place, or the handle is on a branch, whose place is main's.
    TornManifestError
        Its newest version was written in part only.
    """
    import lance

    require_table(table)
    require_main(table)
    with torn_manifest_told(str(table.name), str(table.uri)):
        return lance.dataset(str(table.uri), storage_options=storage_options(table))


def is_text(data_type: pa.DataType) -> bool:
    """Say whether a column of this type holds text."""
    return bool(pa.types.is_string(data_type) or pa.types.is_large_string(data_type))


def require_column(schema: pa.Schema, column: str, *, table: str, text: bool = False) -> pa.Field:
    """Return the field of a column.

    Raises
    ------
    ColumnNotFoundError
        There is no such column, or it should hold text and does not.
    """
    if column not in schema.names:
        raise ColumnNotFoundError(column, table=table, available=schema.names)
    found = schema.field(column)
    if text and not is_text(found.type):
        raise ColumnNotFoundError(
            column, table=table, available=schema.names, expected=f"text, found {found.type}"
        )
    return found


def id_column_of(schema: pa.Schema, column: str | None = None, *, table: str) -> str:
    """Return the id column: the one named, or ``id`` / ``_id`` / ``doc_id`` if there is one."""
    if column is not None:
        require_column(schema, column, table=table)
        return column
    for candidate in ("id", "_id", "doc_id"):
        if candidate in schema.names:
            return candidate
    raise ColumnNotFoundError(
        "id", table=table, available=schema.names, expected="name the key with id_column="
    )


def text_column_of(
    schema: pa.Schema, column: str | None = None, *, table: str, vector_column: str | None = None
) -> str:
    """Return the text column: the one named, the source of an embedding function, or ``text``.

    With ``vector_column`` only the function of that column counts.
    """
    if column is not None:
        require_column(schema, column, table=table, text=True)
        return column
    for entry in embedding_entries(schema):
        meant = vector_column in (None, entry["vector_column"])
        if meant and entry["source_column"] in schema.names:
            return str(entry["source_column"])
    if "text" in schema.names and is_text(schema.field("text").type):
        return "text"
    found = f"text, found {schema.field('text').type}; " if "text" in schema.names else ""
    expected = f"{found}name the text with text_column="
    raise ColumnNotFoundError("text", table=table, available=schema.names, expected=expected)


def vector_columns(schema: pa.Schema) -> dict[str, int]:
    """Return ``{column: dims}`` of all float vectors, parked ones included."""
    found = {}
    for column in schema:
        storage = getattr(column.type, "storage_type", column.type)
        if pa.types.is_fixed_size_list(storage) and pa.types.is_floating(storage.value_type):
            found[column.name] = int(storage.list_size)
    return found


def embedding_entries(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return LanceDB's embedding functions as plain dicts, without making one.

    Each has ``name`` (the alias), ``model`` (its arguments), ``source_column`` and
    ``vector_column``.
    """
    raw = (schema.metadata or {}).get(FUNCTIONS_KEY.encode())
    return list(json.loads(raw)) if raw else []


def stable_row_ids(ds: lance.LanceDataset) -> bool:
    """Say whether the table keeps row ids over compaction and updates."""
    return bool(getattr(ds, "has_stable_row_ids", False))


def scan(
    table: Table,
    columns: Sequence[str],
    *,
    where: str | None = None,
    batch_size: int = 8192,
) -> Iterator[pa.RecordBatch]:
    """Stream the columns of all live rows, deleted rows left out.

    Raises
    ------
    ColumnNotFoundError
        A column does not exist.
    """
    ds = dataset(table)
    for column in columns:
        if column not in ("_rowid", "_rowaddr"):
            require_column(ds.schema, column, table=table.name)
    wanted = [c for c in columns if c not in ("_rowid", "_rowaddr")]
    yield from ds.to_batches(
        columns=wanted,
        filter=where,
        batch_size=batch_size,
        with_row_id="_rowid" in columns,
        with_row_address="_rowaddr" in columns,
    )


def rows_by_id(
    ds: lance.LanceDataset, id_column: str, ids: Iterable[str], columns: Sequence[str]
) -> Iterator[pa.RecordBatch]:
    """Stream the rows whose id, as text, is one of these; those there are, in no promised order.

    Of 30,746 rows, 20,000 named ones come in 0.2 s: the ids are compared in one scan, and the other
    columns are read of the rows that match.
    """
    field = require_column(ds.schema, id_column, table="documents")
    if pa.types.is_integer(field.type):
        literals = [doc_id for doc_id in ids if doc_id.lstrip("-").isdecimal()]
    else:
        literals = ["'" + doc_id.replace("'", "''") + "'" for doc_id in ids]
    if literals:
        yield from ds.to_batches(
            columns=[id_column, *columns], filter=f"`{id_column}` IN ({','.join(literals)})"
        )


def read_corpus(table: Table, id_column: str, text_column: str) -> dict[str, str]:
    """Return ``{id: text}`` of all rows; for exact search, which holds everything in memory."""
    corpus: dict[str, str] = {}
    for batch in scan(table, [id_column, text_column]):
        ids = (str(doc_id) for doc_id in batch[id_column].to_pylist())
        corpus.update(zip(ids, batch[text_column].to_pylist(), strict=True))
    return corpus
