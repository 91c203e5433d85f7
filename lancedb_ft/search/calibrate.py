"""Calibrate: sample how high rows stand by vector that stand at some place by full text."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import InputError
from lancedb_ft.search.calibration import Calibration
from lancedb_ft.search.filters import filter_told
from lancedb_ft.search.options import SearchOptions, count_of
from lancedb_ft.search.searcher import Searcher
from lancedb_ft.search.snapshot import ROW_ID
from lancedb_ft.search.tiers import filled_column, require_tiers
from lancedb_ft.table import dataset, require_table, text_column_of

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

    from lancedb_ft.search.tiers import Filled, Tiers

__all__ = ["calibrate"]

#: Places that a calibration tells apart; no search asks for more that a user reads.
_MAX_DEPTH = 10_000
#: Words of a sampled text that stand for a query, where there are no queries.
_QUERY_WORDS = 8
_WORD = re.compile(r"\w+")


def calibrate(
    table: Table,
    tiers: Tiers,
    queries: Iterable[str] | None = None,
    *,
    n: int = 200,
    depth: int = 50,
    seed: int = 0,
    text_column: str | None = None,
    embedder: Any = None,
) -> Calibration:
    """Measure on core rows what makes the scores of hot rows comparable with theirs.

    Use it as ``dataclasses.replace(tiers, calibration=calibrate(table, tiers, queries))``. It is
    right for one model and one kind of query, so measure again after a switch.

    Parameters
    ----------
    table
        The table; it needs a full-text index.
    tiers
        The policy; hot rows are left out.
    queries
        Queries as users write them. Without, pieces of 8 words of sampled core texts.
    n
        How many queries at most.
    depth
        How many rows of each leg are looked at; at least as many as searches ask for.
    seed
        Of the sample.
    text_column
        The column to take pieces of, by default what the vectors are made from.
    embedder
        What embeds the queries; see `Searcher`.

    Raises
    ------
    InputError
        An argument cannot be used, or there are no queries, and no core row to make one of.
    """
    require_table(table)
    require_tiers(tiers)
    n, depth = count_of(n, "n"), count_of(depth, "depth", most=_MAX_DEPTH)
    rng = np.random.default_rng(count_of(seed, "seed", least=0))
    source = "queries" if queries is not None else "pieces of core texts"
    if queries is None:
        asked = _pieces(table, tiers, n, rng, text_column)
    else:
        asked = _listed(queries)
        rng.shuffle(asked)
    if not asked:
        raise InputError(
            f"Nothing to calibrate with: no queries, and no core text in table {table.name!r}."
        )
    filled = filled_column(dataset(table).schema, table=table.name)
    with Searcher(table, embedder=embedder) as searcher:
        ranks = np.stack([_ranks(searcher, tiers, query, depth, filled) for query in asked[:n]])
    return Calibration(
        ranks, {"table": table.name, "source": source, "depth": depth, "at": int(time.time())}
    )


def _listed(queries: Iterable[str]) -> list[str]:
    listed = (
        None
        if isinstance(queries, (str, bytes)) or not isinstance(queries, Iterable)
        else list(queries)
    )
    if listed is None or not all(isinstance(query, str) and query.strip() for query in listed):
        raise InputError(f"queries is {queries!r:.80}; it must be a list of texts, none blank.")
    return listed


def _ranks(
    searcher: Searcher, tiers: Tiers, query: str, depth: int, filled: Filled | None
) -> npt.NDArray[np.int32]:
    """Return the rank by vector of each row that full text finds."""
    columns = [ROW_ID, filled.name] if filled else [ROW_ID]
    options = SearchOptions(tiers=tiers)
    by_text = searcher.search(query, mode="fts", k=depth, select=columns, options=options)
    by_vector = searcher.search(query, mode="vector", k=depth, select=[ROW_ID])
    place = {row_id: rank for rank, row_id in enumerate(by_vector[ROW_ID].to_pylist(), 1)}
    ranks = np.full(depth, -1, np.int32)
    waits = by_text[columns[-1]].is_null().to_pylist()
    rows = zip(by_text[ROW_ID].to_pylist(), by_text["_tier"].to_pylist(), waits, strict=True)
    for position, (row_id, tier, is_waiting) in enumerate(rows):
        if tier == "core" and not is_waiting:
            ranks[position] = place.get(row_id, 0)
    return ranks


def _pieces(
    table: Table, tiers: Tiers, n: int, rng: np.random.Generator, text_column: str | None
) -> list[str]:
    ds = dataset(table)
    column = text_column_of(ds.schema, text_column, table=table.name)
    with filter_told(ds, tiers.predicate):
        texts = _sampled(ds, column, tiers.quiet(ds, table=table.name), n, rng)
    pieces = []
    for text in texts:
        words = _WORD.findall(text or "")
        if words:
            start = int(rng.integers(max(1, len(words) - _QUERY_WORDS + 1)))
            pieces.append(" ".join(words[start : start + _QUERY_WORDS]))
    return pieces


def _sampled(
    ds: lance.LanceDataset, column: str, where: str, n: int, rng: np.random.Generator
) -> list[str | None]:
    ids = ds.scanner(columns=[column], filter=where, with_row_id=True).to_table()[ROW_ID]
    chosen = rng.permutation(len(ids))[:n]
    rows = ds._take_rows(ids.combine_chunks().take(pa.array(chosen)), [column])
    texts: list[str | None] = rows[column].to_pylist()
    return texts
