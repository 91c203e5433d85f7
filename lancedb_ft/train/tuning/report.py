"""What a search has found: its trials, and the picture of them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import NoGainError, TrainingError
from lancedb_ft.types import ModelVersion

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from optuna import Study
    from optuna.trial import FrozenTrial

__all__ = ["TuneReport", "TuneTrial", "draw_study", "trial_of"]


@dataclass(frozen=True)
class TuneTrial:
    """One training of the search.

    Parameters
    ----------
    number
        From 0, in the order of the search.
    state
        ``complete``, ``pruned`` (it was behind most others half-way) or ``failed``.
    arguments
        What it was trained with.
    value, ci95
        Its best dev figure, with the 95 % interval; None if it failed before it had one.
    gain
        Whether it beat the base model.
    seconds
        It took, in all processes together.
    error
        Why it failed.
    """

    number: int
    state: str
    arguments: Mapping[str, Any]
    value: float | None = None
    ci95: tuple[float, float] | None = None
    gain: bool = False
    seconds: float = 0.0
    error: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return asdict(self)


@dataclass(frozen=True)
class TuneReport:
    """What a search has found.

    The value of the best of many trials is too good: the more trials, the more luck is in it. What
    the model is worth says a test set that no trial has seen.

    Parameters
    ----------
    name
        Of the model.
    metric
        Measured on dev.
    n_queries
        Dev queries, or dev rows, it was measured on.
    base
        The dev figure of the base model.
    trials
        In the order of the search.
    model
        The version saved: that of the best trial. None if no trial beat the base model.
    folder
        Of the study.
    plot
        The picture, a PNG.
    seconds
        Of this call.
    """

    name: str
    metric: str
    n_queries: int
    base: float | None
    trials: Sequence[TuneTrial]
    model: ModelVersion | None
    folder: str
    plot: str | None
    seconds: float = field(default=0.0, compare=False)

    @property
    def ok(self) -> bool:
        """Whether a model was saved."""
        return self.model is not None

    @property
    def best(self) -> TuneTrial | None:
        """The best trial that beat the base model; of equals the earlier."""
        return best_of(self.trials)

    @property
    def without_figures(self) -> str | None:
        """Why there is nothing to compare with the base model; None where there is."""
        if not self.trials:
            return "No trial was run: the time was over before. Give more, or leave the limit out."
        if all(trial.state == "failed" for trial in self.trials):
            return (
                f"All {len(self.trials)} trials failed, the last one with {self.trials[-1].error}"
            )
        return None

    def check(self) -> TuneReport:
        """Return this report if a model was saved.

        Raises
        ------
        NoGainError
            No trial beat the base model.
        TrainingError
            No trial came to its end.
        """
        if self.ok:
            return self
        if (why := self.without_figures) is not None:
            raise TrainingError(why)
        values = [trial.value for trial in self.trials if trial.value is not None]
        base = self.base if self.base is not None else float("nan")
        raise NoGainError(
            metric=self.metric,
            base=base,
            best=max(values, default=base),
            n_queries=self.n_queries,
        )

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        best = self.best
        return {
            "ok": self.ok,
            "name": self.name,
            "metric": self.metric,
            "n_queries": self.n_queries,
            "base": self.base,
            "best": None if best is None else best.to_dict(),
            "model": None if self.model is None else self.model.ref,
            "store": None if self.model is None else self.model.store,
            "trials": [trial.to_dict() for trial in self.trials],
            "folder": self.folder,
            "plot": self.plot,
            "seconds": round(self.seconds, 1),
        }


def best_of(trials: Sequence[TuneTrial]) -> TuneTrial | None:
    """Return the best trial that ended with a gain."""
    gained = [trial for trial in trials if trial.gain and trial.state == "complete"]
    return max(gained, key=lambda trial: (trial.value or 0.0, -trial.number), default=None)


def trial_of(slot: int, trial: FrozenTrial) -> TuneTrial:
    """Return what is told of a trial that ended."""
    told = trial.user_attrs
    ci95 = told.get("ci95")
    return TuneTrial(
        number=slot,
        state={"COMPLETE": "complete", "PRUNED": "pruned"}.get(trial.state.name, "failed"),
        arguments=dict(trial.params),
        value=told.get("value"),
        ci95=None if ci95 is None else (float(ci95[0]), float(ci95[1])),
        gain=bool(told.get("gain", False)),
        seconds=float(told.get("seconds", 0.0)),
        error=told.get("error"),
    )


# --- the picture ----------------------------------------------------------------------------

_STATES = {"complete": ("o", "C0"), "pruned": ("v", "C7"), "failed": ("x", "C3")}


def draw_study(report: TuneReport, study: Study, path: Path) -> Path:
    """Draw the course of the search, which arguments matter, and each against the dev figure.

    Returns
    -------
    Path
        The PNG.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    tried: dict[str, set[str]] = {}
    for trial in report.trials:
        for name, value in trial.arguments.items():
            tried.setdefault(name, set()).add(str(value))
    names = sorted(name for name, values in tried.items() if len(values) > 1)
    n_columns = 3
    n_rows = 1 + -(-len(names) // n_columns)
    figure = Figure(figsize=(4.2 * n_columns, 3.2 * n_rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.add_gridspec(n_rows, n_columns)
    _draw_course(figure.add_subplot(grid[0, :2]), report)
    _draw_importance(figure.add_subplot(grid[0, 2]), study)
    for place, name in enumerate(names):
        _draw_argument(
            figure.add_subplot(grid[1 + place // n_columns, place % n_columns]), report, name
        )
    figure.suptitle(f"{report.name}: {len(report.trials)} trials, {report.metric} on dev")
    figure.savefig(path, dpi=110)
    return path


def _draw_course(axes: Axes, report: TuneReport) -> None:
    best, course = None, []
    for trial in report.trials:
        if trial.value is None:
            continue
        marker, colour = _STATES[trial.state]
        axes.plot(trial.number, trial.value, marker=marker, color=colour, linestyle="none")
        if trial.ci95 is not None:
            axes.vlines(trial.number, *trial.ci95, color=colour, alpha=0.3)
        if trial.state == "complete":
            best = trial.value if best is None else max(best, trial.value)
        course.append((trial.number, best))
    drawn = [(number, value) for number, value in course if value is not None]
    if drawn:
        axes.step(*zip(*drawn, strict=True), where="post", color="C0", label="best so far")
    if report.base is not None:
        axes.axhline(report.base, color="C1", linestyle="--", label="base model")
    axes.set_xlabel("trial (circle: complete, triangle: pruned, cross: failed)")
    axes.set_ylabel(report.metric)
    if drawn or report.base is not None:
        axes.legend(fontsize="small")


def _draw_importance(axes: Axes, study: Study) -> None:
    """Draw the share of the spread of the figures that each argument explains."""
    from optuna.exceptions import ExperimentalWarning
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            warnings.simplefilter("ignore", ExperimentalWarning)
            found = get_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
    except (RuntimeError, ValueError, UserWarning):  # too few trials, or all of them alike
        found = {}
    axes.set_title("importance (PED-ANOVA, arXiv:2304.10255)", fontsize="small")
    if found:
        names = list(reversed(found))
        axes.barh(names, [found[name] for name in names], color="C0")
    else:
        axes.text(0.5, 0.5, "too few trials", ha="center", va="center")
        axes.set_axis_off()


def _draw_argument(axes: Axes, report: TuneReport, name: str) -> None:
    shown = [t for t in report.trials if t.value is not None and name in t.arguments]
    values: list[Any] = [t.arguments[name] for t in shown]
    numeric = all(isinstance(v, float) for v in values)
    order = [str(v) for v in sorted(set(values), key=lambda v: (isinstance(v, str), v or 0))]
    for trial, value in zip(shown, values, strict=True):
        marker, colour = _STATES[trial.state]
        place = value if numeric else order.index(str(value))
        axes.plot(place, trial.value or 0.0, marker=marker, color=colour, linestyle="none")
    if not numeric:
        axes.set_xticks(range(len(order)), ["own" if v == "None" else v for v in order])
    elif values:
        axes.set_xscale("log")
    axes.set_xlabel(name)
    axes.set_ylabel(report.metric)
