"""`train_reranker`: from a query's right and wrong texts to a reranker that helps its search."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from lancedb_ft._version import __version__
from lancedb_ft.data.shared_texts import check_disjoint
from lancedb_ft.errors import InputError, MissingExtraError, NoGainError
from lancedb_ft.memory import kept_memory
from lancedb_ft.reranking import CrossEncoderModel, load_cross_encoder, new_cross_encoder
from lancedb_ft.store import ModelStore, ResolvedModel, resolve_model
from lancedb_ft.store.trust import inspect_folder
from lancedb_ft.train.checks import require_dev
from lancedb_ft.train.compute import Compute, choose_compute
from lancedb_ft.train.dev import hold_out_of
from lancedb_ft.train.picture import dev_curve, require_matplotlib, training_picture
from lancedb_ft.train.places import check_name, runs_folder, store_uri, trained_before
from lancedb_ft.train.rerankers.config import RerankerConfig
from lancedb_ft.train.rerankers.data import LabelledTexts, check_contrast_of, labelled_texts
from lancedb_ft.train.rerankers.dev import DEPTH, DevLists, dev_lists, dev_pairs
from lancedb_ft.train.rerankers.fit import RerankerCourse, fit_reranker
from lancedb_ft.train.rerankers.losses import require_reranker_loss
from lancedb_ft.train.rerankers.search import FirstSearch
from lancedb_ft.train.runs import Best, RunFolder, identity_hash, open_run
from lancedb_ft.train.steps import OnEvent
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress, Retriever, Run

__all__ = ["train_reranker"]

_PACKAGES = ("torch", "transformers")


def train_reranker(
    base: str | ModelVersion | ResolvedModel,
    data: Pairs | TrainingSet,
    *,
    dev: Pairs | TrainingSet | None = None,
    name: str,
    store: str | None = None,
    candidates: Run | Retriever | None = None,
    first_stage: str | ModelVersion | None = None,
    documents: Mapping[str, str] | None = None,
    loss: str = "bce",
    epochs: int = 1,
    batch_size: int = 16,
    learning_rate: float | None = None,
    max_tokens: int = 256,
    n_negatives: int = 4,
    seed: int = 0,
    eval_steps: int | None = None,
    metric: str = "ndcg@10",
    device: str | None = None,
    on_event: OnEvent | None = None,
    progress: Progress | None = None,
) -> ModelVersion:
    """Train a cross-encoder, and save the best checkpoint if it beats the order of the search.

    Dev figures are those of reranking the best 20 that a first search finds for each dev query.
    The first search itself is what must be beaten, by more than chance (the 95 % interval of the
    paired difference is above zero): an order that is no better than the one there was costs time
    and gives nothing.

    A run that was killed goes on from its last checkpoint when the same call is made again, and
    ends with the same model; a run that was finished is not repeated, its version is returned.

    Parameters
    ----------
    base
        A cross-encoder; or an embedding model, whose network then gets a new head.
    data
        Pairs, or a training set of the kind ``negatives`` (best: see `mine_negatives`),
        ``triplets``, ``ranking``, ``scored`` or ``pairs``. Queries without negatives get some: half
        of them from the best 30 of the training documents by the first search's model, the rest by
        chance.
    dev
        Queries with documents that answer them, not trained on; of scored pairs, those with a
        score above 0.5. None: a tenth is held out.
    name
        Of the model in the store; the store counts the versions.
    store
        URI of the store. None: that of the database the data is from, else the variable
        ``ft_store`` of LanceDB's registry, else ``LANCEDB_FT_STORE``.
    candidates
        The first search: a `Retriever` such as ``retriever(table)``, or its finished run on the dev
        queries, with their ids. None: exact search in ``documents`` with the model ``first_stage``.
    first_stage
        The embedding model of the first search; None for ``base``, if that is one.
    documents
        ``{doc_id: text}`` of what is searched, of which 2,000 are taken where ``first_stage``
        searches. None: the training documents. Those of ``dev`` are always there; which of these
        they are is told by their texts.
    loss, epochs, batch_size, learning_rate, max_tokens, n_negatives, seed, eval_steps, metric
        See `RerankerConfig`.
    device
        ``cpu``, ``cuda``, ``mps``; None for the best there is.
    on_event
        Called with plain JSON: ``started``, ``loss``, ``evaluation``, ``saved``. An exception it
        raises ends the run, and its checkpoint stays.
    progress
        Called as ``progress(steps done, steps)``.

    Returns
    -------
    ModelVersion
        Of the kind ``cross-encoder``, for `FineTunedReranker`. Its manifest tells the dev figures
        of the first search (``base``), the best and the last step, with intervals, and the gain.

    Raises
    ------
    NoGainError
        The best checkpoint does not beat the order of the first search on dev, or by no more than
        chance: with few dev queries only a large gain is told from it. Nothing was saved.
    LeakError
        Dev shares a query or a document with the training data.
    InputError
        Nothing can be learned from the data, or an argument cannot be used.
    StoreNotFoundError
        No store was named and none follows from the data.
    TrainingError
        The training diverged, or another process runs the same training now.
    MissingExtraError
        torch or transformers is missing.
    """
    config = RerankerConfig(
        loss=loss,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_tokens=max_tokens,
        n_negatives=n_negatives,
        seed=seed,
        eval_steps=eval_steps,
        metric=metric,
    )
    _require_packages()
    check_name(name)
    _check_data(data)
    models = ModelStore(store_uri(store, data.source))
    search = FirstSearch(candidates, first_stage, documents)
    job = _prepare(base, data, dev, search, config, models.uri, choose_compute(device))
    run_id = identity_hash(job.identity(name))
    if (saved := trained_before(models, name, run_id)) is not None:
        return saved
    started = time.monotonic()
    with open_run(runs_folder(models) / f"{name}-{run_id}", job.identity(name)) as run:
        course = _fit(job, run, progress, on_event)
        best = _judge(run, job, course)
        manifest = job.manifest(course, best, models.uri, seconds=time.monotonic() - started)
        picture = _picture(name, job, course, best)
        saved = _save(job, run, models, name, {**manifest, "run": run_id}, picture)
        course.tell("saved", ref=saved.ref)
        run.remove()
        return saved


@dataclass(frozen=True)
class _Job:
    """Everything a run needs, checked."""

    base: ResolvedModel
    data: Pairs | TrainingSet
    lists: list[LabelledTexts]
    dev: DevLists
    first_stage: Mapping[str, Any]
    split: Mapping[str, Any]
    config: RerankerConfig
    compute: Compute

    def load(self) -> CrossEncoderModel:
        """Load the base model, with a new head if it is an embedder."""
        if self.base.kind == "cross-encoder":
            return load_cross_encoder(self.base.path, device=self.compute.device)
        return new_cross_encoder(self.base.path, seed=self.config.seed, device=self.compute.device)

    def identity(self, name: str) -> dict[str, Any]:
        """Everything that decides the result; the number of threads only rounds it."""
        return {
            "name": name,
            "reranker": True,
            "base": self.base.fingerprint,
            "data": self.data.fingerprint,
            "negatives": hash_of(self.lists),
            "dev": self.dev.fingerprint,
            "training": self.config.to_dict(),
            "device": self.compute.device,
            "precision": self.compute.precision,
            "packages": {**{p: version(p) for p in _PACKAGES}, "lancedb-ft": __version__},
        }

    def manifest(
        self, course: RerankerCourse, best: Best, store: str, *, seconds: float
    ) -> dict[str, Any]:
        """Tell where the model comes from; the store adds what only it knows."""
        import torch

        source = self.data.source
        metric, last = self.config.metric, max(course.figures)
        history = {str(s): f[metric]["mean"] for s, f in sorted(course.figures.items())}
        return {
            "base": {
                "ref": self.base.ref,
                "fingerprint": self.base.fingerprint,
                "kind": self.base.kind,
            },
            "parent": self.base.ref if self.base.store == store else None,
            "table": {
                "database": source.get("database"),
                **source.get("tables", {}).get("docs", {}),
            },
            "data": {
                "fingerprint": self.data.fingerprint,
                "kind": "pairs" if isinstance(self.data, Pairs) else self.data.kind,
                "n_queries": len(self.lists),
                "n_pairs": sum(len(one.texts) for one in self.lists),
                "source": dict(source),
            },
            "split": dict(self.split),
            "training": {
                **self.config.to_dict(),
                "steps": last,
                "best_step": best.step,
                "device": self.compute.device,
                "precision": self.compute.precision,
                "torch_threads": torch.get_num_threads(),
                "seconds": round(seconds, 1),
            },
            "seed": self.config.seed,
            "dev": {
                "fingerprint": self.dev.fingerprint,
                "n_queries": self.dev.n_queries,
                "n_candidates": DEPTH,
                "first_stage": dict(self.first_stage),
                "metric": metric,
                "history": history,
            },
            "metrics": {
                "dev": {
                    "n": self.dev.n_queries,
                    "base": self.dev.first_stage().to_dict(),
                    "untrained": course.figures[0],
                    "tuned": course.figures[best.step],
                    "final": course.figures[last],
                }
            },
        }


def hash_of(lists: list[LabelledTexts]) -> str:
    """Return a hash of what is learned from, negatives and their order included."""
    return identity_hash({"lists": [[one.query, *one.texts, *one.labels] for one in lists]})


def _check_data(data: Any) -> None:
    if not isinstance(data, (Pairs, TrainingSet)):
        raise InputError(
            f"data is a {type(data).__name__}; a reranker is trained on one Pairs or TrainingSet. "
            "Give that itself, and put several sets of one kind into one first."
        )


def _prepare(
    base: str | ModelVersion | ResolvedModel,
    data: Pairs | TrainingSet,
    dev: Pairs | TrainingSet | None,
    search: FirstSearch,
    config: RerankerConfig,
    store: str,
    compute: Compute,
) -> _Job:
    how: Mapping[str, Any] = {}
    if dev is None:
        held = hold_out_of(data, seed=config.seed)
        data, dev, how = held.data, held.dev, {"held_out_of_train": True, **held.info}
    require_dev(dev)
    check_disjoint(data, dev)
    pairs = dev_pairs(dev)
    found = resolve_model(base, store=store, kind=None)
    encoder = search.encoder(found, store, compute)
    lists = labelled_texts(data, n_negatives=config.n_negatives, seed=config.seed, encoder=encoder)
    lists = check_contrast_of(lists, require_reranker_loss(config.loss))
    searched = search.over(lists, pairs, encoder, config.seed)
    held_out = dev_lists(
        searched.dev,
        searched.search,
        documents=searched.documents,
        n_lists=len(lists),
        seed=config.seed,
        metric=config.metric,
    )
    config = config.for_width(_width(found))
    return _Job(found, data, lists, held_out, search.told(encoder), how, config, compute)


def _width(model: ResolvedModel) -> int:
    configs = inspect_folder(model.path).configs
    return int(configs.get("config.json", {}).get("hidden_size") or model.dims or 10_000)


def _fit(
    job: _Job, run: RunFolder, progress: Progress | None, on_event: OnEvent | None
) -> RerankerCourse:
    model = job.load()
    course = RerankerCourse(
        model,
        job.dev,
        config=job.config,
        run=run,
        compute=job.compute,
        interval=job.config.interval(len(job.lists)),
        progress=progress,
        on_event=on_event,
    )
    with kept_memory():
        fit_reranker(model, job.lists, course, run, config=job.config, compute=job.compute)
    return course


def _judge(run: RunFolder, job: _Job, course: RerankerCourse) -> Best:
    """Return the best step if it gains on the first search by more than chance; else end the run.

    Reading every candidate costs each query many times what finding it did. So the interval of the
    gain has to be above zero, where an embedder, which costs no more than the one it follows, is
    kept for a higher mean.
    """
    metric = job.config.metric
    base = job.dev.first_stage().metrics[metric].mean
    best = run.best() or Best(0, base)  # without a step, the model before training
    low, high = course.figures[best.step][metric]["gain"]["ci95"]
    if best.step and low > 0:
        return best
    run.remove()
    raise NoGainError(
        metric=metric,
        base=base,
        best=best.value,
        n_queries=job.dev.n_queries,
        than="the order of the first search",
        ci95=(low, high),
    )


def _picture(name: str, job: _Job, course: RerankerCourse, best: Best) -> bytes:
    metric = job.config.metric
    return training_picture(
        title=name,
        losses=course.losses,
        dev=dev_curve(course.figures, metric),
        metric=metric,
        best_step=best.step,
        levels={"first search": job.dev.first_stage().metrics[metric].mean},
    )


def _save(
    job: _Job,
    run: RunFolder,
    models: ModelStore,
    name: str,
    manifest: Mapping[str, Any],
    picture: bytes,
) -> ModelVersion:
    model = job.load()
    run.load_best(model.network)
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder)
        return models.save(folder, name=name, manifest=manifest, picture=picture)


def _require_packages() -> None:
    for package in _PACKAGES:
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(package, extra="train", purpose="Training") from error
    require_matplotlib()
