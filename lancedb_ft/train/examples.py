"""Pairs as sentence-transformers wants them: columns in one order, duplicates spelled alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import InputError
from lancedb_ft.train.losses import Loss
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["check_contrast", "training_columns", "training_dataset", "usable_batch_size"]

# The trainer reads columns by position, and takes any further text column for a negative.
_COLUMNS = {"anchor": "query", "positive": "document", "negative": "negative"}


def training_columns(pairs: Pairs) -> dict[str, list[str]]:
    """Return ``anchor``, ``positive`` and, if the pairs have them, ``negative``, in this order.

    Texts that are the same but for case and white space get one spelling, the first one seen: the
    sampler that keeps a text from being its own negative compares strings.
    """
    spelling: dict[str, str] = {}
    columns = {}
    for name, column in _COLUMNS.items():
        if column in pairs.table.column_names:
            texts = pairs.table[column].to_pylist()
            columns[name] = [spelling.setdefault(normalise(t), t.strip()) for t in texts]
    return columns


def training_dataset(columns: Mapping[str, list[str]]) -> Dataset:
    """Return the columns as the data set that the trainer takes."""
    from datasets import Dataset

    return Dataset.from_dict(dict(columns)).select_columns(list(columns))


def usable_batch_size(columns: Mapping[str, list[str]], batch_size: int) -> int:
    """Return the batch size that the texts can fill.

    A batch holds a text once. A larger size would not make larger batches, it would end the epoch
    before all pairs were seen, since the number of steps is counted from it.
    """
    n_distinct = (len(set(columns[name])) for name in ("anchor", "positive"))
    return min(batch_size, *n_distinct)


def check_contrast(columns: Mapping[str, list[str]], batch_size: int, loss: Loss) -> None:
    """Refuse to train where no query has any document to be told from.

    Raises
    ------
    InputError
        There are no pairs, or a batch could only ever hold one and the pairs have no negatives.
    """
    n_pairs = len(columns["anchor"])
    if n_pairs == 0:
        raise InputError("There are no pairs to train on.")
    if not loss.in_batch_negatives or "negative" in columns:
        return
    if batch_size < 2:
        raise InputError(
            f"batch_size is {batch_size}, and loss {loss.name!r} takes the other documents of a "
            "batch as negatives: there are none. Use a batch size of 2 or more (64 is usual), or "
            "give pairs with a column 'negative'."
        )
    n_queries, n_documents = (len(set(columns[name])) for name in ("anchor", "positive"))
    if min(n_queries, n_documents) < 2:
        raise InputError(
            f"The {n_pairs} pairs to train on have {n_queries} distinct queries and {n_documents} "
            "distinct documents: there is nothing to tell apart. Give pairs of at least two "
            "queries and two documents, or with a column 'negative'."
        )
