"""What all our rerankers share: which texts are read, the order that comes out, and failing."""

from __future__ import annotations

import logging
import math
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from lancedb.rerankers import Reranker

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.errors import ColumnNotFoundError, InputError, QueryError, RerankError
from lancedb_ft.reranking.guard import (
    DEGRADED_KEY,
    Breaker,
    Counters,
    Deadline,
    RerankGuard,
    Usage,
)
from lancedb_ft.reranking.legs import merged_legs, search_scores

__all__ = ["Reading", "TextReranker", "check_count", "check_price", "degraded_reason"]

_log = logging.getLogger("lancedb_ft.reranking")
_RELEVANCE = "_relevance_score"


def degraded_reason(rows: pa.Table) -> str:
    """Return why a result is less than was asked for; ``""`` where it is not."""
    told: bytes = (rows.schema.metadata or {}).get(DEGRADED_KEY, b"")
    return told.decode()


@dataclass(frozen=True)
class Reading:
    """What a reranker makes of some texts, in the order in which they were given.

    Parameters
    ----------
    keys
        Shape ``(texts,)``: highest is best; NaN for a text that was not read.
    scores
        Shape ``(texts,)``, from 0 to 1: what is shown, in no other order than the keys.
    degraded
        Why this is less than was asked for; empty where it is not.
    """

    keys: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float32]
    degraded: str = ""

    @classmethod
    def nothing(cls, n_texts: int, reason: str) -> Reading:
        """Return the reading of texts that nobody read."""
        return cls(np.full(n_texts, np.nan), np.zeros(n_texts, np.float32), reason)

    def order(self) -> npt.NDArray[np.int64]:
        """Return the places of the texts, best first; equal and unread ones stay as they were."""
        return np.argsort(-np.nan_to_num(self.keys, nan=-np.inf), kind="stable")


class TextReranker(Reranker):  # type: ignore[misc]  # lancedb is not typed
    """A reranker that reads one column of text; a subclass says only how, in `read`.

    For ``table.search(...).rerank(reranker)`` of LanceDB, sync and async, hybrid, vector and full
    text, and for ``lancedb_ft.search(..., reranker=reranker)``. Threads may share one, and should:
    the circuit breaker, the counters and the connections live in it.

    ``_relevance_score`` is from 0 to 1, highest first. Rows with equal scores keep the order of
    the search; in hybrid search that of reciprocal rank fusion. Rows without a text, and rows that
    are left unread, have 0 and stand last.

    A query is never lost with its reranker: where that fails or is late, the rows come in the order
    of the search (of reciprocal rank fusion, with its scores), the table's schema metadata has the
    reason under ``lancedb_ft.degraded`` (`degraded_reason`), it is logged and counted (`usage`).

    Parameters
    ----------
    column
        The column of text that is read.
    top_k
        Read only so many candidates, the best of the search; None for all.
    return_score
        ``relevance``, or ``all`` to keep ``_distance`` and ``_score``, too.
    guard
        Deadline, retries, circuit breaker.

    Raises
    ------
    InputError
        One of them cannot be used.
    """

    def __init__(
        self,
        *,
        column: str = "text",
        top_k: int | None = None,
        return_score: str = "relevance",
        guard: RerankGuard,
    ) -> None:
        if return_score not in ("relevance", "all"):
            raise InputError(f"return_score is {return_score!r}; it must be 'relevance' or 'all'.")
        if not isinstance(column, str) or not column:
            raise InputError(f"column is {column!r}; it must be the name of the column to read.")
        if not isinstance(guard, RerankGuard):
            raise InputError(f"guard is {guard!r}; it must be a RerankGuard, or None.")
        super().__init__(return_score)
        check_count("top_k", top_k)
        self.column = column
        self.top_k = top_k
        self.guard = guard
        self._start()

    #: What belongs to one process: made by `_start`, never pickled.
    _live: ClassVar[tuple[str, ...]] = ("_breaker", "_counters")

    def _start(self) -> None:
        self._breaker = Breaker(self.guard)
        self._counters = Counters()

    def __getstate__(self) -> dict[str, Any]:
        """Return the settings; no lock, connection or key goes into a pickle."""
        return {k: v for k, v in self.__dict__.items() if k not in self._live}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Start with the settings, closed circuit and all counts at 0."""
        self.__dict__.update(state)
        self._start()

    def __repr__(self) -> str:
        """Return the same words as ``str``."""
        return str(self)

    @property
    def usage(self) -> Usage:
        """What it has done so far in this process."""
        return self._counters.total

    # --- to be written by a subclass -------------------------------------------------------

    @abstractmethod
    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Judge distinct, non-blank texts, given in the order of the search.

        Raises
        ------
        RerankError
            It failed in a way that the query shall survive.
        """

    # --- LanceDB's interface ---------------------------------------------------------------

    def rerank_hybrid(
        self, query: str, vector_results: pa.Table, fts_results: pa.Table
    ) -> pa.Table:
        """Merge the two legs of a hybrid search and rerank them."""
        rows, fused = merged_legs(vector_results, fts_results)
        return self._rerank(query, rows, fused)

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Rerank the rows of a vector search."""
        return self._rerank(query, vector_results, search_scores(vector_results.num_rows))

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Rerank the rows of a full-text search."""
        return self._rerank(query, fts_results, search_scores(fts_results.num_rows))

    def _rerank(self, query: Any, rows: pa.Table, as_found: npt.NDArray[np.float32]) -> pa.Table:
        if self.column not in rows.column_names:
            raise ColumnNotFoundError(
                self.column,
                table="what the search returned",
                available=rows.column_names,
                expected="the text to rerank by; select it, or pass column=",
            )
        if _RELEVANCE in rows.column_names:
            rows = rows.drop_columns([_RELEVANCE])
        found = self._reading_of(_words_of(query), rows[self.column])
        unread = bool(found.degraded) and bool(np.isnan(found.keys).all())
        order = np.arange(rows.num_rows) if unread else found.order()
        scores = as_found if unread else found.scores
        ranked = rows.take(pa.array(order))
        ranked = ranked.append_column(_RELEVANCE, pa.array(scores[order], pa.float32()))
        if found.degraded:
            told = {**(ranked.schema.metadata or {}), DEGRADED_KEY: found.degraded.encode()}
            ranked = ranked.replace_schema_metadata(told)
        return self._keep_relevance_score(ranked)

    def _reading_of(self, query: str, column: pa.ChunkedArray) -> Reading:
        """Read the texts of some rows: each text once, blank ones and those past `top_k` never."""
        n_rows = len(column)
        found = Reading.nothing(n_rows, "")
        texts = self._texts_of(column.slice(0, self.top_k))
        places = [place for place, text in enumerate(texts) if text and text.strip()]
        if not places:
            return found
        distinct = {text: n for n, text in enumerate(dict.fromkeys(texts[p] for p in places))}
        reading = self.guarded(query, list(distinct), Deadline.after(None))
        at = [distinct[texts[place]] for place in places]
        found.keys[places] = reading.keys[at]
        found.scores[places] = reading.scores[at]
        return Reading(found.keys, found.scores, reading.degraded)

    def _texts_of(self, column: pa.ChunkedArray) -> list[Any]:
        try:
            texts: list[Any] = column.cast(pa.large_string()).to_pylist()
        except pa.ArrowException as error:
            raise QueryError(
                f"Column {self.column!r} holds {column.type}, and {self} reads text: pass column= "
                "with the name of a column of text."
            ) from error
        return texts

    # --- failing ---------------------------------------------------------------------------

    def guarded(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Read the texts as `read` does, and survive it: a failure leaves all of them unread.

        Raises
        ------
        RerankError
            It failed, and the guard says ``on_failure="raise"``.
        """
        self._counters.add(Usage(queries=1, documents=len(texts)))
        no_time = "" if deadline.left_s() > 0 else "no time was left for it"
        if reason := no_time or self._breaker.refuses():
            self._counters.add(Usage(skipped=1, degraded=1))
            return self._failed(RerankError(str(self), reason=reason), len(texts))
        try:
            reading = self.read(query, texts, deadline.or_in(self.guard.deadline_s))
        except RerankError as error:
            self._breaker.failed(error)
            self._counters.add(Usage(failures=1, degraded=1))
            return self._failed(error, len(texts))
        except BaseException:
            self._breaker.gave_up()
            raise
        self._breaker.succeeded()
        if reading.degraded:
            self._counters.add(Usage(degraded=1))
            _log.warning("%s: %s", self, reading.degraded)
        return reading

    def _failed(self, error: RerankError, n_texts: int) -> Reading:
        if self.guard.on_failure == "raise":
            raise error
        _log.warning("%s: answered in the order of the search: %s", self, error.reason)
        return Reading.nothing(n_texts, f"{self}: {error.reason}")


def check_count(name: str, value: int | None) -> None:
    """Refuse anything but None and a whole number from 1 on.

    Raises
    ------
    InputError
        It is something else.
    """
    if value is not None:
        check_whole(name, value, least=1)


def check_price(name: str, value: float) -> None:
    """Refuse anything but a finite number from 0 on.

    Raises
    ------
    InputError
        It is something else.
    """
    if not is_number(value) or not 0 <= value < math.inf:
        raise InputError(f"{name} is {value!r}; it must be a price in dollars, 0 or more.")


def _words_of(query: Any) -> str:
    """Return the words of a query: text, or what a full-text query object of LanceDB holds."""
    text = query if isinstance(query, str) else getattr(query, "query", None)
    if not isinstance(text, str) or not text.strip():
        raise QueryError(
            f"A reranker needs the words of the query, and got {type(query).__name__}. After a "
            "search by vector pass them: .rerank(reranker, query_string='how do I cancel?')."
        )
    return text
