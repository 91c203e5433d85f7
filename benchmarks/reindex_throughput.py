"""Rows a second of re-indexing, beside encoding alone and beside what others do with LanceDB.

For each set (tldr: short texts, medquad: long ones), arms that take turns in one process, each over
the same texts and with the same model, all-MiniLM-L6-v2:

- ``ours``: `lancedb_ft.reindex` of a table without vectors, end to end: probe, stage, read, encode,
  write, commit, verify, switch;
- ``raw``: ``SentenceTransformer.encode(texts)``, one call, in the precision that ours chose;
- ``raw_float32``: the same with its defaults;
- ``lancedb``: LanceDB's ``sentence-transformers`` function through ``table.add``;
- ``langchain``, ``llamaindex``: their vector stores for LanceDB (extra ``bench``; skipped where
  they are not installed), given the same model in float32 as their own wrappers run it: LangChain
  one call of ``encode``, LlamaIndex batches of 10, its default;
- ``processes``: ours in that many processes (``--processes``), to see what pays on a machine.

Then, for each set: what the fill spends beside encoding, a second run after 1 % of the texts
changed, and how many of the ten nearest are those of float32. And once: the most memory at 10,000
and at 1,000,000 rows, of short texts with a static model, each in a process of its own.

Run: python benchmarks/reindex_throughput.py [--sets tldr medquad] [--rows N] [--rounds N]
     [--arms raw] [--processes N] [--memory-rows 10000 1000000]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _common import aim, progress, report
from _sets import base_model, in_subprocess, peak_memory_mb, require_set
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

import lancedb_ft as ft
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.reindex.engines import LocalEngine

Arms = dict[str, Callable[[Path], Any]]

#: Texts whose ten nearest are compared.
ASKED = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="*", default=["tldr", "medquad"])
    parser.add_argument("--rows", type=int, help="of each set; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--arms", nargs="*", help="only these beside ours [default: all]")
    parser.add_argument("--processes", type=int, help="also try so many processes")
    parser.add_argument("--memory-rows", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--part", nargs=3, metavar=("WHAT", "FOLDER", "ROWS"))
    arguments = parser.parse_args()
    if arguments.part:
        what, folder, rows = arguments.part
        print(PARTS[what](Path(folder), int(rows)))
        return
    aims: list[dict[str, Any]] = []
    figures: dict[str, Any] = {}
    for name in arguments.sets:
        texts = read_texts(name, arguments.rows)
        with tempfile.TemporaryDirectory() as folder:
            found, lines = measure(name, texts, arguments, Path(folder))
        figures[name] = found
        aims += lines
    if arguments.memory_rows:
        figures["memory"], line = memory(arguments.memory_rows)
        aims.append(line)
    amx = "amx_bf16" in machine_flags()
    report("reindex_throughput", aims, amx=amx, rounds=arguments.rounds, **figures)


def read_texts(name: str, rows: int | None) -> pa.Table:
    corpus = pq.read_table(require_set(name) / "corpus.parquet", columns=["id", "text"])
    if rows is not None and rows < corpus.num_rows:
        chosen = np.random.default_rng(0).choice(corpus.num_rows, rows, replace=False)
        corpus = corpus.take(np.sort(chosen))
    return corpus


def measure(
    name: str, corpus: pa.Table, arguments: argparse.Namespace, folder: Path
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    path = base_model()
    encoder = ft.get_encoder(path)
    texts = corpus["text"].to_pylist()
    raw = {p: raw_model(path, p) for p in sorted({"float32", encoder.precision})}
    arms = make_arms(corpus, path, raw, encoder.precision, arguments.processes)
    if arguments.arms is not None:
        kept = {"ours", "raw_float32", *arguments.arms}  # overlap is told against float32
        arms = {arm: run for arm, run in arms.items() if arm in kept}
    for model in raw.values():
        model.encode(texts[:16])
    encoder.encode(texts[:16])
    seconds: dict[str, list[float]] = {arm: [] for arm in arms}
    results: dict[str, Any] = {}
    for n in range(arguments.rounds):
        # Turned around every other round, so that no arm always follows the same one.
        for arm in list(arms) if n % 2 == 0 else reversed(list(arms)):
            progress(f"{name}: round {n + 1} of {arguments.rounds}: {arm}")
            started = time.perf_counter()
            results[arm] = arms[arm](folder / f"{arm}-{n}")
            seconds[arm].append(time.perf_counter() - started)
    table, first = results["ours"]
    found = {
        "rows": corpus.num_rows,
        "precision": first.precision,
        "agreement": first.agreement,
        "ratios": {arm: ratio(seconds, arm) for arm in arms if arm != "ours"},
        "overhead": round(1 - first.to_dict()["encode_share"], 4),
        "stages": first.to_dict()["stages"],
        "arms": {
            arm: {
                "rows_per_s": round(corpus.num_rows / statistics.median(values), 1),
                "seconds": [round(value, 2) for value in values],
            }
            for arm, values in seconds.items()
        },
        "skipped": [arm for arm in PEERS if arm not in arms],
    }
    found["top10_overlap"] = top10_overlap(table, first.column, texts, results["raw_float32"])
    found["rerun"] = rerun(table, path, corpus, statistics.median(seconds["ours"]))
    return found, aims_of(name, found)


def aims_of(name: str, found: dict[str, Any]) -> list[dict[str, Any]]:
    fast = found["precision"] != "float32" and "amx_bf16" in machine_flags()
    against = f"{name}: rows/s, ours over"
    ratios = found["ratios"]
    same = "raw" if "raw" in ratios else "raw_float32"
    return [
        aim(f"{against} raw encode in the same precision", ratios[same], ">=", 0.97),
        aim(f"{against} raw float32 encode", ratios["raw_float32"], ">=", 2.8 if fast else None),
        aim(f"{name}: top-10 overlap with float32", found["top10_overlap"], ">=", 0.99),
        aim(f"{name}: share of filling that is not encoding", found["overhead"], "<=", 0.05),
        aim(
            f"{name}: run after 1 % changed, over a first run", found["rerun"]["ratio"], "<=", 0.03
        ),
    ]


def ratio(seconds: dict[str, list[float]], other: str) -> float:
    """Return the median over rounds of how many times as fast ours was in the same round."""
    pairs = zip(seconds[other], seconds["ours"], strict=True)
    return round(statistics.median(theirs / ours for theirs, ours in pairs), 3)


# --- arms ------------------------------------------------------------------------------------


def make_arms(
    corpus: pa.Table, path: str, raw: dict[str, Any], precision: str, processes: int | None
) -> Arms:
    texts = corpus["text"].to_pylist()
    arms: Arms = {
        "ours": lambda place: reindex(corpus, path, place),
        "raw_float32": lambda _: raw["float32"].encode(texts),
        "lancedb": lambda place: lancedb_add(corpus, path, place),
    }
    if precision != "float32":
        arms["raw"] = lambda _: raw[precision].encode(texts)
    if processes:
        arms[f"processes_{processes}"] = lambda place: reindex(
            corpus, path, place, engine=LocalEngine(processes)
        )
    for arm, (package, add) in PEERS.items():
        if find_spec(package.split(".")[0]) is None:
            progress(f"{arm} is left out: pip install 'lancedb-ft[bench]'")
        else:
            arms[arm] = lambda place, add=add: add(texts, raw["float32"], place)
    return arms


def raw_model(path: str, precision: str) -> Any:
    import torch

    return load_sentence_transformer(path, device="cpu").to(getattr(torch, precision))


def reindex(corpus: pa.Table, model: str, place: Path, **options: Any) -> tuple[Any, Any]:
    table = lancedb.connect(str(place)).create_table("docs", corpus)
    result = ft.reindex(table, model, force=True, **options)
    fill = result.fill
    if not result.switched or fill.encoded + fill.reused != corpus.num_rows:
        raise SystemExit(f"the re-index is not complete: {result.to_dict()}")
    return table, result


def lancedb_add(corpus: pa.Table, path: str, place: Path) -> None:
    function = get_registry().get("sentence-transformers").create(name=path)
    field = pa.field("vector", pa.list_(pa.float32(), function.ndims()))
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    table = lancedb.connect(str(place)).create_table(
        "docs", schema=corpus.schema.append(field), embedding_functions=[config]
    )
    table.add(corpus)


def langchain_add(texts: list[str], model: Any, place: Path) -> None:
    from langchain_community.vectorstores import LanceDB
    from langchain_core.embeddings import Embeddings

    class Same(Embeddings):
        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            return model.encode(texts).tolist()

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    LanceDB(uri=str(place), embedding=Same()).add_texts(texts)


def llamaindex_add(texts: list[str], model: Any, place: Path) -> None:
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.schema import TextNode
    from llama_index.vector_stores.lancedb import LanceDBVectorStore

    class Same(BaseEmbedding):
        def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
            return model.encode(texts).tolist()

        def _get_text_embedding(self, text: str) -> list[float]:
            return self._get_text_embeddings([text])[0]

        def _get_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

        async def _aget_query_embedding(self, query: str) -> list[float]:
            return self._get_text_embedding(query)

    context = StorageContext.from_defaults(vector_store=LanceDBVectorStore(uri=str(place)))
    nodes = [TextNode(text=text, id_=str(n)) for n, text in enumerate(texts)]
    VectorStoreIndex(nodes, storage_context=context, embed_model=Same())


PEERS: dict[str, tuple[str, Callable[[list[str], Any, Path], None]]] = {
    "langchain": ("langchain_community", langchain_add),
    "llamaindex": ("llama_index", llamaindex_add),
}


# --- after the arms --------------------------------------------------------------------------


def top10_overlap(table: Any, column: str, texts: list[str], exact: np.ndarray) -> float:
    """Return how many of the ten nearest in the table are those of float32, over all texts."""
    table.checkout_latest()
    vectors = table.to_lance().to_table(columns=[column])[column].combine_chunks()
    storage = getattr(vectors, "storage", vectors)
    ours = storage.flatten().to_numpy().reshape(len(texts), -1)
    asked = np.random.default_rng(0).choice(len(texts), min(ASKED, len(texts)), replace=False)
    kept = []
    for place in asked:
        near = []
        for vectors in (ours, exact):
            scores = vectors @ vectors[place]
            scores[place] = -np.inf  # the text itself
            near.append(np.argpartition(-scores, 10)[:10])
        kept.append(len(np.intersect1d(*near)) / 10)
    return round(float(np.mean(kept)), 4)


def rerun(table: Any, model: str, corpus: pa.Table, first: float) -> dict[str, Any]:
    """Change 1 % of the texts and run the same command again."""
    n = max(1, corpus.num_rows // 100)
    chosen = np.random.default_rng(1).choice(corpus.num_rows, n, replace=False)
    ids = [str(i).replace("'", "''") for i in corpus["id"].take(chosen).to_pylist()]
    where = f"id IN ({', '.join(repr(i) for i in ids)})"
    table.update(where=where, values_sql={"text": "concat(text, ' (edited)')"})
    started = time.perf_counter()
    result = ft.reindex(table, model, force=True)
    seconds = time.perf_counter() - started
    return {
        "changed": n,
        "encoded": result.fill.encoded,
        "seconds": round(seconds, 3),
        "stages": result.to_dict()["stages"],
        "ratio": round(seconds / first, 4),
    }


# --- memory ----------------------------------------------------------------------------------


def memory(rows: list[int]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Re-index short synthetic texts with a static model, each size in a process of its own."""
    found = {}
    for n in rows:
        with tempfile.TemporaryDirectory() as folder:
            progress(f"memory: {n} rows")
            in_subprocess(__file__, "--part", "make", folder, n)
            found[str(n)] = in_subprocess(__file__, "--part", "fill", folder, n)
    peaks = [found[str(n)]["peak_mb"] for n in rows]
    what = f"most memory at {max(rows):,} rows over that at {min(rows):,}"
    return found, aim(what, peaks[-1] / peaks[0], "<=", 1.15)


def make_table(folder: Path, n_rows: int) -> str:
    """Write the static model and the table."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(base_model()) / "tokenizer.json"))
    static = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=128)], device="cpu"
    )
    static.save_pretrained(str(folder / "static"), create_model_card=False)
    schema = pa.schema([("id", pa.int64()), ("text", pa.string())])
    table = lancedb.connect(str(folder / "db")).create_table("docs", schema=schema)
    table.add(pa.RecordBatchReader.from_batches(schema, synthetic(n_rows, schema)))
    return "{}"


def synthetic(n_rows: int, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    rng = np.random.default_rng(0)
    words = np.array(["order", "money", "back", "open", "page", "password", "cancel", "invoice"])
    for start in range(0, n_rows, 10_000):
        ids = np.arange(start, min(start + 10_000, n_rows))
        chosen = words[rng.integers(0, len(words), (len(ids), 6))]
        texts = [f"{' '.join(row)} {number}" for row, number in zip(chosen, ids, strict=True)]
        yield pa.record_batch([pa.array(ids), pa.array(texts)], schema=schema)


def fill_table(folder: Path, n_rows: int) -> str:
    import json

    table = lancedb.connect(str(folder / "db")).open_table("docs")
    started = time.perf_counter()
    result = ft.reindex(table, str(folder / "static"), force=True)
    seconds = time.perf_counter() - started
    if result.fill.encoded != n_rows:
        raise SystemExit(f"the re-index is not complete: {result.to_dict()}")
    return json.dumps(
        {
            "peak_mb": peak_memory_mb(),
            "seconds": round(seconds, 1),
            "encode_share": result.to_dict()["encode_share"],
            "stages": result.to_dict()["stages"],
        }
    )


PARTS: dict[str, Callable[[Path, int], str]] = {"make": make_table, "fill": fill_table}


def machine_flags() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text() if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
