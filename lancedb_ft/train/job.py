"""Everything that a run needs, complete; `preparation` makes it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from lancedb_ft._version import __version__
from lancedb_ft.errors import InputError
from lancedb_ft.store import ResolvedModel
from lancedb_ft.train.compute import Compute
from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.course import Course
from lancedb_ft.train.defaults import (
    Choice,
)
from lancedb_ft.train.devset import Measured
from lancedb_ft.train.distributed import ALONE, Processes
from lancedb_ft.train.examples import (
    Examples,
    as_training_set,
    make_examples,
    usable_batch_size,
)
from lancedb_ft.train.guards import UNGUARDED, Guards
from lancedb_ft.train.interpolate import Trial
from lancedb_ft.train.negatives import mined_sets
from lancedb_ft.train.prompts import Prompts, prompts_of
from lancedb_ft.train.runs import Best
from lancedb_ft.train.sampling import rows_per_epoch
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["Job", "as_list", "examples_of"]

_PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate")


@dataclass(frozen=True)
class Job:
    """A run, complete.

    Parameters
    ----------
    base
        The model to start from.
    data
        What is trained on, as it was given, without what is held out.
    examples
        The same as the losses read it.
    devset
        What is measured.
    split
        How the data were divided, for the manifest.
    config
        The arguments, complete.
    choices
        Why they are what they are.
    compute
        Device and precision.
    dev
        What is held out, as it was given.
    guards
        What the run is held to.
    prompts
        What the trained model is to have; None for those of the base.
    guide
        The model that tells false negatives, where a loss asks for one.
    processes
        That train together.
    """

    base: ResolvedModel
    data: Sequence[Pairs | TrainingSet] = field(repr=False)
    examples: Sequence[Examples]
    devset: Measured
    split: Mapping[str, Any]
    config: TrainingConfig
    choices: Sequence[Choice]
    compute: Compute
    dev: Pairs | TrainingSet = field(repr=False)
    guards: Guards = UNGUARDED
    prompts: Prompts | None = None
    guide: ResolvedModel | None = None
    processes: Processes = ALONE

    @property
    def metric(self) -> str:
        """What decides which step is the best."""
        return self.config.metric or self.devset.metric

    @property
    def batch_sizes(self) -> list[int]:
        """Rows a step of each set, as its texts can fill it."""
        return [
            usable_batch_size(each, self.config.batch_size, n_processes=self.processes.count)
            for each in self.examples
        ]

    @property
    def rows_per_epoch(self) -> list[int]:
        """Rows of each set that an epoch has batches for, see `sampling`."""
        sizes = zip(self.examples, self.batch_sizes, strict=True)
        if self.processes.count > 1:
            return [len(each) for each in self.examples]
        return [rows_per_epoch(each, size) for each, size in sizes]

    @property
    def steps_per_epoch(self) -> int:
        """Steps of one pass over all sets."""
        sizes = zip(self.rows_per_epoch, self.batch_sizes, strict=True)
        n = self.processes.count
        if n == 1:
            return sum(-(-n_rows // size) for n_rows, size in sizes)
        return max(1, sum(n_rows // size for n_rows, size in sizes) // n)

    def with_negatives(self, folder: Path) -> Job:
        """Return the run with the negatives it asks for; those found are kept in the folder."""
        if not self.config.negatives:
            return self
        sets = self.processes.first(
            lambda: mined_sets(
                self.data,
                self.base,
                self.config.negatives,
                loss=self.config.loss,
                device=self.compute.device,
                seed=self.config.seed,
                folder=folder,
            )
        )
        examples = examples_of(sets, self.config, prompts_of(self.base.path))
        return replace(self, examples=examples)

    @property
    def source(self) -> Mapping[str, Any]:
        """Where the first set comes from."""
        return self.data[0].source

    def identity(self, name: str) -> dict[str, Any]:
        """Everything that decides the result; the number of threads only rounds it."""
        found: dict[str, Any] = {
            "name": name,
            "base": self.base.fingerprint,
            "data": self.fingerprint,
            "dev": self.devset.fingerprint,
            "training": self.config.to_dict(),
            "device": self.compute.device,
            "precision": self.compute.precision,
            "packages": {**{p: version(p) for p in _PACKAGES}, "lancedb-ft": __version__},
            **self.guards.identity,
        }
        if self.guide is not None:
            found["guide"] = self.guide.fingerprint
        if self.processes.count > 1:
            found["processes"] = self.processes.count
        return found

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the data: that of the set, or over those of several."""
        if len(self.data) == 1:
            return self.data[0].fingerprint
        return hashlib.sha256("\n".join(d.fingerprint for d in self.data).encode()).hexdigest()

    def manifest(
        self, course: Course, best: Best, tuned: Trial, store_uri: str, *, seconds: float
    ) -> dict[str, Any]:
        """Tell where the model comes from; the store adds what only it knows."""
        last = max(course.figures)
        dev = {
            "n": self.devset.n_queries,
            "base": course.figures[0],
            "tuned": dict(tuned.dev),
            "final": course.figures[last],
        }
        probes = course.watch.report(tuned.probes) if course.watch.probes else None
        history = {str(s): f[self.metric]["mean"] for s, f in sorted(course.figures.items())}
        return {
            "base": {"ref": self.base.ref, "fingerprint": self.base.fingerprint},
            "parent": self.base.ref if self.base.store == store_uri else None,
            "table": {
                "database": self.source.get("database"),
                **self.source.get("tables", {}).get("docs", {}),
            },
            "data": self._data(),
            "split": dict(self.split),
            "training": self._training(course, best, tuned, seconds),
            "choices": [choice.to_dict() for choice in self.choices],
            "matryoshka_dims": list(self.config.matryoshka_dims),
            "seed": self.config.seed,
            "dev": {
                "fingerprint": self.devset.fingerprint,
                "n_queries": self.devset.n_queries,
                "n_documents": self.devset.n_documents,
                "metric": self.metric,
                "history": history,
            },
            "guards": self.guards.to_dict(),
            "metrics": {"dev": dev, **({"probe": probes} if probes else {})},
        }

    def _training(self, course: Course, best: Best, tuned: Trial, seconds: float) -> dict[str, Any]:
        import torch

        losses = list(dict.fromkeys(each.loss.name for each in self.examples))
        return {
            **self.config.to_dict(),
            "loss": losses[0] if len(losses) == 1 else losses,
            "metric": self.metric,
            "guide": self.guide.ref if self.guide is not None else None,
            "batch_size_used": max(self.batch_sizes),
            "rows_per_epoch": sum(self.rows_per_epoch),
            "steps": max(course.figures),
            "best_step": best.step,
            "stopped_early": course.stopped_early,
            # Only then, since 1 says nothing of a run that chose among steps alone.
            **({"alpha": tuned.alpha} if self.guards.interpolate else {}),
            "warmup_used": dict(course.warmup),
            "device": self.compute.device,
            "precision": self.compute.precision,
            "processes": self.processes.count,
            "torch_threads": torch.get_num_threads(),
            "seconds": round(seconds, 1),
        }

    def _data(self) -> dict[str, Any]:
        sides = [list(each.texts.values()) for each in self.examples]
        return {
            "fingerprint": self.fingerprint,
            "n_pairs": sum(len(each) for each in self.examples),
            "n_queries": sum(len(set(columns[0])) for columns in sides),
            "n_documents": sum(len(set(columns[1])) for columns in sides),
            "has_negatives": any(each.has_negatives for each in self.examples),
            "source": dict(self.source),
            "sets": [_described(each) for each in self.examples],
        }


def as_list(data: TrainingData) -> list[Pairs | TrainingSet]:
    """Return one or several sets as a list.

    Raises
    ------
    InputError
        There is none, or something else.
    """
    if isinstance(data, (Pairs, TrainingSet)):
        return [data]
    several = isinstance(data, Iterable) and not isinstance(data, (str, Mapping))
    found: list[Any] = list(data) if several else [data]
    for each in found:
        if not isinstance(each, (Pairs, TrainingSet)):
            raise InputError(
                f"The data to train on is a {type(each).__name__}; it must be Pairs, a "
                "TrainingSet, or a list of several of them. read_training_file() reads a file."
            )
    if not found:
        raise InputError("There is no data to train on.")
    return found


def examples_of(
    sets: Sequence[Pairs | TrainingSet],
    config: TrainingConfig,
    prompts: Prompts = (None, None),
) -> list[Examples]:
    """Return all sets as the losses read them.

    Parameters
    ----------
    prompts
        Of the base model, for sets that name none.

    Raises
    ------
    InputError
        A loss cannot be trained on its set.
    """
    return [
        examples
        for position, each in enumerate(sets)
        for examples in make_examples(
            as_training_set(each),
            loss=config.loss,
            name=f"set{position}",  # not the user's: modules of torch may not have a dot in theirs
            seed=config.seed,
            prompts=prompts,
            cached=config.cached,
            curriculum=config.curriculum,
        )
    ]


def _described(examples: Examples) -> dict[str, Any]:
    return {
        "name": examples.name,
        "kind": examples.kind,
        "loss": examples.loss.name,
        "shape": examples.shape,
        "n": len(examples),
        "query_prompt": examples.query_prompt,
        "document_prompt": examples.document_prompt,
    }
