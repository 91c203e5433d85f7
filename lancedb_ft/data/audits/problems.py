"""What is wrong with training data, found by comparing its texts; no model is needed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from lancedb_ft.data.audits.figures import SetFigures
from lancedb_ft.data.audits.view import Judged, View
from lancedb_ft.data.near import (
    DOCUMENT_SHINGLE,
    QUERY_SHINGLE,
    near_duplicate_groups,
    near_duplicate_pairs,
)
from lancedb_ft.data.texts import normalise

__all__ = ["Problem", "Severity", "problem", "text_problems"]

Severity = Literal["note", "warning", "error"]

#: Rows that a report shows of each problem; `Problem.rows` has all.
N_EXAMPLES = 20


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a set.

    Parameters
    ----------
    name
        What it is, always in the same words: ``"leak"``, ``"positives as negatives"``,
        ``"wrong pairs"`` and so on.
    severity
        ``error``: do not train or test on this; ``warning``: look at it; ``note``.
    where
        The part of the split, or the set.
    n, share
        How many rows or texts, and their share. An estimate may be of more rows than can be named.
    told
        What was found and what to do next, in one or two sentences.
    rows
        Positions of the rows, the worst first where that is known. A leak has none: its texts
        stand in `AuditReport.examples`.
    """

    name: str
    severity: Severity
    where: str
    n: int
    share: float
    told: str
    rows: tuple[int, ...] = field(default=(), repr=False)

    @property
    def examples(self) -> tuple[int, ...]:
        """The first rows."""
        return self.rows[:N_EXAMPLES]

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "name": self.name,
            "severity": self.severity,
            "where": self.where,
            "n": self.n,
            "share": round(self.share, 4),
            "told": self.told,
            "rows": list(self.rows),
        }


@dataclass(frozen=True)
class _Bounds:
    """Shares from which a finding is a warning and an error; below both it is a note."""

    warning: float = 0.0
    error: float = 2.0  # never

    def severity(self, share: float) -> Severity:
        if share >= self.error:
            return "error"
        return "warning" if share >= self.warning else "note"


#: From which share on a finding is how bad. A negative that is a positive teaches the opposite of
#: what is wanted, and so does a label that contradicts another; duplicates only weigh double.
BOUNDS: Mapping[str, _Bounds] = {
    "no rows": _Bounds(0.0, 0.0),
    "leaks removed": _Bounds(),
    "positives as negatives": _Bounds(0.0, 0.01),
    "doubtful negatives": _Bounds(0.05),
    "contradictory rows": _Bounds(0.0, 0.05),
    "duplicate rows": _Bounds(0.05),
    "near-duplicate texts": _Bounds(0.2),
    "both sides equal": _Bounds(0.01),
    "short texts": _Bounds(0.1),
    "cut texts": _Bounds(0.1),
    "one label dominates": _Bounds(),
    "labels of one row": _Bounds(0.05),
    "scores all alike": _Bounds(),
}


def problem(
    name: str, where: str, n: int, n_all: int, told: str, rows: Iterable[int] = ()
) -> Problem:
    """Return a problem, with the severity that `BOUNDS` has for its share."""
    share = n / max(1, n_all)
    kept = tuple(dict.fromkeys(int(row) for row in rows))
    return Problem(name, BOUNDS[name].severity(share), where, n, share, told, kept)


def text_problems(
    view: View, figures: SetFigures, where: str, *, threshold: float, near_duplicates: bool
) -> list[Problem]:
    """Find everything that comparing texts can find in one set.

    Parameters
    ----------
    view, figures
        The set, and what was measured of it.
    where
        What to call it.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1.
    near_duplicates
        Whether to look for them.
    """
    if not view.n_rows:
        told = "There are no rows: give data to train or to test on."
        return [problem("no rows", where, 1, 1, told)]
    near = threshold if near_duplicates else None
    found: list[Problem] = []
    for check in (_duplicate_rows, _contradictory_rows, _both_sides_equal):
        found += check(view, where)
    found += _positives_as_negatives(view, where, near)
    if near is not None:
        found += _near_duplicates(view, where, near)
    for measure in (_short_texts, _cut_texts, _spread_labels, _spread_scores):
        found += measure(figures, where)
    return found


# --- rows -----------------------------------------------------------------------------------


def _row_keys(view: View) -> list[tuple[str, ...]]:
    """Return the texts of each row, as they are compared."""
    keys: list[list[str]] = [[] for _ in range(view.n_rows)]
    for side in view.sides:
        for row, text in zip(side.rows.tolist(), side.texts, strict=True):
            keys[row].append(normalise(text))
    if view.scores is not None:  # which sentence is the first says nothing
        return [tuple(sorted(key)) for key in keys]
    return [tuple(key) for key in keys]


def _values(view: View) -> Sequence[Any]:
    if view.labels is not None:
        return view.labels
    if view.scores is not None:
        return [round(score, 6) for score in view.scores.tolist()]
    if view.kind == "ranking":  # relevant or not; two grades above 0 do not contradict each other
        relevant = np.zeros(view.n_rows, bool)
        relevant[view.positives.rows] = True
        values: list[Any] = relevant.tolist()
        return values
    return [None] * view.n_rows


def _duplicate_rows(view: View, where: str) -> Iterator[Problem]:
    seen: set[Any] = set()
    rows = []
    for row, key in enumerate(zip(_row_keys(view), _values(view), strict=True)):
        if key in seen:
            rows.append(row)
        seen.add(key)
    if rows:
        told = (
            f"{len(rows)} of {view.n_rows} rows stand there before, but for case and white space: "
            "they weigh double. Keep each once."
        )
        yield problem("duplicate rows", where, len(rows), view.n_rows, told, rows)


#: From what difference on two scores of the same texts contradict each other.
_FAR_SCORES = 0.25


def _contradictory_rows(view: View, where: str) -> Iterator[Problem]:
    if view.labels is None and view.scores is None and view.kind != "ranking":
        return
    values = _values(view)
    groups: dict[tuple[str, ...], list[int]] = {}
    for row, key in enumerate(_row_keys(view)):
        groups.setdefault(key, []).append(row)
    rows: list[int] = []
    for group in groups.values():
        found = [values[row] for row in group]
        far = (
            max(found) - min(found) >= _FAR_SCORES
            if view.scores is not None
            else len(set(found)) > 1
        )
        rows += group if far else []
    if rows:
        what = "score" if view.scores is not None else "label" if view.labels else "relevance"
        told = (
            f"{len(rows)} of {view.n_rows} rows have the texts of another row and another {what}: "
            "at least half of them are wrong. Decide for one, or leave them out."
        )
        yield problem("contradictory rows", where, len(rows), view.n_rows, told, rows)


def _both_sides_equal(view: View, where: str) -> Iterator[Problem]:
    judged = view.positives
    rows = [
        row
        for row, query, document in zip(judged.rows, judged.queries, judged.documents, strict=True)
        if normalise(query) == normalise(document)
    ]
    if rows:
        told = (
            f"{len(rows)} of {len(judged)} positives are the query itself: nothing is learned from "
            "them, and in a test they are found by any model. Leave them out."
        )
        yield problem("both sides equal", where, len(rows), len(judged), told, rows)


# --- negatives ------------------------------------------------------------------------------


def _positives_as_negatives(view: View, where: str, near: float | None) -> Iterator[Problem]:
    if not len(view.negatives) or not len(view.positives):
        return
    known = _Answers(view.positives)
    alike = _near_positives(view, near) if near is not None else {}
    wrong: dict[str, list[int]] = {"the same": [], "nearly the same": []}
    doubtful = []
    judged = view.negatives
    for row, query, document in zip(judged.rows, judged.queries, judged.documents, strict=True):
        asked, text = normalise(query), normalise(document)
        if text in known.of_query(asked):
            wrong["the same"].append(int(row))
        elif not known.of_query(asked).isdisjoint(alike.get(text, ())):
            wrong["nearly the same"].append(int(row))
        elif known.is_related(asked, text):
            doubtful.append(int(row))
    n_same, n_near = (len(rows) for rows in wrong.values())
    if n_same or n_near:
        told = (
            f"{n_same} of {len(judged)} negatives are the same text as a positive of their query, "
            f"and {n_near} nearly the same: training on them pushes right answers away. Leave "
            "these rows out, or mine the negatives again (known positives are never mined)."
        )
        rows = wrong["the same"] + wrong["nearly the same"]
        yield problem("positives as negatives", where, n_same + n_near, len(judged), told, rows)
    # Where people judged each document for each query, they have looked at it.
    if doubtful and view.kind not in ("ranking", "nli"):
        told = (
            f"{len(doubtful)} of {len(judged)} negatives answer another query that shares a "
            "positive with theirs: they may be right answers, too. Read some of them, or mine with "
            "a margin below the positive's score."
        )
        yield problem("doubtful negatives", where, len(doubtful), len(judged), told, doubtful)


class _Answers:
    """Which documents are known to answer which query, by their texts as compared."""

    def __init__(self, positives: Judged) -> None:
        self._documents: dict[str, set[str]] = {}
        self._queries: dict[str, set[str]] = {}
        for query, document in zip(positives.queries, positives.documents, strict=True):
            asked, text = normalise(query), normalise(document)
            self._documents.setdefault(asked, set()).add(text)
            self._queries.setdefault(text, set()).add(asked)

    def of_query(self, asked: str) -> set[str]:
        return self._documents.get(asked, set())

    def is_related(self, asked: str, text: str) -> bool:
        """Whether a query that the text answers shares a positive with this one."""
        mine = self.of_query(asked)
        others = self._queries.get(text, set())
        return any(not mine.isdisjoint(self._documents[other]) for other in others)


def _near_positives(view: View, threshold: float) -> dict[str, set[str]]:
    """Return the positives that each negative nearly is, by their texts as compared."""
    masks: dict[str, int] = {}
    for bit, judged in ((1, view.positives), (2, view.negatives)):
        for document in judged.documents:
            text = normalise(document)
            masks[text] = masks.get(text, 0) | bit
    texts, parts = list(masks), list(masks.values())
    near: dict[str, set[str]] = {}
    for i, j, _ in near_duplicate_pairs(texts, threshold, shingle=DOCUMENT_SHINGLE, parts=parts):
        for left, right in ((texts[i], texts[j]), (texts[j], texts[i])):
            if masks[left] & 2 and masks[right] & 1:
                near.setdefault(left, set()).add(right)
    return near


# --- texts ----------------------------------------------------------------------------------


def _near_duplicates(view: View, where: str, threshold: float) -> Iterator[Problem]:
    for side in view.sides:
        if side.name == "negative":  # the same one for many queries is how mining is
            continue
        rows_of: dict[str, int] = {}
        for row, text in zip(side.rows.tolist(), side.texts, strict=True):
            rows_of.setdefault(normalise(text), row)
        texts = list(rows_of)
        shingle = QUERY_SHINGLE if side.name in ("query", "text") else DOCUMENT_SHINGLE
        groups = near_duplicate_groups(texts, threshold, shingle=shingle)
        rows = [rows_of[texts[place]] for group in groups for place in group[1:]]
        if rows:
            told = (
                f"{len(rows)} of {len(texts)} distinct texts on the side {side.name} nearly equal "
                f"another (similarity {threshold:g} or more). They must not be split between train "
                "and test (split_pairs keeps them together), nor be each other's negatives."
            )
            yield problem("near-duplicate texts", where, len(rows), len(texts), told, rows)


def _short_texts(figures: SetFigures, where: str) -> Iterator[Problem]:
    for name, side in figures.sides.items():
        if side.n_short:
            told = (
                f"{side.n_short} of {side.n_texts} texts on the side {name} are too short to be "
                "told from others. Leave them out, or add what they are about (a title)."
            )
            yield problem("short texts", where, side.n_short, side.n_texts, told)


def _cut_texts(figures: SetFigures, where: str) -> Iterator[Problem]:
    for name, side in figures.sides.items():
        if side.n_cut:
            told = (
                f"{side.n_cut} of {side.n_texts} texts on the side {name} are longer than the "
                "tokens that are read, and are cut: what stands at their end is not learned. Raise "
                "max_tokens, take a model that reads more, or split the texts into passages."
            )
            yield problem("cut texts", where, side.n_cut, side.n_texts, told)


def _spread_labels(figures: SetFigures, where: str) -> Iterator[Problem]:
    labels = figures.labels
    if labels is None:
        return
    n_labels = len(labels.counts)
    if n_labels > 1 and labels.n_effective < n_labels / 2:
        largest, n_largest = next(iter(labels.counts.items()))
        told = (
            f"{n_labels} labels are as diverse as {labels.n_effective:.1f} equal ones; "
            f"{largest!r} alone has {labels.largest_share:.0%} of the rows. Add rows of the rare "
            "ones, or take fewer of the frequent."
        )
        yield problem("one label dominates", where, n_largest, figures.n_rows, told)
    if labels.n_single and figures.kind == "labelled":
        told = (
            f"{labels.n_single} of {n_labels} labels have one row: no positive pair can be made of "
            "them. Add rows, or merge labels."
        )
        yield problem("labels of one row", where, labels.n_single, n_labels, told)


#: A spread of scores below this teaches no order.
_MIN_SCORE_STD = 0.05


def _spread_scores(figures: SetFigures, where: str) -> Iterator[Problem]:
    if figures.scores is not None and figures.scores.std < _MIN_SCORE_STD:
        told = (
            f"The scores are all about {figures.scores.mean:.2f} (standard deviation "
            f"{figures.scores.std:.3f}): there is no order to learn. Were they scaled to 0 to 1?"
        )
        yield problem("scores all alike", where, figures.n_rows, figures.n_rows, told)
