"""The threads that searches run on, kept for the life of the process.

Two pools, so that no thread waits for a place in its own pool: whole queries of `search_async` run
in one, and the text legs, which wait for nothing, in the other. Threads are made when first needed.
(Parts of queries with a time budget run in threads of their own, see `budget`.)
"""

from __future__ import annotations

import contextvars
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

__all__ = ["in_context", "leg_pool", "query_pool"]

_T = TypeVar("_T")

# Queries wait for disk or network more than they compute, so more threads than cores.
_N_THREADS = min(32, 4 * (os.cpu_count() or 1) + 4)


@lru_cache(maxsize=1)
def leg_pool() -> ThreadPoolExecutor:
    """Return the pool for single legs; what runs in it must not wait for another of its tasks."""
    return ThreadPoolExecutor(_N_THREADS, thread_name_prefix="lancedb-ft-leg")


@lru_cache(maxsize=1)
def query_pool() -> ThreadPoolExecutor:
    """Return the pool for whole queries."""
    return ThreadPoolExecutor(_N_THREADS, thread_name_prefix="lancedb-ft-query")


def in_context(task: Callable[..., _T], *arguments: Any) -> Callable[[], _T]:
    """Return a task for another thread, with the context variables of this one.

    The current span and the time that rerankers have (`answer_within`) stand there.
    """
    return partial(contextvars.copy_context().run, task, *arguments)


def _forget() -> None:
    leg_pool.cache_clear()
    query_pool.cache_clear()


# A forked child has the pools and not their threads, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
