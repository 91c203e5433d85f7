"""``lancedb-ft reindex status``: where a table stands, for someone woken at night."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.text import Text

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.reindex import GenerationStatus, ReindexStatus, reindex_status
from lancedb_ft.table import connect, open_table

EXAMPLE = "Example: lancedb-ft reindex status --db kb --table docs"

_COLOURS = {True: "bold green", None: "bold yellow", False: "bold red"}
#: Events of the history that are shown; --json has all that are kept.
_EVENTS = 5


def status_command(
    db: opt.Database,
    table: opt.TableName,
    vector_column: opt.VectorColumn = None,
    stale: Annotated[
        bool | None,
        typer.Option(
            "--stale/--no-stale",
            help="Count stale and missing vectors by a scan, or never "
            "[default: where that is cheap].",
        ),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Say whether searches are right, what to do, who works on it, and what is kept."""
    out = Output(as_json)
    found = reindex_status(open_table(connect(db), table), vector_column=vector_column, stale=stale)
    out.result(found, *_shown(found))


def _shown(status: ReindexStatus) -> list[Any]:
    shown: list[Any] = [Text(status.headline, style=_COLOURS[status.searches_right])]
    if status.advice != "Nothing to do.":
        shown.append(Text(status.advice))
    columns = (
        "gen",
        "phase",
        "model",
        "column",
        "vectors",
        "missing",
        "stale",
        "unmarked",
        "index",
        "since",
    )
    rows = [_row(g) for g in status.generations]
    shown.append(
        rows_table(
            f"\n{status.table}: {status.rows:,} rows, version {status.version}", columns, rows
        )
    )
    for g in status.generations:
        if g.unknown and None in (g.n_stale, g.n_null):
            shown.append(Text(f"Generation {g.number}, unknown: {g.unknown}."))
    for event in status.history[-_EVENTS:]:
        number, model = event.get("generation", "?"), event.get("model", "")
        shown.append(
            Text(
                f"{_time(event['at'])}  {event['event']} of generation {number} {model}".rstrip()
                + _forced(event),
                style="dim",
            )
        )
    return shown


def _forced(event: Mapping[str, Any]) -> str:
    """Say of a switch that nobody measured, or that the gate had refused."""
    if not event.get("forced"):
        return ""
    if "gate" not in event:
        return " (forced, without a gate)"
    refused = [text for text, holds in event["gate"]["requirements"].items() if not holds]
    return f" (forced, though not: {', '.join(refused)})"


def _row(g: GenerationStatus) -> tuple[Any, ...]:
    index = None
    if g.index is not None:
        left = g.index.get("num_unindexed_rows")
        index = g.index["type"] + (f", {left:,} rows not in it" if left else "")
    return (
        g.number,
        g.phase,
        g.model,
        g.column,
        _count(g.n_vectors),
        _count(g.n_null),
        _count(g.n_stale),
        _count(g.n_unmarked),
        index,
        _time(g.switched_at or g.staged_at),
    )


def _time(at: str | None) -> str | None:
    return None if at is None else at[:16].replace("T", " ")


def _count(n: int | None) -> str:
    return "unknown" if n is None else f"{n:,}"
