"""What a query adapter buys, and what it costs, beside the base model and a full fine-tune.

    python benchmarks/query_adapter.py [--pairs 6000] [--corpus-size N] [--tuned NAME@V --store URI]

On tldr: a LanceDB table is filled by the base model, an adapter is trained from the table's own
vectors, the table is switched to it, and the test queries are asked through the table each time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import lancedb
import pyarrow as pa
from _common import aim, progress, report
from _sets import Bed, base_model, compared, measure, read_bed
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

import lancedb_ft as ft
from lancedb_ft.evaluate import evaluate
from lancedb_ft.types import Evaluation


def filled(uri: str, bed: Bed, corpus: dict[str, str]) -> tuple[Any, float]:
    """Return a table that plain LanceDB filled with the base model, and the seconds it took."""
    function = get_registry().get("ft-embed").create(name=base_model())
    vector = pa.field("vector", pa.list_(pa.float32(), function.ndims()))
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), vector])
    config = EmbeddingFunctionConfig(
        source_column="text", vector_column="vector", function=function
    )
    docs = lancedb.connect(uri).create_table("docs", schema=schema, embedding_functions=[config])
    started = time.perf_counter()
    docs.add(pa.table({"id": list(corpus), "text": list(corpus.values())}))
    return docs, time.perf_counter() - started


def asked(docs: Any, bed: Bed, name: str) -> Evaluation:
    """Ask the test queries through the table, as it searches now."""
    docs.checkout_latest()
    return evaluate(ft.retriever(docs), bed.split.test, name=name)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="tldr")
    parser.add_argument("--pairs", type=int, default=6000)
    parser.add_argument("--corpus-size", type=int, help="documents beside those of the pairs")
    parser.add_argument("--rank", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tuned", help="a fully fine-tuned version to set beside it")
    parser.add_argument("--store")
    options = parser.parse_args()
    bed = read_bed(options.set, pairs=options.pairs, seed=options.seed)
    judged = {k: v for part in bed.split.parts().values() for k, v in part.corpus.items()}
    others = [item for item in bed.corpus.items() if item[0] not in judged]
    corpus = {**judged, **dict(others[: options.corpus_size])}
    with tempfile.TemporaryDirectory() as uri:
        progress(f"filling a table with {len(corpus)} documents")
        docs, fill_s = filled(uri, bed, corpus)
        base = asked(docs, bed, "base")
        progress("training the adapter")
        started = time.perf_counter()
        version = ft.train_query_adapter(
            base_model(),
            bed.split.train,
            dev=bed.split.dev,
            name="queries",
            store=f"{uri}/ft_models",
            corpus=docs,
            rank=options.rank,
            seed=options.seed,
        )
        train_s = time.perf_counter() - started
        started = time.perf_counter()
        switched = ft.reindex(docs, version, force=True)
        switch_s = time.perf_counter() - started
        tuned = asked(docs, bed, "query adapter")
        figures = {
            "n_documents": len(corpus),
            "n_train": len(bed.split.train),
            "n_test": base.n,
            "base": base.to_dict(),
            "query_adapter": tuned.to_dict(),
            "delta": compared(base, tuned),
            "dev": version.manifest["metrics"]["dev"],
            "fill_seconds": round(fill_s, 1),
            "train_seconds": round(train_s, 1),
            "fit_seconds": version.manifest["training"]["seconds"],
            "switch_seconds": round(switch_s, 2),
            "rows_encoded": switched.fill.encoded,
        }
    if options.tuned:
        model = ft.resolve_model(options.tuned, store=options.store)
        full = measure(model.path, Bed(bed.name, corpus, bed.split), name="fine-tune")
        figures |= {"fine_tune": full.to_dict(), "delta_fine_tune": compared(base, full)}
    report(
        "query_adapter",
        [
            aim("rows encoded by the switch", switched.fill.encoded, "<=", 0),
            aim(
                "nDCG@10 over the base, lower end of the interval",
                figures["delta"]["ci95"][0],
                ">",
                0,
            ),
        ],
        **figures,
    )


if __name__ == "__main__":
    main()
