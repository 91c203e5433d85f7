"""What keeps a query alive while its reranker does not: deadline, circuit breaker, counters."""

from __future__ import annotations

import contextlib
import contextvars
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Literal, get_args

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.errors import InputError, RerankError

__all__ = [
    "DEGRADED_KEY",
    "Breaker",
    "Counters",
    "Deadline",
    "RerankGuard",
    "Usage",
    "answer_within",
]

#: In the schema metadata of a result whose reranker failed: the reason, as UTF-8 text.
DEGRADED_KEY = b"lancedb_ft.degraded"
#: However long a service asks us to stay away, it is tried again after so many seconds.
MAX_COOLDOWN_S = 300.0

_outer: contextvars.ContextVar[float] = contextvars.ContextVar("rerank_by", default=math.inf)


@dataclass(frozen=True)
class RerankGuard:
    """How long a reranker may take, how often it is asked again, and what stands in for it.

    Parameters
    ----------
    deadline_s
        Seconds for the whole of it, retries and waits included; None for no limit. Afterwards the
        query is answered without.
    timeout_s
        Seconds for one try of a remote reranker; None for all that is left. Less than the deadline
        leaves time to try again after a try that hangs.
    retries
        Tries after the first one, where a service is busy (429), broken (5xx) or out of reach.
        The wait before each is what ``Retry-After`` says, else it doubles from `backoff_s`. A wait
        beyond the deadline is not begun.
    backoff_s
        The first wait, in seconds, of which a random half is left out.
    failures
        So many failures one after another open the circuit: the next queries do not ask at all.
    cooldown_s
        Seconds until one query asks again. A ``Retry-After`` that is longer counts instead.
    on_failure
        ``fused``: answer in the order of the search, marked as degraded. ``raise``: raise
        `RerankError`, for evaluations, where another order would be measured in silence.

    Raises
    ------
    InputError
        A value cannot be used.
    """

    deadline_s: float | None = 2.0
    timeout_s: float | None = None
    retries: int = 2
    backoff_s: float = 0.2
    failures: int = 3
    cooldown_s: float = 30.0
    on_failure: Literal["fused", "raise"] = "fused"

    def __post_init__(self) -> None:
        """Refuse what cannot be meant."""
        for name in ("deadline_s", "timeout_s", "backoff_s", "cooldown_s"):
            value = getattr(self, name)
            if value is None and name in ("deadline_s", "timeout_s"):
                continue
            if not is_number(value) or not value > 0:
                raise InputError(f"{name} is {value!r}; it must be a number of seconds above 0.")
        for name, least in (("retries", 0), ("failures", 1)):
            check_whole(name, getattr(self, name), least=least)
        if self.on_failure not in (known := get_args(Literal["fused", "raise"])):
            raise InputError(f"on_failure is {self.on_failure!r}; it must be one of {known}.")


# --- time ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Deadline:
    """A point of `time.monotonic`; infinity for none."""

    at: float = math.inf

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """Return the deadline so many seconds from now, or the caller's where that is earlier."""
        own = math.inf if seconds is None else time.monotonic() + seconds
        return cls(min(own, _outer.get()))

    def left_s(self) -> float:
        """Return the seconds that are left: 0 or more, or infinity."""
        return max(0.0, self.at - time.monotonic())

    def or_in(self, seconds: float | None) -> Deadline:
        """Return this deadline, or the one in so many seconds where that is earlier."""
        return Deadline(min(self.at, Deadline.after(seconds).at))


@contextlib.contextmanager
def answer_within(seconds: float | None) -> Iterator[None]:
    """Give all our rerankers called in this block so many seconds at most, whatever they allow."""
    at = math.inf if seconds is None else time.monotonic() + seconds
    token = _outer.set(min(at, _outer.get()))
    try:
        yield
    finally:
        _outer.reset(token)


# --- counting ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Usage:
    """What a reranker has done so far; they can be added.

    Parameters
    ----------
    queries, documents
        Queries it was asked to rerank, and texts it was given, before any is left out.
    calls, retries
        Requests sent to a service, and how many of them were repetitions.
    failures
        Queries whose service failed or was late; ``skipped`` ones met an open circuit instead.
    degraded
        Queries answered with less than was asked for: all failures, and what a deadline cut short.
    search_units
        As Cohere bills: one query with up to 100 documents.
    input_tokens, output_tokens
        As an LLM service counts them.
    cost_usd
        By the prices that the reranker was given; 0 where it was given none.
    """

    queries: int = 0
    documents: int = 0
    calls: int = 0
    retries: int = 0
    failures: int = 0
    skipped: int = 0
    degraded: int = 0
    search_units: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_usd: float = 0.0

    def __add__(self, other: Usage) -> Usage:
        """Add each number to its own."""
        return Usage(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


class Counters:
    """The usage so far, added to by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._total = Usage()

    def add(self, usage: Usage) -> None:
        """Add what was used."""
        with self._lock:
            self._total = self._total + usage

    @property
    def total(self) -> Usage:
        """All that was added."""
        with self._lock:
            return self._total


# --- the circuit ---------------------------------------------------------------------------


class Breaker:
    """A circuit breaker: after some failures in a row nobody asks for a while, then one tries.

    References
    ----------
    Nygard: Release It! (2007), chapter 5.2.
    """

    def __init__(self, guard: RerankGuard) -> None:
        self._guard = guard
        self._lock = threading.Lock()
        self._n_failures = 0
        self._closed_at: float | None = None  # when a try is allowed again; None while all is well
        self._trying = False

    def refuses(self) -> str:
        """Return why this query must not ask, or ``""``; then say how it ended."""
        with self._lock:
            if self._closed_at is None:
                return ""
            left = self._closed_at - time.monotonic()
            if left <= 0 and not self._trying:
                self._trying = True
                return ""
            return f"not asked: it failed before, and is tried again in {max(left, 0):.0f} s"

    def succeeded(self) -> None:
        """Note an answer: the circuit is closed."""
        with self._lock:
            self._n_failures, self._closed_at, self._trying = 0, None, False

    def failed(self, error: RerankError) -> None:
        """Note a failure; open the circuit if it is one too many, or if more cannot help."""
        with self._lock:
            self._n_failures += 1
            asked_s = min(error.retry_after_s or 0.0, MAX_COOLDOWN_S)
            opens = error.permanent or self._trying or self._n_failures >= self._guard.failures
            if opens or asked_s:
                closed_s = max(self._guard.cooldown_s, asked_s) if opens else asked_s
                self._closed_at = time.monotonic() + closed_s
            self._trying = False

    def gave_up(self) -> None:
        """Note that a query ended without an answer and without a failure of the service."""
        with self._lock:
            self._trying = False
