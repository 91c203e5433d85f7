"""Data of one kind as data of another, where that is a matter of form only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.texts import query_id_of
from lancedb_ft.data.training.examples import labelled_pairs, nli_triplets, ranking_pairs
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet, require_kind

__all__ = ["as_kind", "document_id_of", "makes"]


def as_kind(training_set: TrainingSet, kind: str, *, seed: int = 0) -> TrainingSet:
    """Return the same data as another kind.

    Parameters
    ----------
    training_set
        Of any kind.
    kind
        The one wanted; data of that kind are returned as they are.
    seed
        Where something is drawn (see `labelled_pairs`, `ranking_pairs`, `nli_triplets`).

    Raises
    ------
    InputError
        The one cannot be made of the other; the error lists what can.
    """
    require_kind(kind)
    if training_set.kind == kind:
        return training_set
    convert = _CONVERSIONS.get((training_set.kind, kind))
    if convert is None:
        possible = [after for before, after in _CONVERSIONS if before == training_set.kind]
        told = f"can become {', '.join(map(repr, possible))}" if possible else "stay what they are"
        raise InputError(f"{training_set.kind!r} data cannot become {kind!r}; they {told}.")
    made = convert(training_set, seed)
    if made.kind != kind:
        made = as_kind(made, kind, seed=seed)
    return replace(made, source={**made.source, "made_from": training_set.kind})


def makes(before: str, after: str) -> bool:
    """Say whether data of one kind can become another."""
    return (before, after) in _CONVERSIONS


def document_id_of(text: str) -> str:
    """Return an id for a document without one: the same text has the same id anywhere."""
    return "d" + query_id_of(text)[1:]


def _kept(training_set: TrainingSet, kind: str, columns: Mapping[str, Any]) -> TrainingSet:
    return replace(training_set, kind=kind, table=pa.table(dict(columns)), loss=None)


def _only(names: Mapping[str, str], kind: str) -> Callable[[TrainingSet, int], TrainingSet]:
    """Return a conversion that keeps and renames columns."""

    def convert(training_set: TrainingSet, _: int) -> TrainingSet:
        table = training_set.table
        found = {new: table[old] for new, old in names.items() if old in table.column_names}
        return _kept(training_set, kind, found)

    return convert


def _to_lists(training_set: TrainingSet, _: int) -> TrainingSet:
    """Gather ``negative_1``, ``negative_2`` ... in one list a row."""
    table = training_set.table
    columns = [table[name].to_pylist() for name in training_set.negative_columns]
    lists = [list(row) for row in zip(*columns, strict=True)]
    found = {"query": table["anchor"], "positive": table["positive"]}
    found |= {n: table[n] for n in ("query_id", "doc_id") if n in table.column_names}
    negatives = pa.array(lists, pa.list_(pa.string()))
    return _kept(training_set, "negatives", {**found, "negatives": negatives})


def _to_rows(training_set: TrainingSet, _: int) -> TrainingSet:
    """Give each negative a row of its own: rows of a list may have unequally many."""
    table = training_set.table.combine_chunks()
    parents = pc.list_parent_indices(table["negatives"])
    rows = table.take(parents)
    names = {"anchor": "query", "positive": "positive", "query_id": "query_id", "doc_id": "doc_id"}
    found = {new: rows[old] for new, old in names.items() if old in rows.column_names}
    found["negative_1"] = pc.list_flatten(table["negatives"])
    return _kept(training_set, "triplets", found)


def _to_ranking(training_set: TrainingSet, _: int) -> TrainingSet:
    """Judge what belongs together with 1; a missing id is made from its text."""
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    for row in training_set.table.to_pylist():
        query_id = row.get("query_id") or query_id_of(row["anchor"])
        doc_id = row.get("doc_id") or document_id_of(row["positive"])
        rows.setdefault((query_id, doc_id), (row["anchor"], row["positive"]))
    columns = {
        "query_id": [query_id for query_id, _ in rows],
        "query": [query for query, _ in rows.values()],
        "doc_id": [doc_id for _, doc_id in rows],
        "document": [document for _, document in rows.values()],
        "grade": pa.array([1] * len(rows), pa.int64()),
    }
    return _kept(training_set, "ranking", columns)


def _graded_positives(training_set: TrainingSet, seed: int) -> TrainingSet:
    return ranking_pairs(training_set, seed=seed, negatives=0)


_PAIR = {"anchor": "anchor", "positive": "positive"}
_IDS = {"query_id": "query_id", "doc_id": "doc_id"}

_CONVERSIONS: Mapping[tuple[str, str], Callable[[TrainingSet, int], TrainingSet]] = {
    ("triplets", "pairs"): _only({**_PAIR, **_IDS, "group": "group"}, "pairs"),
    ("triplets", "negatives"): _to_lists,
    ("negatives", "pairs"): _only({"anchor": "query", "positive": "positive", **_IDS}, "pairs"),
    ("negatives", "triplets"): _to_rows,
    ("pairs", "ranking"): _to_ranking,
    ("ranking", "pairs"): _graded_positives,
    ("ranking", "triplets"): lambda made, seed: ranking_pairs(made, seed=seed),
    ("ranking", "negatives"): lambda made, seed: ranking_pairs(made, seed=seed),
    ("nli", "triplets"): lambda made, seed: nli_triplets(made, seed=seed),
    ("nli", "pairs"): lambda made, seed: nli_triplets(made, seed=seed),
    ("labelled", "pairs"): lambda made, seed: labelled_pairs(made, seed=seed),
    ("labelled", "triplets"): lambda made, seed: labelled_pairs(made, seed=seed, negatives=1),
}
