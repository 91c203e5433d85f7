"""What a run has come to: the step that is kept, or weights between it and the base."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder
from lancedb_ft.errors import NoGainError
from lancedb_ft.memory import kept_memory
from lancedb_ft.train.compute import plain_attention
from lancedb_ft.train.course import Course
from lancedb_ft.train.interpolate import (
    Trial,
    best_trial,
    interpolate,
    regression,
    try_alphas,
    weights_of,
)
from lancedb_ft.train.job import Job
from lancedb_ft.train.picture import dev_curve, training_picture
from lancedb_ft.train.runs import Best

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Outcome", "course_picture", "judge", "settle"]


@dataclass(frozen=True)
class Outcome:
    """What is saved, and what else was tried.

    Parameters
    ----------
    best
        The step that the tuned weights are of.
    chosen
        The figures of what is saved.
    trials
        All weights between base and tuned that were measured; empty without interpolation.
    """

    best: Best
    chosen: Trial
    trials: Sequence[Trial] = ()

    def manifest(self, course: Course) -> dict[str, Any]:
        """Return what it adds to the manifest."""
        found: dict[str, Any] = {}
        if course.watch.probes:
            found["probe"] = {
                name: {str(step): mean for step, mean in sorted(curve.items())}
                for name, curve in course.watch.curves().items()
            }
        if self.trials:
            found["interpolation"] = {
                "alpha": self.chosen.alpha,
                "trials": [trial.to_dict() for trial in self.trials],
            }
        return found


def judge(best: Best | None, course: Course, job: Job) -> Best:
    """Return the best step.

    Raises
    ------
    NoGainError
        No step beats the base model on dev, and none lies between it and the best.
    RegressionError
        Those that beat it lose too much on a probe.
    """
    values = {step: course.means(step)[job.metric] for step in course.figures}
    measured = [step for step in values if step > 0]
    if best is not None and (best.value > course.base_value or job.guards.interpolate):
        return best
    top = max(measured, key=lambda step: values[step], default=0)
    if values[top] > course.base_value:
        gain = (course.base_value, values[top])
        raise regression(course.watch, course.watch.figures[top], metric=job.metric, gain=gain)
    raise NoGainError(
        metric=job.metric,
        base=course.base_value,
        best=values[top],
        n_queries=job.devset.n_queries,
    )


def settle(
    job: Job,
    course: Course,
    best: Best,
    model: SentenceTransformer,
    scratch: Callable[[], SentenceTransformer],
) -> Outcome:
    """Say what is saved; with interpolation, choose the weights and put them into the model.

    Parameters
    ----------
    model
        With the weights of the best step.
    scratch
        Makes a copy of the base, as it is trained and measured: measuring leaves the limits of
        the tokenizer behind, which must not be saved.

    Raises
    ------
    NoGainError, RegressionError
        As `judge`, of all weights that were tried.
    """
    tuned = _known(job, course, best.step, 1.0)
    if not job.guards.interpolate:
        return Outcome(best, tuned)
    copy = scratch()
    encoder = Encoder.of(copy)
    ends = weights_of(copy), weights_of(model)

    def measure(alpha: float) -> Trial:
        copy.load_state_dict(interpolate(*ends, alpha))
        with kept_memory(), plain_attention(copy, job.compute), job.compute.autocast():
            dev = job.devset.measure(encoder, job.metric, name=f"alpha {alpha:g}")
            probes = course.watch.measure(encoder)
        value = dev.metrics[job.metric].mean
        return Trial(alpha, value, dev.to_dict(), probes, course.watch.within(probes))

    trials = try_alphas(measure, known=[_known(job, course, 0, 0.0), tuned])
    chosen = best_trial(trials, course.watch, metric=job.metric, n_queries=job.devset.n_queries)
    model.load_state_dict(interpolate(*ends, chosen.alpha))
    return Outcome(best, chosen, trials)


def _known(job: Job, course: Course, step: int, alpha: float) -> Trial:
    """Return what was measured during the run."""
    probes = course.watch.figures.get(step, {})
    value = course.means(step)[job.metric]
    return Trial(alpha, value, course.figures[step], probes, course.watch.within(probes))


def course_picture(name: str, job: Job, course: Course, outcome: Outcome) -> bytes:
    """Draw the course of a run."""
    alpha = f", alpha {outcome.chosen.alpha:g}" if outcome.trials else ""
    return training_picture(
        title=f"{name}{alpha}",
        losses=course.losses,
        dev=dev_curve(course.figures, job.metric),
        metric=job.metric,
        best_step=outcome.best.step,
        probes=course.watch.curves(),
    )
