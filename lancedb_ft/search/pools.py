"""The threads that searches run on, kept for the life of the process.

Three pools, so that no thread waits for a place in its own pool: whole queries of `search_async`
run in one, and the text legs, which wait for nothing, in another. Parts of queries with a time
budget have the third: those that are late go on there, and hold up no query without a budget.
Threads are made when first needed.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

__all__ = ["budget_pool", "leg_pool", "query_pool"]

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


@lru_cache(maxsize=1)
def budget_pool() -> ThreadPoolExecutor:
    """Return the pool for parts of queries that are waited for only so long."""
    return ThreadPoolExecutor(_N_THREADS, thread_name_prefix="lancedb-ft-budget")


def _forget() -> None:
    budget_pool.cache_clear()
    leg_pool.cache_clear()
    query_pool.cache_clear()


# A forked child has the pools and not their threads, and would wait for them for ever.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
