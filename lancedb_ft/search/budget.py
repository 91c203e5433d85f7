"""Running the parts of a query until its time is over."""

from __future__ import annotations

import math
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, Future, wait
from functools import partial
from typing import Any, TypeVar

from lancedb_ft.search.pools import in_context

__all__ = ["MAX_LATE", "done_in_time"]

_T = TypeVar("_T")

#: So many late ones of a name run on; with as many no further one is begun.
MAX_LATE = 16

_n_late: Counter[str] = Counter()
_lock = threading.Lock()


def done_in_time(tasks: Mapping[str, Callable[[], _T]], deadline_s: float) -> dict[str, _T]:
    """Run tasks at once, and return the results of those that were done in time.

    A late one cannot be stopped: it runs to its end in the background, in a thread of its own that
    no exit of the process waits for. Where `MAX_LATE` of its name do so already it is not begun,
    and counts as late at once: what hangs holds up nothing but itself.

    Parameters
    ----------
    tasks
        By name.
    deadline_s
        When to stop waiting, as `time.monotonic`; infinity to wait for all.

    Raises
    ------
    Exception
        What a task that was done in time raised.
    """
    futures = {name: _begun(name, task) for name, task in tasks.items() if _n_late[name] < MAX_LATE}
    left_s = max(0.0, deadline_s - time.monotonic())
    done, late = wait(
        futures.values(), None if math.isinf(left_s) else left_s, return_when=FIRST_EXCEPTION
    )
    for name, future in futures.items():
        if future in late:
            _count(name, 1)
            future.add_done_callback(partial(_ended, name))
    failed = next((f for f in done if f.exception() is not None), None)
    if failed is not None:
        failed.result()
    return {name: future.result() for name, future in futures.items() if future in done}


def _begun(name: str, task: Callable[[], _T]) -> Future[_T]:
    future: Future[_T] = Future()
    threading.Thread(
        target=in_context(_run, task, future), name=f"lancedb-ft-{name}", daemon=True
    ).start()
    return future


def _run(task: Callable[[], Any], future: Future[Any]) -> None:
    try:
        future.set_result(task())
    except BaseException as error:  # for whoever waits
        future.set_exception(error)


def _ended(name: str, _: Future[Any]) -> None:
    _count(name, -1)


def _count(name: str, n: int) -> None:
    with _lock:
        _n_late[name] += n


def _forget() -> None:
    """Begin at 0 in a forked child: the threads stayed in the parent."""
    global _lock
    _lock = threading.Lock()
    _n_late.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
