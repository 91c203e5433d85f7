"""Whether the fast way to encode gives the vectors of the exact one, on the table's own texts."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.encoder import get_encoder
from lancedb_ft.encoder.precision import agreement
from lancedb_ft.reindex.target import state_of
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.reindex.target import Target

__all__ = ["trusted"]

# Texts that both ways encode: half a per cent of the rows, so that looking costs as little.
_LEAST, _MOST, _SHARE = 64, 256, 200


def trusted(
    table: Table, target: Target, encoder: Encoder, *, seed: int = 0
) -> tuple[Target, Encoder]:
    """Return the encoder if it agrees with torch in float32, else that one; and the target of it.

    Parameters
    ----------
    table
        Whose texts both encode, a random sample.
    target
        The model and the text column.
    encoder
        The fast one; if it is torch in float32 already, there is nothing to look at.
    seed
        Of the sample.

    Returns
    -------
    tuple
        The target, with what was found, and the encoder to use.
    """
    begun = state_of(table, target.vector_column).waiting
    again = any(g.fingerprint == target.fingerprint for g in begun)
    if again or (encoder.backend, encoder.precision) == ("torch", "float32"):
        return target, encoder  # nothing to look at, or looked at when it was begun
    exact = get_encoder(target.model, device=encoder.device, precision="float32", dims=encoder.dims)
    found = agreement(encoder, exact, _sample(table, target.text_column, seed))
    chosen = encoder if found is None or found.holds else exact
    target = replace(
        target,
        precision=chosen.precision,
        backend=chosen.backend,
        agreement=None if found is None else found.to_dict(),
    )
    return target, chosen


def _sample(table: Table, column: str, seed: int) -> Any:
    ds = dataset(table)
    n_rows = ds.count_rows()
    n = min(n_rows, _MOST, max(_LEAST, n_rows // _SHARE))
    chosen = np.random.default_rng(seed).choice(n_rows, size=n, replace=False)
    return ds.take(np.sort(chosen).tolist(), columns=[column])[column]
