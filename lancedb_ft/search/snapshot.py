"""One version of one table: what can be searched in it, its two legs, and its rows.

Everything one query does happens on one snapshot: the column, the model it was made with, both
legs and the rows. So a switch, a deletion or a compaction in between cannot mix two states, and
row ids mean the same rows in all three steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import (
    ColumnNotFoundError,
    NoTextIndexError,
    QueryError,
)
from lancedb_ft.generation import STATE_KEY, Generation, read_state
from lancedb_ft.search.filters import filter_told
from lancedb_ft.search.options import TextMatch
from lancedb_ft.search.query import MAX_K, text_terms
from lancedb_ft.search.text_query import best_of, require_positions, text_queries
from lancedb_ft.search.trace import IndexUse
from lancedb_ft.table import embedding_entries, require_column, text_column_of, vector_columns

if TYPE_CHECKING:
    import lance

__all__ = ["ROW_ID", "DeletedRowsError", "Snapshot", "Target"]

ROW_ID = "_rowid"
#: More than any index has, and the most that Lance takes.
_ALL_PARTITIONS = 2**31 - 1
_COMPUTED = (ROW_ID, "_distance", "_score", "_relevance_score")


@dataclass(frozen=True)
class Target:
    """The vector column that is searched, and LanceDB's entry of the model that filled it."""

    column: str
    dims: int
    function: Any
    source_column: str | None


class DeletedRowsError(Exception):
    """An index returned rows that are deleted; search again with ``masks_deleted``.

    In tables with stable row ids, the full-text index of pylance 14.0 goes on returning rows that
    were deleted before a compaction, until it is built anew. In LanceDB itself they take the place
    of live rows and then vanish: ``limit(10)`` gives 5. Any prefilter keeps them out, for 0.7 ms at
    50,000 rows, so it is put in front only where such rows were met.
    """


class Snapshot:
    """A table at one version, shared by all threads.

    Parameters
    ----------
    ds
        The Lance data set at that version.
    table
        Name of the table, for errors.
    nprobes
        How many partitions of a vector index are searched at least.
    refine_factor
        Fetch that many times more rows from a quantised index and rank them by exact distance.
    masks_deleted
        Keep the full-text index from returning deleted rows; see `DeletedRowsError`.
    """

    def __init__(
        self,
        ds: lance.LanceDataset,
        *,
        table: str,
        nprobes: int,
        refine_factor: int | None,
        masks_deleted: bool = False,
    ) -> None:
        self.ds = ds
        self.table = table
        self.version = int(ds.version)
        self.schema: pa.Schema = ds.schema
        self._probing: dict[str, Any] = {"minimum_nprobes": nprobes}
        if refine_factor is not None:
            self._probing["refine_factor"] = refine_factor
        self.masks_deleted = masks_deleted
        self._targets: dict[str | None, Target] = {}

    # --- what there is ---------------------------------------------------------------------

    @cached_property
    def _indexes(self) -> tuple[Any, ...]:
        return tuple(self.ds.describe_indices())

    @cached_property
    def text_indexes(self) -> dict[str, Any]:
        """Lance's description of the full-text index of each column that has one."""
        return {
            index.field_names[0]: index
            for index in reversed(self._indexes)
            if index.index_type == "Inverted" and len(index.field_names) == 1
        }

    @cached_property
    def text_columns(self) -> tuple[str, ...]:
        """The columns with a full-text index."""
        indexed = (index.field_names[0] for index in self._indexes)
        return tuple(dict.fromkeys(name for name in indexed if name in self.text_indexes))

    @cached_property
    def n_rows(self) -> int:
        """How many rows the table has."""
        return int(self.ds.count_rows())

    def index_use(self, leg: str, column: str) -> IndexUse:
        """Return the index a leg goes through, and how many rows are not in it."""
        found = self.text_indexes.get(column)
        if leg != "fts":
            found = next((i for i in self._indexes if i.field_names == [column]), None)
        if found is None:
            return IndexUse(leg, column, None, None, 0, self.n_rows)
        n_indexed = min(int(found.num_rows_indexed), self.n_rows)
        return IndexUse(
            leg, column, found.name, found.index_type, n_indexed, self.n_rows - n_indexed
        )

    @cached_property
    def default_columns(self) -> tuple[str, ...]:
        """The columns a result has unless others are asked for: no vectors, no hashes."""
        hidden = set(vector_columns(self.schema))
        if STATE_KEY.encode() in (self.schema.metadata or {}):
            state = read_state(self.schema, table=self.table)
            hidden |= {g.hash_column for g in state.generations if g.hash_column}
        return tuple(name for name in self.schema.names if name not in hidden)

    def target(self, column: str | None) -> Target:
        """Return the vector column to search: the one named, or the active generation's.

        Raises
        ------
        QueryError
            The table has no vector column, or several and none was named.
        ColumnNotFoundError
            The named column does not exist or holds no vectors.
        """
        if column not in self._targets:
            self._targets[column] = self._find_target(column)
        return self._targets[column]

    def _find_target(self, column: str | None) -> Target:
        columns = vector_columns(self.schema)
        if not columns:
            raise QueryError(
                f'Table {self.table!r} has no vector column. Search it with mode="fts".'
            )
        if column is not None and column not in columns:
            raise ColumnNotFoundError(
                column, table=self.table, available=columns, expected="a vector column"
            )
        found = self._generation(column)
        if found is not None:
            dims = columns.get(found.column, found.dims)
            return Target(found.column, dims, found.function, found.source_column)
        name = column or self._shown_vector_column(columns)
        entries = {entry["vector_column"]: entry for entry in embedding_entries(self.schema)}
        entry = entries.get(name)
        source = None if entry is None else entry["source_column"]
        return Target(name, columns[name], entry, source)

    def _generation(self, column: str | None) -> Generation | None:
        """Return our generation of the column; None where the state has none."""
        if STATE_KEY.encode() not in (self.schema.metadata or {}):
            return None
        state = read_state(self.schema, table=self.table)
        if column is None:
            return state.active
        return state.of_column(column)

    def _shown_vector_column(self, columns: Mapping[str, int]) -> str:
        # A parked column can stand there alone, for the moment between the commit that adds it
        # and the one that writes the state.
        shown = [
            name
            for name in columns
            if not isinstance(self.schema.field(name).type, pa.BaseExtensionType)
        ]
        if len(shown) != 1:
            raise QueryError(
                f"Table {self.table!r} has several vector columns: {sorted(columns)}. "
                "Name the one to search with column=."
            )
        return shown[0]

    def columns_to_return(self, select: Sequence[str] | None) -> tuple[str, ...]:
        """Return the columns to fetch for a result; computed ones are left out.

        Raises
        ------
        ColumnNotFoundError
            The table has no such column.
        """
        if select is None:
            return self.default_columns
        wanted = tuple(name for name in select if name not in _COMPUTED)
        for name in wanted:
            require_column(self.schema, name, table=self.table)
        return wanted

    def clamp(self, k: int) -> int:
        """Return ``k``, or the number of rows if the table has fewer.

        Raises
        ------
        QueryError
            More than `MAX_K` rows would be returned.
        """
        if k <= 1000:  # never worth counting for
            return k
        k = min(k, max(1, self.n_rows))
        if k > MAX_K:
            raise QueryError(
                f"The search would return {k} rows, and returns {MAX_K} at most. Lower k; to read "
                "a whole table, scan it: table.to_lance().to_batches()."
            )
        return k

    # --- the legs --------------------------------------------------------------------------

    def require_text_columns(self, names: Sequence[str] | None) -> tuple[str, ...]:
        """Return the columns of the full-text leg: those named, or all indexed ones.

        Raises
        ------
        NoTextIndexError
            A named column has no full-text index, or no column has one.
        ColumnNotFoundError
            A named column does not exist.
        """
        if names is None:
            if not self.text_columns:
                raise NoTextIndexError(self.table, column=self._likely_text_column())
            return self.text_columns
        for name in names:
            if name not in self.text_columns:
                require_column(self.schema, name, table=self.table)
                raise NoTextIndexError(self.table, column=name)
        return tuple(names)

    def _likely_text_column(self) -> str:
        try:
            return text_column_of(self.schema, table=self.table)
        except ColumnNotFoundError:
            return "text"

    def text_hits(
        self,
        text: str,
        columns: Sequence[str],
        *,
        depth: int,
        where: str | None,
        prefilter: bool,
        boosts: Sequence[float] | None = None,
        match: TextMatch | None = None,
    ) -> pa.Table:
        """Return the best ``depth`` rows by BM25: ``_rowid`` and ``_score``, best first.

        By default the text is a bag of words joined by OR; nothing in it is query syntax.

        Raises
        ------
        NoPositionsError
            A phrase, and an index without positions.
        """
        if match is not None and match.words == "phrase":
            require_positions(columns, self.text_indexes, table=self.table)
        if where is None and self.masks_deleted:
            where, prefilter = "true", True
        queries = text_queries(
            text_terms(text), columns, indexes=self.text_indexes, boosts=boosts, match=match
        )
        found = [
            (
                self._hits(
                    "_score", where, prefilter, full_text_query=query, limit=depth, nearest=None
                ),
                weight,
            )
            for query, weight in queries
        ]
        return best_of(found, depth)

    def vector_hits(
        self,
        vector: npt.NDArray[np.float32],
        column: str,
        *,
        depth: int,
        where: str | None,
        prefilter: bool,
    ) -> pa.Table:
        """Return the nearest ``depth`` rows: ``_rowid`` and ``_distance``, nearest first.

        The distance is that of the column's index (Lance takes it from there, for rows that are
        not indexed yet too); without an index it is l2, LanceDB's default.
        """
        nearest = {"column": column, "q": vector, "k": depth, **self._probing}

        def hits(**bound: int) -> pa.Table:
            return self._hits(
                "_distance",
                where,
                prefilter,
                full_text_query=None,
                limit=None,
                nearest={**nearest, **bound},
            )

        if where is None:
            # That Lance may go on to further partitions costs more than to search the first ones
            # (9 ms, 4 without, at a million rows); without a filter these nearly always suffice.
            found = hits(maximum_nprobes=self._probing["minimum_nprobes"])
            if found.num_rows >= depth:
                return found
        found = hits()
        if not np.isfinite(found["_distance"].to_numpy()).all():
            # A filter that leaves no more than ``depth`` rows: Lance adds those of partitions it
            # did not search at infinite distance, in no order.
            found = hits(minimum_nprobes=_ALL_PARTITIONS)
        return found

    def matches(self, query: Any, columns: Sequence[str], *, where: str | None) -> pa.Table:
        """Return these columns and ``_rowid`` of all rows that a full-text query matches."""
        if where is None and self.masks_deleted:
            where = "true"
        return self._hits(
            list(columns), where, True, full_text_query=query, limit=None, nearest=None
        )

    def _hits(
        self,
        score: str | list[str],
        where: str | None,
        prefilter: bool,
        *,
        full_text_query: Any,
        limit: int | None,
        nearest: dict[str, Any] | None,
    ) -> pa.Table:
        with filter_told(self.ds, where):
            return self.ds.scanner(
                columns=[score] if isinstance(score, str) else score,
                filter=where,
                prefilter=prefilter,
                full_text_query=full_text_query,
                limit=limit,
                nearest=nearest,
                with_row_id=True,
                disable_scoring_autoprojection=True,
            ).to_table()

    # --- the rows --------------------------------------------------------------------------

    def take(self, row_ids: pa.Array, columns: Sequence[str]) -> pa.Table:
        """Return the columns of these rows, in the order of the ids.

        Raises
        ------
        DeletedRowsError
            Not all of the rows exist.
        """
        # By row id and at this version; the public `take` goes by position, and LanceDB's
        # take_row_ids by the newest version, where an id can mean another row.
        rows = self.ds._take_rows(row_ids, list(columns) or [ROW_ID])
        if rows.num_rows != len(row_ids):
            raise DeletedRowsError(f"{rows.num_rows} of {len(row_ids)} rows exist")
        # In this order: without columns, new metadata would make it a table of no rows.
        return rows.replace_schema_metadata(None).select(list(columns))
