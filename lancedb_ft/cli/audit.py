"""``lancedb-ft audit``."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group, RenderableType
from rich.table import Table as RichTable
from rich.text import Text

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import (
    read_data_option,
    read_data_split,
    read_split,
    refuse_options_of_judged,
)
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.data import audit
from lancedb_ft.data.audits.labels import SAMPLE_ROWS
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, open_table

if TYPE_CHECKING:
    from lancedb_ft.data import AuditReport
    from lancedb_ft.data.audits.audit import Audited
    from lancedb_ft.data.audits.figures import Lengths, SetFigures
    from lancedb_ft.data.audits.problems import Problem
    from lancedb_ft.types import Split

EXAMPLE = (
    "Example: lancedb-ft audit --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels\n\n"
    "Example: lancedb-ft audit --data mined.jsonl:negatives --model models/all-MiniLM-L6-v2"
)

_BAR_WIDTH = 30
_COLOURS = {"error": "bold red", "warning": "yellow", "note": "dim"}
_MAX_LABELS = 8


def audit_command(
    db: opt.OptionalDatabase = None,
    table: opt.OptionalTable = None,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    data: opt.Data = None,
    model: Annotated[
        str | None,
        typer.Option("--model", help="Let this model count tokens and look for wrong labels."),
    ] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option("--max-tokens", min=1, help="Longer texts count as cut [default: --model's]."),
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", min=1, help="Rows of each part that the model judges.")
    ] = SAMPLE_ROWS,
    split_column: opt.SplitColumn = None,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Say what is wrong with data before it is trained on; exit 3 on an error, such as a leak.

    Of the tables, or of each --data: duplicates, positives that stand as negatives, contradictions,
    lengths and balance; with --model also texts that are cut and labels that are wrong. Of the
    tables, or of one --data in parts (a column split, a folder): leaks between train, dev and test.
    """
    out = Output(as_json)
    if data:
        if queries_table or qrels_table:
            raise InputError("Give either --data or --queries-table and --qrels-table.")
        refuse_options_of_judged(split_column)
        found: Audited = _read_data(data, db)
    else:
        found = _read_tables(
            (db, table, queries_table, qrels_table),
            split_column=split_column,
            id_column=id_column,
            text_column=text_column,
            seed=seed,
        )
    place = store or (default_store_uri(db) if db else None)
    encoder = get_encoder(model, store=place, device=device) if model else None
    with out.progress("encoding") as progress:
        report = audit(
            found,
            encoder=encoder,
            max_tokens=max_tokens,
            sample_rows=sample,
            seed=seed,
            progress=progress,
        )
    out.result(report, Group(*_shown(report, ", ".join(data) if data else str(table))))
    if not report.ok:
        raise typer.Exit(3)


def _read_data(data: list[str], db: str | None) -> Audited:
    """Read data that come in parts as the split that they are, or several that do not."""
    for each in data:
        split = read_data_split(each, db=db)
        if split is not None and len(data) > 1:
            raise InputError(
                f"{each!r} comes in several parts: audit it alone, so that leaks between them are "
                "found."
            )
        if split is not None:
            return split
    sets = [read_data_option(each, db=db) for each in data]
    return sets[0] if len(sets) == 1 else sets


def _read_tables(
    named: tuple[str | None, str | None, str | None, str | None],
    *,
    split_column: str | None,
    id_column: str | None,
    text_column: str | None,
    seed: int,
) -> Split:
    """Read the split of the database, the table, its queries and its judgements."""
    db, table, queries, qrels = named
    if db is None or table is None or queries is None or qrels is None:
        raise InputError(
            "Say what to audit: --data FILE[:kind], or --db, --table, --queries-table and "
            "--qrels-table."
        )
    connection = connect(db)
    return read_split(
        connection,
        open_table(connection, table),
        queries,
        qrels,
        split_column=split_column,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )


# --- for people -----------------------------------------------------------------------------


def _shown(report: AuditReport, title: str) -> Iterator[RenderableType]:
    yield _sizes_table(report, title)
    for name, figures in report.parts.items():
        yield from _histograms(name, figures)
        yield from _values(name, figures)
    if not report.problems:
        yield Text("Nothing is wrong that was looked for.", style="green")
        return
    table = RichTable("severity", "problem", "where", "n", "share", "rows", "what, and what to do")
    table.title, table.title_justify = "Problems", "left"
    for found in report.problems:
        table.add_row(*_problem_cells(found))
    yield table
    if report.examples:
        rows = [
            (f"{leak.kind} {leak.how}", " / ".join(leak.parts), leak.left[:60], leak.right[:60])
            for leak in report.examples[:10]
        ]
        yield rows_table("Leaks, for example", ["sort", "parts", "left", "right"], rows)


def _sizes_table(report: AuditReport, title: str) -> RichTable:
    rows = []
    for name, figures in report.parts.items():
        for side, found in figures.sides.items():
            tokens = found.tokens.quantiles.get("p50") if found.tokens else None
            cut = None if found.cut_share is None else f"{found.cut_share:.1%}"
            sizes = (figures.n_rows, side, found.n_texts, found.n_distinct)
            words = (found.words.quantiles.get("p50"), found.words.quantiles.get("max"))
            rows.append((name, figures.kind, *sizes, *words, tokens, cut))
    columns = ["part", "kind", "rows", "side", "texts", "distinct", "median words", "most"]
    return rows_table(f"Audit of {title}", [*columns, "median tokens", "cut"], rows)


def _histograms(name: str, figures: SetFigures) -> Iterator[RenderableType]:
    for side, found in figures.sides.items():
        unit, lengths = ("tokens", found.tokens) if found.tokens else ("words", found.words)
        if lengths.histogram:
            yield _bars(f"{name}, {side}: {unit}", _length_bins(lengths))


def _length_bins(lengths: Lengths) -> list[tuple[str, int]]:
    return [(str(low) if low == high else f"{low}-{high}", n) for low, high, n in lengths.histogram]


def _values(name: str, figures: SetFigures) -> Iterator[RenderableType]:
    if figures.labels is not None:
        counts = list(figures.labels.counts.items())
        title = (
            f"{name}: {len(counts)} labels, as diverse as {figures.labels.n_effective:.1f} equal"
        )
        left = sum(n for _, n in counts[_MAX_LABELS:])
        yield _bars(title, counts[:_MAX_LABELS] + ([("others", left)] if left else []))
    if figures.scores is not None:
        bins = [
            (f"{i / 10:.1f}-{(i + 1) / 10:.1f}", n) for i, n in enumerate(figures.scores.histogram)
        ]
        yield _bars(f"{name}: scores", bins)


def _bars(title: str, bins: list[tuple[str, int]]) -> RichTable:
    table = RichTable(title=Text(title), show_header=False, box=None, title_justify="left")
    table.add_column(justify="right")
    table.add_column(justify="right")
    table.add_column()
    largest = max(n for _, n in bins) or 1
    for label, n in bins:
        # Something for whatever is there: a bar of nothing says that there is none.
        width = max(round(_BAR_WIDTH * n / largest), int(n > 0))
        table.add_row(Text(label), f"{n:,}", "\u2588" * width)
    return table


def _problem_cells(found: Problem) -> list[RenderableType]:
    rows = ", ".join(map(str, found.examples[:5])) + (" ..." if len(found.rows) > 5 else "")
    severity = Text(found.severity, style=_COLOURS[found.severity])
    cells = (found.name, found.where, f"{found.n:,}", f"{found.share:.1%}", rows, found.told)
    # As Text: what looks like rich's markup in somebody's data is data.
    return [severity, *map(Text, cells)]
