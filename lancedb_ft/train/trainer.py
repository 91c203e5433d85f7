"""`train`: from training data to a model version that beats the model it started from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import MissingExtraError, NoGainError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore, ResolvedModel, default_store_uri
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.train.compute import kept_random_state, plain_attention
from lancedb_ft.train.course import Course, OnEvent
from lancedb_ft.train.defaults import Choice
from lancedb_ft.train.distributed import Processes, join_processes
from lancedb_ft.train.fit import Fitting, fit
from lancedb_ft.train.job import Job, as_list, choices_for, prepare
from lancedb_ft.train.lora import add_lora, merge_lora, require_peft
from lancedb_ft.train.places import check_name, runs_folder, store_uri, trained_before
from lancedb_ft.train.prompts import set_pooling, set_prompts
from lancedb_ft.train.runs import Best, RunFolder, identity_hash, open_run
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["explain", "train"]

_LOGS = ".logs"


def train(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    *,
    dev: Pairs | TrainingSet | None = None,
    name: str,
    store: str | None = None,
    loss: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    warmup: float | None = None,
    max_tokens: int | None = 128,
    seed: int = 0,
    eval_steps: int | None = None,
    metric: str | None = None,
    early_stopping: int | None = None,
    temperature: float | None = None,
    matryoshka_dims: Sequence[int] = (),
    guide: str | None = None,
    lora_rank: int | None = None,
    pooling: str | None = None,
    device: str | None = None,
    run_dir: str | Path | None = None,
    distractors: Mapping[str, str] | None = None,
    split_info: Mapping[str, Any] | None = None,
    report_to: Sequence[str] = (),
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> ModelVersion:
    """Fine-tune a model, and save the best checkpoint if it beats the base model on dev.

    The dev figures are measured before the first step, at intervals and after the last step: of
    retrieval, by exact search in a small corpus, the documents of the dev set and up to 2,000
    distractors; of scored pairs, by the rank correlation of cosines and scores.

    A run that was killed goes on from its last checkpoint when the same call is made again, and
    ends with the same model; a run that was finished is not repeated, its version is returned. On
    a CPU, the same arguments and the same number of threads give the
    same model, bit for bit.

    Parameters
    ----------
    base
        The model to start from: ``support@2``, a folder, ``hf://org/name@revision``, or
        ``all-MiniLM-L6-v2``.
    data
        Pairs, a training set of any type, or several that are trained together, each with its own
        loss and prompts. The prompts of the first set that has any become those of the model.
    dev
        Data of any type that is not trained on. None: 10 % of the first set is held out.
    name
        Of the model in the store; the store counts the versions.
    store
        URI of the store. None: that of the database the data are from, else the variable
        ``ft_store`` of LanceDB's registry, else ``LANCEDB_FT_STORE``.
    loss, epochs, batch_size, learning_rate, warmup, eval_steps, metric, early_stopping
        See `TrainingConfig`. None: chosen by the data, the model and the machine; `explain` says
        what and why.
    max_tokens, seed, temperature, matryoshka_dims, guide, lora_rank, pooling
        See `TrainingConfig`.
    device
        ``cpu``, ``cuda``, ``mps``; None for the best there is.
    run_dir
        Folder for checkpoints, removed when the run is over. None: one for exactly these
        arguments, in the store, or in the cache if that is not a local folder.
    distractors
        ``{doc_id: text}`` for the dev corpus, such as the table's other documents. None: documents
        that are trained on.
    split_info
        How the data were split, for the manifest.
    report_to
        Where the trainer reports to as well: ``tensorboard``, ``wandb`` and others that it knows.
    progress
        Called as ``progress(steps done, steps)``.
    on_event
        Called in this process with what happens, as plain JSON: ``{"event": "started", "steps"}``,
        ``{"event": "loss", "step", "steps", "loss", "learning_rate"}``, ``{"event": "evaluation",
        "step", "steps", "metric", "value", "best", "dev", "probe"}`` and ``{"event": "saved",
        "ref"}``. What it raises ends the run, whose last checkpoint stays.

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
        Dev shares a text with what is trained on.
    InputError
        Nothing can be learned from these data, or an argument cannot be used.
    StoreNotFoundError
        No store was named and none follows from the data.
    TrainingError
        The training diverged, or another process runs the same training now.
    MissingExtraError
        A package of the extra ``train``, or of ``lora``, is missing.
    """
    asked: dict[str, Any] = {
        "loss": loss,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "max_tokens": max_tokens,
        "seed": seed,
        "eval_steps": eval_steps,
        "metric": metric,
        "early_stopping": early_stopping,
        "temperature": temperature,
        "matryoshka_dims": tuple(matryoshka_dims),
        "guide": guide,
        "lora_rank": lora_rank,
        "pooling": pooling,
    }
    _require_packages(lora=lora_rank is not None)
    processes = join_processes(device)
    models = ModelStore(store_uri(store, _origin(data)))
    check_name(name)
    job = prepare(
        base,
        data,
        dev,
        asked,
        store=models.uri,
        device=device,
        distractors=distractors,
        split=split_info,
        processes=processes,
    )
    identity = job.identity(name)
    run_id = identity_hash(identity)
    if (done := processes.first(lambda: trained_before(models, name, run_id))) is not None:
        _tell(on_event, processes, done)
        return done
    folder = Path(run_dir) if run_dir else runs_folder(models) / f"{name}-{run_id}"
    with _opened(folder, identity, processes) as run:
        started = time.monotonic()
        log_dir = _log_folder(models) / f"{name}-{run_id}"
        course = _fit(job, run, progress, on_event, report_to=report_to, log_dir=log_dir)

        def finish() -> ModelVersion:
            best = _judge(run, course, job)
            model = _trained_model(job, run)
            manifest = job.manifest(course, best, models.uri, seconds=time.monotonic() - started)
            manifest["run"] = run_id
            saved = models.save(model, name=name, manifest=manifest)
            run.remove()
            return saved

        saved = processes.first(finish)
    _tell(on_event, processes, saved)
    return saved


def explain(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    *,
    asked: Mapping[str, Any] | None = None,
    store: str | None = None,
    device: str | None = None,
) -> list[Choice]:
    """Say what `train` would choose for these data, this model and this machine, and why.

    Parameters
    ----------
    base, data, store, device
        As for `train`. Of the data nothing is held out here, so where `train` holds out a dev set
        it sees a tenth less.
    asked
        Arguments of `train` that are given, such as ``{"epochs": 3}``.

    Returns
    -------
    list of Choice
        Argument, value and reason.
    """
    _require_packages()
    database = _origin(data).get("database")
    named = store or (default_store_uri(str(database)) if database else None)
    return choices_for(base, data, asked or {}, store=named, device=device)


@contextlib.contextmanager
def _opened(folder: Path, identity: Mapping[str, Any], processes: Processes) -> Iterator[RunFolder]:
    """Have the first process hold the folder of the run, and all of them use it."""
    with contextlib.ExitStack() as stack:

        def claim() -> None:
            stack.enter_context(open_run(folder, identity))

        processes.first(claim)
        yield RunFolder(folder)


def _fit(
    job: Job,
    run: RunFolder,
    progress: Progress | None,
    on_event: OnEvent | None,
    *,
    report_to: Sequence[str],
    log_dir: Path,
) -> Course:
    model = _base_model(job)
    if job.config.max_tokens is not None:
        own = model.max_seq_length
        model.max_seq_length = min(job.config.max_tokens, own or job.config.max_tokens)
    course = Course(
        model,
        job.devset,
        metric=job.metric,
        interval=job.config.interval(job.steps_per_epoch),
        run=run,
        compute=job.compute,
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


def _judge(run: RunFolder, course: Course, job: Job) -> Best:
    """Return the best step, which must beat the base model; if none does, the run is over."""
    best = run.best()
    if best is not None and best.value > course.base_value:
        return best
    run.remove()
    raise NoGainError(
        metric=job.metric,
        base=course.base_value,
        best=best.value if best is not None else course.base_value,
        n_queries=job.devset.n_queries,
    )


def _tell(on_event: OnEvent | None, processes: Processes, saved: ModelVersion) -> None:
    if on_event is not None and processes.is_first:
        on_event({"event": "saved", "ref": saved.ref, "store": saved.store})


# --- where -----------------------------------------------------------------------------------


def _origin(data: TrainingData) -> Mapping[str, Any]:
    """Return where the data are from: the first set that says which database."""
    sources = [each.source for each in as_list(data)]
    return next((source for source in sources if source.get("database")), sources[0])


def _log_folder(models: ModelStore) -> Path:
    return cache_folder() / "logs" if "://" in models.uri else Path(models.uri) / _LOGS


def _require_packages(*, lora: bool = False) -> None:
    for package in ("torch", "sentence_transformers", "datasets", "accelerate"):
        try:
            __import__(package)
        except ImportError as error:
            raise MissingExtraError(
                package.replace("_", "-"), extra="train", purpose="Training"
            ) from error
    if lora:
        require_peft()
