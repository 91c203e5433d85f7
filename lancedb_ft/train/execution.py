"""One run, carried out: the model before it, its steps, and what is saved of it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import NoGainError, RegressionError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.train.compute import kept_random_state, plain_attention
from lancedb_ft.train.course import Course
from lancedb_ft.train.distributed import Processes
from lancedb_ft.train.fit import Fitting, fit
from lancedb_ft.train.job import Job
from lancedb_ft.train.lora import add_lora, merge_lora
from lancedb_ft.train.outcome import course_picture, judge, settle
from lancedb_ft.train.places import runs_folder, trained_before
from lancedb_ft.train.probe import Watch
from lancedb_ft.train.prompts import set_pooling, set_prompts
from lancedb_ft.train.recorded import rows_document
from lancedb_ft.train.runs import RunFolder, identity_hash, open_run
from lancedb_ft.train.shorter import cut_to
from lancedb_ft.train.steps import OnEvent
from lancedb_ft.train.token_limits import limit_tokens
from lancedb_ft.types import ModelVersion, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["carry_out"]

_LOGS = ".logs"


def carry_out(
    job: Job,
    models: ModelStore,
    *,
    name: str,
    folder: Path | None = None,
    report_to: Sequence[str] = (),
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> ModelVersion:
    """Run a job from its last checkpoint to a saved version; one that is done is not repeated.

    Parameters
    ----------
    folder
        For checkpoints; None: one for exactly this job, see `runs_folder`.

    Raises
    ------
    NoGainError, RegressionError
        Nothing is to be saved.
    TrainingError
        The training diverged, or another process runs it now.
    """
    identity = job.identity(name)
    run_id = identity_hash(identity)
    saved = job.processes.first(lambda: trained_before(models, name, run_id))
    if saved is None:
        folder = folder or runs_folder(models) / f"{name}-{run_id}"
        with _opened(folder, identity, job.processes) as run:
            began = time.monotonic()
            job = job.with_negatives(folder)
            log_dir = _log_folder(models) / f"{name}-{run_id}"
            course = _stepped(job, run, progress, on_event, report_to=report_to, log_dir=log_dir)
            saved = job.processes.first(
                lambda: _saved(job, course, run, models, name=name, run_id=run_id, began=began)
            )
    if on_event is not None and job.processes.is_first:
        on_event({"event": "saved", "ref": saved.ref, "store": saved.store})
    return saved


@contextlib.contextmanager
def _opened(folder: Path, identity: Mapping[str, Any], processes: Processes) -> Iterator[RunFolder]:
    """Have the first process hold the folder of the run, and all of them use it."""
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(open_run(folder, identity))

        processes.first(claim)
        yield RunFolder(folder)


def _stepped(
    job: Job,
    run: RunFolder,
    progress: Progress | None,
    on_event: OnEvent | None,
    *,
    report_to: Sequence[str],
    log_dir: Path,
) -> Course:
    """Train from the base, or from the run's last checkpoint; return what was measured."""
    model = _base_model(job)
    limit_tokens(model, job.config.max_tokens)
    course = Course(
        model,
        job.devset,
        metric=job.metric,
        interval=job.config.interval(job.steps_per_epoch),
        run=run,
        compute=job.compute,
        watch=_watch(model, job, run),
        bounded=not job.guards.interpolate,
        early_stopping=job.config.early_stopping,
        prepare=lambda: _dress(model, job),
        progress=progress,
        on_event=on_event,
    )
    fitting = Fitting(
        job.examples,
        job.config,
        job.compute,
        job.processes,
        guide=job.guide.path if job.guide is not None else None,
        report_to=report_to,
        log_dir=log_dir,
    )
    with kept_memory(), kept_random_state(), plain_attention(model, job.compute):
        fit(model, fitting, course, run)
    return course


def _saved(
    job: Job,
    course: Course,
    run: RunFolder,
    models: ModelStore,
    *,
    name: str,
    run_id: str,
    began: float,
) -> ModelVersion:
    """Save the best weights of a run as a version, and remove the run.

    Raises
    ------
    NoGainError, RegressionError
        They are not to be saved, see `judge`; the run is removed all the same.
    """
    with _ended_by_verdict(run):
        best = judge(run.best(), course, job)
        model = _trained_model(job, run)
        outcome = settle(job, course, best, model, lambda: _scratch_model(job))
        cut = cut_to(model, job, lambda: _scratch_model(job))
    seconds = time.monotonic() - began
    manifest = {
        **job.manifest(course, best, outcome.chosen, models.uri, seconds=seconds),
        **outcome.manifest(course),
        **cut,
        "run": run_id,
    }
    saved = models.save(
        model,
        name=name,
        manifest=manifest,
        picture=course_picture(name, job, course, outcome),
        rows=rows_document(job.data, job.dev),
    )
    run.remove()
    return saved


@contextlib.contextmanager
def _ended_by_verdict(run: RunFolder) -> Iterator[None]:
    """Remove the run when its verdict is that nothing is saved: it would be the same again."""
    try:
        yield
    except (NoGainError, RegressionError):
        run.remove()
        raise


def _watch(model: SentenceTransformer, job: Job, run: RunFolder) -> Watch | None:
    """Make the probes, of the base model as it is before any step."""
    if not job.processes.is_first:
        return None
    with kept_memory(), plain_attention(model, job.compute), job.compute.autocast():
        return job.guards.watch(Encoder.of(model), seed=job.config.seed, figures=run.read_probes())


def _scratch_model(job: Job) -> SentenceTransformer:
    """Return a copy of the base to measure with, as it is trained but without adapters."""
    model = load_sentence_transformer(job.base.path, device=job.compute.device).float()
    limit_tokens(model, job.config.max_tokens)
    _dress(model, job)
    return model


def _base_model(job: Job) -> SentenceTransformer:
    """Load the base, with adapters where they are trained: they change no vector yet."""
    # Half-precision weights would lose what a small step changes.
    model = load_sentence_transformer(job.base.path, device=job.compute.device).float()
    if job.config.lora_rank is not None:
        add_lora(model, job.config.lora_rank, seed=job.config.seed)
    return model


def _dress(model: SentenceTransformer, job: Job) -> None:
    set_pooling(model, job.config.pooling)
    set_prompts(model, job.prompts)


def _trained_model(job: Job, run: RunFolder) -> SentenceTransformer:
    """Return a fresh copy of the base with the best weights.

    Fresh, since a tokenizer keeps the limits it was last used with, and saves them.
    """
    model = _base_model(job)
    run.load_best(model)
    if job.config.lora_rank is not None:
        merge_lora(model)
    _dress(model, job)
    return model


def _log_folder(models: ModelStore) -> Path:
    return cache_folder() / "logs" if "://" in models.uri else Path(models.uri) / _LOGS
