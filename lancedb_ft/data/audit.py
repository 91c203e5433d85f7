"""Prove that a split is clean, or say what is wrong with it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from lancedb_ft.data.leaks import Leak, find_leaks
from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import LeakError
from lancedb_ft.types import Pairs, Split

__all__ = ["AuditReport", "PartFigures", "audit"]

_MAX_EXAMPLES = 10
_SHORT_WORDS = {"query": 2, "document": 3}
_QUANTILES = (0.05, 0.5, 0.95)


@dataclass(frozen=True)
class PartFigures:
    """What one part of a split holds.

    Parameters
    ----------
    n_pairs, n_queries, n_documents
        Sizes; queries and documents by id.
    n_duplicate_queries, n_duplicate_documents
        Ids whose text another id of this part has already (case and white space apart).
    n_short_queries, n_short_documents
        Queries of fewer than 2 words, documents of fewer than 3.
    query_words, document_words
        ``{"p5", "p50", "p95", "max"}`` of the number of words.
    """

    n_pairs: int
    n_queries: int
    n_documents: int
    n_duplicate_queries: int
    n_duplicate_documents: int
    n_short_queries: int
    n_short_documents: int
    query_words: Mapping[str, int]
    document_words: Mapping[str, int]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Parameters
    ----------
    parts
        Figures by the name of the part.
    n_leaks
        How many leaks of each sort: ``"document near"``, ``"query text"`` and so on.
    examples
        Up to ten leaks of each sort.
    threshold
        Similarity from which texts counted as near-duplicates.
    near_duplicates
        Whether they were looked for.
    """

    parts: Mapping[str, PartFigures]
    n_leaks: Mapping[str, int]
    examples: tuple[Leak, ...]
    threshold: float
    near_duplicates: bool

    @property
    def ok(self) -> bool:
        """Whether nothing stands in two parts."""
        return not self.n_leaks

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "ok": self.ok,
            "threshold": self.threshold,
            "near_duplicates": self.near_duplicates,
            "parts": {name: asdict(figures) for name, figures in self.parts.items()},
            "n_leaks": dict(self.n_leaks),
            "examples": [leak.to_dict() for leak in self.examples],
        }

    def check(self) -> AuditReport:
        """Return this report if the split is clean.

        Raises
        ------
        LeakError
            Something stands in two parts; a test on such a split measures memory.
        """
        if self.ok:
            return self
        told = ", ".join(f"{n} x {sort}" for sort, n in self.n_leaks.items())
        shown = self.examples[0]
        raise LeakError(
            f"The split leaks: {told}. For example the {shown.kind} {shown.left[:80]!r} of "
            f"{shown.parts[0]} is in {shown.parts[1]} as {shown.right[:80]!r}. Make the split with "
            "split_pairs, or remove the leaking training pairs with drop_leaks(split).",
            n_leaks=sum(self.n_leaks.values()),
            examples=[leak.to_dict() for leak in self.examples],
        )


def audit(
    split: Split, *, threshold: float | None = None, near_duplicates: bool | None = None
) -> AuditReport:
    """Compare every query and every document of each part with those of the other parts.

    Equal ids, equal texts and near-duplicates are all found: the comparison is exact, so a split
    that passes is clean at this threshold.

    Parameters
    ----------
    split
        The split; it may come from anywhere.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1: of their three-word
        runs for documents, of their words for queries. By default what the split was made with,
        or 0.8.
    near_duplicates
        Whether to look for them. By default as the split was made, or True.
    """
    chosen = float(split.info.get("threshold", 0.8)) if threshold is None else threshold
    look = split.info.get("near_duplicates", True) if near_duplicates is None else near_duplicates
    counts: Counter[str] = Counter()
    examples = []
    for leak in find_leaks(split.parts(), threshold=chosen, near_duplicates=bool(look)):
        sort = f"{leak.kind} {leak.how}"
        counts[sort] += 1
        if counts[sort] <= _MAX_EXAMPLES:
            examples.append(leak)
    parts = {name: _figures(pairs) for name, pairs in split.parts().items()}
    return AuditReport(parts, dict(counts), tuple(examples), chosen, bool(look))


def _figures(pairs: Pairs) -> PartFigures:
    queries, corpus = pairs.queries, pairs.corpus
    return PartFigures(
        n_pairs=len(pairs),
        n_queries=len(queries),
        n_documents=len(corpus),
        n_duplicate_queries=_n_duplicates(queries),
        n_duplicate_documents=_n_duplicates(corpus),
        n_short_queries=_n_short(queries, _SHORT_WORDS["query"]),
        n_short_documents=_n_short(corpus, _SHORT_WORDS["document"]),
        query_words=_quantiles(queries),
        document_words=_quantiles(corpus),
    )


def _n_duplicates(texts: Mapping[str, str]) -> int:
    return len(texts) - len({normalise(text) for text in texts.values()})


def _n_short(texts: Mapping[str, str], n_words: int) -> int:
    return sum(len(text.split()) < n_words for text in texts.values())


def _quantiles(texts: Mapping[str, str]) -> dict[str, int]:
    if not texts:
        return {}
    lengths = np.array([len(text.split()) for text in texts.values()])
    found = {f"p{q * 100:.0f}": int(np.quantile(lengths, q)) for q in _QUANTILES}
    return {**found, "max": int(lengths.max())}
