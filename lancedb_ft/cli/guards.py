"""Options that hold a training to what must not be forgotten, and ``lancedb-ft interpolate``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_data_option
from lancedb_ft.cli.output import Output, figures_table, rows_table
from lancedb_ft.errors import InputError
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, id_column_of, open_table, read_corpus, text_column_of
from lancedb_ft.train import interpolate_models
from lancedb_ft.train.dev import retrieval_pairs
from lancedb_ft.train.guards import MAX_REGRESSION

__all__ = [
    "INTERPOLATE_EXAMPLE",
    "Interpolate",
    "MaxRegression",
    "ProbeOption",
    "Replay",
    "ReplayData",
    "ReplayDev",
    "guards_of",
    "interpolate_command",
]

INTERPOLATE_EXAMPLE = (
    "Example: lancedb-ft interpolate --base hf://sentence-transformers/all-MiniLM-L6-v2 "
    "--tuned support@2 --dev dev.jsonl --name support --store models"
)

#: Stands before the name of a table whose documents are the probe.
DOCUMENTS_PREFIX = "docs:"

ProbeOption = Annotated[
    list[str] | None,
    typer.Option(
        "--probe",
        help="What must not be forgotten: data as for --data, or docs:TABLE, documents of --db.",
    ),
]
MaxRegression = Annotated[
    float,
    typer.Option("--max-regression", help="How far nDCG@10 of a probe may fall; 1: measure only."),
]
Interpolate = Annotated[
    bool,
    typer.Option("--interpolate", help="Save the best weights between base and best checkpoint."),
]
Replay = Annotated[
    float | None,
    typer.Option("--replay", help="Share of the base's own training rows, 0 to below 1."),
]
ReplayData = Annotated[
    list[str] | None,
    typer.Option("--replay-data", help="What the base was trained on [default: read again]."),
]
ReplayDev = Annotated[
    str | None,
    typer.Option("--replay-dev", help="What the base was measured on [default: read again]."),
]


def guards_of(
    probe: list[str] | None,
    max_regression: float,
    interpolate: bool,
    replay: float | None = None,
    replay_data: list[str] | None = None,
    replay_dev: str | None = None,
    *,
    db: str | None,
) -> dict[str, Any]:
    """Return the arguments of `lancedb_ft.train.train` that the options mean.

    Raises
    ------
    InputError
        A file or table is not there, or data to replay are given without ``--replay``.
    """
    if replay is None and (replay_data or replay_dev):
        raise InputError("--replay-data and --replay-dev need --replay SHARE, such as 0.2.")
    return {
        "probe": _probes(probe, db) or None,
        "max_regression": max_regression,
        "interpolate": interpolate,
        "replay": replay,
        "replay_data": [read_data_option(each, db=db, split="train") for each in replay_data]
        if replay_data
        else None,
        "replay_dev": read_data_option(replay_dev, db=db, split="dev") if replay_dev else None,
    }


def _probes(given: list[str] | None, db: str | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for value in given or []:
        name = _name_of(value)
        name = name if name not in found else f"{name} {len(found) + 1}"
        if value.startswith(DOCUMENTS_PREFIX):
            found[name] = _documents(value.removeprefix(DOCUMENTS_PREFIX), db)
        else:
            found[name] = retrieval_pairs(read_data_option(value, db=db, split="test"))
    return found


def _name_of(value: str) -> str:
    """Name a probe by its table or file, without the folders that hold it."""
    last = value.replace("\\", "/").rstrip("/").split("/")[-1]
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "_.-") else " " for c in last)
    return " ".join(kept.split())[:60].lstrip("_.-") or "probe"


def _documents(name: str, db: str | None) -> dict[str, str]:
    if db is None:
        raise InputError(f"--probe docs:{name} names a table: say of which database with --db.")
    table = open_table(connect(db), name)
    key = id_column_of(table.schema, table=name)
    return read_corpus(table, key, text_column_of(table.schema, table=name))


def interpolate_command(
    base: Annotated[str, typer.Option("--base", help="What the tuned model was trained from.")],
    tuned: Annotated[str, typer.Option("--tuned", help="The tuned model, such as support@2.")],
    dev: Annotated[str, typer.Option("--dev", help="Held-out data, as for --data of train.")],
    name: Annotated[str, typer.Option("--name", help="Name of the model in the store.")],
    alpha: Annotated[
        list[float] | None,
        typer.Option(
            "--alpha", min=0, max=1, help="What to try [default: quarters, then eighths]."
        ),
    ] = None,
    probe: ProbeOption = None,
    max_regression: MaxRegression = MAX_REGRESSION,
    metric: Annotated[str | None, typer.Option("--metric", help="What decides on dev.")] = None,
    db: opt.OptionalDatabase = None,
    store: opt.Store = None,
    seed: opt.Seed = 0,
    device: opt.Device = None,
    as_json: opt.Json = False,
) -> None:
    """Save the weights between a model and one that was tuned from it which are best on dev.

    A cheap guard against forgetting: nothing is trained. Exits with 3, and saves nothing, when
    none beats the base, or those that do lose more on a probe than allowed.
    """
    out = Output(as_json)
    with out.progress(f"between {base} and {tuned}") as progress:
        model = interpolate_models(
            base,
            tuned,
            dev=read_data_option(dev, db=db, split="dev"),
            name=name,
            alphas=alpha or None,
            probe=_probes(probe, db) or None,
            max_regression=max_regression,
            metric=metric,
            store=store or (default_store_uri(db) if db else None),
            seed=seed,
            device=device,
            progress=progress,
        )
    found = model.manifest["interpolation"]
    value = {
        "ref": model.ref,
        "store": model.store,
        "fingerprint": model.fingerprint,
        "alpha": found["alpha"],
        "trials": found["trials"],
        "metrics": model.manifest["metrics"],
    }
    rows = [
        (t["alpha"], t["dev"][found["metric"]]["mean"], *_means(t["probe"]), t["allowed"])
        for t in found["trials"]
    ]
    names = list(found["trials"][0]["probe"])
    columns = ("alpha", f"dev {found['metric']}", *names, "allowed")
    shown = {"model": model.ref, "alpha": found["alpha"]}
    out.result(value, rows_table("Tried", columns, rows), figures_table("Saved", shown))


def _means(probes: dict[str, Any]) -> list[float]:
    return [float(figures["mean"]) for figures in probes.values()]
