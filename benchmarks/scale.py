"""What a plan for 100 million rows is made of, measured small: see docs/scale.md.

- ``commit``: seconds of one commit that replaces a group of fragments, and bytes of the manifest,
  by the number of fragments of the table; what the driver does a fragment beside it;
- ``write``: rows a second that one process reads, hashes and writes when vectors cost nothing, rows
  a second that it looks through when nothing is to do, and bytes a row on disk;
- ``encode``: rows a second of one thread, for a static model and for MiniLM;
- ``index``: seconds a row of an IVF_PQ index, and its bytes.

Seconds of the processor stand beside those of the clock: they hold on a machine that is busy with
other things too.

Run: python benchmarks/scale.py [--rows N] [--fragments 10,100,1000]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("LANCE_LOG", "error")

import lance
import lancedb
import numpy as np
import pyarrow as pa
from _common import report
from lancedb.index import IvfPq

import lancedb_ft as ft
from lancedb_ft.generation import Generation, TableState, read_state
from lancedb_ft.reindex.commits import Change, transition
from lancedb_ft.reindex.engines.group import Written, commit_written
from lancedb_ft.reindex.filling.fragments import Columns, is_right, signature, write_fragment
from lancedb_ft.reindex.stage import _add_columns
from lancedb_ft.table import dataset

DIMS = 384
GROUP = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=50_000)
    parser.add_argument("--fragments", default="10,100,1000")
    parser.add_argument("--encode-seconds", type=float, default=10.0)
    arguments = parser.parse_args()
    counts = [int(n) for n in arguments.fragments.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        report(
            "scale",
            [],
            dims=DIMS,
            commit=[commits(Path(folder) / f"c{n}", n) for n in counts],
            write=writing(Path(folder) / "w", arguments.rows),
            encode=encoding(Path(folder), arguments.encode_seconds),
            index=indexing(Path(folder) / "i", arguments.rows),
        )


def staged(folder: Path, n_fragments: int, n_rows: int) -> tuple[Any, Columns]:
    """Return a table of so many fragments with an empty, parked vector column."""
    rng = np.random.default_rng(0)
    words = np.array([f"word{n}" for n in range(2000)])
    texts = [" ".join(words[rng.integers(0, 2000, 25)]) for _ in range(n_rows)]
    rows = pa.table({"id": np.arange(n_rows), "text": texts})
    db = lancedb.connect(str(folder))
    place = f"{folder}/docs.lance"
    per_fragment = -(-n_rows // n_fragments)
    lance.write_dataset(rows, place, max_rows_per_file=per_fragment, max_rows_per_group=8192)
    table = db.open_table("docs")
    generation = Generation(
        number=2,
        column="vector",
        dims=DIMS,
        phase="staging",
        source_column="text",
        hash_column="vector_hash",
    )
    transition(table, lambda state, ds: staging(state, generation), what="stage")
    _add_columns(table, generation)
    return table, Columns.of(read_state(dataset(table).schema, table="docs").of(2))


def staging(state: TableState, generation: Generation) -> Change:
    return Change(state.put(generation))


def no_cost(dims: int) -> Any:
    """Return a source of vectors that takes no time to speak of."""
    pool = np.random.default_rng(0).normal(size=(8192, dims)).astype(np.float32)
    return lambda texts, hashes: pool[: len(texts)]


def commits(folder: Path, n_fragments: int) -> dict[str, Any]:
    """Time one commit of a group of fragments."""
    table, columns = staged(folder, n_fragments, n_fragments * 4)
    ds = dataset(table)
    fragments = ds.get_fragments()[:GROUP]
    started = time.perf_counter()
    written = [
        Written(
            f.fragment_id,
            signature(f),
            tuple(write_fragment(ds, f, columns, no_cost(DIMS))),
        )
        for f in fragments
    ]
    writing_s = time.perf_counter() - started
    started = time.perf_counter()
    done = commit_written(table, written, columns)
    commit_s = time.perf_counter() - started
    started = time.perf_counter()
    listed = [signature(f) for f in dataset(table).get_fragments()]
    listing_s = time.perf_counter() - started
    newest = max(Path(str(table.uri), "_versions").glob("*.manifest"), key=os.path.getmtime)
    return {
        "fragments": len(listed),
        "committed_together": len(done.numbers),
        "commit_s": round(commit_s, 4),
        "commit_ms_a_fragment": round(1e3 * commit_s / len(done.numbers), 3),
        "listing_ms_a_fragment": round(1e3 * listing_s / len(listed), 4),
        "write_4_rows_ms_a_fragment": round(1e3 * writing_s / len(written), 2),
        "manifest_bytes_a_fragment": round(newest.stat().st_size / len(listed), 1),
    }


def writing(folder: Path, n_rows: int) -> dict[str, Any]:
    """Time all but the encoder on one fragment."""
    table, columns = staged(folder, 1, n_rows)
    ds = dataset(table)
    fragment = ds.get_fragments()[0]
    before = bytes_in(folder)
    cpu, started = time.process_time(), time.perf_counter()
    files = write_fragment(ds, fragment, columns, no_cost(DIMS))
    write_s, write_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    added = bytes_in(folder) - before
    commit_written(table, [Written(0, signature(fragment), tuple(files))], columns)
    ds = dataset(table)
    cpu, started = time.process_time(), time.perf_counter()
    right = is_right(ds, ds.get_fragments()[0], columns)
    look_s, look_cpu_s = time.perf_counter() - started, time.process_time() - cpu
    return {
        "rows": n_rows,
        "rows_per_s": round(n_rows / write_s),
        "rows_per_cpu_s": round(n_rows / write_cpu_s),
        "look_through_rows_per_s": round(n_rows / look_s),
        "look_through_rows_per_cpu_s": round(n_rows / look_cpu_s),
        "right": right,
        "bytes_a_row": round(added / n_rows, 1),
        "bytes_a_row_and_dimension": round(added / n_rows / DIMS, 3),
    }


def encoding(folder: Path, seconds: float) -> dict[str, Any]:
    """Time one thread of two models on documentation texts."""
    import torch

    torch.set_num_threads(1)
    texts = ft.read_api_docs(limit=4000).corpus["text"].combine_chunks()
    found: dict[str, Any] = {}
    for name, model in (("minilm", "all-MiniLM-L6-v2"), ("static", static_model(folder))):
        encoder = ft.get_encoder(model, device="cpu")
        tokens = float(np.mean(encoder.token_counts(texts.slice(0, 500))))
        encoder.encode(texts.slice(0, 16), kind="document")
        n, cpu, started = 0, time.process_time(), time.perf_counter()
        while (passed := time.perf_counter() - started) < seconds and n < 20 * len(texts):
            encoder.encode(texts.slice(n % len(texts), 256), kind="document")
            n += len(texts.slice(n % len(texts), 256))
        found[name] = {
            "rows": n,
            "rows_per_s_a_thread": round(n / passed, 1),
            "rows_per_cpu_s": round(n / (time.process_time() - cpu), 1),
            "tokens_a_row": round(tokens, 1),
            "precision": encoder.precision,
            "dims": encoder.dims,
        }
    return found


def static_model(folder: Path) -> str:
    """Return a folder with MiniLM's token table as a static model."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from transformers import AutoTokenizer

    path = ft.resolve_model("all-MiniLM-L6-v2").path
    weights = SentenceTransformer(path, device="cpu")[0].auto_model.get_input_embeddings().weight
    tokenizer = AutoTokenizer.from_pretrained(path)
    module = StaticEmbedding(
        tokenizer.backend_tokenizer, embedding_weights=weights.detach().numpy()
    )
    place = str(folder / "static")
    SentenceTransformer(modules=[module], device="cpu").save_pretrained(
        place, create_model_card=False
    )
    return place


def indexing(folder: Path, n_rows: int) -> dict[str, Any]:
    """Time an IVF_PQ index over vectors in clusters."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(256, DIMS)).astype(np.float32)
    vectors = centres[rng.integers(0, 256, n_rows)] + 0.3 * rng.normal(size=(n_rows, DIMS))
    flat = pa.array(vectors.astype(np.float32).reshape(-1))
    table = lancedb.connect(str(folder)).create_table(
        "docs", pa.table({"vector": pa.FixedSizeListArray.from_arrays(flat, DIMS)})
    )
    partitions = max(1, n_rows // 4096)
    cpu, started = time.process_time(), time.perf_counter()
    table.create_index("vector", config=IvfPq(num_partitions=partitions, num_sub_vectors=DIMS // 8))
    seconds, cpu_s = time.perf_counter() - started, time.process_time() - cpu
    size = bytes_in(folder / "docs.lance" / "_indices")
    return {
        "rows": n_rows,
        "partitions": partitions,
        "seconds": round(seconds, 2),
        "cpu_seconds": round(cpu_s, 2),
        "cpu_us_a_row": round(1e6 * cpu_s / n_rows, 1),
        "bytes_a_row": round(size / n_rows, 1),
    }


def bytes_in(folder: Path) -> int:
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


if __name__ == "__main__":
    main()
