"""`distill`: a smaller or faster student that gives its teacher's vectors."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft._version import __version__
from lancedb_ft.data.texts import stable_key
from lancedb_ft.encoder import Encoder, get_encoder, load_sentence_transformer
from lancedb_ft.encoder.bags import is_static
from lancedb_ft.encoder.loading import require_torch
from lancedb_ft.encoder.precision import running
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import evaluate, exact_retriever
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore, ResolvedModel, resolve_model
from lancedb_ft.train.checks import require_dev
from lancedb_ft.train.compute import choose_compute, kept_random_state
from lancedb_ft.train.corpus import corpus_around
from lancedb_ft.train.dev import retrieval_pairs
from lancedb_ft.train.devset import MAX_DISTRACTORS, MAX_QUERIES, check_leaks, choose_queries
from lancedb_ft.train.distillation.config import DistillConfig
from lancedb_ft.train.distillation.figures import TIMED_STUDENT, share_kept, texts_per_s
from lancedb_ft.train.distillation.students import Measure, student_of
from lancedb_ft.train.distillation.texts import DistillData, StudentTexts, read_texts
from lancedb_ft.train.picture import dev_curve, require_matplotlib, training_picture
from lancedb_ft.train.places import check_name, runs_folder, store_uri, trained_before
from lancedb_ft.train.queries.under import refuse_query_only
from lancedb_ft.train.runs import Best, RunFolder, identity_hash, open_run
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import (
    DEFAULT_METRICS,
    Evaluation,
    ModelVersion,
    Pairs,
    Progress,
)

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["distill"]

Floats: TypeAlias = "npt.NDArray[np.float32]"

_PACKAGES = ("torch", "transformers", "sentence-transformers")
#: Texts the teacher embeds between two saves: what a kill costs.
_BLOCK = 8_192


def distill(
    teacher: str | ModelVersion | ResolvedModel,
    data: DistillData,
    *,
    student: str = "static",
    name: str,
    dev: Pairs | TrainingSet,
    store: str | None = None,
    dims: int | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    pairs: bool = True,
    max_texts: int = 200_000,
    max_tokens: int | None = 128,
    metric: str = "ndcg@10",
    seed: int = 0,
    text_column: str | None = None,
    device: str | None = None,
    run_dir: str | Path | None = None,
    progress: Progress | None = None,
) -> ModelVersion:
    """Train a student on its teacher's vectors, and save the epoch that is best on dev.

    The student's vectors have length 1. Its manifest tells how much of the teacher's quality it
    keeps, and how much faster it is, both measured at the end of this run. What is saved may be
    worse than the teacher, as a rule it is: look at ``share_kept``, or re-index with a gate.

    A run that was killed goes on when the same call is made again: with the vectors the teacher
    had given, and a network student from its last epoch. One that was finished is not repeated.

    Parameters
    ----------
    teacher
        A reference, as for `train`.
    data
        What it is to be good at: a LanceDB table (its text column), `Pairs` or a `TrainingSet`
        (queries and documents), ``{id: text}``, texts, or a list of several. Give both the table
        and the training pairs: the texts need no labels, so the documents that are searched may,
        and should, be among them. Queries of ``dev`` are left out wherever they stand; those of
        your test set must not be in it.
    student
        ``static``: one vector a token and no network, for serving on CPUs; see
        `lancedb_ft.train.distillation.static`. ``layers:N``: the teacher with N of its layers. Any
        other reference: that model, with a linear map to the teacher's dims behind it.
    name
        Of the student in the store.
    dev
        Pairs to choose the epoch by, and to measure both models on. At most 1,000 queries are
        asked, in a corpus of their documents and 2,000 others.
    store
        URI of the store; None: that of the database the data is from.
    dims
        Shorter vectors: the teacher's are projected on the directions that keep most of their dot
        products (the leading eigenvectors of their second moments).
    epochs, batch_size, learning_rate, pairs, max_texts, max_tokens, metric, seed
        See `DistillConfig`.
    text_column
        Of a table.
    device
        Where the teacher and a network student run; a static student is trained on the CPU.
    run_dir
        Folder of the run, removed when it is over; None: one in the store.
    progress
        Called as ``progress(done, total)``: texts embedded, then texts trained on.

    Raises
    ------
    InputError
        An argument cannot be used, or there are no texts.
    LeakError
        Dev shares a document with the pairs of the data.
    ModelNotFoundError, UnsafeModelError, StoreNotFoundError
        Teacher, student or store are not there, or cannot be used.
    TrainingError
        The student diverged, or another process runs the same distillation now.
    """
    config = DistillConfig(
        student=student,
        dims=dims,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        pairs=pairs,
        max_texts=max_texts,
        max_tokens=max_tokens,
        metric=metric,
        seed=seed,
    )
    require_torch()
    require_matplotlib()
    check_name(name)
    require_dev(dev)
    asked = dev if isinstance(dev, Pairs) else retrieval_pairs(dev)
    texts = read_texts(
        data, dev=asked, text_column=text_column, max_texts=config.max_texts, seed=seed
    )
    if texts.pairs:
        check_leaks(texts.labelled, asked)
    models = ModelStore(store_uri(store, texts.source))
    found = resolve_model(teacher, store=models.uri)
    encoder = get_encoder(found, device=device)
    if config.dims is not None and config.dims > encoder.dims:
        raise InputError(f"dims is {config.dims}, and the teacher's vectors have {encoder.dims}.")
    job = _Job(found, encoder, texts, _DevSet.of(asked, texts, config), config)
    identity = job.identity(name, models.uri)
    run_id = identity_hash(identity)
    if (done := trained_before(models, name, run_id)) is not None:
        return done
    folder = Path(run_dir) if run_dir else runs_folder(models) / f"{name}-{run_id}"
    with open_run(folder, identity) as run, kept_memory(), kept_random_state():
        manifest = job.run(run, models, progress)
        manifest["run"] = run_id
        model = load_sentence_transformer(run.path / "student", device="cpu").float()
        run.load_best(model)
        picture = _picture(name, run, manifest)
        saved = models.save(model, name=name, manifest=manifest, picture=picture)
        run.remove()
        return saved


@dataclass(frozen=True)
class _DevSet:
    """Dev pairs and the corpus they are looked up in."""

    pairs: Pairs
    corpus: Mapping[str, str]

    @classmethod
    def of(cls, dev: Pairs, texts: StudentTexts, config: DistillConfig) -> _DevSet:
        """Choose queries by seed, and documents around theirs."""
        chosen = choose_queries(dev, MAX_QUERIES, config.seed)
        others = {text: text for text in texts.documents}
        corpus = corpus_around(
            dev, others, n_others=MAX_DISTRACTORS, seed=config.seed, chosen=chosen
        )
        return cls(chosen, corpus)

    def measure(self, encoder: Encoder, metric: str) -> Evaluation:
        """Measure a model as it is now."""
        metrics = list(dict.fromkeys((metric, *DEFAULT_METRICS)))
        return evaluate(exact_retriever(encoder, self.corpus), self.pairs, metrics=metrics)


@dataclass(frozen=True)
class _Job:
    """Everything a run needs, checked."""

    teacher: ResolvedModel
    encoder: Encoder
    texts: StudentTexts
    dev: _DevSet
    config: DistillConfig

    def identity(self, name: str, store: str) -> dict[str, Any]:
        """Everything that decides the result."""
        named = self.config.student
        own = named == "static" or named.startswith("layers:")
        return {
            "name": name,
            "teacher": self.teacher.fingerprint,
            "student": named if own else self._student(store).fingerprint,
            "data": self.texts.fingerprint,
            "dev": self.dev.pairs.fingerprint,
            "distillation": asdict(self.config),
            "device": self.encoder.device,
            "precision": self.encoder.precision,
            "packages": {**{p: version(p) for p in _PACKAGES}, "lancedb-ft": __version__},
        }

    def _student(self, store: str) -> ResolvedModel:
        found = resolve_model(self.config.student, store=store)
        refuse_query_only(found, "student")
        return found

    def run(self, run: RunFolder, models: ModelStore, progress: Progress | None) -> dict[str, Any]:
        """Train the student, its best weights in the run's folder; return the manifest."""
        started = time.monotonic()
        student = student_of(self.config, self.teacher, self.encoder, self.texts, models.uri)
        teacher = self.dev.measure(self.encoder, self.config.metric)
        if not any(teacher.per_query[self.config.metric].values()):
            raise InputError(
                f"The teacher's {self.config.metric} is 0 on all {teacher.n} dev queries: there is "
                "nothing that a student could keep. Give dev queries whose documents the teacher "
                "finds, or another teacher."
            )
        told = _Told(progress, len(self.texts) + student.n_trained)
        targets = _teacher_vectors(self.encoder, self.texts, run.path, told)
        figures = run.read_figures()

        def measure(step: int, model: Any) -> None:
            found = self.dev.measure(Encoder.of(model), self.config.metric)
            value = found.metrics[self.config.metric].mean
            best = run.best()
            if best is None or value > best.value:
                run.keep_best(model, Best(step, value))
            figures[step] = found.to_dict()
            run.write_figures(figures)

        student.train(targets, run, choose_compute(self.encoder.device), Measure(measure, told.add))
        model = load_sentence_transformer(run.path / "student", device="cpu").float()
        run.load_best(model)
        kept = self.dev.measure(Encoder.of(model), self.config.metric)
        rates = texts_per_s(
            self.encoder, self._as_served(model), _sample(self.texts, self.config.seed)
        )
        told.finish()
        share = share_kept(teacher, kept, self.config.metric)
        history = {str(s): f[self.config.metric]["mean"] for s, f in sorted(figures.items())}
        return {
            **self._lineage(models.uri),
            "training": {
                "method": "distillation",
                **asdict(student.config),
                **student.told,
                "dims": model.get_embedding_dimension(),
                "best_step": (run.best() or Best(0, 0.0)).step,
                "device": self.encoder.device,
                "precision": self.encoder.precision,
                # Once more under "distillation", with the intervals; the card shows these.
                "share_kept": round(share.mean, 4),
                "texts_per_s": rates["student"],
                "texts_per_s_of_teacher": rates["teacher"],
                "seconds": round(time.monotonic() - started, 1),
            },
            "seed": self.config.seed,
            "dev": {
                "n_queries": kept.n,
                "n_documents": len(self.dev.corpus),
                "metric": self.config.metric,
                "history": history,
            },
            "metrics": {
                "dev": {"n": kept.n, "base": teacher.to_dict(), "tuned": kept.to_dict()},
            },
            "distillation": {
                "student": self.config.student,
                "share_kept": share.to_dict(),
                "texts_per_s": rates,
            },
        }

    def _as_served(self, student: SentenceTransformer) -> SentenceTransformer:
        """Return a network student as its teacher runs: device, and precision (in place)."""
        if is_static(student):  # gains by neither
            return student
        return running(student.to(self.encoder.device), self.encoder.precision, "torch")

    def _lineage(self, uri: str) -> dict[str, Any]:
        source = self.texts.source
        return {
            "base": {"ref": self.teacher.ref, "fingerprint": self.teacher.fingerprint},
            "teacher": {"ref": self.teacher.ref, "fingerprint": self.teacher.fingerprint},
            "parent": self.teacher.ref if self.teacher.store == uri else None,
            "table": {
                "database": source.get("database"),
                **source.get("tables", {}).get("docs", {}),
            },
            "data": {
                "fingerprint": self.texts.fingerprint,
                "n_queries": len(self.texts.queries),
                "n_documents": len(self.texts.documents),
                "n_pairs": len(self.texts.pairs),
                "n_dev_queries_left_out": self.texts.n_left_out,
                "source": dict(source),
            },
        }


class _Told:
    """Progress over several stages."""

    def __init__(self, progress: Progress | None, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0

    def add(self, n_texts: int) -> None:
        """Report so many more."""
        self._done += n_texts
        if self._progress is not None:
            self._progress(min(self._done, self._total), self._total)

    def finish(self) -> None:
        """Report the end."""
        self.add(self._total - self._done)


def _teacher_vectors(encoder: Encoder, texts: StudentTexts, folder: Path, told: _Told) -> Floats:
    """Return the teacher's vectors, queries first, of length 1; kept in the folder as they come."""
    parts = [np.empty((0, encoder.dims), np.float32)]
    for kind, column in (("query", texts.queries), ("document", texts.documents)):
        for start in range(0, len(column), _BLOCK):
            block = column[start : start + _BLOCK]
            file = folder / f"{kind}-{start}.npy"
            if not file.exists():
                made = encoder.encode(block, kind="query" if kind == "query" else "document")
                writing = file.with_suffix(".writing")
                with writing.open("wb") as handle:
                    np.save(handle, np.asarray(made.values).reshape(len(block), -1))
                writing.replace(file)
            parts.append(np.load(file))
            told.add(len(block))
    vectors = np.concatenate(parts)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    scaled: Floats = vectors / np.maximum(norms, 1e-12)
    return scaled


def _picture(name: str, run: RunFolder, manifest: Mapping[str, Any]) -> bytes:
    """Draw the student's dev figures by step, and its teacher's."""
    metric = manifest["dev"]["metric"]
    return training_picture(
        title=name,
        losses={},
        dev=dev_curve(run.read_figures(), metric),
        metric=metric,
        best_step=manifest["training"]["best_step"],
        levels={"teacher": manifest["metrics"]["dev"]["base"][metric]["mean"]},
    )


def _sample(texts: StudentTexts, seed: int) -> list[str]:
    column = texts.documents or texts.queries
    return sorted(column, key=lambda text: stable_key(seed, text))[:TIMED_STUDENT]
