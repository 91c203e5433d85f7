"""`tune`: search for the arguments of a training, and save the best model found."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft._version import __version__
from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.errors import InputError, MissingExtraError, NoGainError, TrainingError
from lancedb_ft.store import ModelStore, ResolvedModel, resolve_model
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.train.checks import check_seed
from lancedb_ft.train.job import Job, as_list
from lancedb_ft.train.places import check_name, store_uri
from lancedb_ft.train.preparation import prepare
from lancedb_ft.train.queries.under import refuse_query_only
from lancedb_ft.train.runs import identity_hash
from lancedb_ft.train.steps import OnEvent
from lancedb_ft.train.trainer import train
from lancedb_ft.train.tuning.report import TuneReport, TuneTrial, best_of, draw_study, trial_of
from lancedb_ft.train.tuning.space import (
    SearchSpace,
    check_choices,
    default_space,
    limited,
    usual_loss,
)
from lancedb_ft.train.tuning.study import SLOT, Planned, StudyFolder, open_study
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

if TYPE_CHECKING:
    from optuna import Trial

__all__ = ["SearchSpace", "TuneReport", "TuneTrial", "tune"]

_STUDIES = ".studies"
_PACKAGES = ("torch", "transformers", "sentence-transformers", "optuna")
#: A trial is compared with the others after each quarter of its own steps: epochs differ, and with
#: them where a learning rate stands on its way down.
STAGES = 4


def tune(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    *,
    dev: Pairs | TrainingSet | None = None,
    name: str,
    n_trials: int = 20,
    space: SearchSpace | None = None,
    limits: Mapping[str, Any] | None = None,
    seed: int = 0,
    store: str | None = None,
    timeout_s: float | None = None,
    study_dir: str | Path | None = None,
    metric: str | None = None,
    max_tokens: int | None = 128,
    device: str | None = None,
    distractors: Mapping[str, str] | None = None,
    split_info: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> TuneReport:
    """Train with many arguments, chosen by what was good so far, and save the best model.

    The first trial has the usual arguments, those of `explain_training` as far as the space has
    them; the others are chosen by a tree-structured Parzen
    estimator (Bergstra et al., NeurIPS 2011; Optuna, arXiv:1907.10902). A trial that is behind the
    median of the others after half or three quarters of its steps ends early. What decides is the
    dev figure, and nothing else: give a dev set that is large enough, and test the result on
    another.

    The trials are kept: the same call goes on where a killed one was, a higher ``n_trials`` adds
    to those there are. On a CPU, the same arguments, seed and number of threads give the same
    trials and the same model.

    Parameters
    ----------
    base, data, dev, name, store, metric, max_tokens, device, distractors, split_info
        As for `lancedb_ft.train`.
    n_trials
        Trials in all, those of earlier calls among them.
    space
        What may be tried; None for what fits the data and the model, see `default_space`.
    limits
        Fields of `SearchSpace` to replace in it, such as ``{"epochs": (1,)}``.
    seed
        Of the search and of each training.
    timeout_s
        No trial is begun after so many seconds of this call; the running one is finished.
    study_dir
        Folder of the study. None: one for exactly these arguments, in the store, or in the cache
        if that is not a local folder.
    progress
        Called as ``progress(trials done, n_trials)``.
    on_event
        Called with the events of each training, and ``trial`` in each; and after each trial with
        ``{"event": "trial", "trial", "state", "value", "best"}``. What it raises ends the search,
        which the same call goes on with.

    Returns
    -------
    TuneReport
        All trials with their figures, and the version saved; ``model`` is None if no trial beat
        the base model.

    Raises
    ------
    MissingExtraError
        Optuna is not installed.
    InputError, LeakError, StoreNotFoundError, StoreError
        As `lancedb_ft.train`, or some choice cannot be trained on the data.
    TrainingError
        Another process searches in this study now.
    """
    started = time.monotonic()
    _require_optuna()
    _check(n_trials, timeout_s)
    check_seed("seed", seed)
    sets = as_list(data)
    models = ModelStore(store_uri(store, sets[0].source))
    check_name(name)
    found = resolve_model(base, store=models.uri)
    refuse_query_only(found, "base")
    chosen = limited(space or default_space(sets, found.path, found.dims), limits)
    check_choices(chosen, sets, found, seed=seed)
    # What would end each trial ends the search before it begins.
    usual = prepare(
        found,
        sets,
        dev,
        {
            "loss": usual_loss(chosen, sets),
            "seed": seed,
            "metric": metric,
            "max_tokens": max_tokens,
        },
        store=models.uri,
        device=device,
        distractors=distractors,
        split=split_info,
    )
    identity = {
        "name": name,
        "base": found.fingerprint,
        "data": [each.fingerprint for each in sets],
        "dev": dev.fingerprint if dev is not None else None,
        "space": chosen.to_dict(),
        "seed": seed,
        "metric": metric,
        "max_tokens": max_tokens,
        "distractors": None if distractors is None else _texts_hash(distractors),
        "device": usual.compute.device,
        "precision": usual.compute.precision,
        "packages": {**{p: version(p) for p in _PACKAGES}, "lancedb-ft": __version__},
    }
    study_id = identity_hash(identity)

    def run(store_folder: Path, arguments: Mapping[str, Any], tell: OnEvent) -> ModelVersion:
        return train(
            found,
            data,
            dev=dev,
            name=name,
            store=str(store_folder),
            seed=seed,
            metric=metric,
            max_tokens=max_tokens,
            device=device,
            distractors=distractors,
            split_info=split_info,
            on_event=tell,
            **arguments,
        )

    folder = Path(study_dir) if study_dir else _studies_folder(models) / f"{name}-{study_id}"
    with open_study(folder, identity, seed=seed) as study:
        search = _Search(study, chosen, usual, run, on_event)
        if progress is not None:
            progress(len(study.trials()), n_trials)
        while len(study.trials()) < n_trials:
            if timeout_s is not None and time.monotonic() - started > timeout_s:
                break
            search.one_trial()
            if progress is not None:
                progress(len(study.trials()), n_trials)
        return _finish(search, models, name, found, study_id, started)


@dataclass(frozen=True)
class _Search:
    """Runs trials of a study."""

    study: StudyFolder
    space: SearchSpace
    #: The training with nothing said: what the first trial is, and what all are measured by.
    usual: Job
    train: Callable[[Path, Mapping[str, Any], OnEvent], ModelVersion]
    on_event: OnEvent | None

    def trials(self) -> list[TuneTrial]:
        """Return the trials that ended."""
        return [trial_of(trial.user_attrs[SLOT], trial) for trial in self.study.trials()]

    def one_trial(self) -> None:
        """Train once, note what came of it, and keep its weights if they are the best so far."""
        from optuna import TrialPruned
        from optuna.trial import TrialState

        first = self.space.first({c.argument: c.value for c in self.usual.choices})
        planned = self.study.next_trial(self.space, first)
        trial, before_s = planned.trial, planned.trial.user_attrs.get("seconds", 0.0)
        follower = _Follower(planned, self.on_event)
        started = time.monotonic()
        state, value = TrialState.COMPLETE, None
        try:
            self._trained(planned, follower)
        except TrialPruned:
            state = TrialState.PRUNED
        except NoGainError as error:
            # A trial without a gain is a trial all the same: the sampler learns from its figure.
            if "value" not in trial.user_attrs:
                follower.note(error.best, None)
            self.note_base(error.metric, error.base, error.n_queries)
        except (TrainingError, InputError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and "memory" not in str(error):
                raise
            trial.set_user_attr("error", f"{type(error).__name__}: {error}"[:500])
            state = TrialState.FAIL
        finally:
            trial.set_user_attr("seconds", round(before_s + time.monotonic() - started, 2))
        if state == TrialState.COMPLETE:
            value = trial.user_attrs["value"]
        self.study.study.tell(trial, value, state=state)
        self._keep_best_only()
        self._tell(planned.slot)

    def _trained(self, planned: Planned, follower: _Follower) -> None:
        place = self.study.store_of(planned.slot)
        saved = self.train(place, planned.arguments, follower.follow)
        # From the manifest, also where an earlier process had saved it and was killed right then.
        metric = str(saved.manifest["dev"]["metric"])
        dev = saved.manifest["metrics"]["dev"]
        follower.note(dev["tuned"][metric]["mean"], dev["tuned"][metric]["ci95"])
        self.note_base(metric, dev["base"][metric]["mean"], int(dev["n"]))
        planned.trial.set_user_attr("gain", True)

    def note_base(self, metric: str, value: float, n_queries: int) -> None:
        """Remember the figure that every trial started from."""
        self.study.study.set_user_attr("base", [metric, value, n_queries])

    def _keep_best_only(self) -> None:
        trials = self.trials()
        best = best_of(trials)
        for trial in trials:
            if best is None or trial.number != best.number:
                self.study.drop_store(trial.number)

    def _tell(self, slot: int) -> None:
        if self.on_event is None:
            return
        trials = self.trials()
        ended = next(trial for trial in trials if trial.number == slot)
        best = best_of(trials)
        self.on_event(
            {
                "event": "trial",
                "trial": slot,
                "state": ended.state,
                "value": ended.value,
                "best": None if best is None else best.value,
            }
        )


class _Follower:
    """Takes the events of one training: remembers the best figure, and prunes."""

    def __init__(self, planned: Planned, on_event: OnEvent | None) -> None:
        self._trial: Trial = planned.trial
        self._slot = planned.slot
        self._on_event = on_event
        #: Figures by stage; those of a killed process are reported again, since it is another
        #: trial to Optuna.
        self._stages: dict[str, float] = dict(planned.trial.user_attrs.get("stages", {}))
        for stage, value in self._stages.items():
            self._trial.report(value, int(stage))

    def note(self, value: float, ci95: list[float] | None) -> None:
        """Remember the figure of the trial."""
        self._trial.set_user_attr("value", float(value))
        self._trial.set_user_attr("ci95", ci95)

    def follow(self, event: Mapping[str, Any]) -> None:
        """Take an event; raises to end a trial that is behind."""
        from optuna import TrialPruned

        if self._on_event is not None:
            self._on_event({**event, "trial": self._slot})
        if event["event"] != "evaluation" or event["step"] == 0:
            return
        value, step, steps = float(event["value"]), int(event["step"]), int(event["steps"])
        if value > self._trial.user_attrs.get("value", -math.inf):
            self.note(value, list(event["dev"][event["metric"]]["ci95"]))
        stage = STAGES * step // steps
        if stage == 0 or stage == STAGES or str(stage) in self._stages:
            return  # nothing is saved by ending a run at its end
        self._stages[str(stage)] = value
        self._trial.set_user_attr("stages", self._stages)
        self._trial.report(value, stage)
        if self._trial.should_prune():
            raise TrialPruned


# --- the end --------------------------------------------------------------------------------


def _finish(
    search: _Search,
    models: ModelStore,
    name: str,
    base: ResolvedModel,
    study_id: str,
    started: float,
) -> TuneReport:
    trials = search.trials()
    best = best_of(trials)
    told = search.study.study.user_attrs.get("base")
    usual = search.usual
    nothing = (usual.metric, None, usual.devset.n_queries)  # no trial came to its figures
    metric, value, n_queries = told if told is not None else nothing
    saved = None if best is None else _saved(search, models, name, base, study_id, best)
    report = TuneReport(
        name=name,
        metric=metric,
        n_queries=n_queries,
        base=value,
        trials=trials,
        model=saved,
        folder=str(search.study.path),
        plot=str(search.study.picture) if trials else None,
        seconds=time.monotonic() - started,
    )
    if trials:
        draw_study(report, search.study.study, search.study.picture)
    return report


def _saved(
    search: _Search,
    models: ModelStore,
    name: str,
    base: ResolvedModel,
    study_id: str,
    best: TuneTrial,
) -> ModelVersion:
    """Return the version of the best trial, saved now or by an earlier call."""
    for known in reversed(models.list(name) if _exists(models) else []):
        study = known.manifest.get("study") or {}
        if (study.get("id"), study.get("trial")) == (study_id, best.number):
            return known
    place = search.study.store_of(best.number)
    # At hand, and so returned at once; where a version of it was deleted, trained again.
    trained = search.train(place, best.arguments, lambda event: None)
    own = ModelStore(str(place))
    picture = Path(trained.path) / "training.png"
    trials = search.trials()
    manifest = {
        **trained.manifest,
        "parent": base.ref if base.store == models.uri else None,
        "study": {
            "id": study_id,
            "trial": best.number,
            "n_trials": len(trials),
            "space": search.space.to_dict(),
            "trials": [trial.to_dict() for trial in trials],
        },
    }
    version = models.save(
        trained.path,
        name=name,
        manifest=manifest,
        picture=picture.read_bytes() if picture.exists() else None,
        rows=own.rows(trained.ref),
    )
    search.study.drop_store(best.number)
    return version


def _texts_hash(texts: Mapping[str, str]) -> str:
    """Return the SHA-256 of texts by id, whatever their order."""
    return hashlib.sha256(json.dumps(sorted(texts.items())).encode()).hexdigest()


def _exists(models: ModelStore) -> bool:
    return "://" in models.uri or Path(models.uri).is_dir()


def _studies_folder(models: ModelStore) -> Path:
    return cache_folder() / "studies" if "://" in models.uri else Path(models.uri) / _STUDIES


def _check(n_trials: int, timeout_s: float | None) -> None:
    check_whole("n_trials", n_trials, least=1)
    if timeout_s is not None and (not is_number(timeout_s) or not timeout_s > 0):
        raise InputError(f"timeout_s is {timeout_s!r}; it must be a number above 0.")


def _require_optuna() -> None:
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise MissingExtraError("optuna", extra="tune", purpose="A search") from error
