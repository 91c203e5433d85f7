"""Take away the indexes of columns that go, so that none is left without its column.

An ``optimize()`` of another process that began before the column was dropped can commit its index
afterwards: Lance 14 does not see the conflict, and then every filtered query of the table fails
with "Index referenced a field with id ... which did not exist in the schema" until that index is
dropped. So the indexes go first, the columns a while later, and what came back is dropped again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

from lancedb_ft.reindex.commits import retrying
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = ["drop_dangling_indexes", "drop_indexes", "guarded"]

_LOOK_EVERY_S = 0.1


def drop_indexes(table: Table, columns: Collection[str]) -> list[str]:
    """Drop the indexes of these columns; return their names."""
    return _drop(table, lambda ds, index: bool({*index.field_names} & {*columns}))


def drop_dangling_indexes(table: Table) -> list[str]:
    """Drop the indexes whose column is not there any more; return their names."""
    return _drop(table, lambda ds, index: not {*index.fields} <= _field_ids(ds))


def guarded(look: Callable[[], Any], seconds: float) -> None:
    """Call ``look`` once, and again and again for that long."""
    until = time.monotonic() + seconds
    look()
    while time.monotonic() < until:
        time.sleep(_LOOK_EVERY_S)
        look()


def _drop(table: Table, goes: Callable[[lance.LanceDataset, Any], bool]) -> list[str]:
    dropped: list[str] = []

    def attempt() -> None:
        ds = dataset(table)
        for name in [index.name for index in ds.describe_indices() if goes(ds, index)]:
            ds.drop_index(name)
            dropped.append(name)

    retrying(attempt, what="drop the indexes of columns that go")
    return dropped


def _field_ids(ds: lance.LanceDataset) -> set[int]:
    def with_children(fields: Any) -> set[int]:
        return {i for f in fields for i in ({f.id()} | with_children(f.children()))}

    return with_children(ds.lance_schema.fields())
