"""Evaluations and comparisons as rich tables, and those as text. Nothing is printed here."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from lancedb_ft.errors import InputError
from lancedb_ft.types import Comparison, Delta, Evaluation

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

__all__ = ["comparison_table", "evaluation_table", "to_text"]

_INTERVALS = "95 % bootstrap intervals over queries"


def evaluation_table(*evaluations: Evaluation, title: str = "") -> Table:
    """Return a table with a row a metric and a column an evaluation.

    Raises
    ------
    InputError
        No evaluation was given.
    """
    from rich.table import Table
    from rich.text import Text

    if not evaluations:
        raise InputError("There is no evaluation to show.")
    sizes = list(dict.fromkeys(evaluation.n for evaluation in evaluations))
    told = f"n = {sizes[0]} queries; {_INTERVALS}" if len(sizes) == 1 else _INTERVALS
    table = Table(title=Text(title) if title else None, caption=Text(told))
    table.add_column("metric", no_wrap=True)
    for i, evaluation in enumerate(evaluations, 1):
        name = evaluation.name or (f"evaluation {i}" if len(evaluations) > 1 else "value")
        header = name if len(sizes) == 1 else f"{name} (n = {evaluation.n})"
        table.add_column(Text(header), justify="right")
    metrics = dict.fromkeys(metric for evaluation in evaluations for metric in evaluation.metrics)
    for metric in metrics:
        # Text, not str: an interval in brackets must not be read as markup.
        cells = [Text(str(evaluation.metrics.get(metric, "-"))) for evaluation in evaluations]
        table.add_row(metric, *cells)
    return table


def comparison_table(comparison: Comparison, *, title: str = "") -> Table:
    """Return a table with base, tuned, the paired difference and its p-value for each metric.

    A difference is marked ``▲`` or ``▼`` where its whole interval lies above or below zero.
    """
    from rich.table import Table
    from rich.text import Text

    told = f"n = {comparison.n} queries; {_INTERVALS}; ▲▼ the interval excludes zero"
    table = Table(title=Text(title) if title else None, caption=Text(told))
    table.add_column("metric", no_wrap=True)
    for name in (comparison.base.name or "base", comparison.tuned.name or "tuned"):
        table.add_column(Text(name), justify="right")
    table.add_column("difference", justify="right")
    table.add_column("p", justify="right", no_wrap=True)
    for metric, delta in comparison.delta.items():
        mark, style = _mark(delta)
        low, high = delta.ci95
        table.add_row(
            metric,
            Text(str(comparison.base.metrics[metric])),
            Text(str(comparison.tuned.metrics[metric])),
            Text(f"{delta.mean:+.3f} [{low:+.3f}, {high:+.3f}] {mark}", style=style),
            Text("<0.001" if delta.p < 0.001 else f"{delta.p:.3f}"),
        )
    return table


def to_text(renderable: RenderableType, *, width: int = 100, color: bool = False) -> str:
    """Render to a string, by default without escape codes.

    Parameters
    ----------
    renderable
        Anything rich can render.
    width
        In characters.
    color
        Keep styles as ANSI escape codes.
    """
    from rich.console import Console

    console = Console(
        file=io.StringIO(),
        width=width,
        force_terminal=color,
        color_system="standard" if color else None,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(renderable)
    return captured.get()


def _mark(delta: Delta) -> tuple[str, str]:
    """Return the sign for the reader, and a style for terminals that have one."""
    low, high = delta.ci95
    if low > 0:
        return "▲", "green"
    if high < 0:
        return "▼", "red"
    return " ", ""
