"""Re-indexing, and what it finds wrong with a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lancedb_ft.errors.base import LancedbFtError

__all__ = [
    "EngineError",
    "GateError",
    "ReindexConflictError",
    "ReindexError",
    "ReindexRunningError",
    "ReindexStateError",
    "StorageError",
    "TornManifestError",
    "VerifyError",
]


class ReindexError(LancedbFtError):
    """A re-index step failed. The table still searches as before the step."""


class ReindexStateError(ReindexError):
    """The step does not fit the state of the table."""

    exit_code = 2

    def __init__(self, message: str, *, table: str, state: str) -> None:
        self.table = table
        self.state = state
        super().__init__(message)


class ReindexRunningError(ReindexError):
    """Another process is re-indexing this table."""

    def __init__(self, table: str, *, owner: str) -> None:
        self.table = table
        self.owner = owner
        super().__init__(
            f"Table {table!r} is being re-indexed by {owner}. Wait for it, or stop that process: "
            "the same command then goes on from where it was."
        )


class ReindexConflictError(ReindexError):
    """Other writers committed first each time; the table is as it was before the step."""

    def __init__(self, what: str, *, attempts: int, last: str) -> None:
        self.what = what
        self.attempts = attempts
        self.last = last
        super().__init__(
            f"Gave up to {what} after {attempts} attempts: other writers committed first each "
            f"time. The table is as it was; run the same command again when it is quieter. ({last})"
        )


class VerifyError(ReindexError):
    """Vectors of the new generation are missing, stale, or not of the named model."""

    def __init__(self, message: str, *, table: str, report: Mapping[str, Any]) -> None:
        self.table = table
        self.report = dict(report)
        super().__init__(message)


class EngineError(ReindexError):
    """A worker of an engine, or its cluster, cannot do its part; what was committed stays."""

    def __init__(self, message: str, *, node: str = "") -> None:
        self.node = node
        super().__init__(f"The worker on {node} {message}" if node else message)


class GateError(ReindexError):
    """The gate said no."""

    exit_code = 3

    def __init__(
        self, failed: Iterable[str], *, report: Mapping[str, Any], staged: bool = True
    ) -> None:
        self.failed = list(failed)
        self.report = dict(report)
        self.staged = staged
        undo = (
            "or remove the new vectors: lancedb-ft reindex finish --abandon"
            if staged
            else "or do nothing: only queries would have changed, and nothing was written"
        )
        super().__init__(
            f"The gate said no: {'; '.join(self.failed)}. The table still searches with the old "
            f"model. Switch anyway with force=True (--force), {undo}."
        )


class StorageError(ReindexError):
    """The storage of the table, or of its model store, took no more writes.

    ``reason`` is ``full``, ``read-only`` or ``forbidden``; ``told`` is what the system said.
    """

    def __init__(self, table: str, *, reason: str, told: str) -> None:
        self.table = table
        self.reason = reason
        self.told = told
        cure = {
            "full": "There is no room left: make some (lancedb-ft reindex plan tells how much)",
            "read-only": "The storage is read-only: make it writable",
            "forbidden": "This user may not write there: give it the right to",
        }[reason]
        super().__init__(
            f"Re-indexing table {table!r} stopped at a write that failed. {cure}, and run the same "
            f"command again: it goes on where it stopped. The table is whole, and searches as "
            f"before. ({told})"
        )


class TornManifestError(LancedbFtError):
    """The file of a table's newest version is cut off, so the table cannot be opened."""

    def __init__(self, table: str, *, path: str, n_bytes: int, version: int) -> None:
        self.table = table
        self.path = path
        self.n_bytes = n_bytes
        self.version = version
        super().__init__(
            f"Table {table!r} cannot be opened: the manifest of its newest version {version} is "
            f"cut off after {n_bytes} bytes, as when the power fails while it is written. All "
            f"earlier versions are whole. Go back to version {version - 1}, which lacks that one "
            f"commit, by renaming the file: mv '{path}' '{path}.torn', and run the same command "
            "again."
        )
