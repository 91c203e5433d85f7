"""`GuardedReranker`: any reranker of LanceDB, with a deadline and a circuit breaker around it."""

from __future__ import annotations

import contextvars
import math
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any

import numpy as np
import pyarrow as pa
from lancedb.rerankers import Reranker

from lancedb_ft.errors import InputError, RerankError
from lancedb_ft.reranking.base import Reading, TextReranker
from lancedb_ft.reranking.guard import Deadline, RerankGuard

__all__ = ["GuardedReranker"]

#: So many calls of queries that were answered without waiting any longer; then none is begun.
MAX_LATE = 8


class GuardedReranker(TextReranker):
    """Another reranker, such as LanceDB's for Jina or Voyage, that no query is lost with.

    `lancedb_ft.search` survives the failures of any reranker; this adds a deadline, scores from 0
    to 1 in every mode, and does the same for LanceDB's own queries.

    It reads in a thread of its own. A call that is late goes on there, as nothing can stop it; with
    8 late ones none is begun any more, and queries are answered without at once. Our own
    rerankers, which stop, need no such wrapping.

    Parameters
    ----------
    reranker
        It must be able to rerank a vector search.
    column
        The column of text that it reads; None for its own ``column``.
    top_k, return_score
        See `TextReranker`.
    guard
        Deadline and circuit breaker; None for ``RerankGuard()``. Nothing is tried twice.

    Raises
    ------
    InputError
        It is no reranker, or it reads no column.
    """

    def __init__(
        self,
        reranker: Reranker,
        *,
        column: str | None = None,
        top_k: int | None = None,
        return_score: str = "relevance",
        guard: RerankGuard | None = None,
    ) -> None:
        if not isinstance(reranker, Reranker) or isinstance(reranker, TextReranker):
            raise InputError(
                f"reranker is a {type(reranker).__name__}; wrap one of lancedb.rerankers. "
                "lancedb_ft's own have a guard already: pass guard= to them."
            )
        column = column or getattr(reranker, "column", None) or "text"
        super().__init__(
            column=column, top_k=top_k, return_score=return_score, guard=guard or RerankGuard()
        )
        self.reranker = reranker

    _live = (*TextReranker._live, "_late")

    def _start(self) -> None:
        super()._start()
        self._late: set[Future[pa.Table]] = set()

    def __str__(self) -> str:
        """Name what is guarded."""
        return f"GuardedReranker({self.reranker})"

    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Have the texts reranked in another thread."""
        if len(self._late) >= MAX_LATE:
            raise RerankError(str(self), reason=f"{MAX_LATE} earlier calls still hang")
        future: Future[pa.Table] = Future()
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run,
            args=(self._run, query, list(texts), future),
            name="lancedb-ft-guarded",
            daemon=True,
        ).start()
        left_s = deadline.left_s()
        reason = "no answer in time"
        try:
            ranked = future.result(None if math.isinf(left_s) else left_s)
            return self._reading(ranked, len(texts))
        except FutureTimeoutError:
            self._late.add(future)
            future.add_done_callback(self._late.discard)
        except Exception as error:  # whatever it raises; its words may hold a key
            reason = f"it raised {type(error).__name__}"
        raise RerankError(str(self), reason=reason)

    def _run(self, query: str, texts: list[str], future: Future[pa.Table]) -> None:
        rows = pa.table(
            {
                self.column: pa.array(texts, pa.string()),
                "_rowid": pa.array(range(len(texts)), pa.uint64()),
                "_distance": pa.array(np.linspace(0, 1, len(texts)), pa.float32()),
            }
        )
        try:
            future.set_result(self.reranker.rerank_vector(query, rows))
        except BaseException as error:
            future.set_exception(error)

    def _reading(self, ranked: Any, n_texts: int) -> Reading:
        at = np.asarray(ranked["_rowid"].to_numpy(), np.int64)
        keys = np.full(n_texts, np.nan)
        keys[at] = ranked["_relevance_score"].to_numpy()
        if not np.isfinite(keys).any():
            raise RerankError(str(self), reason="it gave no scores")
        return Reading(keys, _between_0_and_1(keys))


def _between_0_and_1(keys: np.ndarray) -> np.ndarray:
    """Return scores in the order of the keys: as they are, or squeezed where they go beyond."""
    known = np.nan_to_num(keys, nan=0.0)
    inside = known.min() >= 0 and known.max() <= 1
    scores = known if inside else 1 / (1 + np.exp(-np.clip(known, -500, 500)))
    return np.where(np.isnan(keys), 0.0, scores).astype(np.float32)
