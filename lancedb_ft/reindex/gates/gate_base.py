"""What serves now, as the gate asks it: its column, and the model that embeds its queries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation

__all__ = ["base_column", "base_encoder"]


def base_column(table: Table, old: Generation | None) -> str:
    """Return the column that serves now.

    Raises
    ------
    InputError
        The table has no vectors.
    """
    if old is None or not old.column:
        raise InputError(
            f"Table {table.name!r} has no vectors yet, so there is no base to compare with. Use a "
            "requirement without it (ndcg@10 >= 0.5), or switch with force=True (--force)."
        )
    return old.column


def base_encoder(
    table: Table, old: Generation | None, base_model: str | None, store: str | None
) -> Encoder | None:
    """Return the encoder of a raw column, or None where the table names its function.

    Raises
    ------
    InputError
        Nobody named the model of a raw column, or the one named did not fill it.
    """
    if old is None or old.function is not None:
        return None
    if base_model is None:
        raise InputError(
            f"Table {table.name!r} does not say which model made its column {old.column!r}, so the "
            "gate cannot query it. Name it with base_model= (--base-model), use a requirement "
            "without base (ndcg@10 >= 0.5), or switch with force=True (--force)."
        )
    encoder = get_encoder(base_model, store=store)
    _require_same_model(table, old, encoder, base_model)
    return encoder


def _require_same_model(table: Table, old: Generation, encoder: Encoder, base_model: str) -> None:
    """Check on a few rows that the raw column was indeed made by that model."""
    wrong = InputError(
        f"{base_model!r} did not make the vectors in {old.column!r} of table {table.name!r}: "
        "encoding the same rows again gives others. Name the model that did."
    )
    if encoder.dims != old.dims:
        raise wrong
    rows = dataset(table).to_table(
        columns=[str(old.source_column), old.column],
        filter=f"`{old.column}` is not null and `{old.source_column}` is not null",
        limit=32,
    )
    stored = rows[old.column].combine_chunks()
    stored = stored.chunk(0) if isinstance(stored, pa.ChunkedArray) else stored
    texts = rows[str(old.source_column)].combine_chunks()
    made = encoder.encode(texts, kind="document").drop_null()
    if len(made) != len(stored):
        return
    a = stored.flatten().to_numpy().reshape(-1, old.dims).astype(np.float32)
    b = made.flatten().to_numpy().reshape(-1, old.dims)
    cosine = (a * b).sum(1) / np.maximum(
        np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1), 1e-12
    )
    # The median: rows edited since, whose vectors are stale, must not hide the right model.
    if len(cosine) and float(np.median(cosine)) < 0.99:
        raise wrong
