"""`mine_negatives`: documents that look like answers and are none."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import pyarrow as pa

from lancedb_ft.data.mine import scores
from lancedb_ft.data.mine.candidates import Candidates, Mined, choose_batch
from lancedb_ft.data.mine.documents import DocumentSource, Library, source_of
from lancedb_ft.data.mine.options import MiningOptions
from lancedb_ft.data.mine.questions import (
    HeldOut,
    Row,
    false_negatives,
    questions_of,
    rows_of,
)
from lancedb_ft.data.mine.report import MineReport, Tally, sample_rows
from lancedb_ft.data.mine.rules import Strategy, require_strategy
from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs, Progress, Qrels, Retriever

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.data.mine.scores import Judge, Teacher

__all__ = ["MinedNegatives", "mine_negatives"]

WhenFew: TypeAlias = Literal["fill", "keep", "drop"]

#: Queries searched, scored and decided at once; what is held for one batch is about this times
#: ``range_max`` documents.
_BATCH_QUERIES = 512


@dataclass(frozen=True)
class MinedNegatives:
    """Training data of the type ``negatives``, and how it came about."""

    training_set: TrainingSet
    report: MineReport

    def __repr__(self) -> str:
        """Say how many, not what."""
        return f"MinedNegatives(n={len(self.training_set)})"


def mine_negatives(
    pairs: Pairs | TrainingSet,
    candidates: Retriever | Sequence[Retriever] | None = None,
    *,
    corpus: Table | Mapping[str, str] | DocumentSource | None = None,
    n_negatives: int = 5,
    strategy: str = "retrieval",
    sampling: Literal["top", "random"] = "top",
    margin: float | None = 0.95,
    absolute_margin: float | None = None,
    range_min: int = 0,
    range_max: int = 100,
    teacher: Teacher | None = None,
    known: Qrels | None = None,
    held_out: Sequence[Pairs | TrainingSet] = (),
    groups: Mapping[str, str] | None = None,
    near_threshold: float = 0.8,
    when_few: WhenFew = "fill",
    sample: int = 5,
    seed: int = 0,
    progress: Progress | None = None,
) -> MinedNegatives:
    """Find hard negatives: what search ranks high for a query although it does not answer it.

    What is known to answer a query never becomes its negative: its judged documents, those judged
    for another query of the same text, documents of the same text as one of these, and
    near-duplicates. What is not known to answer it but probably does is kept out by the margin:
    a negative's score must be below 95 % of the positive's, by the same judge (TopK-PercPos of
    NV-Retriever, arXiv:2407.15831).

    Parameters
    ----------
    pairs
        Queries with positives: `Pairs`, or a `TrainingSet` of the type pairs, triplets, ranking,
        negatives or nli (entailed hypotheses are positives). Negatives they come with are not
        taken over; those that are positives of their own query are named in the report.
    candidates
        What finds them: a retriever, such as ``lancedb_ft.retriever(table, mode="hybrid")``,
        `bm25_retriever` or `lancedb_ft.table_candidates`, or several, whose results are taken in
        turns. Not needed for ``strategy="contradiction"``.
    corpus
        The texts of the documents: the table (read at the version that is the newest now, noted
        in ``source``), ``{doc_id: text}``, or `TableDocuments`. By default the positives of all
        pairs.
    n_negatives
        How many for each pair.
    strategy
        A key of `STRATEGIES`.
    sampling
        ``top`` takes the hardest that are left, ``random`` any of them, by the seed.
    margin
        Share of the positive's score that a negative must stay below, above 0 and at most 1; None:
        no such limit. Where the positive's score is negative, the limit lies by the same part of
        its size below it.
    absolute_margin
        A negative must score at least that much less than the positive, in units of the judge.
    range_min, range_max
        Ranks of candidates to look at, from 0, ``range_max`` excluded; known positives have none.
    teacher
        Judges instead: reads the texts of the positives and of the candidates that the other rules
        left. Its scores are kept as ``positive_score`` and ``negative_scores``, for distillation.
        See `cross_encoder_teacher`.
    known
        Further judgements, ``{query_id: {doc_id: grade}}``, when ``pairs`` are not all there is.
    held_out
        Dev and test data. What their queries ask for is not taken: it would be trained on, as a
        wrong answer, and `train` refuses that of its dev part.
    groups
        ``{doc_id: group}``, for ``strategy="domain_confusion"``.
    near_threshold
        Jaccard similarity from which a candidate is a near-duplicate of a positive, or of a text
        that is held out.
    when_few
        What to do with a pair that has fewer negatives than wanted: ``fill`` adds random documents
        that pass the same rules, those below the margin first (and leaves the pair out where even
        these are too few), ``keep`` takes it with those it has (one at least), ``drop`` leaves it
        out.
    sample
        How many rows to show in the report.
    seed
        Decides about random choices.
    progress
        Called with the number of queries done.

    Returns
    -------
    MinedNegatives
        ``training_set`` with ``query_id``, ``query``, ``positive``, ``negatives``,
        ``negative_ids``, ``doc_id`` where the pairs have one, and the teacher's scores; one row a
        pair, negatives hardest first, random ones last. ``report`` counts what was removed, why.

    Raises
    ------
    InputError
        The options contradict one another, the data has no positives, or no pair is left.

    Notes
    -----
    The judge is the teacher; without one the first retriever that has ``score`` (the stored
    vectors of a table, BM25 in memory): so positives that were not found have a score too, and
    nothing is encoded again. Without either it is the retriever's own scores, and no candidate of a
    positive that was not found stays: each of them scored higher.
    """
    started = time.perf_counter()
    options = MiningOptions(
        n_negatives=n_negatives,
        sampling=sampling,
        margin=margin,
        absolute_margin=absolute_margin,
        range_min=range_min,
        range_max=range_max,
        near_threshold=near_threshold,
        when_few=when_few,
        seed=seed,
    )
    chosen = require_strategy(strategy)
    if chosen.needs_groups and not groups:
        raise InputError(f"strategy={strategy!r} needs groups=: a {{doc_id: group}} mapping.")
    rows = rows_of(pairs)
    retrievers, library = _sources(pairs, rows, candidates, corpus, chosen)
    rows = _with_ids(rows, library)
    questions = questions_of(rows, library, known)
    tally = Tally(n_pairs=len(rows), n_queries=len(questions))
    finder = Candidates.of(
        retrievers,
        library,
        options,
        strategy=chosen,
        judge=_judge(retrievers, teacher, options),
        scale=scores.require_scale(getattr(teacher, "scale", "similarity")),
        groups=groups or {},
        held_out=HeldOut(held_out, near_threshold=near_threshold),
    )
    mined: dict[int, Mined] = {}
    for first in range(0, len(questions), _BATCH_QUERIES):
        batch = questions[first : first + _BATCH_QUERIES]
        mined.update(choose_batch(finder, rows, batch, tally))
        if progress is not None:
            progress(first + len(batch), len(questions))
    kept = [(rows[place], mined[place]) for place in sorted(mined)]
    report = tally.report(
        kept,
        false_negatives=false_negatives(rows, questions, near_threshold=near_threshold),
        sample=sample_rows(kept, sample, seed),
        seconds=time.perf_counter() - started,
    )
    if not kept:
        raise InputError(f"No pair has a negative left. {report}")
    source = {
        "kind": "mined",
        "pairs": dict(pairs.source),
        "pairs_fingerprint": pairs.fingerprint,
        "docs": library.source.to_dict(),
        "strategy": strategy,
        "retrievers": len(retrievers),
        "teacher": None
        if teacher is None
        else str(getattr(teacher, "ref", type(teacher).__name__)),
        **options.to_dict(),
    }
    return MinedNegatives(_training_set(kept, source, taught=teacher is not None), report)


def _sources(
    pairs: Pairs | TrainingSet,
    rows: Sequence[Row],
    candidates: Retriever | Sequence[Retriever] | None,
    corpus: Any,
    strategy: Strategy,
) -> tuple[list[Retriever], Library]:
    """Return what finds candidates, and where their texts are."""
    if strategy.offer is not None:
        if candidates is not None:
            raise InputError(f"strategy={strategy.name!r} takes negatives from the data itself.")
        if not isinstance(pairs, TrainingSet) or pairs.kind != "nli":
            raise InputError(f"strategy={strategy.name!r} needs a TrainingSet of the type 'nli'.")
        retrieve, texts = strategy.offer(pairs)
        return [retrieve], Library(source_of(texts))
    if candidates is None:
        raise InputError(f"strategy={strategy.name!r} needs candidates=: a Retriever or several.")
    retrievers = list(candidates) if isinstance(candidates, Sequence) else [candidates]
    if not retrievers:
        raise InputError("candidates is empty; give a Retriever or several.")
    if corpus is None:
        corpus = {row.doc_id: row.positive for row in rows if row.doc_id is not None}
        if not corpus:
            raise InputError(
                "The data has no document ids, so it cannot be the corpus; give corpus=."
            )
    return retrievers, Library(source_of(corpus))


def _with_ids(rows: list[Row], library: Library) -> list[Row]:
    """Find the ids of positives that come without, by their texts."""
    keys = {normalise(row.positive) for row in rows if row.doc_id is None}
    ids = library.ids_of(keys)
    return [
        row
        if row.doc_id is not None
        else Row(
            row.query_id, row.query, ids.get(normalise(row.positive)), row.positive, row.negatives
        )
        for row in rows
    ]


def _judge(
    retrievers: Sequence[Retriever], teacher: Teacher | None, options: MiningOptions
) -> Judge | None:
    """Return who judges; None for the retriever's own scores."""
    if teacher is not None:
        return scores.of_teacher(teacher)
    scorers: list[Callable[..., Any]] = [
        score for r in retrievers if (score := getattr(r, "score", None)) is not None
    ]
    if scorers:
        return scores.of_scorer(scorers[0])
    if len(retrievers) > 1 and (options.margin or options.absolute_margin) is not None:
        raise InputError(
            "Several retrievers score on several scales, and none of them scores documents it did "
            "not find, so there is no margin to measure. Give teacher=, or margin=None, or one "
            "with a method score, such as retriever(table, mode='vector')."
        )
    return None


def _training_set(
    kept: Sequence[tuple[Row, Mined]], source: Mapping[str, Any], *, taught: bool
) -> TrainingSet:
    columns: dict[str, pa.Array] = {
        "query_id": pa.array([row.query_id for row, _ in kept], pa.string()),
        "query": pa.array([row.query for row, _ in kept], pa.string()),
        "positive": pa.array([row.positive for row, _ in kept], pa.string()),
        "negatives": pa.array(
            [[n.document.text for n in found.negatives] for _, found in kept], pa.list_(pa.string())
        ),
        "negative_ids": pa.array(
            [[n.document.id for n in found.negatives] for _, found in kept], pa.list_(pa.string())
        ),
    }
    if all(row.doc_id is not None for row, _ in kept):
        columns["doc_id"] = pa.array([row.doc_id for row, _ in kept], pa.string())
    if taught:
        columns["positive_score"] = pa.array([f.positive_score for _, f in kept], pa.float64())
        columns["negative_scores"] = pa.array(
            [[n.score for n in found.negatives] for _, found in kept], pa.list_(pa.float64())
        )
    return TrainingSet("negatives", pa.table(columns), source)
