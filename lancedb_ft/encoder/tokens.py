"""Tokenize a window of texts once, and cut it into batches of about equal length.

sentence-transformers sorts by characters, cuts by a number of texts and tokenizes each batch on
its own, so a batch is padded to its longest text and short batches leave the cores idle. Here the
token counts are known before anything is cut, and a batch is as many texts as fit a token budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer
    from tokenizers import Tokenizer

__all__ = ["BatchLimit", "TokenIds", "WindowTokenizer", "token_batches"]

TokenIds: TypeAlias = "npt.NDArray[np.int64]"

# What a tokenizer may treat unusually: case, special tokens written out, other scripts, a text
# beyond any limit. The private tokenizer must give what the model's own one gives for all.
_PROBES = (
    "a",
    "How do I Cancel my order?  [MASK] </s> <s> [SEP]",
    "Ünïcödé 漢字 العربية \t\n emoji 🎉 x\u200by",
    " ".join(f"{number} of 9000" for number in range(3000)),
)


@dataclass(frozen=True)
class BatchLimit:
    """How large a batch may be: padded tokens (longest x number), and texts."""

    n_tokens: int
    n_texts: int


def token_batches(
    lengths: npt.NDArray[np.int64], limit: BatchLimit
) -> Iterator[npt.NDArray[np.int64]]:
    """Cut texts into batches within a token budget, longest first.

    Longest first, so that the peak of memory comes at once and not after an hour.

    Parameters
    ----------
    lengths
        Token counts, shape ``(n,)``.
    limit
        A batch of one is allowed to pass the token budget.

    Yields
    ------
    npt.NDArray[np.int64]
        Positions in ``lengths``; together each position once.

    Examples
    --------
    >>> [b.tolist() for b in token_batches(np.array([1, 9, 5, 5]), BatchLimit(10, 8))]
    [[1], [2, 3], [0]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(int(lengths[order[start]]), 1)
        n_texts = max(1, min(limit.n_texts, limit.n_tokens // longest))
        yield order[start : start + n_texts]
        start += n_texts


class WindowTokenizer:
    """A private copy of a model's fast tokenizer, for one kind of text.

    Truncation is set when it is made and never changed: several threads may use it at once. The
    model's own tokenizer sets truncation and padding at each call, which raises "Already borrowed"
    under concurrency.

    Parameters
    ----------
    tokenizer
        A ``tokenizers.Tokenizer`` of its own, truncation set, no padding.
    prompt
        What stands before each text.
    pad_id, pad_left
        How a batch is padded.
    names
        The tensors the model takes: ``input_ids`` and some of ``attention_mask``,
        ``token_type_ids``.
    constants
        The other features, the same for every batch (``modality``, ``prompt_length``).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        prompt: str,
        pad_id: int,
        pad_left: bool,
        names: Sequence[str],
        constants: Mapping[str, Any],
    ) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._pad_id = pad_id
        self._pad_left = pad_left
        self._names = tuple(names)
        self._constants = dict(constants)

    @classmethod
    def of(
        cls, model: SentenceTransformer, *, task: str, prompt: str | None
    ) -> WindowTokenizer | None:
        """Make one for a model, or return None if its input module is not a plain tokenizer.

        That it agrees with the model is not assumed: both tokenize a few difficult texts, and
        anything that differs (templates, query expansion, other tensors, an overridden tokenizer)
        gives None.
        """
        import torch

        source: Any = getattr(model[0], "tokenizer", None)
        backend = getattr(source, "backend_tokenizer", None)
        if backend is None or getattr(source, "pad_token_id", None) is None:
            return None
        expected = model.preprocess(list(_PROBES), prompt=prompt, task=task)
        tensors = {k: v for k, v in expected.items() if isinstance(v, torch.Tensor)}
        ids = tensors.get("input_ids")
        if ids is None or ids.ndim != 2 or len(ids) != len(_PROBES):
            return None
        made = cls(
            _private_copy(backend, _limit(model[0], task), source.truncation_side),
            prompt=prompt or "",
            pad_id=int(source.pad_token_id),
            pad_left=source.padding_side == "left",
            names=tuple(tensors),
            constants={k: v for k, v in expected.items() if k not in tensors},
        )
        found = made.features(made.ids(list(_PROBES)), "cpu")
        agree = all(
            name in found
            and found[name].shape == tensor.shape
            and bool((found[name] == tensor.cpu()).all())
            for name, tensor in tensors.items()
        )
        return made if agree else None

    def ids(self, texts: Sequence[str]) -> list[TokenIds]:
        """Tokenize: special tokens included, truncated at the model's limit."""
        prompt = self._prompt
        told = [prompt + text for text in texts] if prompt else list(texts)
        return [np.array(e.ids, np.int64) for e in self._tokenizer.encode_batch_fast(told)]

    def features(
        self, ids: Sequence[TokenIds], device: str | torch.device
    ) -> dict[str, torch.Tensor | Any]:
        """Pad some texts to one batch, as the model's forward takes it."""
        import torch

        width = max(len(row) for row in ids)
        tokens = np.full((len(ids), width), self._pad_id, np.int64)
        mask = np.zeros((len(ids), width), np.int64)
        for place, row in enumerate(ids):
            span = slice(width - len(row), width) if self._pad_left else slice(0, len(row))
            tokens[place, span] = row
            mask[place, span] = 1
        made = {
            "input_ids": tokens,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(tokens),
        }
        tensors = {
            name: torch.from_numpy(made[name]).to(device) for name in self._names if name in made
        }
        return {**self._constants, **tensors}


def _limit(module: Any, task: str) -> int | None:
    """Return the token limit that the model's input module uses for this kind of text."""
    of_task = getattr(module, f"{task}_length", None)
    limit = of_task if of_task is not None else module.max_seq_length
    # transformers writes "no limit" as 1e30.
    return int(limit) if limit is not None and limit < 1_000_000_000 else None


def _private_copy(backend: Tokenizer, limit: int | None, side: str) -> Tokenizer:
    copy = type(backend).from_str(backend.to_str())
    copy.no_padding()
    if limit is None:
        copy.no_truncation()
    else:
        copy.enable_truncation(limit, strategy="longest_first", direction=side)
    return copy
