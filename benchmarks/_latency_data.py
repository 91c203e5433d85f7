"""The rows and queries of the latency benchmark, made block by block so that a million fit.

Texts are 60 words of a vocabulary with Zipf weights. Vectors are random unit vectors, or real ones:
those of the tldr pages by all-MiniLM-L6-v2, each block turned by a random rotation of its own,
which keeps every cosine within a block. A query is a noisy copy of one row's vector and six words
of its text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _sets import base_model, require_set

DIMS = 384
N_VOCABULARY = 20_000
N_WORDS = 60
BLOCK = 25_000
SCHEMA = pa.schema(
    [("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), DIMS))]
)


@dataclass
class Queries:
    """Texts, vectors, and the row each was made from."""

    texts: list[str] = field(default_factory=list)
    vectors: list[np.ndarray] = field(default_factory=list)
    sources: list[str] = field(default_factory=list)


class Rows:
    """The rows of a table; reading them makes the queries."""

    def __init__(self, n_rows: int, n_queries: int, *, seed: int, real: bool) -> None:
        self.n_rows, self.n_queries = n_rows, n_queries
        self.rng = np.random.default_rng(seed)
        self.queries = Queries()
        self.vocabulary = _vocabulary()
        self.real = _real_vectors() if real else None

    def reader(self) -> pa.RecordBatchReader:
        """Return the rows, once."""
        return pa.RecordBatchReader.from_batches(SCHEMA, self._batches())

    def _batches(self) -> Iterator[pa.RecordBatch]:
        asked = np.sort(self.rng.choice(self.n_rows, size=self.n_queries, replace=False))
        weights = 1 / np.arange(1, N_VOCABULARY + 1)
        for start in range(0, self.n_rows, BLOCK):
            n = min(BLOCK, self.n_rows - start)
            words = self.rng.choice(N_VOCABULARY, size=(n, N_WORDS), p=weights / weights.sum())
            vectors = self._vectors(n)
            for row in asked[(asked >= start) & (asked < start + n)] - start:
                self._ask(f"d{start + row}", words[row], vectors[row])
            flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMS)
            ids = [f"d{start + row}" for row in range(n)]
            texts = [" ".join(self.vocabulary[row]) for row in words]
            yield pa.record_batch([pa.array(ids), pa.array(texts), flat], schema=SCHEMA)

    def _vectors(self, n: int) -> np.ndarray:
        if self.real is None:
            return _unit(self.rng.normal(size=(n, DIMS)))
        turned, _ = np.linalg.qr(self.rng.normal(size=(DIMS, DIMS)))
        chosen = self.rng.choice(len(self.real), size=n, replace=n > len(self.real))
        return _unit(self.real[chosen] @ turned.astype(np.float32))

    def _ask(self, name: str, words: np.ndarray, vector: np.ndarray) -> None:
        chosen = self.rng.choice(words, size=6, replace=False)
        noise = self.rng.normal(size=DIMS) / np.sqrt(DIMS)
        self.queries.texts.append(" ".join(self.vocabulary[chosen]))
        self.queries.vectors.append(_unit((vector + 0.5 * noise)[None])[0])
        self.queries.sources.append(name)


def _vocabulary() -> np.ndarray:
    syllables = np.array(["ba", "ko", "ri", "ten", "lu", "sha", "mi", "dor", "va", "ne"])
    spelled = (list(map(int, f"{i:05d}")) for i in range(N_VOCABULARY))
    return np.array(["".join(syllables[digits]) for digits in spelled])


def _real_vectors() -> np.ndarray:
    import lancedb_ft as ft

    texts = pq.read_table(require_set("tldr") / "corpus.parquet", columns=["text"])["text"]
    found = ft.get_encoder(base_model()).encode(texts.slice(0, BLOCK).to_pylist())
    return found.flatten().to_numpy().reshape(len(found), -1).astype(np.float32)


def _unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
