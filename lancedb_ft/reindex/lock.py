"""One re-index job a table: where its files are, and the lock that a killed process gives back."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from lancedb_ft.errors import ReindexRunningError
from lancedb_ft.file_lock import try_lock
from lancedb_ft.reindex.commits import now
from lancedb_ft.table import database_uri

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation

__all__ = ["forget_spills", "job_folder", "job_lock", "job_owner", "spill_name"]


def job_folder(table: Table) -> Path:
    """Return the local folder for a table's job: inside a local database, else in the cache."""
    uri = database_uri(table)
    if "://" not in uri:
        return Path(uri) / "ft_jobs" / str(table.name)
    cache = Path(os.environ.get("LANCEDB_FT_CACHE") or Path.home() / ".cache" / "lancedb-ft")
    return cache / "jobs" / hashlib.sha256(str(table.uri).encode()).hexdigest()[:16]


def spill_name(encoder: Encoder, dims: int) -> str:
    """Return the name of the folder of vectors on their way to a commit: one for equal ones."""
    return f"{encoder.fingerprint[:16]}-{dims}-{encoder.precision}-{encoder.backend}"


def forget_spills(table: Table, generation: Generation) -> None:
    """Remove what was encoded for a generation and is in no commit."""
    if generation.fingerprint is not None:
        name = f"*{generation.fingerprint[:16]}-{generation.dims}-*"
        for folder in job_folder(table).glob(name):
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def job_lock(table: Table, *, model: str = "") -> Iterator[None]:
    """Hold the table's job lock.

    It is a lock of the operating system on a local file: it is free again as soon as its process
    ends, however it ends. For a database in an object store it holds among the processes of one
    machine only; between machines, the compare-and-swap on the table's state is what decides.

    Raises
    ------
    ReindexRunningError
        Another process holds it; the error names it.
    """
    folder = job_folder(table)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "a+", encoding="utf-8") as file:
        if not try_lock(file):
            raise ReindexRunningError(table.name, owner=_describe(_read(file)))
        try:
            owner = {"pid": os.getpid(), "host": socket.gethostname(), "model": model, "at": now()}
            file.seek(0)
            file.truncate()
            json.dump(owner, file)
            file.flush()
            yield
        finally:
            file.seek(0)
            file.truncate()


def job_owner(table: Table) -> str | None:
    """Say which process holds the table's job lock now, or None."""
    path = job_folder(table) / "lock"
    if not path.exists():
        return None
    # Looking at a table needs no right to write to it, and neither does the lock.
    with open(path, "a+" if os.access(path, os.W_OK) else "r", encoding="utf-8") as file:
        if try_lock(file):
            return None
        return _describe(_read(file))


def _read(file: IO[str]) -> dict[str, Any]:
    file.seek(0)
    try:
        owner = json.load(file)
    except json.JSONDecodeError:  # caught between its locking and its writing
        return {}
    return owner if isinstance(owner, dict) else {}


def _describe(owner: dict[str, Any]) -> str:
    if not owner:
        return "another process"
    model = f", to {owner['model']}" if owner.get("model") else ""
    return f"process {owner['pid']} on {owner['host']} (since {owner['at']}{model})"
