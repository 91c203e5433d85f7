"""``lancedb-ft fusion``: learn from judged queries how a table is searched best."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_split
from lancedb_ft.cli.output import Output, figures_table, rows_table
from lancedb_ft.errors import InputError
from lancedb_ft.generation import read_state
from lancedb_ft.search import LearnedRanking, fit_auto, fit_fusion
from lancedb_ft.search.served_ranking import model_place, ranking_of
from lancedb_ft.table import connect, dataset, open_table
from lancedb_ft.types import Comparison, Pairs

FIT_EXAMPLE = (
    "Example: lancedb-ft fusion fit --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels"
)
AUTO_EXAMPLE = (
    "Example: lancedb-ft fusion auto --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels"
)
SHOW_EXAMPLE = "Example: lancedb-ft fusion show --db kb --table docs"

app = typer.Typer(
    name="fusion",
    no_args_is_help=True,
    help="Learn from judged queries how to merge full text and vectors, and when to use which.",
)

Part = Annotated[str, typer.Option("--part", help="train, dev or test: what to learn on.")]
Metric = Annotated[str, typer.Option("--metric", help="What to raise, with a cutoff.")]
To = Annotated[
    Path | None,
    typer.Option("--to", help="Write to this JSON file [default: beside the model version]."),
]


@app.command("fit", epilog=FIT_EXAMPLE)
def fit_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    part: Part = "dev",
    metric: Metric = "ndcg@10",
    candidates: Annotated[
        int, typer.Option("--candidates", min=1, help="Rows each search brings to the fusion.")
    ] = 50,
    to: To = None,
    split_column: opt.SplitColumn = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    vector_column: opt.VectorColumn = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Learn how to merge the two searches; kept only where it beats reciprocal rank fusion.

    Then search with --fusion learned. Exit code 3: it does not win, and nothing was saved.
    """
    out = Output(as_json)
    docs = open_table(connect(db), table)
    pairs = _pairs(
        db, table, queries_table, qrels_table, split_column, id_column, text_column, seed, part
    )
    with out.progress(f"searching {table}"):
        fit = fit_fusion(
            docs,
            pairs,
            metric=metric,
            candidates=candidates,
            id_column=id_column,
            column=vector_column,
            to=to,
            seed=seed,
        )
    told = fit.to_dict()
    kinds = [(kind, str(found)) for kind, found in fit.kinds.items()]
    out.result(
        told,
        _gain(fit.comparison, metric, "reciprocal rank fusion"),
        rows_table("on queries it was not fitted on", ["kind", metric], kinds),
        figures_table("learned", {"kind": fit.kind, **told["weights"]}),
    )


@app.command("auto", epilog=AUTO_EXAMPLE)
def auto_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    part: Part = "dev",
    metric: Metric = "ndcg@10",
    to: To = None,
    split_column: opt.SplitColumn = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    vector_column: opt.VectorColumn = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Learn which queries need full text, vectors or both; kept only where that wins.

    Then search with --mode auto. Exit code 3: one mode is as good for all, and nothing was saved.
    """
    out = Output(as_json)
    docs = open_table(connect(db), table)
    pairs = _pairs(
        db, table, queries_table, qrels_table, split_column, id_column, text_column, seed, part
    )
    with out.progress(f"searching {table}"):
        fit = fit_auto(
            docs,
            pairs,
            metric=metric,
            id_column=id_column,
            column=vector_column,
            to=to,
            seed=seed,
        )
    rows = [(mode, str(found), fit.shares[mode]) for mode, found in fit.modes.items()]
    out.result(
        fit.to_dict(),
        _gain(fit.comparison, metric, f"{fit.comparison.base.name} for all"),
        rows_table("modes", ["mode", f"{metric} on all queries", "share of auto"], rows),
    )


@app.command("show", epilog=SHOW_EXAMPLE)
def show_command(
    db: opt.Database,
    table: opt.TableName,
    vector_column: opt.VectorColumn = None,
    as_json: opt.Json = False,
) -> None:
    """Show what was learned for the model that the table searches with, and the evidence."""
    out = Output(as_json)
    schema = dataset(open_table(connect(db), table)).schema
    state = read_state(schema, table=table, vector_column=vector_column)
    generation = state.active if vector_column is None else state.of_column(vector_column)
    entry = None if generation is None else generation.function
    place = model_place(entry, table=table)
    found = ranking_of(entry, table=table)
    told = {
        "table": table,
        "model": None if place is None else place[1],
        "fusion": None if found is None or found.fusion is None else str(found.fusion),
        "auto": None if found is None or found.auto is None else found.auto.to_dict(),
        "evidence": {} if found is None else dict(found.evidence),
    }
    out.result(told, *_shown(told, found))


def _shown(told: Mapping[str, Any], found: LearnedRanking | None) -> list[RenderableType]:
    facts = {"model": told["model"], "fusion": told["fusion"] or "rrf (nothing learned)"}
    facts["auto"] = "off (nothing learned)" if found is None or found.auto is None else "learned"
    tables: list[RenderableType] = [figures_table(told["table"], facts)]
    for what, evidence in told["evidence"].items():
        delta = evidence["delta"][evidence["metric"]]
        low, high = delta["ci95"]
        gain = f"{delta['mean']:+.4f} [{low:+.4f}, {high:+.4f}]"
        figures = {"metric": evidence["metric"], "gain": gain, "n": evidence["n"]}
        when = {"fitted at": evidence["fitted_at"], "table version": evidence["table_version"]}
        tables.append(figures_table(what, {**figures, **when}))
    return tables


def _pairs(
    db: str,
    table: str,
    queries_table: str,
    qrels_table: str,
    split_column: str | None,
    id_column: str | None,
    text_column: str | None,
    seed: int,
    part: str,
) -> Pairs:
    connection = connect(db)
    parts = read_split(
        connection,
        open_table(connection, table),
        queries_table,
        qrels_table,
        split_column=split_column,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    ).parts()
    if part not in parts:
        raise InputError(f"--part is {part!r}; it must be train, dev or test.")
    return parts[part]


def _gain(comparison: Comparison, metric: str, base: str) -> RenderableType:
    figures = {
        base: str(comparison.base.metrics[metric]),
        "learned": str(comparison.tuned.metrics[metric]),
        "gain": str(comparison.delta[metric]),
        "n": comparison.n,
    }
    return figures_table(metric, figures)
