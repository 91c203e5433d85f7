"""The options that say which rows are hot, and ``lancedb-ft calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output
from lancedb_ft.errors import InputError
from lancedb_ft.search.calibrate import calibrate
from lancedb_ft.search.calibration import Calibration
from lancedb_ft.search.tiers import Tiers
from lancedb_ft.table import connect, open_table

__all__ = ["HotWhere", "RowVersions", "Settle", "UpdatedAt", "given_tiers"]

EXAMPLE = (
    "Example: lancedb-ft calibrate --db kb --table docs --updated-at updated_at "
    "--queries asked.txt --to calibration.json"
)

UpdatedAt = Annotated[
    str | None, typer.Option("--updated-at", help="Column with the time of each row's last change.")
]
HotWhere = Annotated[
    str | None, typer.Option("--hot-where", help="SQL that is true for rows that are hot.")
]
RowVersions = Annotated[
    bool, typer.Option("--row-versions", help="Take the time of a change from Lance's versions.")
]
Settle = Annotated[
    str, typer.Option("--settle", help="A row quiet for this long is embedded: 12h, 7d.")
]


def given_tiers(
    updated_at: str | None,
    where: str | None,
    row_versions: bool,
    quiet: str,
    calibration: Path | None = None,
) -> Tiers | None:
    """Return the policy that the options name, None where they name none.

    Raises
    ------
    InputError
        Several were named, one cannot be used, or there is a calibration and no policy.
    """
    if updated_at is None and where is None and not row_versions:
        if calibration is not None:
            raise InputError(
                "--calibration needs a policy of tiers: --updated-at, --hot-where or "
                "--row-versions."
            )
        return None
    return Tiers(
        updated_at=updated_at,
        where=where,
        row_versions=row_versions,
        settle=quiet,
        calibration=None if calibration is None else _read(calibration),
    )


def calibrate_command(
    db: opt.Database,
    table: opt.TableName,
    to: Annotated[Path, typer.Option("--to", help="Write the calibration to this JSON file.")],
    updated_at: UpdatedAt = None,
    hot_where: HotWhere = None,
    row_versions: RowVersions = False,
    quiet: Settle = "7d",
    queries: Annotated[
        Path | None,
        typer.Option("--queries", help="Text file, one query a line [default: pieces of texts]."),
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, help="Queries to sample at most.")] = 200,
    depth: Annotated[int, typer.Option("--depth", min=1, help="Rows of each search.")] = 50,
    text_column: opt.TextColumn = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Sample what makes the scores of hot rows comparable with those of the core.

    Then search with --calibration FILE. Right for one model: calibrate again after a switch.
    """
    out = Output(as_json)
    tiers = given_tiers(updated_at, hot_where, row_versions, quiet)
    if tiers is None:
        raise InputError("Say which rows are hot: --updated-at, --hot-where or --row-versions.")
    asked = None if queries is None else [line for line in _text(queries).splitlines() if line]
    with out.progress(f"sampling {table}"):
        found = calibrate(
            open_table(connect(db), table),
            tiers,
            asked,
            n=n,
            depth=depth,
            seed=seed,
            text_column=text_column,
        )
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(found.to_json(), encoding="utf-8")
    shares = found.shares(depth)
    out.result(
        {"file": str(to), "n_queries": found.n_queries, "source": found.source, "shares": shares},
        f"Sampled {found.n_queries:,} queries into {to}: a hot row without a vector gets "
        f"{shares[0]:.4f} at the first place by full text, {shares[-1]:.4f} at the last.",
    )


def _read(path: Path) -> Calibration:
    return Calibration.from_json(_text(path))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as text: {error}.") from error
