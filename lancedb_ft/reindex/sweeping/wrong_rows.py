"""Which rows' vectors are not those of their texts, found at a cost that fits what is known.

With stable row ids LanceDB keeps for each row the version that last changed it, compaction or not,
and answers from memory which rows changed since: then only those are read. Without, every row's
text and vector are compared with the mark beside them. A generation without marks (made by
LanceDB's own functions, or before its first re-index) can be asked for missing vectors only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.marks import hash_values, text_hashes
from lancedb_ft.reindex.filling.fragments import WINDOW_ROWS, Columns
from lancedb_ft.table import STREAMED, stable_row_ids

if TYPE_CHECKING:
    import lance

    from lancedb_ft.generation import Generation

__all__ = ["WrongRows", "changed_since", "find_wrong", "has_marks", "missing", "swept_version"]

_None = np.zeros(0, np.uint64)


@dataclass(frozen=True)
class WrongRows:
    """Rows of one version of a table whose vectors are wrong, for one generation.

    Parameters
    ----------
    n_stale
        Rows whose vector is marked as that of another text, or was overwritten since.
    n_unmarked
        Rows whose vector somebody else wrote, without a mark: right or not, nothing says.
    n_missing
        Rows that have a text and no vector.
    n_read
        Rows that were read to find out.
    addresses, ids
        Where they are (``_rowaddr``), and what they are called (``_rowid``).
    """

    n_stale: int = 0
    n_unmarked: int = 0
    n_missing: int = 0
    n_read: int = 0
    addresses: npt.NDArray[np.uint64] = field(default_factory=lambda: _None, repr=False)
    ids: npt.NDArray[np.uint64] = field(default_factory=lambda: _None, repr=False)

    def by_fragment(self) -> dict[int, int]:
        """Return how many there are in each fragment that has any."""
        numbers, counts = np.unique(self.addresses >> np.uint64(32), return_counts=True)
        return {int(n): int(c) for n, c in zip(numbers, counts, strict=True)}


def has_marks(ds: lance.LanceDataset, generation: Generation) -> bool:
    """Say whether a generation keeps beside each vector what it was made from."""
    return generation.hash_column is not None and generation.hash_column in ds.schema.names


def swept_version(ds: lance.LanceDataset, generation: Generation) -> int | None:
    """Return the version up to which all rows are known to be right, or None.

    It stands in the table's own state, so that a restored version brings its own with it.
    """
    swept = generation.details.get("swept") or {}
    version = swept.get("version") if stable_row_ids(ds) else None
    return int(version) if version is not None else None


def changed_since(ds: lance.LanceDataset, version: int) -> int:
    """Count rows that were added or changed after a version; no data is read."""
    return int(ds.count_rows(_changed(version)))


def find_wrong(
    ds: lance.LanceDataset,
    generations: Sequence[Generation],
    *,
    since: int | None = None,
    where: str | None = None,
) -> dict[int, WrongRows]:
    """Return the wrong rows of each generation, by number, in one scan for all.

    Parameters
    ----------
    ds
        The version to look at.
    generations
        Those to look at; each has a source column.
    since
        Read only rows that changed after this version; None: all.
    where
        Read only rows that this SQL is true for.
    """
    marked = {g.number: Columns.of(g) for g in generations if has_marks(ds, g)}
    names = [n for g in generations for n in (g.source_column, g.hash_column, g.column)]
    columns = [n for n in dict.fromkeys(names) if n is not None and n in ds.schema.names]
    scanner = ds.scanner(
        columns=columns,
        filter=_filter(generations, since, where, marks=bool(marked)),
        with_row_address=True,
        with_row_id=True,
        batch_size=WINDOW_ROWS,
        **STREAMED,
    )
    found: dict[int, list[_Part]] = {g.number: [] for g in generations}
    n_read = 0
    for batch in scanner.to_batches():
        n_read += batch.num_rows
        for g in generations:
            found[g.number].append(_part(batch, g, marked.get(g.number)))
    return {number: _together(parts, n_read) for number, parts in found.items()}


def _filter(
    generations: Sequence[Generation], since: int | None, where: str | None, *, marks: bool
) -> str | None:
    terms = [_changed(since)] if since is not None else []
    terms += [f"({where})"] if where is not None else []
    if not marks:
        terms.append("(" + " OR ".join(f"`{g.column}` IS NULL" for g in generations) + ")")
    return " AND ".join(terms) or None


def _changed(version: int) -> str:
    return f"_row_last_updated_at_version > {version}"


def missing(batch: pa.RecordBatch, generation: Generation) -> npt.NDArray[np.bool_]:
    """Say for each row whether it has a text and no vector."""
    null = batch[generation.column].is_null().to_numpy(zero_copy_only=False)
    if not null.any():
        return np.asarray(null)
    blank = np.ones(len(null), dtype=bool)
    texts = batch[str(generation.source_column)].filter(pa.array(null))
    blank[null] = hash_values(text_hashes(texts))[1]
    return np.asarray(null & ~blank)


@dataclass(frozen=True)
class _Part:
    n_stale: int
    n_unmarked: int
    n_missing: int
    rows: pa.RecordBatch


def _part(batch: pa.RecordBatch, g: Generation, columns: Columns | None) -> _Part:
    null = missing(batch, g)
    wrong, unmarked = null, np.zeros(len(null), dtype=bool)
    if columns is not None:
        wrong = columns.wrong(batch)
        absent = batch[columns.hash].is_null().to_numpy(zero_copy_only=False)
        there = batch[columns.vector].is_valid().to_numpy(zero_copy_only=False)
        unmarked = wrong & absent & there
    stale = wrong & ~null & ~unmarked
    rows = batch.select(["_rowaddr", "_rowid"]).filter(pa.array(wrong))
    return _Part(int(stale.sum()), int(unmarked.sum()), int(null.sum()), rows)


def _together(parts: list[_Part], n_read: int) -> WrongRows:
    if not parts:
        return WrongRows(n_read=n_read)
    return WrongRows(
        n_stale=sum(part.n_stale for part in parts),
        n_unmarked=sum(part.n_unmarked for part in parts),
        n_missing=sum(part.n_missing for part in parts),
        n_read=n_read,
        addresses=np.concatenate([part.rows["_rowaddr"].to_numpy() for part in parts]),
        ids=np.concatenate([part.rows["_rowid"].to_numpy() for part in parts]),
    )
