"""`ColbertReranker`: late interaction over token vectors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder import resolve_device
from lancedb_ft.errors import StoreError
from lancedb_ft.reranking.base import Reading, TextReranker, check_count
from lancedb_ft.reranking.guard import Deadline, RerankGuard
from lancedb_ft.reranking.late import find_token_model, load_token_model
from lancedb_ft.reranking.waves import Pace, keys_in_time
from lancedb_ft.store import ResolvedModel
from lancedb_ft.types import ModelVersion

__all__ = ["ColbertReranker"]


class ColbertReranker(TextReranker):
    """Compares each token of the query with its best token of a text (MaxSim).

    Between a cross-encoder, which reads query and text together, and an embedder, which reads them
    apart: the texts are read apart, and compared token by token. Runs in this process through
    sentence-transformers' MultiVectorEncoder; see `TextReranker` for the result.
    ``_relevance_score`` is the mean over the query's tokens, negative means as 0.

    Parameters
    ----------
    model
        A folder that sentence-transformers 6 saved a ``MultiVectorEncoder`` in (it reads ColBERT's
        and PyLate's, too: ``MultiVectorEncoder(name).save_pretrained(folder)``), or any embedder,
        by whatever names one: its token vectors, though not trained for it, can be compared.
    store
        URI of the model store, for ``name@version``.
    batch_size
        Texts in one forward pass; they are sorted by length.
    device
        ``cpu``, ``cuda``, ``mps``; None for the best there is.
    column, top_k, return_score
        See `TextReranker`.
    guard
        Its ``deadline_s``, none by default: the best candidates of the search are read first, and
        what there is no time for stands unread behind them. Loading the model is not counted.

    Raises
    ------
    ModelKindError
        The model is a cross-encoder.
    ModelNotFoundError, StoreNotFoundError, FingerprintError, UnsafeModelError
        It is not there, or may not be loaded.
    InputError
        Another argument cannot be used.

    References
    ----------
    Khattab and Zaharia: ColBERT: Efficient and Effective Passage Search via Contextualized Late
    Interaction over BERT. SIGIR 2020. arXiv:2004.12832
    """

    _live: ClassVar[tuple[str, ...]] = (*TextReranker._live, "_pace")

    def __init__(
        self,
        model: str | Path | ModelVersion | ResolvedModel,
        *,
        store: str | None = None,
        column: str = "text",
        top_k: int | None = None,
        batch_size: int = 16,
        device: str | None = None,
        return_score: str = "relevance",
        guard: RerankGuard | None = None,
    ) -> None:
        guard = guard or RerankGuard(deadline_s=None)
        super().__init__(column=column, top_k=top_k, return_score=return_score, guard=guard)
        check_count("batch_size", batch_size)
        resolve_device(device)
        self.model = find_token_model(model, store=store)
        self.batch_size = batch_size
        self.device = device

    def _start(self) -> None:
        super()._start()
        self._pace = Pace()

    def __str__(self) -> str:
        """Say which model it is; shown in LanceDB's query plans."""
        return f"ColbertReranker({self.model.ref})"

    def encoder(self) -> Any:
        """Return the running ``MultiVectorEncoder``, loaded at first use in this process."""
        return load_token_model(self.model, device=self.device)

    def guarded(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Load the model before the clock starts; then as for every reranker."""
        self.encoder()
        return super().guarded(query, texts, deadline)

    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Compare the tokens of the query with those of each text."""
        encoder = self.encoder()
        asked = encoder.encode_query([query], show_progress_bar=False, normalize_embeddings=True)
        n_tokens = max(1, len(asked[0]))

        def keys_of(some: Sequence[str]) -> npt.NDArray[np.float32]:
            vectors = encoder.encode_document(
                list(some),
                batch_size=self.batch_size,
                show_progress_bar=False,
                normalize_embeddings=True,
            )
            found = encoder.similarity(asked, vectors)[0]
            return np.asarray(found.float().cpu().numpy() / n_tokens, np.float32)

        keys, degraded = keys_in_time(keys_of, texts, deadline, self._pace)
        if np.isinf(keys).any() or (np.isnan(keys).any() and not degraded):
            raise StoreError(f"{self} gave NaN or infinite numbers: its weights are damaged.")
        scores = np.clip(np.nan_to_num(keys, nan=0.0), 0, 1)
        return Reading(keys, scores.astype(np.float32), degraded)
