"""Labelled texts as examples: pairs by label to train on, and queries to measure with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from lancedb_ft.data.texts import document_id_of, normalise, query_id_of, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["labelled_pairs", "labelled_queries", "made_from", "require_data"]


def labelled_pairs(
    training_set: TrainingSet, *, seed: int = 0, per_text: int = 1, negatives: int = 0
) -> TrainingSet:
    """Pair each text with others of its label.

    Parameters
    ----------
    training_set
        Of the kind ``labelled``.
    seed
        Chooses the partners.
    per_text
        Positives of each text: as many rows have it as their anchor, or fewer where its label has
        fewer other texts.
    negatives
        Texts of other labels in each row.

    Returns
    -------
    TrainingSet
        ``pairs``, or with ``negatives`` ``triplets``. The column ``group`` holds the label: rows
        of one group are no negatives of each other, whatever stands in a batch beside them.
        ``source["examples"]`` counts what was left out: texts given twice or under two labels,
        and labels with fewer than two texts, which have nothing to be paired with.

    Raises
    ------
    InputError
        No label has two texts, or there are no other labels to take negatives from.

    Examples
    --------
    >>> rows = pa.table({"text": ["hi", "hello", "bye"], "label": ["greet", "greet", "part"]})
    >>> made = labelled_pairs(TrainingSet("labelled", rows))
    >>> sorted(made.table["anchor"].to_pylist()), made.source["examples"]["labels_left_out"]
    (['hello', 'hi'], 1)
    """
    require_data(training_set, "labelled")
    if per_text < 1 or negatives < 0:
        raise InputError(
            f"per_text is {per_text} and negatives {negatives}; at least 1 and at least 0."
        )
    by_label, counts = _texts_by_label(training_set)
    single = [label for label, texts in by_label.items() if len(texts) < 2]
    rng = np.random.default_rng(seed)
    pool = _NegativePool(by_label) if negatives else None
    rows: list[tuple[str, ...]] = []
    for label, texts in by_label.items():
        if len(texts) < 2:
            continue
        for position, anchor in enumerate(texts):
            for other in _others(rng, len(texts), position, per_text):
                wrong = pool.draw(rng, label, negatives) if pool else ()
                rows.append((anchor, texts[other], *wrong, label))
    if not rows:
        raise InputError(
            f"None of the {len(by_label)} labels has two different texts, so no text has another "
            "of its label to be paired with. Give more texts a label."
        )
    names = ["anchor", "positive", *(f"negative_{n + 1}" for n in range(negatives)), "group"]
    told = {
        "from": "labelled",
        "seed": seed,
        "per_text": per_text,
        "negatives": negatives,
        "n_labels": len(by_label) - len(single),
        "labels_left_out": len(single),
        **counts,
    }
    return made_from(training_set, "triplets" if negatives else "pairs", names, rows, told)


def labelled_queries(
    held_out: TrainingSet,
    corpus: TrainingSet | None = None,
    *,
    seed: int = 0,
    query_share: float = 0.5,
    max_queries: int | None = None,
    per_label: int | None = None,
) -> tuple[Pairs, dict[str, str]]:
    """Make an evaluation of retrieval: a text should find texts of its own label.

    Parameters
    ----------
    held_out
        Labelled texts that are not trained on: the queries.
    corpus
        Labelled texts to find, such as those trained on. By default a part of ``held_out``: of
        each label ``query_share`` of the texts are queries and the others the corpus.
    seed
        Chooses what ``query_share``, ``max_queries`` and ``per_label`` leave in.
    query_share
        Above 0 and below 1; only without ``corpus``.
    max_queries
        Ask that many queries at most.
    per_label
        Take that many texts of each label into the corpus at most. The pairs are one row for each
        query and each text of its label: 1,000 queries with 100 texts a label are 100,000 rows.

    Returns
    -------
    tuple of Pairs and dict
        The queries, each with all texts of the corpus that have its label, and ``{doc_id: text}``.
        Queries whose label has no text in the corpus, and texts of the corpus that are queries,
        are left out and counted in ``source["examples"]``.

    Raises
    ------
    InputError
        No query has a text of its label in the corpus.
    """
    require_data(held_out, "labelled")
    queries, _ = _texts_by_label(held_out)
    if corpus is None:
        queries, documents = _divided(queries, query_share, seed)
    else:
        require_data(corpus, "labelled")
        documents, _ = _texts_by_label(corpus)
    asked = {normalise(text) for texts in queries.values() for text in texts}
    unasked = {
        label: [text for text in texts if normalise(text) not in asked]
        for label, texts in documents.items()
    }
    kept = {label: _chosen(texts, per_label, seed) for label, texts in unasked.items()}
    answerable = [(t, label) for label, texts in queries.items() for t in texts if kept.get(label)]
    chosen = _chosen(answerable, max_queries, seed, key=lambda pair: pair[0])
    if not chosen:
        raise InputError(
            "No held-out text has another text of its label in the corpus: there is nothing to "
            "measure. Give several texts a label, and the same labels in both."
        )
    ids = {label: [document_id_of(text) for text in texts] for label, texts in kept.items()}
    rows = [
        (query_id_of(query), query, doc_id, document)
        for query, label in chosen
        for doc_id, document in zip(ids[label], kept[label], strict=True)
    ]
    told = {
        "from": "labelled",
        "seed": seed,
        "n_queries": len(chosen),
        "queries_without_answer": _n_texts(queries) - len(answerable),
        "corpus_texts_that_are_queries": _n_texts(documents) - _n_texts(unasked),
    }
    found = {
        doc_id: text
        for label, texts in kept.items()
        for doc_id, text in zip(ids[label], texts, strict=True)
    }
    return Pairs.of(rows, **{**held_out.source, "examples": told}), found


# --- parts ---------------------------------------------------------------------------------


def require_data(training_set: TrainingSet, kind: str) -> None:
    """Refuse data of another kind."""
    if training_set.kind != kind:
        raise InputError(f"This takes {kind!r} data, and got {training_set.kind!r}.")


def made_from(
    before: TrainingSet,
    kind: str,
    names: Sequence[str],
    rows: Sequence[tuple[str, ...]],
    told: Mapping[str, Any],
) -> TrainingSet:
    """Return rows as a set that keeps the loss, the prompts and the name of what it came from."""
    columns = zip(*rows, strict=True) if rows else [()] * len(names)
    data = {n: pa.array(c, pa.string()) for n, c in zip(names, columns, strict=True)}
    return TrainingSet(
        kind,
        pa.table(data),
        {**before.source, "examples": dict(told)},
        loss=before.loss,
        query_prompt=before.query_prompt,
        document_prompt=before.document_prompt,
        name=before.name,
    )


def _texts_by_label(training_set: TrainingSet) -> tuple[dict[str, list[str]], dict[str, int]]:
    """Return the distinct texts of each label; a text under two labels stands under neither."""
    labels: dict[str, set[str]] = {}
    rows = training_set.table.to_pylist()
    for row in rows:
        labels.setdefault(normalise(row["text"]), set()).add(row["label"])
    by_label: dict[str, list[str]] = {}
    seen: set[str] = set()
    n_contradictory = 0
    for row in rows:
        key = normalise(row["text"])
        texts = by_label.setdefault(row["label"], [])
        if len(labels[key]) > 1:
            n_contradictory += 1
        elif key not in seen:
            seen.add(key)
            texts.append(row["text"])
    counts = {
        "repeated_texts": len(rows) - len(seen) - n_contradictory,
        "texts_of_several_labels": n_contradictory,
    }
    return by_label, counts


def _others(rng: np.random.Generator, n: int, position: int, wanted: int) -> list[int]:
    """Draw distinct positions of ``range(n)`` other than ``position``."""
    if wanted == 1:
        drawn = [int(rng.integers(n - 1))]
    else:
        drawn = rng.choice(n - 1, size=min(wanted, n - 1), replace=False).tolist()
    return [other + (other >= position) for other in drawn]


class _NegativePool:
    """Texts by label, to draw from all labels but one."""

    def __init__(self, by_label: Mapping[str, Sequence[str]]) -> None:
        self._texts = [(label, text) for label, texts in by_label.items() for text in texts]
        self._bounds: dict[str, tuple[int, int]] = {}
        start = 0
        for label, texts in by_label.items():
            self._bounds[label] = (start, start + len(texts))
            start += len(texts)

    def draw(self, rng: np.random.Generator, label: str, wanted: int) -> list[str]:
        start, end = self._bounds[label]
        n_others = len(self._texts) - (end - start)
        if n_others < wanted:
            raise InputError(
                f"{wanted} negatives are wanted, and there are {n_others} texts of other labels "
                f"than {label!r}."
            )
        drawn = _others_of_range(rng, n_others, wanted)
        return [self._texts[p if p < start else p + end - start][1] for p in drawn]


def _others_of_range(rng: np.random.Generator, n: int, wanted: int) -> list[int]:
    """Draw distinct numbers of ``range(n)``; few of many, so by trying again."""
    found: dict[int, None] = {}
    while len(found) < wanted:
        found[int(rng.integers(n))] = None
    return list(found)


def _divided(
    by_label: Mapping[str, Sequence[str]], share: float, seed: int
) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    if not 0 < share < 1:
        raise InputError(f"query_share is {share}; it must be above 0 and below 1.")
    queries: dict[str, list[str]] = {}
    documents: dict[str, list[str]] = {}
    for label, texts in by_label.items():
        ordered = _chosen(texts, len(texts), seed)
        n_queries = min(max(1, round(share * len(texts))), len(texts) - 1) if len(texts) > 1 else 0
        queries[label], documents[label] = ordered[:n_queries], ordered[n_queries:]
    return queries, documents


def _chosen(
    items: Sequence[Any], limit: int | None, seed: int, *, key: Any = lambda item: item
) -> list[Any]:
    if limit is None:
        return list(items)
    return sorted(items, key=lambda item: stable_key(seed, key(item)))[:limit]


def _n_texts(by_label: Mapping[str, Sequence[str]]) -> int:
    return sum(map(len, by_label.values()))
