"""How the answer to one query came about, row by row and stage by stage."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pyarrow as pa

from lancedb_ft.search.fusion import reciprocal_rank_fusion
from lancedb_ft.search.info import SearchInfo
from lancedb_ft.search.trace import IndexUse, Trace

__all__ = ["Explanation", "RowExplanation"]

_KEYS = ("id", "_id", "doc_id")
_SHOWN = 40


@dataclass(frozen=True)
class RowExplanation:
    """Where one row of an answer comes from.

    Parameters
    ----------
    rank
        Its place in the answer, from 1; on a later page from 1 again.
    row_id
        Its row id at the version that was searched.
    score
        What ordered it.
    legs
        For each leg that found it, its rank there and the leg's score: ``_distance``, lower is
        better, or ``_score``.
    fused_rank
        Its place if the legs were merged by reciprocal rank fusion and nothing else was done; None
        where there was one leg.
    facts
        What other parts of the search say of it, such as its tier.
    """

    rank: int
    row_id: int
    score: float
    legs: Mapping[str, tuple[int, float]]
    fused_rank: int | None
    facts: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain types."""
        legs = {name: {"rank": rank, "score": score} for name, (rank, score) in self.legs.items()}
        told = {"rank": self.rank, "row_id": self.row_id, "score": self.score, "legs": legs}
        return {**told, "fused_rank": self.fused_rank, **self.facts}


@dataclass(frozen=True)
class Explanation:
    """An answer and how it came about; it prints as text.

    Parameters
    ----------
    results
        What `lancedb_ft.search` returns for the same query.
    trace
        What the query did.
    """

    results: pa.Table
    trace: Trace

    @property
    def info(self) -> SearchInfo:
        """What the answer says about itself: what was late, facets, the next page."""
        return SearchInfo.of(self.results)

    @cached_property
    def rows(self) -> tuple[RowExplanation, ...]:
        """The rows of the answer, best first."""
        trace, legs = self.trace, self.trace.legs
        ranks = {
            name: {row_id: rank for rank, row_id in enumerate(leg.row_ids, 1)}
            for name, leg in legs.items()
        }
        fused: dict[int, int] = {}
        if len(legs) > 1:
            order = reciprocal_rank_fusion([leg.row_ids for leg in legs.values()])
            fused = {row_id: rank for rank, (row_id, _) in enumerate(order, 1)}
        return tuple(
            RowExplanation(
                rank=rank,
                row_id=row_id,
                score=score,
                legs={
                    name: (ranks[name][row_id], leg.scores[ranks[name][row_id] - 1])
                    for name, leg in legs.items()
                    if row_id in ranks[name]
                },
                fused_rank=fused.get(row_id),
                facts={name: of[row_id] for name, of in trace.of_rows.items() if row_id in of},
            )
            for rank, (row_id, score) in enumerate(zip(trace.row_ids, trace.scores, strict=True), 1)
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it in plain types; of the results the keys only."""
        trace = self.trace.to_dict()
        for name in ("row_ids", "scores", "of_rows", "legs", "error"):
            del trace[name]
        trace["n_found"] = {name: len(leg.row_ids) for name, leg in self.trace.legs.items()}
        rows = [row.to_dict() for row in self.rows]
        for row, key in zip(rows, self._keys(), strict=True):
            row["key"] = key
        return {**trace, "rows": rows}

    def __str__(self) -> str:
        """Return it as text: the query, the stages, the rows."""
        return "\n".join(self._lines())

    def _keys(self) -> list[Any]:
        name = next((name for name in _KEYS if name in self.results.column_names), None)
        if name is None:
            return list(self.trace.row_ids)
        return list(self.results[name].to_pylist())

    def _lines(self) -> Iterator[str]:
        trace = self.trace
        yield f"table    {trace.table} at version {trace.version}, mode {trace.mode}, k {trace.k}"
        if trace.column is not None:
            told = f", fingerprint {trace.fingerprint[:12]}" if trace.fingerprint else ""
            yield f"vectors  {trace.column}, model {trace.model or 'unknown'}{told}"
        for index in trace.indexes:
            yield _index_line(index)
        order = [part for part in (trace.fusion, trace.reranker) if part]
        yield f"order    {', then '.join(order) or 'as the leg found them'}"
        yield "ms       " + ", ".join(
            [f"{trace.ms:.2f} in all", *(f"{s.name} {s.ms:.2f}" for s in trace.stages)]
        )
        notes = [f"{name} {n}" for name, n in trace.counts.items()]
        notes += [f"{name}: {text}" for name, text in trace.notes.items()]
        if notes:
            yield f"notes    {', '.join(notes)}"
        for reason in trace.degraded:
            yield f"DEGRADED {reason}"
        yield ""
        yield from self._row_lines()

    def _row_lines(self) -> Iterator[str]:
        names = list(self.trace.legs)
        heads = [f"{name:>18}" for name in names]
        facts = list(self.trace.of_rows)
        yield "  ".join([f"{'rank':>4}", f"{'score':>10}", *heads, f"{'fused':>5}", *facts, "key"])
        for row, key in zip(self.rows, self._keys(), strict=True):
            legs = [
                "{:>18}".format("#{} {:.4f}".format(*row.legs[name]) if name in row.legs else "-")
                for name in names
            ]
            fused = f"{row.fused_rank or '-':>5}"
            told = [str(row.facts.get(name, "-")) for name in facts]
            shown = str(key)[:_SHOWN]
            yield "  ".join([f"{row.rank:>4}", f"{row.score:>10.4f}", *legs, fused, *told, shown])


def _index_line(index: IndexUse) -> str:
    if index.name is None:
        return f"{index.leg:<8} {index.column}: no index, all {index.n_unindexed} rows scanned"
    return (
        f"{index.leg:<8} {index.column}: index {index.name} ({index.kind}) of {index.n_indexed} "
        f"rows, {index.n_unindexed} unindexed rows scanned"
    )
