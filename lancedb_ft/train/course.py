"""What happens at which step of a fine-tune: the base, dev and probes, the best weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.encoder import Encoder
from lancedb_ft.errors import StoreError
from lancedb_ft.train.compute import Compute
from lancedb_ft.train.devset import Measured
from lancedb_ft.train.probe import Watch
from lancedb_ft.train.runs import Best, RunFolder
from lancedb_ft.train.steps import OnEvent, Steps, diverged
from lancedb_ft.types import Evaluation, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Course"]


def _within_one_error(values: Mapping[str, float], leading: Mapping[str, float]) -> bool:
    """Say whether the mean of paired values is less than a standard error below another."""
    if not values or values.keys() != leading.keys():
        return False
    differences = np.array([values[query_id] - leading[query_id] for query_id in values])
    error = float(differences.std()) / len(differences) ** 0.5
    return bool(differences.mean() >= -error)


class Course(Steps):
    """Follows one run of `lancedb_ft.train.train`.

    Parameters
    ----------
    model
        The model in training; measured as it is at each step.
    devset
        What it is measured on.
    run, metric, interval, progress, on_event
        As in `Steps`.
    compute
        The precision of the evaluations: the same for the base model and for each step.
    watch
        Probes that are measured at the same steps.
    bounded
        A step that loses too much on a probe is never the best.
    early_stopping
        Stop when so many evaluations in a row did not beat the best one; None: never.
    prepare
        Makes of the base model, once it was measured as it is, the one to be trained: other
        prompts, another pooling. The model must stay the same object.
    """

    def __init__(
        self,
        model: SentenceTransformer,
        devset: Measured,
        *,
        metric: str,
        interval: int,
        run: RunFolder,
        compute: Compute,
        watch: Watch | None = None,
        bounded: bool = True,
        early_stopping: int | None = None,
        prepare: Callable[[], None] | None = None,
        progress: Progress | None = None,
        on_event: OnEvent | None = None,
    ) -> None:
        super().__init__(
            run, metric=metric, interval=interval, progress=progress, on_event=on_event
        )
        self._model = model
        self._encoder = Encoder.of(model)
        self._devset = devset
        self._compute = compute
        self._patience = early_stopping
        self._prepare = prepare
        self._bounded = bounded
        #: The probes.
        self.watch = watch or Watch([], None)
        #: Whether the run ended before its last step, for want of gains.
        self.stopped_early = False
        #: What became of the warm-up, see `lancedb_ft.train.warmup.Warmup.to_dict`.
        self.warmup: dict[str, Any] = {}

    def prepare(self) -> None:
        """Make of the base model, which was measured, the one to be trained."""
        if self._prepare is not None:
            self._prepare()
            self._encoder = Encoder.of(self._model)

    @property
    def base_value(self) -> float:
        """The dev figure of the base model."""
        return self._value(0)

    def is_over(self, step: int) -> bool:
        """Say whether to stop after this step: the last evaluations did not beat the best one."""
        if self._patience is None or step not in self.figures:
            return False
        measured = sorted(s for s in self.figures if 0 < s <= step)
        best = max(measured, key=lambda s: (self._value(s), -s))
        self.stopped_early = len([s for s in measured if s > best]) >= self._patience
        return self.stopped_early

    def was_over(self, step: int) -> bool:
        """Say whether an earlier process of this run had stopped after this step."""
        if self.is_over(step):
            self.losses = self._run.read_losses()
        return self.stopped_early

    def means(self, step: int) -> dict[str, float]:
        """Return the dev figures of a step without their intervals."""
        return {metric: float(figure["mean"]) for metric, figure in self.figures[step].items()}

    def _value(self, step: int) -> float:
        return float(self.figures[step][self._metric]["mean"])

    def evaluate(self, step: int, n_steps: int) -> None:
        """Measure dev and probes; keep the weights of the best step that loses not too much."""
        evaluation = self._measure(step)
        value = evaluation.metrics[self._metric].mean
        probes = self._probe(step)
        allowed = step and (self.watch.within(probes) or not self._bounded)
        if allowed and self._as_good_as_any(evaluation, value):
            self._run.keep_best(self._model, Best(step, value))
        self._record(step, evaluation, n_steps)

    def _as_good_as_any(self, evaluation: Evaluation, value: float) -> bool:
        """Say whether a step is the best so far, or cannot be told from it and comes later.

        A dev corpus is small, and its figure saturates long before that of a whole table does: the
        highest of several figures within their own noise is chance, and a later step has seen more.
        One run, one seed (tldr, 2,010 rows): .757 on dev at step 8 of 32, .752 at the last (402
        queries, 654 documents); on test, which prompted the rule and so does not prove it, .426
        and .452 (2,565 queries, 30,746 documents).
        So it is the rule of one standard error (Breiman, Friedman, Olshen, Stone: Classification
        and Regression Trees, 1984), of the paired difference, towards the later step.
        """
        leader = self._run.read_leader()
        values = dict(evaluation.per_query.get(self._metric, {}))
        if leader is None or value > leader["value"]:
            self._run.write_leader({"value": value, "per_query": values})
            return True
        return value > self.base_value and _within_one_error(values, leader["per_query"])

    def _measure(self, step: int) -> Evaluation:
        try:
            with self._compute.autocast():
                return self._devset.measure(self._encoder, self._metric, name=f"step {step}")
        except StoreError as error:
            if step == 0:
                raise
            raise diverged(step) from error

    def _probe(self, step: int) -> Mapping[str, Any]:
        if self.watch.probes:
            with self._compute.autocast():
                self.watch.figures[step] = self.watch.measure(self._encoder)
            self._run.write_probes(self.watch.figures)
        return self.watch.figures.get(step, {})

    def _record(self, step: int, evaluation: Evaluation, n_steps: int) -> None:
        self.figures[step] = evaluation.to_dict()
        self._run.write_figures(self.figures)
        self.tell(
            "evaluation",
            step=step,
            steps=n_steps,
            metric=self._metric,
            value=self._value(step),
            best=max(self._value(s) for s in self.figures),
            dev=self.figures[step],
            probe=self.watch.told(step),
        )
