"""Leaks: the same or nearly the same query or document in two parts of a split."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import pyarrow as pa

from lancedb_ft.data.near import DOCUMENT_SHINGLE, QUERY_SHINGLE, near_duplicate_pairs
from lancedb_ft.data.texts import normalise
from lancedb_ft.types import Pairs, Split

__all__ = ["Leak", "drop_leaks", "find_leaks", "without_shared_negatives"]

Kind = Literal["query", "document"]
How = Literal["id", "text", "near"]

_COLUMNS: dict[Kind, tuple[str, str]] = {
    "query": ("query_id", "query"),
    "document": ("doc_id", "document"),
}
_SHINGLES: dict[Kind, int] = {"query": QUERY_SHINGLE, "document": DOCUMENT_SHINGLE}


@dataclass(frozen=True)
class Leak:
    """One query or document that stands in two parts.

    Parameters
    ----------
    kind
        ``query`` or ``document``.
    how
        ``id`` (the same id), ``text`` (the same text but for case and white space) or ``near``.
    parts
        Names of the two parts.
    left, right
        What stands in the first and in the second: the id for ``id``, else the text as compared.
    similarity
        Jaccard similarity, 1.0 for ``id`` and ``text``.
    """

    kind: Kind
    how: How
    parts: tuple[str, str]
    left: str
    right: str
    similarity: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object, texts cut to 200 characters."""
        return {
            "kind": self.kind,
            "how": self.how,
            "parts": list(self.parts),
            "left": self.left[:200],
            "right": self.right[:200],
            "similarity": round(self.similarity, 3),
        }


def find_leaks(
    parts: Mapping[str, Pairs], *, threshold: float = 0.8, near_duplicates: bool = True
) -> Iterator[Leak]:
    """Find every leak between any two parts; nothing is sampled and nothing is estimated.

    A negative of the first part counts as one of its documents, as it is trained on, too.

    Parameters
    ----------
    parts
        Pairs by the name of their part, what is trained on first.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1.
    near_duplicates
        False: only equal ids and equal texts.
    """
    names = list(parts)
    for kind, (id_column, text_column) in _COLUMNS.items():
        ids: dict[str, int] = {}
        texts: dict[str, int] = {}
        for bit, pairs in enumerate(parts.values()):
            for value in pairs.table[id_column].unique().to_pylist():
                ids[value] = ids.get(value, 0) | 1 << bit
            for value in pairs.table[text_column].unique().to_pylist():
                key = normalise(value)
                texts[key] = texts.get(key, 0) | 1 << bit
        yield from _shared(kind, "id", ids, names)
        yield from _shared(kind, "text", texts, names)
        if near_duplicates:
            yield from _near(kind, texts, names, threshold)
    yield from _shared_negatives(parts, threshold if near_duplicates else None)


def _shared_negatives(parts: Mapping[str, Pairs], threshold: float | None) -> Iterator[Leak]:
    """Find negatives of the first part that are documents of a later one, but not of its own."""
    (first, trained), *held_out = parts.items()
    negatives = _texts(trained, "negative").keys() - _texts(trained, "document").keys()
    for name, part in held_out if negatives else ():
        documents = _texts(part, "document")
        every = list(dict.fromkeys([*sorted(negatives), *documents]))
        bits = [(text in negatives) | (text in documents) << 1 for text in every]
        for text, bit in zip(every, bits, strict=True):
            if bit == 3:
                yield Leak("document", "text", (first, name), text, text)
        if threshold is not None:
            near = near_duplicate_pairs(every, threshold, shingle=DOCUMENT_SHINGLE, parts=bits)
            for i, j, similarity in near:
                a, b = (i, j) if bits[i] & 1 and bits[j] & 2 else (j, i)
                yield Leak("document", "near", (first, name), every[a], every[b], similarity)


def _texts(pairs: Pairs, column: str) -> dict[str, None]:
    if column not in pairs.table.column_names:
        return {}
    return dict.fromkeys(map(normalise, pairs.table[column].unique().to_pylist()))


def without_shared_negatives(
    pairs: Pairs, held_out: Mapping[str, Pairs], *, threshold: float | None
) -> Pairs:
    """Leave out pairs whose negative is a document of what is held out.

    Parameters
    ----------
    pairs
        What is trained on.
    held_out
        The other parts, by name.
    threshold
        Similarity from which two documents count as one; None for equal texts only.
    """
    if "negative" not in pairs.table.column_names:
        return pairs
    bad = {leak.left for leak in _shared_negatives({"ours": pairs, **held_out}, threshold)}
    keep = [normalise(text) not in bad for text in pairs.table["negative"].to_pylist()]
    return pairs if all(keep) else pairs.take(pa.array(keep, pa.bool_()))


def _shared(kind: Kind, how: How, masks: Mapping[str, int], names: list[str]) -> Iterator[Leak]:
    for key, mask in masks.items():
        if mask & (mask - 1):
            standing = [name for bit, name in enumerate(names) if mask >> bit & 1]
            for position, left in enumerate(standing):
                for right in standing[position + 1 :]:
                    yield Leak(kind, how, (left, right), key, key)


def _near(
    kind: Kind, masks: Mapping[str, int], names: list[str], threshold: float
) -> Iterator[Leak]:
    texts, bits = list(masks), list(masks.values())
    found = near_duplicate_pairs(texts, threshold, shingle=_SHINGLES[kind], parts=bits)
    for i, j, similarity in found:
        for a, left in enumerate(names):
            for b, right in enumerate(names):
                if a != b and bits[i] >> a & 1 and bits[j] >> b & 1:
                    yield Leak(kind, "near", (left, right), texts[i], texts[j], similarity)


def drop_leaks(split: Split, *, threshold: float = 0.8, near_duplicates: bool = True) -> Split:
    """Remove from dev what stands in test, and from train what stands in either.

    Test is never touched, so figures on a published test set stay comparable. How many pairs went
    is recorded in ``info["dropped"]``.

    Parameters are those of `find_leaks`.
    """
    dev = _without(split.dev, {"test": split.test}, threshold, near_duplicates)
    # A dev query that lost one of its answers would be marked wrong for finding it.
    dev = _whole_queries(dev, split.dev)
    train = _without(split.train, {"dev": dev, "test": split.test}, threshold, near_duplicates)
    dropped = {"train": len(split.train) - len(train), "dev": len(split.dev) - len(dev)}
    info = {
        **split.info,
        "threshold": threshold,
        "near_duplicates": near_duplicates,
        "dropped": dropped,
    }
    return replace(split, train=train, dev=dev, info=info)


def _without(
    pairs: Pairs, held_out: Mapping[str, Pairs], threshold: float, near_duplicates: bool
) -> Pairs:
    if not len(pairs) or not any(len(part) for part in held_out.values()):
        return pairs
    # Leaks between the held-out parts are not ours to mend here, so they count as one part.
    others = Pairs(pa.concat_tables([_core(part.table) for part in held_out.values()]))
    leaking: dict[tuple[Kind, bool], set[str]] = {}
    found = find_leaks(
        {"ours": pairs, "others": others}, threshold=threshold, near_duplicates=near_duplicates
    )
    for leak in found:
        mine = leak.left if leak.parts[0] == "ours" else leak.right
        leaking.setdefault((leak.kind, leak.how == "id"), set()).add(mine)
    keep = [True] * len(pairs)
    for (kind, by_id), keys in leaking.items():
        columns = [_COLUMNS[kind][0 if by_id else 1]]
        if kind == "document" and not by_id and "negative" in pairs.table.column_names:
            columns.append("negative")
        for column in columns:
            for position, value in enumerate(pairs.table[column].to_pylist()):
                if (value if by_id else normalise(value)) in keys:
                    keep[position] = False
    return pairs.take(pa.array(keep, pa.bool_()))


def _whole_queries(kept: Pairs, before: Pairs) -> Pairs:
    """Leave out the queries that lost a pair."""
    n_before = Counter(before.table["query_id"].to_pylist())
    query_ids = kept.table["query_id"].to_pylist()
    n_kept = Counter(query_ids)
    whole = [n_kept[query_id] == n_before[query_id] for query_id in query_ids]
    return kept if all(whole) else kept.take(pa.array(whole, pa.bool_()))


def _core(table: pa.Table) -> pa.Table:
    return table.select(["query_id", "query", "doc_id", "document", "grade"])
