"""The order in which a search found its rows: what a reranker starts from, and falls back to."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

__all__ = ["merged_legs", "search_scores"]

_ROW = "_rowid"
#: Of reciprocal rank fusion (Cormack, Clarke and Buettcher, SIGIR 2009), as in LanceDB.
_RRF_K = 60


def search_scores(n_rows: int) -> npt.NDArray[np.float32]:
    """Return the scores of reciprocal rank fusion for the rows of one search, best first."""
    return (1 / (_RRF_K + 1 + np.arange(n_rows))).astype(np.float32)


def merged_legs(
    vector_rows: pa.Table, text_rows: pa.Table
) -> tuple[pa.Table, npt.NDArray[np.float32]]:
    """Put two legs together: each row once, by reciprocal rank fusion, and the fused scores."""
    both = pa.concat_tables([vector_rows, text_rows], promote_options="default")
    legs = [leg for leg in (vector_rows, text_rows) if leg.num_rows]
    if not legs:
        return both, search_scores(0)
    shares: dict[int, float] = {}
    for leg in legs:
        for rank, row_id in enumerate(leg[_ROW].to_pylist(), 1):
            shares[row_id] = shares.get(row_id, 0.0) + 1 / (_RRF_K + rank)
    ids = both[_ROW].to_pylist()
    first = {row_id: place for place, row_id in reversed(list(enumerate(ids)))}
    order = sorted(first, key=lambda row_id: (-shares[row_id], row_id))  # as without a reranker
    merged = both.take(pa.array([first[row_id] for row_id in order], pa.int64()))
    # A row of both legs stands there as the vector search gave it; its text score is in the other.
    if "_score" in text_rows.column_names and text_rows.num_rows:
        places = pc.index_in(merged[_ROW], value_set=text_rows[_ROW].combine_chunks())
        at = merged.column_names.index("_score")
        merged = merged.set_column(at, "_score", text_rows["_score"].take(places))
    return merged, np.array([shares[row_id] for row_id in order], np.float32)
