"""`FineTunedReranker`: a cross-encoder of the store, a folder or the Hub, for ``rerank``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder.precision import check_precision
from lancedb_ft.reranking.base import Reading, TextReranker, check_count
from lancedb_ft.reranking.cache import get_scorer
from lancedb_ft.reranking.guard import Deadline, RerankGuard
from lancedb_ft.reranking.scorer import Scorer
from lancedb_ft.reranking.waves import Pace, keys_in_time, within_budget
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.types import ModelVersion

__all__ = ["FineTunedReranker"]


class FineTunedReranker(TextReranker):
    """A cross-encoder: reads each candidate together with the query, and scores the pair.

    One of `lancedb_ft.train_reranker`, or any other that is plain data: no code of a model's own
    is ever run (``trust_remote_code=False``), only safetensors are read. The model is loaded by the
    first query, once a process. See `TextReranker` for the result.

    Parameters
    ----------
    model
        ``support-reranker@1``, a folder, ``hf://org/name@revision``, or a `ModelVersion`.
    store
        URI of the model store, for ``name@version``.
    column
        The column of text that is read.
    top_k
        Read only so many candidates, the best of the search; None for all.
    max_tokens
        Cut longer pairs of query and text; None for what the model reads.
    token_budget
        Read the best candidates of the search until they have so many tokens together, the query
        counted with each; None for no limit. One is always read.
    device, precision
        See `lancedb_ft.reranking.get_scorer`.
    return_score
        ``relevance``, or ``all`` to keep ``_distance`` and ``_score``, too.
    guard
        Its ``deadline_s``, none by default: the best candidates of the search are read first, and
        what there is no time for stands unread behind them. Loading the model is not counted.

    Raises
    ------
    ModelKindError
        The model is an embedder.
    ModelNotFoundError, StoreNotFoundError, FingerprintError, UnsafeModelError
        It is not there, or may not be loaded.
    InputError
        Another argument cannot be used.
    """

    _live: ClassVar[tuple[str, ...]] = (*TextReranker._live, "_pace")

    def __init__(
        self,
        model: str | ModelVersion | ResolvedModel,
        *,
        store: str | None = None,
        column: str = "text",
        top_k: int | None = None,
        max_tokens: int | None = None,
        token_budget: int | None = None,
        device: str | None = None,
        precision: str = "auto",
        return_score: str = "relevance",
        guard: RerankGuard | None = None,
    ) -> None:
        guard = guard or RerankGuard(deadline_s=None)
        super().__init__(column=column, top_k=top_k, return_score=return_score, guard=guard)
        check_precision(precision)
        check_count("max_tokens", max_tokens)
        check_count("token_budget", token_budget)
        self.model = resolve_model(model, store=store, kind="cross-encoder")
        self.max_tokens = max_tokens
        self.token_budget = token_budget
        self.device = device
        self.precision = precision

    def _start(self) -> None:
        super()._start()
        self._pace = Pace()

    def __str__(self) -> str:
        """Say which model it is; shown in LanceDB's query plans."""
        return f"FineTunedReranker({self.model.ref})"

    def scorer(self) -> Scorer:
        """Return the running model, loaded at first use in this process."""
        return get_scorer(self.model, device=self.device, precision=self.precision)

    def guarded(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Load the model before the clock starts; then as for every reranker."""
        self.scorer()
        return super().guarded(query, texts, deadline)

    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Score each text with the query."""
        scorer = self.scorer()
        n_read = self._affordable(scorer, query, texts)

        def keys_of(some: Sequence[str]) -> npt.NDArray[np.float32]:
            return scorer.score([(query, text) for text in some], max_tokens=self.max_tokens)

        keys = np.full(len(texts), np.nan)
        keys[:n_read], degraded = keys_in_time(keys_of, texts[:n_read], deadline, self._pace)
        # Logits decide the order: a sigmoid is 1.0 for all that are high, and they would be ties.
        scores = np.nan_to_num(1 / (1 + np.exp(-keys)), nan=0.0)
        return Reading(keys, scores.astype(np.float32), degraded)

    def _affordable(self, scorer: Scorer, query: str, texts: Sequence[str]) -> int:
        if self.token_budget is None:
            return len(texts)
        pairs: list[Any] = [(query, text) for text in texts]
        tokens = scorer.tokenizer(self.max_tokens).tokens(pairs)
        return within_budget([len(pair.ids) for pair in tokens], self.token_budget)
