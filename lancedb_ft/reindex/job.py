"""The job: stage, fill, index, verify, gate, switch. Run again, it goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.embedding import function_entry
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError, ReindexStateError
from lancedb_ft.generation import Generation, TableState, read_state
from lancedb_ft.reindex.backfill import Backfill, FillReport
from lancedb_ft.reindex.commits import Change, now, transition
from lancedb_ft.reindex.gate import GateReport, check_gate, require_passed
from lancedb_ft.reindex.lock import job_folder, job_lock
from lancedb_ft.reindex.spill import Spill
from lancedb_ft.reindex.stage import stage
from lancedb_ft.reindex.switch import abandon as _abandon
from lancedb_ft.reindex.switch import finish as _finish
from lancedb_ft.reindex.switch import rollback as _rollback
from lancedb_ft.reindex.switch import show
from lancedb_ft.reindex.vector_index import build_like, describe_index
from lancedb_ft.reindex.verify import Check, verify
from lancedb_ft.store import default_store_uri, resolve_model
from lancedb_ft.table import database_uri, dataset, require_column, text_column_of

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.store import ResolvedModel
    from lancedb_ft.types import Evaluation, Gate, ModelVersion, Progress

__all__ = ["ReindexReport", "Target", "finish", "reindex", "rollback", "switch"]


@dataclass(frozen=True)
class Target:
    """What a table is re-indexed to: a model, and the columns it reads and replaces."""

    table_name: str
    model: ResolvedModel
    text_column: str
    dims: int
    precision: str
    vector_column: str | None = None

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the model."""
        return self.model.fingerprint

    def entry(self, column: str) -> dict[str, Any]:
        """Return LanceDB's entry for the model's function on that vector column."""
        dims = self.dims if self.dims != self.model.dims else None
        return function_entry(
            self.model, source_column=self.text_column, vector_column=column, dims=dims
        )


@dataclass(frozen=True)
class ReindexReport:
    """What a re-index did, and whether the table now searches with the new model."""

    table: str
    model: str
    generation: int
    column: str
    switched: bool
    fill: FillReport
    check: Check
    precision: str
    index: str | None = None
    gate: GateReport | None = None
    seconds: float = 0.0
    note: str = ""
    stages: Mapping[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "table": self.table,
            "model": self.model,
            "generation": self.generation,
            "column": self.column,
            "switched": self.switched,
            "precision": self.precision,
            "index": self.index,
            **self.fill.to_dict(),
            "check": self.check.to_dict(),
            "gate": None if self.gate is None else self.gate.to_dict(),
            "total_seconds": round(self.seconds, 3),
            "stages": {name: round(s, 3) for name, s in self.stages.items()},
            "note": self.note,
        }


def reindex(
    table: Table,
    model: str | ModelVersion,
    *,
    gate: Gate | None = None,
    force: bool = False,
    text_column: str | None = None,
    vector_column: str | None = None,
    id_column: str | None = None,
    store: str | None = None,
    dims: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    base: Evaluation | None = None,
    base_model: str | None = None,
    writers_have_plugin: bool = False,
    progress: Progress | None = None,
) -> ReindexReport:
    """Give a table the vectors of another model while it goes on being searched and written.

    The new vectors are filled into a parked column that plain LanceDB does not see. When they
    are complete, verified and indexed, and the gate says yes, one commit shows them and hides
    the old ones. Without a gate and without ``force`` the job ends there, *ready*: see `switch`.
    Killed at any moment, the same call goes on where it stopped.

    Parameters
    ----------
    table
        The table. It may have a vector column with any embedding function, with none, or no
        vector column at all.
    model
        ``name@version``, a folder, ``hf://org/name@revision``, or what `train` returned.
    gate
        What the new vectors must reach on the real table, see `Gate`.
    force
        Switch whatever the gate says, or without one. Noted in the table's history.
    text_column, vector_column, id_column
        Found by themselves where the table leaves no choice.
    store
        The model store; by default ``ft_models`` inside the database.
    dims
        Keep only the first ``dims`` dimensions (models trained for it: Matryoshka).
    device, precision
        Where and how to encode, see `get_encoder`.
    base
        Figures of what serves now, for a table without vectors.
    base_model
        The model of a raw vector column, for the gate.
    writers_have_plugin
        Every writer imports lancedb_ft: register the function while staging already.
    progress
        Called with rows done and rows in all.

    Raises
    ------
    GateError
        The gate said no; the table is as it was, with the new vectors parked.
    VerifyError
        The vectors are incomplete or of another model.
    ReindexRunningError
        Another process is at it.
    """
    started = time.perf_counter()
    target, encoder = _target(
        table, model, text_column, vector_column, store, dims, device, precision
    )
    stages: dict[str, float] = {}
    with job_lock(table, model=target.model.ref):
        done = _already_active(table, target)
        generation = done or stage(table, target, writers_have_plugin=writers_have_plugin)
        # What one run began in one precision, the next one goes on in: the record speaks for all.
        recorded = str(generation.details.get("precision", encoder.precision))
        if recorded != encoder.precision:
            encoder = get_encoder(target.model, device=device, precision=recorded, dims=dims)
        generation = _with_columns(generation, text_column)
        with _timed(stages, "fill"):
            fill = _fill(table, generation, encoder, progress)
        with _timed(stages, "verify"):
            check = verify(table, generation, encoder)
        if done is not None:
            note = "the table already searches with this model; rows that were stale were mended"
            return _report(table, target, generation, fill, check, started, stages, True, note)
        with _timed(stages, "index"):
            index = _index(table, generation)
        _mark_ready(table, generation, check, index)
        if gate is None and not force:
            note = "filled and verified, not shown: give a gate or force=True (reindex switch)"
            return _report(
                table, target, generation, fill, check, started, stages, False, note, index=index
            )
        verdict = None
        if gate is not None:
            with _timed(stages, "gate"):
                verdict = _judge(
                    table, gate, generation, encoder, id_column, base, base_model, store
                )
            if not force:
                require_passed(verdict)
        with _timed(stages, "switch"):
            _swap(table, generation, encoder, fill, verdict, force=force)
    return _report(
        table, target, generation, fill, check, started, stages, True, index=index, gate=verdict
    )


def switch(
    table: Table,
    *,
    gate: Gate | None = None,
    force: bool = False,
    id_column: str | None = None,
    base: Evaluation | None = None,
    base_model: str | None = None,
    store: str | None = None,
) -> TableState:
    """Show the generation that is ready, if the gate says yes.

    Raises
    ------
    ReindexStateError
        No generation is ready.
    InputError
        Neither a gate nor ``force`` was given.
    GateError
        The gate said no.
    """
    if gate is None and not force:
        raise InputError(
            "A switch needs a gate, so that it is measured, or force=True (--force) to go without."
        )
    with job_lock(table):
        state = _state(table)
        coming = state.coming
        if coming is None or coming.phase != "ready":
            raise ReindexStateError(
                f"Table {table.name!r} has no generation that is ready to be shown. "
                "Run lancedb-ft reindex run first.",
                table=table.name,
                state=coming.phase if coming else "none",
            )
        encoder = _encoder_of(table, coming, store)
        fill = _fill(table, coming, encoder, None)
        verdict = None
        if gate is not None:
            verdict = _judge(table, gate, coming, encoder, id_column, base, base_model, store)
            if not force:
                require_passed(verdict)
        return _swap(table, coming, encoder, fill, verdict, force=force)


def rollback(table: Table) -> TableState:
    """Show the generation that was shown before, in one commit; `switch` goes forward again.

    Raises
    ------
    ReindexStateError
        There is none: the table was never switched, or `finish` removed it.
    """
    with job_lock(table):
        return _rollback(table)


def finish(table: Table, *, abandon: bool = False) -> list[Generation]:
    """Remove the old vectors after a switch; with ``abandon``, the new ones before it.

    Returns
    -------
    list of Generation
        Those removed.

    Raises
    ------
    ReindexStateError
        There is nothing to remove.
    """
    with job_lock(table):
        return _abandon(table) if abandon else _finish(table)


# --- the parts of the job ------------------------------------------------------------------


def _target(
    table: Table,
    model: str | ModelVersion,
    text_column: str | None,
    vector_column: str | None,
    store: str | None,
    dims: int | None,
    device: str | None,
    precision: str,
) -> tuple[Target, Encoder]:
    ds = dataset(table)
    text = text_column_of(ds.schema, text_column, table=table.name)
    if vector_column is not None:
        require_column(ds.schema, vector_column, table=table.name)
    resolved = resolve_model(model, store=store or default_store_uri(database_uri(table)))
    encoder = get_encoder(resolved, device=device, precision=precision, dims=dims)
    target = Target(
        table_name=table.name,
        model=resolved,
        text_column=text,
        dims=encoder.dims,
        precision=encoder.precision,
        vector_column=vector_column,
    )
    return target, encoder


def _state(table: Table, vector_column: str | None = None) -> TableState:
    return read_state(dataset(table).schema, table=table.name, vector_column=vector_column)


def _already_active(table: Table, target: Target) -> Generation | None:
    """Return the active generation if it is of this model and keeps hashes to mend it by."""
    active = _state(table, target.vector_column).active
    same = (
        active is not None
        and active.hash_column is not None
        and active.fingerprint == target.fingerprint
        and active.dims == target.dims
    )
    return active if same else None


def _with_columns(generation: Generation, text_column: str | None) -> Generation:
    return generation.with_(source_column=generation.source_column or text_column)


def _fill(
    table: Table, generation: Generation, encoder: Encoder, progress: Progress | None
) -> FillReport:
    folder = job_folder(table) / f"{encoder.fingerprint[:16]}-{generation.dims}"
    spill = Spill(folder, generation.dims)
    report = Backfill(table, generation, encoder, spill, progress).run()
    spill.clear()
    return report


def _index(table: Table, generation: Generation) -> str | None:
    active = _state(table).active
    like = None if active is None else describe_index(table, active.column)
    table.checkout_latest()
    return build_like(table, generation.column, generation.dims, like)


def _mark_ready(table: Table, generation: Generation, check: Check, index: str | None) -> None:
    details = {"check": check.to_dict(), "index": index, "ready_at": now()}

    def ready(state: TableState, ds: Any) -> Change | None:
        current = state.of(generation.number)
        if current.phase != "staging":
            return None
        return Change(
            state.put(current.with_(phase="ready", details=details)).record(
                event="ready", generation=current.number, at=now()
            )
        )

    transition(table, ready, what="mark the generation ready")


def _judge(
    table: Table,
    gate: Gate,
    generation: Generation,
    encoder: Encoder,
    id_column: str | None,
    base: Evaluation | None,
    base_model: str | None,
    store: str | None,
) -> GateReport:
    old = _state(table).active
    if old is not None and old.source_column is None:
        old = old.with_(source_column=generation.source_column)
    table.checkout_latest()
    return check_gate(
        table,
        gate,
        new=generation,
        old=old,
        encoder=encoder,
        id_column=id_column,
        base=base,
        base_model=base_model,
        store=store or default_store_uri(database_uri(table)),
    )


def _swap(
    table: Table,
    generation: Generation,
    encoder: Encoder,
    fill: FillReport,
    verdict: GateReport | None,
    *,
    force: bool,
) -> TableState:
    """Sweep, switch, sweep: rows written between a sweep and the switch are mended right after."""
    before = _fill(table, generation, encoder, None)
    forced = force and (verdict is None or not verdict.passed)
    details: dict[str, Any] = {"forced": forced}
    if verdict is not None:
        details["gate"] = {
            "passed": verdict.passed,
            "requirements": dict(verdict.requirements),
            "n": verdict.tuned.n,
        }
    state = show(table, generation.number, details=details)
    after = _fill(table, generation, encoder, None)
    fill.encoded += before.encoded + after.encoded
    fill.seconds += before.seconds + after.seconds
    return state


def _encoder_of(table: Table, generation: Generation, store: str | None) -> Encoder:
    """Return the encoder of a generation, checked against the fingerprint in the table."""
    if generation.function is None or generation.model is None:
        raise InputError(f"Generation {generation.number} of {table.name!r} names no model.")
    return get_encoder(
        generation.model,
        store=store or default_store_uri(database_uri(table)),
        precision=str(generation.details.get("precision", "auto")),
        dims=generation.dims,
        fingerprint=generation.fingerprint,
    )


@contextmanager
def _timed(stages: dict[str, float], name: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    stages[name] = stages.get(name, 0.0) + time.perf_counter() - started


def _report(
    table: Table,
    target: Target,
    generation: Generation,
    fill: FillReport,
    check: Check,
    started: float,
    stages: dict[str, float],
    switched: bool,
    note: str = "",
    *,
    index: str | None = None,
    gate: GateReport | None = None,
) -> ReindexReport:
    return ReindexReport(
        table=table.name,
        model=target.model.ref,
        generation=generation.number,
        column=generation.column,
        switched=switched,
        fill=fill,
        check=check,
        precision=target.precision,
        index=index,
        gate=gate,
        seconds=time.perf_counter() - started,
        note=note,
        stages=stages,
    )
