"""``lancedb-ft tune``."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.table import Table as RichTable

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.cli.train import read_training_input
from lancedb_ft.errors import InputError
from lancedb_ft.pipeline import DEFAULT_BASE
from lancedb_ft.train.tuning.tune import tune

if TYPE_CHECKING:
    from lancedb_ft.train.tuning.tune import TuneReport

EXAMPLE = (
    "Example: lancedb-ft tune --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --name support --trials 20"
)

_Value = TypeVar("_Value")


def tune_command(
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
    trials: Annotated[
        int, typer.Option("--trials", min=1, help="Trials in all, earlier ones among them.")
    ] = 20,
    timeout: Annotated[
        float | None, typer.Option("--timeout", help="Begin no trial after so many seconds.")
    ] = None,
    learning_rate: Annotated[
        str | None, typer.Option("--learning-rate", help="Lowest,highest, such as 1e-5,3e-4.")
    ] = None,
    batch_size: Annotated[str | None, typer.Option("--batch-size", help="Such as 32,64.")] = None,
    epochs: Annotated[str | None, typer.Option("--epochs", help="Such as 1,2.")] = None,
    pooling: Annotated[
        str | None, typer.Option("--pooling", help="Such as mean,cls; own is the model's.")
    ] = None,
    temperature: Annotated[
        str | None, typer.Option("--temperature", help="Lowest,highest, such as 0.02,0.1.")
    ] = None,
    loss: Annotated[str | None, typer.Option("--loss", help="Such as mnrl,gist.")] = None,
    study: Annotated[
        str | None, typer.Option("--study", help="Folder of the trials [default: in the store].")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="What decides on dev [default: by the data].")
    ] = None,
    max_tokens: opt.MaxTokens = 128,
    split_column: opt.SplitColumn = None,
    max_pairs: opt.MaxPairs = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Search for the best arguments of a training by its dev figure, and save the best model.

    Exits with 3, and saves nothing, when no trial was run or none beats the base model.
    Interrupted, the same command goes on; with more --trials it adds to those there are.
    """
    out = Output(as_json)
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
    limits = {
        "learning_rate": _list("--learning-rate", learning_rate, float),
        "batch_size": _list("--batch-size", batch_size, int),
        "epochs": _list("--epochs", epochs, int),
        "pooling": _list("--pooling", pooling, _pooling),
        "temperature": _list("--temperature", temperature, float),
        "loss": _list("--loss", loss, str),
    }
    with out.progress(f"tuning {name}") as progress:
        report = tune(
            base,
            found.data,
            dev=found.dev,
            name=name,
            n_trials=trials,
            limits={key: value for key, value in limits.items() if value is not None},
            seed=seed,
            store=found.store,
            timeout_s=timeout,
            study_dir=study,
            metric=metric,
            max_tokens=max_tokens or None,
            device=device,
            split_info=found.info,
            progress=progress,
        )
    out.result(report, _trials_table(report), _verdict(report))
    if not report.ok:
        raise typer.Exit(3)


def _list(
    option: str, text: str | None, read: Callable[[str], _Value]
) -> tuple[_Value, ...] | None:
    if text is None:
        return None
    try:
        return tuple(read(part.strip()) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} is {text!r}; write values with commas between.") from None


def _pooling(text: str) -> str | None:
    return None if text == "own" else text


def _trials_table(report: TuneReport) -> RichTable:
    names = list(dict.fromkeys(name for trial in report.trials for name in trial.arguments))
    best = report.best
    rows: list[tuple[Any, ...]] = []
    for trial in report.trials:
        interval = "" if trial.ci95 is None else f" [{trial.ci95[0]:.3f}, {trial.ci95[1]:.3f}]"
        figure = "-" if trial.value is None else f"{trial.value:.3f}{interval}"
        mark = "best" if best is not None and trial.number == best.number else ""
        told = [_told(trial.arguments.get(name)) for name in names]
        rows.append((trial.number, *told, figure, trial.state, f"{trial.seconds:.1f}", mark))
    title = f"Trials of {report.name}, {report.metric} on dev (n = {report.n_queries})"
    return rows_table(title, ["trial", *names, report.metric, "state", "seconds", ""], rows)


def _told(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else "own" if value is None else str(value)


def _verdict(report: TuneReport) -> str:
    if not report.ok and (why := report.without_figures) is not None:
        return why
    base = "-" if report.base is None else f"{report.base:.3f}"
    saved = f"Saved {report.model}" if report.model else "No trial beats the base model"
    return f"{saved}; base {base}. Plot: {report.plot or '-'}"
