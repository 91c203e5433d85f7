"""Qdrant in this process (its local mode), as a peer in the latency benchmark.

The same vectors, and the words of each text as a sparse vector with BM25's weights of a term in a
document (k1 1.2, b .75); the collection multiplies them by the IDF. Both are fused by RRF.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pyarrow as pa
from _latency_data import DIMS, N_WORDS, Queries

K1 = 1.2
_BATCH = 2_000


class LocalQdrant:
    """A collection in memory of the rows of a table."""

    def __init__(self, rows: pa.Table) -> None:
        from qdrant_client import QdrantClient, models

        self.models = models
        self.numbers: dict[str, int] = {}
        self.client = QdrantClient(":memory:")
        self.client.create_collection(
            "docs",
            vectors_config={
                "vector": models.VectorParams(size=DIMS, distance=models.Distance.COSINE)
            },
            sparse_vectors_config={"text": models.SparseVectorParams(modifier=models.Modifier.IDF)},
        )
        for start in range(0, rows.num_rows, _BATCH):
            self._upsert(start, rows.slice(start, _BATCH))

    def _upsert(self, start: int, rows: pa.Table) -> None:
        vectors = rows["vector"].combine_chunks().flatten().to_numpy().reshape(-1, DIMS)
        pairs = zip(rows["id"].to_pylist(), rows["text"].to_pylist(), strict=True)
        self.client.upsert(
            "docs",
            [
                self.models.PointStruct(
                    id=start + i,
                    vector={"vector": vectors[i], "text": self._sparse(text)},
                    payload={"id": name, "text": text},
                )
                for i, (name, text) in enumerate(pairs)
            ],
        )

    def _sparse(self, text: str) -> Any:
        """All texts have the same length, so BM25's length correction is 1."""
        counts = Counter(text.split())
        assert counts.total() <= N_WORDS
        numbers = [self.numbers.setdefault(word, len(self.numbers)) for word in counts]
        weights = [n * (K1 + 1) / (n + K1) for n in counts.values()]
        return self.models.SparseVector(indices=numbers, values=weights)

    def arm(self, q: Queries, k: int) -> Any:
        """Return ``(query number) -> rows``, fused from the best ``k`` of each leg as LanceDB."""
        models = self.models

        def search(i: int) -> pa.Table:
            words = {self.numbers[w] for w in q.texts[i].split() if w in self.numbers}
            sparse = models.SparseVector(indices=list(words), values=[1.0] * len(words))
            found = self.client.query_points(
                "docs",
                prefetch=[
                    models.Prefetch(query=np.asarray(q.vectors[i]), using="vector", limit=k),
                    models.Prefetch(query=sparse, using="text", limit=k),
                ],
                query=models.FusionQuery(fusion=models.Fusion.RRF),
                limit=k,
            ).points
            return pa.table(
                {
                    "id": [point.payload["id"] for point in found],
                    "text": [point.payload["text"] for point in found],
                    "_relevance_score": [point.score for point in found],
                }
            )

        return search
