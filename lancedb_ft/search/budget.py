"""Running the parts of a query until its time is over."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, wait
from typing import TypeVar

from lancedb_ft.search.pools import budget_pool

__all__ = ["done_in_time"]

_T = TypeVar("_T")


def done_in_time(tasks: Mapping[str, Callable[[], _T]], deadline_s: float) -> dict[str, _T]:
    """Run tasks at once, and return the results of those that were done in time.

    A late one cannot be stopped: it runs to its end in the background, in a pool of its own, where
    it can only hold up other queries with a budget, which then say so.

    Parameters
    ----------
    tasks
        By name.
    deadline_s
        When to stop waiting, as `time.monotonic`.

    Raises
    ------
    Exception
        What a task that was done in time raised.
    """
    futures = {name: budget_pool().submit(task) for name, task in tasks.items()}
    left_s = max(0.0, deadline_s - time.monotonic())
    done, late = wait(futures.values(), timeout=left_s, return_when=FIRST_EXCEPTION)
    for future in late:
        future.cancel()  # where it has not begun
    failed = next((f for f in done if not f.cancelled() and f.exception() is not None), None)
    if failed is not None:
        failed.result()
    return {name: future.result() for name, future in futures.items() if future in done}
