"""The command line: one command a verb; errors become one line and an exit code."""

from __future__ import annotations

import json
import os
import sys
from typing import Annotated, Any

import typer

from lancedb_ft._version import __version__
from lancedb_ft.cli.storage import give_storage_options
from lancedb_ft.errors import GateError, LancedbFtError

__all__ = ["build_app", "main"]

#: What typer makes of Ctrl-C, as shells do.
_INTERRUPTED = 130


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Fine-tuned embedding models for LanceDB tables: train, measure, re-index live, search."""


def build_app() -> typer.Typer:
    """Return the application with all its commands."""
    from lancedb_ft.cli import (
        audit,
        autoload,
        churn,
        clicks,
        convert,
        data,
        demo,
        distill,
        evaluate,
        fusion,
        guards,
        improve,
        mine,
        models,
        reindex,
        rerankers,
        search,
        sweep,
        tiers,
        train,
        tune,
    )

    app = typer.Typer(
        name="lancedb-ft",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        # In rich's own markup "[default: chosen]" is a style, and nothing of it is shown.
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    app.command("load", epilog=data.LOAD_EXAMPLE)(data.load_command)
    app.command("load-clicks", epilog=clicks.EXAMPLE)(clicks.load_clicks_command)
    app.command("convert", epilog=convert.EXAMPLE)(convert.convert_command)
    app.command("audit", epilog=audit.EXAMPLE)(audit.audit_command)
    app.command("mine", epilog=mine.EXAMPLE)(mine.mine_command)
    app.command("train", epilog=train.EXAMPLE)(train.train_command)
    app.command("train-reranker", epilog=rerankers.EXAMPLE)(rerankers.train_reranker_command)
    app.command("distill", epilog=distill.EXAMPLE)(distill.distill_command)
    app.command("interpolate", epilog=guards.INTERPOLATE_EXAMPLE)(guards.interpolate_command)
    app.command("tune", epilog=tune.EXAMPLE)(tune.tune_command)
    app.command("evaluate", epilog=evaluate.EVALUATE_EXAMPLE)(evaluate.evaluate_command)
    app.command("compare", epilog=evaluate.COMPARE_EXAMPLE)(evaluate.compare_command)
    app.add_typer(models.app)
    app.add_typer(reindex.app)
    app.command("sweep", epilog=sweep.EXAMPLE)(sweep.sweep_command)
    app.command("settle", epilog=churn.SETTLE_EXAMPLE)(churn.settle_command)
    app.command("calibrate", epilog=tiers.EXAMPLE)(tiers.calibrate_command)
    app.command("maintain", epilog=churn.MAINTAIN_EXAMPLE)(churn.maintain_command)
    app.command("status", epilog=churn.STATUS_EXAMPLE)(churn.status_command)
    app.command("search", epilog=search.EXAMPLE)(search.search_command)
    app.add_typer(fusion.app)
    app.command("improve", epilog=improve.EXAMPLE)(improve.improve_command)
    app.command("demo", epilog=demo.EXAMPLE)(demo.demo_command)
    app.add_typer(autoload.app)
    give_storage_options(app)
    return app


def main() -> None:
    """Run the command line; the entry point ``lancedb-ft``.

    Exits with 0 when done, 1 when it failed, 2 for wrong usage, 3 when a gate or a verdict said
    no, 130 when interrupted. With ``--json`` an error, of whatever kind, is one JSON object on
    stdout too.
    """
    # OpenMP threads that spin while they wait cost a busy machine up to five sixths of its rate.
    # Read when torch is imported, which no command has done yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # Lance warns at each DataReplacement that it may change; tests/test_canary.py watches that.
    os.environ.setdefault("LANCE_LOG", "error")
    # Statistics of an index without its centroids: nobody reads them, and they can be many.
    os.environ.setdefault("LANCE_INCLUDE_VECTOR_CENTROIDS", "false")
    try:
        build_app()()
    except LancedbFtError as error:
        more = {"report": error.report} if isinstance(error, GateError) else {}
        _tell(type(error).__name__, str(error), **more)
        raise SystemExit(error.exit_code) from None
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, SystemExit) and stop.code != _INTERRUPTED:
            # Typer has told people on stderr already, and raises this while it handles the error.
            usage: Any = stop.__context__
            if hasattr(usage, "format_message"):
                _put_object("UsageError", usage.format_message())
            raise
        _tell("Interrupted", "Interrupted. The same command goes on where this one stopped.")
        raise SystemExit(_INTERRUPTED) from None
    except Exception as error:
        _tell(type(error).__name__, str(error))
        raise  # a mistake of ours, or of a library: the traceback says where


def _tell(name: str, message: str, **more: Any) -> None:
    """Say what went wrong on stderr and, with ``--json``, in one object on stdout."""
    if _is_first():
        _put_object(name, message, **more)
        sys.stderr.write(f"lancedb-ft: {message}\n")


def _put_object(name: str, message: str, **more: Any) -> None:
    if "--json" in sys.argv and _is_first():
        found = {"error": name, "message": message, **more}
        sys.stdout.write(json.dumps(found, ensure_ascii=False) + "\n")


def _is_first() -> bool:
    """Say whether this is the process that tells, of several that run one command."""
    return int(os.environ.get("RANK") or 0) == 0
