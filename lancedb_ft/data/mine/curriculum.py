"""Easy to hard: the negatives of each query in stages."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet

__all__ = ["curriculum"]


def curriculum(training_set: TrainingSet, n_stages: int) -> list[TrainingSet]:
    """Split the negatives of each row into stages of rising difficulty.

    Every stage has every row, with its share of the row's negatives; the first has the easiest.
    (Bengio et al., "Curriculum learning", ICML 2009.) ``train(curriculum=n_stages)`` trains them
    one after the other in one run; passed to it together they would be mixed, and are refused.

    Parameters
    ----------
    training_set
        Of the type ``negatives``. Difficulty is ``negative_scores`` where there are any, higher is
        harder; else the order, hardest first, as `mine_negatives` leaves it.
    n_stages
        How many. A row with fewer negatives has its nearest one again.

    Raises
    ------
    InputError
        Another type of data, fewer than one stage, or rows without negatives.

    Examples
    --------
    >>> rows = pa.table({"query": ["q"], "positive": ["p"], "negatives": [["hard", "easy"]]})
    >>> stages = curriculum(TrainingSet("negatives", rows), 2)
    >>> [stage.table["negatives"].to_pylist() for stage in stages]
    [[['easy']], [['hard']]]
    """
    if training_set.kind != "negatives":
        raise InputError(
            f"A curriculum orders mined negatives; this data is of the type {training_set.kind!r}."
        )
    if n_stages < 1:
        raise InputError(f"n_stages is {n_stages}; it must be 1 or more.")
    table = training_set.table
    n_none = sum(not negatives for negatives in table["negatives"].to_pylist())
    if n_none:
        raise InputError(f"{n_none} of {len(training_set)} rows have no negatives.")
    orders = _easy_to_hard(table)
    listed = [
        n for n in ("negatives", "negative_ids", "negative_scores") if n in table.column_names
    ]
    columns = {name: table[name].to_pylist() for name in listed}
    stages = []
    for stage in range(n_stages):
        chosen = [_share(order, stage, n_stages) for order in orders]
        changed = table
        for name in listed:
            values = [
                [row[place] for place in places]
                for row, places in zip(columns[name], chosen, strict=True)
            ]
            column = pa.array(values, table.schema.field(name).type)
            changed = changed.set_column(changed.column_names.index(name), name, column)
        source = {**training_set.source, "curriculum": {"stage": stage + 1, "n_stages": n_stages}}
        stages.append(replace(training_set, table=changed, source=source))
    return stages


def _easy_to_hard(table: pa.Table) -> list[list[int]]:
    """Return for each row the places of its negatives, easiest first."""
    if "negative_scores" not in table.column_names:
        return [list(range(len(row)))[::-1] for row in table["negatives"].to_pylist()]
    return [
        sorted(range(len(scores)), key=lambda place: (scores[place], -place))
        for scores in table["negative_scores"].to_pylist()
    ]


def _share(order: Sequence[int], stage: int, n_stages: int) -> list[int]:
    first, last = stage * len(order) // n_stages, (stage + 1) * len(order) // n_stages
    return list(order[first:last]) or [order[min(first, len(order) - 1)]]
