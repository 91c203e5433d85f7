"""What a reranker is measured on: dev queries with the candidates of a first search."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

import pyarrow.compute as pc

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import evaluate
from lancedb_ft.reranking import Scorer
from lancedb_ft.train.dev import retrieval_pairs
from lancedb_ft.train.devset import choose_queries
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Evaluation, Pairs, Retriever, Run

__all__ = ["DevLists", "dev_lists", "dev_pairs"]

#: Candidates a query: what a page of results is chosen from, and what an evaluation costs.
DEPTH = 20
#: Dev queries: a tenth as many as there are lists to train on, at least and at most.
MIN_QUERIES, MAX_QUERIES = 150, 500
#: A text with a higher score answers: of scored pairs, whose scores are from 0 to 1.
ANSWERS_ABOVE = 0.5
_METRICS = ("ndcg@10", "mrr@10", "hit@5", "hit@10")


@dataclass(frozen=True)
class DevLists:
    """Dev queries, each with its candidates.

    Parameters
    ----------
    pairs
        Queries with the documents that answer them.
    run
        The first search's candidates and scores.
    texts
        ``{doc_id: text}`` of all candidates.
    metric
        What decides, measured beside the usual ones.
    """

    pairs: Pairs
    run: Run
    texts: Mapping[str, str] = field(repr=False)
    metric: str = "ndcg@10"

    @property
    def n_queries(self) -> int:
        """Number of dev queries."""
        return len(self.pairs.qrels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over queries, candidates, their order and texts."""
        digest = hashlib.sha256(self.pairs.fingerprint.encode())
        for query_id, hits in self.run.items():
            for doc_id, score in hits.items():
                told = f"\x1e{query_id}\x1f{doc_id}\x1f{score!r}\x1f{self.texts[doc_id]}"
                digest.update(told.encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def first_stage(self) -> Evaluation:
        """Measure the order of the first search."""
        return self._evaluate(self.run, "first search")

    def measure(self, scorer: Scorer, *, max_tokens: int) -> Evaluation:
        """Rerank all candidates and measure the new order.

        A document that the first search did not find stays unfound: the figures are those that a
        user would get.
        """
        queries = self.pairs.queries
        asked = [(q, doc_id) for q, hits in self.run.items() for doc_id in hits]
        pairs = [(queries[q], self.texts[doc_id]) for q, doc_id in asked]
        found: dict[str, dict[str, float]] = {q: {} for q in self.run}
        scores = scorer.score(pairs, max_tokens=max_tokens).tolist()
        for (query_id, doc_id), score in zip(asked, scores, strict=True):
            found[query_id][doc_id] = score
        return self._evaluate(found, "reranked")

    def _evaluate(self, run: Run, name: str) -> Evaluation:
        metrics = list(dict.fromkeys((self.metric, *_METRICS)))
        return evaluate(run, self.pairs, metrics=metrics, name=name)


def dev_pairs(dev: Pairs | TrainingSet) -> Pairs:
    """Return dev queries with the documents that answer them.

    Of scored pairs these are the first texts, with those that score above 0.5 beside them.

    Raises
    ------
    InputError
        No document answers a query.
    """
    if isinstance(dev, Pairs):
        return dev
    if dev.kind != "scored":
        return retrieval_pairs(dev)
    good = dev.table.filter(pc.greater(dev.table["score"], ANSWERS_ABOVE))
    if not good.num_rows:
        raise InputError(
            f"None of the {len(dev)} scored pairs of the dev set has a score above "
            f"{ANSWERS_ABOVE}, so no text answers a query. Pass dev= (--dev) queries with "
            "documents that answer them."
        )
    answers = good.select(["sentence1", "sentence2"]).rename_columns(["anchor", "positive"])
    return retrieval_pairs(TrainingSet("pairs", answers, dev.source))


def dev_lists(
    dev: Pairs,
    candidates: Run | Retriever,
    *,
    documents: Mapping[str, str],
    n_lists: int,
    seed: int,
    metric: str,
) -> DevLists:
    """Choose dev queries, and ask the first search for their candidates.

    Parameters
    ----------
    dev
        Held-out pairs; of many queries some are chosen by ``seed``.
    candidates
        A finished run, or the first search.
    documents
        ``{doc_id: text}`` of what the first search searches, beside the documents of ``dev``.
    n_lists
        How much is trained on: the evaluations shall cost a small share of that.
    seed, metric
        See `lancedb_ft.train.rerankers.config.RerankerConfig`.

    Raises
    ------
    InputError
        There are no dev pairs, a candidate has no text, or no candidate of any query is relevant:
        no order of them is better than another.
    """
    if not len(dev):
        raise InputError("The dev set is empty: it is what tells a better checkpoint from a worse.")
    chosen = choose_queries(dev, min(max(n_lists // 10, MIN_QUERIES), MAX_QUERIES), seed)
    texts = {**documents, **chosen.corpus}
    queries = chosen.queries
    run = candidates if isinstance(candidates, Mapping) else candidates(queries, DEPTH)
    kept = {q: _best(run.get(q, {})) for q in queries}
    if unknown := sorted({d for hits in kept.values() for d in hits if d not in texts}):
        raise InputError(
            f"{len(unknown)} candidates of the dev queries have no text, for example "
            f"{unknown[0]!r}. Pass documents= with the texts of all documents that were searched."
        )
    qrels = chosen.qrels
    if not any(doc_id in qrels[q] for q, hits in kept.items() for doc_id in hits):
        raise InputError(
            f"Among the candidates of {len(queries)} dev queries there is no document that answers "
            "one: no order of them would be better than another."
        )
    shown = {doc_id: texts[doc_id] for hits in kept.values() for doc_id in hits}
    return DevLists(chosen, kept, shown, metric)


def _best(hits: Mapping[str, float]) -> dict[str, float]:
    ranked = sorted(hits.items(), key=lambda hit: (-hit[1], hit[0]))
    return dict(ranked[:DEPTH])
