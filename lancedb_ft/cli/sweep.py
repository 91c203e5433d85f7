"""``lancedb-ft sweep``: embed again the rows whose vectors no longer belong to their texts."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.durations import every_seconds, stopping
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.errors import InputError, ReindexConflictError
from lancedb_ft.reindex import SweepReport, sweep, watch
from lancedb_ft.table import connect, open_table

EXAMPLE = "Example: lancedb-ft sweep --db kb --table docs --watch --every 30s"


def sweep_command(
    db: opt.Database,
    table: opt.TableName,
    watching: Annotated[
        bool, typer.Option("--watch", help="Go on, one line for each round that did something.")
    ] = False,
    every: Annotated[
        str, typer.Option("--every", help="Time between rounds: 30s, 5m or 1h.")
    ] = "30s",
    re_encode: Annotated[
        list[str] | None,
        typer.Option(
            "--re-encode",
            help="Encode all rows of this fragment again, or of 'all', whatever their marks say; "
            "may be repeated. 'reindex verify' names the fragments.",
        ),
    ] = None,
    vector_column: opt.VectorColumn = None,
    store: opt.Store = None,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Embed again rows whose vector is missing or of an earlier text; nothing else is touched.

    Tables with stable row ids are swept at the cost of what changed, others by a scan.
    """
    out = Output(as_json)
    docs = open_table(connect(db), table)
    if watching:
        if re_encode:
            raise InputError("--re-encode is done once: leave out --watch.")
        _watch(out, docs, every_seconds(every), vector_column, store, device)
        return
    with out.progress(f"sweeping {table}") as progress:
        report = sweep(
            docs,
            re_encode=_fragments(re_encode),
            vector_column=vector_column,
            store=store,
            device=device,
            progress=progress,
        )
    out.result(report, *_shown(report))


def _watch(
    out: Output,
    docs: Any,
    every_s: float,
    vector_column: str | None,
    store: str | None,
    device: str | None,
) -> None:
    stop = threading.Event()

    def lost(error: ReindexConflictError, wait_s: float) -> None:
        out.note(f"{error} Next attempt in {wait_s:,.0f} s.")

    out.note(f"Sweeping {docs.name} every {every_s:g} s; Ctrl-C ends.")
    with stopping(stop):
        for report in watch(
            docs,
            every_s=every_s,
            stop=stop,
            vector_column=vector_column,
            store=store,
            device=device,
            on_conflict=lost,
        ):
            out.result(report, _line(report))
            out.stdout.file.flush()
    out.note("Ended.")


def _fragments(given: list[str] | None) -> Any:
    if not given:
        return ()
    if given == ["all"]:
        return "all"
    if not all(value.isdecimal() for value in given):
        raise InputError(f"--re-encode takes numbers of fragments, or 'all'; found {given}.")
    return [int(value) for value in given]


def _line(report: SweepReport) -> str:
    found = f"{report.mended:,} wrong, {report.encoded:,} encoded"
    left = "" if report.complete else "; writers were faster, the next round goes on"
    return f"version {report.version}: {found} in {report.seconds:.1f} s{left}"


def _shown(report: SweepReport) -> list[RichTable | str]:
    columns = (
        "gen",
        "phase",
        "model",
        "how",
        "read",
        "stale",
        "unmarked",
        "missing",
        "encoded",
        "unindexed",
    )
    rows = [
        (
            g.number,
            g.phase,
            g.model,
            g.how,
            g.read,
            g.stale,
            g.unmarked,
            g.missing,
            g.encoded,
            g.unindexed,
        )
        for g in report.generations
    ]
    told = f"Swept {report.table}: {_line(report)}."
    notes = [f"Generation {g.number}: {g.note}." for g in report.generations if g.note]
    return [told, rows_table("", columns, rows), *notes]
