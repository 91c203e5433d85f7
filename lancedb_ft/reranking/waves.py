"""Reading texts by a model of this process within a limit of tokens and of time."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from lancedb_ft.reranking.guard import Deadline

__all__ = ["Pace", "keys_in_time", "within_budget"]

#: Texts that are read between two looks at the clock. A forward pass cannot be stopped.
WAVE = 16


class Pace:
    """How long a model took per character when it last read against a clock; shared by threads."""

    def __init__(self) -> None:
        self.s_per_char = 0.0

    def __call__(self, texts: Sequence[str]) -> float:
        """Return the seconds that reading these texts will take, 0 where nothing is known."""
        return self.s_per_char * _chars(texts)


def _chars(texts: Sequence[str]) -> int:
    return sum(map(len, texts)) + 100 * len(texts)  # the query and the special tokens


def keys_in_time(
    keys_of: Callable[[Sequence[str]], npt.NDArray[np.float32]],
    texts: Sequence[str],
    deadline: Deadline,
    pace: Pace,
) -> tuple[npt.NDArray[np.float64], str]:
    """Read texts from the first on until the time would be over; all at once without a deadline.

    Parameters
    ----------
    keys_of
        Reads texts; returns one number each, higher is better.
    texts
        In the order of the search, so that the ones most likely to matter are read first.
    pace
        What is known of the speed; kept up to date.

    Returns
    -------
    keys, degraded
        Shape ``(texts,)``, NaN for unread texts; and why some are, or ``""``.
    """
    keys = np.full(len(texts), np.nan)
    if math.isinf(deadline.at):
        keys[:] = keys_of(texts)
        return keys, ""
    for start in range(0, len(texts), WAVE):
        wave = texts[start : start + WAVE]
        left_s = deadline.left_s()
        if left_s <= 0 or pace(wave) > left_s:
            return keys, f"out of time: {start} of {len(texts)} texts were read"
        begin = time.perf_counter()
        keys[start : start + len(wave)] = keys_of(wave)
        pace.s_per_char = (time.perf_counter() - begin) / _chars(wave)
    return keys, ""


def within_budget(n_tokens: Sequence[int], budget: int | None) -> int:
    """Return how many texts, from the first on, have no more tokens together; 1 at least.

    Examples
    --------
    >>> within_budget([100, 100, 100], 250)
    2
    """
    if budget is None:
        return len(n_tokens)
    return max(1, int(np.searchsorted(np.cumsum(n_tokens), budget, side="right")))
