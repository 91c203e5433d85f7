"""Judged queries with runs of two legs whose quality is set by hand."""

import zlib

import numpy as np

from lancedb_ft.types import Pairs

DEPTH = 30


def right_of(query_id):
    """The id of the right document, which comes before or after others of equal scores."""
    return f"{query_id}-{zlib.crc32(query_id.encode()) % 200}"


def pairs_of(texts):
    rows = enumerate(texts)
    return Pairs.of([(f"q{i}", text, right_of(f"q{i}"), "the right one") for i, text in rows])


def leg(pairs, rng, rank_of, *, depth=DEPTH):
    """A run; ``rank_of(query_id)`` is the rank of the right document, or None."""
    run = {}
    for query_id in pairs.queries:
        right, rank = right_of(query_id), rank_of(query_id)
        names = [f"{query_id}-{n}" for n in rng.permutation(200)]
        names = [name for name in names if name != right][:depth]
        if rank is not None:
            names[rank - 1] = right
        scores = np.sort(rng.gamma(2.0, size=depth))[::-1]
        run[query_id] = dict(zip(names, scores.tolist(), strict=True))
    return run


def good_and_bad_legs(n=200, seed=0):
    """Vectors find the right document in the first ranks, full text anywhere or not at all."""
    rng = np.random.default_rng(seed)
    pairs = pairs_of([f"query number {i}" for i in range(n)])
    vector = leg(pairs, rng, lambda q: int(rng.integers(1, 4)))
    text = leg(pairs, rng, lambda q: int(rng.integers(1, DEPTH)) if rng.random() < 0.5 else None)
    return vector, text, pairs


def equal_legs(n=200, seed=0):
    """Ten rows each; half the time a leg finds the right one, at any rank: nothing to learn."""
    rng = np.random.default_rng(seed)
    pairs = pairs_of([f"query number {i}" for i in range(n)])

    def anywhere(query_id):
        return int(rng.integers(1, 11)) if rng.random() < 0.5 else None

    vector, text = (leg(pairs, rng, anywhere, depth=10) for _ in range(2))
    return vector, text, pairs
