"""Churn: real edits of the tldr pages replayed on a table that is searched meanwhile.

    python benchmarks/churn.py --seconds 450 --rate 2

Three ways to live with it, each in a process of its own, on a copy of the same table:

``everything``  plain LanceDB: every edit embedded at once, ``optimize()`` every minute
``never``       plain LanceDB: every edit embedded at once, never optimized
``ours``        ``ft.write`` deferred, a `Searcher` that maintains, settling in the background

The pages that are alive before the last edits are the table; the edits are then made at a fixed
rate. Queries are the present descriptions of pages, half of them of pages edited during the replay
(fresh), half of others (stable). A stale answer is a text older than what was acknowledged before
the query was asked. Times of rows are those of the replay, so ``--settle`` is in its seconds.
A table that ends right has embedded what no later edit replaces: ``edits_no_later_one_replaces``.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import aim, percentile, progress, report
from _sets import base_model, in_subprocess, mean_interval, require_set
from lancedb.index import FTS

import lancedb_ft as ft

SYSTEMS = ("everything", "never", "ours")
STABLE = {"new_table_enable_stable_row_ids": "true"}


def description(text: str) -> str:
    """Return what a page says it is about: its first quoted line."""
    lines = [line[1:].strip() for line in text.splitlines() if line.startswith(">")]
    return next((line for line in lines if line and not line.startswith("More info")), "")


def now() -> datetime:
    return datetime.now(timezone.utc).replace(tzinfo=None)


def events_of(
    max_pages: int | None, n_replayed: int
) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """Return the pages before the replay, and the events of the replay."""
    rows = pq.read_table(require_set("tldr_history") / "events.parquet").to_pylist()
    rows.sort(key=lambda row: row["seq"])
    if max_pages is not None:
        ids = sorted({row["id"] for row in rows})
        kept = set(random.Random(0).sample(ids, min(max_pages, len(ids))))
        rows = [row for row in rows if row["id"] in kept]
    cut = max(0, len(rows) - n_replayed)
    pages: dict[str, str] = {}
    for row in rows[:cut]:
        if row["op"] == "delete":
            pages.pop(row["id"], None)
        else:
            pages[row["id"]] = row["text"]
    return pages, rows[cut:]


def prepare(home: Path, pages: dict[str, str], model: str) -> None:
    """Make two tables of the same rows and vectors: ours, and a plain one with the same model."""
    store = ft.ModelStore(home / "store")
    ref = store.save(model, name="churn", manifest={}).ref
    old = now() - timedelta(days=30)
    rows = pa.Table.from_pylist(
        [{"id": name, "text": text, "n": 0, "updated_at": old} for name, text in pages.items()]
    )
    db = lancedb.connect(str(home / "ours"))
    table = db.create_table("docs", rows, storage_options=STABLE)
    ft.reindex(table, ref, force=True, store=store.uri)
    table = db.open_table("docs")
    table.create_index("text", config=FTS())
    made = lance.dataset(table.uri).to_table()
    column = next(
        name for name in made.column_names if name.startswith("vector") and "hash" not in name
    )
    vectors = made[column].combine_chunks()
    vectors = getattr(vectors, "storage", vectors)
    plain = made.select(["id", "text", "n", "updated_at"]).append_column("vector", vectors)
    from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

    function = get_registry().get("ft-embed").create(name=ref, store=store.uri)
    other = lancedb.connect(str(home / "plain")).create_table(
        "docs",
        schema=plain.schema.remove_metadata(),
        embedding_functions=[
            EmbeddingFunctionConfig(vector_column="vector", source_column="text", function=function)
        ],
    )
    other.add(plain.replace_schema_metadata(None))
    other.create_index("text", config=FTS())


class Plain:
    """LanceDB by itself."""

    def __init__(self, uri: str, store: str, optimize_every_s: float | None) -> None:
        self.table = lancedb.connect(uri).open_table("docs")
        self.reading = lancedb.connect(uri, read_consistency_interval=timedelta(0)).open_table(
            "docs"
        )
        self.every_s, self.optimized_s = optimize_every_s, time.monotonic()
        self.n_encoded = self.n_lost = 0

    def put(self, row: dict[str, Any]) -> None:
        rows = [{**row}]
        self.table.merge_insert(
            "id"
        ).when_matched_update_all().when_not_matched_insert_all().execute(rows)
        self.n_encoded += 1

    def drop(self, name: str) -> None:
        self.table.delete("id = '" + name.replace("'", "''") + "'")

    def search(self, query: str) -> list[dict[str, Any]]:
        found = (
            self.reading.search(query, query_type="hybrid").limit(10).select(["id", "n", "text"])
        )
        return found.to_list()

    def background(self) -> None:
        if self.every_s is None or time.monotonic() - self.optimized_s < self.every_s:
            return
        self.optimized_s = time.monotonic()
        try:
            self.reading.optimize()
        except RuntimeError:  # lost against a write; what its users see too
            self.n_lost += 1

    def close(self) -> None:
        pass

    def waiting(self) -> int:
        return 0


class Ours:
    """Deferred writes, settling, and a Searcher that maintains the table."""

    def __init__(self, uri: str, store: str, settle_s: float) -> None:
        self.table, self.store = lancedb.connect(uri).open_table("docs"), store
        self.tiers = ft.Tiers(updated_at="updated_at", settle=settle_s)
        options = ft.Maintenance(every_s=1.0, quiet_s=30.0)
        self.searcher = ft.Searcher(self.table, maintenance=options)
        self.options = ft.SearchOptions(tiers=self.tiers)
        self.settled_s = time.monotonic()
        self.n_encoded = self.n_lost = 0

    def put(self, row: dict[str, Any]) -> None:
        ft.write(self.table, [row])

    def drop(self, name: str) -> None:
        ft.write(self.table, [], delete=[name])

    def search(self, query: str) -> list[dict[str, Any]]:
        names = ["id", "n", "text"]
        return self.searcher.search(query, k=10, select=names, options=self.options).to_pylist()

    def background(self) -> None:
        if time.monotonic() - self.settled_s < min(10.0, self.tiers.settle_s / 2):
            return
        self.settled_s = time.monotonic()
        self.n_encoded += ft.settle(self.table, self.tiers, store=self.store).n_encoded

    def close(self) -> None:
        self.searcher.close()

    def waiting(self) -> int:
        return ft.index_status(self.table, tiers=self.tiers, measure=False).n_waiting or 0


class Replay:
    """The edits, the queries beside them, and what was seen."""

    def __init__(
        self, system: Any, pages: dict[str, str], events: list[dict[str, Any]], rate: float
    ) -> None:
        self.system, self.pages, self.events, self.rate = system, dict(pages), events, rate
        self.numbers = dict.fromkeys(pages, 0)
        self.lock, self.done = threading.Lock(), threading.Event()
        self.fresh: list[str] = []
        self.latencies: list[float] = []
        self.late: list[float] = []
        self.found_s: list[float] = []
        self.stale: list[Any] = []
        self.errors: list[str] = []
        edited = {event["id"] for event in events}
        self.stable = [name for name in pages if name not in edited]

    def run(self) -> None:
        others = [threading.Thread(target=self._guard, args=(f,)) for f in (self._ask, self._tend)]
        for thread in others:
            thread.start()
        self._guard(self._edit)
        self.done.set()
        for thread in others:
            thread.join()

    def _guard(self, actor: Any) -> None:
        try:
            actor()
        except Exception as error:
            self.errors.append(f"{actor.__name__}: {error!r}"[:500])

    def _tend(self) -> None:
        while not self.done.wait(0.2):
            self.system.background()

    def _edit(self) -> None:
        began = time.monotonic()
        for position, event in enumerate(self.events):
            due = began + position / self.rate
            time.sleep(max(0.0, due - time.monotonic()))
            self.late.append(time.monotonic() - due)
            self._apply(event, position + 1)

    def _apply(self, event: dict[str, Any], n: int) -> None:
        name, text = event["id"], event["text"]
        started = time.perf_counter()
        if event["op"] == "delete":
            self.system.drop(name)
            with self.lock:
                self.numbers[name] = -1
                self.pages.pop(name, None)
            return
        self.system.put({"id": name, "text": text, "n": n, "updated_at": now()})
        with self.lock:
            self.numbers[name], self.pages[name] = n, text
            self.fresh.append(name)
        if n % 10 == 0 and description(text):
            self._until_found(name, n, f"{name.split('/')[-1]} {description(text)}", started)

    def _until_found(self, name: str, n: int, query: str, started: float) -> None:
        for _ in range(20):
            if any((row["id"], row["n"]) == (name, n) for row in self.system.search(query)):
                self.found_s.append(time.perf_counter() - started)
                return
        self.found_s.append(float("inf"))

    def _ask(self) -> None:
        rng = random.Random(1)
        while not self.done.is_set():
            with self.lock:
                known = dict(self.numbers)
                group = self.fresh[-200:] if self.fresh and rng.random() < 0.5 else self.stable
                name = rng.choice(group) if group else None
                query = description(self.pages.get(name, "")) if name else ""
            if not query:
                continue
            started = time.perf_counter()
            rows = self.system.search(query)
            self.latencies.append(time.perf_counter() - started)
            for row in rows:
                last = known.get(row["id"], 0)
                if row["n"] < last or (last < 0 and row["n"] <= 0):
                    self.stale.append((row["id"], row["n"], last))
            time.sleep(0.02)

    def quality(self, names: list[str], n: int) -> dict[str, float]:
        """Return nDCG@10 of queries by description, one right page each, by that page."""
        asked = [name for name in dict.fromkeys(names) if description(self.pages.get(name, ""))]
        random.Random(2).shuffle(asked)
        gains = {}
        for name in asked[:n]:
            ids = [row["id"] for row in self.system.search(description(self.pages[name]))]
            gains[name] = float(1 / np.log2(ids.index(name) + 2)) if name in ids else 0.0
        return gains


def replay(name: str, home: str, given: argparse.Namespace) -> None:
    """Run one system; print one JSON line."""
    pages, events = events_of(given.max_pages, int(given.seconds * given.rate))
    kind = "ours" if name == "ours" else "plain"
    folder = Path(home) / f"run-{name}"
    shutil.copytree(Path(home) / kind, folder)
    store = str(Path(home) / "store")
    ways = {
        "everything": lambda: Plain(str(folder), store, given.optimize_every),
        "never": lambda: Plain(str(folder), store, None),
        "ours": lambda: Ours(str(folder), store, given.settle),
    }
    system = ways[name]()
    system.search("list files")  # the model is loaded, the indexes are read
    run = Replay(system, pages, events, given.rate)
    before, began = time.process_time(), time.monotonic()
    run.run()
    cpu_s, took_s = time.process_time() - before, time.monotonic() - began
    indexes = ft.index_status(system.table, measure=False).indexes
    n_rows = max(1, len(run.pages))
    groups = {"fresh": run.fresh[::-1][: given.queries * 3], "stable": run.stable}
    gains = {group: run.quality(names, given.queries) for group, names in groups.items()}
    half = run.latencies[len(run.latencies) // 2 :] or [float("nan")]
    found = {
        "events": len(events),
        "n_rows": n_rows,
        "seconds": round(took_s, 1),
        "gains": gains,
        "freshness_s_p50": percentile(run.found_s, 50) if run.found_s else None,
        "freshness_s_max": max(run.found_s, default=None),
        "n_stale": len(run.stale),
        "stale": run.stale[:5],
        "n_queries": len(run.latencies),
        "p50_ms": 1e3 * percentile(half, 50),
        "p99_ms": 1e3 * percentile(half, 99),
        "rows_embedded": system.n_encoded,
        "rows_waiting": system.waiting(),
        "lost_optimizes": system.n_lost,
        "cpu_s": round(cpu_s, 1),
        "late_s_max": round(max(run.late, default=0.0), 2),
        "unindexed_share": {i.name: round(i.n_unindexed / n_rows, 4) for i in indexes},
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
        "errors": run.errors,
    }
    system.close()
    print(json.dumps(found))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the replay")
    parser.add_argument("--rate", type=float, default=2.0, help="edits a second")
    parser.add_argument("--max-pages", type=int, help="so many pages only")
    parser.add_argument("--settle", type=float, default=120.0, help="quiet seconds until embedded")
    parser.add_argument("--optimize-every", type=float, default=60.0)
    parser.add_argument("--queries", type=int, default=300, help="queries of each group at the end")
    parser.add_argument("--model", help="a model folder [default: all-MiniLM-L6-v2]")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        replay(*given.run, given)
        return
    with tempfile.TemporaryDirectory() as home:
        pages, events = events_of(given.max_pages, int(given.seconds * given.rate))
        progress(f"{len(pages)} pages, {len(events)} edits")
        prepare(Path(home), pages, given.model or base_model())
        passed = [word for word in sys.argv[1:]]
        found = {}
        for name in SYSTEMS:
            progress(name)
            found[name] = in_subprocess(__file__, *passed, "--run", name, home)
    written = [event["id"] for event in events if event["op"] != "delete"]
    last = round(len(set(written)) / max(1, len(written)), 4)
    gains = {name: found[name].pop("gains") for name in SYSTEMS}
    gaps = {
        group: mean_interval(
            np.array([gains["ours"][group][page] - gain for page, gain in all_of.items()])
        )
        for group, all_of in gains["everything"].items()
    }
    for name in SYSTEMS:
        found[name]["ndcg@10"] = {
            group: round(float(np.mean(list(all_of.values()))), 4)
            for group, all_of in gains[name].items()
        }
    aims = aims_of(found, gaps)
    report("churn", aims, gaps=gaps, edits_no_later_one_replaces=last, **found, options=vars(given))


def aims_of(found: dict[str, Any], gaps: dict[str, Any]) -> list[dict[str, Any]]:
    a, b, ours = (found[name] for name in SYSTEMS)
    work = ours["rows_embedded"] / max(1, a["rows_embedded"])
    owed = (ours["rows_embedded"] + ours["rows_waiting"]) / max(1, a["rows_embedded"])
    return [
        aim("nDCG@10 on fresh pages, ours - everything", gaps["fresh"]["mean"], ">=", -0.005),
        aim("nDCG@10 on stable pages, ours - everything", gaps["stable"]["mean"], ">=", -0.005),
        aim("rows embedded, ours / everything", work, "<=", 0.35),
        aim("the same with the rows that still wait", owed, "<=", None),
        aim("p99 of queries, ours / never", ours["p99_ms"] / b["p99_ms"], "<=", 0.5),
        aim("rows out of an index, never", max(b["unindexed_share"].values()), ">=", 0.1),
        aim("seconds until an edit is found, at worst", ours["freshness_s_max"], "<=", 1.0),
        aim("stale answers", ours["n_stale"], "<=", 0),
        aim("errors", len(ours["errors"]), "<=", 0),
    ]


if __name__ == "__main__":
    main()
