"""Verify: the vectors are complete, fresh, and of the named model, before anyone is shown them."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import VerifyError
from lancedb_ft.marks import same_text, text_hashes
from lancedb_ft.reindex.filling.fragments import vectors_and_mismatches
from lancedb_ft.reindex.sweeping.mend import MIN_COSINE
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation

__all__ = ["MIN_COSINE", "Check", "sample_size", "verify", "verify_documents"]


@dataclass(frozen=True)
class Check:
    """What verifying found.

    ``n_stale`` counts rows whose vector is missing or was made from another text than the row has
    now (None: not counted); ``min_cosine`` is the lowest over the ``n_sampled`` rows encoded again
    (None: none had text); ``version`` is that of the table whose rows were all looked at.
    """

    n_rows: int
    n_stale: int | None
    n_sampled: int
    min_cosine: float | None
    version: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the figures."""
        return asdict(self)


#: Rows that are encoded again before a column is taken over as it stands.
_LOOKED_AT = 96
#: Largest difference in length, as a share, between a stored vector and the one made again.
_MAX_LENGTH_CHANGE = 0.02


def sample_size(n_rows: int) -> int:
    """Return how many rows are encoded again after a fill: 1 %, at least 64 and at most 700.

    All rows' marks were compared then, and one process has just encoded them. See `audit` for a
    table whose writers are not known.
    """
    return min(700, max(64, n_rows // 100))


def verify(
    table: Table, generation: Generation, encoder: Encoder, *, seed: int = 0, n: int | None = None
) -> Check:
    """Check every row's hash, and a random sample of vectors against encoding again.

    Parameters
    ----------
    table
        The table.
    generation
        The generation to check; it must have a hash column.
    encoder
        The generation's model.
    seed
        Seed of the sample.
    n
        Size of the sample; see `sample_size`.

    Raises
    ------
    VerifyError
        A row is stale or null, or a sampled cosine is below `MIN_COSINE`.
    """
    ds = dataset(table)
    n_rows = ds.count_rows()
    n_stale, with_text = vectors_and_mismatches(ds, generation)
    rng = np.random.default_rng(seed)
    wanted = min(len(with_text), sample_size(n_rows) if n is None else n)
    check = Check(n_rows, n_stale, wanted, None, ds.version)
    if wanted:
        chosen = np.sort(rng.choice(with_text, size=wanted, replace=False))
        cosines = _cosines(ds, generation, encoder, chosen)
        check = replace(check, min_cosine=round(float(cosines.min()), 6))
    problems = []
    if n_stale:
        problems.append(f"{n_stale} of {n_rows} rows have no vector of their present text")
    if check.min_cosine is not None and not check.min_cosine >= MIN_COSINE:  # also for NaN
        problems.append(
            f"the lowest cosine of {wanted} sampled vectors to {generation.model} is "
            f"{check.min_cosine:.4f}, below {MIN_COSINE}: another model wrote some of them"
        )
    if problems:
        raise VerifyError(
            f"Column {generation.column!r} of table {table.name!r} is not fit to be shown: "
            f"{'; '.join(problems)}. Run lancedb-ft reindex run again to mend it.",
            table=table.name,
            report=check.to_dict(),
        )
    return check


def verify_documents(
    table: Table, generation: Generation, encoder: Encoder, *, seed: int = 0
) -> Check:
    """Check on a sample that a column holds what this model makes of the documents.

    Rows without text or vector are left out, and so are those whose text is known to have changed
    since: they are as right or stale after a switch of the queries as before it.

    Raises
    ------
    VerifyError
        The mean cosine is below `MIN_COSINE`, or the vectors are of another length.
    """
    ds = dataset(table)
    n_rows = ds.count_rows()
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(n_rows, size=min(n_rows, _LOOKED_AT), replace=False))
    fresh = _fresh(ds, generation, chosen)
    if not len(fresh):
        return Check(n_rows, None, 0, None)
    cosines, lengths = _compared(ds, generation, encoder, fresh)
    mean, change = float(cosines.mean()), float(np.abs(lengths - 1).mean())
    check = Check(n_rows, None, len(fresh), round(float(cosines.min()), 6))
    if mean < MIN_COSINE or change > _MAX_LENGTH_CHANGE:
        told = f"their mean cosine is {mean:.4f} and their lengths differ by {change:.1%}"
        raise VerifyError(
            f"Column {generation.column!r} of table {table.name!r} cannot go on serving the "
            f"documents: {len(fresh)} sampled vectors were made again with {encoder.ref}, and "
            f"{told}. Another model made some of them, or rows were edited without new vectors. "
            "Encode all rows again: re_embed=True (--re-embed).",
            table=table.name,
            report={**check.to_dict(), "mean_cosine": mean, "length_change": change},
        )
    return check


def _fresh(ds: Any, generation: Generation, positions: Any) -> Any:
    """Return those positions whose row has a text and a vector, not known to be of another text."""
    columns = [generation.source_column, generation.column]
    hashed = generation.hash_column if generation.hash_column in ds.schema.names else None
    rows = ds.take(positions.tolist(), columns=[*columns, *([hashed] if hashed else [])])
    keep = pc.and_(
        text_hashes(rows[generation.source_column]).is_valid(), rows[generation.column].is_valid()
    )
    if hashed:
        # A row that was appended has a vector and no hash yet.
        same = same_text(rows[hashed], text_hashes(rows[generation.source_column]))
        keep = pc.and_(keep, pc.fill_null(same, True))
    return positions[np.asarray(keep)]


def _cosines(ds: Any, generation: Generation, encoder: Encoder, positions: Any) -> Any:
    """Return the cosine between stored and newly made vector for rows at these positions."""
    return _compared(ds, generation, encoder, positions)[0]


def _compared(ds: Any, generation: Generation, encoder: Encoder, positions: Any) -> Any:
    """Return the cosine, and the ratio of the lengths, of stored to newly made vectors."""
    rows = ds.take(positions.tolist(), columns=[generation.source_column, generation.column])
    stored = rows[generation.column].combine_chunks()
    if isinstance(stored, pa.ChunkedArray):
        stored = stored.chunk(0)
    stored = getattr(stored, "storage", stored)
    old = stored.flatten().to_numpy().reshape(-1, generation.dims)
    texts = rows[generation.source_column].combine_chunks()
    new = encoder.encode(texts, kind="document").flatten().to_numpy().reshape(-1, generation.dims)
    lengths = np.linalg.norm(old, axis=1), np.maximum(np.linalg.norm(new, axis=1), 1e-12)
    cosines = (old * new).sum(axis=1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    return cosines, lengths[0] / lengths[1]
