"""The gate: the new column must serve as well as asked, measured on the real table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import GateError, InputError
from lancedb_ft.evaluate import compare, evaluate, retriever
from lancedb_ft.table import dataset
from lancedb_ft.types import DEFAULT_METRICS, Comparison, Evaluation, Gate

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation

__all__ = ["GateReport", "check_gate", "require_passed"]


@dataclass(frozen=True)
class GateReport:
    """What the gate measured and decided."""

    passed: bool
    requirements: Mapping[str, bool]
    tuned: Evaluation
    comparison: Comparison | None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and each requirement's verdict."""
        figures = (
            self.comparison.to_dict()
            if self.comparison is not None
            else {"n": self.tuned.n, "tuned": self.tuned.to_dict()}
        )
        return {"passed": self.passed, "requirements": dict(self.requirements), **figures}


def check_gate(
    table: Table,
    gate: Gate,
    *,
    new: Generation,
    old: Generation | None,
    encoder: Encoder,
    id_column: str | None = None,
    base: Evaluation | None = None,
    base_model: str | None = None,
    store: str | None = None,
) -> GateReport:
    """Measure both columns through the table's own search, and judge the requirements.

    Parameters
    ----------
    table
        The table, with both columns filled and indexed.
    gate
        Test pairs and requirements.
    new, old
        The generation to be shown and the one shown now (None: the table has no vectors).
    encoder
        The model of ``new``.
    id_column
        The documents' ids in ``gate.pairs``.
    base
        Figures of what serves now on the same queries, for a table that cannot be asked.
    base_model
        The model that filled ``old`` where the table names none; checked on a sample.
    store
        Where ``base_model`` is looked up.

    Raises
    ------
    InputError
        A requirement speaks of the base and there is none to measure.
    """
    metrics = tuple(dict.fromkeys([*DEFAULT_METRICS, *(r.metric for r in gate.requirements)]))
    asked = _figures(gate, metrics)
    if base is None and any(r.needs_base for r in gate.requirements):
        base = asked(
            retriever(
                table,
                mode=gate.mode,
                column=_base_column(table, old),
                encoder=_base_encoder(table, old, base_model, store),
                id_column=id_column,
            ),
            "base",
        )
    tuned = asked(
        retriever(table, mode=gate.mode, column=new.column, encoder=encoder, id_column=id_column),
        "tuned",
    )
    verdicts = {
        r.text: r.holds(
            tuned.metrics[r.metric].mean,
            base=None if base is None else base.metrics[r.metric].mean,
        )
        for r in gate.requirements
    }
    return GateReport(
        passed=all(verdicts.values()),
        requirements=verdicts,
        tuned=tuned,
        comparison=None if base is None else compare(base, tuned),
    )


def require_passed(report: GateReport) -> None:
    """Raise `GateError` with the figures unless the gate said yes."""
    if report.passed:
        return
    failed = []
    for text, holds in report.requirements.items():
        if not holds:
            metric = text.split()[0].rstrip("<>=")
            told = f"{text} does not hold: {metric} is {report.tuned.metrics[metric]}"
            if report.comparison is not None:
                told += f", base {report.comparison.base.metrics[metric]}"
            failed.append(f"{told} (n = {report.tuned.n})")
    raise GateError(failed, report=report.to_dict())


def _figures(gate: Gate, metrics: tuple[str, ...]) -> Any:
    def measured(retrieve: Any, name: str) -> Evaluation:
        return evaluate(retrieve, gate.pairs, metrics=metrics, name=name)

    return measured


def _base_column(table: Table, old: Generation | None) -> str:
    if old is None or not old.column:
        raise InputError(
            f"Table {table.name!r} has no vectors yet, so there is no base to compare with. Use a "
            "requirement without it (ndcg@10 >= 0.5), or switch with force=True (--force)."
        )
    return old.column


def _base_encoder(
    table: Table, old: Generation | None, base_model: str | None, store: str | None
) -> Encoder | None:
    """Return the encoder of a raw column, or None where the table names its function."""
    if old is None or old.function is not None:
        return None
    if base_model is None:
        raise InputError(
            f"Table {table.name!r} does not say which model made its column {old.column!r}, so the "
            "gate cannot query it. Name it with base_model= (--base-model), use a requirement "
            "without base (ndcg@10 >= 0.5), or switch with force=True (--force)."
        )
    encoder = get_encoder(base_model, store=store)
    _require_same_model(table, old, encoder, base_model)
    return encoder


def _require_same_model(table: Table, old: Generation, encoder: Encoder, base_model: str) -> None:
    """Check on a few rows that the raw column was indeed made by that model."""
    wrong = InputError(
        f"{base_model!r} did not make the vectors in {old.column!r} of table {table.name!r}: "
        "encoding the same rows again gives others. Name the model that did."
    )
    if encoder.dims != old.dims:
        raise wrong
    rows = dataset(table).to_table(
        columns=[str(old.source_column), old.column],
        filter=f"{old.column} is not null and {old.source_column} is not null",
        limit=32,
    )
    stored = rows[old.column].combine_chunks()
    stored = stored.chunk(0) if isinstance(stored, pa.ChunkedArray) else stored
    texts = rows[str(old.source_column)].combine_chunks()
    made = encoder.encode(texts, kind="document").drop_null()
    if len(made) != len(stored):
        return
    a = stored.flatten().to_numpy().reshape(-1, old.dims).astype(np.float32)
    b = made.flatten().to_numpy().reshape(-1, old.dims)
    cosine = (a * b).sum(1) / np.maximum(
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12
    )
    # The median: rows edited since, whose vectors are stale, must not hide the right model.
    if len(cosine) and float(np.median(cosine)) < 0.99:
        raise wrong
