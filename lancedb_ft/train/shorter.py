"""Vectors that are to be cut: their dimensions put in order, and what each length keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder
from lancedb_ft.memory import kept_memory
from lancedb_ft.train.compute import kept_random_state, plain_attention
from lancedb_ft.train.rotation import add_rotation, can_rotate, encoded_sides, learn_rotation

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

    from lancedb_ft.train.job import Job

__all__ = ["cut_to"]

#: Pairs whose vectors the rotation is learned on.
MAX_PAIRS = 20_000


def cut_to(
    model: SentenceTransformer, job: Job, scratch: Callable[[], SentenceTransformer]
) -> dict[str, Any]:
    """Put the dimensions of a trained model in order for the lengths it was trained for.

    Parameters
    ----------
    model
        With the weights that are to be saved; gets a rotation as its last linear module, where it
        pools tokens. Whole vectors keep their cosines.
    scratch
        Makes a copy of the model to measure with: measuring leaves limits behind in the tokenizer,
        which must not be saved.

    Returns
    -------
    dict
        For the manifest: ``{"matryoshka": {"rotated", "dev": {length: figures}}}``, or empty when
        no shorter vectors were asked for.
    """
    lengths = [n for n in job.config.matryoshka_dims if n < job.base.dims]
    if not lengths:
        return {}
    copy = scratch()
    copy.load_state_dict(model.state_dict())
    rotated = can_rotate(copy)
    if rotated:
        rotation = _rotation(copy, job, lengths)
        for each in (copy, model):
            add_rotation(each, rotation)
    encoder = Encoder.of(copy)
    with kept_memory(), plain_attention(copy, job.compute), job.compute.autocast():
        dev = {
            str(n): job.devset.measure(
                encoder.with_dims(n), job.metric, name=f"{n} dimensions"
            ).to_dict()
            for n in (job.base.dims, *lengths)
        }
    return {"matryoshka": {"rotated": rotated, "dev": dev}}


def _rotation(model: SentenceTransformer, job: Job, lengths: list[int]) -> Any:
    """Learn it on the first two columns of the largest set: texts that belong together."""
    largest = max(job.examples, key=len)
    queries, documents = (column[:MAX_PAIRS] for column in list(largest.texts.values())[:2])
    with kept_memory(), plain_attention(model, job.compute), job.compute.autocast():
        sides = encoded_sides(model, queries, documents)
    # How alike scored pairs are, their scores say; only whole vectors tell how they are to rank.
    matched = largest.shape not in ("scored", "vectors")
    with kept_random_state():
        return learn_rotation(*sides, lengths, seed=job.config.seed, matched=matched)
