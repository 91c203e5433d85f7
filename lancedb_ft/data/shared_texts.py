"""Texts of one training set that stand in another: leaks between data of any kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.leaks import Leak
from lancedb_ft.data.near import DOCUMENT_SHINGLE, QUERY_SHINGLE, near_duplicate_pairs
from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import LeakError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["JUDGED", "check_disjoint", "find_shared_texts", "not_shared", "sides_of"]

#: The columns whose texts are judged, by kind of data, each with how it is compared: short texts
#: by their words, documents by their runs of three words. All others are negatives.
JUDGED: Mapping[str, Mapping[str, int]] = {
    "pairs": {"anchor": QUERY_SHINGLE, "positive": DOCUMENT_SHINGLE},
    "triplets": {"anchor": QUERY_SHINGLE, "positive": DOCUMENT_SHINGLE},
    "scored": {"sentence1": QUERY_SHINGLE, "sentence2": QUERY_SHINGLE},
    "nli": {"premise": QUERY_SHINGLE, "hypothesis": QUERY_SHINGLE},
    "ranking": {"query": QUERY_SHINGLE, "document": DOCUMENT_SHINGLE},
    "negatives": {"query": QUERY_SHINGLE, "positive": DOCUMENT_SHINGLE},
    "labelled": {"text": QUERY_SHINGLE},
}


def sides_of(training_set: TrainingSet) -> list[tuple[int, list[str | None]]]:
    """Return the judged texts, as they are compared: ``(shingle, one text or None a row)``.

    None stands for a document of grade 0, which is a negative.
    """
    sides = []
    for name, shingle in JUDGED[training_set.kind].items():
        texts: list[str | None] = [normalise(t) for t in training_set.table[name].to_pylist()]
        if (training_set.kind, name) == ("ranking", "document"):
            grades = training_set.table["grade"].to_pylist()
            texts = [text if grade else None for text, grade in zip(texts, grades, strict=True)]
        sides.append((shingle, texts))
    return sides


def find_shared_texts(
    trained: TrainingSet | Pairs,
    held_out: TrainingSet | Pairs,
    *,
    threshold: float = 0.8,
    near_duplicates: bool = False,
) -> Iterator[Leak]:
    """Find the judged texts of held-out data that stand anywhere in what is trained on.

    Texts are compared across columns: a query of one may be a document of the other. What stands
    in ``held_out`` as a negative only may be trained on, it is not what is measured.

    Parameters
    ----------
    trained
        Of any kind; its negatives count, too.
    held_out
        Of any kind.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1.
    near_duplicates
        Look for those, too; compared are judged texts with judged texts and with negatives.

    Yields
    ------
    Leak
        Left the text trained on, right the held-out one; ``parts`` are ``trained``, ``held_out``.
    """
    left, right = _as_set(trained), _as_set(held_out)
    # In the order of the rows, so that the same data give the same report.
    seen = dict.fromkeys(_all_texts(left))
    judged: dict[str, tuple[int, str]] = {}
    for name, (shingle, texts) in zip(JUDGED[right.kind], sides_of(right), strict=True):
        for text in texts:
            if text is not None:
                judged.setdefault(text, (shingle, name))
    for text, (_, name) in judged.items():
        if text in seen:
            yield Leak(_leak_kind(name), "text", ("trained", "held_out"), text, text)
    if near_duplicates:
        yield from _near(left, list(seen), judged, threshold)


def check_disjoint(
    trained: TrainingSet | Pairs,
    held_out: TrainingSet | Pairs,
    *,
    threshold: float = 0.8,
    near_duplicates: bool = False,
) -> None:
    """Refuse held-out data of which a judged text is trained on.

    Parameters are those of `find_shared_texts`.

    Raises
    ------
    LeakError
        Texts stand in both; its ``examples`` hold the first ten.
    """
    leaks = list(
        find_shared_texts(trained, held_out, threshold=threshold, near_duplicates=near_duplicates)
    )
    if leaks:
        raise LeakError(
            f"{len(leaks)} texts of the held-out data are also trained on, for example "
            f"{leaks[0].right[:200]!r}: its figures would be too good, and the wrong checkpoint "
            "would be kept. Split with split_training_set, or leave those rows out of training.",
            n_leaks=len(leaks),
            examples=[leak.to_dict() for leak in leaks[:10]],
        )


def not_shared(
    training_set: TrainingSet, held_out: Sequence[TrainingSet], *, threshold: float | None = 0.8
) -> tuple[TrainingSet, dict[str, int]]:
    """Remove negatives that are judged texts of held-out parts.

    Parameters
    ----------
    training_set
        What is trained on; kinds without negatives are returned as they are.
    held_out
        Parts of the same kind.
    threshold
        Similarity from which a negative counts as the same text; None for equal texts only.

    Returns
    -------
    tuple
        The set, and how many ``negatives`` went and how many ``rows``, which had no other.
    """
    remove = _REMOVERS.get(training_set.kind)
    held = {
        text
        for part in held_out
        for _, texts in sides_of(part)
        for text in texts
        if text is not None
    }
    if remove is None or not held or not len(training_set):
        return training_set, {"negatives": 0, "rows": 0}
    texts = dict.fromkeys(normalise(text) for text in _negative_texts(training_set))
    bad = {text for text in texts if text in held}
    if threshold is not None:
        every = list(dict.fromkeys([*texts, *held]))
        parts = [(text in texts) | (text in held) << 1 for text in every]
        near = near_duplicate_pairs(every, threshold, shingle=DOCUMENT_SHINGLE, parts=parts)
        # Which of the two is trained on; a text that is held out, too, is bad already.
        bad |= {every[n] for left, right, _ in near for n in (left, right) if parts[n] == 1}
    return remove(training_set, bad)


# --- parts ---------------------------------------------------------------------------------


def _as_set(data: TrainingSet | Pairs) -> TrainingSet:
    return TrainingSet.of_pairs(data) if isinstance(data, Pairs) else data


def _all_texts(training_set: TrainingSet) -> Iterator[str]:
    for name in JUDGED[training_set.kind]:
        yield from map(normalise, training_set.table[name].unique().to_pylist())
    yield from map(normalise, _negative_texts(training_set))


def _negative_texts(training_set: TrainingSet) -> list[str]:
    """Return the distinct texts that stand as negatives."""
    table = training_set.table
    columns = [table[name] for name in training_set.negative_columns]
    if "negatives" in table.column_names:
        columns.append(pc.list_flatten(table["negatives"]))
    if training_set.kind == "ranking":
        columns.append(table.filter(pc.equal(table["grade"], 0))["document"])
    return list(dict.fromkeys(text for column in columns for text in column.unique().to_pylist()))


def _leak_kind(column: str) -> Any:
    return "document" if column in ("positive", "document", "sentence2", "hypothesis") else "query"


def _near(
    trained: TrainingSet,
    seen: list[str],
    judged: Mapping[str, tuple[int, str]],
    threshold: float,
) -> Iterator[Leak]:
    found: set[tuple[str, str]] = set()
    short = {
        text
        for shingle, texts in sides_of(trained)
        if shingle == QUERY_SHINGLE
        for text in texts
        if text is not None
    }
    for shingle in (QUERY_SHINGLE, DOCUMENT_SHINGLE):
        lefts = [text for text in seen if shingle == DOCUMENT_SHINGLE or text in short]
        rights = [t for t, (s, _) in judged.items() if shingle in (DOCUMENT_SHINGLE, s)]
        masks = dict.fromkeys(lefts, 1)
        for text in rights:
            masks[text] = masks.get(text, 0) | 2
        texts, bits = list(masks), list(masks.values())
        pairs = near_duplicate_pairs(texts, threshold, shingle=shingle, parts=bits)
        for i, j, similarity in pairs:
            left, right = (i, j) if bits[i] & 1 and bits[j] & 2 else (j, i)
            one, other = texts[left], texts[right]
            if (one, other) not in found:
                found.add((one, other))
                what = _leak_kind(judged[other][1])
                yield Leak(what, "near", ("trained", "held_out"), one, other, similarity)


def _without_triplets(made: TrainingSet, bad: set[str]) -> tuple[TrainingSet, dict[str, int]]:
    """Leave out whole rows: each needs as many negatives as the others."""
    keep, n_bad = [True] * len(made), 0
    for name in made.negative_columns:
        for position, text in enumerate(made.table[name].to_pylist()):
            if normalise(text) in bad:
                keep[position] = False
                n_bad += 1
    return made.take(pa.array(keep, pa.bool_())), {"negatives": n_bad, "rows": keep.count(False)}


def _without_lists(made: TrainingSet, bad: set[str]) -> tuple[TrainingSet, dict[str, int]]:
    together = ("negatives", "negative_ids", "negative_scores")
    names = [name for name in together if name in made.table.column_names]
    lists = {name: made.table[name].to_pylist() for name in names}
    kept: dict[str, list[Any]] = {name: [] for name in names}
    n_bad = n_emptied = 0
    keep = []
    for position, texts in enumerate(lists["negatives"]):
        good = [n for n, text in enumerate(texts) if normalise(text) not in bad]
        n_bad += len(texts) - len(good)
        emptied = bool(texts) and not good
        n_emptied += emptied
        keep.append(not emptied)
        for name in names:
            kept[name].append([lists[name][position][n] for n in good])
    table = made.table
    for name in names:
        place = table.column_names.index(name)
        table = table.set_column(place, name, pa.array(kept[name], table[name].type))
    made = replace(made, table=table.filter(pa.array(keep, pa.bool_())))
    return made, {"negatives": n_bad, "rows": n_emptied}


def _without_misses(made: TrainingSet, bad: set[str]) -> tuple[TrainingSet, dict[str, int]]:
    columns = (made.table["document"].to_pylist(), made.table["grade"].to_pylist())
    keep = [grade > 0 or normalise(text) not in bad for text, grade in zip(*columns, strict=True)]
    n_bad = keep.count(False)
    return made.take(pa.array(keep, pa.bool_())), {"negatives": n_bad, "rows": n_bad}


_REMOVERS = {
    "triplets": _without_triplets,
    "negatives": _without_lists,
    "ranking": _without_misses,
}
