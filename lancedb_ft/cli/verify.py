"""``lancedb-ft reindex verify``: whether each vector column holds one model only."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.reindex import Audit, verify
from lancedb_ft.table import connect, open_table

EXAMPLE = "Example: lancedb-ft reindex verify --db kb --table docs --all"

#: Foreign rows that are shown one by one; --json has up to 1,000 for each column.
_SHOWN_ROWS = 10


def verify_command(
    db: opt.Database,
    table: opt.TableName,
    every_row: Annotated[bool, typer.Option("--all", help="Encode all rows again.")] = False,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="Rows to encode again for each column.")
    ] = None,
    models: Annotated[
        list[str] | None,
        typer.Option("--model", help="A model that may have made foreign vectors; repeatable."),
    ] = None,
    vector_column: opt.VectorColumn = None,
    store: opt.Store = None,
    device: opt.Device = None,
    base_model: opt.BaseModel = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Prove on a sample that each vector column holds one model only; locate what is foreign.

    The default sample finds 1 % of foreign vectors with probability over 0.999. Exit code 3 when
    a column is mixed, or could not be checked.
    """
    out = Output(as_json)
    size: int | Literal["all"] | None = "all" if every_row else n
    with out.progress(f"verifying {table}") as progress:
        audit = verify(
            open_table(connect(db), table),
            n=size,
            store=store,
            device=device,
            base_model=base_model,
            models=models or (),
            vector_column=vector_column,
            seed=seed,
            progress=progress,
        )
    out.result(audit, audit.advice, *_shown(audit))
    if not audit.passed:
        raise typer.Exit(3)


def _shown(audit: Audit) -> list[Any]:
    columns = ("gen", "column", "model", "verdict", "checked", "foreign", "stale", "lowest cosine")
    rows = [
        (
            c.generation,
            c.column,
            c.model,
            c.verdict,
            c.n_checked,
            c.n_foreign,
            c.n_stale,
            c.min_cosine,
        )
        for c in audit.columns
    ]
    shown: list[Any] = [rows_table(f"{audit.table}, version {audit.version}", columns, rows)]
    for c in audit.columns:
        if c.n_checked:
            shown.append(f"{c.column}: 1 % of foreign vectors is found with p = {c.detection:.4f}.")
        if c.note:
            shown.append(f"{c.column}: {c.note}.")
        if c.rows:
            title = f"foreign vectors in {c.column}"
            first = [(r.id, r.fragment, r.cosine, r.made_by) for r in c.rows[:_SHOWN_ROWS]]
            shown.append(rows_table(title, ("row id", "fragment", "cosine", "made by"), first))
    return shown
