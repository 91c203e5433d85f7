"""Writes to one table take turns on this machine, where both sides are ours."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from lancedb_ft.file_lock import try_lock
from lancedb_ft.reindex.lock import job_folder
from lancedb_ft.table import database_uri

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["turn"]

_turns: dict[str, threading.Lock] = {}
_turns_guard = threading.Lock()


@contextmanager
def turn(table: Table) -> Iterator[None]:
    """Let the writes of this machine to one table follow one another.

    Lance lets two writers insert the same new id. And a write that would lose against another
    one of ours waits for a few milliseconds here instead of reading and writing all over again.
    """
    with _turns_guard:
        mine = _turns.setdefault(str(table.uri), threading.Lock())
    with mine:
        if "://" in database_uri(table):
            yield
            return
        folder = job_folder(table)
        folder.mkdir(parents=True, exist_ok=True)
        with open(folder / "write.lock", "a+", encoding="utf-8") as file:
            pause_s = 0.001
            while not try_lock(file):
                time.sleep(pause_s)
                pause_s = min(0.05, 2 * pause_s)
            yield
