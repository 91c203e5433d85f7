"""Rows that a vector index still holds, though the vectors of their fragment were replaced.

A ``DataReplacement`` takes a fragment out of the coverage of the column's index, whose segments
keep its rows; an update in place does the same. While the fragment is there, Lance leaves those
rows out of every answer. Compaction then rewrites the fragment, and in a table without stable row
ids the rows are of a fragment that neither the table nor the coverage knows. As soon as a covered
fragment has a deleted row, Lance 14 no longer leaves them out: they take the places of rows that
are there, and answers come back short, or empty (``tests/test_canary.py`` shows it). Merging the
segments drops them.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from lancedb_ft.table import stable_row_ids

if TYPE_CHECKING:
    import lance

__all__ = ["has_leftovers"]

#: Where Lance keeps the row ids of a segment, whatever the type of the index.
_ROWS = "{uri}/_indices/{uuid}/auxiliary.idx"
_BATCH_ROWS = 65_536


def has_leftovers(
    ds: lance.LanceDataset, index_name: str, storage_options: Mapping[str, str] | None
) -> bool:
    """Say whether an index holds rows of fragments that it does not cover.

    Parameters
    ----------
    ds
        A version of the table.
    index_name
        A vector index of it. Eight bytes a row are read of each segment, once a process.
    storage_options
        What the storage of the table takes to be read.
    """
    if stable_row_ids(ds):
        return False  # what is allowed is listed row by row there, and never by fragment
    options = tuple(sorted((storage_options or {}).items()))
    segments = next(i.segments for i in ds.describe_indices() if i.name == index_name)
    return any(
        _fragments_of(_ROWS.format(uri=ds.uri, uuid=segment.uuid), options)
        - set(segment.fragment_ids)
        for segment in segments
    )


@lru_cache(maxsize=1024)  # a segment's files never change
def _fragments_of(path: str, options: tuple[tuple[str, str], ...]) -> frozenset[int]:
    """Return the fragments whose rows a segment holds."""
    from lance.file import LanceFileReader

    reader = LanceFileReader(path, storage_options=dict(options) or None, columns=["_rowid"])
    found: set[int] = set()
    for batch in reader.read_all(batch_size=_BATCH_ROWS).to_batches():
        found.update(np.unique(batch["_rowid"].to_numpy() >> 32).tolist())
    return frozenset(found)
