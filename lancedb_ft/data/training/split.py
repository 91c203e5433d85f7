"""Split training sets of any kind, so that nothing held out has been trained on."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.near import DOCUMENT_SHINGLE, QUERY_SHINGLE, DisjointSets
from lancedb_ft.data.shared_texts import JUDGED, not_shared, sides_of
from lancedb_ft.data.split import PARTS, assign_groups, check_shares, join_equal, join_near
from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet, TrainingSplit

__all__ = ["split_training_set"]

#: A group that holds more than this share of all rows is reported.
_GIANT_SHARE = 0.5


def split_training_set(
    training_set: TrainingSet,
    *,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    seed: int = 0,
    near_duplicates: bool = True,
    threshold: float = 0.8,
) -> TrainingSplit:
    """Split training data so that no text judged in one part, nor one like it, is in another.

    Rows that share a text, a near-duplicate of one, a query id or a document id stay together and
    are dealt out whole, at random by ``seed``; the result does not depend on the order of the
    rows. Of labelled texts each label is divided by the shares, near-duplicates kept together.

    Texts that stand beside a query as negatives only (``negative_1``, ``negatives``, documents of
    grade 0) are drawn from the whole corpus and would tie everything to everything, so they tie
    nothing. Instead, negatives in train that are judged texts of dev or test are removed, and in
    dev those of test: ``info["dropped"]`` counts them, and the rows that had no other.

    Parameters
    ----------
    training_set
        Of any kind.
    shares
        Share of the rows in train, dev and test, each 0 to 1, together 1.
    seed
        Another seed gives another split.
    near_duplicates
        Keep near-duplicates together, too: queries, sentences and labelled texts by their words,
        all texts by their runs of three words.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1.

    Raises
    ------
    InputError
        There are too few rows, or they hang together so much that a part would stay empty.

    Warns
    -----
    UserWarning
        One group holds more than half of all rows; it stands in train.

    Examples
    --------
    >>> rows = pa.table({"anchor": list("abcdefghij"), "positive": list("klmnopqrst")})
    >>> split = split_training_set(TrainingSet("pairs", rows))
    >>> {name: len(part) for name, part in split.parts().items()}
    {'train': 8, 'dev': 1, 'test': 1}
    """
    shares = check_shares(shares)
    if not len(training_set):
        raise InputError("There are no rows to split.")
    joined = _join(training_set, threshold if near_duplicates else None)
    members = joined.forest.groups()
    keys = _group_keys(training_set, members, seed)
    order = sorted(range(len(members)), key=keys.__getitem__)
    ordered = [members[position] for position in order]
    deal = _deal_by_label if training_set.kind == "labelled" else _deal
    part_of = deal(training_set, ordered, shares)
    if part_of is None:
        raise InputError(_undivided(training_set, joined, len(members), shares))
    largest = max(map(len, members)) / len(training_set)
    if largest > _GIANT_SHARE:
        warnings.warn(
            f"{largest:.0%} of the rows are one group and all stand in train. {joined.cause()}",
            stacklevel=2,
        )
    parts = [training_set.take(pa.array(part_of == part)) for part in range(3)]
    limit = threshold if near_duplicates else None
    train, in_train = not_shared(parts[0], parts[1:], threshold=limit)
    dev, in_dev = not_shared(parts[1], parts[2:], threshold=limit)
    test = parts[2]
    if not len(train):
        raise InputError("Every row to train on has a held-out text as its only negative.")
    info = {
        "method": "split_training_set",
        "kind": training_set.kind,
        "seed": seed,
        "shares": list(shares),
        "near_duplicates": near_duplicates,
        "threshold": threshold,
        "n_groups": len(members),
        "largest_group_share": round(largest, 4),
        "n_rows": {"train": len(train), "dev": len(dev), "test": len(test)},
        "dropped": {"train": in_train, "dev": in_dev},
    }
    return TrainingSplit(train, dev, test, info)


@dataclass(frozen=True)
class _Joined:
    """Rows joined into groups, and how large the largest was after each reason to join."""

    forest: DisjointSets
    largest_shares: Mapping[str, float]
    hub: str

    def cause(self) -> str:
        told = ", ".join(f"{share:.0%} by {what}" for what, share in self.largest_shares.items())
        giant = [what for what, share in self.largest_shares.items() if share > _GIANT_SHARE]
        cure = _CURES[giant[0]] if giant else "They are too few: give more rows."
        return f"The largest group holds {told} (each with those before). {cure}{self.hub}"


_CURES = {
    "ids": "Ids that stand in very many rows join them: leave those rows out.",
    "equal texts": "Texts that stand in very many rows join them: leave out boilerplate.",
    "near-duplicates": (
        "Chains of near-duplicates join them: raise threshold= (0.9), or pass "
        "near_duplicates=False."
    ),
}


def _join(training_set: TrainingSet, threshold: float | None) -> _Joined:
    n_rows = len(training_set)
    forest = DisjointSets(n_rows)
    shares: dict[str, float] = {}

    def note(what: str) -> None:
        counts = Counter(forest.find(position) for position in range(n_rows))
        shares[what] = max(counts.values()) / n_rows

    sides = sides_of(training_set)
    for name, judged in _id_columns(training_set):
        column = training_set.table[name].to_pylist()
        join_equal(
            forest, [value if ok else None for value, ok in zip(column, judged, strict=True)]
        )
    note("ids")
    everything = [text for _, texts in sides for text in texts]
    rows = list(range(n_rows)) * len(sides)
    join_equal(forest, everything, rows)
    note("equal texts")
    if threshold is not None:
        for shingle, texts in sides:
            if shingle == QUERY_SHINGLE:
                join_near(forest, texts, threshold, QUERY_SHINGLE)
        join_near(forest, everything, threshold, DOCUMENT_SHINGLE, rows)
        note("near-duplicates")
    return _Joined(forest, shares, _hub(everything))


def _id_columns(training_set: TrainingSet) -> Iterator[tuple[str, list[bool]]]:
    """Yield the id columns, and for each row whether its id joins it to others."""
    every = [True] * len(training_set)
    for name in ("query_id", "doc_id"):
        if name in training_set.table.column_names:
            judged = every
            if name == "doc_id" and training_set.kind == "ranking":
                judged = pc.greater(training_set.table["grade"], 0).to_pylist()
            yield name, judged


def _hub(texts: Sequence[str | None]) -> str:
    found = Counter(text for text in texts if text is not None).most_common(1)
    return f" The most frequent text is {found[0][0][:80]!r} with {found[0][1]}." if found else ""


def _group_keys(training_set: TrainingSet, members: list[list[int]], seed: int) -> list[bytes]:
    """Return a random key for each group that depends on what is in it, not on where it stood."""
    first = next(iter(JUDGED[training_set.kind]))
    texts = [normalise(text) for text in training_set.table[first].to_pylist()]
    keys = {text: stable_key(seed, text) for text in set(texts)}
    return [min(keys[texts[position]] for position in group) for group in members]


def _deal(
    training_set: TrainingSet, groups: list[list[int]], shares: tuple[float, float, float]
) -> np.ndarray | None:
    parts = assign_groups([len(group) for group in groups], shares)
    if parts is None:
        return None
    part_of = np.empty(len(training_set), np.int8)
    for group, part in zip(groups, parts, strict=True):
        part_of[group] = part
    return part_of


def _deal_by_label(
    training_set: TrainingSet, groups: list[list[int]], shares: tuple[float, float, float]
) -> np.ndarray | None:
    """Divide each label by the shares; what is too small to be divided stands in train."""
    labels = training_set.table["label"].to_pylist()
    by_label: dict[str, list[list[int]]] = {}
    for group in groups:
        # Nearly the same text under two labels: one of them is wrong, the more frequent decides.
        counts = Counter(labels[position] for position in group)
        label = min(counts, key=lambda name: (-counts[name], name))
        by_label.setdefault(label, []).append(group)
    part_of = np.zeros(len(training_set), np.int8)
    for found in by_label.values():
        parts = assign_groups([len(group) for group in found], shares) or [0] * len(found)
        for group, part in zip(found, parts, strict=True):
            part_of[group] = part
    wanted = [part for part in range(3) if shares[part]]
    return part_of if set(wanted) <= set(part_of.tolist()) else None


def _undivided(
    training_set: TrainingSet, joined: _Joined, n_groups: int, shares: Sequence[float]
) -> str:
    wanted = {name: share for name, share in zip(PARTS, shares, strict=True) if share}
    of_what = "of too few texts a label" if training_set.kind == "labelled" else "not to be parted"
    return (
        f"The {len(training_set)} rows cannot be divided into {wanted}: they form {n_groups} "
        f"group{'' if n_groups == 1 else 's'} {of_what}. {joined.cause()}"
    )
