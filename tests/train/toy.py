"""A task that a tiny model learns in a second: each word of a query has a synonym it never met."""

import random

from lancedb_ft.types import Pairs
from tests.tiny import tiny_model

_WORDS = (
    "alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar "
    "papa quebec romeo sierra tango uniform victor whiskey xray yankee zulu"
)
WORDS = _WORDS.split()

#: What a short run takes to learn it; further arguments of train().
FAST = {"batch_size": 16, "learning_rate": 5e-3, "device": "cpu"}


def toy_model(path, **settings):
    return tiny_model(path, texts=[" ".join(WORDS)], **settings)


def toy_pairs(n=160, seed=0, prefix="", **source):
    """Queries of three words and a number; the document has the word after each, and the number."""
    dice = random.Random(seed)
    rows = []
    for i in range(n):
        words = dice.sample(range(len(WORDS)), 3)
        query = " ".join(WORDS[w] for w in words)
        document = " ".join(WORDS[(w + 1) % len(WORDS)] for w in words)
        rows.append(
            (f"{prefix}q{i}", f"{query} {seed}{i}?", f"{prefix}d{i}", f"{document} {seed}{i}")
        )
    return Pairs.of(rows, **source)
