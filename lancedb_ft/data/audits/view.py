"""A training set as an audit sees it: its texts by side, and who is said to answer whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from lancedb_ft.training_sets import CONTRADICTION, ENTAILMENT, TrainingSet

__all__ = ["Judged", "Side", "View", "view_of"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """The texts of one role, each with the row it stands in.

    Parameters
    ----------
    name
        ``query``, ``document``, ``negative``, ``sentence1`` and so on.
    rows
        Shape ``(n,)``: the row of each text, rising.
    texts
        ``n`` texts.
    """

    name: str
    rows: Ints
    texts: Sequence[str] = field(repr=False)

    @property
    def is_query(self) -> bool:
        """Whether a model puts its query prompt before these."""
        return self.name == "query"


@dataclass(frozen=True)
class Judged:
    """Texts, each with another that is said to answer it, or said not to.

    Parameters
    ----------
    rows
        Shape ``(n,)``: the row each judgement stands in.
    queries, documents
        ``n`` texts each.
    """

    rows: Ints
    queries: Sequence[str] = field(repr=False)
    documents: Sequence[str] = field(repr=False)

    def __len__(self) -> int:
        """Return the number of judgements."""
        return len(self.rows)

    def take(self, places: Ints) -> Judged:
        """Return the judgements at these positions."""
        return Judged(
            self.rows[places],
            [self.queries[place] for place in places],
            [self.documents[place] for place in places],
        )


@dataclass(frozen=True)
class View:
    """What an audit looks at, whatever the type of the data.

    Parameters
    ----------
    kind
        A key of `lancedb_ft.training_sets.KINDS`.
    n_rows
        Rows of the set.
    sides
        Its texts.
    positives, negatives
        Which texts are said to belong together, and which not; empty for scored and labelled data.
    labels, scores
        The values to learn, one a row; None where the type has none.
    """

    kind: str
    n_rows: int
    sides: tuple[Side, ...]
    positives: Judged
    negatives: Judged
    labels: Sequence[str] | None = None
    scores: npt.NDArray[np.float64] | None = None


def view_of(data: TrainingSet) -> View:
    """Return the view of a training set of any type."""
    return _VIEWS[data.kind](data)


def _texts(data: TrainingSet, column: str) -> list[str]:
    texts: list[str] = data.table[column].to_pylist()
    return texts


def _every_row(data: TrainingSet) -> Ints:
    return np.arange(len(data), dtype=np.int64)


def _sides(data: TrainingSet, names: Mapping[str, str]) -> tuple[Side, ...]:
    rows = _every_row(data)
    return tuple(Side(side, rows, _texts(data, column)) for side, column in names.items())


def _none() -> Judged:
    return Judged(np.empty(0, np.int64), [], [])


def _paired(data: TrainingSet, query: str, positive: str) -> tuple[tuple[Side, ...], Judged]:
    sides = _sides(data, {"query": query, "document": positive})
    return sides, Judged(_every_row(data), sides[0].texts, sides[1].texts)


def _with_negatives(sides: tuple[Side, ...], positives: Judged, negative: Side) -> Any:
    """Return sides and judgements with the negatives, each against the query of its row."""
    queries = [positives.queries[row] for row in negative.rows]
    return (*sides, negative), Judged(negative.rows, queries, negative.texts)


def _pairs(data: TrainingSet) -> View:
    sides, positives = _paired(data, "anchor", "positive")
    return View(data.kind, len(data), sides, positives, _none())


def _triplets(data: TrainingSet) -> View:
    sides, positives = _paired(data, "anchor", "positive")
    columns = [_texts(data, name) for name in data.negative_columns]
    texts = [text for row in zip(*columns, strict=True) for text in row]
    rows = np.repeat(_every_row(data), len(columns))
    sides, negatives = _with_negatives(sides, positives, Side("negative", rows, texts))
    return View(data.kind, len(data), sides, positives, negatives)


def _negatives(data: TrainingSet) -> View:
    sides, positives = _paired(data, "query", "positive")
    lists = data.table["negatives"].combine_chunks()
    rows = np.asarray(pc.list_parent_indices(lists), np.int64)
    negative = Side("negative", rows, pc.list_flatten(lists).to_pylist())
    sides, negatives = _with_negatives(sides, positives, negative)
    return View(data.kind, len(data), sides, positives, negatives)


def _ranking(data: TrainingSet) -> View:
    sides, judged = _paired(data, "query", "document")
    relevant = np.asarray(data.table["grade"]) > 0
    hits, misses = (np.flatnonzero(mask) for mask in (relevant, ~relevant))
    return View(data.kind, len(data), sides, judged.take(hits), judged.take(misses))


def _nli(data: TrainingSet) -> View:
    sides = _sides(data, {"premise": "premise", "hypothesis": "hypothesis"})
    judged = Judged(_every_row(data), sides[0].texts, sides[1].texts)
    labels = np.asarray(data.table["label"])
    entailed, denied = (np.flatnonzero(labels == wanted) for wanted in (ENTAILMENT, CONTRADICTION))
    named = [("entailment", "neutral", "contradiction")[label] for label in labels]
    return View(
        data.kind, len(data), sides, judged.take(entailed), judged.take(denied), labels=named
    )


def _scored(data: TrainingSet) -> View:
    sides = _sides(data, {"sentence1": "sentence1", "sentence2": "sentence2"})
    scores = np.asarray(data.table["score"], np.float64)
    return View(data.kind, len(data), sides, _none(), _none(), scores=scores)


def _labelled(data: TrainingSet) -> View:
    sides = _sides(data, {"text": "text"})
    return View(
        data.kind, len(data), sides, _none(), _none(), labels=data.table["label"].to_pylist()
    )


_VIEWS: Mapping[str, Callable[[TrainingSet], View]] = {
    "pairs": _pairs,
    "triplets": _triplets,
    "negatives": _negatives,
    "ranking": _ranking,
    "nli": _nli,
    "scored": _scored,
    "labelled": _labelled,
}
