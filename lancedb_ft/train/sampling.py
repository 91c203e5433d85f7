"""Batches in which no text stands twice, of data in which some texts stand very often."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from lancedb_ft.train.examples import LABEL_COLUMN, Examples

__all__ = ["capped_sampler", "rows_per_epoch"]


def rows_per_epoch(examples: Examples, batch_size: int) -> int:
    """Return how many rows an epoch can train on, of those there are.

    A batch holds a text once, so an epoch of ``n`` batches has room for ``n`` rows of a document
    that everybody clicks on. Its other rows would make batches of one row each, in which there is
    nothing to tell apart: they take turns from epoch to epoch instead.

    Parameters
    ----------
    examples
        What is trained on.
    batch_size
        That its texts can fill, see `usable_batch_size`.
    """
    return len(_chosen(_judged(examples), batch_size, random.Random(0)))


def capped_sampler(examples: Examples, dataset: Any, batch_size: int, settings: Any) -> Any:
    """Return batches in which no text stands twice, none of them small for want of other texts.

    Parameters
    ----------
    examples
        What is trained on.
    dataset
        The columns that are compared, of all rows or of one stage of a curriculum.
    batch_size
        That the texts can fill.
    settings
        What sentence-transformers gives every sampler.
    """
    from sentence_transformers.base.sampler import DefaultBatchSampler, NoDuplicatesBatchSampler

    judged, n_rows = _judged(examples), rows_per_epoch(examples, batch_size)
    if n_rows == len(examples) or settings.get("drop_last"):  # each process needs full batches
        return NoDuplicatesBatchSampler(dataset, batch_size=batch_size, **settings)
    columns = (dataset[name] for name in dataset.column_names if name != LABEL_COLUMN)
    texts = [frozenset(row) for row in zip(*columns, strict=True)]
    n_batches = -(-n_rows // batch_size)

    class CappedBatchSampler(DefaultBatchSampler):
        """Shuffles by seed and epoch, so that a run goes on as it would have."""

        def __iter__(self) -> Iterator[list[int]]:
            dice = random.Random(f"{settings.get('seed')} {self.epoch}")
            rows = _chosen(judged, batch_size, dice)
            yield from _spread(rows, texts, n_batches, batch_size, dice)

        def __len__(self) -> int:
            return n_batches

    return CappedBatchSampler(dataset, batch_size=batch_size, **settings)


def _judged(examples: Examples) -> list[frozenset[Any]]:
    """Return the query, the document and the group of each row; of a curriculum, of one stage."""
    if not examples.loss.in_batch_negatives:
        return [frozenset()] * len(examples)
    columns: list[Sequence[Any]] = list(islice(examples.texts.values(), 2))
    if examples.groups is not None:
        columns.append([("group", group) for group in examples.groups])  # a text may be named so
    return [frozenset(row) for row in zip(*(c[: len(examples)] for c in columns), strict=True)]


def _chosen(texts: Sequence[frozenset[Any]], batch_size: int, dice: random.Random) -> list[int]:
    """Return rows, by chance, of which no text stands more often than there are batches of them."""
    rows = list(range(len(texts)))
    dice.shuffle(rows)
    n_batches = -(-len(rows) // batch_size)
    while True:
        kept = _capped(rows, texts, n_batches)
        fewer = -(-len(kept) // batch_size)
        if fewer == n_batches:
            return kept
        n_batches = fewer


def _capped(rows: Sequence[int], texts: Sequence[frozenset[Any]], limit: int) -> list[int]:
    seen: Counter[Any] = Counter()
    kept = []
    for row in rows:
        if all(seen[text] < limit for text in texts[row]):
            seen.update(texts[row])
            kept.append(row)
    return kept


def _spread(
    rows: Sequence[int],
    texts: Sequence[frozenset[Any]],
    n_batches: int,
    batch_size: int,
    dice: random.Random,
) -> list[list[int]]:
    """Deal rows out to batches in turn, those of a text one after the other, frequent ones first.

    A row that fits into none, as one of its texts is in all, waits for another epoch.
    """
    counts = Counter(text for row in rows for text in texts[row])
    most = {row: max((counts[text], str(text)) for text in texts[row]) for row in rows}
    batches: list[list[int]] = [[] for _ in range(n_batches)]
    held: list[set[Any]] = [set() for _ in range(n_batches)]
    turn = 0
    for row in sorted(rows, key=most.__getitem__, reverse=True):
        for place in (n % n_batches for n in range(turn, turn + n_batches)):
            if len(batches[place]) < batch_size and held[place].isdisjoint(texts[row]):
                batches[place].append(row)
                held[place] |= texts[row]
                turn = place + 1
                break
    dice.shuffle(batches)
    return [batch for batch in batches if batch]
