"""The one place that changes a table's state: read it, decide, commit, and start over on conflict.

A transition is one ``UpdateConfig`` commit. Two of them from the same version conflict, so each is
a compare-and-swap: whoever loses reads the new state and decides again.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, TypeVar

from lancedb_ft.errors import ReindexConflictError
from lancedb_ft.generation import STATE_KEY, TableState, parked_metadata, read_state
from lancedb_ft.races import lost_a_race
from lancedb_ft.table import FUNCTIONS_KEY, dataset, embedding_entries

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = [
    "Change",
    "drop_columns",
    "lost_a_race",
    "now",
    "other_functions",
    "retrying",
    "transition",
    "was_cleaned_away",
]

_Result = TypeVar("_Result")

#: Attempts before giving up on a table that never stands still (about two minutes of backoff).
MAX_ATTEMPTS = 60

#: A file of the version that was read is gone: an ``optimize()`` of another process cleaned that
#: version away. Beyond so many times in a row, the file is truly missing.
_MAX_MISSING = 6


@dataclass(frozen=True)
class Change:
    """What one commit does.

    Parameters
    ----------
    state
        The new state.
    functions
        LanceDB's new list of embedding functions, or None to leave it.
    show, park
        Columns that become visible to, or hidden from, LanceDB's column inference, as
        ``{column: dims}``.
    """

    state: TableState
    functions: list[Mapping[str, Any]] | None = None
    show: Mapping[str, int] = field(default_factory=dict)
    park: Mapping[str, int] = field(default_factory=dict)


def now() -> str:
    """Return the present time in UTC, ISO 8601, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def was_cleaned_away(error: BaseException) -> bool:
    """Say whether a file of the version that was read is gone."""
    return isinstance(error, (OSError, RuntimeError)) and "Not found: " in str(error)


def retrying(attempt: Callable[[], _Result], *, what: str) -> _Result:
    """Run ``attempt`` until it does not lose a commit race.

    Each attempt has to open the newest version: a LanceDB handle stays at the one it has.

    Raises
    ------
    ReindexConflictError
        It lost every time.
    """
    n_missing = 0
    for number in range(MAX_ATTEMPTS):
        try:
            return attempt()
        except (OSError, RuntimeError) as error:
            missing = was_cleaned_away(error)
            n_missing = n_missing + 1 if missing else 0
            if not (missing or lost_a_race(error)) or n_missing >= _MAX_MISSING:
                raise
            last = error
            # Full jitter, up to 3 s: other writers must be able to finish in between.
            time.sleep(random.uniform(0, min(3.0, 0.05 * 2**number)))
    raise ReindexConflictError(what, attempts=MAX_ATTEMPTS, last=str(last)) from last


def transition(
    table: Table,
    decide: Callable[[TableState, lance.LanceDataset], Change | None],
    *,
    what: str,
    vector_column: str | None = None,
) -> TableState:
    """Commit the change that ``decide`` makes of the newest state.

    Parameters
    ----------
    table
        The table to change.
    decide
        Given the state and the data set it was read from, returns the change, or None when
        nothing has to be done. Called again after each lost race, so it must be pure.
    what
        The step in words, for errors.
    vector_column
        Which column is meant in a table that lancedb-ft never touched and that has several.

    Returns
    -------
    TableState
        The state after the commit.
    """
    import lance

    def attempt() -> TableState:
        ds = dataset(table)
        change = decide(read_state(ds.schema, table=table.name, vector_column=vector_column), ds)
        if change is None:
            return read_state(ds.schema, table=table.name, vector_column=vector_column)
        # max_retries=0: a retry inside Lance would re-apply a decision made on an old state.
        lance.LanceDataset.commit(
            ds, _operation(ds, change), read_version=ds.version, max_retries=0
        )
        return change.state

    return retrying(attempt, what=what)


def _operation(ds: lance.LanceDataset, change: Change) -> Any:
    from lance import LanceOperation

    schema_metadata: dict[str, str | None] = {STATE_KEY: change.state.to_json()}
    if change.functions is not None:
        entries = [dict(entry) for entry in change.functions]
        schema_metadata[FUNCTIONS_KEY] = json.dumps(entries) if entries else None
    field_ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
    fields = {}
    for column, dims in change.show.items():
        fields[field_ids[column]] = LanceOperation.UpdateMap(dict.fromkeys(parked_metadata(dims)))
    for column, dims in change.park.items():
        fields[field_ids[column]] = LanceOperation.UpdateMap(parked_metadata(dims))
    return LanceOperation.UpdateConfig(
        schema_metadata_updates=LanceOperation.UpdateMap(schema_metadata),
        field_metadata_updates=fields or None,
    )


def drop_columns(table: Table, columns: set[str]) -> None:
    """Drop those of the columns that are there; what others change meanwhile stays.

    Lance lets the schema of an older version replace a newer one here, and with it go all changes
    of metadata committed in between: somebody else's embedding functions, or the state that
    another machine wrote. They are put back at once.
    """

    def attempt() -> None:
        ds = dataset(table)
        present = [name for name in ds.schema.names if name in columns]
        if not present:
            return
        read = ds.version
        ds.drop_columns(present)
        if ds.version != read + 1:
            _put_back(table, ds.checkout_version(ds.version - 1), ds)

    retrying(attempt, what="drop the columns")


def _put_back(table: Table, before: lance.LanceDataset, dropped: lance.LanceDataset) -> None:
    """Commit the metadata of ``before`` that ``dropped`` lost, where nobody wrote it since."""
    import lance
    from lance import LanceOperation

    was, left = ({f.id(): f.metadata for f in d.lance_schema.fields()} for d in (before, dropped))

    def attempt() -> None:
        ds = dataset(table)
        schema = _lost(
            _texts(before.schema.metadata),
            _texts(dropped.schema.metadata),
            _texts(ds.schema.metadata),
        )
        fields = {
            f.id(): LanceOperation.UpdateMap(lost)
            for f in ds.lance_schema.fields()
            if (lost := _lost(was.get(f.id(), {}), left.get(f.id(), {}), f.metadata))
        }
        if schema or fields:
            operation = LanceOperation.UpdateConfig(
                schema_metadata_updates=LanceOperation.UpdateMap(schema) if schema else None,
                field_metadata_updates=fields or None,
            )
            lance.LanceDataset.commit(ds, operation, read_version=ds.version, max_retries=0)

    retrying(attempt, what="put the metadata back")


def _lost(
    before: Mapping[str, str], after: Mapping[str, str], found: Mapping[str, str]
) -> dict[str, str | None]:
    """Return what makes ``before`` of ``after``, where ``found`` is still that; None removes."""
    return {
        key: before.get(key)
        for key in {*before, *after}
        if before.get(key) != after.get(key) and found.get(key) == after.get(key)
    }


def _texts(metadata: Mapping[bytes, bytes] | None) -> dict[str, str]:
    return {key.decode(): value.decode() for key, value in (metadata or {}).items()}


def other_functions(ds: lance.LanceDataset, columns: set[str]) -> list[Mapping[str, Any]]:
    """Return the embedding functions of all columns but these."""
    return [e for e in embedding_entries(ds.schema) if e["vector_column"] not in columns]
