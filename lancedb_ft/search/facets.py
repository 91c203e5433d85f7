"""Counting the values of columns over all rows that match a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import QueryError
from lancedb_ft.search.info import Facet
from lancedb_ft.search.snapshot import ROW_ID, Snapshot
from lancedb_ft.table import require_column

__all__ = ["count_values", "matching_rows", "require_facets"]


def require_facets(snapshot: Snapshot, names: Sequence[str]) -> None:
    """Check that these columns have values that can be counted.

    Raises
    ------
    ColumnNotFoundError
        There is no such column.
    QueryError
        Its values are vectors or nested.
    """
    for name in names:
        kind = require_column(snapshot.schema, name, table=snapshot.table).type
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            kind = kind.value_type  # tags: each counts
        if pa.types.is_nested(kind) or isinstance(kind, pa.BaseExtensionType):
            raise QueryError(
                f"The values of {name!r} are {kind} and cannot be counted. A facet is a column of "
                "text, numbers, dates or booleans, or of lists of them."
            )


def matching_rows(
    snapshot: Snapshot,
    columns: Sequence[str],
    *,
    words: Sequence[Any],
    where: str | None,
    others: pa.ChunkedArray | None,
) -> pa.Table:
    """Return these columns of all rows that the words match, and of the other rows named.

    Parameters
    ----------
    snapshot
        The version to read.
    columns
        The columns to read.
    words
        Full-text queries of Lance; a row that several match stands there once.
    where
        The filter, before ranking.
    others
        Row ids of further rows that match: those a vector leg brought.
    """
    parts = [snapshot.matches(query, columns, where=where) for query in words]
    if others is not None and len(others):
        row_ids = others.combine_chunks()
        rows = snapshot.take(row_ids, columns)
        parts.append(rows.append_column(ROW_ID, row_ids))
    if not parts:
        return snapshot.schema.empty_table().select(list(columns))
    rows = pa.concat_tables(part.select([ROW_ID, *columns]) for part in parts)
    if len(parts) == 1:
        return rows.select(list(columns))
    places = pa.table({ROW_ID: rows[ROW_ID], "place": pa.array(range(rows.num_rows), pa.int64())})
    first = places.group_by(ROW_ID).aggregate([("place", "min")])["place_min"]
    return rows.take(first).select(list(columns))


def count_values(rows: pa.Table, n_values: int) -> dict[str, Facet]:
    """Count the values of each column; nulls are left out, and each value of a list counts.

    Examples
    --------
    >>> count_values(pa.table({"lang": ["en", "de", "en", None]}), 1)
    {'lang': Facet(values=(('en', 2),), n_other=1)}
    """
    facets = {}
    for name in rows.column_names:
        column = rows[name]
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            column = pc.list_flatten(column)
        counted = pc.value_counts(column.combine_chunks().drop_null())
        pairs = [(pair["values"], pair["counts"]) for pair in counted.to_pylist()]
        pairs.sort(key=lambda pair: (-pair[1], str(pair[0])))
        kept = tuple(pairs[:n_values])
        facets[name] = Facet(kept, sum(n for _, n in pairs[n_values:]))
    return facets
