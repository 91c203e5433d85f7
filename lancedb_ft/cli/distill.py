"""``lancedb-ft distill``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, figures_table
from lancedb_ft.cli.train import read_training_input
from lancedb_ft.table import connect, open_table
from lancedb_ft.train import distill
from lancedb_ft.train.dev import hold_out_of_first
from lancedb_ft.types import ModelVersion

EXAMPLE = (
    "Example: lancedb-ft distill --teacher support@2 --student static --db kb --table docs "
    "--queries-table docs_queries --qrels-table docs_qrels --name support-static"
)


def distill_command(
    teacher: Annotated[str, typer.Option("--teacher", help="The model to learn from.")],
    name: Annotated[str, typer.Option("--name", help="Name of the student in the store.")],
    student: Annotated[
        str, typer.Option("--student", help="static, layers:N, or a reference to a model.")
    ] = "static",
    db: opt.OptionalDatabase = None,
    table: opt.OptionalTable = None,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    data: opt.Data = None,
    dev: Annotated[
        str | None,
        typer.Option("--dev", help="Held-out data, as for --data [default: a tenth is held out]."),
    ] = None,
    dims: opt.Dims = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="[default: by the student].")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=2, help="[default: by the student].")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option("--learning-rate", help="[default: by the student].")
    ] = None,
    pairs: Annotated[
        bool, typer.Option("--pairs/--no-pairs", help="Let a static student learn from pairs, too.")
    ] = True,
    max_texts: Annotated[
        int, typer.Option("--max-texts", min=1, help="The teacher embeds so many at most.")
    ] = 200_000,
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
    """Train a faster student on a teacher's vectors; say what it keeps and how fast it is.

    It learns from the texts of --table and of the training queries, or from --data. Interrupted,
    the same command goes on. The student may find less than the teacher: switch to it with a gate.
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
    sources: list[Any] = list(found.data)
    held_out = found.dev
    if held_out is None:
        sources, held_out, _ = hold_out_of_first(found.data, seed=seed)
    if db is not None and table is not None:
        sources.append(open_table(connect(db), table))
    with out.progress(f"distilling {name}") as progress:
        model = distill(
            teacher,
            sources,
            student=student,
            name=name,
            dev=held_out,
            store=found.store,
            dims=dims,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            pairs=pairs,
            max_texts=max_texts,
            max_tokens=max_tokens or None,
            seed=seed,
            text_column=text_column,
            device=device,
            progress=progress,
        )
    value = told(model)
    shown = {**value, **value["distillation"]}
    del shown["distillation"]
    out.result(value, figures_table(f"Distilled {model.ref}", shown))


def told(model: ModelVersion) -> dict[str, Any]:
    """Return what is said of a student."""
    return {
        "ref": model.ref,
        "store": model.store,
        "fingerprint": model.fingerprint,
        "dims": model.dims,
        "teacher": model.manifest["teacher"]["ref"],
        "distillation": model.manifest["distillation"],
        "metrics": model.manifest["metrics"],
    }
