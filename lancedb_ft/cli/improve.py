"""``lancedb-ft improve``: the whole loop."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import RenderableType

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_split
from lancedb_ft.cli.output import Output, figures_table
from lancedb_ft.evaluate.report import comparison_table
from lancedb_ft.pipeline import ImproveReport, improve
from lancedb_ft.table import connect, open_table

EXAMPLE = (
    "Example: lancedb-ft improve --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --name support"
)


def improve_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    name: Annotated[str, typer.Option("--name", help="Name of the model in the store.")],
    split_column: opt.SplitColumn = None,
    max_pairs: opt.MaxPairs = None,
    base: Annotated[
        str | None,
        typer.Option("--base", help="Model to start from [default: the table's, or MiniLM]."),
    ] = None,
    require: Annotated[
        list[str] | None, typer.Option("--gate", help="Requirement; may be repeated.")
    ] = None,
    force: opt.Force = False,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    vector_column: opt.VectorColumn = None,
    store: opt.Store = None,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="[default: chosen].")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=2, help="[default: chosen].")
    ] = None,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    max_tokens: opt.MaxTokens = 128,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    precision: opt.Precision = "auto",
    as_json: opt.Json = False,
) -> None:
    """Train on the table's pairs, compare, re-index, and switch if the gate allows."""
    out = Output(as_json)
    connection = connect(db)
    docs = open_table(connection, table)
    split = read_split(
        connection,
        docs,
        queries_table,
        qrels_table,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )
    report = improve(
        docs,
        split,
        name=name,
        base=base,
        store=store,
        require=require or "ndcg@10 >= base",
        force=force,
        id_column=id_column,
        text_column=text_column,
        vector_column=vector_column,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        max_tokens=max_tokens or None,
        seed=seed,
        device=device,
        precision=precision,
        bar=out.progress,
    )
    out.result(report, *shown_report(report))


def shown_report(report: ImproveReport) -> list[RenderableType]:
    """Return what a person sees of the whole loop."""
    hybrid = {metric: str(estimate) for metric, estimate in report.hybrid.metrics.items()}
    figures = {
        "documents": report.n_docs,
        "training pairs": report.n_train,
        "model": report.model,
        "switched": "yes" if report.switched else "no",
        "rows embedded again": report.reindex.fill.encoded,
        "rows per second": report.reindex.fill.to_dict()["rows_per_s"],
        "search with": f'mode="{report.mode}"',
        **{f"nDCG@10 of {m} on dev": str(e.metrics["ndcg@10"]) for m, e in report.on_dev.items()},
        "seconds": report.seconds,
    }
    return [
        comparison_table(report.comparison),
        figures_table("Hybrid search with the tuned model", hybrid),
        figures_table(f"Improved {report.table}", figures),
    ]
