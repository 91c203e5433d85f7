"""One batch of queries: ask the retrievers, apply the rules, score what is left, choose."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import TYPE_CHECKING

from lancedb_ft.data.mine import scores
from lancedb_ft.data.mine.documents import Document, Library
from lancedb_ft.data.mine.options import MiningOptions
from lancedb_ft.data.mine.questions import HeldOut, Question, Row
from lancedb_ft.data.mine.rules import RULES, Context, Strategy
from lancedb_ft.types import Retriever, Run

if TYPE_CHECKING:
    from lancedb_ft.data.mine.report import Tally
    from lancedb_ft.data.mine.scores import Judge, Scores

__all__ = ["Candidates", "Mined", "Negative", "choose_batch"]

#: Documents drawn at random once; each query takes from these when it has too few negatives.
_POOL = 4096
#: So many random documents are looked at for each that is missing, and so many more.
_SPARE, _MORE = 4, 8


@dataclass(frozen=True)
class Negative:
    """A chosen document, its score and its rank; a random one has no rank."""

    document: Document
    score: float | None
    rank: int | None


@dataclass(frozen=True)
class Mined:
    """What was chosen for one pair."""

    positive_score: float | None
    negatives: tuple[Negative, ...]


@dataclass(frozen=True)
class Candidates:
    """What finds and judges candidates."""

    retrievers: Sequence[Retriever]
    library: Library
    options: MiningOptions
    strategy: Strategy
    judge: Judge | None
    scale: Callable[[float], float]
    held_out: HeldOut
    group_of: Mapping[str, str] = field(default_factory=dict)
    members: Mapping[str, Sequence[str]] = field(default_factory=dict)
    pool: Sequence[str] = ()

    @classmethod
    def of(
        cls,
        retrievers: Sequence[Retriever],
        library: Library,
        options: MiningOptions,
        *,
        strategy: Strategy,
        judge: Judge | None,
        scale: Callable[[float], float],
        groups: Mapping[str, str],
        held_out: HeldOut,
    ) -> Candidates:
        """Also draw the random documents that pairs with too few negatives are filled from."""
        members: dict[str, list[str]] = {}
        if strategy.needs_groups:
            for doc_id, group in groups.items():
                members.setdefault(group, []).append(doc_id)
        pool: list[str] = []
        if options.when_few == "fill" and not strategy.needs_groups:
            pool = library.source.sample(_POOL, options.seed)
        return cls(
            retrievers,
            library,
            options,
            strategy,
            judge,
            scale,
            held_out,
            group_of=dict(groups),
            members=members,
            pool=pool,
        )

    def context(self, question: Question) -> Context:
        """Return what candidates of this query are looked at for."""
        groups = {self.group_of[i] for i in question.known.ids if i in self.group_of}
        query = self.library.of_text("", question.text)
        return Context(
            question,
            self.options.near_threshold,
            query,
            self.held_out,
            groups=frozenset(groups),
            group_of=self.group_of,
        )

    def spare(self, context: Context, n: int) -> list[str]:
        """Return ids drawn at random for this query: of its groups, or of the whole pool."""
        pool = self.pool
        if self.strategy.needs_groups:
            pool = sorted({i for group in context.groups for i in self.members.get(group, ())})
        dice = random.Random(f"{self.options.seed}\x1f{context.question.id}")
        return dice.sample(pool, min(n, len(pool)))


def choose_batch(
    finder: Candidates, rows: Sequence[Row], batch: Sequence[Question], tally: Tally
) -> dict[int, Mined]:
    """Choose the negatives of a batch of queries; return them by the place of their row."""
    queries = {question.id: question.text for question in batch}
    contexts = {question.id: finder.context(question) for question in batch}
    depth = finder.options.range_max + max(len(q.known.ids) for q in batch)
    runs = [retrieve(queries, depth) for retrieve in finder.retrievers]
    left = _left(finder, _in_turns(runs, queries), contexts, tally)
    positives = {
        question.id: [
            finder.library.of_text(rows[place].doc_id or f"\x00{place}", rows[place].positive)
            for place in question.rows
        ]
        for question in batch
    }
    judge = finder.judge or scores.of_run(runs[0])
    asked = {q: [*positives[q], *(n.document for n in left[q])] for q in queries}
    scored = judge(queries, asked)
    chosen: dict[int, Mined] = {}
    for question in batch:
        for place, positive in zip(question.rows, positives[question.id], strict=True):
            chosen[place] = _chosen(finder, question.id, positive, left[question.id], scored, tally)
    n_few = sum(len(found.negatives) < finder.options.n_negatives for found in chosen.values())
    tally.n_short += n_few
    if n_few and finder.options.when_few == "fill":
        chosen = _filled(finder, queries, contexts, chosen)
    enough = finder.options.n_negatives if finder.options.when_few != "keep" else 1
    kept = {place: found for place, found in chosen.items() if len(found.negatives) >= enough}
    tally.n_filled += sum(n.rank is None for found in kept.values() for n in found.negatives)
    return kept


def _in_turns(runs: Sequence[Run], queries: Mapping[str, str]) -> dict[str, list[str]]:
    """Merge the rankings of several retrievers: all first places, then all second places, ..."""
    if len(runs) == 1:
        return {q: _ranked(runs[0].get(q, {})) for q in queries}
    merged: dict[str, list[str]] = {}
    for query_id in queries:
        ranked = [_ranked(run.get(query_id, {})) for run in runs]
        in_turns = (doc_id for turn in zip_longest(*ranked) for doc_id in turn)
        merged[query_id] = list(dict.fromkeys(i for i in in_turns if i is not None))
    return merged


def _ranked(hits: Mapping[str, float]) -> list[str]:
    """Order by score, equal ones by id."""
    return sorted(hits, key=lambda doc_id: (-hits[doc_id], doc_id))


def _left(
    finder: Candidates,
    ranked: Mapping[str, Sequence[str]],
    contexts: Mapping[str, Context],
    tally: Tally,
) -> dict[str, list[Negative]]:
    """Return the candidates of each query that no rule removes, with their ranks, unscored."""
    low, high = finder.options.range_min, finder.options.range_max
    documents = finder.library.get(i for ids in ranked.values() for i in ids)
    left: dict[str, list[Negative]] = {}
    for query_id, ids in ranked.items():
        context = contexts[query_id]
        known = context.question.known.ids
        found: list[Negative] = []
        keys: set[str] = set()
        rank = 0
        for doc_id in ids:
            if rank >= high:
                break
            tally.n_candidates += 1
            if doc_id in known:
                tally.remove("known positive")
                continue
            candidate = documents.get(doc_id)
            why = "rank below range_min" if rank < low else _why_not(candidate, context, finder)
            if not why and candidate is not None and candidate.key in keys:
                why = "same text as a candidate"
            if why:
                tally.remove(why)
            elif candidate is not None:
                keys.add(candidate.key)
                found.append(Negative(candidate, None, rank))
            rank += 1
        left[query_id] = found
    return left


def _why_not(candidate: Document | None, context: Context, finder: Candidates) -> str:
    """Return the rule that removes a candidate, or nothing."""
    if candidate is None:
        return "no text"
    for why, removes in RULES.items():
        if removes(candidate, context):
            return why
    unwanted = finder.strategy.unwanted
    return finder.strategy.why if unwanted is not None and unwanted(candidate, context) else ""


def _chosen(
    finder: Candidates,
    query_id: str,
    positive: Document,
    left: Sequence[Negative],
    scored: Scores,
    tally: Tally,
) -> Mined:
    """Apply the margins of one pair, and take as many as wanted."""
    options = finder.options
    of_query = scored.get(query_id, {})
    positive_score = of_query.get(positive.id)
    passed = []
    for negative in left:
        score = of_query.get(negative.document.id)
        why = _why_too_close(finder, positive_score, score)
        if why:
            tally.remove(why)
        else:
            passed.append(Negative(negative.document, score, negative.rank))
    tally.n_passed += len(passed)
    # Hardest first: by the judge where it scored them, else as they were found.
    if all(negative.score is not None for negative in passed):
        passed.sort(key=lambda n: (-(n.score or 0.0), n.rank or 0))
    if options.sampling == "random" and len(passed) > options.n_negatives:
        dice = random.Random(f"{options.seed}\x1f{query_id}\x1f{positive.id}")
        kept = sorted(dice.sample(range(len(passed)), options.n_negatives))
        passed = [passed[place] for place in kept]
    return Mined(positive_score, tuple(passed[: options.n_negatives]))


def _why_too_close(finder: Candidates, positive: float | None, score: float | None) -> str:
    """Return why a score is too near to the positive's, or nothing."""
    options = finder.options
    if finder.strategy.offer is not None and finder.judge is None:
        return ""  # a human said that it contradicts
    if options.margin is None and options.absolute_margin is None:
        return ""
    if positive is None:
        return "positive without a score"
    if score is None:
        return "candidate without a score"
    positive, score = finder.scale(positive), finder.scale(score)
    if options.margin is not None and score >= positive - (1 - options.margin) * abs(positive):
        return "margin"
    if options.absolute_margin is not None and score > positive - options.absolute_margin:
        return "absolute margin"
    return ""


def _filled(
    finder: Candidates,
    queries: Mapping[str, str],
    contexts: Mapping[str, Context],
    chosen: dict[int, Mined],
) -> dict[int, Mined]:
    """Add random documents to the pairs that have too few negatives."""
    wanted = finder.options.n_negatives
    spare: dict[str, list[str]] = {}
    for query_id, context in contexts.items():
        lacking = max(wanted - len(chosen[place].negatives) for place in context.question.rows)
        if lacking > 0:
            spare[query_id] = finder.spare(context, _SPARE * lacking + _MORE)
    documents = finder.library.get(i for ids in spare.values() for i in ids)
    drawn = {
        query_id: [
            documents[i] for i in ids if not _why_not(documents.get(i), contexts[query_id], finder)
        ]
        for query_id, ids in spare.items()
    }
    scored: Scores = {}
    if finder.judge is not None:
        # All queries, as before: their vectors are at hand.
        scored = finder.judge(queries, drawn)
    for query_id, candidates in drawn.items():
        for place in contexts[query_id].question.rows:
            chosen[place] = _topped_up(finder, chosen[place], candidates, scored.get(query_id, {}))
    return chosen


def _topped_up(
    finder: Candidates,
    found: Mined,
    candidates: Sequence[Document],
    scored: Mapping[str, float],
) -> Mined:
    negatives = list(found.negatives)
    keys = {negative.document.key for negative in negatives}
    drawn = [Negative(document, scored.get(document.id), None) for document in candidates]
    # Those within the margin come last, yet they come: that a document drawn at random answers the
    # query is unlikely, however low the positive scores.
    drawn.sort(key=lambda n: bool(_why_too_close(finder, found.positive_score, n.score)))
    for negative in drawn:
        if len(negatives) >= finder.options.n_negatives:
            break
        if negative.document.key not in keys:
            keys.add(negative.document.key)
            negatives.append(negative)
    return Mined(found.positive_score, tuple(negatives))
