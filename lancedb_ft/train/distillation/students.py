"""The kinds of students: how each begins, and how it is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.encoder.bags import BagTokenizer
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.store.quiet import without_progress_bars
from lancedb_ft.train.compute import Compute, plain_attention
from lancedb_ft.train.distillation.config import DistillConfig
from lancedb_ft.train.distillation.layers import (
    append_map,
    imitate,
    keep_layers,
    saved_student,
    side_batches,
)
from lancedb_ft.train.distillation.static import (
    TokenTable,
    bags_of,
    contrast,
    input_vectors,
    regress,
    static_model,
)
from lancedb_ft.train.distillation.texts import StudentTexts
from lancedb_ft.train.runs import RunFolder, load_weights, save_weights
from lancedb_ft.train.token_limits import limit_tokens

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["Measure", "Student", "student_of"]

Floats: TypeAlias = "npt.NDArray[np.float32]"

#: With fewer pairs a batch has too few others to tell a document from.
MIN_PAIRS = 64
#: A static student learns from the others of a batch, so it wants large ones, and enough of them.
#: tldr, 20,958 pairs, five epochs, nDCG@10 on dev: 1,024 a batch .376, 2,048 .378.
STEPS_PER_EPOCH, SMALLEST_BATCH, LARGEST_BATCH = 16, 64, 2_048
#: The linear map of another model is fitted on so many texts.
_FITTED_ON = 4_096
_WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class Measure:
    """Where a student reports to: ``at(step, model)`` measures it, ``done(n)`` counts texts."""

    at: Callable[[int, Any], None]
    done: Callable[[int], None]


class Student(Protocol):
    """One kind of student."""

    config: DistillConfig
    #: What is recorded of it, once it is trained.
    told: dict[str, Any]

    @property
    def n_trained(self) -> int:
        """Texts that are trained on, over all epochs."""
        ...

    def train(self, targets: Floats, run: RunFolder, compute: Compute, measure: Measure) -> None:
        """Save the untrained student in ``student`` of the run, train it, measure every step."""
        ...


def student_of(
    config: DistillConfig,
    teacher: ResolvedModel,
    encoder: Encoder,
    texts: StudentTexts,
    store: str,
) -> Student:
    """Return the student that the config names."""
    if config.student == "static":
        return _Static(_filled_for_static(config, texts), teacher, encoder, texts)
    filled = config.filled(epochs=3, batch_size=64, learning_rate=1e-4)
    return _Network(filled, teacher, encoder, texts, store)


def _uses_pairs(config: DistillConfig, texts: StudentTexts) -> bool:
    return config.pairs and len(texts.pairs) >= MIN_PAIRS


def _filled_for_static(config: DistillConfig, texts: StudentTexts) -> DistillConfig:
    n_rows = len(texts.pairs) if _uses_pairs(config, texts) else len(texts)
    batch_size = min(max(n_rows // STEPS_PER_EPOCH, SMALLEST_BATCH), LARGEST_BATCH)
    return config.filled(epochs=5, batch_size=batch_size, learning_rate=0.05)


@dataclass
class _Static:
    """A table of token vectors, see `lancedb_ft.train.distillation.static`.

    Steps: 0 the teacher's tokens, 1 the regression, then the epochs.
    """

    config: DistillConfig
    teacher: ResolvedModel
    encoder: Encoder
    texts: StudentTexts
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def uses_pairs(self) -> bool:
        return _uses_pairs(self.config, self.texts)

    @property
    def n_trained(self) -> int:
        n_rows = len(self.texts.pairs) if self.uses_pairs else len(self.texts)
        return (self.config.epochs or 0) * n_rows

    def train(self, targets: Floats, run: RunFolder, compute: Compute, measure: Measure) -> None:
        dims = self.config.dims or self.encoder.dims
        targets, matrix = _shortened(targets, dims)
        live = load_sentence_transformer(self.teacher.path, device="cpu")
        model = static_model(live, dims)
        (run.path / "student").mkdir(exist_ok=True)
        with without_progress_bars():
            model.save_pretrained(str(run.path / "student"), create_model_card=False)
        first: Any = model[0]
        texts = [*self.texts.queries, *self.texts.documents]
        bags = bags_of(BagTokenizer(first.tokenizer), texts, first.num_embeddings)
        table = TokenTable(
            model, self.encoder, input_vectors(live), lambda vectors: vectors @ matrix, bags
        )
        measure.at(0, model)
        regress(table, targets)
        measure.at(1, model)
        self.told |= {"n_tokens": first.num_embeddings, "trained_on_pairs": self.uses_pairs}
        contrast(
            table,
            self._rows(),
            None if self.uses_pairs else targets,
            epochs=self.config.epochs or 0,
            batch_size=self.config.batch_size or 0,
            learning_rate=self.config.learning_rate or 0.0,
            seed=self.config.seed,
            after_epoch=lambda epoch: measure.at(1 + epoch, model),
            progress=measure.done,
        )

    def _rows(self) -> npt.NDArray[np.int64]:
        if self.uses_pairs:
            behind_queries = np.array([0, len(self.texts.queries)], np.int64)
            return np.array(self.texts.pairs, np.int64) + behind_queries
        return np.repeat(np.arange(len(self.texts))[:, None], 2, axis=1)


@dataclass
class _Network:
    """A network, see `lancedb_ft.train.distillation.layers`.

    Steps are epochs; 0 is the student before any.
    """

    config: DistillConfig
    teacher: ResolvedModel
    encoder: Encoder
    texts: StudentTexts
    store: str
    told: dict[str, Any] = field(default_factory=dict)

    @property
    def n_trained(self) -> int:
        return (self.config.epochs or 0) * len(self.texts)

    def train(self, targets: Floats, run: RunFolder, compute: Compute, measure: Measure) -> None:
        dims = self.config.dims or self.encoder.dims
        targets, matrix = _shortened(targets, dims)
        folder = run.path / "student"
        made = self._begin(targets, matrix, compute.device)
        folder.mkdir(exist_ok=True)
        saved_student(made, folder)
        model = load_sentence_transformer(folder, device=compute.device).float()
        limit_tokens(model, self.config.max_tokens)
        done = run.last_checkpoint()
        checkpoint = None if done is None else (done, run.checkpoint_path(done))
        if checkpoint is None:
            measure.at(0, model)
        else:
            load_weights(model, checkpoint[1] / _WEIGHTS)
            measure.done(checkpoint[0] * len(self.texts))
        sides = Encoder.of(model)
        n_queries, n_documents = len(self.texts.queries), len(self.texts.documents)
        epochs = imitate(
            model,
            [*self.texts.queries, *self.texts.documents],
            targets,
            lambda epoch: side_batches(
                n_queries,
                n_documents,
                batch_size=self.config.batch_size or 0,
                seed=self.config.seed,
                epoch=epoch,
            ),
            prompts={kind: sides.prompt(kind) for kind in ("query", "document")},
            compute=compute,
            epochs=self.config.epochs or 0,
            learning_rate=self.config.learning_rate or 0.0,
            checkpoint=checkpoint,
            progress=measure.done,
        )
        with plain_attention(model, compute):
            for epoch, write_optimizer in epochs:
                measure.at(epoch, model)
                place = run.checkpoint_path(epoch)
                place.mkdir(exist_ok=True)
                save_weights(model, place / _WEIGHTS)
                write_optimizer(place)
                run.seal(epoch)

    def _begin(self, targets: Floats, matrix: Floats, device: str) -> SentenceTransformer:
        """Return the student before any training."""
        kind, _, number = self.config.student.partition(":")
        if kind == "layers":
            model = load_sentence_transformer(self.teacher.path, device=device).float()
            self.told["kept_layers"] = keep_layers(model, int(number))
            width = Encoder.of(model).dims
            # A teacher that is cut to its first dims is a projection, too.
            cut = np.eye(width, self.encoder.dims, dtype=np.float32) @ matrix
            return append_map(model, None if cut.shape[0] == cut.shape[1] else cut)
        found = resolve_model(self.config.student, store=self.store)
        self.told["student_model"] = {"ref": found.ref, "fingerprint": found.fingerprint}
        model = load_sentence_transformer(found.path, device=device).float()
        return append_map(model, self._fitted_map(Encoder.of(model), targets))

    def _fitted_map(self, encoder: Encoder, targets: Floats) -> Floats:
        """Return the linear map from a model's vectors to the targets, by ridge regression."""
        texts, kinds = self.texts, ("query", "document")
        dice = np.random.default_rng(self.config.seed)
        parts, wanted, first = [], [], 0
        for kind, column in zip(kinds, (texts.queries, texts.documents), strict=True):
            rows = np.sort(dice.permutation(len(column))[: _FITTED_ON // 2])
            made = encoder.encode(
                [column[row] for row in rows], kind="query" if kind == "query" else "document"
            )
            parts.append(np.asarray(made.values, np.float32).reshape(len(rows), encoder.dims))
            wanted.append(targets[first + rows])
            first += len(column)
        own, target = np.concatenate(parts), np.concatenate(wanted)
        gram = own.T @ own + 1e-2 * np.eye(own.shape[1], dtype=np.float32)
        fitted: Floats = np.linalg.solve(gram, own.T @ target).astype(np.float32)
        return fitted


def _shortened(targets: Floats, dims: int) -> tuple[Floats, Floats]:
    """Project targets on the directions that keep most of their dot products; of length 1 again.

    Returns
    -------
    tuple
        The targets, shape ``(texts, dims)``, and the projection, shape ``(teacher dims, dims)``.
    """
    width = targets.shape[1]
    if dims == width:
        return targets, np.eye(width, dtype=np.float32)
    _, directions = np.linalg.eigh((targets.T @ targets).astype(np.float64))
    matrix = directions[:, ::-1][:, :dims].astype(np.float32)
    shorter = targets @ matrix
    return shorter / np.maximum(np.linalg.norm(shorter, axis=1, keepdims=True), 1e-12), matrix
