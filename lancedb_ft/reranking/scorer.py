"""The scorer: pairs of texts in, one number each out."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import nullcontext
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder.tokens import BatchLimit, token_batches
from lancedb_ft.errors import InputError, StoreError
from lancedb_ft.memory import kept_memory
from lancedb_ft.reranking.loading import CrossEncoderModel
from lancedb_ft.reranking.pairs import PairTokenizer, PairTokens
from lancedb_ft.types import Progress

__all__ = ["Scorer"]

Scores: TypeAlias = "npt.NDArray[np.float32]"

#: Pairs that are tokenized, sorted and batched together.
WINDOW = 8192
#: From so many pairs on, keeping memory between batches pays for giving it back at the end.
MANY = 256
_MIN_TOKENS = 8


class Scorer:
    """A running cross-encoder. Made by `get_scorer`; threads may share one.

    Attributes
    ----------
    ref, fingerprint
        The model; empty for one that lives in memory only.
    device, precision
        Where it runs, and what the weights are held in.
    max_tokens
        The longest pair that it reads.
    """

    def __init__(
        self,
        model: CrossEncoderModel,
        *,
        ref: str = "",
        fingerprint: str = "",
    ) -> None:
        self._model = model
        self.ref = ref
        self.fingerprint = fingerprint
        self.device = str(model.network.device)
        self.precision = str(model.network.dtype).removeprefix("torch.")
        self.max_tokens = model.max_tokens
        self._limit = _batch_limit(self.device)
        self._tokenizers: dict[int, PairTokenizer] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        """Say which model, and where it runs."""
        return f"Scorer({self.ref or 'a model in memory'}, {self.device}, {self.precision})"

    def tokenizer(self, max_tokens: int | None = None) -> PairTokenizer:
        """Return the tokenizer for pairs of at most so many tokens; None for the model's limit.

        Raises
        ------
        InputError
            The number is too small to hold a pair.
        """
        limit = self.max_tokens if max_tokens is None else min(max_tokens, self.max_tokens)
        if limit < _MIN_TOKENS:
            raise InputError(f"max_tokens is {max_tokens}; it must be {_MIN_TOKENS} or more.")
        with self._lock:
            if limit not in self._tokenizers:
                self._tokenizers[limit] = PairTokenizer(self._model.tokenizer, limit)
            return self._tokenizers[limit]

    def score(
        self,
        pairs: Sequence[tuple[str, str]],
        *,
        max_tokens: int | None = None,
        progress: Progress | None = None,
    ) -> Scores:
        """Score pairs of a query and a text.

        Pairs are sorted by their number of tokens, so that hardly any padding is computed.

        Parameters
        ----------
        pairs
            ``(query, text)``.
        max_tokens
            Longer pairs are cut; at most what the model reads.
        progress
            Called as ``progress(pairs done, pairs)``.

        Returns
        -------
        npt.NDArray[np.float32]
            Shape ``(pairs,)``: logits, any real numbers; higher is better.

        Raises
        ------
        StoreError
            The model gave NaN or infinite numbers.
        """
        tokenizer = self.tokenizer(max_tokens)
        scores = np.empty(len(pairs), np.float32)
        n_done = 0
        with kept_memory() if len(pairs) >= MANY else nullcontext():
            for start in range(0, len(pairs), WINDOW):
                tokens = tokenizer.tokens(pairs[start : start + WINDOW])
                lengths = np.fromiter((len(pair.ids) for pair in tokens), np.int64, len(tokens))
                for batch in token_batches(lengths, self._limit):
                    scores[start + batch] = self._forward(tokenizer, [tokens[i] for i in batch])
                    n_done += len(batch)
                    if progress is not None:
                        progress(n_done, len(pairs))
        if not np.isfinite(scores).all():
            raise StoreError(
                f"{self!r} gave NaN or infinite numbers for {int((~np.isfinite(scores)).sum())} "
                'pairs. Try precision="float32"; if it stays, the weights are damaged.'
            )
        return scores

    def _forward(self, tokenizer: PairTokenizer, tokens: list[PairTokens]) -> Scores:
        import torch

        with torch.inference_mode():
            logits = self._model.network(**tokenizer.features(tokens, self.device)).logits
            return np.asarray(logits[:, 0].float().cpu().numpy(), np.float32)


def _batch_limit(device: str) -> BatchLimit:
    """Return the batch size for a device; see `lancedb_ft.encoder.core` for what was measured."""
    import torch

    if device.startswith("cpu"):
        return BatchLimit(n_tokens=max(2_048, 1_024 * torch.get_num_threads()), n_texts=128)
    if device.startswith("cuda"):
        return BatchLimit(n_tokens=65_536, n_texts=2_048)
    return BatchLimit(n_tokens=16_384, n_texts=512)
