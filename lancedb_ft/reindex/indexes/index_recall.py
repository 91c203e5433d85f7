"""How much of what exact search finds a vector index finds: measured, not assumed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.evaluate import bootstrap_means
from lancedb_ft.reindex.indexes.vector_index import describe_index
from lancedb_ft.table import STREAMED, dataset
from lancedb_ft.types import Estimate

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = ["IndexRecall", "index_recall", "recall_note", "row_recall"]

_Floats: TypeAlias = npt.NDArray[np.float32]
_Ints: TypeAlias = npt.NDArray[np.int64]

#: Queries of a measurement: the interval of a recall of 0.9 is then about 0.02 wide each way.
N_QUERIES = 200
#: As deep as a page of results.
K = 10

#: So long an index is asked, and `K` queries in any case: a table that nobody compacts is slow.
_MAX_SECONDS = 10.0

#: A loss of recall that is worth a warning where it is also beyond chance.
_WELL_BELOW = 0.02

# Distances are compared with some room for the rounding of float32 sums of many terms.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class IndexRecall:
    """Recall@10 of an index against exact search: rows of the table as queries, or test queries.

    ``rows`` asks with the vectors of sampled rows (each row itself does not count), ``queries``
    with those of the gate's test queries; None: not measured.
    """

    column: str
    rows: Estimate | None = None
    queries: Estimate | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the means with their intervals and n."""
        told = {"rows": self.rows, "queries": self.queries}
        figures = {k: {**v.to_dict(), "n": v.n} for k, v in told.items() if v is not None}
        return {"column": self.column, "k": K, **figures}


def row_recall(
    table: Table, column: str, *, n: int = N_QUERIES, seed: int = 0
) -> IndexRecall | None:
    """Ask an index for the neighbours of sampled rows; None where there is no (trained) index.

    The vectors of the column are read once, whatever ``n`` is.
    """
    if not _has_index(table, column):
        return None
    ds = _opened_at(table)
    rng = np.random.default_rng(seed)
    n_rows = ds.count_rows()
    # Not in order: where the time is over, those that were asked are a sample still.
    places = rng.choice(n_rows, size=min(n, n_rows), replace=False)
    found = ds.take(places.tolist(), columns=["_rowid", column])
    keep = found[column].is_valid()
    vectors = _matrix(found[column].filter(keep))
    own = found["_rowid"].filter(keep).to_numpy().astype(np.int64)
    return IndexRecall(column, rows=_recall(table, ds, column, vectors, own))


def index_recall(table: Table, column: str, queries: _Floats) -> Estimate | None:
    """Ask an index these queries; None where there is no (trained) index.

    Parameters
    ----------
    table
        At the version that is to be measured.
    column
        The vector column, shown or parked.
    queries
        Shape (n, dims); the first `N_QUERIES` are asked.
    """
    if not len(queries) or not _has_index(table, column):
        return None
    asked = np.asarray(queries[:N_QUERIES], np.float32)
    return _recall(table, _opened_at(table), column, asked, np.full(len(asked), -1))


def recall_note(old: Estimate | None, new: Estimate | None) -> str | None:
    """Warn where the new index finds clearly less than the old one; None where it does not."""
    if old is None or new is None:
        return None
    if new.mean >= old.mean - _WELL_BELOW or new.ci95[1] >= old.ci95[0]:
        return None
    return (
        f"The new index finds less of what exact search finds: recall@{K} is {new} (n = {new.n}), "
        f"that of the old index {old} (n = {old.n}). Ask for more partitions (nprobes) or refine "
        "(refine_factor), or build it anew with other settings before the switch."
    )


def _has_index(table: Table, column: str) -> bool:
    index = describe_index(table, column)
    return index is not None and "num_partitions" in index


def _opened_at(table: Table) -> lance.LanceDataset:
    return dataset(table).checkout_version(table.version)


def _recall(
    table: Table, ds: lance.LanceDataset, column: str, queries: _Floats, own: _Ints
) -> Estimate | None:
    index = describe_index(table, column)
    if index is None or not len(queries):
        return None
    distances = _DISTANCES[index["distance_type"]]
    nearest = _least_distances(ds, column, queries, own, distances)
    values = np.ones(len(queries))
    until_s = time.monotonic() + _MAX_SECONDS
    for i, query in enumerate(queries):
        if time.monotonic() > until_s and i >= K:
            values = values[:i]  # their number is told beside the figure
            break
        exact = nearest[i][np.isfinite(nearest[i])]  # fewer than K where the table is that small
        if len(exact):
            found = distances(query[None], _answered(table, column, query, int(own[i])))[0]
            # By distance, not by row: of rows with equal vectors any will do.
            room = _TOLERANCE * (1.0 + float(query @ query))
            values[i] = min(1.0, (found <= exact.max() + room).sum() / len(exact))
    return _estimate(values)


def _answered(table: Table, column: str, query: _Floats, own: int) -> _Floats:
    """Return the vectors that the index gives for a query, without the row of the query itself."""
    search = table.search(query, vector_column_name=column, query_type="vector")
    wanted = K if own < 0 else K + 1
    hits = search.select([column, "_distance"]).with_row_id(True).limit(wanted).to_arrow()
    others = hits.filter(pa.array(hits["_rowid"].to_numpy() != own)).slice(0, K)
    return _matrix(others[column])


def _least_distances(
    ds: lance.LanceDataset, column: str, queries: _Floats, own: _Ints, distances: Any
) -> _Floats:
    """Return the ``K`` least exact distances of each query, shape (n, K), in one scan."""
    best = np.full((len(queries), K), np.inf, np.float32)
    for row_ids, vectors in _batches(ds, column):
        found = distances(queries, vectors)
        order = np.argsort(row_ids)
        at = np.minimum(np.searchsorted(row_ids, own, sorter=order), len(row_ids) - 1)
        mine = np.flatnonzero(row_ids[order[at]] == own)
        found[mine, order[at[mine]]] = np.inf
        both = np.concatenate([best, found], axis=1)
        best = np.partition(both, K - 1, axis=1)[:, :K]
    return best


def _batches(ds: lance.LanceDataset, column: str) -> Iterator[tuple[_Ints, _Floats]]:
    scanner = ds.scanner(
        columns=[column],
        filter=f"`{column}` is not null",
        with_row_id=True,
        batch_size=8192,
        **STREAMED,
    )
    for batch in scanner.to_batches():
        if batch.num_rows:
            yield batch["_rowid"].to_numpy().astype(np.int64), _matrix(batch[column])


def _matrix(column: pa.ChunkedArray | pa.Array) -> _Floats:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks)
    array = getattr(array, "storage", array)
    flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return np.asarray(flat.reshape(len(array), array.type.list_size))


def _l2(queries: _Floats, vectors: _Floats) -> _Floats:
    squares = (vectors * vectors).sum(axis=1)[None] + (queries * queries).sum(axis=1)[:, None]
    return np.asarray(squares - 2.0 * (queries @ vectors.T), np.float32)


def _dot(queries: _Floats, vectors: _Floats) -> _Floats:
    return np.asarray(1.0 - queries @ vectors.T, np.float32)


def _cosine(queries: _Floats, vectors: _Floats) -> _Floats:
    norms = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(vectors, axis=1)[None]
    return np.asarray(1.0 - queries @ vectors.T / np.maximum(norms, 1e-12), np.float32)


_DISTANCES = {"l2": _l2, "dot": _dot, "cosine": _cosine}


def _estimate(values: npt.NDArray[np.float64]) -> Estimate:
    mean = float(values.mean())
    if len(values) < 2:
        return Estimate(mean, (0.0, 1.0), len(values))
    low, high = np.quantile(bootstrap_means(values[None]), [0.025, 0.975])
    return Estimate(mean, (float(low), float(high)), len(values))
