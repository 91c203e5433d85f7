"""Which candidates may not be negatives, and the strategies: which of the others are wanted."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from lancedb_ft.data.mine.documents import Document
from lancedb_ft.data.mine.questions import HeldOut, Question
from lancedb_ft.data.near import jaccard
from lancedb_ft.data.texts import query_id_of
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import CONTRADICTION, TrainingSet
from lancedb_ft.types import Retriever

__all__ = ["RULES", "STRATEGIES", "Context", "Strategy", "require_strategy"]

#: Partial match: a document shares at least this part of the words of the query or of a positive,
#: and no more than that part of either. Below it is just another document; above it says so much
#: of the same that it may well be an answer.
PARTIAL_MATCH = (0.2, 0.6)


@dataclass(frozen=True)
class Context:
    """What a candidate is looked at for: the query, its known answers, their groups."""

    question: Question
    near_threshold: float
    query: Document
    held_out: HeldOut = field(repr=False)
    groups: frozenset[str] = frozenset()
    group_of: Mapping[str, str] = field(default_factory=dict, repr=False)


#: Says whether a candidate has to go.
Rule = Callable[[Document, Context], bool]


def _is_known(candidate: Document, context: Context) -> bool:
    return candidate.id in context.question.known.ids


def _has_text_of_positive(candidate: Document, context: Context) -> bool:
    return candidate.key in context.question.known.keys


def _is_the_query(candidate: Document, context: Context) -> bool:
    return candidate.key == context.question.key


def _is_near_positive(candidate: Document, context: Context) -> bool:
    return any(
        jaccard(candidate.shingles, positive.shingles) >= context.near_threshold
        for positive in context.question.known.documents
    )


def _is_held_out(candidate: Document, context: Context) -> bool:
    return candidate in context.held_out


#: What no negative may be, in the order in which it is asked; a candidate is counted once.
RULES: Mapping[str, Rule] = {
    "known positive": _is_known,
    "same text as a positive": _has_text_of_positive,
    "the query itself": _is_the_query,
    "near-duplicate of a positive": _is_near_positive,
    "held out for dev or test": _is_held_out,
}


def _is_no_partial_match(candidate: Document, context: Context) -> bool:
    low, high = PARTIAL_MATCH
    references = (context.query, *context.question.known.documents)
    shares = [len(r.words & candidate.words) / len(r.words) for r in references]
    return not low <= max(shares) <= high


def _is_of_another_group(candidate: Document, context: Context) -> bool:
    return context.group_of.get(candidate.id) not in context.groups


def _contradictions(
    data: TrainingSet,
) -> tuple[Retriever, dict[str, str]]:
    """Return a retriever of each premise's contradictions, and their texts."""
    of_premise: dict[str, dict[str, float]] = {}
    corpus: dict[str, str] = {}
    for row in data.table.to_pylist():
        if row["label"] == CONTRADICTION:
            doc_id = query_id_of(row["hypothesis"])
            corpus.setdefault(doc_id, row["hypothesis"])
            found = of_premise.setdefault(query_id_of(row["premise"]), {})
            found.setdefault(doc_id, 1.0 / (1 + len(found)))
    if not corpus:
        raise InputError("The data has no contradictions (label 2) to take as negatives.")

    def retrieve(queries: Mapping[str, str], k: int) -> dict[str, dict[str, float]]:
        found = {q: of_premise.get(query_id_of(text), {}) for q, text in queries.items()}
        return {q: dict(list(hits.items())[:k]) for q, hits in found.items()}

    return retrieve, corpus


@dataclass(frozen=True)
class Strategy:
    """Which of the candidates are wanted.

    Parameters
    ----------
    name
        What users call it.
    description
        One line, for listings.
    unwanted
        Says whether a candidate is not of the kind.
    why
        What the report calls those.
    needs_groups
        Documents are told apart by group; further ones are then drawn from the same group.
    offer
        Gives candidates and their texts out of the data itself: no retriever is asked.
    """

    name: str
    description: str
    unwanted: Rule | None = None
    why: str = ""
    needs_groups: bool = False
    offer: Callable[[TrainingSet], tuple[Retriever, Mapping[str, str]]] | None = None


#: Every strategy of `mine_negatives`. A new one is one more entry.
STRATEGIES: Mapping[str, Strategy] = {
    strategy.name: strategy
    for strategy in (
        Strategy("retrieval", "what the retriever ranks high: bm25, vector or hybrid, as given"),
        Strategy(
            "partial_match",
            "of those, what shares some but not most words with the query or a positive",
            unwanted=_is_no_partial_match,
            why="no partial match",
        ),
        Strategy(
            "domain_confusion",
            "of those, what is in the group of a positive: the right topic, the wrong document",
            unwanted=_is_of_another_group,
            why="of another group",
            needs_groups=True,
        ),
        Strategy(
            "contradiction",
            "natural language inference: what contradicts the same premise",
            offer=_contradictions,
        ),
    )
}


def require_strategy(name: str) -> Strategy:
    """Return the strategy of that name.

    Raises
    ------
    InputError
        There is none; the error lists those there are.
    """
    if name not in STRATEGIES:
        known = ", ".join(f"{s.name!r} ({s.description})" for s in STRATEGIES.values())
        raise InputError(f"There is no strategy {name!r}. There is: {known}.")
    return STRATEGIES[name]
