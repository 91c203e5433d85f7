"""A curriculum: epoch after epoch the same rows, with harder negatives each time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lancedb_ft.data.mine import curriculum
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = [
    "check_curriculum",
    "cycled",
    "stage_of",
    "staged",
    "staged_sampler",
    "usual_length",
]

_LISTS = ("negatives", "negative_ids", "negative_scores")


def check_curriculum(
    sets: Sequence[Pairs | TrainingSet], n_stages: int | None, *, epochs: int, negatives: int
) -> None:
    """Refuse what is no curriculum, or would not be trained as one.

    Raises
    ------
    InputError
        No set has negatives to order, there are fewer epochs than stages, negatives are to be
        mined by the training itself, or the sets are stages, which would be mixed.
    """
    parts = [each.source.get("curriculum") for each in sets]
    if len(sets) > 1 and any(parts):
        n = next(part["n_stages"] for part in parts if part)
        raise InputError(
            "Stages of a curriculum that are passed together are trained in turn, easy and hard "
            f"at once. Pass the set that they were made of, with curriculum={n} (--curriculum)."
        )
    if n_stages is None:
        return
    if not any(isinstance(each, TrainingSet) and each.kind == "negatives" for each in sets):
        raise InputError(
            f"curriculum is {n_stages}, and orders negatives that were mined: data of the type "
            "'negatives', of which there are none here. Mine them first (mine_negatives), or leave "
            "curriculum out."
        )
    if negatives:
        raise InputError(
            f"negatives is {negatives}, and curriculum orders those that the data have. Leave "
            "negatives out, or mine them for all data before (mine_negatives)."
        )
    if epochs < n_stages:
        raise InputError(
            f"epochs is {epochs}, and a curriculum of {n_stages} stages takes one each. Give "
            f"epochs={n_stages} or more, leave epochs out, or take fewer stages."
        )


def staged(training_set: TrainingSet, n_stages: int) -> TrainingSet:
    """Return the rows of every stage, the easiest stage first, each row with as many negatives."""
    stages = curriculum(training_set, n_stages)
    lists = [stage.table["negatives"].to_pylist() for stage in stages]
    width = max(map(usual_length, lists))
    return replace(
        training_set, table=pa.concat_tables([_cut(stage.table, width) for stage in stages])
    )


def stage_of(epoch: int, n_stages: int, n_epochs: int) -> int:
    """Return the stage that is trained in an epoch, both from 0.

    Examples
    --------
    >>> [stage_of(epoch, 2, 5) for epoch in range(5)]
    [0, 0, 0, 1, 1]
    """
    return min(epoch * n_stages // n_epochs, n_stages - 1)


def staged_sampler(parts: Sequence[Any], n_epochs: int) -> Any:
    """Return a batch sampler over the rows of all stages that gives those of the epoch's stage.

    Parameters
    ----------
    parts
        A batch sampler for each stage, over equally many rows.
    n_epochs
        Of the training.
    """
    from sentence_transformers.base.sampler import DefaultBatchSampler

    class StagedBatchSampler(DefaultBatchSampler):
        """Shuffles by seed and epoch as its parts do, so that a run goes on as it would have."""

        def __iter__(self) -> Iterator[list[int]]:
            stage = stage_of(self.epoch, len(parts), n_epochs)
            parts[stage].set_epoch(self.epoch)
            first = stage * len(parts[stage].dataset)
            for rows in parts[stage]:
                yield [first + row for row in rows]

        def __len__(self) -> int:
            return len(parts[0])

    return StagedBatchSampler(
        parts[0].dataset, batch_size=parts[0].batch_size, drop_last=parts[0].drop_last
    )


def cycled(values: Sequence[Any], n: int) -> list[Any]:
    """Return ``n`` of the values: the first ones, or all and the first ones again."""
    return [values[i % len(values)] for i in range(n)]


def usual_length(lists: Sequence[Sequence[Any]]) -> int:
    """Return the length that most of them have."""
    counts = Counter(map(len, lists))
    return max(counts, key=lambda n: (counts[n], n))


def _cut(table: pa.Table, width: int) -> pa.Table:
    for name in _LISTS:
        if name in table.column_names:
            values = [cycled(row, width) for row in table[name].to_pylist()]
            column = pa.array(values, table[name].type)
            table = table.set_column(table.column_names.index(name), name, column)
    return table
