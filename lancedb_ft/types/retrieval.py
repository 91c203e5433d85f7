"""What is asked and what comes back: modes, runs, judgements, retrievers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, Protocol, TypeAlias, runtime_checkable

__all__ = ["Mode", "Progress", "Qrels", "Retriever", "Run"]

#: What a search looks at.
Mode: TypeAlias = Literal["vector", "fts", "hybrid"]

#: ``{query_id: {doc_id: score}}``, higher is better (the shape of ranx and TREC run files).
Run: TypeAlias = Mapping[str, Mapping[str, float]]

#: ``{query_id: {doc_id: grade}}``, grade > 0 means relevant (the shape of TREC qrels).
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]


@runtime_checkable
class Retriever(Protocol):
    """Anything that answers queries with ranked document ids."""

    def __call__(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the best ``k`` documents for each query; a query may have fewer, or none."""
        ...


class Progress(Protocol):
    """Called as ``progress(done, total)`` during long work; ``total`` may be None."""

    def __call__(self, done: int, total: int | None, /) -> None:
        """Report that ``done`` of ``total`` units are finished."""
        ...
