"""One training of a query adapter: fitted to the pairs, measured on dev after each epoch."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lancedb_ft._version import __version__
from lancedb_ft.evaluate import evaluate, exact_retriever_of
from lancedb_ft.train.picture import training_picture
from lancedb_ft.train.queries.fit import AdapterConfig, Examples, fit_adapter
from lancedb_ft.train.steps import OnEvent
from lancedb_ft.types import DEFAULT_METRICS

if TYPE_CHECKING:
    from lancedb_ft.encoder import Encoder
    from lancedb_ft.store import ResolvedModel
    from lancedb_ft.store.query_adapter import QueryAdapter
    from lancedb_ft.train.queries.documents import FixedDocuments
    from lancedb_ft.types import Evaluation, Pairs, Progress

__all__ = ["AdapterCourse", "AdapterRun", "run_adapter", "tell"]

_Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Best:
    """The best epoch so far."""

    epoch: int
    value: float
    adapter: QueryAdapter


@dataclass
class AdapterCourse:
    """What was measured on the way."""

    base: Evaluation
    history: dict[int, float] = field(default_factory=dict)
    best: Best | None = None
    tuned: Evaluation | None = None
    steps: int = 0
    seconds: float = 0.0
    losses: dict[int, float] = field(default_factory=dict)
    #: The deciding metric with its interval by step, for the picture.
    curve: dict[int, tuple[float, tuple[float, float]]] = field(default_factory=dict)

    def picture(self, name: str, metric: str) -> bytes:
        """Draw the course of the run, the step of the best epoch marked."""
        per_epoch = self.steps // max(self.history)
        return training_picture(
            title=name,
            losses=self.losses,
            dev=self.curve,
            metric=metric,
            best_step=self.best.epoch * per_epoch if self.best else 0,
        )


@dataclass(frozen=True)
class AdapterRun:
    """Everything a run needs, checked."""

    config: AdapterConfig
    found: ResolvedModel
    encoder: Encoder
    pairs: Pairs
    dev: Pairs
    documents: FixedDocuments
    split: Mapping[str, Any]

    def identity(self, name: str) -> dict[str, Any]:
        """Everything that decides the result."""
        digest = hashlib.sha256()
        for part in self.documents.texts.items():
            digest.update("\x1f".join(part).encode("utf-8", "surrogatepass") + b"\x1e")
        return {
            "name": name,
            "base": self.found.fingerprint,
            "data": self.pairs.fingerprint,
            "dev": self.dev.fingerprint,
            "corpus": digest.hexdigest(),
            "query_adapter": self.config.to_dict(),
            "device": self.encoder.device,
            "precision": self.encoder.precision,
            "packages": {"torch": version("torch"), "lancedb-ft": __version__},
        }

    def manifest(self, course: AdapterCourse, store: str) -> dict[str, Any]:
        """Tell where the version comes from; the store adds what only it knows."""
        source = self.pairs.source
        metrics = {name: e.to_dict() for name, e in course.base.metrics.items()}
        tuned = course.tuned.to_dict() if course.tuned is not None else None
        return {
            "base": {"ref": self.found.ref, "fingerprint": self.found.fingerprint},
            "parent": self.found.ref if self.found.store == store else None,
            "table": {
                "database": source.get("database"),
                **source.get("tables", {}).get("docs", {}),
            },
            "data": {
                "fingerprint": self.pairs.fingerprint,
                "n_pairs": len(self.pairs),
                "n_queries": len(self.pairs.table["query"].unique()),
                "n_documents": len(self.pairs.table["document"].unique()),
                "source": dict(source),
            },
            "split": dict(self.split),
            "query_adapter": course.best.adapter.to_config() if course.best else None,
            "training": {
                "query_only": True,
                **self.config.to_dict(),
                "steps": course.steps,
                "best_epoch": course.best.epoch if course.best else None,
                "n_documents": len(self.documents.texts),
                "n_vectors_read": self.documents.n_read,
                "precision": self.encoder.precision,
                "seconds": round(course.seconds, 1),
            },
            "seed": self.config.seed,
            "dev": {
                "fingerprint": self.dev.fingerprint,
                "n_queries": course.base.n,
                "n_documents": len(self.documents.texts),
                "metric": self.config.metric,
                "history": {str(epoch): value for epoch, value in course.history.items()},
            },
            "metrics": {"dev": {"n": course.base.n, "base": metrics, "tuned": tuned}},
        }


def run_adapter(
    run: AdapterRun, progress: Progress | None, on_event: OnEvent | None
) -> AdapterCourse:
    """Fit, measure after each epoch, and keep the best one that beats the base model."""
    config, started = run.config, time.monotonic()
    plain = run.encoder.with_dims(run.encoder.width).with_query_adapter(
        None, ref=run.found.ref, fingerprint=run.found.document_fingerprint
    )
    asked = {text: row for row, text in enumerate(dict.fromkeys(_texts(run.pairs)))}
    examples = _examples(run, _encoded(plain, list(asked)), asked)
    scale = _Scale(run, plain)
    course = AdapterCourse(scale.measure(run.encoder.query_adapter, full=True))
    course.history[0] = course.base.metrics[config.metric].mean
    per_epoch = -(-len(examples.pairs) // config.batch_size)
    course.steps = config.epochs * per_epoch
    tell(on_event, event="started", steps=course.steps, query_only=True)
    course.curve[0] = _drawn(course.base, config.metric)
    _tell_evaluation(on_event, course, 0, config.metric, course.base)

    def after_step(step: int, loss: float, rate: float) -> None:
        course.losses[step] = loss
        if progress is not None:
            progress(step, course.steps)
        tell(on_event, event="loss", step=step, steps=course.steps, loss=loss, learning_rate=rate)

    def after_epoch(epoch: int, adapter: QueryAdapter) -> None:
        measured = scale.measure(adapter)
        value = course.history[epoch] = measured.metrics[config.metric].mean
        course.curve[epoch * per_epoch] = _drawn(measured, config.metric)
        _tell_evaluation(on_event, course, epoch * per_epoch, config.metric, measured)
        if value > (course.best.value if course.best else course.history[0]):
            course.best = Best(epoch, value, adapter)

    fit_adapter(examples, config, after_step=after_step, after_epoch=after_epoch)
    if course.best is not None:
        course.tuned = scale.measure(course.best.adapter, full=True)
    course.seconds = time.monotonic() - started
    return course


def _drawn(measured: Evaluation, metric: str) -> tuple[float, tuple[float, float]]:
    figure = measured.metrics[metric]
    return figure.mean, (figure.ci95[0], figure.ci95[1])


def _texts(pairs: Pairs) -> list[str]:
    found: list[str] = pairs.table["query"].to_pylist()
    return found


def _encoded(plain: Encoder, texts: list[str]) -> _Floats:
    matrix: _Floats = plain.encode(texts, kind="query").flatten().to_numpy()
    return matrix.reshape(len(texts), plain.dims)


def _examples(run: AdapterRun, queries: _Floats, asked: Mapping[str, int]) -> Examples:
    """Return numbers for texts; documents of one text are one, so that none is its own negative."""
    numbers = run.documents.numbers(run.pairs.table["document"].to_pylist())
    pairs = {
        (asked[text], number): None for text, number in zip(_texts(run.pairs), numbers, strict=True)
    }
    return Examples(queries, run.documents.distinct(), np.array(list(pairs), np.int64))


class _Scale:
    """Measures an adapter on dev, by exact search in the whole corpus."""

    def __init__(self, run: AdapterRun, plain: Encoder) -> None:
        self._run = run
        self._plain = plain
        self._dev = run.documents.named(run.dev)
        self._dims = run.documents.vectors.shape[1]
        texts = list(run.dev.queries.values())
        vectors = _encoded(plain, texts)
        self._vectors = dict(zip(texts, vectors, strict=True))
        self._adapter: QueryAdapter | None = None
        self._retriever = exact_retriever_of(run.documents.ids, run.documents.vectors, self._encode)

    def measure(self, adapter: QueryAdapter | None, *, full: bool = False) -> Evaluation:
        """Return the deciding metric; with ``full``, all that reports show."""
        self._adapter = adapter
        decisive = self._run.config.metric
        metrics = list(dict.fromkeys((decisive, *DEFAULT_METRICS))) if full else [decisive]
        return evaluate(self._retriever, self._dev, metrics=metrics)

    def _encode(self, texts: list[str]) -> _Floats:
        import torch

        from lancedb_ft.encoder.query_adapter import adapted, adapter_tensors

        vectors = torch.tensor(np.stack([self._vectors[text] for text in texts]))
        if self._adapter is not None:
            vectors = adapted(vectors, adapter_tensors(self._adapter, device="cpu"))
        found: _Floats = vectors[:, : self._dims].numpy()
        return found


def tell(on_event: OnEvent | None, **event: Any) -> None:
    """Call the handler of events, if there is one."""
    if on_event is not None:
        on_event(event)


def _tell_evaluation(
    on_event: OnEvent | None, course: AdapterCourse, step: int, metric: str, measured: Evaluation
) -> None:
    tell(
        on_event,
        event="evaluation",
        step=step,
        steps=course.steps,
        metric=metric,
        value=measured.metrics[metric].mean,
        best=max(course.history.values()),
        dev=measured.to_dict(),
        probe=None,
    )
