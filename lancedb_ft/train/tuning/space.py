"""What `tune` may try: a range or a list of choices for each argument of a training."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.arguments import is_number
from lancedb_ft.errors import InputError
from lancedb_ft.train.config import TrainingConfig, default_learning_rate
from lancedb_ft.train.examples import as_training_set, check_contrast, default_loss
from lancedb_ft.train.job import examples_of
from lancedb_ft.train.losses import LOSSES
from lancedb_ft.train.static_base import check_static, is_static_folder
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from optuna.trial import Trial

    from lancedb_ft.store import ResolvedModel

__all__ = ["SearchSpace", "check_choices", "default_space", "limited", "usual_loss"]

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
            given = getattr(self, name)
            if not isinstance(given, (list, tuple)):
                raise InputError(f"{name} is {given!r}; give the choices in a tuple: ({given!r},).")
            choices = tuple(given)
            if not choices:
                raise InputError(f"{name} has no choices; give at least one.")
            object.__setattr__(self, name, choices)
            for choice in choices:
                _check_value(name, choice)
        for name in ("learning_rate", "temperature"):
            limits = getattr(self, name)
            if limits is None:
                continue
            two = isinstance(limits, (list, tuple)) and len(limits) == 2
            if not two or not all(map(is_number, limits)) or not 0 < limits[0] <= limits[1]:
                raise InputError(
                    f"{name} is {limits!r}; give the lowest and the highest value, two numbers "
                    "above 0."
                )
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

    def first(self, usual: Mapping[str, Any]) -> dict[str, Any]:
        """Return what lies nearest to what `train` would choose: the trial to beat.

        Parameters
        ----------
        usual
            Arguments of `train` by name, as `explain_training` gives them.
        """
        loss = usual["loss"] if usual["loss"] in self.loss else self.loss[0]
        found: dict[str, Any] = {
            "loss": None if None in self.loss else loss,
            "pooling": None if None in self.pooling else self.pooling[0],
            "learning_rate": _within(usual["learning_rate"], self.learning_rate),
        }
        for name in ("batch_size", "epochs"):
            found[name] = min(getattr(self, name), key=lambda value: abs(value - usual[name]))
        if self.temperature is not None and _takes_temperature(found["loss"]):
            own = LOSSES[loss].temperature if loss is not None else None
            found["temperature"] = _within(own or 0.05, self.temperature)
        return found


def _within(value: float, limits: tuple[float, float]) -> float:
    return min(max(value, limits[0]), limits[1])


def limited(space: SearchSpace, limits: Mapping[str, Any] | None) -> SearchSpace:
    """Return a space with some fields replaced.

    Raises
    ------
    InputError
        There is no such field, or it cannot have that value.
    """
    known = [one.name for one in fields(SearchSpace)]
    if strange := sorted(set(limits or {}) - set(known)):
        raise InputError(
            f"limits has {strange[0]!r}, which is not searched; what is: {', '.join(known)}."
        )
    return replace(space, **(limits or {}))


def usual_loss(space: SearchSpace, data: Sequence[Pairs | TrainingSet]) -> str | None:
    """Return the loss that `train` would take where the space has it, else the first it has."""
    if None in space.loss:
        return None
    own = {one.loss or default_loss(one) for one in map(as_training_set, data)}
    return next((loss for loss in space.loss if loss in own), space.loss[0])


def check_choices(
    space: SearchSpace, data: Sequence[Pairs | TrainingSet], model: ResolvedModel, *, seed: int
) -> None:
    """Refuse what no trial could be trained with: it would only be found in the middle.

    Raises
    ------
    InputError
        A loss cannot read the data or train the model, or has nothing to tell apart in a batch of
        some size.
    """
    for loss in space.loss:
        named = f"loss {loss!r}" if loss is not None else "the usual loss of the data"
        with _choice(named):
            made = examples_of(data, TrainingConfig(loss=loss, seed=seed))
            check_static([examples.loss for examples in made], model)
        for size in space.batch_size:
            with _choice(f"batch_size {size} with {named}"):
                for examples in made:
                    check_contrast(examples, size)


@contextlib.contextmanager
def _choice(named: str) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise InputError(
            f"The search may choose {named}, and cannot train with it. {error} Leave it out of "
            "what may be tried: limits=, or the option of that name."
        ) from error


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
    sets = [as_training_set(one) for one in data]
    usual = default_learning_rate(dims)
    alone = sets[0].loss or default_loss(sets[0]) if len(sets) == 1 else None
    losses: tuple[str | None, ...] = (None,)
    if alone is not None:
        losses = (alone,) if sets[0].loss else _RIVALS.get(alone, (alone,))
    if is_static_folder(model):  # it can have no guide
        losses = tuple(loss for loss in losses if loss is None or not LOSSES[loss].needs_guide)
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
