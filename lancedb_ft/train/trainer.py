"""`train`: from pairs to a model version that beats the model it started from."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft._version import __version__
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError, MissingExtraError, NoGainError, StoreNotFoundError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore, ResolvedModel, default_store_uri, resolve_model
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.store.resolve import STORE_VARIABLE
from lancedb_ft.store.versions import parse_reference
from lancedb_ft.train.compute import (
    Compute,
    choose_compute,
    kept_random_state,
    plain_attention,
)
from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.course import Course
from lancedb_ft.train.devset import DevSet, check_leaks, hold_out, make_dev_set
from lancedb_ft.train.examples import check_contrast, training_columns, usable_batch_size
from lancedb_ft.train.fit import fit
from lancedb_ft.train.losses import require_loss
from lancedb_ft.train.runs import Best, RunFolder, identity_hash, open_run
from lancedb_ft.types import ModelVersion, Pairs, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["train"]

_PACKAGES = ("torch", "transformers", "sentence-transformers", "accelerate")
_RUNS = ".runs"


def train(
    base: str | ModelVersion | ResolvedModel,
    pairs: Pairs,
    *,
    dev: Pairs | None = None,
    name: str,
    store: str | None = None,
    loss: str = "mnrl",
    epochs: int = 1,
    batch_size: int = 64,
    learning_rate: float | None = None,
    warmup: float = 0.1,
    max_tokens: int | None = 128,
    seed: int = 0,
    eval_steps: int | None = None,
    metric: str = "ndcg@10",
    device: str | None = None,
    run_dir: str | Path | None = None,
    distractors: Mapping[str, str] | None = None,
    split_info: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
) -> ModelVersion:
    """Fine-tune a model, and save the best checkpoint if it beats the base model on dev.

    The dev figures are measured before the first step, at intervals and after the last step, by
    exact search in a small corpus: the documents of the dev pairs and up to 2,000 distractors.

    A run that was killed goes on from its last checkpoint when the same call is made again, and
    ends with the same model; a run that was finished is not repeated, its version is returned. On
    a CPU, the same arguments and the same number of threads give the
    same model, bit for bit.

    Parameters
    ----------
    base
        The model to start from: ``support@2``, a folder, ``hf://org/name@revision``, or
        ``all-MiniLM-L6-v2``.
    pairs
        Queries with documents that answer them and, optionally, a document that does not
        (column ``negative``).
    dev
        Pairs of queries and documents that are not trained on. None: 10 % of ``pairs`` are held
        out by `split_pairs`.
    name
        Of the model in the store; the store counts the versions.
    store
        URI of the store. None: that of the database the pairs are from, else the variable
        ``ft_store`` of LanceDB's registry, else ``LANCEDB_FT_STORE``.
    loss, epochs, batch_size, learning_rate, warmup, max_tokens, seed, eval_steps, metric
        See `TrainingConfig`.
    device
        ``cpu``, ``cuda``, ``mps``; None for the best there is.
    run_dir
        Folder for checkpoints, removed when the run is over. None: one for exactly these
        arguments, in the store, or in the cache if that is not a local folder.
    distractors
        ``{doc_id: text}`` for the dev corpus, such as the table's other documents. None: documents
        of the training pairs.
    split_info
        How the pairs were split, for the manifest.
    progress
        Called as ``progress(steps done, steps)``.

    Returns
    -------
    ModelVersion
        What was saved. Its manifest tells the base, the data, every argument, and the dev figures
        of the base, the best and the last step with intervals.

    Raises
    ------
    NoGainError
        No checkpoint beats the base model on dev. Nothing was saved.
    LeakError
        Dev shares a query or a document with the training pairs.
    InputError
        Nothing can be learned from these pairs, or an argument cannot be used.
    StoreNotFoundError
        No store was named and none follows from the pairs.
    TrainingError
        The training diverged, or another process runs the same training now.
    MissingExtraError
        A package of the extra ``train`` is missing.
    """
    config = TrainingConfig(
        loss=loss,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        warmup=warmup,
        max_tokens=max_tokens,
        seed=seed,
        eval_steps=eval_steps,
        metric=metric,
    )
    _require_packages()
    models = ModelStore(_store_uri(store, pairs))
    _check_name(name)
    job = _prepare(
        base, pairs, dev, config, models, device=device, distractors=distractors, split=split_info
    )
    identity = job.identity(name)
    run_id = identity_hash(identity)
    if (done := _trained_before(models, name, run_id)) is not None:
        return done
    folder = Path(run_dir) if run_dir else _runs_folder(models) / f"{name}-{run_id}"
    with open_run(folder, identity) as run:
        started = time.monotonic()
        course = _fit(job, run, progress)
        best = _judge(run, course, job)
        # Into a fresh copy: a tokenizer keeps the limits it was last used with, and saves them.
        model = _load_base(job)
        run.load_best(model)
        manifest = job.manifest(course, best, models.uri, seconds=time.monotonic() - started)
        manifest["run"] = run_id
        saved = models.save(model, name=name, manifest=manifest)
        run.remove()
        return saved


@dataclass(frozen=True)
class _Job:
    """Everything a run needs, checked."""

    base: ResolvedModel
    pairs: Pairs
    columns: Mapping[str, list[str]]
    devset: DevSet
    split: Mapping[str, Any]
    config: TrainingConfig
    compute: Compute
    batch_size: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self.pairs) // self.batch_size)

    def identity(self, name: str) -> dict[str, Any]:
        """Everything that decides the result; the number of threads only rounds it."""
        return {
            "name": name,
            "base": self.base.fingerprint,
            "data": self.pairs.fingerprint,
            "dev": self.devset.fingerprint,
            "training": self.config.to_dict(),
            "device": self.compute.device,
            "precision": self.compute.precision,
            "packages": {**{p: version(p) for p in _PACKAGES}, "lancedb-ft": __version__},
        }

    def manifest(
        self, course: Course, best: Best, store_uri: str, *, seconds: float
    ) -> dict[str, Any]:
        """Tell where the model comes from; the store adds what only it knows."""
        import torch

        source = self.pairs.source
        last = max(course.figures)
        dev = {
            "n": self.devset.n_queries,
            "base": course.figures[0],
            "tuned": course.figures[best.step],
            "final": course.figures[last],
        }
        history = {str(s): f[self.config.metric]["mean"] for s, f in sorted(course.figures.items())}
        return {
            "base": {"ref": self.base.ref, "fingerprint": self.base.fingerprint},
            "parent": self.base.ref if self.base.store == store_uri else None,
            "table": {
                "database": source.get("database"),
                **source.get("tables", {}).get("docs", {}),
            },
            "data": {
                "fingerprint": self.pairs.fingerprint,
                "n_pairs": len(self.pairs),
                "n_queries": len(self.pairs.queries),
                "n_documents": len(self.pairs.corpus),
                "has_negatives": "negative" in self.columns,
                "source": dict(source),
            },
            "split": dict(self.split),
            "training": {
                **self.config.to_dict(),
                "batch_size_used": self.batch_size,
                "steps": last,
                "best_step": best.step,
                "device": self.compute.device,
                "precision": self.compute.precision,
                "torch_threads": torch.get_num_threads(),
                "seconds": round(seconds, 1),
            },
            "seed": self.config.seed,
            "dev": {
                "fingerprint": self.devset.fingerprint,
                "n_queries": self.devset.n_queries,
                "n_documents": len(self.devset.corpus),
                "metric": self.config.metric,
                "history": history,
            },
            "metrics": {"dev": dev},
        }


def _prepare(
    base: str | ModelVersion | ResolvedModel,
    pairs: Pairs,
    dev: Pairs | None,
    config: TrainingConfig,
    models: ModelStore,
    *,
    device: str | None,
    distractors: Mapping[str, str] | None,
    split: Mapping[str, Any] | None,
) -> _Job:
    loss = require_loss(config.loss)
    check_contrast(training_columns(pairs), config.batch_size, loss)
    how = dict(split or {})
    if dev is None:
        pairs, dev, held_out = hold_out(pairs, seed=config.seed)
        how["dev"] = {"held_out_of_train": True, **held_out}
    check_leaks(pairs, dev)
    columns = training_columns(pairs)
    check_contrast(columns, config.batch_size, loss)
    found = resolve_model(base, store=models.uri)
    return _Job(
        base=found,
        pairs=pairs,
        columns=columns,
        devset=make_dev_set(dev, pairs, seed=config.seed, distractors=distractors),
        split=how,
        config=config.for_model(found.dims),
        compute=choose_compute(device),
        batch_size=usable_batch_size(columns, config.batch_size),
    )


def _fit(job: _Job, run: RunFolder, progress: Progress | None) -> Course:
    model = _load_base(job)
    if job.config.max_tokens is not None:
        own = model.max_seq_length
        model.max_seq_length = min(job.config.max_tokens, own or job.config.max_tokens)
    course = Course(
        model,
        job.devset,
        metric=job.config.metric,
        interval=job.config.interval(job.steps_per_epoch),
        run=run,
        compute=job.compute,
        progress=progress,
    )
    with kept_memory(), kept_random_state(), plain_attention(model, job.compute):
        fit(
            model,
            job.columns,
            course,
            run,
            config=job.config,
            compute=job.compute,
            batch_size=job.batch_size,
        )
    return course


def _load_base(job: _Job) -> SentenceTransformer:
    # Half-precision weights would lose what a small step changes.
    return load_sentence_transformer(job.base.path, device=job.compute.device).float()


def _judge(run: RunFolder, course: Course, job: _Job) -> Best:
    """Return the best step, which must beat the base model; if none does, the run is over."""
    best = run.best()
    if best is not None and best.value > course.base_value:
        return best
    run.remove()
    raise NoGainError(
        metric=job.config.metric,
        base=course.base_value,
        best=best.value if best is not None else course.base_value,
        n_queries=job.devset.n_queries,
    )


# --- where -----------------------------------------------------------------------------------


def _trained_before(models: ModelStore, name: str, run_id: str) -> ModelVersion | None:
    """Return the version that this very run saved: trained again, it would be the same model.

    So a loop that was killed after its training goes on behind it.
    """
    try:
        versions = models.list(name)
    except StoreNotFoundError:
        return None
    return next((v for v in reversed(versions) if v.manifest.get("run") == run_id), None)


def _check_name(name: str) -> None:
    parsed, number = parse_reference(name)
    if number is not None:
        raise InputError(f"name is {name!r}; the store counts the versions itself: {parsed!r}.")


def _store_uri(store: str | None, pairs: Pairs) -> str:
    if store:
        return store
    if database := pairs.source.get("database"):
        return default_store_uri(str(database))
    from lancedb.embeddings import get_registry

    try:
        return str(get_registry().get_var(STORE_VARIABLE))
    except KeyError:
        pass
    if named := os.environ.get("LANCEDB_FT_STORE"):
        return named
    raise StoreNotFoundError(None, reference="what train() saves")


def _runs_folder(models: ModelStore) -> Path:
    return cache_folder() / "runs" if "://" in models.uri else Path(models.uri) / _RUNS


def _require_packages() -> None:
    for package in ("torch", "sentence_transformers", "datasets", "accelerate"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(
                package.replace("_", "-"), extra="train", purpose="Training"
            ) from error
