"""``lancedb-ft search``."""

from __future__ import annotations

from typing import Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.reranking import FineTunedReranker
from lancedb_ft.search import search
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, open_table
from lancedb_ft.types import Mode

EXAMPLE = 'Example: lancedb-ft search --db kb --table docs "how do I cancel?" -k 5'

#: Characters of a text shown in a terminal.
_SHOWN = 160


def search_command(
    query: Annotated[str, typer.Argument(help="The query, in plain words.")],
    db: opt.Database,
    table: opt.TableName,
    k: Annotated[int, typer.Option("-k", "--k", help="How many results.")] = 10,
    mode: Annotated[Mode, typer.Option("--mode", help="What to search.")] = "hybrid",
    where: Annotated[str | None, typer.Option("--where", help="SQL filter over columns.")] = None,
    select: Annotated[
        str | None, typer.Option("--select", help="Columns to return, separated by commas.")
    ] = None,
    reranker: Annotated[
        str | None, typer.Option("--reranker", help="Reranker to order by, name@version.")
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", min=1, help="Rows each search fetches for the reranker."),
    ] = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    as_json: opt.Json = False,
) -> None:
    """Search a table: full text and vectors at once, fused by rank or ordered by a reranker."""
    out = Output(as_json)
    columns = [name.strip() for name in select.split(",")] if select else None
    model = None
    if reranker is not None:
        place = store or default_store_uri(db)
        model = FineTunedReranker(reranker, store=place, column=text_column or "text")
    found = search(
        open_table(connect(db), table),
        query,
        k=k,
        mode=mode,
        where=where,
        select=columns,
        reranker=model,
        candidates=candidates,
    )
    rows = found.to_pylist()
    names = found.column_names
    shown = [[_cut(row[name]) for name in names] for row in rows]
    out.result(
        {"query": query, "mode": mode, "n": len(rows), "results": rows},
        rows_table(f"{query!r}: {len(rows)} results", names, shown) if rows else "Nothing found.",
    )


def _cut(value: object) -> object:
    if isinstance(value, str):
        line = " ".join(value.split())
        return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
    return value
