"""The study of a search: trials in SQLite, gone on with after a kill.

::

    <study>/study.json     what is searched: the study's identity
            lock           held while a process searches
            study.db       the trials (Optuna's own tables)
            trials/<slot>/ the store that a trial trains into; only that of the best is kept
            tune.png       the picture

Each planned trial has a *slot*. A trial that was running when its process died is marked as failed,
and its arguments wait for a new trial in the same slot, whose training goes on from its checkpoint.
The sampler is seeded by slot, so that a search that was killed chooses as one that was not.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from lancedb_ft.errors import InputError, TrainingError
from lancedb_ft.file_lock import try_lock
from lancedb_ft.train.places import make_folder

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.trial import FrozenTrial

    from lancedb_ft.train.tuning.space import SearchSpace

__all__ = ["SLOT", "Planned", "StudyFolder", "open_study"]

_IDENTITY, _LOCK, _DATABASE, _TRIALS, _PICTURE = (
    "study.json",
    "lock",
    "study.db",
    "trials",
    "tune.png",
)
#: Trials that end before any may be pruned, and before the sampler learns from them.
N_STARTUP = 4
#: Quarters of its steps after which a trial may be pruned first: in the one before, the learning
#: rate has hardly left its warm-up.
N_SPARED = 2
SLOT = "slot"


class Planned(NamedTuple):
    """A trial to run, its slot, and the arguments of its training."""

    trial: Trial
    slot: int
    arguments: dict[str, Any]


@contextlib.contextmanager
def open_study(path: Path, identity: Mapping[str, Any], *, seed: int) -> Iterator[StudyFolder]:
    """Make or reopen the folder of a study, and hold its lock.

    Raises
    ------
    InputError
        The folder holds another study, or something else.
    TrainingError
        Another process searches in it now.
    StoreError
        The folder cannot be made.
    """
    make_folder(path)
    _claim(path, identity)
    with open(path / _LOCK, "a+", encoding="utf-8") as lock:
        if not try_lock(lock):
            raise TrainingError(
                f"Another process searches in {str(path)!r} now. Wait for it, or stop it: the same "
                "command then goes on."
            )
        with _quiet():
            folder = StudyFolder(path, seed)
            try:
                yield folder
            finally:
                folder.close()


class StudyFolder:
    """An open study."""

    def __init__(self, path: Path, seed: int) -> None:
        import optuna

        self.path = path
        self._seed = seed
        self._storage = optuna.storages.RDBStorage(f"sqlite:///{path / _DATABASE}")
        self.study: Study = optuna.create_study(
            storage=self._storage,
            study_name="tune",
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=N_STARTUP, n_warmup_steps=N_SPARED),
            load_if_exists=True,
        )
        self._queue_again()

    @property
    def picture(self) -> Path:
        """Where the picture of the study belongs."""
        return self.path / _PICTURE

    def close(self) -> None:
        """Let go of the database."""
        self._storage.remove_session()
        self._storage.engine.dispose()

    def trials(self) -> list[FrozenTrial]:
        """Return the trials that ended, one a slot, in order."""
        return [trial for _, trial in sorted(self._last().items()) if trial.state.is_finished()]

    def next_trial(self, space: SearchSpace, first: Mapping[str, Any]) -> Planned:
        """Return the trial to run now: one that waits, or a new one.

        Parameters
        ----------
        space
            Where a new one is chosen from.
        first
            The arguments of the very first trial.
        """
        import optuna

        last = self._last()
        if not last:
            self.study.enqueue_trial(dict(first), user_attrs={SLOT: 0})
            last = self._last()
        waiting = [s for s, t in last.items() if t.state == optuna.trial.TrialState.WAITING]
        slot = min(waiting) if waiting else len(last)
        digest = hashlib.sha256(f"{self._seed}\x1f{slot}".encode()).digest()
        self.study.sampler = optuna.samplers.TPESampler(
            seed=int.from_bytes(digest[:4], "little"), n_startup_trials=N_STARTUP
        )
        trial = self.study.ask()
        arguments = space.suggest(trial)
        # Last, so that a trial killed before has no slot, and the next one chooses the same.
        trial.set_user_attr(SLOT, slot)
        return Planned(trial, slot, arguments)

    def store_of(self, slot: int) -> Path:
        """Return the store that the trial of a slot trains into."""
        return self.path / _TRIALS / f"{slot:04d}"

    def drop_store(self, slot: int) -> None:
        """Delete the weights of a trial."""
        shutil.rmtree(self.store_of(slot), ignore_errors=True)

    def _last(self) -> dict[int, FrozenTrial]:
        """Return the last trial of each slot: those before it were killed."""
        trials = self.study.get_trials(deepcopy=False)
        return {t.user_attrs[SLOT]: t for t in trials if SLOT in t.user_attrs}

    def _queue_again(self) -> None:
        """Queue the trials whose process died: while we hold the lock, nobody runs them."""
        from optuna.trial import TrialState

        for trial in self.study.get_trials(states=(TrialState.RUNNING,)):
            self.study.tell(trial.number, state=TrialState.FAIL)
            if SLOT in trial.user_attrs:
                self.study.enqueue_trial(trial.params, user_attrs=trial.user_attrs)


def _claim(path: Path, identity: Mapping[str, Any]) -> None:
    wanted = json.loads(json.dumps(identity, sort_keys=True))
    file = path / _IDENTITY
    try:
        here = json.loads(file.read_text("utf-8"))
    except FileNotFoundError:
        if any(entry.name != _LOCK for entry in path.iterdir()):
            raise InputError(
                f"The study folder {str(path)!r} holds other files. Name a new or empty one."
            ) from None
        writing = file.with_name(f"{_IDENTITY}.writing")
        writing.write_text(json.dumps(wanted, sort_keys=True), encoding="utf-8")
        writing.replace(file)
        return
    if here != wanted:
        changed = sorted(k for k in {*here, *wanted} if here.get(k) != wanted.get(k))
        raise InputError(
            f"The study in {str(path)!r} is another one; different are: {', '.join(changed)}. Name "
            "another folder, or none: each study then has its own."
        )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's own log of each trial off stderr, and its notes on what is experimental."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
