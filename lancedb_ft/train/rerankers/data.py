"""Training data as a reranker learns from it: a query with texts, each with its label."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import TextEncoder, exact_retriever
from lancedb_ft.train.rerankers.losses import RerankerLoss
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["LabelledTexts", "check_contrast_of", "documents_of", "labelled_texts"]

#: The best so many of a first search are where near negatives are drawn from.
NEAR = 30


@dataclass(frozen=True)
class LabelledTexts:
    """A query and texts, each with a label from 0 (does not answer) up."""

    query: str
    texts: tuple[str, ...]
    labels: tuple[float, ...]


def labelled_texts(
    data: Pairs | TrainingSet,
    *,
    n_negatives: int,
    seed: int,
    encoder: TextEncoder | None = None,
) -> list[LabelledTexts]:
    """Return one list a row, or a query.

    Texts that answer a query in one row are no negatives of it in another. Queries without a text
    that does not answer get negatives: half of them drawn from the best 30 of the training
    documents by ``encoder``, if there is one, the rest by chance. `mine_negatives` finds better
    ones. Labels are 1 and 0, the scores of scored pairs, or grades over the highest one.

    Parameters
    ----------
    data
        Pairs, or a set of the kind ``pairs``, ``triplets``, ``negatives``, ``ranking`` or
        ``scored``. Its prompts are for embedders, and not used.
    n_negatives
        At most so many a query; the first of those given.
    seed
        Of what is drawn by chance.

    Raises
    ------
    InputError
        The kind cannot be used, or there is no text to tell the answers from.
    """
    kind = "pairs" if isinstance(data, Pairs) else data.kind
    if kind not in _LISTS:
        raise InputError(
            f"A reranker cannot be trained on data of the kind {kind!r}; it takes "
            f"{', '.join(_LISTS)}."
        )
    training_set = TrainingSet.of_pairs(data) if isinstance(data, Pairs) else data
    lists = _LISTS[training_set.kind](training_set, n_negatives)
    if training_set.kind == "scored":
        return lists
    lists = _without_false_negatives(lists)
    return _with_negatives(lists, n_negatives, seed, encoder)


def check_contrast_of(lists: Sequence[LabelledTexts], loss: RerankerLoss) -> list[LabelledTexts]:
    """Return the lists that teach something.

    Raises
    ------
    InputError
        None does.
    """
    kept = [one for one in lists if len(set(one.labels)) > 1] if loss.compares else list(lists)
    labels = {label for one in kept for label in one.labels}
    if len(labels) < 2:
        raise InputError(
            f"The {len(lists)} rows to train on have no texts of different labels to tell apart "
            f"(loss {loss.name!r}). Give data with negatives, or texts of several queries."
        )
    return kept


def documents_of(lists: Iterable[LabelledTexts]) -> list[str]:
    """Return all texts, each once, in order."""
    return list(dict.fromkeys(text for one in lists for text in one.texts))


# --- by kind -------------------------------------------------------------------------------


def _row(query: str, positive: str, negatives: Sequence[str]) -> LabelledTexts:
    labels = (1.0, *(0.0 for _ in negatives))
    return LabelledTexts(query, (positive, *negatives), labels)


def _of_columns(data: TrainingSet, n_negatives: int) -> list[LabelledTexts]:
    names = ["anchor", "positive", *data.negative_columns[:n_negatives]]
    columns = [data.table[name].to_pylist() for name in names]
    return [_row(q, p, rest) for q, p, *rest in zip(*columns, strict=True)]


def _of_lists(data: TrainingSet, n_negatives: int) -> list[LabelledTexts]:
    columns = [data.table[name].to_pylist() for name in ("query", "positive", "negatives")]
    return [_row(q, p, rest[:n_negatives]) for q, p, rest in zip(*columns, strict=True)]


def _of_grades(data: TrainingSet, n_negatives: int) -> list[LabelledTexts]:
    rows: dict[str, list[tuple[str, int]]] = {}
    queries: dict[str, str] = {}
    for row in data.table.select(["query_id", "query", "document", "grade"]).to_pylist():
        queries[row["query_id"]] = row["query"]
        rows.setdefault(row["query_id"], []).append((row["document"], row["grade"]))
    highest = max((grade for judged in rows.values() for _, grade in judged), default=0)
    lists = []
    for query_id, judged in rows.items():
        misses = [(text, 0.0) for text, grade in judged if grade == 0][:n_negatives]
        found = [(text, grade / highest) for text, grade in judged if grade > 0]
        texts, labels = zip(*(found + misses), strict=True)
        if found:
            lists.append(LabelledTexts(queries[query_id], texts, labels))
    return lists


def _of_scores(data: TrainingSet, n_negatives: int) -> list[LabelledTexts]:
    rows: dict[str, list[tuple[str, float]]] = {}
    names = ("sentence1", "sentence2", "score")
    for query, text, score in zip(*(data.table[n].to_pylist() for n in names), strict=True):
        rows.setdefault(query, []).append((text, score))
    lists = []
    for query, scored in rows.items():
        texts, labels = zip(*scored, strict=True)
        lists.append(LabelledTexts(query, texts, labels))
    return lists


_ByKind: TypeAlias = "Callable[[TrainingSet, int], list[LabelledTexts]]"
_LISTS: Mapping[str, _ByKind] = {
    "pairs": _of_columns,
    "triplets": _of_columns,
    "negatives": _of_lists,
    "ranking": _of_grades,
    "scored": _of_scores,
}


# --- negatives -----------------------------------------------------------------------------


def _answers(lists: Sequence[LabelledTexts]) -> dict[str, set[str]]:
    """Return ``{query: texts that answer it}``, both normalised."""
    found: dict[str, set[str]] = {}
    for one in lists:
        good = {normalise(t) for t, label in zip(one.texts, one.labels, strict=True) if label > 0}
        found.setdefault(normalise(one.query), set()).update(good)
    return found


def _without_false_negatives(lists: Sequence[LabelledTexts]) -> list[LabelledTexts]:
    answers = _answers(lists)
    kept = []
    for one in lists:
        good = answers[normalise(one.query)]
        rows = [
            (text, label)
            for text, label in zip(one.texts, one.labels, strict=True)
            if label > 0 or normalise(text) not in good
        ]
        texts, labels = zip(*rows, strict=True)
        kept.append(LabelledTexts(one.query, texts, labels))
    return kept


def _with_negatives(
    lists: list[LabelledTexts], n_negatives: int, seed: int, encoder: TextEncoder | None
) -> list[LabelledTexts]:
    """Add negatives to the lists that have none."""
    bare = [place for place, one in enumerate(lists) if min(one.labels) > 0]
    if not bare:
        return lists
    pool, answers, dice = documents_of(lists), _answers(lists), random.Random(seed)
    near = _near(encoder, pool, [lists[place].query for place in bare])
    for place in bare:
        one = lists[place]
        good = answers[normalise(one.query)]
        close = [t for t in near.get(one.query, ()) if normalise(t) not in good]
        chosen = dice.sample(close, min(len(close), (n_negatives + 1) // 2))
        taken = good | {normalise(text) for text in chosen}
        chosen += _by_chance(pool, n_negatives - len(chosen), taken, dice)
        if not chosen:
            raise InputError(
                f"The {len(lists)} rows to train on have no document that is not an answer to "
                f"{one.query[:80]!r}. Give data with negatives, or more documents."
            )
        labels = (*one.labels, *(0.0 for _ in chosen))
        lists[place] = LabelledTexts(one.query, (*one.texts, *chosen), labels)
    return lists


def _near(
    encoder: TextEncoder | None, pool: Sequence[str], queries: Sequence[str]
) -> dict[str, list[str]]:
    if encoder is None:
        return {}
    search = exact_retriever(encoder, {str(place): text for place, text in enumerate(pool)})
    asked = dict(enumerate(dict.fromkeys(queries)))
    run: Mapping[str, Any] = search({str(n): text for n, text in asked.items()}, NEAR)
    return {asked[int(n)]: [pool[int(place)] for place in hits] for n, hits in run.items()}


def _by_chance(
    pool: Sequence[str], n_wanted: int, taken: set[str], dice: random.Random
) -> list[str]:
    """Draw texts that are not taken; fewer where the pool is small."""
    found: dict[str, str] = {}
    for text in dice.sample(pool, min(len(pool), n_wanted + len(taken) + 8)):
        if len(found) < n_wanted and normalise(text) not in taken:
            found.setdefault(normalise(text), text)
    return list(found.values())
