"""What is mined for: queries with the documents that are known to answer them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lancedb_ft.data.mine.documents import Document, Library
from lancedb_ft.data.near import NearIndex, jaccard
from lancedb_ft.data.texts import normalise, query_id_of
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import CONTRADICTION, ENTAILMENT, TrainingSet
from lancedb_ft.types import Pairs, Qrels

__all__ = [
    "FalseNegative",
    "HeldOut",
    "Known",
    "Question",
    "Row",
    "false_negatives",
    "questions_of",
    "rows_of",
]


@dataclass(frozen=True)
class Row:
    """A query, a document that answers it, and the negatives that the data came with."""

    query_id: str
    query: str
    doc_id: str | None
    positive: str
    negatives: tuple[str, ...] = ()


@dataclass(frozen=True)
class FalseNegative:
    """A text that the data gives as a negative although it answers the query.

    ``why`` is ``same text`` (a positive of this query) or ``near-duplicate`` (of one).
    """

    query: str
    positive: str
    negative: str
    why: str


@dataclass(frozen=True)
class Known:
    """The documents known to answer a query, whatever id the query has."""

    ids: frozenset[str]
    documents: tuple[Document, ...]
    keys: frozenset[str]


class HeldOut:
    """What dev and test ask, and what answers it: never trained on, not even as a negative.

    Parameters
    ----------
    parts
        The data that is held out.
    near_threshold
        Jaccard similarity from which a text counts as one of theirs.
    """

    def __init__(
        self, parts: Sequence[Pairs | TrainingSet] = (), *, near_threshold: float = 0.8
    ) -> None:
        rows = [row for part in parts if len(part) for row in rows_of(part)]
        texts = (text for row in rows for text in (row.query, row.positive))
        keys = dict.fromkeys(normalise(text) for text in texts)
        self._ids = {row.doc_id for row in rows if row.doc_id is not None}
        self._near = NearIndex(keys, near_threshold)
        self._has = dict.fromkeys(keys, True)

    def __contains__(self, document: Document) -> bool:
        """Say whether a document is one of theirs, by its id, its text, or nearly its text."""
        if document.id in self._ids:
            return True
        found = self._has.get(document.key)
        if found is None:  # the same document is met by many queries
            found = self._has[document.key] = document.shingles in self._near
        return found


@dataclass(frozen=True)
class Question:
    """A query, its rows, and all documents known to answer it."""

    id: str
    text: str
    key: str
    rows: tuple[int, ...]
    known: Known = field(repr=False)


def _pair_rows(data: TrainingSet) -> Iterable[Row]:
    negatives = data.negative_columns
    for row in data.table.to_pylist():
        texts = tuple(row[name] for name in negatives)
        yield _row(row, row["anchor"], row["positive"], texts)


def _ranking_rows(data: TrainingSet) -> Iterable[Row]:
    for row in data.table.to_pylist():
        if row["grade"] > 0:
            yield _row(row, row["query"], row["document"])


def _negatives_rows(data: TrainingSet) -> Iterable[Row]:
    for row in data.table.to_pylist():
        yield _row(row, row["query"], row["positive"], tuple(row["negatives"]))


def _nli_rows(data: TrainingSet) -> Iterable[Row]:
    contradictions: dict[str, list[str]] = {}
    rows = data.table.to_pylist()
    for row in rows:
        if row["label"] == CONTRADICTION:
            contradictions.setdefault(normalise(row["premise"]), []).append(row["hypothesis"])
    for row in rows:
        if row["label"] == ENTAILMENT:
            given = contradictions.get(normalise(row["premise"]), ())
            yield _row({}, row["premise"], row["hypothesis"], tuple(given))


def _row(row: Mapping[str, Any], query: str, positive: str, negatives: tuple[str, ...] = ()) -> Row:
    query_id = row.get("query_id") or query_id_of(query)
    return Row(query_id, query, row.get("doc_id"), positive, negatives)


_READERS: Mapping[str, Callable[[TrainingSet], Iterable[Row]]] = {
    "pairs": _pair_rows,
    "triplets": _pair_rows,
    "ranking": _ranking_rows,
    "negatives": _negatives_rows,
    "nli": _nli_rows,
}


def rows_of(data: Pairs | TrainingSet) -> list[Row]:
    """Return the query-document pairs of the data, each once.

    Raises
    ------
    InputError
        The data has no queries and positives (scored pairs, labelled texts), or none at all; or an
        id of a query stands for two texts.
    """
    training_set = TrainingSet.of_pairs(data) if isinstance(data, Pairs) else data
    if training_set.kind not in _READERS:
        raise InputError(
            f"Negatives are mined for queries with positives, and data of the type "
            f"{training_set.kind!r} has none; it must be one of {sorted(_READERS)}."
        )
    merged: dict[tuple[str, str], Row] = {}
    asked: dict[str, str] = {}
    for row in _READERS[training_set.kind](training_set):
        if normalise(asked.setdefault(row.query_id, row.query)) != normalise(row.query):
            raise InputError(
                f"The query_id {row.query_id!r} stands for two texts, {asked[row.query_id]!r} and "
                f"{row.query!r}: only the first would be searched for. Give each query an id of "
                "its own, or leave the column out."
            )
        known = merged.get((row.query_id, row.positive))
        given = row.negatives if known is None else known.negatives + row.negatives
        merged[row.query_id, row.positive] = Row(
            row.query_id, row.query, row.doc_id, row.positive, tuple(dict.fromkeys(given))
        )
    if not merged:
        raise InputError("There are no queries with a positive document to mine negatives for.")
    return list(merged.values())


def questions_of(rows: Sequence[Row], library: Library, known: Qrels | None) -> list[Question]:
    """Group rows by query, and gather what answers it.

    What answers a query answers every query of the same text, whatever its id. Of documents that
    only ``known`` names the library has the texts, so that their doubles are known, too.
    """
    named = _named(rows, known or {})
    documents = library.get(doc_id for ids in named.values() for doc_id in ids)
    of_query: dict[str, list[int]] = {}
    ids_of_key: dict[str, set[str]] = {}
    texts_of_key: dict[str, dict[str, Document]] = {}
    key_of: dict[str, str] = {}
    for place, row in enumerate(rows):
        key = key_of.setdefault(row.query_id, normalise(row.query))
        of_query.setdefault(row.query_id, []).append(place)
        ids = ids_of_key.setdefault(key, set())
        ids |= {row.doc_id} if row.doc_id is not None else set()
        ids.update(named[row.query_id])
        positive = library.of_text(row.doc_id or "", row.positive)
        further = [documents[doc_id] for doc_id in named[row.query_id] if doc_id in documents]
        for document in [positive, *further]:
            texts_of_key.setdefault(key, {}).setdefault(document.key, document)
    return [
        Question(
            id=query_id,
            text=rows[places[0]].query,
            key=key_of[query_id],
            rows=tuple(places),
            known=Known(
                frozenset(ids_of_key[key_of[query_id]]),
                tuple(texts_of_key[key_of[query_id]].values()),
                frozenset(texts_of_key[key_of[query_id]]),
            ),
        )
        for query_id, places in of_query.items()
    ]


def _named(rows: Sequence[Row], known: Qrels) -> dict[str, list[str]]:
    """Return the ids of what is judged to answer each query."""
    return {
        query_id: [doc_id for doc_id, grade in known.get(query_id, {}).items() if grade > 0]
        for query_id in dict.fromkeys(row.query_id for row in rows)
    }


def false_negatives(
    rows: Sequence[Row], questions: Sequence[Question], *, near_threshold: float = 0.8
) -> list[FalseNegative]:
    """Find the given negatives that are positives of their query, or nearly so."""
    found = []
    for question in questions:
        for place in question.rows:
            for text in rows[place].negatives:
                negative = Document("", text)
                why = _why_false(negative, question.known, near_threshold)
                if why:
                    row = rows[place]
                    found.append(FalseNegative(row.query, row.positive, text, why))
    return found


def _why_false(negative: Document, known: Known, threshold: float) -> str:
    if negative.key in known.keys:
        return "same text"
    if any(jaccard(negative.shingles, p.shingles) >= threshold for p in known.documents):
        return "near-duplicate"
    return ""


def counts_by_why(found: Iterable[FalseNegative]) -> dict[str, int]:
    """Count false negatives by their reason."""
    return dict(Counter(one.why for one in found))
