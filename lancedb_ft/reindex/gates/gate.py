"""The gate: the new column must serve as well as asked, measured on the real table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.errors import GateError, InputError
from lancedb_ft.evaluate import (
    compare,
    evaluate,
    latency_estimates,
    query_embedder,
    require_reranker,
    retriever,
    time_queries,
)
from lancedb_ft.reindex.gates.gate_base import base_column, base_encoder
from lancedb_ft.reindex.indexes.index_recall import IndexRecall, index_recall
from lancedb_ft.store import ResolvedModel
from lancedb_ft.table import dataset, id_column_of
from lancedb_ft.types import Comparison, Estimate, Evaluation, Gate, ModelVersion, Requirement

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.types import Retriever

__all__ = ["GateReport", "Verdict", "check_gate", "prepared_gate", "require_passed"]


@dataclass(frozen=True)
class Verdict:
    """One requirement with what was measured: the new figure, that of the base, and the bound."""

    requirement: str
    metric: str
    value: Estimate
    base: Estimate | None
    bound: float
    holds: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the figures with their intervals and n."""
        base = self.base
        return {
            "requirement": self.requirement,
            "metric": self.metric,
            "value": {**self.value.to_dict(), "n": self.value.n},
            "base": None if base is None else {**base.to_dict(), "n": base.n},
            "bound": self.bound,
            "holds": self.holds,
        }

    def __str__(self) -> str:
        """Say whether it holds, with both figures."""
        told = f"{self.requirement} {'holds' if self.holds else 'does not hold'}: "
        told += f"{self.metric} is {self.value}"
        if self.base is not None:
            told += f", base {self.base}"
        return f"{told} (n = {self.value.n})"


@dataclass(frozen=True)
class GateReport:
    """What the gate measured and decided.

    ``latency`` has the milliseconds of ``base`` and ``tuned``, where a requirement names one;
    ``index_recall`` what the ``old`` and the ``new`` index find, for the test queries, of what
    exact search finds.
    """

    passed: bool
    requirements: Mapping[str, bool]
    tuned: Evaluation
    comparison: Comparison | None
    verdicts: tuple[Verdict, ...] = ()
    mode: str = "vector"
    reranker: str | None = None
    depth: int = 100
    latency: Mapping[str, Mapping[str, Estimate]] = field(default_factory=dict)
    index_recall: Mapping[str, IndexRecall] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the figures and each requirement's verdict."""
        figures = (
            self.comparison.to_dict()
            if self.comparison is not None
            else {"n": self.tuned.n, "tuned": self.tuned.to_dict()}
        )
        return {
            "passed": self.passed,
            "requirements": dict(self.requirements),
            "verdicts": [verdict.to_dict() for verdict in self.verdicts],
            "mode": self.mode,
            "reranker": self.reranker,
            "k": self.depth,
            **figures,
            "latency_ms": {
                name: {p: {**e.to_dict(), "n": e.n} for p, e in found.items()}
                for name, found in self.latency.items()
            },
            "index_recall": {name: r.to_dict() for name, r in self.index_recall.items()},
        }

    def summary(self) -> dict[str, Any]:
        """Return what a table's history keeps: small, and enough to know why it was switched."""
        return {
            "passed": self.passed,
            "requirements": dict(self.requirements),
            "figures": {
                v.metric: [
                    None if v.base is None else round(v.base.mean, 4),
                    round(v.value.mean, 4),
                ]
                for v in self.verdicts
            },
            "n": self.tuned.n,
            "mode": self.mode,
            "reranker": self.reranker,
        }


def prepared_gate(
    table: Table,
    gate: Gate,
    *,
    old: Generation | None,
    text_column: str | None,
    id_column: str | None = None,
    base: Evaluation | None = None,
    base_model: str | None = None,
    store: str | None = None,
) -> Gate:
    """Find out before the work what the gate would stumble over after it; resolve its reranker.

    Raises
    ------
    InputError, ModelNotFoundError, NoTextIndexError, ColumnNotFoundError
        As `check_gate` would raise them.
    """
    reranker = gate.reranker
    if isinstance(reranker, (str, ModelVersion, ResolvedModel)):
        from lancedb_ft.reranking import FineTunedReranker

        reranker = FineTunedReranker(reranker, store=store, column=text_column or "text")
    gate = replace(gate, reranker=reranker)
    needs_base = [r for r in gate.requirements if r.needs_base]
    timed = [r.text for r in needs_base if r.cutoff is None]
    if timed and base is not None:
        raise InputError(
            f"{timed[0]!r} needs the time of what serves now, and figures were given in its place. "
            "Say the milliseconds: 'latency_p95 <= 50'."
        )
    if gate.mode != "fts" and needs_base and base is None:
        base_column(table, old)
        base_encoder(table, old, base_model, store)
    if gate.mode == "fts" or old is not None:
        # Asks nothing yet: checks the mode, the ids, the text index and the reranker.
        _retriever(table, gate, old.column if old else None, _Blank(), id_column)
    else:  # there are no vectors yet
        id_column_of(dataset(table).schema, id_column, table=table.name)
        require_reranker(gate.reranker, gate.mode)
        if gate.mode == "hybrid":
            text_leg = replace(gate, mode="fts", reranker=None)
            _retriever(table, text_leg, None, _Blank(), id_column)
    return gate


class _Blank:
    """An encoder that is never asked, for the checks of a retriever."""

    def encode(self, texts: Any, *, kind: str = "document", progress: Any = None) -> Any:
        """Raise: nothing may be measured with it."""
        raise InputError("This retriever is for checks only.")


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
        The documents' ids in the pairs of the gate.
    base
        Figures of what serves now on the same queries, for a table that cannot be asked.
    base_model
        The model that filled ``old`` where the table names none; checked on a sample.
    store
        Where ``base_model`` and the reranker are looked up.

    Raises
    ------
    InputError
        A requirement speaks of the base and there is none to measure.
    """
    gate = prepared_gate(
        table,
        gate,
        old=old,
        text_column=new.source_column,
        id_column=id_column,
        base=base,
        base_model=base_model,
        store=store,
    )
    asked: dict[str, tuple[str, Any]] = {}
    if base is None and any(r.needs_base for r in gate.requirements):
        asked["base"] = base_column(table, old), base_encoder(table, old, base_model, store)
    asked["tuned"] = new.column, encoder
    serving = {
        name: _retriever(table, gate, column, of, id_column) for name, (column, of) in asked.items()
    }
    figures = {name: _evaluated(retrieve, gate, name) for name, retrieve in serving.items()}
    base = figures.get("base", base)
    latency = _latencies(serving, gate)
    tuned = figures["tuned"]
    verdicts = tuple(_verdict(r, tuned, base, latency) for r in gate.requirements)
    return GateReport(
        passed=all(verdict.holds for verdict in verdicts),
        requirements={verdict.requirement: verdict.holds for verdict in verdicts},
        tuned=tuned,
        comparison=None if base is None else compare(base, tuned),
        verdicts=verdicts,
        mode=gate.mode,
        reranker=None if gate.reranker is None else _name_of(gate.reranker),
        depth=gate.depth,
        latency=latency,
        index_recall={} if gate.mode == "fts" else _recalls(table, gate, asked),
    )


def require_passed(report: GateReport, *, staged: bool = True) -> None:
    """Raise `GateError` with the figures unless the gate said yes.

    ``staged`` says whether there is a generation that could be removed: where only queries would
    have changed, nothing was written.
    """
    if not report.passed:
        failed = [str(verdict) for verdict in report.verdicts if not verdict.holds]
        raise GateError(failed, report=report.to_dict(), staged=staged)


def _retriever(
    table: Table, gate: Gate, column: str | None, encoder: Any, id_column: str | None
) -> Retriever:
    return retriever(
        table,
        mode=gate.mode,
        column=column,
        encoder=encoder,
        id_column=id_column,
        reranker=gate.reranker,
    )


def _evaluated(retrieve: Retriever, gate: Gate, name: str) -> Evaluation:
    return evaluate(retrieve, gate.test, metrics=gate.metrics, k=gate.depth, name=name)


def _latencies(serving: Mapping[str, Retriever], gate: Gate) -> dict[str, dict[str, Estimate]]:
    if all(r.cutoff is not None for r in gate.requirements):
        return {}
    queries = list(dict.fromkeys(gate.test.queries.values()))
    timed = time_queries(serving, queries, k=gate.k or 10)
    return {name: latency_estimates(milliseconds) for name, milliseconds in timed.items()}


def _verdict(
    requirement: Requirement,
    tuned: Evaluation,
    base: Evaluation | None,
    latency: Mapping[str, Mapping[str, Estimate]],
) -> Verdict:
    name = requirement.metric
    old: Estimate | None
    if requirement.cutoff is None:
        value, old = latency["tuned"][name], latency.get("base", {}).get(name)
    else:
        value, old = tuned.metrics[name], None if base is None else base.metrics[name]
    of_base = None if old is None else old.mean
    return Verdict(
        requirement=requirement.text,
        metric=name,
        value=value,
        base=old,
        bound=requirement.bound(of_base),
        holds=requirement.holds(value.mean, base=of_base),
    )


def _recalls(
    table: Table, gate: Gate, asked: Mapping[str, tuple[str, Any]]
) -> dict[str, IndexRecall]:
    """Ask both indexes the test queries' vectors."""
    texts = list(dict.fromkeys(gate.test.queries.values()))[:200]
    schema = dataset(table).schema
    found = {}
    for name, (column, encoder) in asked.items():
        embed: Callable[[list[str]], Mapping[str, Any]] = query_embedder(
            schema, table.name, column, encoder
        )
        vectors = list(embed(texts).values())
        recall = index_recall(table, column, np.asarray(vectors, np.float32))
        if recall is not None:
            key = "old" if name == "base" else "new"
            found[key] = IndexRecall(column, queries=recall)
    return found


def _name_of(reranker: Any) -> str:
    """Return how the history calls a reranker: our own say their model."""
    model = getattr(getattr(reranker, "model", None), "ref", None)
    name = type(reranker).__name__
    return f"{name}({model})" if model else name
