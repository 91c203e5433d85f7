"""Split pairs into train, dev and test so that nothing stands in two parts."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from lancedb_ft.data.leaks import without_shared_negatives
from lancedb_ft.data.near import (
    DOCUMENT_SHINGLE,
    QUERY_SHINGLE,
    DisjointSets,
    near_duplicate_groups,
)
from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.types import Pairs, Split

__all__ = ["PARTS", "assign_groups", "check_shares", "join_equal", "join_near", "split_pairs"]

#: The parts of a split, as their shares are given.
PARTS = ("train", "dev", "test")

#: A group that holds more than this share of all pairs is reported.
_GIANT_SHARE = 0.5

#: One value a pair (a sequence or an Arrow array), or ``{doc_id: value}``.
Groups: TypeAlias = "Mapping[str, Hashable] | Sequence[Hashable]"


def split_pairs(
    pairs: Pairs,
    *,
    seed: int = 0,
    shares: Sequence[float] = (0.8, 0.1, 0.1),
    groups: Groups | None = None,
    near_duplicates: bool = True,
    threshold: float = 0.8,
) -> Split:
    """Split pairs so that no document, no query and nothing that resembles one is in two parts.

    Pairs that share a document, a query, the text of either, a near-duplicate of either, or a
    group of the caller stay together. Such groups are dealt out whole, at random by ``seed``; the
    result does not depend on the order of the pairs. Train loses the pairs whose ``negative`` is a
    document of another part: ``n_pairs`` in ``info`` is what is left.

    Parameters
    ----------
    pairs
        What to split.
    seed
        Another seed gives another split.
    shares
        Share of the pairs in train, dev and test, each 0 to 1, together 1.
    groups
        A further thing that must not cross, such as the product a document is about: one value a
        pair, or ``{doc_id: value}``. None (or no entry) means no group.
    near_duplicates
        Keep near-duplicates together, too.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1; see `audit`.

    Raises
    ------
    InputError
        The pairs hang together so much that a part would stay empty; the error says by what.

    Warns
    -----
    UserWarning
        One group holds more than half of all pairs; it stands in train.
    """
    shares = check_shares(shares)
    if not len(pairs):
        raise InputError("There are no pairs to split.")
    joined = _join(pairs, groups, threshold if near_duplicates else None)
    members = joined.forest.groups()
    keys = _group_keys(pairs, members, seed)
    order = sorted(range(len(members)), key=keys.__getitem__)
    sizes = [len(members[position]) for position in order]
    largest = max(sizes) / len(pairs)
    parts = assign_groups(sizes, shares)
    if parts is None:
        raise InputError(_undivided(joined, len(members), shares))
    if largest > _GIANT_SHARE:
        warnings.warn(
            f"{largest:.0%} of the pairs are one group and all stand in train. {joined.cause()}",
            stacklevel=2,
        )
    part_of = np.empty(len(pairs), np.int8)
    for position, part in zip(order, parts, strict=True):
        part_of[members[position]] = part
    train, dev, test = (pairs.take(pa.array(part_of == part)) for part in range(3))
    limit = threshold if near_duplicates else None
    train = without_shared_negatives(train, {"dev": dev, "test": test}, threshold=limit)
    info = {
        "method": "split_pairs",
        "seed": seed,
        "shares": list(shares),
        "near_duplicates": near_duplicates,
        "threshold": threshold,
        "n_groups": len(members),
        "largest_group_share": round(largest, 4),
        "n_pairs": {"train": len(train), "dev": len(dev), "test": len(test)},
    }
    return Split(train, dev, test, info)


def check_shares(shares: Sequence[float]) -> tuple[float, float, float]:
    """Return the shares of train, dev and test.

    Raises
    ------
    InputError
        They are not three numbers from 0 to 1 that make 1, or train has none.
    """
    given = tuple(float(share) for share in shares)
    right = len(given) == 3 and all(0 <= share <= 1 for share in given)
    if not right or not math.isclose(sum(given), 1, abs_tol=1e-6) or given[0] == 0:
        raise InputError(
            f"shares is {list(shares)}; it must be three numbers for train, dev and test that make "
            "1, the first above 0, such as (0.8, 0.1, 0.1)."
        )
    return given[0], given[1], given[2]


def assign_groups(sizes: Sequence[int], shares: tuple[float, float, float]) -> list[int] | None:
    """Deal groups out to train (0), dev (1) and test (2).

    In the order given, which should be random, each group goes to test if it fits into what is
    left of its share, else to dev if it fits there, else to train. That gives every group that
    fits the same chance, and leaves giants to train. A part that ended far below its share takes
    the smallest groups of train.

    Returns
    -------
    list of int or None
        The part of each group; None if a part with a share cannot have any.
    """
    n_all = sum(sizes)
    targets = [share * n_all for share in shares]
    # Half a pair of tolerance: 10 pairs at 0.05 should still give one.
    room = [0.0, targets[1] + 0.5, targets[2] + 0.5]
    parts = [0] * len(sizes)
    held = [0, 0, 0]
    for position, size in enumerate(sizes):
        part = next((p for p in (2, 1) if shares[p] and held[p] + size <= room[p]), 0)
        parts[position] = part
        held[part] += size
    for part in (2, 1):
        if shares[part]:
            _top_up(part, parts, sizes, held, targets)
    wanted = [part for part in range(3) if shares[part]]
    return parts if all(held[part] for part in wanted) else None


def _top_up(
    part: int, parts: list[int], sizes: Sequence[int], held: list[int], targets: Sequence[float]
) -> None:
    in_train = sorted((size, p) for p, size in enumerate(sizes) if parts[p] == 0)
    for size, position in in_train:
        enough = held[part] >= 0.5 * targets[part] and held[part]
        too_much = held[part] and held[part] + size > 1.5 * targets[part]
        # An empty part is worse than a small train, but not than one smaller than itself.
        starves_train = held[0] - size < (0.5 * targets[0] if held[part] else size)
        if enough or too_much or starves_train:
            return
        parts[position] = part
        held[part] += size
        held[0] -= size


@dataclass(frozen=True)
class _Joined:
    """Pairs joined into groups, and how large the largest was after each reason to join."""

    forest: DisjointSets
    largest_shares: Mapping[str, float]
    hub: str

    def cause(self) -> str:
        told = ", ".join(f"{share:.0%} by {what}" for what, share in self.largest_shares.items())
        giant = [what for what, share in self.largest_shares.items() if share > _GIANT_SHARE]
        cure = _CURES[giant[0]] if giant else "They are too few: give more pairs."
        return (
            f"The largest group holds {told} (each with those before). {cure} "
            f"The document with the most pairs is {self.hub}."
        )


_CURES = {
    "ids": (
        "Documents or queries that stand in very many pairs join them: leave those out with where=."
    ),
    "equal texts": (
        "Texts that stand under very many ids join them: leave out boilerplate documents and "
        "generic queries with where=."
    ),
    "groups": "The groups given join them: give finer ones.",
    "near-duplicates": (
        "Chains of near-duplicates join them: raise threshold= (0.9), or pass "
        "near_duplicates=False and remove what leaks with drop_leaks."
    ),
}


def _join(pairs: Pairs, groups: Groups | None, threshold: float | None) -> _Joined:
    n_pairs = len(pairs)
    forest = DisjointSets(n_pairs)
    shares: dict[str, float] = {}

    def note(what: str) -> None:
        counts = Counter(forest.find(position) for position in range(n_pairs))
        shares[what] = max(counts.values()) / n_pairs

    doc_ids = pairs.table["doc_id"].to_pylist()
    for column in (doc_ids, pairs.table["query_id"].to_pylist()):
        join_equal(forest, column)
    note("ids")
    texts = {
        shingle: [normalise(text) for text in pairs.table[name].to_pylist()]
        for name, shingle in (("query", QUERY_SHINGLE), ("document", DOCUMENT_SHINGLE))
    }
    for column in texts.values():
        join_equal(forest, column)
    note("equal texts")
    if groups is not None:
        join_equal(forest, _group_values(groups, doc_ids))
        note("groups")
    if threshold is not None:
        for shingle, column in texts.items():
            join_near(forest, column, threshold, shingle)
        note("near-duplicates")
    hub, n_hub = Counter(doc_ids).most_common(1)[0]
    return _Joined(forest, shares, f"{hub!r} with {n_hub}")


def join_equal(
    forest: DisjointSets, values: Sequence[Hashable], rows: Sequence[int] | None = None
) -> None:
    """Join the rows that have a value in common; ``rows`` are the positions if not given."""
    first: dict[Hashable, int] = {}
    for position, value in enumerate(values):
        row = position if rows is None else rows[position]
        if value is not None:
            forest.join(first.setdefault(value, row), row)


def join_near(
    forest: DisjointSets,
    texts: Sequence[str | None],
    threshold: float,
    shingle: int,
    rows: Sequence[int] | None = None,
) -> None:
    """Join the rows whose texts are near-duplicates; equal texts are joined already."""
    first: dict[str, int] = {}
    for position, text in enumerate(texts):
        if text is not None:
            first.setdefault(text, position if rows is None else rows[position])
    distinct = list(first)
    for group in near_duplicate_groups(distinct, threshold, shingle=shingle):
        for other in group[1:]:
            forest.join(first[distinct[group[0]]], first[distinct[other]])


def _group_values(groups: Groups, doc_ids: list[str]) -> list[Any]:
    if isinstance(groups, Mapping):
        return [groups.get(doc_id) for doc_id in doc_ids]
    values = groups.to_pylist() if hasattr(groups, "to_pylist") else list(groups)
    if len(values) != len(doc_ids):
        raise InputError(
            f"groups has {len(values)} values for {len(doc_ids)} pairs; give one value a pair, or "
            "{doc_id: value}."
        )
    return values


def _group_keys(pairs: Pairs, members: list[list[int]], seed: int) -> list[bytes]:
    """Return a random key for each group that depends on what is in it, not on where it stood."""
    keys: dict[str, bytes] = {}
    doc_ids = pairs.table["doc_id"].to_pylist()
    for doc_id in doc_ids:
        if doc_id not in keys:
            keys[doc_id] = stable_key(seed, doc_id)
    return [min(keys[doc_ids[position]] for position in group) for group in members]


def _undivided(joined: _Joined, n_groups: int, shares: tuple[float, float, float]) -> str:
    wanted = {name: share for name, share in zip(PARTS, shares, strict=True) if share}
    return (
        f"The pairs cannot be divided into {wanted}: they form {n_groups} "
        f"group{'' if n_groups == 1 else 's'} that must not be parted. {joined.cause()}"
    )
