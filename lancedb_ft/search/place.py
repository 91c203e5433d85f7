"""Where a table is: what a `Searcher` keeps of the handle it was given."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lancedb_ft.errors import QueryError
from lancedb_ft.table import connect, open_table, require_main, storage_options

if TYPE_CHECKING:
    from lancedb.table import AsyncTable, Table

__all__ = ["TablePlace", "opened_in_lancedb", "place_of"]


class TablePlace(NamedTuple):
    """The name of a table, the URI of its Lance data set, and how to reach it."""

    name: str
    uri: str
    storage_options: dict[str, str] | None


def place_of(table: Table | AsyncTable) -> TablePlace:
    """Return the place of a table, sync or async.

    Raises
    ------
    QueryError
        The table is remote, or lives in memory only.
    InputError
        The handle is on a branch.
    """
    from lancedb.background_loop import LOOP
    from lancedb.table import AsyncTable, LanceTable

    if isinstance(table, LanceTable):
        place = TablePlace(table.name, str(table.uri), storage_options(table))
    elif isinstance(table, AsyncTable):
        options = LOOP.run(table.initial_storage_options())
        place = TablePlace(table.name, str(LOOP.run(table.uri())), options)
    else:
        raise QueryError(
            f"Cannot search a {type(table).__name__}; pass a table of a local or object-store "
            "LanceDB database, db.open_table(...)."
        )
    require_main(table)
    if place.uri.startswith("memory://"):
        raise QueryError(
            f"Table {place.name!r} lives in memory only ({place.uri}), where a Searcher cannot "
            "open it. Connect to a folder."
        )
    return place


def opened_in_lancedb(place: TablePlace) -> Table:
    """Return a handle of LanceDB's to the newest version of a table."""
    database, _, folder = place.uri.rstrip("/").rpartition("/")
    return open_table(connect(database, place.storage_options), folder.removesuffix(".lance"))
