"""``lancedb-ft autoload install | remove | status``."""

from __future__ import annotations

import typer

from lancedb_ft import autoload
from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, figures_table

app = typer.Typer(
    name="autoload",
    help="For applications that cannot add an import: load the plugin on first use of 'ft-embed'.",
    no_args_is_help=True,
)


@app.command("install", epilog="Example: lancedb-ft autoload install")
def install_command(as_json: opt.Json = False) -> None:
    """Write the hook into this environment's site-packages."""
    _show(autoload.install(), as_json)


@app.command("remove", epilog="Example: lancedb-ft autoload remove")
def remove_command(as_json: opt.Json = False) -> None:
    """Remove the hook."""
    _show(autoload.remove(), as_json)


@app.command("status", epilog="Example: lancedb-ft autoload status")
def status_command(as_json: opt.Json = False) -> None:
    """Say whether the hook is there."""
    _show(autoload.status(), as_json)


def _show(status: autoload.AutoloadStatus, as_json: bool) -> None:
    from dataclasses import asdict

    Output(as_json).result(status, figures_table("Autoload", asdict(status)))
