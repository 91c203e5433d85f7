"""Which tables search with a model version: read from their schemas, without loading anything."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError
from lancedb_ft.generation import STATE_KEY, read_state
from lancedb_ft.table import connect, dataset, embedding_entries, open_table

if TYPE_CHECKING:
    import lancedb
    import pyarrow as pa

__all__ = ["tables_using"]


def tables_using(
    database: str,
    *,
    name: str,
    number: int,
    fingerprint: str | None,
    path: str,
    storage_options: Mapping[str, str] | None = None,
) -> list[str]:
    """Return the tables of a database that have vectors of a model version.

    Shown columns count, and so do parked ones: those that are being filled, wait for their switch,
    or are kept for a rollback.

    Parameters
    ----------
    database
        URI of the database.
    name, number, fingerprint
        The version. A table that recorded another fingerprint uses another model.
    path
        The model's local folder: a table may name that instead.
    storage_options
        For a database in an object store.

    Raises
    ------
    ReindexStateError
        A table was changed by a newer lancedb-ft, so that it cannot be told what it uses.
    """
    db = connect(database, dict(storage_options) if storage_options else None)
    found = []
    for table in _table_names(db):
        try:
            schema = dataset(open_table(db, table)).schema
        except InputError:
            continue  # listed and cannot be opened: its creation was killed, it has no rows
        functions = _functions(schema, table)
        if any(_is_it(f, name, number, fingerprint, path) for f in functions):
            found.append(f"{database.rstrip('/')}/{table}")
    return found


def _table_names(db: lancedb.DBConnection) -> Iterator[str]:
    token = None
    while True:
        page = db.list_tables(page_token=token)
        yield from page.tables
        token = page.page_token
        if not token:
            return


def _functions(schema: pa.Schema, table: str) -> list[Mapping[str, Any]]:
    functions: list[Mapping[str, Any]] = list(embedding_entries(schema))
    if STATE_KEY.encode() in (schema.metadata or {}):
        state = read_state(schema, table=table)
        functions += [g.function for g in state.generations if g.function is not None]
    return functions


def _is_it(
    function: Mapping[str, Any], name: str, number: int, fingerprint: str | None, path: str
) -> bool:
    arguments = function.get("model", {})
    named = str(arguments.get("name", ""))
    recorded = arguments.get("fingerprint")
    if recorded and fingerprint and recorded != fingerprint:
        return False
    if named == f"{name}@{number}":
        return True
    if named == name:
        return bool(recorded)  # the name alone: this version, if the fingerprint agrees
    return "/" in named and Path(named).expanduser().resolve() == Path(path).resolve()
