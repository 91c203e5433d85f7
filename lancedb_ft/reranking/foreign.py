"""`ForeignReranker`: a reranker that is not ours, as a search runs it: no query is lost with it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from lancedb.rerankers import Reranker

from lancedb_ft.errors import RerankError
from lancedb_ft.reranking.guard import DEGRADED_KEY, Breaker, RerankGuard
from lancedb_ft.reranking.legs import merged_legs, search_scores

__all__ = ["ForeignReranker"]

_RELEVANCE, _ROW = "_relevance_score", "_rowid"
_OF_THE_SEARCH = ("_distance", "_score")

#: No deadline: a model that runs here may take its time; a budget of the query ends it anyway.
_GUARD = RerankGuard(deadline_s=None)
#: By the reranker, whose wrapper is made anew for each query.
_breakers: WeakKeyDictionary[Reranker, Breaker] = WeakKeyDictionary()


class ForeignReranker(Reranker):  # type: ignore[misc]  # lancedb is not typed
    """Another reranker, asked as LanceDB asks it, whose failures cost no query.

    It merges the legs and scores the rows as it likes. Where it raises, or answers with something
    that is no ranking of the rows it was given, the rows come as from a `TextReranker` that failed:
    in the order of the search, marked with the reason. Otherwise they come best first, each once;
    rows without a score stand last, with the least one that it gave. It may leave rows out.

    Several failures in a row keep it from being asked for a while, also by other queries: that is
    remembered with the reranker, if it can be hashed and weakly referenced.

    Parameters
    ----------
    reranker
        What is asked.
    """

    def __init__(self, reranker: Reranker) -> None:
        # A subclass may not call the __init__ that sets it.
        shown = getattr(reranker, "score", "relevance")
        super().__init__(shown if shown in ("relevance", "all") else "relevance")
        self.reranker = reranker
        self._breaker = _breaker_of(reranker)

    def __str__(self) -> str:
        """Name what is asked."""
        return type(self.reranker).__name__

    def rerank_hybrid(
        self, query: str, vector_results: pa.Table, fts_results: pa.Table
    ) -> pa.Table:
        """Have the two legs of a hybrid search merged and reranked."""
        given = pa.concat_tables([vector_results, fts_results], promote_options="default")

        def ask() -> Any:
            try:
                return self.reranker.rerank_hybrid(query, vector_results, fts_results)
            except NotImplementedError as error:  # LanceDB demands this method of each
                raise _BrokenError("it raised NotImplementedError") from error

        return self._answer(ask, given, lambda: merged_legs(vector_results, fts_results))

    def rerank_vector(self, query: str, vector_results: pa.Table) -> pa.Table:
        """Have the rows of a vector search reranked."""
        return self._one(lambda: self.reranker.rerank_vector(query, vector_results), vector_results)

    def rerank_fts(self, query: str, fts_results: pa.Table) -> pa.Table:
        """Have the rows of a full-text search reranked."""
        return self._one(lambda: self.reranker.rerank_fts(query, fts_results), fts_results)

    def _one(self, ask: Callable[[], Any], rows: pa.Table) -> pa.Table:
        return self._answer(ask, rows, lambda: (rows, search_scores(rows.num_rows)))

    def _answer(
        self,
        ask: Callable[[], Any],
        given: pa.Table,
        as_found: Callable[[], tuple[pa.Table, npt.NDArray[np.float32]]],
    ) -> pa.Table:
        """Return its ranking of the given rows; where there is none, that of the search.

        Raises
        ------
        NotImplementedError
            It cannot do this at all.
        """
        reason = self._breaker.refuses()
        if not reason:
            try:
                ranked = _best_first(ask(), given)
            except NotImplementedError:
                self._breaker.gave_up()
                raise
            except Exception as error:  # whatever it raises; its words may hold a key
                told = isinstance(error, _BrokenError)
                reason = str(error) if told else f"it raised {type(error).__name__}"
                self._breaker.failed(RerankError(str(self), reason=reason))
            except BaseException:
                self._breaker.gave_up()
                raise
            else:
                self._breaker.succeeded()
                return ranked
        return self._unread(*as_found(), reason)

    def _unread(self, rows: pa.Table, scores: npt.NDArray[np.float32], reason: str) -> pa.Table:
        rows = rows.append_column(_RELEVANCE, pa.array(scores, pa.float32()))
        told = {**(rows.schema.metadata or {}), DEGRADED_KEY: f"{self}: {reason}".encode()}
        return self._keep_relevance_score(rows.replace_schema_metadata(told))


class _BrokenError(Exception):
    """An answer is no ranking; the words are ours."""


def _breaker_of(reranker: Reranker) -> Breaker:
    try:
        return _breakers.setdefault(reranker, Breaker(_GUARD))
    except TypeError:  # no hash, such as a dataclass, or no weak reference
        return Breaker(_GUARD)


def _best_first(answer: Any, given: pa.Table) -> pa.Table:
    """Check an answer, put it in the order of its scores, and fill up the columns it left out."""
    answer, scores = _checked(answer)
    places = pc.index_in(answer[_ROW], value_set=given[_ROW].combine_chunks())
    if places.null_count:
        raise _BrokenError("it named rows that it was not given")
    order = np.argsort(-np.nan_to_num(scores, nan=-np.inf), kind="stable")
    # A row that stands there twice counts where it stands best.
    _, first = np.unique(places.to_numpy()[order], return_index=True)
    order = pa.array(order[np.sort(first)])
    ranked, places = answer.take(order), places.take(order)
    shown = pa.array(_all_finite(scores), answer[_RELEVANCE].type).take(order)
    ranked = ranked.set_column(ranked.column_names.index(_RELEVANCE), _RELEVANCE, shown)
    for name in given.column_names:
        if name not in (*ranked.column_names, *_OF_THE_SEARCH):
            at = ranked.column_names.index(_RELEVANCE)
            ranked = ranked.add_column(at, given.field(name), given[name].take(places))
    return ranked


def _checked(answer: Any) -> tuple[pa.Table, npt.NDArray[np.float64]]:
    """Return the answer with row ids of our type, and its scores: NaN where there is none."""
    if not isinstance(answer, pa.Table):
        raise _BrokenError(f"it answered with a {type(answer).__name__}, no Arrow table")
    names = answer.column_names
    for name in (_ROW, _RELEVANCE):
        if names.count(name) != 1:
            raise _BrokenError(f"its answer must have one column {name}, and has {names}")
    kind = answer[_RELEVANCE].type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise _BrokenError(f"its scores are {kind}, no numbers")
    scores = np.asarray(answer[_RELEVANCE].to_numpy(), np.float64)
    if len(scores) and not np.isfinite(scores).any():
        raise _BrokenError("it gave no scores")
    ids = answer[_ROW].cast(pa.uint64())
    return answer.set_column(names.index(_ROW), _ROW, ids), scores


def _all_finite(scores: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Return scores that can be compared and averaged, in the order in which they stand."""
    finite = scores[np.isfinite(scores)]
    if len(finite) == len(scores):
        return scores
    return np.clip(np.nan_to_num(scores, nan=-np.inf), finite.min(), finite.max())
