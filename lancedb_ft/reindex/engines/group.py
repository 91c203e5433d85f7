"""Many fragments in one commit, without one that moved holding up the others."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lance.commit import CommitConflictError

from lancedb_ft.reindex.commits import retrying
from lancedb_ft.reindex.filling.backfill import commit_files
from lancedb_ft.reindex.filling.fragments import Columns, signature, source_file
from lancedb_ft.reindex.filling.moved_rows import must_move
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    import lance
    from lance.fragment import DataFile
    from lancedb.table import Table

__all__ = ["Committed", "Written", "commit_written"]

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
        Of the files that were read, see `lancedb_ft.reindex.filling.fragments.signature`.
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


@dataclass
class Committed:
    """What became of some fragments.

    ``numbers`` were committed; the others were compacted, rewritten or indexed meanwhile and must
    be planned again. ``right`` are those that were seen, after the commit, to have the texts that
    were read.
    """

    numbers: list[int] = field(default_factory=list)
    right: list[Any] = field(default_factory=list)


def commit_written(table: Table, written: Sequence[Written], columns: Columns) -> Committed:
    """Commit fragments' files, those with the same columns in one commit.

    Data files never change, so a file made from a fragment is right for as long as the fragment
    has the files it was made from. That is looked at right before the commit, and the commit is
    made against that very version: what happened between reading and writing, hours maybe, was
    looked at and not guessed. A fragment that moved holds up nobody.
    """
    done = Committed()
    for _ in range(_GROUP_ATTEMPTS):
        with contextlib.suppress(CommitConflictError):
            _attempt(table, written, columns, done)
            return done
    for one in written:
        what = f"fill fragment {one.fragment_id}"
        retrying(partial(_attempt, table, [one], columns, done), what=what)
    return done


def _attempt(table: Table, written: Sequence[Written], columns: Columns, done: Committed) -> None:
    before = dataset(table)
    kept = must_move(before, columns.vector)
    still = {
        one.fragment_id: one
        for one in written
        if one.fragment_id not in kept and _unchanged(before, one)
    }
    # No retries in Lance: the next attempt looks at the fragments again.
    after = commit_files(before, [(number, list(one.files)) for number, one in still.items()])
    done.numbers += still
    for number, one in still.items():
        fragment = after.get_fragment(number)
        # A partial merge_insert can rewrite the text column under a replacement, which does not
        # conflict with it. The next round looks at such a fragment again.
        if fragment is not None and {str(f.path) for f in one.files} <= _paths(fragment):
            was = before.get_fragment(number)
            if source_file(before, was, columns) == source_file(after, fragment, columns):
                done.right.append(fragment)


def _paths(fragment: lance.LanceFragment) -> set[str]:
    return {str(f.path) for f in fragment.data_files()}


def _unchanged(ds: lance.LanceDataset, one: Written) -> bool:
    fragment = ds.get_fragment(one.fragment_id)
    return fragment is not None and signature(fragment) == one.signature
