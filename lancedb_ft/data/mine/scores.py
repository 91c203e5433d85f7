"""Who judges how well a document answers a query, and on what scale the margin is measured."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np

from lancedb_ft.data.mine.documents import Document
from lancedb_ft.errors import InputError
from lancedb_ft.types import Run

__all__ = ["SCALES", "Judge", "ScoringRetriever", "Teacher", "of_run", "of_scorer", "of_teacher"]

#: ``{query_id: {doc_id: score}}`` for the documents of each query that can be scored.
Scores: TypeAlias = Mapping[str, Mapping[str, float]]
Judge: TypeAlias = Callable[[Mapping[str, str], Mapping[str, Sequence[Document]]], Scores]


class Teacher(Protocol):
    """Scores documents against a query, higher is better.

    A teacher whose scores are logits says so by an attribute ``scale = "logit"``: the margin is
    then measured on their sigmoid, and the logits are what is kept.
    """

    def __call__(self, query: str, documents: list[str], /) -> Sequence[float]:
        """Return one score a document."""
        ...


@runtime_checkable
class ScoringRetriever(Protocol):
    """A retriever that also scores documents it did not find, as `exact_retriever` does."""

    def __call__(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the best ``k`` documents for each query."""
        ...

    def score(self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]) -> Run:
        """Return a similarity of each named document (cosine, BM25), higher is better."""
        ...


def _sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1 + math.exp(logit))


#: From a score to what the margin is measured on.
SCALES: Mapping[str, Callable[[float], float]] = {
    "similarity": lambda score: score,
    "logit": _sigmoid,
}


def require_scale(name: str) -> Callable[[float], float]:
    """Return the scale of that name.

    Raises
    ------
    InputError
        There is none.
    """
    if name not in SCALES:
        raise InputError(f"There is no scale of scores {name!r}; there is {sorted(SCALES)}.")
    return SCALES[name]


def of_run(run: Run) -> Judge:
    """Judge by the scores of a finished run; what it did not find has none."""

    def judge(
        queries: Mapping[str, str], documents: Mapping[str, Sequence[Document]]
    ) -> dict[str, dict[str, float]]:
        found = {}
        for query_id, asked in documents.items():
            hits = run.get(query_id, {})  # a retriever may leave out what it finds nothing for
            found[query_id] = {d.id: hits[d.id] for d in asked if d.id in hits}
        return found

    return judge


def of_scorer(score: Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Run]) -> Judge:
    """Judge by a scorer of document ids, such as the stored vectors of a table."""

    def judge(queries: Mapping[str, str], documents: Mapping[str, Sequence[Document]]) -> Scores:
        return score(queries, {q: [d.id for d in asked] for q, asked in documents.items()})

    return judge


def of_teacher(teacher: Teacher) -> Judge:
    """Judge by a teacher that reads the texts.

    Raises
    ------
    InputError
        It returns another number of scores than documents, or scores that are not finite.
    """
    # One that scores pairs of many queries at once fills its batches, and pads less.
    many = getattr(teacher, "score_pairs", None)

    def judge(
        queries: Mapping[str, str], documents: Mapping[str, Sequence[Document]]
    ) -> dict[str, dict[str, float]]:
        if many is None:
            given: list[Any] = [
                teacher(queries[q], [d.text for d in asked]) for q, asked in documents.items()
            ]
        else:
            flat = many([(queries[q], d.text) for q in documents for d in documents[q]])
            ends = np.cumsum([len(documents[q]) for q in documents])
            given = np.split(np.asarray(flat, np.float64), ends[:-1])
        return {
            q: _checked(scores, asked)
            for (q, asked), scores in zip(documents.items(), given, strict=True)
        }

    return judge


def _checked(given: Any, asked: Sequence[Document]) -> dict[str, float]:
    scores = np.asarray(given, np.float64).reshape(-1)
    if len(scores) != len(asked):
        raise InputError(f"The teacher gave {len(scores)} scores for {len(asked)} documents.")
    if not np.isfinite(scores).all():
        raise InputError("The teacher gave scores that are NaN or infinite.")
    return {document.id: float(score) for document, score in zip(asked, scores, strict=True)}
