"""``lancedb-ft load-clicks``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import TABLE_PREFIX
from lancedb_ft.cli.output import Output
from lancedb_ft.data import load_clicks
from lancedb_ft.table import connect, open_table

if TYPE_CHECKING:
    from lancedb.table import Table

EXAMPLE = "Example: lancedb-ft load-clicks --db kb --table docs --log clicks.csv --min-clicks 2"


def load_clicks_command(
    db: opt.Database,
    log: Annotated[
        str,
        typer.Option("--log", help="Queries and clicked documents: a file, or table:NAME."),
    ],
    table: opt.TableName = "docs",
    query_column: Annotated[
        str | None, typer.Option("--query-column", help="Text of the query [default: query].")
    ] = None,
    doc_id_column: Annotated[
        str | None, typer.Option("--doc-id-column", help="Document clicked [default: doc_id].")
    ] = None,
    clicks_column: Annotated[
        str | None,
        typer.Option("--clicks-column", help="How often, or whether [default: clicks, if any]."),
    ] = None,
    min_clicks: Annotated[
        int, typer.Option("--min-clicks", min=1, help="Leave out pairs with fewer.")
    ] = 1,
    min_share: Annotated[
        float,
        typer.Option("--min-share", min=0, max=1, help="Leave out rarer answers of a query."),
    ] = 0.0,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace queries and judgements that exist.")
    ] = False,
    max_rejected: Annotated[
        float,
        typer.Option("--max-rejected", min=0, max=1, help="Share of bad rows to put up with."),
    ] = 0.1,
    id_column: opt.IdColumn = None,
    as_json: opt.Json = False,
) -> None:
    """Make judged queries of a click log: what was clicked for a query answers it.

    One row is a click, or a query and a document with their number of clicks. Makes TABLE_queries
    and TABLE_qrels, as load does; improve, train, mine, evaluate and the gate of reindex run take
    them with --queries-table and --qrels-table.
    """
    out = Output(as_json)
    connection = connect(db)
    source: str | Table = log
    if log.startswith(TABLE_PREFIX):
        source = open_table(connection, log.removeprefix(TABLE_PREFIX))
    with out.progress(f"reading {Path(log).name}") as progress:
        report = load_clicks(
            connection,
            source,
            table=table,
            query=query_column,
            doc_id=doc_id_column,
            clicks=clicks_column,
            min_clicks=min_clicks,
            min_share=min_share,
            id_column=id_column,
            max_rejected=max_rejected,
            mode="overwrite" if overwrite else "create",
            progress=progress,
        )
    out.result(report, str(report))
