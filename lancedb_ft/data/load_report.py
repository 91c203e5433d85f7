"""What became of every row of every file that was loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from lancedb_ft.errors import BadRowsError

__all__ = ["FileReport", "LoadReport", "RowCounter"]

_MAX_LINES = 5


@dataclass(frozen=True)
class FileReport:
    """The rows of one file.

    Parameters
    ----------
    path, role
        The file, and whether it is ``corpus``, ``queries``, ``qrels`` or ``clicks``.
    n_rows, n_loaded
        Rows found, and rows that went into the table.
    rejected
        How many did not, by reason.
    lines
        For each reason the first few lines (for Parquet, rows), counted from 1.
    ignored_fields
        Fields that were left out, because they are nested or their name is taken, and how often
        they were seen.
    left_out
        Of a click log: what is good and was not wanted, such as pairs of too few clicks.
    """

    path: str
    role: str
    n_rows: int
    n_loaded: int
    rejected: Mapping[str, int]
    lines: Mapping[str, tuple[int, ...]]
    ignored_fields: Mapping[str, int]
    left_out: Mapping[str, int] = field(default_factory=dict)

    @property
    def n_rejected(self) -> int:
        """Rows that were rejected."""
        return sum(self.rejected.values())

    def __str__(self) -> str:
        """Return one line, and one for each reason."""
        told = [f"{self.path} ({self.role}): {self.n_loaded} of {self.n_rows} rows loaded"]
        told += [f"  rejected {n} x {reason}" for reason, n in self.reasons.items()]
        told += [f"  left out {n} x {reason}" for reason, n in self.left_out.items()]
        if self.ignored_fields:
            told.append(f"  fields left out: {', '.join(self.ignored_fields)}")
        return "\n".join(told)

    @property
    def reasons(self) -> dict[str, int]:
        """The reasons, each with its first lines: ``{"not JSON (lines 3, 9)": 2}``."""
        found = {}
        for reason, n in self.rejected.items():
            lines = ", ".join(map(str, self.lines[reason]))
            more = ", ..." if n > len(self.lines[reason]) else ""
            found[f"{reason} (line{'s' if n > 1 else ''} {lines}{more})"] = n
        return found


@dataclass(frozen=True)
class LoadReport:
    """What was loaded, and what was not.

    Parameters
    ----------
    database
        URI of the database.
    tables
        Rows by table, in the order written.
    resumed
        Tables that an earlier, killed run of the same command had finished.
    files
        What became of the rows of each file.
    seconds
        Wall time.
    """

    database: str
    tables: Mapping[str, int]
    resumed: tuple[str, ...]
    files: tuple[FileReport, ...]
    seconds: float

    @property
    def n_rejected(self) -> int:
        """Rows that were rejected, in all files."""
        return sum(file.n_rejected for file in self.files)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "database": self.database,
            "tables": dict(self.tables),
            "resumed": list(self.resumed),
            "n_rejected": self.n_rejected,
            "files": [
                {**asdict(file), "lines": {key: list(n) for key, n in file.lines.items()}}
                for file in self.files
            ],
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        """Return the files, then the tables, one line each."""
        told = [str(file) for file in self.files]
        for name, n_rows in self.tables.items():
            note = " (finished by the run before)" if name in self.resumed else ""
            told.append(f"table {name}: {n_rows} rows{note}")
        return "\n".join(told)


@dataclass
class RowCounter:
    """Counts the rows of one file while it is read."""

    path: str
    role: str
    n_rows: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    lines: dict[str, list[int]] = field(default_factory=dict)

    def reject(self, reason: str, line: int) -> None:
        """Count one bad row."""
        self.rejected[reason] += 1
        lines = self.lines.setdefault(reason, [])
        if len(lines) < _MAX_LINES:
            lines.append(line)

    def report(
        self,
        ignored_fields: Mapping[str, int] | None = None,
        left_out: Mapping[str, int] | None = None,
    ) -> FileReport:
        """Return the counts."""
        return FileReport(
            path=self.path,
            role=self.role,
            n_rows=self.n_rows,
            n_loaded=self.n_rows - sum(self.rejected.values()),
            rejected=dict(self.rejected),
            lines={reason: tuple(lines) for reason, lines in self.lines.items()},
            ignored_fields=dict(ignored_fields or {}),
            left_out=dict(left_out or {}),
        )

    def check(self, max_rejected: float) -> None:
        """Raise if too many were rejected.

        Raises
        ------
        BadRowsError
            More than that share, or all of them, or there are no rows.
        """
        n_bad = sum(self.rejected.values())
        if n_bad >= self.n_rows or n_bad > max_rejected * self.n_rows:
            raise BadRowsError(self.path, n_rows=self.n_rows, reasons=self.report().reasons)
