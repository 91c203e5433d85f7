"""New vectors for a few rows of a big fragment: the rows move, and the fragment stays as it is.

A fragment's vector column can only be replaced whole. For 20 rows of 20,000 that wrote 10.3 MB and
threw all 20,000 rows out of the column's vector index, where writing the 20 rows anew wrote 21 kB
and took 20 rows out of it (128 dimensions). With stable row ids a moved row keeps its id, and
every index of a column that was not changed goes on finding it; without, it is unindexed.

Without stable row ids there is another reason: what an index keeps of a fragment that was replaced
can come into answers (see `lancedb_ft.leftovers`). In the column that is shown, rows of a fragment
that its index covers are therefore moved however many they are, see `must_move`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.table import stable_row_ids, storage_options

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = ["movable", "must_move", "rewrite_rows"]

#: Given rows, returns new columns by name, for all of these rows; nothing where all is right.
Changes = Callable[[pa.Table], Mapping[str, pa.Array]]


def movable(ds: lance.LanceDataset) -> bool:
    """Say whether rows can be read and written back as they are; blobs are read as references."""
    return not any("blob" in str(dict(f.metadata or {})) for f in ds.schema)


def must_move(ds: lance.LanceDataset, column: str) -> set[int]:
    """Return the fragments whose vectors are not to be replaced: readers find them by an index.

    None for a parked column, whose index is rid of what was replaced before it is shown, and with
    stable row ids. An index that comes to cover another fragment meanwhile is no danger: that
    commit and a ``DataReplacement`` conflict.
    """
    parked = isinstance(ds.schema.field(column).type, pa.BaseExtensionType)
    if parked or stable_row_ids(ds) or not movable(ds):
        return set()
    indexes = [i for i in ds.describe_indices() if list(i.field_names) == [column]]
    return {n for index in indexes for segment in index.segments for n in segment.fragment_ids}


def rewrite_rows(
    table: Table, ds: lance.LanceDataset, row_ids: Sequence[int], changes: Changes
) -> int:
    """Write rows anew with other values in some columns, in one commit; no retries.

    The commit loses, retryably, against any change of a fragment that holds one of the rows.

    Parameters
    ----------
    table
        The table.
    ds
        The version whose rows are meant.
    row_ids
        Their ``_rowid``; those there are no longer are left out.
    changes
        Makes the new columns.

    Returns
    -------
    int
        Rows that were written; 0 where ``changes`` had none.
    """
    import lance
    from lance import LanceOperation

    one_of = f"_rowid IN ({','.join(map(str, row_ids))})"
    rows = ds.scanner(filter=one_of, with_row_id=True, with_row_address=True).to_table()
    made = changes(rows) if rows.num_rows else {}
    if not made:
        return 0
    ids = rows["_rowid"].to_pylist()
    fragments = {address >> 32 for address in rows["_rowaddr"].to_pylist()}
    kept = [ds.get_fragment(number).delete(one_of) for number in sorted(fragments)]
    field_ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
    operation = LanceOperation.Update(
        removed_fragment_ids=[
            number for number, left in zip(sorted(fragments), kept, strict=True) if left is None
        ],
        updated_fragments=[left for left in kept if left is not None],
        new_fragments=_written(table, ds, _replaced(rows, made, ds.schema), ids),
        fields_modified=[],
        # Despite its name: the fields that changed. Indexes of all others keep the rows.
        fields_for_preserving_frag_bitmap=[field_ids[name] for name in made],
        update_mode="rewrite_rows",
    )
    lance.LanceDataset.commit(ds, operation, read_version=ds.version, max_retries=0)
    return int(rows.num_rows)


def _replaced(rows: pa.Table, made: Mapping[str, pa.Array], schema: pa.Schema) -> pa.Table:
    rows = rows.select(schema.names)
    for name, values in made.items():
        position = schema.get_field_index(name)
        wanted = schema.field(position)
        values = values.cast(getattr(wanted.type, "storage_type", wanted.type))
        if isinstance(wanted.type, pa.BaseExtensionType):  # that of a parked column is no other
            values = wanted.type.wrap_array(values)
        rows = rows.set_column(position, wanted, values)
    return rows


def _written(table: Table, ds: lance.LanceDataset, rows: pa.Table, ids: list[int]) -> list[Any]:
    from lance.fragment import RowIdSequence, write_fragments

    written = write_fragments(
        rows,
        ds,
        schema=ds.schema,
        mode="append",
        data_storage_version=ds.data_storage_version,
        storage_options=storage_options(table),
    )
    if stable_row_ids(ds):
        start = 0
        for fragment in written:
            stop = start + fragment.physical_rows
            fragment.row_id_meta = RowIdSequence(ids[start:stop]).to_inline_metadata()
            start = stop
    return list(written)
