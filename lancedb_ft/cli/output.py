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
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table as RichTable
from rich.text import Text

__all__ = ["Bar", "Output", "figures_table", "rows_table"]


class Bar:
    """A progress bar: called as ``bar(done, total)``, with room for a few words beside it.

    Parameters
    ----------
    progress, task
        The bar of rich and its task; None where nobody watches.
    """

    def __init__(self, progress: Progress | None = None, task: TaskID | None = None) -> None:
        self._progress = progress
        self._task = task
        self._started = time.monotonic()
        self._shown: dict[str, str] = {}

    def __call__(self, done: int, total: int | None, /) -> None:
        """Report that ``done`` of ``total`` units are finished."""
        elapsed = time.monotonic() - self._started
        rate = _rate(done / elapsed) if elapsed > 0.5 else ""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, completed=done, total=total, rate=rate)

    def show(self, **words: str) -> None:
        """Show words beside the bar, each in place of the last of its name."""
        self._shown |= words
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, beside="  ".join(self._shown.values()))


class Output:
    """One command's output.

    Parameters
    ----------
    as_json
        Print one JSON object on stdout at the end and nothing else there.
    silent
        Print nothing at all: another process of the same command does.
    """

    def __init__(self, as_json: bool, *, silent: bool = False) -> None:
        self.as_json = as_json
        self.silent = silent
        self.stdout = Console()
        self.stderr = Console(stderr=True)

    def result(self, value: Any, *shown: RenderableType) -> None:
        """Print the result: ``value`` as JSON, or what is to be shown to a person."""
        if self.silent:
            return
        if self.as_json:
            self.stdout.file.write(json.dumps(jsonable(value), ensure_ascii=False) + "\n")
            return
        for renderable in shown:
            # A string has users' data in it: brackets are no markup, and a path is not broken.
            plain = isinstance(renderable, str)
            self.stdout.print(renderable, markup=False, highlight=False, soft_wrap=plain)

    def note(self, text: str) -> None:
        """Print a line for the person watching; kept off stdout."""
        # Lines are left to the terminal to break: what stands in one, such as a token, is copied.
        self.stderr.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, description: str) -> Iterator[Bar]:
        """Show a bar with rate and time left on stderr; silent where stderr is no terminal."""
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TextColumn("{task.fields[beside]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        if not self.stderr.is_terminal or self.silent:
            yield Bar()
            return
        with Progress(*columns, console=self.stderr, transient=True) as bar:
            yield Bar(bar, bar.add_task(description, total=None, rate="", beside=""))


def _rate(per_second: float) -> str:
    return f"{per_second:,.0f}/s" if per_second >= 10 else f"{per_second:.1f}/s"


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
    table = RichTable(title=Text(title), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), Text(_shown(value)))
    return table


def rows_table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> RichTable:
    """Return a table with a header."""
    # As Text: what looks like rich's markup in somebody's data is data.
    table = RichTable(title=Text(title), title_justify="left")
    for name in columns:
        table.add_column(Text(name))
    for row in rows:
        table.add_row(*(Text(_shown(value)) for value in row))
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
