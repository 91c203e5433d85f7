"""What commands print: JSON or rich tables on stdout, progress and notes on stderr."""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable

from lancedb_ft.types import Progress as ProgressCallback

__all__ = ["Output", "figures_table", "rows_table"]


class Output:
    """One command's output.

    Parameters
    ----------
    as_json
        Print one JSON object on stdout at the end and nothing else there.
    """

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.stdout = Console()
        self.stderr = Console(stderr=True)

    def result(self, value: Any, *shown: RenderableType) -> None:
        """Print the result: ``value`` as JSON, or what is to be shown to a person."""
        if self.as_json:
            self.stdout.file.write(json.dumps(jsonable(value), ensure_ascii=False) + "\n")
            return
        for renderable in shown:
            self.stdout.print(renderable)

    def note(self, text: str) -> None:
        """Print a line for the person watching; kept off stdout."""
        self.stderr.print(text, highlight=False, markup=False)

    @contextlib.contextmanager
    def progress(self, description: str) -> Iterator[ProgressCallback]:
        """Show a bar with rate and time left on stderr; silent where stderr is no terminal."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        if not self.stderr.is_terminal:
            yield lambda done, total, /: None
            return
        started = time.monotonic()
        with Progress(*columns, console=self.stderr, transient=True) as bar:
            task = bar.add_task(description, total=None, rate="")

            def report(done: int, total: int | None, /) -> None:
                elapsed = time.monotonic() - started
                rate = f"{done / elapsed:,.0f}/s" if elapsed > 0.5 else ""
                bar.update(task, completed=done, total=total, rate=rate)

            yield report


def jsonable(value: Any) -> Any:
    """Return ``value`` in plain JSON types; NaN and infinities, which JSON lacks, become null."""
    if hasattr(value, "to_dict"):
        return jsonable(value.to_dict())
    if is_dataclass(value) and not isinstance(value, type):
        return jsonable(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set)):
        return [jsonable(v) for v in value]
    if isinstance(value, bool) or value is None or isinstance(value, (int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if hasattr(value, "item"):
        return jsonable(value.item())
    return str(value)


def figures_table(title: str, figures: Mapping[str, Any]) -> RichTable:
    """Return a two-column table of named values; None is shown as a dash."""
    table = RichTable(title=title, show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), _shown(value))
    return table


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> RichTable:
    """Return a table with a header."""
    table = RichTable(*columns, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(_shown(value) for value in row))
    return table


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.3f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
    return str(value)
