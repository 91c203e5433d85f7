"""How long a query takes, of several retrievers that take turns, so that all meet the same load."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError
from lancedb_ft.types import LATENCIES, Estimate, Retriever

__all__ = ["latency_estimates", "time_queries"]

#: Queries before the clock counts: they load the model and read the indexes from disk.
_WARM_UP = 8
#: Searches that are timed of each retriever, and the time after which fewer will do.
_MOST = 500
_LEAST = 50
_LIMIT_S = 60.0
_N_RESAMPLES = 2000


def time_queries(
    retrievers: Mapping[str, Retriever],
    queries: Sequence[str],
    *,
    k: int = 10,
    n: int | None = None,
    limit_s: float = _LIMIT_S,
    seed: int = 0,
) -> dict[str, npt.NDArray[np.float64]]:
    """Time single queries end to end, embedding included.

    Each query is asked of every retriever before the next one comes, by turns in another order:
    what else the machine does slows all of them alike.

    Parameters
    ----------
    retrievers
        By name.
    queries
        Texts, asked in random order; again from the start where there are fewer than ``n``.
    k
        Documents asked for.
    n
        Queries timed; by default up to 500, and at least 200 where queries are asked again.
    limit_s
        Stop after so many seconds, once 50 are timed.
    seed
        Of the order.

    Returns
    -------
    dict
        Milliseconds of each query, shape (n,), in the same order for every retriever.

    Raises
    ------
    InputError
        There are no queries, or no retrievers.
    """
    if not queries or not retrievers:
        raise InputError("To time queries there must be queries and retrievers.")
    order = np.random.default_rng(seed).permutation(len(queries))
    wanted = n or min(_MOST, max(200, len(queries)))
    for i in range(_WARM_UP):
        for retrieve in retrievers.values():
            retrieve({"q": queries[order[i % len(order)]]}, k)
    names = list(retrievers)
    taken: dict[str, list[float]] = {name: [] for name in names}
    stop = time.perf_counter() + limit_s
    for i in range(wanted):
        if i >= _LEAST and time.perf_counter() > stop:
            break
        query = {"q": queries[order[i % len(order)]]}
        for name in names if i % 2 == 0 else reversed(names):
            started = time.perf_counter()
            retrievers[name](query, k)
            taken[name].append(1000.0 * (time.perf_counter() - started))
    return {name: np.asarray(values) for name, values in taken.items()}


def latency_estimates(
    milliseconds: npt.NDArray[np.float64], *, seed: int = 0
) -> dict[str, Estimate]:
    """Return ``latency_p50``, ``latency_p95`` and ``latency_p99`` with 95 % bootstrap intervals.

    Examples
    --------
    >>> latency_estimates(np.arange(1.0, 102.0))["latency_p50"].mean
    51.0
    """
    rng = np.random.default_rng(seed)
    n = len(milliseconds)
    resampled = milliseconds[rng.integers(n, size=(_N_RESAMPLES, n))]
    found = {}
    for name in LATENCIES:
        q = float(name.removeprefix("latency_p"))
        low, high = np.quantile(np.percentile(resampled, q, axis=1), [0.025, 0.975])
        found[name] = Estimate(float(np.percentile(milliseconds, q)), (float(low), float(high)), n)
    return found
