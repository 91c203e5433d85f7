"""``lancedb-ft train``."""

from __future__ import annotations

from typing import Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_split
from lancedb_ft.cli.output import Output, figures_table
from lancedb_ft.data import audit
from lancedb_ft.pipeline import DEFAULT_BASE
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, open_table
from lancedb_ft.train import train

EXAMPLE = (
    "Example: lancedb-ft train --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --name support"
)


def train_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    name: Annotated[str, typer.Option("--name", help="Name of the model in the store.")],
    base: Annotated[str, typer.Option("--base", help="Model to start from.")] = DEFAULT_BASE,
    split_column: opt.SplitColumn = None,
    max_pairs: opt.MaxPairs = None,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 64,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Cut texts in training.")] = 128,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Fine-tune a model on the table's training pairs; the best checkpoint on dev is kept.

    Exits with 3, and saves nothing, when no checkpoint beats the base model. Interrupted, the
    same command goes on from the last checkpoint.
    """
    out = Output(as_json)
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
    with out.progress(f"training {name}") as progress:
        model = train(
            base,
            split.train,
            dev=split.dev,
            name=name,
            store=store or default_store_uri(db),
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_tokens=max_tokens,
            seed=seed,
            device=device,
            split_info=split.info,
            progress=progress,
        )
    value = {
        "ref": model.ref,
        "store": model.store,
        "fingerprint": model.fingerprint,
        "dims": model.dims,
        "n_train": len(split.train),
        "metrics": model.manifest.get("metrics"),
    }
    out.result(value, figures_table(f"Trained {model.ref}", value))
