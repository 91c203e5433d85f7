"""Asking a service: in time, again where that helps, and without a word of a key or a text.

The clients of the services know a timeout between two bytes, and a server that sends one byte a
second keeps them for hours. So they run as tasks of an event loop in a thread of its own, where a
task can be stopped at any point and takes its connection with it.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import email.utils
import json
import math
import os
import random
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from typing import Any, TypeVar

from lancedb_ft.errors import RerankError
from lancedb_ft.reranking.guard import Counters, Deadline, RerankGuard, Usage

__all__ = ["MalformedError", "Service", "event_loop", "run_in_loop", "together"]

T = TypeVar("T")

_BUSY = (408, 409, 425, 429)
#: Refused keys and unknown models: asking again is of no use until somebody changes something.
_PERMANENT = (401, 402, 403, 404, 405)
_SECRETIVE = (401, 403)  # these answers repeat the key
_MAX_BACKOFF_S = 8.0
_MAX_DETAIL = 300
#: What stands where a key was.
_CUT = "***"
#: For the loop's thread to be scheduled and the task to stop.
_GRACE_S = 0.25


class MalformedError(Exception):
    """A service answered with something that is no ranking."""


# --- the loop ------------------------------------------------------------------------------

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def event_loop() -> asyncio.AbstractEventLoop:
    """Return the event loop of this process for services; its thread is started at first use."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            name = "lancedb-ft-services"
            threading.Thread(target=_loop.run_forever, name=name, daemon=True).start()
        return _loop


def _after_fork() -> None:
    """Forget the loop: its thread stayed in the parent process."""
    global _loop, _lock
    _loop, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _stop() -> None:
    if _loop is not None and _loop.is_running():
        _loop.call_soon_threadsafe(_loop.stop)


atexit.register(_stop)


def run_in_loop(task: Coroutine[Any, Any, T], deadline: Deadline) -> T:
    """Run a task in the loop and wait for it, until the deadline at most.

    Raises
    ------
    TimeoutError
        It was too late. The task is stopped, and its connection closed.
    """
    left_s = deadline.left_s()
    timeout_s = None if math.isinf(left_s) else left_s
    future = asyncio.run_coroutine_threadsafe(asyncio.wait_for(task, timeout_s), event_loop())
    try:
        return future.result(None if timeout_s is None else timeout_s + _GRACE_S)
    except (FutureTimeoutError, asyncio.TimeoutError) as error:  # one class from Python 3.11 on
        raise TimeoutError from error
    finally:
        future.cancel()


# --- one service ---------------------------------------------------------------------------


@dataclass(frozen=True)
class _Failure:
    """What went wrong, in words that may be logged, and whether to try again."""

    reason: str
    detail: str = ""
    again: bool = False
    permanent: bool = False
    retry_after_s: float | None = None

    def of(self, who: str) -> RerankError:
        """Return it as an error."""
        return RerankError(
            who,
            reason=self.reason,
            detail=self.detail,
            permanent=self.permanent,
            retry_after_s=self.retry_after_s,
        )


@dataclass(frozen=True)
class Service:
    """How a service is asked.

    Parameters
    ----------
    who
        For errors: the reranker.
    guard
        Retries and waits.
    counters
        Where calls and retries are counted.
    key
        The key that is sent, to be cut out of whatever the service says.
    """

    who: str
    guard: RerankGuard
    counters: Counters
    key: str

    def __repr__(self) -> str:
        """Leave the key out."""
        return f"Service({self.who})"

    def ask(self, call: Callable[[], Coroutine[Any, Any, T]], deadline: Deadline) -> T:
        """Run ``call`` in the loop, until the deadline at most.

        Raises
        ------
        RerankError
            It failed, or was late. Nothing of the client's own error is kept: that holds headers.
        """
        failure = None
        try:
            return run_in_loop(call(), deadline)
        except TimeoutError:
            failure = _Failure("no answer in time")
        except _GaveUpError as error:
            failure = error.failure
        raise failure.of(self.who)

    async def tries(self, call: Callable[[], Awaitable[T]], deadline: Deadline) -> T:
        """Await ``call()``, again and again where that helps; for use inside `ask`."""
        n_before = 0
        while True:
            self.counters.add(Usage(calls=1, retries=min(n_before, 1)))
            found = await self._one_try(call)
            if not isinstance(found, _Failure):
                return found
            wait_s = found.retry_after_s or self._backoff_s(n_before)
            is_last = n_before == self.guard.retries
            if not found.again or is_last or wait_s >= deadline.left_s():
                raise _GaveUpError(found)
            await asyncio.sleep(wait_s)
            n_before += 1

    async def _one_try(self, call: Callable[[], Awaitable[T]]) -> T | _Failure:
        try:
            return await asyncio.wait_for(_as_task(call()), self.guard.timeout_s)
        except asyncio.TimeoutError:
            return _Failure("no answer in time", again=True)
        except Exception as error:  # whatever a client raises, the query goes on
            return self._failure_of(error)

    def _backoff_s(self, n_before: int) -> float:
        wait_s = min(self.guard.backoff_s * 2**n_before, _MAX_BACKOFF_S)
        return float(wait_s * random.uniform(0.5, 1))

    def _failure_of(self, error: Exception) -> _Failure:
        status = getattr(error, "status_code", None)
        if isinstance(status, int) and not 200 <= status < 300:
            return _Failure(
                f"HTTP {status}",
                detail="" if status in _SECRETIVE else self._told(error),
                again=status in _BUSY or status >= 500,
                permanent=status in _PERMANENT,
                retry_after_s=retry_after_s(_headers_of(error)),
            )
        if isinstance(error, MalformedError):
            return _Failure(f"a malformed answer ({error})")
        name = type(error).__name__
        if isinstance(status, int) or "JSON" in name or "Validation" in name:
            return _Failure("a malformed answer (no JSON of the expected form)")
        return _Failure(f"no answer ({name})", again=True)

    def _told(self, error: Exception) -> str:
        body = getattr(error, "body", None)
        # First where the key stands as it is: in writing, its backslashes and blanks change.
        told = " ".join(str(_without(self.key, body) or "").split())
        for written in _forms_of(self.key):
            told = told.replace(written, _CUT)
        return told[:_MAX_DETAIL]


def _without(key: str, body: Any) -> Any:
    """Return what a service said with the key cut out of all its texts, at any depth."""
    if isinstance(body, Mapping):
        return {_without(key, name): _without(key, value) for name, value in body.items()}
    if isinstance(body, (list, tuple)):
        return [_without(key, value) for value in body]
    if isinstance(body, bytes):
        body = body.decode(errors="replace")
    return body.replace(key, _CUT) if key and isinstance(body, str) else body


def _forms_of(key: str) -> list[str]:
    """Return how the key can stand in a text: as it is, or written by Python or as JSON."""
    written = {
        key,
        repr(key)[1:-1],
        json.dumps(key)[1:-1],
        json.dumps(key, ensure_ascii=False)[1:-1],
    }
    forms = {" ".join(form.split()) for form in written} - {""}
    return sorted(forms, key=len, reverse=True)


class _GaveUpError(Exception):
    """Carries a failure out of the loop."""

    def __init__(self, failure: _Failure) -> None:
        self.failure = failure
        super().__init__(failure.reason)


async def together(calls: Sequence[Awaitable[T]]) -> list[T]:
    """Await several calls at once; when one fails, stop the others."""
    tasks = [asyncio.ensure_future(_as_task(call)) for call in calls]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()


async def _as_task(awaitable: Awaitable[T]) -> T:
    return await awaitable


def _headers_of(error: Exception) -> Mapping[str, str]:
    found = getattr(error, "headers", None)
    if found is None:
        found = getattr(getattr(error, "response", None), "headers", None)
    found = found if isinstance(found, Mapping) else {}
    return {str(name).lower(): str(value) for name, value in found.items()}


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that ``Retry-After`` says, as a number or as a date; else None.

    Examples
    --------
    >>> retry_after_s({"retry-after": "7"})
    7.0
    """
    told = headers.get("retry-after", "").strip()
    try:
        seconds = float(told)
    except ValueError:
        with contextlib.suppress(TypeError, ValueError, IndexError, OverflowError):
            seconds = email.utils.parsedate_to_datetime(told).timestamp() - time.time()
            return max(seconds, 0.0)
        return None
    return max(seconds, 0.0) if math.isfinite(seconds) else None
