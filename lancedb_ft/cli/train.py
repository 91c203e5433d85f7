"""``lancedb-ft train``."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

import typer

from lancedb_ft.cli import guards as held
from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_data_option, read_split, refuse_options_of_judged
from lancedb_ft.cli.output import Bar, Output, figures_table, rows_table
from lancedb_ft.data import audit
from lancedb_ft.errors import InputError
from lancedb_ft.pipeline import DEFAULT_BASE
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, open_table
from lancedb_ft.train import explain_training, train, train_query_adapter
from lancedb_ft.train.checks import check_max_tokens
from lancedb_ft.train.distributed import told_rank
from lancedb_ft.train.guards import MAX_REGRESSION
from lancedb_ft.train.losses import TRAINED_WITH
from lancedb_ft.train.places import check_name
from lancedb_ft.train.queries.trainer import asked_of_queries, explain_query_adapter
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import ModelVersion, Pairs

EXAMPLE = (
    "Example: lancedb-ft train --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --name support"
)


class TrainingInput(NamedTuple):
    """What a command trains on, and where it goes."""

    data: list[Pairs | TrainingSet]
    dev: Pairs | TrainingSet | None
    info: Mapping[str, Any]
    store: str


def train_command(
    name: Annotated[str, typer.Option("--name", help="Name of the model in the store.")],
    db: opt.OptionalDatabase = None,
    table: opt.OptionalTable = None,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    data: opt.Data = None,
    dev: Annotated[
        str | None,
        typer.Option("--dev", help="Held-out data, as for --data [default: a tenth is held out]."),
    ] = None,
    base: Annotated[str, typer.Option("--base", help="Model to start from.")] = DEFAULT_BASE,
    split_column: opt.SplitColumn = None,
    max_pairs: opt.MaxPairs = None,
    loss: Annotated[
        str | None,
        typer.Option("--loss", help=f"{', '.join(TRAINED_WITH)} [default: by the data]."),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="[default: chosen].")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="[default: chosen].")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="[default: chosen].")
    ] = None,
    warmup: Annotated[
        float | None, typer.Option("--warmup", help="Share of the steps [default: chosen].")
    ] = None,
    early_stopping: Annotated[
        int | None,
        typer.Option("--early-stopping", min=1, help="Evaluations without a gain that end it."),
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What decides on dev [default: by the data].")
    ] = None,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Of the loss [default: its own].")
    ] = None,
    matryoshka_dims: Annotated[
        str | None,
        typer.Option("--matryoshka-dims", help="Shorter vectors to train, such as 256,128,64."),
    ] = None,
    query_prompt: Annotated[
        str | None, typer.Option("--query-prompt", help="Instruction before each query.")
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option("--document-prompt", help="Instruction before each document.")
    ] = None,
    guide: Annotated[
        str | None, typer.Option("--guide", help="Model that tells false negatives, for gist.")
    ] = None,
    lora_rank: Annotated[
        int | None, typer.Option("--lora-rank", min=1, help="Train adapters of that rank.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="mean or cls [default: the model's].")
    ] = None,
    negatives: Annotated[
        int | None,
        typer.Option("--negatives", min=0, help="Hard negatives to mine a pair [default: chosen]."),
    ] = None,
    curriculum: Annotated[
        int | None,
        typer.Option("--curriculum", min=2, help="Stages of mined negatives, easy to hard."),
    ] = None,
    max_tokens: opt.MaxTokens = 128,
    query_only: Annotated[
        bool,
        typer.Option("--query-only", help="Train queries alone; documents' vectors stay."),
    ] = False,
    probe: held.ProbeOption = None,
    max_regression: held.MaxRegression = MAX_REGRESSION,
    interpolate: held.Interpolate = False,
    replay: held.Replay = None,
    replay_data: held.ReplayData = None,
    replay_dev: held.ReplayDev = None,
    report_to: Annotated[
        list[str] | None, typer.Option("--report-to", help="tensorboard, wandb, ...")
    ] = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="Say what would be chosen and why; train nothing.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Fine-tune a model on training data; the best checkpoint on dev is kept.

    The data are the table's judged queries (--queries-table, --qrels-table), or files and tables
    of any type of training data (--data); several are trained together. What is not said is
    chosen by the data, the model and the machine: see --explain.

    With --query-only, a small map of query vectors is trained in seconds against the whole table,
    whose vectors are read where --base made them: a re-index to it encodes nothing.

    Exits with 3, and saves nothing, when no checkpoint beats the base model, or those that do lose
    more than --max-regression on a --probe. With --replay a version goes on with its own data
    beside the new, and its dev set is a probe. Interrupted, the same command goes on from the last
    checkpoint. On several GPUs: accelerate launch -m lancedb_ft train ...
    """
    out = Output(as_json, silent=told_rank() > 0)
    check_name(name)
    found = read_training_input(
        db,
        table,
        queries_table,
        qrels_table,
        data,
        dev,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
        store=store,
    )
    check_max_tokens("max_tokens", max_tokens or None)
    sets = [with_prompts(each, query_prompt, document_prompt) for each in found.data]
    if query_only and (probe or interpolate or replay is not None):
        raise InputError("--probe, --interpolate and --replay are of no use with --query-only.")
    guarded = held.guards_of(
        probe, max_regression, interpolate, replay, replay_data, replay_dev, db=db
    )
    dims = _numbers("--matryoshka-dims", matryoshka_dims)
    given: dict[str, Any] = {
        "loss": loss,
        "epochs": epochs,
        "batch_size": batch_size,
        "learning_rate": learning_rate,
        "warmup": warmup,
        "early_stopping": early_stopping,
        "metric": metric,
        "temperature": temperature,
        "matryoshka_dims": dims,
        "guide": guide,
        "lora_rank": lora_rank,
        "pooling": pooling,
        "negatives": negatives,
        "curriculum": curriculum,
        "seed": seed,
    }
    for_queries = {
        **given,
        "probe": probe,
        "interpolate": interpolate or None,
        "replay": replay,
        "replay_data": replay_data,
        "replay_dev": replay_dev,
        "report_to": report_to,
    }
    if explained:
        choices = (
            explain_query_adapter(asked_of_queries(for_queries))
            if query_only
            else explain_training(
                base,
                sets,
                dev=found.dev,
                asked={**given, "max_tokens": max_tokens or None},
                store=found.store,
                device=device,
            )
        )
        rows = [(choice.argument, choice.value, choice.why) for choice in choices]
        shown = rows_table(
            f"What train would choose for {name}", ("argument", "value", "why"), rows
        )
        out.result({"choices": [choice.to_dict() for choice in choices]}, shown)
        return
    if query_only:
        with out.progress(f"training {name}") as progress:
            model = train_query_adapter(
                base,
                sets,
                dev=found.dev,
                name=name,
                store=found.store,
                corpus=open_table(connect(db), table) if db and table else None,
                id_column=id_column,
                text_column=text_column,
                device=device,
                split_info=found.info,
                progress=progress,
                on_event=lambda event: show_event(progress, event),
                **asked_of_queries(for_queries),
            )
        _show_trained(out, model)
        return
    with out.progress(f"training {name}") as progress:
        model = train(
            base,
            sets,
            dev=found.dev,
            name=name,
            store=found.store,
            **given,
            max_tokens=max_tokens or None,
            device=device,
            split_info=found.info,
            report_to=tuple(report_to or ()),
            **guarded,
            progress=progress,
            on_event=lambda event: show_event(progress, event),
        )
    _show_trained(out, model)


def _show_trained(out: Output, model: ModelVersion) -> None:
    value = {
        "ref": model.ref,
        "store": model.store,
        "fingerprint": model.fingerprint,
        "dims": model.dims,
        # Not what was given: of that, a part may be held out.
        "n_train": model.manifest["data"]["n_pairs"],
        "metrics": model.manifest.get("metrics"),
    }
    out.result(value, figures_table(f"Trained {model.ref}", value))


def read_training_input(
    db: str | None,
    table: str | None,
    queries_table: str | None,
    qrels_table: str | None,
    data: Sequence[str] | None,
    dev: str | None,
    *,
    split_column: str | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
    text_column: str | None = None,
    store: str | None = None,
) -> TrainingInput:
    """Read what a command trains on: either judged queries of a table, or ``--data``.

    Raises
    ------
    InputError
        Neither is named, or both, or no store follows from what is, or an option is given that
        only the other heeds.
    LeakError
        The split of the judged queries leaks.
    """
    judged = queries_table is not None or qrels_table is not None
    if judged == bool(data):
        raise InputError(
            "Name what to train on: either --db, --table, --queries-table and --qrels-table, or "
            "--data FILE (one or several)."
        )
    if store is None and db is None and not os.environ.get("LANCEDB_FT_STORE"):
        raise InputError("Say where the model goes: --store URI, or the database with --db URI.")
    place = store or (default_store_uri(db) if db else os.environ["LANCEDB_FT_STORE"])
    held_out = None if dev is None else read_data_option(dev, db=db, split="dev")
    if data:
        refuse_options_of_judged(split_column, max_pairs)
        sets = [read_data_option(each, db=db, split="train") for each in data]
        return TrainingInput(list(sets), held_out, {}, place)
    if db is None or table is None or queries_table is None or qrels_table is None:
        raise InputError(
            "Judged queries need all of --db, --table, --queries-table and --qrels-table."
        )
    connection = connect(db)
    split = read_split(
        connection,
        open_table(connection, table),
        queries_table,
        qrels_table,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )
    audit(split).check()
    return TrainingInput([split.train], held_out or split.dev, split.info, place)


def with_prompts(
    data: Pairs | TrainingSet, query_prompt: str | None, document_prompt: str | None
) -> Pairs | TrainingSet:
    """Give data the prompts that were typed, where it has none of its own."""
    if query_prompt is None and document_prompt is None:
        return data
    made = TrainingSet.of_pairs(data) if isinstance(data, Pairs) else data
    return replace(
        made,
        query_prompt=made.query_prompt if made.query_prompt is not None else query_prompt,
        document_prompt=made.document_prompt
        if made.document_prompt is not None
        else document_prompt,
    )


def show_event(bar: Bar, event: Mapping[str, Any]) -> None:
    """Show the loss and the best dev figure so far beside a bar."""
    if event["event"] == "loss":
        bar.show(loss=f"loss {event['loss']:.3f}")
    elif event["event"] == "evaluation":
        bar.show(dev=f"{event['metric']} {event['best']:.3f}")


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(",")) if text else ()
    except ValueError:
        raise InputError(
            f"{option} is {text!r}; write whole numbers with commas: 256,128,64."
        ) from None
