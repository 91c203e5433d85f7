"""One generation being made and shown, or one whose queries alone are new: what the verbs run."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.generation import Generation, TableState
from lancedb_ft.reindex import switch as steps
from lancedb_ft.reindex.checks.verify import Check, verify_documents
from lancedb_ft.reindex.commits import Change, now, retrying, transition, was_cleaned_away
from lancedb_ft.reindex.engines import FillWork, engine_of
from lancedb_ft.reindex.filling.backfill import FillReport
from lancedb_ft.reindex.filling.right import RightFragments
from lancedb_ft.reindex.filling.spill import Spill
from lancedb_ft.reindex.gates.gate import GateReport, require_passed
from lancedb_ft.reindex.indexes.index_recall import IndexRecall, recall_note, row_recall
from lancedb_ft.reindex.indexes.vector_index import (
    build_like,
    count_vectors,
    describe_index,
    index_notes,
    refresh_index,
)
from lancedb_ft.reindex.lock import job_folder, spill_name
from lancedb_ft.reindex.plans.plan_check import PlanCheck, Watch
from lancedb_ft.reindex.query_only import proposed, record, show_queries
from lancedb_ft.reindex.target import Target, state_of
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.reindex.engines import Engine
    from lancedb_ft.reindex.filling.vector_cache import VectorCache
    from lancedb_ft.reindex.gates.approval import Approval
    from lancedb_ft.types import Progress

__all__ = ["GenerationJob", "QueryJob", "ReindexReport"]


@dataclass(frozen=True)
class ReindexReport:
    """What a re-index did, and whether the table now searches with the new model.

    ``query_only``: the documents' vectors were those of the new model already, and stayed.
    ``index_recall`` is what the ``old`` and the ``new`` index find of what exact search finds.
    ``notes`` are what a user should know of the new index before it serves. ``plan`` compares
    with what `plan_reindex` predicted, where it was asked before.
    """

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
    query_only: bool = False
    backend: str = "torch"
    agreement: Mapping[str, Any] | None = None
    index_recall: Mapping[str, IndexRecall] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    plan: PlanCheck | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {
            "table": self.table,
            "model": self.model,
            "generation": self.generation,
            "column": self.column,
            "switched": self.switched,
            "query_only": self.query_only,
            "precision": self.precision,
            "backend": self.backend,
            "agreement": self.agreement,
            "index": self.index,
            "index_recall": {name: r.to_dict() for name, r in self.index_recall.items()},
            **self.fill.to_dict(),
            "check": self.check.to_dict(),
            "gate": None if self.gate is None else self.gate.to_dict(),
            "total_seconds": round(self.seconds, 3),
            "stages": {name: round(s, 3) for name, s in self.stages.items()},
            "note": self.note,
            "notes": list(self.notes),
            "plan": None if self.plan is None else self.plan.to_dict(),
        }


class GenerationJob:
    """One generation being made and shown, with what its steps share."""

    def __init__(
        self,
        table: Table,
        generation: Generation,
        encoder: Encoder,
        progress: Progress | None,
        engine: str | Engine = "local",
        *,
        cache: VectorCache | None = None,
        donors: tuple[Generation, ...] = (),
        device: str | None = None,
    ) -> None:
        self._table = table
        self._generation = generation
        self._encoder = encoder
        self._filled = FillReport()
        self._stages: dict[str, float] = {}
        self._recall: dict[str, IndexRecall] = {}
        self._notes: list[str] = []
        self._started = time.perf_counter()
        folder = job_folder(table) / spill_name(encoder, generation.dims)
        self._watch = Watch(
            table, fingerprint=encoder.fingerprint, dims=generation.dims, spill=folder
        )
        progress = self._watch.progress(progress)
        self._backfill = engine_of(engine).filler(
            FillWork(
                table,
                generation,
                encoder,
                Spill(folder, generation.dims),
                progress,
                cache=cache,
                donors=donors,
                right=RightFragments(
                    job_folder(table) / f"right-{generation.column}.json", generation
                ),
                device=device,
            )
        )

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note the seconds that a stage takes."""
        started = time.perf_counter()
        yield
        self._stages[stage] = time.perf_counter() - started

    def fill(self) -> None:
        """Make every row right; fragments that were right and did not change are not read again.

        A query-only generation has the vectors of the one before, and leaves them as they are.
        """
        if self._generation.query_only and self._generation.phase != "active":
            return
        self._filled = self._backfill.run()

    @property
    def n_written(self) -> int:
        """Rows that this job gave a vector."""
        return self._filled.written

    def took_over(self, n_rows: int) -> None:
        """Note that the vectors of so many rows stay as they are."""
        self._filled = FillReport(rows=n_rows)

    def build_index(self) -> str | None:
        """Build the kind of index that the shown column has, and measure both; return its name."""
        active = state_of(self._table).active
        column, dims = self._generation.column, self._generation.dims
        like = None if active is None else describe_index(self._table, active.column)
        there = describe_index(self._table, column)
        if there is not None and self._generation.phase != "staging":
            # Filled before: what changed since goes into the index that it has.
            refresh_index(self._table, column)
            return str(there["name"])
        self._table.checkout_latest()
        name = build_like(self._table, column, dims, like)
        n_rows = count_vectors(dataset(self._table), column)
        self._notes.extend(index_notes(like, dims, n_rows))
        if active is None or name is None:
            return name
        recalls = {key: self._recall_of(c) for key, c in (("old", active.column), ("new", column))}
        self._recall = {key: recall for key, recall in recalls.items() if recall is not None}
        if len(self._recall) == 2:
            note = recall_note(self._recall["old"].rows, self._recall["new"].rows)
            self._notes.extend([note] if note else [])
        return name

    def _recall_of(self, column: str) -> IndexRecall | None:
        """Measure an index; None where versions are cleaned away sooner than they are asked."""

        def attempt() -> IndexRecall | None:
            self._table.checkout_latest()
            return row_recall(self._table, column)

        try:
            return retrying(attempt, what="measure the recall of an index")
        except (OSError, RuntimeError) as error:
            if not was_cleaned_away(error):
                raise
            self._notes.append(
                f"The recall of the index on {column!r} was not measured: an optimize() beside "
                "this job cleans versions away sooner than they can be asked."
            )
            return None

    def mark_ready(self, check: Check, index: str | None) -> None:
        """Record that the generation is filled, verified and indexed."""
        details = {
            "check": check.to_dict(),
            "index": index,
            "index_recall": {name: r.to_dict() for name, r in self._recall.items()},
            "ready_at": now(),
            # Every row of that version was compared with its mark: a sweep need not look again.
            "swept": {"version": check.version, "at": now()},
        }
        number = self._generation.number

        def ready(state: TableState, ds: Any) -> Change | None:
            current = state.of(number)
            if current.phase != "staging":
                return None
            made = current.with_(phase="ready", details=details)
            return Change(state.put(made).record(event="ready", generation=number, at=now()))

        transition(self._table, ready, what="mark the generation ready")

    def judge(self, old: Generation | None, approval: Approval) -> GateReport | None:
        """Measure what the gate asks; a no is an error, unless it is forced."""
        verdict = approval.verdict(
            self._table, new=self._generation, old=old, encoder=self._encoder
        )
        if verdict is None:
            return None
        recalls = verdict.index_recall
        if recalls.keys() >= {"old", "new"}:
            note = recall_note(recalls["old"].queries, recalls["new"].queries)
            self._notes.extend([note] if note else [])
        if not approval.force:
            # Of a table that was never re-indexed only its name tells which column is meant.
            state = state_of(self._table, self._generation.column or None)
            known = {g.number for g in state.generations}
            require_passed(verdict, staged=self._generation.number in known)
        return verdict

    def show(self, verdict: GateReport | None, *, force: bool) -> TableState:
        """Sweep, switch, sweep: rows written between a sweep and the switch are mended after it."""
        self.fill()
        refresh_index(self._table, self._generation.column)
        details = _told(verdict, force=force)
        state = steps.show(self._table, self._generation.number, details=details)
        self.fill()
        refresh_index(self._table, self._generation.column)  # a file that was replaced is not in it
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
        """Tell what was done."""
        return ReindexReport(
            table=self._table.name,
            model=str(self._generation.model),
            generation=self._generation.number,
            column=self._generation.column,
            switched=switched,
            fill=self._filled,
            check=check,
            precision=self._encoder.precision,
            backend=self._encoder.backend,
            agreement=self._generation.details.get("agreement"),
            index=index,
            gate=gate,
            seconds=time.perf_counter() - self._started,
            note=note,
            stages=self._stages,
            query_only=self._generation.query_only,
            index_recall=self._recall,
            notes=tuple(self._notes),
            plan=self._watch.compare(self._stages, self._filled.written),
        )


class QueryJob:
    """A change of the queries' model alone: checked, judged, and made in one commit."""

    def __init__(self, table: Table, served: Generation, target: Target, encoder: Encoder) -> None:
        self._table = table
        self._served = served
        self._target = target
        self._encoder = encoder

    def run(self, approval: Approval) -> ReindexReport:
        """Look at a sample of the vectors, ask the gate, and commit."""
        served, target = self._served, self._target
        state = state_of(self._table, target.vector_column)
        same = served.fingerprint == target.fingerprint
        generation = served if same else proposed(state, served, target)
        job = GenerationJob(self._table, generation, self._encoder, None)
        with job.timed("verify"):
            check = verify_documents(self._table, served, self._encoder)
        job.took_over(check.n_rows)
        if same:
            return job.report(check, switched=True, note="the table already searches with it")
        if not approval.asked_for:
            record(self._table, served, target)
            note = "nothing to encode; not shown: give a gate or force=True (reindex switch)"
            return job.report(check, switched=False, note=note)
        with job.timed("gate"):
            verdict = job.judge(served, approval)
        with job.timed("switch"):
            show_queries(self._table, served, target, _told(verdict, force=approval.force))
        note = "only queries changed: the vectors of the documents are the same in both models"
        return job.report(check, switched=True, gate=verdict, note=note)


def _told(verdict: GateReport | None, *, force: bool) -> dict[str, Any]:
    """Return what the table's history keeps of a switch."""
    details: dict[str, Any] = {"forced": force and (verdict is None or not verdict.passed)}
    if verdict is not None:
        details["gate"] = verdict.summary()
    return details
