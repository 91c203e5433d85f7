"""From labels, entailments and grades to examples: pairs and triplets to train or measure with.

Every function here is pure and takes a seed: the same set and the same seed give the same result
on any machine. What could not be used is counted in the ``source`` of the result.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lancedb_ft.data.texts import normalise
from lancedb_ft.data.training.labelled import (
    labelled_pairs,
    labelled_queries,
    made_from,
    require_data,
)
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import CONTRADICTION, ENTAILMENT, TrainingSet

__all__ = ["labelled_pairs", "labelled_queries", "nli_triplets", "ranking_pairs"]


def nli_triplets(training_set: TrainingSet, *, seed: int = 0) -> TrainingSet:
    """Take entailments as positives and contradictions of the same premise as hard negatives.

    That is how sentence encoders are trained on SNLI and MultiNLI (Gao et al., "SimCSE", EMNLP
    2021). One whose premise is contradicted nowhere borrows a contradiction of another premise: a
    loss with in-batch negatives compares it with that text anyway, so nothing is claimed that was
    not so before, and all rows have the same columns. What a premise entails is never a negative
    of it, not even where it is called a contradiction as well; an entailment for which no other
    contradiction is left is dropped and counted. Neutral pairs say neither and are left out.

    Parameters
    ----------
    training_set
        Of the kind ``nli``.
    seed
        Chooses what is borrowed.

    Returns
    -------
    TrainingSet
        ``triplets``; ``pairs`` where nothing is contradicted at all. ``source["examples"]`` counts
        the neutral pairs, entailments given twice, the borrowed negatives, the entailments without
        a negative, which are dropped, and the contradictions that no entailment of their premise
        used.

    Raises
    ------
    InputError
        There is no entailment, or none for which a negative is left.
    """
    require_data(training_set, "nli")
    found = _Inferences.of(training_set)
    if not found.entailed:
        raise InputError("No pair is labelled as entailment (0), so there are no positives.")
    everything = [text for texts in found.contradicted.values() for text in texts]
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, ...]] = []
    n_borrowed = n_dropped = n_used = 0
    for key, hypotheses in found.entailed.items():
        taken = {normalise(text) for text in hypotheses} | {key}
        own = [text for text in found.contradicted.get(key, []) if normalise(text) not in taken]
        n_used += min(len(own), len(hypotheses))
        for position, hypothesis in enumerate(hypotheses):
            if not everything:
                rows.append((found.spelling[key], hypothesis))
                continue
            negative = own[position % len(own)] if own else _drawn(rng, everything, taken)
            if negative is None:
                n_dropped += 1
                continue
            n_borrowed += not own
            rows.append((found.spelling[key], hypothesis, negative))
    if not rows:
        raise InputError(
            f"None of the {n_dropped} entailments has a negative: every contradiction there is "
            "says what its premise entails, or the premise itself. Mend the labels, or leave the "
            "contradictions out, which gives pairs."
        )
    told = {
        "from": "nli",
        "seed": seed,
        "neutral": found.n_neutral,
        "repeated_entailments": found.n_repeated,
        "borrowed_negatives": n_borrowed,
        "entailments_without_negative": n_dropped,
        "unused_contradictions": len(everything) - n_used,
    }
    names = ["anchor", "positive", *(["negative_1"] if everything else [])]
    return made_from(training_set, "triplets" if everything else "pairs", names, rows, told)


def ranking_pairs(training_set: TrainingSet, *, seed: int = 0, negatives: int = 1) -> TrainingSet:
    """Take relevant documents as positives, better ones more often, and judged misses as negatives.

    A query with n relevant documents gives n rows, drawn by systematic sampling in proportion to
    their grades: beside one of grade 1, a document of grade 3 stands three times as often on
    average; where all grades are equal each stands once. Documents of grade 0, judged and found
    not to answer the query, become hard negatives; a query with too few borrows those of others
    (never one that is relevant to it), as in `nli_triplets`. A row for which too few are left is
    dropped and counted.

    Parameters
    ----------
    training_set
        Of the kind ``ranking``.
    seed
        Draws the rows and the negatives.
    negatives
        In each row; 0 for none.

    Returns
    -------
    TrainingSet
        ``triplets`` with ``negative_1`` and so on, or ``pairs`` where nothing has grade 0; both
        with ``query_id`` and ``doc_id``. ``source["examples"]`` has the counts.

    Raises
    ------
    InputError
        No document has a grade above 0, or no row has enough negatives.
    """
    require_data(training_set, "ranking")
    judged: dict[str, list[dict[str, Any]]] = {}
    for row in training_set.table.to_pylist():
        judged.setdefault(row["query_id"], []).append(row)
    misses = list(
        dict.fromkeys(
            row["document"] for rows in judged.values() for row in rows if not row["grade"]
        )
    )
    n_negatives = negatives if misses else 0
    rng = np.random.default_rng(seed)
    rows: list[tuple[str, ...]] = []
    n_borrowed = n_unanswered = n_dropped = 0
    for judgements in judged.values():
        relevant = [row for row in judgements if row["grade"] > 0]
        own = [row["document"] for row in judgements if not row["grade"]]
        n_unanswered += not relevant
        taken = {normalise(row["document"]) for row in relevant}
        for row in _systematic(rng, relevant):
            chosen, borrowed = _hard_negatives(rng, own, misses, taken, n_negatives)
            if len(chosen) < n_negatives:
                n_dropped += 1
                continue
            n_borrowed += borrowed
            ids = (row["query_id"], row["doc_id"])
            rows.append((row["query"], row["document"], *chosen, *ids))
    if n_dropped and not rows:
        raise InputError(
            f"None of the {n_dropped} rows has {n_negatives} negatives: of the {len(misses)} texts "
            "of grade 0, too few are not relevant to the same query as well. Ask for fewer "
            "(negatives=), take the data as 'pairs', or mine negatives for them."
        )
    if not rows:
        raise InputError("No document has a grade above 0, so there are no positives.")
    names = ["anchor", "positive", *(f"negative_{n + 1}" for n in range(n_negatives))]
    told = {
        "from": "ranking",
        "seed": seed,
        "negatives": n_negatives,
        "borrowed_negatives": n_borrowed,
        "queries_without_relevant": n_unanswered,
        "rows_without_negatives": n_dropped,
    }
    kind = "triplets" if n_negatives else "pairs"
    return made_from(training_set, kind, [*names, "query_id", "doc_id"], rows, told)


# --- parts ---------------------------------------------------------------------------------


@dataclass
class _Inferences:
    """What follows from each premise, and what contradicts it; premises are compared normalised."""

    entailed: dict[str, list[str]] = field(default_factory=dict)
    contradicted: dict[str, list[str]] = field(default_factory=dict)
    spelling: dict[str, str] = field(default_factory=dict)
    n_neutral: int = 0
    n_repeated: int = 0

    @classmethod
    def of(cls, training_set: TrainingSet) -> _Inferences:
        found = cls()
        for row in training_set.table.to_pylist():
            key = normalise(row["premise"])
            found.spelling.setdefault(key, row["premise"])
            if row["label"] == ENTAILMENT:
                texts = found.entailed.setdefault(key, [])
                if row["hypothesis"] in texts:
                    found.n_repeated += 1
                else:
                    texts.append(row["hypothesis"])
            elif row["label"] == CONTRADICTION:
                found.contradicted.setdefault(key, []).append(row["hypothesis"])
            else:
                found.n_neutral += 1
        return found


def _drawn(rng: np.random.Generator, texts: Sequence[str], taken: set[str]) -> str | None:
    """Draw a text that is not taken; None where nearly all are."""
    for _ in range(100):
        text = texts[int(rng.integers(len(texts)))]
        if normalise(text) not in taken:
            return text
    return next((text for text in texts if normalise(text) not in taken), None)


def _systematic(rng: np.random.Generator, rows: Sequence[dict[str, Any]]) -> Iterable[Any]:
    """Draw ``len(rows)`` rows in proportion to their grades, each as evenly as can be."""
    if not rows:
        return []
    grades = np.array([row["grade"] for row in rows], np.float64)
    if (grades == grades[0]).all():
        return rows
    ends = np.cumsum(grades) / grades.sum() * len(rows)
    ticks = np.arange(len(rows)) + rng.random()
    return [rows[min(int(p), len(rows) - 1)] for p in np.searchsorted(ends, ticks, side="right")]


def _hard_negatives(
    rng: np.random.Generator,
    own: Sequence[str],
    misses: Sequence[str],
    taken: set[str],
    wanted: int,
) -> tuple[list[str], int]:
    """Return judged misses of the query, filled up with those of others; how many were filled."""
    if not wanted:
        return [], 0
    own = [text for text in dict.fromkeys(own) if normalise(text) not in taken]
    order = rng.permutation(len(own))[:wanted]
    chosen = [own[int(position)] for position in order]
    n_own = len(chosen)
    refused = taken | {normalise(text) for text in chosen}
    while len(chosen) < wanted:
        text = _drawn(rng, misses, refused)
        if text is None:
            break
        chosen.append(text)
        refused.add(normalise(text))
    return chosen, len(chosen) - n_own
