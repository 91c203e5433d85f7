"""A reranker trained on tldr, against the order of the search it follows.

Trains a cross-encoder from all-MiniLM-L6-v2 on pairs of tldr with negatives from the base model's
own search, reranks the best 50 of that search for the test queries, and times one query at a time.

    python benchmarks/reranker.py
    python benchmarks/reranker.py --pairs 24 --queries 10 --depth 10 --documents 200  # it runs
"""

from __future__ import annotations

import argparse
import tempfile
import time
from typing import Any

import pyarrow as pa
from _common import aim, latency_ms, progress, report
from _sets import base_model, compared, read_bed

import lancedb_ft as ft
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import NoGainError
from lancedb_ft.evaluate import evaluate, exact_retriever
from lancedb_ft.reranking import get_scorer
from lancedb_ft.types import Pairs, Run


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--set", default="tldr")
    parser.add_argument("--pairs", type=int, default=6_000)
    parser.add_argument("--queries", type=int, default=300, help="test queries")
    parser.add_argument("--documents", type=int, help="search only so many [default: all]")
    parser.add_argument("--depth", type=int, default=50, help="candidates a query")
    parser.add_argument("--loss", default="bce")
    parser.add_argument("--negatives", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--max-tokens", type=int, default=96)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    bed = read_bed(given.set, pairs=given.pairs, seed=given.seed)
    test = _first_queries(bed.split.test, given.queries)
    needed = {**bed.split.dev.corpus, **test.corpus}
    corpus = {**dict(list(bed.corpus.items())[: given.documents]), **needed}
    progress(f"{len(bed.split.train)} pairs, {len(test.qrels)} test queries")
    search = exact_retriever(get_encoder(base_model()), corpus)
    candidates = search(test.queries, given.depth)
    base = evaluate(candidates, test, name="first search")
    with tempfile.TemporaryDirectory() as store:
        start = time.perf_counter()
        try:
            version = ft.train_reranker(
                base_model(),
                bed.split.train,
                dev=bed.split.dev,
                documents=corpus,
                candidates=search,
                name="reranker",
                store=store,
                loss=given.loss,
                n_negatives=given.negatives,
                batch_size=given.batch_size,
                learning_rate=given.learning_rate,
                max_tokens=given.max_tokens,
                seed=given.seed,
                on_event=_told,
            )
        except NoGainError as error:
            figures = {"dev_base": error.base, "dev_best": error.best, "n_dev": error.n_queries}
            aims = [aim("nDCG@10 gained by reranking", None, ">=", 0.02)]
            report("reranker", aims, settings=vars(given), no_gain=figures)
            return
        train_s = time.perf_counter() - start
        run, seconds, precision = _reranked(version, test, candidates, corpus, given.max_tokens)
        reranked = evaluate(run, test, name="reranked")
        gain = compared(base, reranked)
        times = latency_ms(seconds)
        report(
            "reranker",
            [
                aim("nDCG@10 gained by reranking", gain["mean"], ">=", 0.02),
                aim("its lower bound (95 %)", gain["ci95"][0], ">", 0.0),
                aim(f"ms to rerank {given.depth} candidates, p50", times["p50_ms"], "<=", 1000),
            ],
            settings=vars(given),
            n_queries=base.n,
            n_documents=len(corpus),
            first_search=base.to_dict(),
            reranked=reranked.to_dict(),
            gain=gain,
            rerank=times,
            precision=precision,
            train_s=round(train_s, 1),
            training=version.manifest["training"],
            dev=version.manifest["metrics"]["dev"],
        )


def _first_queries(pairs: Pairs, n_queries: int) -> Pairs:
    chosen = set(list(pairs.queries)[:n_queries])
    return pairs.take(pa.array([q in chosen for q in pairs.table["query_id"].to_pylist()]))


def _reranked(
    version: ft.ModelVersion, test: Pairs, candidates: Run, corpus: Any, max_tokens: int
) -> tuple[dict[str, dict[str, float]], list[float], str]:
    """Rerank each query's candidates by itself, as serving does, with one query to warm up."""
    scorer = get_scorer(version)
    found: dict[str, dict[str, float]] = {}
    seconds = []
    asked = list(test.queries.items())
    for query_id, query in [asked[0], *asked]:
        hits = list(candidates[query_id])
        start = time.perf_counter()
        scores = scorer.score([(query, corpus[d]) for d in hits], max_tokens=max_tokens)
        seconds.append(time.perf_counter() - start)
        found[query_id] = dict(zip(hits, scores.tolist(), strict=True))
    return found, seconds[1:], scorer.precision


def _told(event: Any) -> None:
    if event["event"] == "evaluation":
        progress(f"step {event['step']} of {event['steps']}: {event['value']:.4f}")


if __name__ == "__main__":
    main()
