"""`train`: from training data to a model version that beats the model it started from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lancedb_ft.errors import MissingExtraError
from lancedb_ft.store import ModelStore, ResolvedModel, default_store_uri, resolve_model
from lancedb_ft.train.defaults import Choice
from lancedb_ft.train.distributed import join_processes
from lancedb_ft.train.execution import carry_out
from lancedb_ft.train.fit import check_report_to
from lancedb_ft.train.guards import MAX_REGRESSION, go_on, make_guards
from lancedb_ft.train.job import as_list
from lancedb_ft.train.lora import require_peft
from lancedb_ft.train.picture import require_matplotlib
from lancedb_ft.train.places import check_name, store_uri
from lancedb_ft.train.preparation import choices_for, prepare
from lancedb_ft.train.probe import ProbeData
from lancedb_ft.train.queries.trainer import asked_of_queries, train_query_adapter
from lancedb_ft.train.steps import OnEvent
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

__all__ = ["explain_training", "train"]


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
    return carry_out(
        job,
        models,
        name=name,
        folder=Path(run_dir) if run_dir else None,
        report_to=report_to,
        progress=progress,
        on_event=on_event,
    )


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


def _origin(data: TrainingData) -> Mapping[str, Any]:
    """Return where the data are from: the first set that says which database."""
    sources = [each.source for each in as_list(data)]
    return next((source for source in sources if source.get("database")), sources[0])


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
