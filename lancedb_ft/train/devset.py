"""The dev set: what is held out, and measured during training.

Retrieval is measured in a small corpus: pairs, triplets, negatives and rankings by their queries,
entailments by their premises, labelled texts by finding texts of their label. Scored pairs are
measured by the rank correlation of cosines and scores.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from lancedb_ft.data import split_pairs
from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.errors import InputError, LeakError
from lancedb_ft.evaluate import evaluate, exact_retriever, parse_metric
from lancedb_ft.evaluate.queries import TextEncoder
from lancedb_ft.train.corpus import corpus_around
from lancedb_ft.types import DEFAULT_METRICS, Evaluation, Pairs

__all__ = [
    "DevSet",
    "Measured",
    "check_leaks",
    "choose_queries",
    "hold_out",
    "make_dev_set",
]

#: Share of the pairs that is held out when no dev pairs are given.
HELD_OUT = 0.1
#: Each evaluation encodes the whole dev corpus. With a fifth as many documents as training pairs,
#: five evaluations an epoch cost about a quarter of the training itself.
SHARE_OF_TRAINING = 0.2
#: However few or many training pairs there are: dev queries.
MIN_QUERIES, MAX_QUERIES = 300, 1_000
#: And training documents that are distractors; of given ones, as many as `MAX_DISTRACTORS`.
MIN_DISTRACTORS, MAX_DISTRACTORS = 250, 2_000


class Measured(Protocol):
    """Anything that a model in training is measured on."""

    @property
    def metric(self) -> str:
        """The metric that decides, where none is named."""
        ...

    @property
    def n_queries(self) -> int:
        """Number of queries, or of scored pairs: the n of every interval."""
        ...

    @property
    def n_documents(self) -> int:
        """Number of documents, or of scored pairs."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides its figures."""
        ...

    def check_metric(self, metric: str) -> None:
        """Raise `InputError` for a metric that cannot be measured on it."""
        ...

    def measure(self, encoder: TextEncoder, metric: str, *, name: str = "") -> Evaluation:
        """Measure a model as it is now."""
        ...


@dataclass(frozen=True)
class DevSet:
    """Dev pairs and the corpus they are looked up in.

    Parameters
    ----------
    pairs
        The queries with their documents.
    corpus
        ``{doc_id: text}``: the documents of the pairs, and distractors.
    alike
        Queries are texts of the same sort as documents, and get the prompt of documents.
    """

    pairs: Pairs
    corpus: Mapping[str, str] = field(repr=False)
    alike: bool = False

    @property
    def metric(self) -> str:
        """What decides where nothing else is said."""
        return "ndcg@10"

    @property
    def n_documents(self) -> int:
        """Number of documents in the corpus."""
        return len(self.corpus)

    def check_metric(self, metric: str) -> None:
        """Raise `InputError` for a metric that is not one of retrieval."""
        parse_metric(metric)

    @property
    def n_queries(self) -> int:
        """Number of dev queries."""
        return len(self.pairs.qrels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the pairs and the corpus."""
        digest = hashlib.sha256(self.pairs.fingerprint.encode())
        for doc_id, text in self.corpus.items():
            digest.update(f"\x1e{doc_id}\x1f{text}".encode("utf-8", "surrogatepass"))
        return digest.hexdigest()

    def measure(self, encoder: TextEncoder, metric: str, *, name: str = "") -> Evaluation:
        """Encode the corpus, ask every query, and measure the answers.

        Parameters
        ----------
        encoder
            Of the model as it is now.
        metric
            Measured in any case, beside `DEFAULT_METRICS`.
        """
        metrics = list(dict.fromkeys((metric, *DEFAULT_METRICS)))
        retriever = exact_retriever(_OneSided(encoder) if self.alike else encoder, self.corpus)
        return evaluate(retriever, self.pairs, metrics=metrics, name=name)


@dataclass(frozen=True)
class _OneSided:
    """Encodes queries as documents."""

    encoder: TextEncoder

    def encode(self, texts: Any, *, kind: Any = "document", progress: Any = None) -> Any:
        """Encode texts as documents, whatever they are asked as."""
        return self.encoder.encode(texts, kind="document", progress=progress)


def hold_out(pairs: Pairs, *, seed: int) -> tuple[Pairs, Pairs, dict[str, Any]]:
    """Split off a dev set: no query, no document and no near-duplicate of one is in both parts.

    Returns
    -------
    tuple
        Pairs to train on, dev pairs, and how they were split.

    Raises
    ------
    InputError
        The pairs are too few, or hang together too much, to be split.
    """
    try:
        split = split_pairs(pairs, seed=seed, shares=(1 - HELD_OUT, HELD_OUT, 0.0))
    except InputError as error:
        raise InputError(
            f"No dev set was given, and {HELD_OUT:.0%} of the {len(pairs)} pairs cannot be held "
            f"out as one: {error} Pass dev=."
        ) from error
    return split.train, split.dev, dict(split.info)


def check_leaks(train: Pairs, dev: Pairs) -> None:
    """Refuse a dev set that has a query or a document of the training pairs in it.

    Texts are compared but for case and white space; `lancedb_ft.audit` finds near-duplicates, too.

    Raises
    ------
    LeakError
        Texts stand in both.
    """
    shared: dict[str, list[str]] = {}
    for column in ("query", "document"):
        seen = {normalise(t) for t in train.table[column].unique().to_pylist()}
        texts = dev.table[column].unique().to_pylist()
        shared[column] = sorted(t for t in texts if normalise(t) in seen)
    n_leaks = sum(map(len, shared.values()))
    if n_leaks:
        examples = [text[:200] for texts in shared.values() for text in texts[:3]]
        raise LeakError(
            f"{len(shared['query'])} queries and {len(shared['document'])} documents of the dev "
            f"set are also trained on, for example {examples[0]!r}: dev figures would be too good, "
            "and the wrong checkpoint would be kept. Split with split_pairs, or remove them with "
            "drop_leaks.",
            n_leaks=n_leaks,
            examples=examples,
        )


def make_dev_set(
    dev: Pairs, train: Pairs, *, seed: int, distractors: Mapping[str, str] | None = None
) -> DevSet:
    """Choose dev queries and the documents around theirs.

    Parameters
    ----------
    dev
        Held-out pairs; of many queries some are chosen by ``seed``: a fifth as many as training
        pairs, at least 300, at most 1,000.
    train
        Their documents are the distractors when none are given: so many that the corpus is a fifth
        of the training pairs, at least 250, at most 2,000.
    distractors
        ``{doc_id: text}``, such as the table's other documents, of which 2,000 are taken. What
        stands in ``dev`` as a document is never a distractor, whatever its id.

    Raises
    ------
    InputError
        There are no dev pairs.
    """
    if not len(dev):
        raise InputError("The dev set is empty: it is what tells a better checkpoint from a worse.")
    share = round(SHARE_OF_TRAINING * len(train))
    chosen = choose_queries(dev, min(max(share, MIN_QUERIES), MAX_QUERIES), seed)
    pool, n_others = distractors, MAX_DISTRACTORS
    if pool is None:
        pool = train.corpus
        n_others = min(max(share - len(chosen.corpus), MIN_DISTRACTORS), MAX_DISTRACTORS)
    corpus = corpus_around(dev, pool, n_others=n_others, seed=seed, chosen=chosen)
    return DevSet(chosen, corpus)


def choose_queries(dev: Pairs, n_queries: int, seed: int) -> Pairs:
    """Return the pairs of up to so many queries, chosen by ``seed``."""
    query_ids = dev.table["query_id"].unique().to_pylist()
    if len(query_ids) <= n_queries:
        return dev
    chosen = set(sorted(query_ids, key=lambda q: stable_key(seed, q))[:n_queries])
    return dev.take(pa.array([q in chosen for q in dev.table["query_id"].to_pylist()]))
