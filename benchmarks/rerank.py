r"""What a reranker adds to each search, on a base and on a tuned embedder.

For each set: vector, full-text and hybrid search (by reciprocal rank fusion), each alone, with a
cross-encoder trained on the set, and through a local server of Cohere's shape that answers with
that cross-encoder's scores, so that its column shows what the client and its limits cost. Each by
the base model and by a tuned one. Quality of every cell on test and dev; milliseconds of a query,
its embedding included; and whether the reranker still helps on the tuned embedder.

    python benchmarks/rerank.py --tuned tldr=STORE/tldr/1 --tuned scifact=hf://... --colbert DIR
    python benchmarks/rerank.py --sets tldr --documents 150 --queries 6 --dev 4 --pairs 16 \
        --depth 8 --timed 2 --max-tokens 48     # it runs
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lancedb
import numpy as np
import pyarrow as pa
from _cohere_server import cohere_server
from _common import aim, latency_ms, progress, report
from _sets import Bed, base_model, compared, mean_interval, read_bed
from lancedb.index import FTS
from lancedb.rerankers import Reranker

import lancedb_ft as ft
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import NoGainError
from lancedb_ft.evaluate import evaluate, exact_retriever
from lancedb_ft.reranking.base import Reading
from lancedb_ft.reranking.guard import Deadline
from lancedb_ft.types import Evaluation, Pairs

METRICS = ("hit@5", "hit@10", "ndcg@10")
MODES = ("vector", "fts", "hybrid")
K = 10


class Remembering(ft.FineTunedReranker):
    """A cross-encoder that reads each pair once, however many cells of the grid ask for it."""

    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Score what is new, remember the rest."""
        memo: dict[tuple[str, str], float] = self.__dict__.setdefault("memo", {})
        if new := [(query, text) for text in texts if (query, text) not in memo]:
            found = self.scorer().score(new, max_tokens=self.max_tokens)
            memo.update(zip(new, found.tolist(), strict=True))
        keys = np.array([memo[query, text] for text in texts])
        return Reading(keys, (1 / (1 + np.exp(-keys))).astype(np.float32))


@dataclass(frozen=True)
class Order:
    """One way to order what a search found: to measure its quality, and to take its time."""

    name: str
    reranker: Reranker | None
    timed: Reranker | None


def main() -> None:
    """Run it."""
    given = _arguments()
    tuned, cross = _named(given.tuned), _named(given.cross_encoder)
    sets: dict[str, Any] = {}
    for name in given.sets.split(","):
        sets[name] = _measure_set(name, given, tuned.get(name), cross.get(name))
    aims = [line for name, found in sets.items() for line in _aims(name, found, given)]
    for found in sets.values():
        for part in ("evaluations", "dev_evaluations"):
            del found[part]
    report("rerank", aims, settings=vars(given), sets=sets)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sets", default="tldr,scifact,medquad")
    parser.add_argument("--tuned", action="append", default=[], metavar="SET=MODEL")
    parser.add_argument(
        "--cross-encoder", action="append", default=[], metavar="SET=MODEL", help="else trained"
    )
    parser.add_argument("--colbert", help="a model for late interaction [default: left out]")
    parser.add_argument("--documents", type=int, help="search only so many [default: all]")
    parser.add_argument("--queries", type=int, default=300, help="test queries of a set")
    parser.add_argument("--dev", type=int, default=150, help="dev queries to choose by")
    parser.add_argument("--timed", type=int, default=30, help="queries whose time is taken")
    parser.add_argument("--depth", type=int, default=50, help="candidates of each search")
    parser.add_argument("--pairs", type=int, default=4_000, help="to train the cross-encoder on")
    parser.add_argument("--max-tokens", type=int, default=192)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


def _named(given: Sequence[str]) -> dict[str, str]:
    return {name: model for name, _, model in (text.partition("=") for text in given)}


# --- one set -------------------------------------------------------------------------------


def _measure_set(
    name: str, given: argparse.Namespace, tuned: str | None, cross: str | None
) -> dict[str, Any]:
    bed = read_bed(name, pairs=given.pairs, seed=given.seed)
    test, dev = _first(bed.split.test, given.queries), _first(bed.split.dev, given.dev)
    needed = {**dev.corpus, **test.corpus}
    corpus = {**dict(list(bed.corpus.items())[: given.documents]), **needed}
    progress(f"{name}: {len(corpus)} documents, {len(test.queries)} + {len(dev.queries)} queries")
    embedders = {"base": base_model()} | ({} if tuned is None else {"tuned": tuned})
    found: dict[str, Any] = {"n_documents": len(corpus), "n_test": len(test.queries)}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as open_things:
        if cross is None:
            cross, found["training"] = _trained(bed, dev, corpus, scratch, given)
        orders = list(_orders(cross, given, open_things))
        cells: dict[str, Any] = {}
        evaluations: dict[str, Evaluation] = {}
        dev_evaluations: dict[str, Evaluation] = {}
        for embedder, model in embedders.items():
            searcher = _searcher(Path(scratch) / embedder, corpus, model)
            for mode in MODES if embedder == "base" else ("vector", "hybrid"):
                for order in orders:
                    cell = f"{embedder}/{mode}/{order.name}"
                    progress(f"{name}: {cell}")
                    ask = Asking(searcher, mode, order.reranker, given.depth)
                    evaluations[cell] = evaluate(ask, test, metrics=METRICS, name=cell)
                    dev_evaluations[cell] = evaluate(ask, dev, metrics=METRICS, name=cell)
                    timed = Asking(searcher, mode, order.timed, given.depth)
                    cells[cell] = {
                        **evaluations[cell].to_dict(),
                        "ms": _times(timed, test, given.timed),
                    }
            searcher.close()
    found |= {"cells": cells, "evaluations": evaluations, "dev_evaluations": dev_evaluations}
    return found | _conclusions(evaluations, dev_evaluations)


def _first(pairs: Pairs, n_queries: int) -> Pairs:
    chosen = set(list(pairs.queries)[:n_queries])
    return pairs.take(pa.array([q in chosen for q in pairs.table["query_id"].to_pylist()]))


def _trained(
    bed: Bed, dev: Pairs, corpus: Mapping[str, str], store: str, given: argparse.Namespace
) -> tuple[str | None, dict[str, Any]]:
    """Train a cross-encoder; None where it does not beat the search it follows."""
    search = exact_retriever(get_encoder(base_model()), corpus)
    start = time.perf_counter()
    try:
        version = ft.train_reranker(
            base_model(),
            bed.split.train,
            dev=dev,
            documents=corpus,
            candidates=search,
            name="reranker",
            store=store,
            batch_size=given.batch_size,
            max_tokens=given.max_tokens,
            seed=given.seed,
        )
    except NoGainError as error:
        return None, {"no_gain": {"base": error.base, "best": error.best, "n": error.n_queries}}
    return version.path, {"seconds": round(time.perf_counter() - start, 1)}


def _orders(
    cross: str | None, given: argparse.Namespace, open_things: ExitStack
) -> Iterator[Order]:
    yield Order("alone", None, None)
    guard = ft.RerankGuard(deadline_s=None, on_failure="raise")  # a fallback must not be measured
    if given.colbert:
        colbert = ft.ColbertReranker(given.colbert, guard=guard)
        yield Order("colbert", colbert, colbert)
    if cross is None:
        return
    remembering = Remembering(cross, max_tokens=given.max_tokens, guard=guard)
    plain = ft.FineTunedReranker(cross, max_tokens=given.max_tokens, guard=guard)
    yield Order("cross-encoder", remembering, plain)

    def score(query: str, texts: Sequence[str]) -> Sequence[float]:
        found: list[float] = remembering.read(query, texts, Deadline()).scores.tolist()
        return found

    os.environ.setdefault("COHERE_API_KEY", "local")
    url = open_things.enter_context(cohere_server(score))
    cohere = ft.CohereReranker("local", base_url=url, guard=guard)
    yield Order("cohere-shaped", cohere, cohere)


# --- searching -----------------------------------------------------------------------------


def _searcher(place: Path, corpus: Mapping[str, str], model: str) -> ft.Searcher:
    encoder = get_encoder(model)
    texts = list(corpus.values())
    table = lancedb.connect(str(place)).create_table(
        "docs", pa.table({"id": list(corpus), "text": texts, "vector": encoder.encode(texts)})
    )
    table.create_index("text", config=FTS())
    return ft.Searcher(table, embedder=encoder)


class Asking:
    """A retriever that asks the queries one by one, as an application does."""

    def __init__(
        self, searcher: ft.Searcher, mode: str, reranker: Reranker | None, depth: int
    ) -> None:
        self._searcher, self._mode, self._reranker = searcher, mode, reranker
        self._candidates = None if reranker is None else depth

    def one(self, query: str, k: int) -> list[str]:
        """Return the ids of the best, best first."""
        found = self._searcher.search(
            query,
            k=k,
            mode=self._mode,
            select=["id"],
            reranker=self._reranker,
            candidates=self._candidates,
        )
        ids: list[str] = found["id"].to_pylist()
        return ids

    def __call__(self, queries: Mapping[str, str], k: int) -> dict[str, dict[str, float]]:
        """Answer as a retriever does; the score is the place."""
        return {
            query_id: {doc_id: -float(rank) for rank, doc_id in enumerate(self.one(query, k))}
            for query_id, query in queries.items()
        }


def _times(ask: Asking, test: Pairs, n_queries: int) -> dict[str, float]:
    asked = list(test.queries.values())[:n_queries]
    ask.one(asked[0], K)
    seconds = []
    for query in asked:
        start = time.perf_counter()
        ask.one(query, K)
        seconds.append(time.perf_counter() - start)
    return latency_ms(seconds)


# --- what follows --------------------------------------------------------------------------


def _conclusions(test: Mapping[str, Evaluation], dev: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Say what reranking gains, whether it still does on the tuned embedder, and what is best."""
    gains = {
        cell: compared(test[cell.rpartition("/")[0] + "/alone"], test[cell])
        for cell in test
        if not cell.endswith("/alone")
    }
    best = max(test, key=lambda cell: test[cell].metrics["ndcg@10"].mean)
    picked = _picked(dev)
    return {
        "gains_ndcg@10": gains,
        "interaction_ndcg@10": _interactions(test),
        "best": best,
        "picked": {"cell": picked, "best_minus_it": compared(test[picked], test[best])},
    }


def _picked(dev: Mapping[str, Evaluation]) -> str:
    """Return what the pipeline serves: `improve` picks the mode, `train_reranker` its reranker.

    Both by dev: the better mode of the tuned embedder, and the reranker where the interval of its
    gain over that search is above zero.
    """
    embedder = "tuned" if "tuned/vector/alone" in dev else "base"
    alone = [f"{embedder}/{mode}/alone" for mode in ("vector", "hybrid")]
    found = max(alone, key=lambda cell: dev[cell].metrics["ndcg@10"].mean)
    reranked = found.replace("/alone", "/cross-encoder")
    if reranked in dev and compared(dev[found], dev[reranked])["ci95"][0] > 0:
        return reranked
    return found


def _interactions(cells: Mapping[str, Evaluation]) -> dict[str, Any]:
    """Return how much less (or more) the cross-encoder gains on the tuned than on the base one."""
    found = {}
    for mode in ("vector", "hybrid"):
        names = [f"{e}/{mode}/{o}" for e in ("tuned", "base") for o in ("cross-encoder", "alone")]
        if not all(name in cells for name in names):
            continue
        values = [cells[name].per_query["ndcg@10"] for name in names]
        per_query = np.array(
            [values[0][q] - values[1][q] - (values[2][q] - values[3][q]) for q in values[0]]
        )
        found[mode] = mean_interval(per_query)
    return found


def _aims(name: str, found: Mapping[str, Any], given: argparse.Namespace) -> list[dict[str, Any]]:
    lowest = found["picked"]["best_minus_it"]["ci95"][0]
    lines = [aim(f"{name}: nDCG@10 of the best minus what is picked, lower bound", lowest, "<=", 0)]
    cells = found["cells"]
    for embedder in ("base", "tuned"):
        ours, theirs = (
            cells.get(f"{embedder}/hybrid/{o}") for o in ("cross-encoder", "cohere-shaped")
        )
        if ours and theirs:
            values = [
                found["evaluations"][f"{embedder}/hybrid/{o}"].metrics["ndcg@10"].mean
                for o in ("cross-encoder", "cohere-shaped")
            ]
            lost = abs(values[0] - values[1])
            lines.append(aim(f"{name}: {embedder}, nDCG@10 lost by the service", lost, "<=", 0.005))
            lines.append(
                aim(
                    f"{name}: {embedder}, ms of a query through the service, its model's time 0",
                    theirs["ms"]["p50_ms"],
                    "<=",
                    max(25.0, 0.5 * ours["ms"]["p50_ms"]),
                )
            )
    return lines


if __name__ == "__main__":
    main()
