"""Rows a second of re-indexing, against encoding alone and against LanceDB's own function.

Four arms over the same texts (API docs of this environment), taking turns in one process:

- ``raw``: ``SentenceTransformer.encode(texts)``, one call, at the precision our run chose;
- ``raw_float32``: the same at its default precision;
- ``ours``: `lancedb_ft.reindex` of a table without vectors, end to end: plan, stage, read, encode,
  write, commit, verify, switch;
- ``lancedb``: LanceDB's ``sentence-transformers`` function through ``table.add``.

Each model is loaded, and has encoded a few texts, before the clock starts.

Run: python benchmarks/reindex_throughput.py [--rows N] [--rounds N]
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lancedb
import pyarrow as pa
from _common import aim, progress, report
from lancedb.embeddings import EmbeddingFunction, EmbeddingFunctionConfig, get_registry
from sentence_transformers import SentenceTransformer

import lancedb_ft as ft
from lancedb_ft.encoder import load_sentence_transformer

MODEL = "all-MiniLM-L6-v2"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    corpus = ft.read_api_docs(limit=arguments.rows).corpus.select(["id", "text"])
    with tempfile.TemporaryDirectory() as folder:
        measure(corpus, arguments.rounds, folder)


def measure(corpus: pa.Table, rounds: int, folder: str) -> None:
    path = ft.resolve_model(MODEL).path
    encoder = ft.get_encoder(MODEL)
    texts = corpus["text"].to_pylist()
    native = get_registry().get("sentence-transformers").create(name=path, trust_remote_code=False)
    raw = {precision: raw_model(path, precision) for precision in {"float32", encoder.precision}}
    arms: dict[str, Callable[[int], None]] = {
        "raw": lambda _: raw[encoder.precision].encode(texts),
        "ours": lambda n: reindex(corpus, Path(folder) / f"ours-{n}"),
        "lancedb": lambda n: add(corpus, native, Path(folder) / f"lancedb-{n}"),
    }
    if encoder.precision != "float32":
        arms["raw_float32"] = lambda _: raw["float32"].encode(texts)
    for model in raw.values():
        model.encode(texts[:16])
    encoder.encode(texts[:16])
    native.compute_source_embeddings(texts[:16])
    seconds: dict[str, list[float]] = {name: [] for name in arms}
    for n in range(rounds):
        # Turned around every other round, so that no arm always follows the same one.
        for name in list(arms) if n % 2 == 0 else reversed(list(arms)):
            progress(f"round {n + 1} of {rounds}: {name}")
            started = time.perf_counter()
            arms[name](n)
            seconds[name].append(time.perf_counter() - started)
    tell(corpus.num_rows, seconds, encoder.precision)


def tell(n_rows: int, seconds: dict[str, list[float]], precision: str) -> None:
    def ratio(other: str) -> float:
        """Median over rounds of how many times as fast ours was in the same round."""
        pairs = zip(seconds[other], seconds["ours"], strict=True)
        return round(statistics.median(theirs / ours for theirs, ours in pairs), 3)

    amx = "amx_bf16" in machine_flags()
    aims = [
        aim("rows/s, ours over raw encode at the same precision", ratio("raw"), ">=", 0.95),
        aim("rows/s, ours over LanceDB table.add", ratio("lancedb"), ">=", 2.5 if amx else 1.2),
    ]
    figures = {
        name: {
            "rows_per_s": round(n_rows / statistics.median(values), 1),
            "seconds": [round(value, 2) for value in values],
        }
        for name, values in seconds.items()
    }
    report(
        "reindex_throughput",
        aims,
        rows=n_rows,
        rounds=len(seconds["ours"]),
        precision=precision,
        amx=amx,
        arms=figures,
        ratios={name: ratio(name) for name in seconds if name != "ours"},
    )


def raw_model(path: str, precision: str) -> SentenceTransformer:
    import torch

    model = load_sentence_transformer(path, device="cpu")
    return model.to(getattr(torch, precision))


def reindex(corpus: pa.Table, place: Path) -> None:
    table = lancedb.connect(str(place)).create_table("docs", corpus)
    result = ft.reindex(table, MODEL, force=True)
    if not result.switched or result.fill.encoded != corpus.num_rows:
        raise SystemExit(f"the re-index is not complete: {result.to_dict()}")


def add(corpus: pa.Table, function: EmbeddingFunction, place: Path) -> None:
    field = pa.field("vector", pa.list_(pa.float32(), function.ndims()))
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    table = lancedb.connect(str(place)).create_table(
        "docs", schema=corpus.schema.append(field), embedding_functions=[config]
    )
    table.add(corpus)


def machine_flags() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    main()
