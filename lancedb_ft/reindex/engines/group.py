"""Many fragments in one commit, without one that moved holding up the others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from lancedb_ft.reindex.commits import retrying
from lancedb_ft.reindex.fragments import signature
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    import lance
    from lance.fragment import DataFile
    from lancedb.table import Table

__all__ = ["Written", "commit_written"]

#: Attempts to commit a group whole, before its fragments are committed one by one.
_GROUP_ATTEMPTS = 3


@dataclass(frozen=True)
class Written:
    """What a worker made of one fragment.

    Parameters
    ----------
    fragment_id
        The fragment.
    signature
        Of the files that were read, see `lancedb_ft.reindex.fragments.signature`.
    files
        To be committed in this order. Empty: nothing was to do, or the fragment is gone.
    right
        Every row was right already.
    rows, encoded, reused
        Rows of the fragment, vectors that were computed, and vectors that were found.
    encode_seconds
        Of the worker's encoder.
    node
        Where.
    """

    fragment_id: int
    signature: str = ""
    files: tuple[DataFile, ...] = field(default=())
    right: bool = False
    rows: int = 0
    encoded: int = 0
    reused: int = 0
    encode_seconds: float = 0.0
    node: str = ""


def commit_written(table: Table, written: Sequence[Written]) -> list[int]:
    """Commit fragments' files, those with the same columns in one commit.

    Data files never change, so a file made from a fragment is right for as long as the fragment
    has the files it was made from. That is looked at right before the commit, and the commit is
    made against that very version: what happened between reading and writing, hours maybe, was
    looked at and not guessed.

    Returns
    -------
    list of int
        The fragments that were committed. The others were compacted or rewritten meanwhile, and
        must be planned again; they hold up nobody.
    """
    from lance.commit import CommitConflictError

    alike: dict[tuple[tuple[int, ...], ...], list[Written]] = {}
    for one in written:
        alike.setdefault(tuple(tuple(f.fields) for f in one.files), []).append(one)
    committed: list[int] = []
    for group in alike.values():
        for _ in range(_GROUP_ATTEMPTS):
            try:
                committed += _attempt(table, group)
                break
            except CommitConflictError:
                continue
        else:
            for one in group:
                what = f"fill fragment {one.fragment_id}"
                committed += retrying(partial(_attempt, table, [one]), what=what)
    return committed


def _attempt(table: Table, group: Sequence[Written]) -> list[int]:
    import lance
    from lance import LanceOperation

    ds = dataset(table)
    still = [one for one in group if _unchanged(ds, one)]
    n_files = len(still[0].files) if still else 0
    for number in range(n_files):
        replaced = [
            LanceOperation.DataReplacementGroup(one.fragment_id, one.files[number]) for one in still
        ]
        # No retries in Lance: the next attempt looks at the fragments again.
        ds = lance.LanceDataset.commit(
            ds, LanceOperation.DataReplacement(replaced), read_version=ds.version, max_retries=0
        )
    return [one.fragment_id for one in still]


def _unchanged(ds: lance.LanceDataset, one: Written) -> bool:
    fragment = ds.get_fragment(one.fragment_id)
    return fragment is not None and signature(fragment) == one.signature
