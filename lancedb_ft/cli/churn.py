"""``lancedb-ft settle``, ``maintain`` and ``status``: a table that is written all the time."""

from __future__ import annotations

import threading
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from lancedb_ft.churn import SettleReport, settle, settle_watch
from lancedb_ft.cli import options as opt
from lancedb_ft.cli.durations import every_seconds, stopping
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.cli.tiers import HotWhere, RowVersions, Settle, UpdatedAt, given_tiers
from lancedb_ft.errors import ReindexConflictError
from lancedb_ft.search.index_status import TableStatus, index_status
from lancedb_ft.search.maintain import Maintenance, maintain, maintain_watch
from lancedb_ft.search.tiers import Tiers
from lancedb_ft.table import connect, open_table

SETTLE_EXAMPLE = (
    "Example: lancedb-ft settle --db kb --table docs --updated-at updated_at --settle 7d --watch"
)
MAINTAIN_EXAMPLE = "Example: lancedb-ft maintain --db kb --table docs --watch --every 5s"
STATUS_EXAMPLE = "Example: lancedb-ft status --db kb --table docs"

Watch = Annotated[
    bool, typer.Option("--watch", help="Go on, one line for each round that did something.")
]


def settle_command(
    db: opt.Database,
    table: opt.TableName,
    updated_at: UpdatedAt = None,
    hot_where: HotWhere = None,
    row_versions: RowVersions = False,
    quiet: Settle = "7d",
    watching: Watch = False,
    every: Annotated[
        str, typer.Option("--every", help="Time between rounds: 30s, 5m or 1h.")
    ] = "30s",
    store: opt.Store = None,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Embed the rows that have been quiet long enough: they become part of the core."""
    out = Output(as_json)
    tiers = Tiers(updated_at=updated_at, where=hot_where, row_versions=row_versions, settle=quiet)
    docs = open_table(connect(db), table)
    if watching:
        _settle_watch(out, docs, tiers, every_seconds(every), store, device)
        return
    with out.progress(f"settling {table}") as progress:
        report = settle(docs, tiers, store=store, device=device, progress=progress)
    out.result(report, f"Settled {table}: {_settled(report)}.", *report.notes)


def _settle_watch(
    out: Output, docs: Any, tiers: Tiers, every_s: float, store: str | None, device: str | None
) -> None:
    stop = threading.Event()

    def lost(error: ReindexConflictError, wait_s: float) -> None:
        out.note(f"{error} Next attempt in {wait_s:,.0f} s.")

    out.note(f"Settling {docs.name} every {every_s:g} s; Ctrl-C ends.")
    with stopping(stop):
        for report in settle_watch(
            docs, tiers, every_s=every_s, stop=stop, store=store, device=device, on_conflict=lost
        ):
            out.result(report, _settled(report))
            out.stdout.file.flush()
    out.note("Ended.")


def _settled(report: SettleReport) -> str:
    return (
        f"{report.n_settled:,} rows embedded, {report.n_read:,} looked at, {report.n_hot:,} still "
        f"hot, {report.seconds:.1f} s"
    )


def maintain_command(
    db: opt.Database,
    table: opt.TableName,
    max_unindexed: Annotated[
        float,
        typer.Option(
            "--max-unindexed",
            help="Share of rows that may stay out of an index; --min-rows may always.",
        ),
    ] = Maintenance.max_unindexed,
    min_rows: Annotated[
        int,
        typer.Option(
            "--min-rows",
            help="So many rows may stay out of an index whatever --max-unindexed says; 0 for none.",
        ),
    ] = Maintenance.min_rows,
    max_files: Annotated[
        int, typer.Option("--max-files", help="Small files from which they are merged at once.")
    ] = Maintenance.max_files,
    quiet_s: Annotated[
        float, typer.Option("--quiet", help="Compact when nobody wrote for so many seconds.")
    ] = Maintenance.quiet_s,
    compact: Annotated[
        bool, typer.Option("--compact/--no-compact", help="Compact files at all.")
    ] = True,
    keep_versions: Annotated[
        str, typer.Option("--keep-versions", help="Remove older versions, or 'all' to keep them.")
    ] = "7d",
    watching: Watch = False,
    every: Annotated[str, typer.Option("--every", help="Time between rounds: 5s, 1m.")] = "5s",
    as_json: opt.Json = False,
) -> None:
    """Put new rows into the indexes; compact and clean up while nobody writes."""
    out = Output(as_json)
    options = Maintenance(
        max_unindexed=max_unindexed,
        min_rows=min_rows,
        max_files=max_files,
        quiet_s=quiet_s,
        every_s=every_seconds(every),
        compact=compact,
        keep_versions=None if keep_versions == "all" else keep_versions,
    )
    docs = open_table(connect(db), table)
    if not watching:
        report = maintain(docs, options)
        out.result(report, f"Maintained {table}: {_maintained(report)}.")
        return
    stop = threading.Event()
    out.note(f"Maintaining {table} every {options.every_s:g} s; Ctrl-C ends.")

    def failed(error: Exception) -> None:
        out.note(f"This round failed, the next one tries again: {error}")

    with stopping(stop):
        for report in maintain_watch(docs, options, stop=stop, on_error=failed):
            out.result(report, _maintained(report))
            out.stdout.file.flush()
    out.note("Ended.")


def _maintained(report: Any) -> str:
    parts = [f"{work.name} took in {work.n_unindexed:,} rows" for work in report.indexes]
    if report.n_compacted_files:
        parts.append(f"{report.n_compacted_files:,} files compacted")
    if report.n_removed_versions:
        parts.append(f"{report.n_removed_versions:,} old versions removed")
    parts += [f"{what} lost to a writer" for what in report.lost]
    return f"{', '.join(parts) or 'nothing was due'}, {report.seconds:.2f} s"


def status_command(
    db: opt.Database,
    table: opt.TableName,
    updated_at: UpdatedAt = None,
    hot_where: HotWhere = None,
    row_versions: RowVersions = False,
    quiet: Settle = "7d",
    measure: Annotated[
        bool, typer.Option("--measure/--no-measure", help="Time what unindexed rows cost.")
    ] = True,
    as_json: opt.Json = False,
) -> None:
    """Say how many rows each index lacks and what they cost a query; with a policy, what is hot.

    The state of the model's generations is told by 'reindex status'.
    """
    out = Output(as_json)
    tiers = given_tiers(updated_at, hot_where, row_versions, quiet)
    found = index_status(open_table(connect(db), table), tiers=tiers, measure=measure)
    out.result(found, *_shown(found))


def _shown(status: TableStatus) -> list[RichTable | str]:
    columns = ("index", "column", "kind", "indexed", "unindexed", "parts", "ms per query")
    rows = [
        (i.name, i.column, i.kind, i.n_indexed, i.n_unindexed, i.n_parts, i.cost_ms)
        for i in status.indexes
    ]
    title = (
        f"{status.table}: {status.n_rows:,} rows in {status.n_fragments:,} fragments, version "
        f"{status.version}"
    )
    shown: list[RichTable | str] = [rows_table(title, columns, rows)]
    if status.n_hot is not None:
        shown.append(f"{status.n_hot:,} rows are hot, {status.n_waiting:,} wait for a vector.")
    return shown
