"""What happens at which step of a run: dev evaluations, the best weights, checkpoints, progress."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder
from lancedb_ft.errors import StoreError, TrainingError
from lancedb_ft.train.compute import Compute
from lancedb_ft.train.devset import DevSet
from lancedb_ft.train.runs import Best, RunFolder
from lancedb_ft.types import Evaluation, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["CHECKPOINT_EVERY_S", "Course"]

#: A killed run loses at most so much work (and never more than what lies between evaluations).
CHECKPOINT_EVERY_S = 300.0


class Course:
    """Follows one run.

    Parameters
    ----------
    model
        The model in training; measured as it is at each step.
    devset
        What it is measured on.
    metric
        What decides which step is the best.
    interval
        Steps between evaluations; the last step is always one.
    run
        Where figures and weights are kept.
    compute
        The precision of the evaluations: the same for the base model and for each step.
    progress
        Called as ``progress(steps done, steps)``.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        devset: DevSet,
        *,
        metric: str,
        interval: int,
        run: RunFolder,
        compute: Compute,
        progress: Progress | None = None,
    ) -> None:
        self._model = model
        self._encoder = Encoder.of(model)
        self._devset = devset
        self._metric = metric
        self._interval = interval
        self._run = run
        self._compute = compute
        self._progress = progress
        self._saved_at_s = time.monotonic()
        #: Dev figures by step: ``{metric: {"mean", "ci95"}}``. Step 0 is the base model.
        self.figures: dict[int, dict[str, Any]] = run.read_figures()

    def begin(self, step: int, n_steps: int) -> None:
        """Measure the base model, unless an earlier process of this run did."""
        if self._progress is not None:
            self._progress(step, n_steps)
        if 0 not in self.figures:
            self._record(0, self._measure(0))
        self._saved_at_s = time.monotonic()

    def after_step(self, step: int, n_steps: int) -> bool:
        """Evaluate if it is time; say whether to write a checkpoint."""
        due = step % self._interval == 0 or step == n_steps
        if due:
            self._evaluate(step)
        if self._progress is not None:
            self._progress(step, n_steps)
        return due or time.monotonic() - self._saved_at_s >= CHECKPOINT_EVERY_S

    def saved(self, step: int) -> None:
        """Seal a checkpoint that was written."""
        self._run.seal(step)
        self._saved_at_s = time.monotonic()

    @property
    def base_value(self) -> float:
        """The dev figure of the base model."""
        return float(self.figures[0][self._metric]["mean"])

    def _evaluate(self, step: int) -> None:
        evaluation = self._measure(step)
        value = evaluation.metrics[self._metric].mean
        best = self._run.best()
        # Of equals the earlier stays, so that a resumed run, which measures again, changes nothing.
        if best is None or value > best.value:
            self._run.keep_best(self._model, Best(step, value))
        self._record(step, evaluation)

    def _measure(self, step: int) -> Evaluation:
        try:
            with self._compute.autocast():
                return self._devset.measure(self._encoder, self._metric, name=f"step {step}")
        except StoreError as error:
            if step == 0:
                raise
            raise TrainingError(
                f"The training diverged: at step {step} the model gives NaN or infinite numbers. "
                "Use a lower learning rate."
            ) from error

    def _record(self, step: int, evaluation: Evaluation) -> None:
        self.figures[step] = evaluation.to_dict()
        self._run.write_figures(self.figures)
