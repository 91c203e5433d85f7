"""Data of one kind as data of another, where that is a matter of form only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.texts import document_id_of, query_id_of
from lancedb_ft.data.training.examples import labelled_pairs, nli_triplets, ranking_pairs
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import CONTRADICTION, TrainingSet, require_kind

__all__ = [
    "OTHER_SPELLINGS",
    "as_kind",
    "left_out_between",
    "makes",
    "refuse_unreadable",
    "texts_by_id",
]

#: What is left out where one id stands for texts that differ only in case or white space.
OTHER_SPELLINGS = "other spellings of a text"


def as_kind(training_set: TrainingSet, kind: str, *, seed: int = 0) -> TrainingSet:
    """Return the same data as another kind.

    What that has no place for is counted in ``source["left_out"]``, by column or by what it is;
    what was drawn and dropped of labels, entailments and grades, in ``source["examples"]``.

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


def left_out_between(before: TrainingSet, after: TrainingSet) -> dict[str, int]:
    """Return what `as_kind` left out when it made one set of the other, by what it is."""
    earlier = before.source.get("left_out", {})
    found = {what: n - earlier.get(what, 0) for what, n in after.source.get("left_out", {}).items()}
    return {what: n for what, n in found.items() if n}


def texts_by_id(rows: Iterable[Mapping[str, Any]], key: str, text: str) -> dict[str, str]:
    """Return the text of each id; one that was made of its text stands for all spellings of it.

    Raises
    ------
    InputError
        An id that was given stands for two texts.
    """
    make = query_id_of if key == "query_id" else document_id_of
    found: dict[str, str] = {}
    for row in rows:
        kept = found.setdefault(row[key], row[text])
        if kept != row[text] and row[key] != make(row[text]):
            raise InputError(
                f"The {key} {row[key]!r} stands for two texts, and this format has one for each."
            )
    return found


def makes(before: str, after: str) -> bool:
    """Say whether data of one kind can become another."""
    return (before, after) in _CONVERSIONS


def refuse_unreadable(training_set: TrainingSet) -> None:
    """Refuse to write rows that every reader would reject: those with no negatives.

    Raises
    ------
    InputError
        There are such rows; the error says how many.
    """
    if training_set.kind != "negatives":
        return
    lengths = pc.list_value_length(training_set.table["negatives"])
    n_empty = pc.sum(pc.equal(lengths, 0)).as_py() or 0
    if n_empty:
        raise InputError(
            f"{n_empty} of {len(training_set)} rows have an empty list of negatives, and would be "
            "rejected when they are read back. Leave them out (TrainingSet.take), mine negatives "
            "for them, or write all as 'pairs' (as_kind)."
        )


def _kept(
    training_set: TrainingSet,
    kind: str,
    columns: Mapping[str, Any],
    used: Collection[str],
    rows: Mapping[str, int] | None = None,
) -> TrainingSet:
    """Return the new set; columns that are not ``used`` and ``rows`` that are gone are counted."""
    names = training_set.table.column_names
    lost = {n: len(training_set) for n in names if n not in used}
    left_out = Counter(training_set.source.get("left_out", {}))
    left_out.update(lost)
    left_out.update(rows or {})
    found = {what: n for what, n in left_out.items() if n}
    source = {**training_set.source, "left_out": found} if found else training_set.source
    return replace(training_set, kind=kind, table=pa.table(dict(columns)), source=source, loss=None)


def _only(names: Mapping[str, str], kind: str) -> Callable[[TrainingSet, int], TrainingSet]:
    """Return a conversion that keeps and renames columns."""

    def convert(training_set: TrainingSet, _: int) -> TrainingSet:
        table = training_set.table
        found = {new: table[old] for new, old in names.items() if old in table.column_names}
        return _kept(training_set, kind, found, list(names.values()))

    return convert


def _to_lists(training_set: TrainingSet, _: int) -> TrainingSet:
    """Gather ``negative_1``, ``negative_2`` ... in one list a row."""
    table = training_set.table
    columns = [table[name].to_pylist() for name in training_set.negative_columns]
    lists = [list(row) for row in zip(*columns, strict=True)]
    found = {"query": table["anchor"], "positive": table["positive"]}
    found |= {n: table[n] for n in _IDS if n in table.column_names}
    negatives = pa.array(lists, pa.list_(pa.string()))
    used = [*_PAIR, *_IDS, *training_set.negative_columns]
    return _kept(training_set, "negatives", {**found, "negatives": negatives}, used)


def _to_rows(training_set: TrainingSet, _: int) -> TrainingSet:
    """Give each negative a row of its own: rows of a list may have unequally many."""
    table = training_set.table.combine_chunks()
    parents = pc.list_parent_indices(table["negatives"])
    if not len(parents):
        raise InputError(
            f"None of the {len(training_set)} rows has a negative, so there are no triplets. Take "
            "the data as 'pairs', or mine negatives for them."
        )
    rows = table.take(parents)
    names = {"anchor": "query", "positive": "positive", **_IDS}
    found = {new: rows[old] for new, old in names.items() if old in rows.column_names}
    found["negative_1"] = pc.list_flatten(table["negatives"])
    n_empty = len(training_set) - len(pc.unique(parents))
    used = [*names.values(), "negatives"]
    return _kept(training_set, "triplets", found, used, {"rows without negatives": n_empty})


def _to_ranking(training_set: TrainingSet, _: int) -> TrainingSet:
    """Judge what belongs together with 1; a missing id is made from its text.

    Texts that differ only in case or white space have one made id, which stands for the first
    spelling; of ids that were given, one for two texts is an error that a writer tells.
    """
    rows: dict[tuple[str, str], tuple[str, str]] = {}
    spelling: dict[str, str] = {}
    n_other = 0
    for row in training_set.table.to_pylist():
        keys, texts = [], []
        for name, text, make in _MADE:
            key, found = row.get(name), row[text]
            if not key:
                key = make(found)
                found = spelling.setdefault(key, found)
                n_other += found != row[text]
            keys.append(key)
            texts.append(found)
        rows.setdefault((keys[0], keys[1]), (texts[0], texts[1]))
    columns = {
        "query_id": [query_id for query_id, _ in rows],
        "query": [query for query, _ in rows.values()],
        "doc_id": [doc_id for _, doc_id in rows],
        "document": [document for _, document in rows.values()],
        "grade": pa.array([1] * len(rows), pa.int64()),
    }
    told = {OTHER_SPELLINGS: n_other}
    return _kept(training_set, "ranking", columns, [*_PAIR, *_IDS], told)


def _graded_positives(training_set: TrainingSet, seed: int) -> TrainingSet:
    return ranking_pairs(training_set, seed=seed, negatives=0)


def _entailed(training_set: TrainingSet, seed: int) -> TrainingSet:
    """Return every entailment: pairs need no negatives, so none is dropped for want of one."""
    table = training_set.table
    right = table.filter(pc.not_equal(table["label"], CONTRADICTION))
    if not len(right):
        return nli_triplets(training_set, seed=seed)
    kept = replace(training_set, table=right)
    lost = {"contradictions": len(training_set) - len(kept)}
    return nli_triplets(_kept(kept, "nli", _columns(right), right.column_names, lost), seed=seed)


def _columns(table: pa.Table) -> dict[str, pa.ChunkedArray]:
    return {name: table[name] for name in table.column_names}


_PAIR = {"anchor": "anchor", "positive": "positive"}
_IDS = {"query_id": "query_id", "doc_id": "doc_id"}
#: Of pairs as a ranking: the id, the text that it stands for, and how it is made.
_MADE = (("query_id", "anchor", query_id_of), ("doc_id", "positive", document_id_of))

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
    ("nli", "pairs"): _entailed,
    ("labelled", "pairs"): lambda made, seed: labelled_pairs(made, seed=seed),
    ("labelled", "triplets"): lambda made, seed: labelled_pairs(made, seed=seed, negatives=1),
}
