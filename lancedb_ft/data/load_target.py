"""Where loaded rows go: tables that are marked with what they were loaded from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias

import pyarrow as pa

from lancedb_ft.errors import InputError, TableNotFoundError
from lancedb_ft.table import check_table_name, open_table, stable_row_ids

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import Table

__all__ = ["LoadMode", "LoadTarget"]

#: Schema metadata of a loaded table: which files and options it was made from.
MARK_KEY = "lancedb_ft_load"

#: Where a table is written whole before it replaces another that cannot be overwritten in place.
_ASIDE = "__loading"

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
        for name in names:
            check_table_name(name)
        if self.mode == "overwrite":
            return names
        marks = {name: self._mark_of(name) for name in names}
        foreign = [name for name, mark in marks.items() if mark not in (None, self.mark)]
        missing = [name for name, mark in marks.items() if mark is None]
        if foreign or not missing:
            shown = foreign or names
            raise InputError(
                f"The database {str(self.db.uri)!r} has {', '.join(map(repr, shown))} already. "
                "Replace with mode='overwrite' (--overwrite), or drop or rename what is there."
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

    def check_replaceable(self, names: list[str]) -> None:
        """Refuse to replace tables that no load made: they may be somebody's only copy.

        Raises
        ------
        InputError
            One of them is such a table.
        """
        for name in names:
            table = self._existing(name)
            if table is not None and not self._mark_of(name):
                raise InputError(
                    f"The table {name!r} was not made by a load of lancedb-ft (its columns are "
                    f"{table.schema.names}), so it is not replaced. Rename it or drop it yourself."
                )

    def create(
        self,
        name: str,
        schema: pa.Schema,
        batches: Iterator[pa.RecordBatch],
        *,
        expected: tuple[int, Path] | None = None,
    ) -> None:
        """Write a table with stable row ids: they make `delta` and row versions work.

        One that is there stays until all of the new one is written.

        Parameters
        ----------
        name, schema, batches
            The table.
        expected
            How many rows there must be, and the file they are from.

        Raises
        ------
        InputError
            There are others: the file changed after it was checked. Nothing of it is kept.
        """
        from lance import dataset

        reader = pa.RecordBatchReader.from_batches(
            schema.with_metadata({MARK_KEY: self.mark}), batches
        )
        before = self._existing(name)
        if before is None:
            self._write(name, reader)
            self._expect(name, expected, lambda: self.db.drop_table(name))
        elif stable_row_ids(dataset(str(before.uri))):
            version = int(before.version)
            self._write(name, reader)
            self._expect(name, expected, lambda: _restore(open_table(self.db, name), version))
        else:  # overwriting keeps the row ids of the first version
            aside = f"{name}{_ASIDE}"
            self._write(aside, reader)
            self._expect(aside, expected, lambda: self.db.drop_table(aside))
            made = dataset(str(open_table(self.db, aside).uri))
            self.db.drop_table(name)
            whole = pa.RecordBatchReader.from_batches(made.schema, made.to_batches())
            self._write(name, whole)
            self.db.drop_table(aside)

    def _write(self, name: str, reader: pa.RecordBatchReader) -> None:
        self.db.create_table(
            name,
            data=reader,
            mode="overwrite",  # what is there was looked at
            storage_options={"new_table_enable_stable_row_ids": "true"},
        )

    def count(self, name: str) -> int:
        """Return the rows of a table."""
        return int(open_table(self.db, name).count_rows())

    def _expect(
        self, name: str, expected: tuple[int, Path] | None, undo: Callable[[], None]
    ) -> None:
        if expected is None or self.count(name) == expected[0]:
            return
        undo()
        raise InputError(
            f"The file {str(expected[1])!r} changed while it was loaded. Nothing of it was kept; "
            "load it again when it is finished."
        )


def _restore(table: Table, version: int) -> None:
    table.checkout(version)
    table.restore()
