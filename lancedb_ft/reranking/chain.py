"""`RerankerChain`: a cheap reranker reads many texts, a dear one the best of those."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lancedb_ft.errors import InputError, RerankError
from lancedb_ft.reranking.base import Reading, TextReranker
from lancedb_ft.reranking.guard import Deadline, RerankGuard, Usage

__all__ = ["RerankerChain"]


class RerankerChain(TextReranker):
    """Rerankers one after another, each on the best that the one before left.

    How many a stage reads is its own ``top_k``. A stage that fails or is late leaves the order of
    the one before it, and the answer is marked as degraded. ``_relevance_score`` is the last
    stage's for what it read; what it did not read stands behind, with the scores of the stage
    before scaled to lie below.

    Parameters
    ----------
    *stages
        In the order in which they are asked, all for one column.
    return_score
        ``relevance``, or ``all`` to keep ``_distance`` and ``_score``, too.
    guard
        Its deadline holds for all stages together, beside each one's own; with ``on_failure`` of
        ``raise`` any stage's failure is raised. None for no deadline.

    Raises
    ------
    InputError
        There is no stage, one is not ours, or they read different columns.

    Examples
    --------
    >>> RerankerChain(                                                       # doctest: +SKIP
    ...     FineTunedReranker("support-reranker@1", top_k=100), CohereReranker(top_k=20)
    ... )
    """

    def __init__(
        self,
        *stages: TextReranker,
        return_score: str = "relevance",
        guard: RerankGuard | None = None,
    ) -> None:
        if not stages:
            raise InputError("A RerankerChain needs one reranker at least.")
        for stage in stages:
            if not isinstance(stage, TextReranker):
                raise InputError(
                    f"A stage is a {type(stage).__name__}; it must be one of lancedb_ft's "
                    "rerankers. Wrap any other one: GuardedReranker(reranker)."
                )
        if len(columns := {stage.column for stage in stages}) > 1:
            raise InputError(f"The stages read different columns: {sorted(columns)}.")
        super().__init__(
            column=stages[0].column,
            top_k=stages[0].top_k,
            return_score=return_score,
            guard=guard or RerankGuard(deadline_s=None),
        )
        self.stages = stages

    def __str__(self) -> str:
        """Name the stages in their order."""
        return f"RerankerChain({' > '.join(map(str, self.stages))})"

    @property
    def usage(self) -> Usage:
        """What the chain has done, and what its stages sent and paid; see `stages` for each."""
        total = self._counters.total
        for stage in self.stages:
            own = stage.usage
            total += Usage(
                calls=own.calls,
                retries=own.retries,
                search_units=own.search_units,
                input_tokens=own.input_tokens,
                output_tokens=own.output_tokens,
                cost_usd=own.cost_usd,
            )
        return total

    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Ask each stage in turn."""
        order = np.arange(len(texts))
        scores = np.zeros(len(texts), np.float32)  # by place, best first
        was_read = np.zeros(len(texts), bool)
        reasons = []
        for stage in self.stages:
            n = min(stage.top_k or len(order), len(order))
            found = stage.guarded(query, [texts[i] for i in order[:n]], deadline)
            if found.degraded:
                reasons.append(found.degraded)
            scores = _with_stage(scores, found)
            order[:n] = order[:n][found.order()]
            was_read[: int(np.isfinite(found.keys).sum())] = True
        degraded = "; ".join(reasons)
        if degraded and self.guard.on_failure == "raise":
            raise RerankError(str(self), reason=degraded)
        # Stages only ever reorder the front, so what any of them read stands before the rest.
        keys = np.where(was_read, -np.arange(len(texts), dtype=float), np.nan)
        back = np.argsort(order)
        return Reading(keys[back], scores[back], degraded)


def _with_stage(before: np.ndarray, found: Reading) -> np.ndarray:
    """Return the scores by place after a stage: its own first, the rest scaled to lie below."""
    order = found.order()
    n_read = int(np.isfinite(found.keys).sum())
    if not n_read:
        return before
    read = order[:n_read]
    unread = np.delete(before, read)
    after = np.concatenate([found.scores[read], unread * found.scores[read].min()])
    return after.astype(np.float32)
