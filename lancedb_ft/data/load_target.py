"""Where loaded rows go: tables that are marked with what they were loaded from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pyarrow as pa

from lancedb_ft.errors import InputError, TableNotFoundError
from lancedb_ft.table import open_table, stable_row_ids

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import Table

__all__ = ["LoadMode", "LoadTarget"]

#: Schema metadata of a loaded table: which files and options it was made from.
MARK_KEY = "lancedb_ft_load"

LoadMode: TypeAlias = Literal["create", "overwrite"]


@dataclass(frozen=True)
class LoadTarget:
    """The database, and how its tables are made.

    Parameters
    ----------
    db
        The database.
    mode
        ``create`` refuses tables that exist, ``overwrite`` replaces them.
    mark
        Key of what is loaded and how: tables that have it are those of the same call.

    Raises
    ------
    InputError
        There is no such mode.
    """

    db: lancedb.DBConnection
    mode: LoadMode
    mark: str

    def __post_init__(self) -> None:
        """Check the mode."""
        if self.mode not in ("create", "overwrite"):
            raise InputError(f"mode is {self.mode!r}; it must be 'create' or 'overwrite'.")

    def todo(self, names: list[str]) -> list[str]:
        """Return the tables to write; those an earlier, killed run of this call wrote are done."""
        if self.mode == "overwrite":
            return names
        marks = {name: self._mark_of(name) for name in names}
        foreign = [name for name, mark in marks.items() if mark not in (None, self.mark)]
        missing = [name for name, mark in marks.items() if mark is None]
        if foreign or not missing:
            shown = foreign or names
            raise InputError(
                f"The database {str(self.db.uri)!r} has {', '.join(map(repr, shown))} already. "
                "Load under another name with table=, or replace with mode='overwrite'."
            )
        return missing

    def _mark_of(self, name: str) -> str | None:
        table = self._existing(name)
        if table is None:
            return None
        return str((table.schema.metadata or {}).get(MARK_KEY.encode(), b"").decode())

    def _existing(self, name: str) -> Table | None:
        # A creation that was killed leaves a name that lists but does not open; creating it anew
        # works, so it counts as absent. Any other failure to open must not be taken for that.
        try:
            return open_table(self.db, name)
        except TableNotFoundError:
            return None
        except InputError as error:
            if "not found" in str(error.__cause__):
                return None
            raise

    def create(self, name: str, schema: pa.Schema, batches: Iterator[pa.RecordBatch]) -> None:
        """Write a table with stable row ids: they make `delta` and row versions work."""
        from lance import dataset

        before = self._existing(name)
        if before is not None and not stable_row_ids(dataset(str(before.uri))):
            self.db.drop_table(name)  # overwriting keeps the row ids of the first version
        schema = schema.with_metadata({MARK_KEY: self.mark})
        self.db.create_table(
            name,
            data=pa.RecordBatchReader.from_batches(schema, batches),
            mode=self.mode,
            storage_options={"new_table_enable_stable_row_ids": "true"},
        )

    def count(self, name: str) -> int:
        """Return the rows of a table."""
        return int(open_table(self.db, name).count_rows())

    def expect(self, name: str, n_rows: int, path: Path) -> None:
        """Check the number of rows written; the file may have changed since it was checked."""
        if self.count(name) != n_rows:
            self.db.drop_table(name)
            raise InputError(
                f"The file {str(path)!r} changed while it was loaded. Nothing of it was kept; load "
                "it again when it is finished."
            )
