"""``lancedb-ft train-reranker``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_data_option, read_split, refuse_options_of_judged
from lancedb_ft.cli.output import Output, figures_table
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import retriever
from lancedb_ft.pipeline import DEFAULT_BASE
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, id_column_of, open_table, read_corpus, text_column_of
from lancedb_ft.train import train_reranker
from lancedb_ft.types import Mode

if TYPE_CHECKING:
    from lancedb_ft.training_sets import TrainingSet
    from lancedb_ft.types import Pairs, Retriever

EXAMPLE = (
    "Example: lancedb-ft train-reranker --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --mode hybrid --name support-reranker\n\n"
    "Example: lancedb-ft train-reranker --data mined.jsonl:negatives --store models "
    "--name support-reranker"
)


@dataclass(frozen=True)
class _Given:
    """What the options say of the data."""

    data: Pairs | TrainingSet
    dev: Pairs | TrainingSet | None = None
    candidates: Retriever | None = None
    documents: Mapping[str, str] | None = None


def train_reranker_command(
    name: Annotated[str, typer.Option("--name", help="Name of the model in the store.")],
    base: Annotated[
        str, typer.Option("--base", help="Cross-encoder or embedding model to start from.")
    ] = DEFAULT_BASE,
    db: Annotated[
        str | None,
        typer.Option("--db", help="URI of the LanceDB database.", envvar="LANCEDB_FT_DB"),
    ] = None,
    table: Annotated[str | None, typer.Option("--table", help="Table with the documents.")] = None,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Data to train on: FILE[:kind] or table:NAME[:kind]."),
    ] = None,
    dev: Annotated[
        str | None,
        typer.Option(
            "--dev", help="Held-out queries with answers, as for --data [default: a tenth]."
        ),
    ] = None,
    mode: Annotated[
        Mode | None,
        typer.Option("--mode", help="The search of the table that is to be reranked."),
    ] = None,
    first_stage: Annotated[
        str | None,
        typer.Option("--first-stage", help="Without --mode: its model [default: --base]."),
    ] = None,
    split_column: opt.SplitColumn = None,
    max_pairs: opt.MaxPairs = None,
    loss: Annotated[str, typer.Option("--loss", help="bce, lambda or listwise.")] = "bce",
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 1,
    batch_size: Annotated[
        int, typer.Option("--batch-size", min=1, help="Queries a step, each with its texts.")
    ] = 16,
    learning_rate: Annotated[float | None, typer.Option("--learning-rate")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", help="Cut longer pairs.")] = 256,
    negatives: Annotated[
        int, typer.Option("--negatives", min=1, help="Wrong texts a query, at most.")
    ] = 4,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Train a cross-encoder that puts what the search found in a better order.

    On --data, or on the table's training pairs. With --mode, the table's own search is what it must
    beat on dev; without, an exact search by an embedding model. Exits with 3, and saves nothing,
    when no checkpoint does. Interrupted, the same command goes on from the last checkpoint.
    """
    out = Output(as_json)
    tables = (db, table, queries_table, qrels_table)
    given = _read(
        tables,
        data,
        dev=dev,
        mode=mode,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        columns=(id_column, text_column),
    )
    with out.progress(f"training {name}") as progress:
        model = train_reranker(
            base,
            given.data,
            dev=given.dev,
            name=name,
            store=store or (default_store_uri(db) if db else None),
            candidates=given.candidates,
            documents=given.documents,
            first_stage=first_stage,
            loss=loss,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_tokens=max_tokens,
            n_negatives=negatives,
            seed=seed,
            device=device,
            progress=progress,
        )
    value = {
        "ref": model.ref,
        "kind": model.kind,
        "store": model.store,
        "fingerprint": model.fingerprint,
        "data": model.manifest.get("data"),
        "metrics": model.manifest.get("metrics"),
    }
    out.result(value, figures_table(f"Trained {model.ref}", value))


def _read(
    tables: tuple[str | None, str | None, str | None, str | None],
    data: str | None,
    *,
    dev: str | None = None,
    mode: Mode | None,
    split_column: str | None,
    max_pairs: int | None,
    seed: int,
    columns: tuple[str | None, str | None],
) -> _Given:
    db, table, queries_table, qrels_table = tables
    own = read_data_option(data, db=db, split="train") if data else None
    held_out = read_data_option(dev, db=db, split="dev") if dev else None
    if db and table and queries_table and qrels_table:
        docs = open_table(connect(db), table)
        id_column, text_column = columns
        split = read_split(
            connect(db),
            docs,
            queries_table,
            qrels_table,
            split_column=split_column,
            max_pairs=max_pairs,
            seed=seed,
            id_column=id_column,
            text_column=text_column,
        )
        search = None
        if mode is not None:
            search = retriever(docs, mode=mode, id_column=id_column, text_column=text_column)
        key = id_column_of(docs.schema, id_column, table=docs.name)
        text = text_column_of(docs.schema, text_column, table=docs.name)
        documents = read_corpus(docs, key, text)
        return _Given(own or split.train, held_out or split.dev, search, documents)
    if own is None:
        raise InputError(
            "Nothing to train on: give --data FILE, or --db, --table, --queries-table and "
            "--qrels-table."
        )
    if mode is not None:
        raise InputError(
            "--mode is a search of a table: give --table, --queries-table and --qrels-table, too."
        )
    refuse_options_of_judged(split_column, max_pairs)
    return _Given(own, held_out)
