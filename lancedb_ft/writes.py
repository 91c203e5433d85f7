"""Plain LanceDB writes whole rows to a table that is, or was, re-indexed.

Such a table has columns that an application does not know: the mark beside each vector, and the
vectors of generations that are not shown. A ``merge_insert`` that lacks a column is partial, and
with a scalar index on its key LanceDB 0.40 then rewrites the other columns in place, instead of
deleting the row and writing it anew. A vector index keeps what it had of a fragment that was
rewritten so, and can answer with it later (see ``lancedb_ft/leftovers.py``).

So importing lancedb_ft completes a write that has everything else: with the marks of the vectors
that were computed from its texts, and with null for the rest, which the next fill or sweep makes.
Rows that a process with the plugin writes are thus marked at once. Where columns are still missing,
those of the application's own or those that a `finish` is about to drop, a ``merge_insert`` that
writes vectors is told not to use the scalar index: then LanceDB writes its rows anew, too. And
vectors of float16 columns are computed in float32, which LanceDB then casts. Nothing else changes.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from contextvars import ContextVar
from functools import wraps
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import ReindexStateError
from lancedb_ft.generation import STATE_KEY, Generation, read_state
from lancedb_ft.marks import row_marks, text_hashes
from lancedb_ft.table import FUNCTIONS_KEY

__all__ = ["complete_writes"]

_APPEND = "_append_vector_columns"
_MERGE = "_do_merge"

#: The ``merge_insert`` whose rows are being completed, if it is one.
_merging: ContextVar[Any] = ContextVar("lancedb_ft_merging", default=None)


def complete_writes() -> None:
    """Let LanceDB's ``add`` and ``merge_insert``, sync and async, write whole rows. Done once."""
    from lancedb import table

    # The sync table merges through the async one.
    wrappers: list[tuple[Any, str, Callable[..., Any]]] = [
        (table, _APPEND, _completing),
        (table.AsyncTable, _MERGE, _merging_rows),
    ]
    for owner, name, wrapper in wrappers:
        found = getattr(owner, name, None)
        if found is not None and not hasattr(found, "__wrapped__"):
            setattr(owner, name, wrapper(found))


def _merging_rows(merge_rows: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    @wraps(merge_rows)
    async def merging(self: Any, merge: Any, *args: Any, **kwargs: Any) -> Any:
        merge = copy.copy(merge)  # the caller may use theirs again
        token = _merging.set(merge)
        try:
            return await merge_rows(self, merge, *args, **kwargs)
        finally:
            _merging.reset(token)

    return merging


def _completing(append: Callable[..., pa.RecordBatchReader]) -> Callable[..., pa.RecordBatchReader]:
    @wraps(append)
    def completed(
        reader: pa.RecordBatchReader, schema: pa.Schema | None = None, *, metadata: Any = None
    ) -> pa.RecordBatchReader:
        generations = _generations(schema)
        if schema is None or not generations:
            return append(reader, _computed(schema), metadata=metadata)
        schema, metadata = _fillable(schema, reader), _fillable(metadata, reader)
        absent: deque[set[str]] = deque()
        noted = pa.RecordBatchReader.from_batches(reader.schema, _noted(reader, schema, absent))
        made = append(noted, _computed(schema), metadata=metadata)
        hidden = {c for g in generations for c in (g.column, g.hash_column)}
        missing = [field for field in schema if field.name not in made.schema.names]
        if not {field.name for field in missing} <= hidden:
            if any(g.column in made.schema.names for g in generations):
                _without_index(_merging.get(), missing)
            return made
        if not missing:
            return made
        marked = {g.hash_column: g for g in generations}
        whole = pa.schema([*made.schema, *missing], metadata=made.schema.metadata)

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in made:
                computed = absent.popleft()
                for field in missing:
                    column = _column(field, batch, marked.get(field.name), computed)
                    batch = batch.append_column(field, column)
                yield batch

        return pa.RecordBatchReader.from_batches(whole, batches())

    return completed


def _fillable(told: Any, reader: pa.RecordBatchReader) -> Any:
    """Leave out of a schema, or of metadata, the functions whose text does not come with the rows.

    LanceDB would look for it, and fail: a write of some columns, which was right while the vectors
    were raw, would be none any more. The vectors of such rows stay as they are.
    """
    metadata = told.metadata if isinstance(told, pa.Schema) else told
    key = next((k for k in (FUNCTIONS_KEY.encode(), FUNCTIONS_KEY) if k in (metadata or {})), None)
    if key is None:
        return told
    entries = json.loads(metadata[key])
    kept = [entry for entry in entries if entry["source_column"] in reader.schema.names]
    changed = {**metadata, key: json.dumps(kept)}
    return told.with_metadata(changed) if isinstance(told, pa.Schema) else changed


def _without_index(merge: Any, missing: list[pa.Field]) -> None:
    """Let a ``merge_insert`` of some columns write its rows anew, by not using the key's index.

    LanceDB then refuses to insert rows without a column that takes no nulls, which it does not
    with the index: such a write stays as it is.
    """
    if merge is None:
        return
    if not merge._when_not_matched_insert_all or all(field.nullable for field in missing):
        merge._use_index = False


def _computed(schema: pa.Schema | None) -> pa.Schema | None:
    """Return the types that vectors are computed in: float32 for float16.

    pyarrow takes no ``np.float32`` into a float16 array, so LanceDB could not write what an
    embedding function makes for such a column. Afterwards it casts all to the table's schema.
    """
    if schema is None:
        return None
    for position, field in enumerate(schema):
        stored = getattr(field.type, "storage_type", field.type)
        if pa.types.is_fixed_size_list(stored) and pa.types.is_float16(stored.value_type):
            computed = pa.list_(pa.float32(), stored.list_size)
            schema = schema.set(position, pa.field(field.name, computed))
    return schema


def _generations(schema: pa.Schema | None) -> list[Generation]:
    """Return the generations whose marks stand in the table, one a column."""
    if schema is None or STATE_KEY.encode() not in (schema.metadata or {}):
        return []
    try:
        found = read_state(schema, table="").generations
    except ReindexStateError:  # of a newer version: a write does not fail for that
        return []
    names = schema.names
    kept = [g for g in found if g.phase != "removing" and {g.column, g.hash_column} <= {*names}]
    return list({g.column: g for g in kept}.values())


def _noted(
    reader: pa.RecordBatchReader, schema: pa.Schema, absent: deque[set[str]]
) -> Iterator[pa.RecordBatch]:
    """Note of each batch which columns it lacks: a function computes those that it is for."""
    for batch in reader:
        given = {
            name
            for name in batch.schema.names
            if name not in schema.names or not pc.all(pc.is_null(batch[name])).as_py()
        }
        absent.append(set(schema.names) - given)
        yield batch


def _column(
    field: pa.Field, batch: pa.RecordBatch, generation: Generation | None, computed: set[str]
) -> pa.Array:
    """Return the marks of vectors that were computed here, else nulls."""
    if (
        generation is not None
        and generation.source_column in batch.schema.names
        and generation.column in computed
        and generation.column in batch.schema.names
    ):
        hashes = text_hashes(batch[generation.source_column])
        return row_marks(hashes, batch[generation.column])
    if isinstance(field.type, pa.BaseExtensionType):
        nulls = pa.nulls(len(batch), field.type.storage_type)
        return pa.ExtensionArray.from_storage(field.type, nulls)
    return pa.nulls(len(batch), field.type)
