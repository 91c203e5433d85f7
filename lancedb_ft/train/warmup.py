"""The schedule of the learning rate: up, and down to 0; up more slowly when the loss swings.

Too high a rate at the start shows in the loss: it swings, or rises. When that is seen as the
warm-up ends, the warm-up is made twice as long, up to `MOST` of the steps: the rate falls to a
half at once and climbs on from there. What is looked at are the losses alone, so the same run
always decides the same; they are kept in the checkpoints, so a resumed run does, too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

__all__ = ["Warmup", "oscillates"]

#: Losses that are needed to tell a swing from chance.
FEWEST = 8
#: The warm-up is never made longer than this share of the steps.
MOST = 0.3
#: The standard deviation around a straight line, as a share of the mean, from which losses swing.
SWING = 0.5
#: A loss below this on average is nearly 0, and its swings harm nothing.
SMALL = 0.1
#: The end of the line over its start from which losses rise.
RISE = 1.25


def oscillates(losses: Sequence[float]) -> bool:
    """Say whether losses swing or rise, rather than fall with the noise of small batches.

    Examples
    --------
    >>> oscillates([2.0, 1.9, 1.7, 1.8, 1.5, 1.6, 1.4, 1.2])
    False
    >>> oscillates([2.0, 0.4, 2.6, 0.3, 3.1, 0.5, 2.9, 0.2])
    True
    """
    if len(losses) < FEWEST:
        return False
    values = np.asarray(losses, np.float64)
    if not np.isfinite(values).all():
        return True
    mean = float(np.abs(values).mean())
    if mean < SMALL:
        return False
    places = np.arange(len(values))
    slope, start = np.polyfit(places, values, 1)
    line = start + slope * places
    swings = float(np.std(values - line)) > SWING * mean
    rises = line[0] > 0 and line[-1] > RISE * line[0] and values[-1] > values[0]
    return bool(swings or rises)


class Warmup:
    """Factor of the learning rate by step.

    A callable object, so that torch keeps its attributes in the scheduler's state: they are plain
    numbers.

    Parameters
    ----------
    share
        Of the steps, 0 up to below 1.
    n_steps
        Steps of the run.
    adaptive
        Raise the share when the loss oscillates.
    """

    def __init__(self, share: float, n_steps: int, *, adaptive: bool) -> None:
        self.n_steps = n_steps
        self.steps = math.ceil(share * n_steps)
        self.adaptive = adaptive and share > 0
        self.losses: list[float] = []
        self.raised_at: list[int] = []

    def __call__(self, step: int) -> float:
        """Return the factor, from 0 to 1."""
        if step < self.steps:
            return step / max(1, self.steps)
        return max(0.0, (self.n_steps - step) / max(1, self.n_steps - self.steps))

    def observe(self, loss: float) -> None:
        """Take the loss of the step that was just computed."""
        if not self.adaptive:
            return
        self.losses.append(loss)
        n_done = len(self.losses)
        window = max(self.steps, FEWEST)
        if n_done < window:
            return
        longer = min(2 * self.steps, math.floor(MOST * self.n_steps))
        if longer > n_done and oscillates(self.losses[-window:]):
            self.steps = longer
            self.raised_at.append(n_done)
        else:
            self.adaptive = False

    def to_dict(self) -> dict[str, Any]:
        """Return what became of it, for the manifest."""
        return {"steps": self.steps, "raised_at": list(self.raised_at)}
