"""Times in options, and loops that a signal ends."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any

from lancedb_ft.errors import InputError
from lancedb_ft.search.tiers import seconds_of

__all__ = ["every_seconds", "stopping"]


def every_seconds(every: str) -> float:
    """Return the seconds between rounds.

    Raises
    ------
    InputError
        It is no time, or none at all.
    """
    seconds = seconds_of(every, name="--every")
    if not 0 < seconds <= 365 * 86_400:
        raise InputError(f"--every is {every!r}; give a time such as 30s, 5m or 1h, up to a year.")
    return seconds


@contextlib.contextmanager
def stopping(stop: threading.Event) -> Iterator[None]:
    """Let the first SIGINT or SIGTERM set the event; a second SIGINT interrupts at once."""

    def asked(number: int, frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {s: signal.signal(s, asked) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
