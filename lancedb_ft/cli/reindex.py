"""``lancedb-ft reindex plan | run | status | switch | rollback | finish``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from rich.table import Table as RichTable

from lancedb_ft.cli import options as opt
from lancedb_ft.cli import status, verify
from lancedb_ft.cli.data import read_gate
from lancedb_ft.cli.engine import (
    Backend,
    Cache,
    EngineName,
    Processes,
    RayAddress,
    RayGpus,
    RayWorkers,
    read_engine,
)
from lancedb_ft.cli.output import Output, figures_table, rows_table
from lancedb_ft.errors import GateError
from lancedb_ft.reindex import (
    PlanCheck,
    ReindexReport,
    finish,
    plan_reindex,
    reindex,
    rollback,
    switch,
)
from lancedb_ft.table import connect, open_table
from lancedb_ft.types import Mode

app = typer.Typer(
    name="reindex",
    help="Change the embedding model of a live table, in one commit, with a way back.",
    no_args_is_help=True,
)

Model = Annotated[
    str, typer.Option("--model", help="name@version, a folder, or hf://org/name@rev.")
]
ReEmbed = Annotated[
    bool, typer.Option("--re-embed", help="Encode all rows, also where the vectors could stay.")
]
Require = Annotated[
    list[str] | None,
    typer.Option("--gate", help="Requirement, such as 'ndcg@10 >= base'; may be repeated."),
]
GateMode = Annotated[Mode, typer.Option("--gate-mode", help="Search that the gate measures.")]
GateReranker = Annotated[
    str | None,
    typer.Option(
        "--gate-reranker", help="The reranker that will serve: name@version of the store."
    ),
]
GateK = Annotated[
    int | None,
    typer.Option("--gate-k", min=1, help="Documents asked for, as limit(k) [default: as needed]."),
]


@app.command(
    "plan", epilog="Example: lancedb-ft reindex plan --db kb --table docs --model support@3"
)
def plan_command(
    db: opt.Database,
    table: opt.TableName,
    model: Model,
    text_column: opt.TextColumn = None,
    vector_column: opt.VectorColumn = None,
    store: opt.Store = None,
    dims: opt.Dims = None,
    device: opt.Device = None,
    precision: opt.Precision = "auto",
    base_model: opt.BaseModel = None,
    re_embed: ReEmbed = False,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    split_column: opt.SplitColumn = None,
    require: Require = None,
    gate_mode: GateMode = "vector",
    gate_reranker: GateReranker = None,
    gate_k: GateK = None,
    id_column: opt.IdColumn = None,
    as_json: opt.Json = False,
) -> None:
    """Estimate rows, tokens, seconds, bytes and peak disk from a sample; change nothing.

    With --queries-table and --qrels-table also what the gate would take. The report of the next
    run compares.
    """
    out = Output(as_json)
    connection = connect(db)
    docs = open_table(connection, table)
    plan = plan_reindex(
        docs,
        model,
        gate=read_gate(
            connection,
            docs,
            queries_table,
            qrels_table,
            split_column,
            require,
            gate_mode,
            id_column,
            gate_reranker,
            gate_k,
        ),
        id_column=id_column,
        text_column=text_column,
        vector_column=vector_column,
        store=store,
        dims=dims,
        device=device,
        precision=precision,
        base_model=base_model,
        re_embed=re_embed,
    )
    figures = plan.to_dict()
    notes = figures.pop("notes")
    out.result(plan, figures_table(f"Re-index {table} to {plan.model}", figures), *notes)


@app.command("run", epilog="Example: lancedb-ft reindex run --db kb --table docs --model support@3")
def run_command(
    db: opt.Database,
    table: opt.TableName,
    model: Model,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    split_column: opt.SplitColumn = None,
    require: Require = None,
    gate_mode: GateMode = "vector",
    gate_reranker: GateReranker = None,
    gate_k: GateK = None,
    force: opt.Force = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only plan.")] = False,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    vector_column: opt.VectorColumn = None,
    store: opt.Store = None,
    dims: opt.Dims = None,
    device: opt.Device = None,
    precision: opt.Precision = "auto",
    base_model: opt.BaseModel = None,
    writers_have_plugin: Annotated[
        bool, typer.Option("--writers-have-plugin", help="Every writer imports lancedb_ft.")
    ] = False,
    re_embed: ReEmbed = False,
    engine: EngineName = "local",
    address: RayAddress = None,
    workers: RayWorkers = None,
    num_gpus: RayGpus = None,
    processes: Processes = None,
    backend: Backend = "torch",
    cache: Cache = None,
    as_json: opt.Json = False,
) -> None:
    """Fill, verify and index the new vectors beside the old; with a gate or --force, switch.

    The gate needs test queries: --queries-table and --qrels-table. Killed at any moment, the
    same command goes on where it stopped.
    """
    if dry_run:
        plan_command(
            db,
            table,
            model,
            text_column,
            vector_column,
            store,
            dims,
            device,
            precision,
            base_model,
            re_embed,
            queries_table,
            qrels_table,
            split_column,
            require,
            gate_mode,
            gate_reranker,
            gate_k,
            id_column,
            as_json,
        )
        return
    out = Output(as_json)
    connection = connect(db)
    docs = open_table(connection, table)
    gate = read_gate(
        connection,
        docs,
        queries_table,
        qrels_table,
        split_column,
        require,
        gate_mode,
        id_column,
        gate_reranker,
        gate_k,
    )
    with showing_refusals(out), out.progress(f"re-indexing {table}") as progress:
        report = reindex(
            docs,
            model,
            gate=gate,
            force=force,
            text_column=text_column,
            vector_column=vector_column,
            id_column=id_column,
            store=store,
            dims=dims,
            device=device,
            precision=precision,
            base_model=base_model,
            writers_have_plugin=writers_have_plugin,
            re_embed=re_embed,
            engine=read_engine(engine, address, workers, num_gpus, processes),
            backend=backend,
            cache=cache,
            progress=progress,
        )
    out.result(report, *shown_report(report))


app.command("status", epilog=status.EXAMPLE)(status.status_command)
app.command("verify", epilog=verify.EXAMPLE)(verify.verify_command)


@app.command("switch", epilog="Example: lancedb-ft reindex switch --db kb --table docs --force")
def switch_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    split_column: opt.SplitColumn = None,
    require: Require = None,
    gate_mode: GateMode = "vector",
    gate_reranker: GateReranker = None,
    gate_k: GateK = None,
    force: opt.Force = False,
    id_column: opt.IdColumn = None,
    store: opt.Store = None,
    base_model: opt.BaseModel = None,
    as_json: opt.Json = False,
) -> None:
    """Show the generation that is ready, if the gate says yes."""
    out = Output(as_json)
    connection = connect(db)
    docs = open_table(connection, table)
    gate = read_gate(
        connection,
        docs,
        queries_table,
        qrels_table,
        split_column,
        require,
        gate_mode,
        id_column,
        gate_reranker,
        gate_k,
    )
    with showing_refusals(out):
        state = switch(
            docs, gate=gate, force=force, id_column=id_column, base_model=base_model, store=store
        )
    _say_active(out, table, state)


@app.command("rollback", epilog="Example: lancedb-ft reindex rollback --db kb --table docs")
def rollback_command(
    db: opt.Database,
    table: opt.TableName,
    to: Annotated[
        int | None, typer.Option("--to", help="Number of a generation shown earlier still.")
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Show the generation that was shown before, in one commit."""
    _say_active(Output(as_json), table, rollback(open_table(connect(db), table), to))


@app.command("finish", epilog="Example: lancedb-ft reindex finish --db kb --table docs")
def finish_command(
    db: opt.Database,
    table: opt.TableName,
    abandon: Annotated[
        bool, typer.Option("--abandon", help="Remove the new, unshown vectors instead.")
    ] = False,
    grace: Annotated[
        float | None,
        typer.Option(
            "--grace",
            min=0,
            help="Seconds from the last switch on that queries on their way are waited for.",
            show_default="10",
        ),
    ] = None,
    drop: Annotated[
        list[str] | None,
        typer.Option("--drop", help="A column that may go though it may be data of yours."),
    ] = None,
    as_json: opt.Json = False,
) -> None:
    """Remove the old vectors after a switch. There is no rollback afterwards."""
    out = Output(as_json)
    removed = finish(
        open_table(connect(db), table), abandon=abandon, grace_s=grace, drop=drop or ()
    )
    listed = [{"generation": g.number, "column": g.column, "model": g.model} for g in removed]
    told = ", ".join(f"generation {g.number} ({g.column or 'no column'})" for g in removed)
    out.result({"removed": listed}, f"Removed {told} of {table}.")


def shown_report(report: ReindexReport) -> list[RichTable | str]:
    """Return what a person sees of a re-index."""
    fill = report.fill.to_dict()
    figures = {
        "model": report.model,
        "column": report.column,
        "rows": fill["rows"],
        "encoded": fill["encoded"],
        "rows_per_s": fill["rows_per_s"],
        "encoder busy": f"{fill['encode_share']:.1%} of filling",
        "precision": report.precision,
        "backend": report.backend,
        "agreement with float32": _agreement(report.agreement),
        "cache hit rate": fill["cache_hit_rate"],
        "index": report.index,
        "lowest sampled cosine": report.check.min_cosine,
        "seconds": report.seconds,
        "switched": "yes" if report.switched else "no",
    }
    shown: list[RichTable | str] = [figures_table(f"Re-indexed {report.table}", figures)]
    if report.plan is not None:
        shown.append(plan_table(report.plan))
    if report.gate is not None:
        shown.append(gate_table(report.gate.to_dict()))
    for name, recall in report.index_recall.items():
        if recall.rows is not None:
            shown.append(f"Recall@10 of the {name} index: {recall.rows} (n = {recall.rows.n})")
    shown.extend(note for note in (report.note, *report.notes) if note)
    return shown


def _agreement(found: Mapping[str, Any] | None) -> str | None:
    """Say what was found on texts of the table; None where float32 itself was used."""
    if found is None:
        return None
    overlap = found["top10_overlap"]
    near = "" if overlap is None else f", top-10 overlap {overlap:.3f}"
    told = "" if found["holds"] else ": too little, float32 was used"
    return (
        f"mean cosine {found['mean_cosine']:.5f}{near} on {found['n_texts']} texts, "
        f"{found['speedup']:.2f} times as fast{told}"
    )


def plan_table(check: PlanCheck) -> RichTable:
    """Return what the plan predicted beside what came of it."""
    units = {"seconds": 1.0, "bytes": 1e-6, "peak_disk_bytes": 1e-6}
    rows: list[tuple[Any, ...]] = [
        (
            name.replace("_", " ").replace("bytes", "MB"),
            check.predicted[name] * unit,
            check.real[name] * unit,
            check.ratio(name),
        )
        for name, unit in units.items()
    ]
    for stage, seconds in check.real_stages.items():
        rows.append((f"  {stage}, seconds", check.predicted_stages[stage], seconds, None))
    return rows_table("Plan and reality", ("", "predicted", "real", "ratio"), rows)


def gate_table(report: Mapping[str, Any]) -> RichTable:
    """Return what the gate measured: each requirement with both figures and the verdict."""
    rows = [
        (
            v["requirement"],
            _estimate(v["base"]),
            _estimate(v["value"]),
            v["bound"],
            v["value"]["n"],
            "yes" if v["holds"] else "NO",
        )
        for v in report["verdicts"]
    ]
    with_reranker = f", reranked by {report['reranker']}" if report["reranker"] else ""
    title = f"Gate: {report['mode']} search{with_reranker}"
    return rows_table(title, ("requirement", "base", "new", "bound", "n", "holds"), rows)


def _estimate(found: Mapping[str, Any] | None) -> str | None:
    if found is None:
        return None
    low, high = found["ci95"]
    return f"{found['mean']:,.3f} [{low:,.3f}, {high:,.3f}]"


@contextmanager
def showing_refusals(out: Output) -> Iterator[None]:
    """Show a person the figures of a gate that says no; the error and its exit code go on."""
    try:
        yield
    except GateError as error:
        if not out.as_json:
            out.result(error.report, gate_table(error.report))
        raise


def _say_active(out: Output, table: str, state: Any) -> None:
    active = state.active
    value = {
        "generation": active.number if active else None,
        "column": active.column if active else None,
        "model": active.model if active else None,
    }
    told = f"{active.model} ({active.column})" if active else "no vectors"
    out.result(value, f"{table} now searches with {told}.")
