"""Soak: two writers, maintenance, settling and readers on one table, for minutes.

    python benchmarks/soak.py --seconds 600

Every reader checks what it gets against what was acknowledged before it asked: a text older than
that is a stale answer. Memory is looked at all the time; it is flat if the second half of the run
does not grow by more than the caches of the first.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from _common import aim, percentile, report
from _sets import base_model
from lancedb.index import FTS

import lancedb_ft as ft

WORDS = [f"{a}{b}" for a in ("order", "cancel", "invoice", "parcel", "refund") for b in range(40)]


class Ledger:
    """What was acknowledged: the number of each row's last write, -1 for a deletion."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._lock = threading.Lock()

    def acknowledge(self, numbers: dict[str, int]) -> None:
        with self._lock:
            self._numbers.update(numbers)

    def copy(self) -> dict[str, int]:
        with self._lock:
            return dict(self._numbers)


#: Writes and queries of the shortest run that says anything, and how long it waits for them.
FEW, PATIENCE_S = 5, 120.0


class Soak:
    """The actors; each runs in a thread of its own until the event is set."""

    def __init__(self, uri: str, store: str, seconds: float) -> None:
        self.uri, self.store = uri, store
        self.seconds = seconds
        self.until = float("inf")
        self.ledger = Ledger()
        self.errors: list[str] = []
        self.stale: list[Any] = []
        self.latencies: list[float] = []
        self.counts = {"writes": 0, "queries": 0, "settled": 0}
        self.tiers = ft.Tiers(updated_at="updated_at", settle=2.0)

    def begin(self) -> None:
        self.until = time.monotonic() + self.seconds

    def running(self) -> bool:
        """Say whether to go on: for that long, and on a busy machine until something was done."""
        late_s = time.monotonic() - self.until
        few = min(self.counts["writes"], self.counts["queries"]) < FEW
        return late_s < 0 or (few and not self.errors and late_s < PATIENCE_S)

    def open(self) -> Any:
        return lancedb.connect(self.uri).open_table("docs")

    def guarded(self, actor: Any, *arguments: Any) -> threading.Thread:
        def run() -> None:
            try:
                actor(*arguments)
            except Exception as error:
                self.errors.append(f"{actor.__name__}: {type(error).__name__}: {error}"[:500])

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def write(self, number: int, n_rows: int) -> None:
        """Write rows of its own share of the ids; now and then delete, embed at once, add."""
        rng, table, n = random.Random(number), self.open(), 0
        mine = [f"d{i}" for i in range(n_rows) if i % 2 == number]
        gone: set[str] = set()
        while self.running():
            n += 1
            ids = rng.sample(mine, 5)
            deleted = [ids.pop()] if n % 7 == 0 else []
            rows = [row_of(name, n, rng) for name in ids]
            embed = "now" if n % 10 == 0 else "defer"
            ft.write(table, rows, embed=embed, delete=deleted, store=self.store)
            gone = (gone | set(deleted)) - set(ids)
            self.ledger.acknowledge(dict.fromkeys(ids, n) | dict.fromkeys(deleted, -1))
            self.counts["writes"] += 1
            time.sleep(0.05)

    def read(self, number: int, searcher: ft.Searcher, n_rows: int) -> None:
        """Ask, and hold what comes back against what was acknowledged before."""
        rng = random.Random(100 + number)
        options = ft.SearchOptions(tiers=self.tiers)
        while self.running():
            known = self.ledger.copy()
            name = f"d{rng.randrange(n_rows)}"
            query = f"{name} {rng.choice(WORDS)} {rng.choice(WORDS)}"
            started = time.perf_counter()
            found = searcher.search(query, k=10, options=options, select=["id", "n", "text"])
            self.latencies.append(time.perf_counter() - started)
            self.counts["queries"] += 1
            rows = found.to_pylist()
            ids = [row["id"] for row in rows]
            if len(ids) != len(set(ids)) or len(ids) < 10:
                self.errors.append(f"{len(ids)} rows, {len(set(ids))} ids for {query!r}")
            for row in rows:
                last = known.get(row["id"], 0)
                old = row["n"] < last if last >= 0 else row["n"] <= 0
                if old or f"edit{row['n']}" not in row["text"]:
                    self.stale.append((row["id"], row["n"], last))
            time.sleep(0.01)

    def settle(self) -> None:
        table = self.open()
        while self.running():
            self.counts["settled"] += ft.settle(table, self.tiers, store=self.store).n_settled
            time.sleep(0.5)


def row_of(name: str, n: int, rng: random.Random) -> dict[str, Any]:
    words = " ".join(rng.choice(WORDS) for _ in range(12))
    now = datetime.now(timezone.utc).replace(tzinfo=None)
    return {"id": name, "text": f"{name} edit{n} {words}", "n": n, "updated_at": now}


def make_table(uri: str, store: ft.ModelStore, model: str, n_rows: int) -> None:
    version = store.save(model, name="soak", manifest={})
    rng = random.Random(0)
    first = pa.Table.from_pylist([row_of(f"d{i}", 0, rng) for i in range(n_rows)])
    options = {"new_table_enable_stable_row_ids": "true"}
    table = lancedb.connect(uri).create_table("docs", first, storage_options=options)
    ft.reindex(table, version.ref, force=True, store=store.uri, precision="float32")
    lancedb.connect(uri).open_table("docs").create_index("text", config=FTS())


def memory_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 1e6


def soak(model: str, seconds: float, n_rows: int, n_readers: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as home:
        store = ft.ModelStore(Path(home) / "store")
        uri = f"{home}/kb"
        make_table(uri, store, model, n_rows)
        run = Soak(uri, store.uri, seconds)
        options = ft.Maintenance(min_rows=64, every_s=0.5, quiet_s=5.0)
        with ft.Searcher(run.open(), maintenance=options) as searcher:
            searcher.search("order1", k=1)
            run.begin()
            threads = [run.guarded(run.write, n, n_rows) for n in range(2)]
            threads += [run.guarded(run.read, n, searcher, n_rows) for n in range(n_readers)]
            threads.append(run.guarded(run.settle))
            memory = []
            while run.running():
                memory.append(memory_mb())
                time.sleep(min(1.0, seconds / 20))
            for thread in threads:
                thread.join()
            failed = searcher.maintenance.n_failed if searcher.maintenance else 0
        status = ft.index_status(run.open(), tiers=run.tiers)
    thirds = np.array_split(np.asarray(memory), 3)
    return {
        "seconds": seconds,
        "n_rows": n_rows,
        "n_readers": n_readers,
        **run.counts,
        "errors": run.errors[:20],
        "n_errors": len(run.errors),
        "stale": run.stale[:20],
        "n_stale": len(run.stale),
        "maintenance_failed": failed,
        "p50_ms": round(1e3 * percentile(run.latencies, 50), 2),
        "p99_ms": round(1e3 * percentile(run.latencies, 99), 2),
        "memory_mb": [round(float(part.mean()), 1) for part in thirds],
        "memory_growth": round(float(thirds[2].mean() / thirds[1].mean()) - 1, 4),
        "status": status.to_dict(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--readers", type=int, default=8)
    parser.add_argument("--model", help="a model folder [default: all-MiniLM-L6-v2]")
    given = parser.parse_args()
    figures = soak(given.model or base_model(), given.seconds, given.rows, given.readers)
    aims = [
        aim("errors", figures["n_errors"], "<=", 0),
        aim("stale answers", figures["n_stale"], "<=", 0),
        aim("rounds of maintenance that failed", figures["maintenance_failed"], "<=", 0),
        aim(
            "memory growth from the second third to the last", figures["memory_growth"], "<=", 0.05
        ),
    ]
    report("soak", aims, **figures)


if __name__ == "__main__":
    main()
