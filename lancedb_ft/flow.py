"""Work ahead and behind: a thread makes what is needed next, another puts away what is done.

One item each way at a time, so that memory stays bounded; what fails in a thread is raised where
its result is used; and leaving early, by an error or Ctrl-C, waits for at most one item.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

__all__ = ["ahead", "behind"]

_Item = TypeVar("_Item")
_END: Any = object()


@contextmanager
def ahead(items: Iterator[_Item], *, depth: int = 1) -> Iterator[Iterator[_Item]]:
    """Give items that a thread makes while the caller works on the one before.

    Parameters
    ----------
    items
        Consumed in the thread.
    depth
        How many are made ahead.

    Examples
    --------
    >>> with ahead(iter("abc")) as letters:
    ...     print(*letters)
    a b c
    """
    with ThreadPoolExecutor(1, thread_name_prefix="ahead") as thread:
        made = deque(thread.submit(next, items, _END) for _ in range(depth))

        def taken() -> Iterator[_Item]:
            while (item := made.popleft().result()) is not _END:
                made.append(thread.submit(next, items, _END))
                yield item

        try:
            yield taken()
        finally:
            for future in made:
                future.cancel()


@contextmanager
def behind(write: Callable[..., Any], *, depth: int = 1) -> Iterator[Callable[..., None]]:
    """Give a function that calls ``write`` in a thread, in order; all is written at the end.

    Parameters
    ----------
    write
        Called with what the given function is called with.
    depth
        How many calls may wait.

    Examples
    --------
    >>> written = []
    >>> with behind(written.append) as put:
    ...     put(1)
    ...     put(2)
    >>> written
    [1, 2]
    """
    waiting: deque[Future[Any]] = deque()

    def put(*arguments: Any) -> None:
        while len(waiting) >= depth:
            waiting.popleft().result()
        waiting.append(thread.submit(write, *arguments))

    with ThreadPoolExecutor(1, thread_name_prefix="behind") as thread:
        try:
            yield put
        except BaseException:
            for future in waiting:
                future.cancel()
            raise
        while waiting:
            waiting.popleft().result()
