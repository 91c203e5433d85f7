"""What is done at the steps of every training: losses, evaluations, checkpoints, events."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from lancedb_ft.errors import TrainingError
from lancedb_ft.train.runs import RunFolder
from lancedb_ft.types import Progress

__all__ = ["CHECKPOINT_EVERY_S", "OnEvent", "Steps", "diverged"]

#: Called with one event of a run, a plain JSON object.
OnEvent: TypeAlias = "Callable[[Mapping[str, Any]], None]"

#: A killed run loses at most so much work (and never more than what lies between evaluations).
CHECKPOINT_EVERY_S = 300.0


def diverged(step: int) -> TrainingError:
    """Return the error for numbers that are no longer finite."""
    return TrainingError(
        f"The training diverged: at step {step} the model gives NaN or infinite numbers. Use a "
        "lower learning rate."
    )


class Steps:
    """Follows one run; what is measured, and what is kept of it, is up to the subclass.

    Parameters
    ----------
    run
        Where figures, losses and weights are kept.
    metric
        What decides which step is the best.
    interval
        Steps between evaluations; the last step is always one.
    progress
        Called as ``progress(steps done, steps)``.
    on_event
        Called with what happens as plain JSON, see `lancedb_ft.train.train`.
    """

    def __init__(
        self,
        run: RunFolder,
        *,
        metric: str,
        interval: int,
        progress: Progress | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        self._run = run
        self._metric = metric
        self._interval = interval
        self._progress = progress
        self._on_event = on_event
        self._saved_at_s = time.monotonic()
        #: Dev figures by step: ``{metric: {"mean", "ci95"}}``. Step 0 is the model before any.
        self.figures: dict[int, dict[str, Any]] = run.read_figures()
        #: The loss by step.
        self.losses: dict[int, float] = {}

    def evaluate(self, step: int, n_steps: int) -> None:
        """Measure the model as it is, record the figures, and keep its weights if they are best."""
        raise NotImplementedError

    def begin(self, step: int, n_steps: int) -> None:
        """Measure the model before its first step, unless an earlier process of this run did."""
        self.tell("started", step=step, steps=n_steps, metric=self._metric)
        if self._progress is not None:
            self._progress(step, n_steps)
        self.losses = {s: loss for s, loss in self._run.read_losses().items() if s <= step}
        if 0 not in self.figures:
            self.evaluate(0, n_steps)
        self._saved_at_s = time.monotonic()

    def after_loss(self, step: int, n_steps: int, loss: float, learning_rate: float) -> None:
        """Take the loss of a step."""
        self.losses[step] = loss
        self.tell("loss", step=step, steps=n_steps, loss=loss, learning_rate=learning_rate)

    def after_step(self, step: int, n_steps: int) -> bool:
        """Evaluate if it is time; say whether to write a checkpoint."""
        due = step % self._interval == 0 or step == n_steps
        if due:
            self.evaluate(step, n_steps)
        if self._progress is not None:
            self._progress(step, n_steps)
        return due or time.monotonic() - self._saved_at_s >= CHECKPOINT_EVERY_S

    def saved(self, step: int) -> None:
        """Seal a checkpoint that was written."""
        self._run.write_losses(self.losses)
        self._run.seal(step)
        self._saved_at_s = time.monotonic()

    def tell(self, event: str, **facts: Any) -> None:
        """Report an event as plain JSON."""
        if self._on_event is not None:
            self._on_event({"event": event, **facts})
