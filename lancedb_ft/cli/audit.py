"""``lancedb-ft audit``."""

from __future__ import annotations

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_split
from lancedb_ft.cli.output import Output, figures_table
from lancedb_ft.data import audit
from lancedb_ft.table import connect, open_table

EXAMPLE = (
    "Example: lancedb-ft audit --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels"
)


def audit_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
    split_column: opt.SplitColumn = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Look for leaks between train, dev and test, duplicates and odd texts; exit 3 on a leak."""
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
    report = audit(split)
    out.result(report, figures_table(f"Audit of {table}", report.to_dict()))
    if not report.ok:
        raise typer.Exit(3)
