"""The folder of a training run: what is needed to go on after a kill, and nothing half-written.

::

    <run>/run.json           what is trained, from what, on what: the run's identity
          lock               held while a process trains
          dev.json           the dev figures so far, by step
          probes.json        the figures of the probes so far, by step
          losses.json        the losses up to the last checkpoint, by step
          best.safetensors   the best weights so far, with their step and figure in the header
          checkpoint-<step>/ weights, optimizer, schedule, random state
              sealed.json    written last: a checkpoint without it was killed half-way

The folder is removed when the run is over, or when it is refused before anything was trained. It is
local, private to its user, and never published:
the optimizer state is a pickle (read with ``weights_only``), so only a folder that this user made
for this very run is gone on with.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lancedb_ft.errors import InputError, StoreError, TrainingError
from lancedb_ft.file_lock import try_lock
from lancedb_ft.store.places import refusals
from lancedb_ft.train.places import make_folder

__all__ = ["Best", "RunFolder", "identity_hash", "open_run", "written"]

#: What torch says where it cannot write a file.
_TORCH_WRITER = re.compile("inline_container|PytorchStreamWriter")

_IDENTITY, _LOCK, _DEV, _LEADER, _PROBES, _LOSSES, _BEST, _SEAL = (
    "run.json",
    "lock",
    "dev.json",
    "leader.json",
    "probes.json",
    "losses.json",
    "best.safetensors",
    "sealed.json",
)
_PREFIX = "checkpoint-"


class Best(NamedTuple):
    """The step whose weights are the best so far, and its dev figure."""

    step: int
    value: float


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return 12 hex digits over everything that decides the result of a run."""
    return hashlib.sha256(_dump(identity).encode()).hexdigest()[:12]


@contextlib.contextmanager
def open_run(path: Path, identity: Mapping[str, Any]) -> Iterator[RunFolder]:
    """Make or reopen the folder of a run, and hold its lock.

    Parameters
    ----------
    path
        The folder: one that does not exist, an empty one, or that of the same run.
    identity
        Everything that decides the result, as JSON.

    Raises
    ------
    InputError
        The folder holds something else; nothing in it is touched.
    TrainingError
        Another process trains this run now, or the folder belongs to another user.
    StoreError
        The folder cannot be made.
    """
    _claim(path, identity)
    with open(path / _LOCK, "a+", encoding="utf-8") as lock:
        if not try_lock(lock):
            lock.seek(0)
            raise TrainingError(
                f"Process {lock.read().strip() or '?'} trains the same model on the same data in "
                f"{str(path)!r} now. Wait for it, or stop it: the same command then goes on from "
                "its last checkpoint."
            )
        lock.seek(0)
        lock.truncate()
        lock.write(str(os.getpid()))
        lock.flush()
        run = RunFolder(path)
        run.drop_torn()
        try:
            yield run
        except InputError:
            # Other arguments are another run: this folder would never be gone on with.
            if run.last_checkpoint() is None and run.best() is None:
                run.remove()
            raise


class RunFolder:
    """An open run. Every file but the checkpoints' is replaced in one step.

    What the system refuses to write is a `StoreError`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    # --- checkpoints -----------------------------------------------------------------------

    def checkpoint_path(self, step: int) -> Path:
        """Return where the checkpoint of a step belongs (the trainer's own naming)."""
        return self.path / f"{_PREFIX}{step}"

    def seal(self, step: int) -> None:
        """Declare a checkpoint complete, and remove the earlier ones."""
        checkpoint = self.checkpoint_path(step)
        files = sorted(file for file in checkpoint.rglob("*") if file.is_file())
        with written(checkpoint):
            for file in files:
                _sync(file)
        sizes = {str(file.relative_to(checkpoint)): file.stat().st_size for file in files}
        _replace(checkpoint / _SEAL, _dump(sizes))
        for other in self._checkpoints():
            if other != step:
                shutil.rmtree(self.checkpoint_path(other), ignore_errors=True)

    def last_checkpoint(self) -> int | None:
        """Return the step of the newest complete checkpoint."""
        return max((s for s in self._checkpoints() if self._is_complete(s)), default=None)

    def drop_torn(self) -> None:
        """Remove what a killed process left half-written or half-removed."""
        for step in self._checkpoints():
            if not self._is_complete(step):
                shutil.rmtree(self.checkpoint_path(step))
        for left in self.path.glob("*.writing"):
            left.unlink()

    def _checkpoints(self) -> list[int]:
        names = (entry.name for entry in self.path.glob(f"{_PREFIX}*") if entry.is_dir())
        return [int(n.removeprefix(_PREFIX)) for n in names if n.removeprefix(_PREFIX).isdecimal()]

    def _is_complete(self, step: int) -> bool:
        checkpoint = self.checkpoint_path(step)
        sizes = _read_json(checkpoint / _SEAL)
        return bool(sizes) and all(
            (checkpoint / name).is_file() and (checkpoint / name).stat().st_size == size
            for name, size in sizes.items()
        )

    # --- dev figures and the best weights --------------------------------------------------

    def read_figures(self) -> dict[int, dict[str, Any]]:
        """Return the dev figures by step; step 0 is the base model."""
        return {int(step): figures for step, figures in _read_json(self.path / _DEV).items()}

    def write_figures(self, figures: Mapping[int, Mapping[str, Any]]) -> None:
        """Replace the dev figures."""
        _replace(self.path / _DEV, _dump({str(step): value for step, value in figures.items()}))

    def read_leader(self) -> dict[str, Any] | None:
        """Return the highest dev figure so far and its values by query, or None."""
        return _read_json(self.path / _LEADER) or None

    def write_leader(self, leader: Mapping[str, Any]) -> None:
        """Replace it."""
        _replace(self.path / _LEADER, _dump(leader))

    def read_losses(self) -> dict[int, float]:
        """Return the losses by step, those that were written."""
        found = _read_json(self.path / _LOSSES)
        return {int(step): math.nan if loss is None else loss for step, loss in found.items()}

    def write_losses(self, losses: Mapping[int, float]) -> None:
        """Replace the losses."""
        _replace(self.path / _LOSSES, _dump({str(step): loss for step, loss in losses.items()}))

    def read_probes(self) -> dict[int, dict[str, Any]]:
        """Return the figures of the probes by step."""
        return {int(step): figures for step, figures in _read_json(self.path / _PROBES).items()}

    def write_probes(self, figures: Mapping[int, Mapping[str, Any]]) -> None:
        """Replace the figures of the probes."""
        _replace(self.path / _PROBES, _dump({str(step): each for step, each in figures.items()}))

    def best(self) -> Best | None:
        """Return the best step so far, or None if no weights were kept."""
        from safetensors import safe_open

        if not (self.path / _BEST).exists():
            return None
        with safe_open(str(self.path / _BEST), framework="pt") as file:
            header = file.metadata()
        return Best(int(header["step"]), float(header["value"]))

    def keep_best(self, model: Any, best: Best) -> None:
        """Replace the best weights by those the model has now."""
        from safetensors.torch import save_model

        writing = self.path / f"{_BEST}.writing"
        told = {"step": str(best.step), "value": repr(best.value)}
        with written(self.path / _BEST):
            save_model(model, str(writing), metadata=told)
            _sync(writing)
            os.replace(writing, self.path / _BEST)

    def load_best(self, model: Any) -> None:
        """Give the model the best weights; raises if any tensor is missing or left over."""
        load_weights(model, self.path / _BEST)

    def remove(self) -> None:
        """Remove the folder: the run is over."""
        shutil.rmtree(self.path, ignore_errors=True)


@contextlib.contextmanager
def written(path: Path) -> Iterator[None]:
    """Say in plain words what the system refuses while a run is written.

    Raises
    ------
    StoreError
        It refused: no room, no permission, something in the way.
    """
    try:
        yield
    except Exception as error:
        # torch.save has no error of its own for a disk that is full.
        of_torch = isinstance(error, RuntimeError) and _TORCH_WRITER.search(str(error))
        if not (of_torch or isinstance(error, refusals())):
            raise
        told = str(error).splitlines()[0]
        raise StoreError(
            f"{str(path)!r} could not be written: {told}. Make room, or mend the cause, and run "
            "the same command again: it goes on from its last checkpoint."
        ) from error


def save_weights(model: Any, path: Path) -> None:
    """Write all parameters and buffers of a model as safetensors.

    Raises
    ------
    StoreError
        The system refuses it.
    """
    from safetensors.torch import save_model

    with written(path):
        save_model(model, str(path))


def load_weights(model: Any, path: Path) -> None:
    """Read them back, on the device where the model is; all of them or an error."""
    from safetensors.torch import load_model

    load_model(model, str(path), strict=True, device=str(model.device))


# --- files ---------------------------------------------------------------------------------


def _claim(path: Path, identity: Mapping[str, Any]) -> None:
    if path.exists() and not path.is_dir():
        raise InputError(f"run_dir {str(path)!r} is a file; it must be a folder.")
    make_folder(path)
    here = _read_json(path / _IDENTITY)
    if not here:
        if set(os.listdir(path)) - {_LOCK, f"{_IDENTITY}.writing"}:
            raise InputError(
                f"run_dir {str(path)!r} holds other files. Name a new or empty folder: it is "
                "removed when the training is over."
            )
        _replace(path / _IDENTITY, _dump(identity))
        return
    _check_owner(path)
    wanted = json.loads(_dump(identity))
    if here != wanted:
        changed = sorted(k for k in {*here, *wanted} if here.get(k) != wanted.get(k))
        raise InputError(
            f"run_dir {str(path)!r} is of another run; different are: {', '.join(changed)}. Name "
            "another folder, or none: each run then has its own."
        )


def _check_owner(path: Path) -> None:
    if sys.platform == "win32":  # pragma: no cover
        return
    found = os.stat(path)
    if found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise TrainingError(
            f"The checkpoints in {str(path)!r} belong to another user, or can be changed by "
            "one, and are not loaded. Remove that folder, or name another with run_dir=."
        )


def _dump(document: Mapping[str, Any]) -> str:
    return json.dumps(_finite(document), sort_keys=True, allow_nan=False)


def _finite(value: Any) -> Any:
    """Replace NaN and infinities, which JSON does not have, by None."""
    if isinstance(value, Mapping):
        return {str(key): _finite(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text("utf-8"))
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return document if isinstance(document, dict) else {}


def _replace(file: Path, text: str) -> None:
    writing = file.with_name(f"{file.name}.writing")
    with written(file):
        writing.write_text(text, encoding="utf-8")
        _sync(writing)
        os.replace(writing, file)


def _sync(file: Path) -> None:
    with open(file, "rb+") as handle:
        os.fsync(handle.fileno())
