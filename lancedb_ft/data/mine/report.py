"""What mining reports: what each rule removed, who has too few, and rows to read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lancedb_ft.data.mine.candidates import Mined
from lancedb_ft.data.mine.questions import FalseNegative, Row, counts_by_why
from lancedb_ft.data.texts import stable_key

__all__ = ["MineReport", "Tally"]

#: False negatives of the input that are shown.
_EXAMPLES = 5


@dataclass(frozen=True)
class MineReport:
    """How mining went.

    Parameters
    ----------
    n_queries, n_pairs
        What was mined for.
    n_mined
        Pairs that have negatives.
    n_candidates
        Documents looked at, over all queries, known positives included.
    removed
        ``{rule: candidates it removed}``. The margins are applied to each pair, so a candidate of a
        query with two positives can be counted twice there.
    n_passed
        Candidates that passed all rules, over all pairs; the first of each pair were taken.
    n_short
        Pairs with fewer than ``n_negatives`` of these.
    n_filled
        Negatives drawn at random for them.
    n_dropped
        Pairs left out, for want of negatives.
    mean_positive_score, mean_negative_score
        By the judge; None where it has none.
    false_negatives
        Negatives of the input that are positives of their own query, counted by reason.
    examples
        A few of them to read.
    sample
        Rows to read: query, positive, negatives, each with scores.
    seconds
        Wall time.
    """

    n_queries: int
    n_pairs: int
    n_mined: int
    n_candidates: int
    n_passed: int
    n_short: int
    n_filled: int
    n_dropped: int
    removed: Mapping[str, int]
    mean_positive_score: float | None
    mean_negative_score: float | None
    false_negatives: Mapping[str, int]
    examples: Sequence[FalseNegative] = field(repr=False)
    sample: Sequence[Mapping[str, Any]] = field(repr=False)
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON; with texts, so not for a manifest."""
        return {
            **vars(self),
            "removed": dict(self.removed),
            "false_negatives": dict(self.false_negatives),
            "examples": [dict(vars(example)) for example in self.examples],
            "sample": [dict(row) for row in self.sample],
            "seconds": round(self.seconds, 2),
        }

    def __str__(self) -> str:
        """Say it in a few lines."""
        removed = ", ".join(f"{n:,} {why}" for why, n in self.removed.items()) or "none"
        lines = [
            f"{self.n_mined:,} of {self.n_pairs:,} pairs ({self.n_queries:,} queries) have "
            f"negatives; {self.n_short:,} had too few, {self.n_filled:,} negatives are random, "
            f"{self.n_dropped:,} pairs were dropped.",
            f"Of {self.n_candidates:,} candidates removed: {removed}.",
        ]
        for why, n in self.false_negatives.items():
            lines.append(f"{n:,} negatives of the input are positives of their query ({why}).")
        return "\n".join(lines)


@dataclass
class Tally:
    """Counts while mining."""

    n_pairs: int
    n_queries: int
    n_candidates: int = 0
    n_passed: int = 0
    n_short: int = 0
    n_filled: int = 0
    removed: Counter[str] = field(default_factory=Counter)

    def remove(self, why: str) -> None:
        """Count one removed candidate."""
        self.removed[why] += 1

    def report(
        self,
        kept: Sequence[tuple[Row, Mined]],
        *,
        false_negatives: Sequence[FalseNegative],
        sample: Sequence[Mapping[str, Any]],
        seconds: float,
    ) -> MineReport:
        """Return the counts as a report."""
        negatives = [n.score for _, found in kept for n in found.negatives]
        return MineReport(
            n_queries=self.n_queries,
            n_pairs=self.n_pairs,
            n_mined=len(kept),
            n_candidates=self.n_candidates,
            n_passed=self.n_passed,
            n_short=self.n_short,
            n_filled=self.n_filled,
            n_dropped=self.n_pairs - len(kept),
            removed=dict(self.removed.most_common()),
            mean_positive_score=_mean([found.positive_score for _, found in kept]),
            mean_negative_score=_mean(negatives),
            false_negatives=counts_by_why(false_negatives),
            examples=tuple(false_negatives[:_EXAMPLES]),
            sample=tuple(sample),
            seconds=seconds,
        )


def sample_rows(kept: Sequence[tuple[Row, Mined]], n: int, seed: int) -> list[dict[str, Any]]:
    """Choose rows to read, by the seed."""
    order = sorted(kept, key=lambda row: stable_key(seed, row[0].query_id + "\x1f" + row[0].query))
    return [
        {
            "query": row.query,
            "positive": row.positive,
            "positive_score": found.positive_score,
            "negatives": [
                {"id": n.document.id, "text": n.document.text, "score": n.score, "rank": n.rank}
                for n in found.negatives
            ],
        }
        for row, found in order[:n]
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
