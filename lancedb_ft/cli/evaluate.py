"""``lancedb-ft evaluate`` and ``compare``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_split
from lancedb_ft.cli.output import Output
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import compare, evaluate, exact_retriever, read_run, retriever, write_run
from lancedb_ft.evaluate.metrics import parse_metric
from lancedb_ft.evaluate.report import comparison_table, evaluation_table
from lancedb_ft.evaluate.runs import check_target
from lancedb_ft.search import Searcher
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import (
    connect,
    database_uri,
    id_column_of,
    open_table,
    read_corpus,
    text_column_of,
)
from lancedb_ft.types import DEFAULT_METRICS, Mode, Pairs, Split

EVALUATE_EXAMPLE = (
    "Example: lancedb-ft evaluate --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --mode hybrid"
)
COMPARE_EXAMPLE = (
    "Example: lancedb-ft compare --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels base.run tuned.run"
)

_DEFAULT_METRICS = ",".join(DEFAULT_METRICS)

Metrics = Annotated[
    str, typer.Option("--metrics", help="Separated by commas: ndcg@10,mrr@10,hit@5, ...")
]
Part = Annotated[str, typer.Option("--part", help="train, dev or test.")]


def evaluate_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    mode: Annotated[Mode, typer.Option("--mode", help="What to search.")] = "vector",
    model: Annotated[
        str | None,
        typer.Option("--model", help="Search exactly with this model, not with the table's."),
    ] = None,
    part: Part = "test",
    metrics: Metrics = _DEFAULT_METRICS,
    run_file: Annotated[
        Path | None, typer.Option("--run", help="Also write a TREC run file.")
    ] = None,
    split_column: opt.SplitColumn = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Measure a table's search, or a model on its documents, with 95 % intervals."""
    out = Output(as_json)
    if model is not None and mode != "vector":
        raise InputError(
            f"--mode {mode} is a search of the table, and --model measures a model alone, without "
            "the table's indexes. Leave one of them out."
        )
    if run_file is not None:
        check_target(run_file)
    connection = connect(db)
    docs = open_table(connection, table)
    pairs = _part(
        read_split(
            connection,
            docs,
            queries_table,
            qrels_table,
            split_column=split_column,
            seed=seed,
            id_column=id_column,
            text_column=text_column,
        ),
        part,
    )
    if model is not None:
        key = id_column_of(docs.schema, id_column, table=table)
        text = text_column_of(docs.schema, text_column, table=table)
        encoder = get_encoder(model, store=store or default_store_uri(database_uri(docs)))
        retrieve = exact_retriever(encoder, read_corpus(docs, key, text))
    elif mode == "hybrid":
        retrieve = Searcher(docs).retriever(mode="hybrid", id_column=id_column)
    else:
        retrieve = retriever(docs, mode=mode, id_column=id_column, text_column=text_column)
    wanted = tuple(name.strip() for name in metrics.split(","))
    # As deep as the deepest metric looks, and as run files usually are.
    depth = max(100, *(parse_metric(name).k or 0 for name in wanted))
    run = retrieve(pairs.queries, depth)
    if run_file is not None:
        write_run(run, run_file, tag=model or f"{table}-{mode}")
    found = evaluate(run, pairs, metrics=wanted, name=model or mode)
    value = {"name": found.name, "part": part, "n": found.n, "metrics": found.to_dict()}
    out.result(value, evaluation_table(found, title=f"{table}, {part} part"))


def compare_command(
    base: Annotated[Path, typer.Argument(help="TREC run file of the base.")],
    tuned: Annotated[Path, typer.Argument(help="TREC run file of the other.")],
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    part: Part = "test",
    metrics: Metrics = _DEFAULT_METRICS,
    split_column: opt.SplitColumn = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Compare two runs on the same queries: paired differences, intervals, p-values."""
    out = Output(as_json)
    connection = connect(db)
    split = read_split(
        connection,
        open_table(connection, table),
        queries_table,
        qrels_table,
        split_column=split_column,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )
    pairs = _part(split, part)
    wanted = tuple(name.strip() for name in metrics.split(","))
    measured = [
        evaluate(read_run(path), pairs, metrics=wanted, name=path.stem) for path in (base, tuned)
    ]
    comparison = compare(*measured)
    out.result(comparison, comparison_table(comparison))


def _part(split: Split, part: str) -> Pairs:
    parts = split.parts()
    if part not in parts:
        raise InputError(f"--part is {part!r}; it must be train, dev or test.")
    return parts[part]
