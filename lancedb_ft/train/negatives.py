"""Hard negatives before the first step, mined with the base model among what is trained on.

The other documents of a batch are easy to tell from the right one; what the base model ranks just
below it is not. Only documents that are trained on anyway are taken, so nothing that is held out
is ever learned as a wrong answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from lancedb_ft.data.mine import mine_negatives
from lancedb_ft.encoder import get_encoder
from lancedb_ft.evaluate import exact_retriever
from lancedb_ft.train.dev import retrieval_pairs
from lancedb_ft.train.examples import as_training_set, default_loss
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from pathlib import Path

    from lancedb_ft.store import ResolvedModel

__all__ = ["LOSSES_WITH_NEGATIVES", "can_mine", "mined_sets"]

#: Losses that read pairs, and take a negative beside each as well.
LOSSES_WITH_NEGATIVES = ("mnrl", "cached_mnrl", "gist", "cached_gist")


def can_mine(data: Pairs | TrainingSet, loss: str | None) -> bool:
    """Say whether negatives may be added to these data: bare pairs, and a loss that reads them.

    Parameters
    ----------
    loss
        The one that was asked for; None for that of the set.
    """
    one = as_training_set(data)
    chosen = loss or one.loss or default_loss(one)
    bare = one.kind == "pairs" and "group" not in one.table.column_names
    return bare and chosen in LOSSES_WITH_NEGATIVES


def mined_sets(
    sets: Sequence[Pairs | TrainingSet],
    base: ResolvedModel,
    n_negatives: int,
    *,
    loss: str | None,
    device: str | None,
    seed: int,
    folder: Path,
) -> list[Pairs | TrainingSet]:
    """Return the sets with negatives beside those pairs that can have some.

    Parameters
    ----------
    sets
        What is trained on.
    base
        The model that finds them, and by whose cosine what may be an answer is left out: see
        `lancedb_ft.data.mine.mine_negatives` and its margin.
    n_negatives
        How many for each pair.
    loss
        The one that was asked for.
    device, seed
        As for `lancedb_ft.train.train`.
    folder
        Where what was found is kept, for a run that goes on after a kill.
    """
    found: list[Pairs | TrainingSet] = []
    for position, one in enumerate(sets):
        if not can_mine(one, loss):
            found.append(one)
            continue
        file = folder / f"negatives-{position}.parquet"
        if not file.is_file():
            made = _mine(one, base, n_negatives, device=device, seed=seed)
            _keep(made.table, file)
        plain = as_training_set(one)
        found.append(replace(plain, kind="negatives", table=pq.read_table(file)))
    return found


def _mine(
    data: Pairs | TrainingSet,
    base: ResolvedModel,
    n_negatives: int,
    *,
    device: str | None,
    seed: int,
) -> TrainingSet:
    pairs = data if isinstance(data, Pairs) else retrieval_pairs(data)
    corpus = pairs.corpus
    encoder = get_encoder(base, device=device)
    mined = mine_negatives(
        pairs,
        exact_retriever(encoder, corpus),
        corpus=corpus,
        n_negatives=n_negatives,
        range_max=min(100, len(corpus)),
        seed=seed,
        sample=0,
    )
    return mined.training_set


def _keep(table: pa.Table, file: Any) -> None:
    """Write in one step: a killed process leaves no half of it behind."""
    writing = file.with_suffix(".writing")
    pq.write_table(table, writing)
    writing.replace(file)
