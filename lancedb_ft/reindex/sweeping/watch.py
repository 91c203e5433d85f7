"""Watch: sweep a table again and again, for as long as it is written to."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from lancedb_ft.errors import ReindexConflictError
from lancedb_ft.reindex.sweeping.sweep import SweepReport, sweep
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.types import Progress

__all__ = ["watch"]


def watch(
    table: Table,
    *,
    every_s: float = 30.0,
    stop: threading.Event | None = None,
    vector_column: str | None = None,
    store: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    on_conflict: Callable[[ReindexConflictError, float], None] | None = None,
) -> Iterator[SweepReport]:
    """Sweep again and again; yield a report for each round that mended something.

    A round on an unchanged table costs the opening of its newest version. Each round reads the
    state anew, so switches, rollbacks and finishes in between are followed.

    Parameters
    ----------
    table, vector_column, store, device, progress
        See `sweep`.
    every_s
        Seconds between rounds; doubled, up to ten times as long, after each lost round.
    stop
        Ends the loop when set, also in the middle of a round: what was committed stays.
    on_conflict
        Called with the error and the seconds until the next attempt when a round lost.
    """
    stop = stop or threading.Event()
    lost, seen = 0, -1

    def told(done: int, total: int | None, /) -> None:
        if stop.is_set():
            raise _Stopped
        if progress is not None:
            progress(done, total)

    while not stop.is_set():
        report = None
        try:
            if dataset(table).version != seen:
                report = sweep(
                    table,
                    vector_column=vector_column,
                    store=store,
                    device=device,
                    progress=told,
                )
                seen = report.version if report.complete else -1
            lost = 0
        except _Stopped:
            return
        except ReindexConflictError as error:
            lost += 1
            if on_conflict is not None:
                on_conflict(error, _pause(every_s, lost))
        if report is not None and report.mended:
            yield report
        stop.wait(_pause(every_s, lost))


def _pause(every_s: float, lost: int) -> float:
    return float(every_s * min(10, 2**lost))


class _Stopped(Exception):
    """The watch was told to end."""
