"""How much of a table its indexes do not have yet, and what that costs each query."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.search.filters import filter_told
from lancedb_ft.search.tiers import Tiers, filled_column, require_tiers
from lancedb_ft.table import dataset, require_table

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = ["IndexStatus", "TableStatus", "index_status", "index_statuses"]

#: Rows of the table that are asked for, to measure what unindexed rows cost.
_N_QUERIES = 8
_QUERY_WORDS = 8


@dataclass(frozen=True)
class IndexStatus:
    """One index.

    Parameters
    ----------
    name, column, kind
        Which it is; ``kind`` is Lance's name of the type, such as ``Inverted`` or ``IVF_PQ``.
    n_indexed, n_unindexed
        Rows in it, and rows that each query compares one by one.
    n_parts
        How many parts it has; each query looks into all of them.
    cost_ms
        What the unindexed rows add to a query, the median over queries made of the table's own
        rows. None where that was not measured, or is not known for the type.
    """

    name: str
    column: str
    kind: str
    n_indexed: int
    n_unindexed: int
    n_parts: int
    cost_ms: float | None = None

    @property
    def is_of_vectors(self) -> bool:
        """Whether it is an index of vectors."""
        return self.kind.startswith("IVF")


@dataclass(frozen=True)
class TableStatus:
    """The indexes of a table, and its tiers where a policy was named.

    ``n_hot`` rows are hot, and ``n_waiting`` of them have no vector of their present text.
    """

    table: str
    version: int
    n_rows: int
    n_fragments: int
    indexes: tuple[IndexStatus, ...]
    n_hot: int | None = None
    n_waiting: int | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self)


def index_status(table: Table, *, tiers: Tiers | None = None, measure: bool = True) -> TableStatus:
    """Say how many rows are not in each index, and what they cost a query.

    Parameters
    ----------
    table
        The table.
    tiers
        A policy (`Tiers`), to count hot rows and those that wait for a vector.
    measure
        Time queries with and without the unindexed rows, a few for each index that has some.

    Raises
    ------
    InputError
        There is no such table, or the policy does not fit it.
    """
    require_table(table)
    if tiers is not None:
        require_tiers(tiers)
    ds = dataset(table)
    indexes = index_statuses(ds)
    if measure:
        indexes = [_with_cost(ds, index) for index in indexes]
    status = TableStatus(
        table=table.name,
        version=int(ds.version),
        n_rows=int(ds.count_rows()),
        n_fragments=len(ds.get_fragments()),
        indexes=tuple(indexes),
    )
    if tiers is None:
        return status
    hot = tiers.hot(ds, table=table.name)
    filled = filled_column(ds.schema, table=table.name)
    waiting = f"({hot}) AND `{filled.name}` IS NULL" if filled else hot
    with filter_told(ds, tiers.predicate):
        counts = {"n_hot": int(ds.count_rows(hot)), "n_waiting": int(ds.count_rows(waiting))}
    return TableStatus(**{**status.__dict__, **counts})


def index_statuses(ds: lance.LanceDataset) -> list[IndexStatus]:
    """Return the state of each index of a version, costs left out; no row is read."""
    found = []
    for index in ds.describe_indices():
        if len(index.field_names) != 1:
            continue  # Lance's own, of no column
        figures = ds.stats.index_stats(index.name)
        found.append(
            IndexStatus(
                name=index.name,
                column=index.field_names[0],
                kind=str(index.index_type),
                n_indexed=int(figures.get("num_indexed_rows", 0)),
                n_unindexed=int(figures.get("num_unindexed_rows", 0)),
                n_parts=len(index.segments),
            )
        )
    return found


def _with_cost(ds: lance.LanceDataset, index: IndexStatus) -> IndexStatus:
    makers: dict[str, Callable[..., list[dict[str, Any]]]] = {"Inverted": _text_queries}
    make = makers.get(index.kind, _vector_queries if index.is_of_vectors else None)
    if make is None:
        return index
    if not index.n_unindexed:
        return IndexStatus(**{**index.__dict__, "cost_ms": 0.0})
    queries = make(ds, index.column)
    whole, fast = [], []
    for query in [queries[0], *queries] if queries else []:  # the first one warms up
        # In turns, so that what else runs on the machine slows both down.
        whole.append(_seconds(ds, query, fast=False))
        fast.append(_seconds(ds, query, fast=True))
    if not queries:
        return index
    cost = 1000 * max(0.0, median(whole[1:]) - median(fast[1:]))
    return IndexStatus(**{**index.__dict__, "cost_ms": round(cost, 3)})


def _seconds(ds: lance.LanceDataset, query: dict[str, Any], *, fast: bool) -> float:
    started = time.perf_counter()
    ds.scanner(
        with_row_id=True, disable_scoring_autoprojection=True, fast_search=fast, **query
    ).to_table()
    return time.perf_counter() - started


def _rows(ds: lance.LanceDataset, column: str) -> list[Any]:
    n_rows = ds.count_rows()
    places = np.random.default_rng(0).permutation(n_rows)[:_N_QUERIES]
    rows = ds.take(places.tolist(), columns=[column])
    return [value for value in rows[column].to_pylist() if value is not None]


def _text_queries(ds: lance.LanceDataset, column: str) -> list[dict[str, Any]]:
    from lance.query import MatchQuery

    queries = []
    for text in _rows(ds, column):
        words = re.findall(r"\w+", text)[:_QUERY_WORDS]
        if words:
            query = MatchQuery(" ".join(words), column)
            queries.append({"columns": ["_score"], "full_text_query": query, "limit": 10})
    return queries


def _vector_queries(ds: lance.LanceDataset, column: str) -> list[dict[str, Any]]:
    return [
        {
            "columns": ["_distance"],
            "nearest": {"column": column, "q": np.asarray(vector, np.float32), "k": 10},
        }
        for vector in _rows(ds, column)
    ]
