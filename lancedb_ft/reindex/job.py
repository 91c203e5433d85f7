"""The job: stage, fill, index, verify, gate, switch. Run again, it goes on where it stopped."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError, ReindexStateError
from lancedb_ft.generation import Generation, TableState
from lancedb_ft.reindex import switch as steps
from lancedb_ft.reindex.backfill import Backfill, FillReport
from lancedb_ft.reindex.commits import Change, now, transition
from lancedb_ft.reindex.gate import GateReport, check_gate, require_passed
from lancedb_ft.reindex.lock import job_folder, job_lock
from lancedb_ft.reindex.spill import Spill
from lancedb_ft.reindex.stage import stage
from lancedb_ft.reindex.target import Target, encoder_of, make_target, state_of
from lancedb_ft.reindex.vector_index import build_like, describe_index
from lancedb_ft.reindex.verify import Check, verify
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import database_uri

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.types import Evaluation, Gate, ModelVersion, Progress

__all__ = ["ReindexReport", "finish", "reindex", "rollback", "switch"]


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
    target, encoder = make_target(
        table,
        model,
        text_column=text_column,
        vector_column=vector_column,
        store=store,
        dims=dims,
        device=device,
        precision=precision,
    )
    with job_lock(table, model=target.model.ref):
        active = _already_active(table, target)
        generation = active or stage(table, target, writers_have_plugin=writers_have_plugin)
        # What one run began in one precision, the next one goes on in: the record speaks for all.
        if generation.details.get("precision", encoder.precision) != encoder.precision:
            encoder = encoder_of(table, generation, store=store, device=device)
        job = _Job(table, generation, encoder, progress)
        with job.timed("fill"):
            job.fill()
        with job.timed("verify"):
            check = verify(table, generation, encoder)
        if active is not None:
            note = "the table already searches with this model; rows that were stale were mended"
            return job.report(check, switched=True, note=note)
        with job.timed("index"):
            index = job.build_index()
        job.mark_ready(check, index)
        if gate is None and not force:
            note = "filled and verified, not shown: give a gate or force=True (reindex switch)"
            return job.report(check, switched=False, note=note, index=index)
        with job.timed("gate"):
            verdict = job.judge(gate, force, id_column, base, base_model, store)
        with job.timed("switch"):
            job.show(verdict, force=force)
        return job.report(check, switched=True, index=index, gate=verdict)


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
        coming = state_of(table).coming
        if coming is None or coming.phase != "ready":
            raise ReindexStateError(
                f"Table {table.name!r} has no generation that is ready to be shown. "
                "Run lancedb-ft reindex run first.",
                table=table.name,
                state=coming.phase if coming else "none",
            )
        job = _Job(table, coming, encoder_of(table, coming, store=store), None)
        job.fill()
        return job.show(job.judge(gate, force, id_column, base, base_model, store), force=force)


def rollback(table: Table) -> TableState:
    """Show the generation that was shown before, in one commit; `switch` goes forward again.

    Raises
    ------
    ReindexStateError
        There is none: the table was never switched, or `finish` removed it.
    """
    with job_lock(table):
        return steps.rollback(table)


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
        return steps.abandon(table) if abandon else steps.finish(table)


class _Job:
    """One generation being made and shown, with what its steps share."""

    def __init__(
        self,
        table: Table,
        generation: Generation,
        encoder: Encoder,
        progress: Progress | None,
    ) -> None:
        self._table = table
        self._generation = generation
        self._encoder = encoder
        self._filled = FillReport()
        self._stages: dict[str, float] = {}
        self._started = time.perf_counter()
        folder = job_folder(table) / f"{encoder.fingerprint[:16]}-{generation.dims}"
        self._backfill = Backfill(
            table, generation, encoder, Spill(folder, generation.dims), progress
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self._stages[stage] = time.perf_counter() - started

    def fill(self) -> None:
        """Make every row right; fragments that were right and did not change are not read again."""
        self._filled = self._backfill.run()

    def build_index(self) -> str | None:
        active = state_of(self._table).active
        like = None if active is None else describe_index(self._table, active.column)
        self._table.checkout_latest()
        return build_like(self._table, self._generation.column, self._generation.dims, like)

    def mark_ready(self, check: Check, index: str | None) -> None:
        details = {"check": check.to_dict(), "index": index, "ready_at": now()}
        number = self._generation.number

        def ready(state: TableState, ds: Any) -> Change | None:
            current = state.of(number)
            if current.phase != "staging":
                return None
            made = current.with_(phase="ready", details=details)
            return Change(state.put(made).record(event="ready", generation=number, at=now()))

        transition(self._table, ready, what="mark the generation ready")

    def judge(
        self,
        gate: Gate | None,
        force: bool,
        id_column: str | None,
        base: Evaluation | None,
        base_model: str | None,
        store: str | None,
    ) -> GateReport | None:
        """Measure what the gate asks; a no is an error, unless it is forced."""
        if gate is None:
            return None
        old = state_of(self._table).active
        if old is not None and old.source_column is None:
            old = old.with_(source_column=self._generation.source_column)
        self._table.checkout_latest()
        verdict = check_gate(
            self._table,
            gate,
            new=self._generation,
            old=old,
            encoder=self._encoder,
            id_column=id_column,
            base=base,
            base_model=base_model,
            store=store or default_store_uri(database_uri(self._table)),
        )
        if not force:
            require_passed(verdict)
        return verdict

    def show(self, verdict: GateReport | None, *, force: bool) -> TableState:
        """Sweep, switch, sweep: rows written between a sweep and the switch are mended after it."""
        self.fill()
        details: dict[str, Any] = {"forced": force and (verdict is None or not verdict.passed)}
        if verdict is not None:
            details["gate"] = {
                "passed": verdict.passed,
                "requirements": dict(verdict.requirements),
                "n": verdict.tuned.n,
            }
        state = steps.show(self._table, self._generation.number, details=details)
        self.fill()
        return state

    def report(
        self,
        check: Check,
        *,
        switched: bool,
        note: str = "",
        index: str | None = None,
        gate: GateReport | None = None,
    ) -> ReindexReport:
        return ReindexReport(
            table=self._table.name,
            model=str(self._generation.model),
            generation=self._generation.number,
            column=self._generation.column,
            switched=switched,
            fill=self._filled,
            check=check,
            precision=self._encoder.precision,
            index=index,
            gate=gate,
            seconds=time.perf_counter() - self._started,
            note=note,
            stages=self._stages,
        )


def _already_active(table: Table, target: Target) -> Generation | None:
    """Return the active generation if it is of this model and keeps hashes to mend it by."""
    active = state_of(table, target.vector_column).active
    same = (
        active is not None
        and active.hash_column is not None
        and active.fingerprint == target.fingerprint
        and active.dims == target.dims
    )
    return active if same else None
