"""`train`: from training data to a model version that beats the model it started from."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import MissingExtraError, NoGainError, RegressionError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore, ResolvedModel, default_store_uri, resolve_model
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.train.compute import kept_random_state, plain_attention
from lancedb_ft.train.course import Course, OnEvent
from lancedb_ft.train.defaults import Choice
from lancedb_ft.train.distributed import Processes, join_processes
from lancedb_ft.train.fit import Fitting, check_report_to, fit
from lancedb_ft.train.guards import MAX_REGRESSION, go_on, make_guards
from lancedb_ft.train.job import Job, as_list
from lancedb_ft.train.lora import add_lora, merge_lora, require_peft
from lancedb_ft.train.outcome import course_picture, judge, settle
from lancedb_ft.train.picture import require_matplotlib
from lancedb_ft.train.places import check_name, runs_folder, store_uri, trained_before
from lancedb_ft.train.preparation import choices_for, prepare
from lancedb_ft.train.probe import ProbeData, Watch
from lancedb_ft.train.prompts import set_pooling, set_prompts
from lancedb_ft.train.queries.trainer import asked_of_queries, train_query_adapter
from lancedb_ft.train.recorded import rows_document
from lancedb_ft.train.runs import RunFolder, identity_hash, open_run
from lancedb_ft.train.shorter import cut_to
from lancedb_ft.train.token_limits import limit_tokens
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["explain_training", "train"]

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
    matryoshka_dims: Sequence[int] | None = None,
    guide: str | None = None,
    lora_rank: int | None = None,
    pooling: str | None = None,
    negatives: int | None = None,
    curriculum: int | None = None,
    device: str | None = None,
    run_dir: str | Path | None = None,
    distractors: Mapping[str, str] | None = None,
    split_info: Mapping[str, Any] | None = None,
    probe: ProbeData | None = None,
    max_regression: float | None = MAX_REGRESSION,
    interpolate: bool = False,
    replay: float | None = None,
    replay_data: TrainingData | None = None,
    replay_dev: Pairs | TrainingSet | None = None,
    query_only: bool = False,
    report_to: str | Sequence[str] = (),
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> ModelVersion:
    """Fine-tune a model, and save the best checkpoint if it beats the base model on dev.

    Of checkpoints that are within a standard error of the best, as paired differences by query, the
    latest is taken; of scored pairs, which have no figures by query, the best.

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
        Data of any type that is not trained on. None: 10 % of the first set is held out, and rows
        of the others that share a text with it are left out, and counted in the manifest.
    name
        Of the model in the store; the store counts the versions.
    store
        URI of the store. None: that of the database the data are from, else the variable
        ``ft_store`` of LanceDB's registry, else ``LANCEDB_FT_STORE``.
    loss, epochs, batch_size, learning_rate, warmup, eval_steps, metric, early_stopping, negatives
        See `TrainingConfig`. None: chosen by the data, the model and the machine;
        `explain_training` says what and why.
    max_tokens, seed, temperature, matryoshka_dims, guide, lora_rank, pooling, curriculum
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
    probe
        What the base does well and must go on doing, measured at the same steps as dev: general
        documents ``{doc_id: text}`` of which queries are made, `Pairs`, a
        `lancedb_ft.train.Probe`, or several of these by name.
    max_regression
        How far nDCG@10 of any probe may fall below the base: what loses more is never saved. None:
        it is only measured.
    interpolate
        Save the weights between base and best checkpoint that are best on dev and lose no more
        than allowed on a probe (arXiv:2109.01903, 2311.13534).
    replay
        The base is a version of a store, and this share of what is trained on is rows of its own
        training data, 0 to below 1. Its dev set becomes a probe.
    replay_data, replay_dev
        What the base was trained on and measured on. None: read again from the tables, at the
        versions that its manifest names.
    query_only
        Train a map of query vectors alone: documents, and their vectors in tables, stay as they
        are. ``distractors`` are then the corpus; see `train_query_adapter`.
    report_to
        Where the trainer reports to as well: ``tensorboard``, ``wandb`` and others that it knows;
        one name or several.
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
    RegressionError
        Those that do lose more than allowed on a probe. Nothing was saved.
    LeakError
        Dev shares a text with what is trained on.
    InputError
        Nothing can be learned from these data, or an argument cannot be used.
    StoreNotFoundError
        No store was named and none follows from the data.
    StoreError
        Nothing can be saved in the store.
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
        "matryoshka_dims": () if matryoshka_dims is None else matryoshka_dims,
        "guide": guide,
        "lora_rank": lora_rank,
        "pooling": pooling,
        "negatives": negatives,
        "curriculum": curriculum,
    }
    if query_only:
        return train_query_adapter(
            base,
            data,
            dev=dev,
            name=name,
            store=store,
            corpus=distractors,
            device=device,
            split_info=split_info,
            progress=progress,
            on_event=on_event,
            **asked_of_queries(
                {
                    **asked,
                    "probe": probe,
                    "interpolate": interpolate or None,
                    "replay": replay,
                    "replay_data": replay_data,
                    "replay_dev": replay_dev,
                    "run_dir": run_dir,
                    "report_to": report_to,
                }
            ),
        )
    _require_packages(lora=lora_rank is not None)
    report_to = check_report_to(report_to)
    processes = join_processes(device)
    models = ModelStore(store_uri(store, _origin(data)))
    check_name(name)
    guards = make_guards(probe, max_regression=max_regression, interpolate=interpolate)
    if replay is not None:
        base = processes.first(lambda: resolve_model(base, store=models.uri))
        learned = go_on(
            base,
            as_list(data),
            dev,
            guards,
            share=replay,
            seed=seed,
            split=split_info,
            data=as_list(replay_data) if replay_data is not None else None,
            old_dev=replay_dev,
        )
        data, dev, split_info, guards = learned.data, learned.dev, learned.split, learned.guards
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
        guards=guards,
    )
    identity = job.identity(name)
    run_id = identity_hash(identity)
    if (done := processes.first(lambda: trained_before(models, name, run_id))) is not None:
        _tell(on_event, processes, done)
        return done
    folder = Path(run_dir) if run_dir else runs_folder(models) / f"{name}-{run_id}"
    with _opened(folder, identity, processes) as run:
        started = time.monotonic()
        job = job.with_negatives(folder)
        log_dir = _log_folder(models) / f"{name}-{run_id}"
        course = _fit(job, run, progress, on_event, report_to=report_to, log_dir=log_dir)

        def finish() -> ModelVersion:
            with _ended_by_verdict(run):
                best = judge(run.best(), course, job)
                model = _trained_model(job, run)
                outcome = settle(job, course, best, model, lambda: _scratch_model(job))
                cut = cut_to(model, job, lambda: _scratch_model(job))
            seconds = time.monotonic() - started
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

        saved = processes.first(finish)
    _tell(on_event, processes, saved)
    return saved


def explain_training(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    *,
    dev: Pairs | TrainingSet | None = None,
    asked: Mapping[str, Any] | None = None,
    store: str | None = None,
    device: str | None = None,
) -> list[Choice]:
    """Say what `train` would choose for these data, this model and this machine, and why.

    Parameters
    ----------
    base, data, dev, store, device
        As for `train`; what dev is decides the metric. Of the data nothing is held out here, so
        where `train` holds out a dev set it sees a tenth less.
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
    return choices_for(base, data, asked or {}, store=named, device=device, dev=dev)


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


def _watch(model: SentenceTransformer, job: Job, run: RunFolder) -> Watch | None:
    """Make the probes, of the base model as it is before any step."""
    if not job.processes.is_first:
        return None
    with kept_memory(), plain_attention(model, job.compute), job.compute.autocast():
        return job.guards.watch(Encoder.of(model), seed=job.config.seed, figures=run.read_probes())


@contextlib.contextmanager
def _ended_by_verdict(run: RunFolder) -> Iterator[None]:
    """Remove the run when its verdict is that nothing is saved: it would be the same again."""
    try:
        yield
    except (NoGainError, RegressionError):
        run.remove()
        raise


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
    require_matplotlib()
    if lora:
        require_peft()
