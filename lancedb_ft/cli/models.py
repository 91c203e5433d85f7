"""``lancedb-ft models list | show | lineage | delete``."""

from __future__ import annotations

from typing import Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, figures_table, rows_table
from lancedb_ft.errors import InputError
from lancedb_ft.store import ModelStore, default_store_uri

app = typer.Typer(name="models", help="The models of a store.", no_args_is_help=True)

OptionalDatabase = Annotated[
    str | None,
    typer.Option("--db", help="Database whose store is meant.", envvar="LANCEDB_FT_DB"),
]
Reference = Annotated[str, typer.Argument(help="name@version, or name for the latest.")]


def _store(db: str | None, store: str | None) -> ModelStore:
    if store is None and db is None:
        raise InputError("Say which store: --store URI, or --db URI for the one in a database.")
    return ModelStore(store or default_store_uri(str(db)))


@app.command("list", epilog="Example: lancedb-ft models list --db kb")
def list_command(
    db: OptionalDatabase = None,
    store: opt.Store = None,
    name: Annotated[str | None, typer.Option("--name", help="Only this model.")] = None,
    as_json: opt.Json = False,
) -> None:
    """List the versions in a store."""
    out = Output(as_json)
    found = _store(db, store).list(name)
    rows = [
        (
            v.ref,
            v.kind,
            v.dims or None,
            v.fingerprint[:12],
            v.manifest.get("base"),
            v.manifest.get("created_at"),
        )
        for v in found
    ]
    value = [
        {
            "ref": v.ref,
            "kind": v.kind,
            "dims": v.dims,
            "fingerprint": v.fingerprint,
            "manifest": dict(v.manifest),
        }
        for v in found
    ]
    columns = ("model", "kind", "dims", "fingerprint", "base", "created")
    out.result({"models": value}, rows_table("Models", columns, rows))


@app.command("show", epilog="Example: lancedb-ft models show --db kb support@3")
def show_command(
    ref: Reference, db: OptionalDatabase = None, store: opt.Store = None, as_json: opt.Json = False
) -> None:
    """Show the manifest of one version."""
    out = Output(as_json)
    version = _store(db, store).load(ref)
    out.result(dict(version.manifest), figures_table(version.ref, version.manifest))


@app.command("lineage", epilog="Example: lancedb-ft models lineage --db kb support@3")
def lineage_command(
    ref: Reference, db: OptionalDatabase = None, store: opt.Store = None, as_json: opt.Json = False
) -> None:
    """Walk from a version back to its base: data, training, figures."""
    out = Output(as_json)
    steps = _store(db, store).lineage(ref)
    shown = [figures_table(str(step.get("ref")), step) for step in steps]
    out.result({"lineage": steps}, *shown)


@app.command("delete", epilog="Example: lancedb-ft models delete --db kb support@1")
def delete_command(
    ref: Reference,
    db: OptionalDatabase = None,
    store: opt.Store = None,
    force: Annotated[bool, typer.Option("--force", help="Also if a table uses it.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Delete a version; refused while a table searches with it."""
    out = Output(as_json)
    _store(db, store).delete(ref, force=force, databases=[db] if db else [])
    out.result({"deleted": ref}, f"Deleted {ref}.")
