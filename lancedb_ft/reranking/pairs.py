"""Queries and texts as pairs of tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

__all__ = ["PairTokenizer", "PairTokens"]


class PairTokens(NamedTuple):
    """One pair: its tokens, and 0 or 1 for the text each is of."""

    ids: npt.NDArray[np.int64]
    types: npt.NDArray[np.int64]


class PairTokenizer:
    """A private copy of a model's fast tokenizer, for pairs of a query and a text.

    Truncation is set when it is made and never changed: several threads may use it at once. Of a
    pair that is too long the longer part loses tokens first, as in sentence-transformers.

    Parameters
    ----------
    tokenizer
        A fast tokenizer of transformers; left as it is.
    max_tokens
        The longest pair, special tokens included.
    """

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        backend: Tokenizer = tokenizer.backend_tokenizer
        self._tokenizer = type(backend).from_str(backend.to_str())
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(
            max_tokens, strategy="longest_first", direction=tokenizer.truncation_side
        )
        self._pad_id = int(tokenizer.pad_token_id or 0)
        self._pad_left = tokenizer.padding_side == "left"
        self._names = tuple(tokenizer.model_input_names)

    def tokens(self, pairs: Sequence[tuple[str, str]]) -> list[PairTokens]:
        """Tokenize: special tokens included, truncated at the limit."""
        return [
            PairTokens(np.array(e.ids, np.int64), np.array(e.type_ids, np.int64))
            for e in self._tokenizer.encode_batch_fast(list(pairs))
        ]

    def features(
        self, pairs: Sequence[PairTokens], device: str | torch.device
    ) -> dict[str, torch.Tensor]:
        """Pad some pairs to one batch, as the network takes it."""
        import torch

        width = max(len(pair.ids) for pair in pairs)
        ids = np.full((len(pairs), width), self._pad_id, np.int64)
        types, mask = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            n = len(pair.ids)
            span = slice(width - n, width) if self._pad_left else slice(0, n)
            ids[row, span], types[row, span], mask[row, span] = pair.ids, pair.types, 1
        made = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
        return {
            name: torch.from_numpy(made[name]).to(device) for name in self._names if name in made
        }
