"""What `plan` predicts of a re-index against what came of it: seconds, bytes, peak disk.

For each data set (tldr: short texts, medquad: long ones) a table of its documents with vectors and
an IVF_PQ index; `plan_reindex` to all-MiniLM-L6-v2, then `reindex`, whose report compares. The
vectors that the table has at first are random: what their model was does not matter here.

Run: python benchmarks/estimate.py [--rows N] [--sets tldr,medquad] [--queries N]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LANCE_LOG", "error")

import lancedb
import numpy as np
import pyarrow as pa
from _common import aim, progress, report
from _sets import base_model, read_bed
from lancedb.index import IvfPq

import lancedb_ft as ft
from lancedb_ft.encoder import get_encoder

DIMS = 384
FIGURES = ("seconds", "bytes", "peak_disk_bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, help="only so many documents of each set")
    parser.add_argument("--sets", default="tldr,medquad")
    parser.add_argument("--queries", type=int, default=300, help="test queries of the gate")
    arguments = parser.parse_args()
    get_encoder(base_model()).encode(["loaded before the clock starts"] * 64)
    found = {
        name: measure(name, arguments.rows, arguments.queries) for name in arguments.sets.split(",")
    }
    aims = [
        aim(f"{name}: |predicted / real - 1|, {figure}", off(told["plan"][figure]), "<=", 0.25)
        for name, told in found.items()
        for figure in FIGURES
    ]
    report("estimate", aims, sets=found)


def off(figure: dict[str, float]) -> float:
    return abs(figure["predicted"] / figure["real"] - 1.0)


def measure(name: str, rows: int | None, n_queries: int) -> dict[str, Any]:
    bed = read_bed(name, pairs=100)
    ids = list(bed.corpus)
    if rows is not None:
        # Spread over the set: neighbours in it are of one kind.
        ids = [ids[i] for i in np.linspace(0, len(ids) - 1, min(rows, len(ids))).astype(int)]
    gate = ft.Gate(bed.split.test.take(pa.array(range(n_queries))), require="ndcg@10 >= 0")
    with tempfile.TemporaryDirectory() as folder:
        table = make_table(folder, ids, [bed.corpus[i] for i in ids])
        progress(f"{name}: plan for {len(ids)} rows")
        started = time.perf_counter()
        plan = ft.plan_reindex(table, base_model(), gate=gate)
        planned_s = time.perf_counter() - started
        progress(f"{name}: re-index, {plan.seconds:.0f} s predicted")
        told = ft.reindex(table, base_model(), gate=gate)
        if told.plan is None:
            raise SystemExit("The report did not find the plan.")
        return {
            "rows": len(ids),
            "tokens_per_row": plan.tokens_per_row,
            "precision": plan.precision,
            "plan_seconds": round(planned_s, 2),
            "plan": told.plan.to_dict(),
            "index_bytes_predicted": plan.index_bytes,
        }


def make_table(folder: str, ids: list[str], texts: list[str]) -> Any:
    vectors = np.random.default_rng(0).normal(size=(len(ids), DIMS)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMS)
    rows = pa.table({"id": ids, "text": texts, "vector": column})
    table = lancedb.connect(folder).create_table("docs", rows)
    table.create_index("vector", config=IvfPq(distance_type="cosine", num_sub_vectors=48))
    return table


if __name__ == "__main__":
    main()
