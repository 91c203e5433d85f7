"""What `tune` may try: a range or a list of choices for each argument of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError
from lancedb_ft.train.config import TrainingConfig, default_learning_rate
from lancedb_ft.train.examples import default_loss
from lancedb_ft.train.losses import LOSSES
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from optuna.trial import Trial

__all__ = ["SearchSpace", "default_space"]

#: Losses that are worth comparing with the usual one of the data.
_RIVALS: Mapping[str, tuple[str, ...]] = {
    "mnrl": ("mnrl", "gist"),
    "cosent": ("cosent", "angle", "cosine"),
}
#: Rows below which large batches leave too few steps.
_FEW_ROWS = 2_000


@dataclass(frozen=True)
class SearchSpace:
    """What to try.

    Parameters
    ----------
    learning_rate
        Lowest and highest, tried on a logarithmic scale.
    batch_size, epochs
        Numbers to choose from.
    pooling
        ``mean``, ``cls``, or None for the model's own.
    temperature
        Lowest and highest, on a logarithmic scale; None leaves it to the loss. Losses without one
        are trained without.
    loss
        Keys of `LOSSES`; None for that of the data.

    Raises
    ------
    InputError
        A range is empty or upside down, or names what does not exist.

    Examples
    --------
    >>> SearchSpace(epochs=(1,), pooling=(None,)).to_dict()["epochs"]
    [1]
    """

    learning_rate: tuple[float, float] = (1e-5, 3e-4)
    batch_size: tuple[int, ...] = (32, 64, 128)
    epochs: tuple[int, ...] = (1, 2, 3)
    pooling: tuple[str | None, ...] = ("mean", "cls")
    temperature: tuple[float, float] | None = (0.02, 0.1)
    loss: tuple[str | None, ...] = (None,)

    def __post_init__(self) -> None:
        """Refuse what could only fail in the middle of the search."""
        for name in ("batch_size", "epochs", "pooling", "loss"):
            choices = tuple(getattr(self, name))
            if not choices:
                raise InputError(f"{name} has no choices; give at least one.")
            object.__setattr__(self, name, choices)
            for choice in choices:
                _check_value(name, choice)
        for name in ("learning_rate", "temperature"):
            limits = getattr(self, name)
            if limits is None:
                continue
            if len(limits) != 2 or not 0 < limits[0] <= limits[1]:
                raise InputError(f"{name} is {limits!r}; give the lowest and the highest value.")
            object.__setattr__(self, name, (float(limits[0]), float(limits[1])))
            _check_value(name, float(limits[1]))

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        found: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return found

    def suggest(self, trial: Trial) -> dict[str, Any]:
        """Let the sampler choose; return arguments of `lancedb_ft.train.train`."""
        chosen: dict[str, Any] = {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True)
        }
        for name in ("batch_size", "epochs", "pooling", "loss"):
            chosen[name] = trial.suggest_categorical(name, getattr(self, name))
        if self.temperature is not None and _takes_temperature(chosen["loss"]):
            chosen["temperature"] = trial.suggest_float("temperature", *self.temperature, log=True)
        return chosen

    def first(self, dims: int) -> dict[str, Any]:
        """Return what lies nearest to the defaults of `train`: the trial to beat."""
        usual: dict[str, Any] = {"learning_rate": default_learning_rate(dims), "temperature": 0.05}
        found = {
            name: min(max(value, limits[0]), limits[1])
            for name, value in usual.items()
            if (limits := getattr(self, name)) is not None
        }
        found |= {name: getattr(self, name)[0] for name in ("batch_size", "pooling", "loss")}
        found["epochs"] = min(self.epochs)
        if not _takes_temperature(found["loss"]):
            found.pop("temperature", None)
        return found


def _check_value(name: str, value: Any) -> None:
    argument: dict[str, Any] = {name: value}
    TrainingConfig(**argument)


def default_space(data: Sequence[Pairs | TrainingSet], model: str | Path, dims: int) -> SearchSpace:
    """Return what is worth trying for these data and this model.

    Parameters
    ----------
    data
        One set, or several: those keep their losses, since no one loss fits all.
    model
        The folder of the model: its own pooling, and the class token if it could be taken.
    dims
        Length of its vectors; the learning rate is searched around the usual one for it.
    """
    sets = [TrainingSet.of_pairs(d) if isinstance(d, Pairs) else d for d in data]
    usual = default_learning_rate(dims)
    alone = sets[0].loss or default_loss(sets[0]) if len(sets) == 1 else None
    losses: tuple[str | None, ...] = (None,)
    if alone is not None:
        losses = (alone,) if sets[0].loss else _RIVALS.get(alone, (alone,))
    few = sum(map(len, sets)) < _FEW_ROWS
    return SearchSpace(
        learning_rate=(usual / 10, min(usual * 5, 1.0)),
        batch_size=(32, 16, 64) if few else (64, 32, 128),
        pooling=_poolings(Path(model)),
        loss=losses,
        temperature=(0.02, 0.1) if losses == (None,) or _softmax(losses) else None,
    )


def _softmax(losses: Sequence[str | None]) -> bool:
    """Whether the temperatures of all of them are of one size."""
    found = {LOSSES[loss].temperature for loss in losses if loss is not None}
    return found - {None} == {0.05}


def _takes_temperature(loss: str | None) -> bool:
    return loss is None or LOSSES[loss].temperature is not None


def _poolings(model: Path) -> tuple[str | None, ...]:
    """Return the pooling to try; None where the model has no single one to replace."""
    try:
        modules = json.loads((model / "modules.json").read_text("utf-8"))
    except (OSError, ValueError):
        return (None,)
    n_pooling = sum(str(module.get("type", "")).endswith("Pooling") for module in modules)
    return (None, "cls") if n_pooling == 1 else (None,)
