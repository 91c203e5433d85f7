"""How a training step is computed: device, precision and memory, not what it learns."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.encoder import resolve_device

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = [
    "Compute",
    "choose_compute",
    "in_chunks",
    "kept_random_state",
    "plain_attention",
]

#: Tokens of one forward pass and thread on a CPU, see `in_chunks`.
CHUNK_TOKENS = 1_024

#: Longest texts for which `plain_attention` is: it holds length x length numbers a head and text.
PLAIN_ATTENTION_TOKENS = 512


@dataclass(frozen=True)
class Compute:
    """Where and how a step runs.

    Parameters
    ----------
    device
        ``cpu``, ``cuda:0``, ``mps``.
    precision
        ``float32``, or ``bfloat16`` for matrix products in bfloat16 with weights, gradients and
        the loss in float32 (autocast).
    chunk_tokens
        Most tokens of one forward pass; None: a whole batch at once.
    """

    device: str
    precision: str
    chunk_tokens: int | None

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """Compute in the precision, within."""
        if self.precision != "bfloat16":
            yield
            return
        import torch

        with torch.autocast(self.device.partition(":")[0], dtype=torch.bfloat16):
            yield


def choose_compute(device: str | None = None) -> Compute:
    """Choose by what the machine says it has, so that the same machine always chooses the same.

    Pairs a second of one core, all-MiniLM-L6-v2 at 128 tokens and batch 64, bfloat16 over float32:
    2.0 with AMX, 1.5 with AVX512-BF16 alone.

    Raises
    ------
    InputError
        There is no such device.
    """
    import torch

    where = resolve_device(device)
    if where.startswith("cuda"):
        precision = "bfloat16" if torch.cuda.is_bf16_supported(False) else "float32"
        return Compute(where, precision, None)
    if where != "cpu":
        return Compute(where, "float32", None)
    # Older torch cannot tell; float32 is right everywhere.
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    has_bfloat16 = told.get("amx_bf16") or told.get("avx512_bf16")
    return Compute(
        where,
        "bfloat16" if has_bfloat16 else "float32",
        CHUNK_TOKENS * torch.get_num_threads(),
    )


def in_chunks(model: Any, compute: Compute) -> nn.Module:
    """Wrap a model for a loss: without dropout, rows sorted by length and run in chunks.

    Padding then is that of the chunk, not of the longest text of the batch, and what a chunk
    computes with stays in the processor's cache. The embeddings, and so loss and gradients, are
    those of one large forward pass, up to rounding. CPU seconds of one core for 64 pairs of
    docstrings in bfloat16: one pass 9.4, chunks of 8 to 16 texts 5.9, without dropout (see
    `plain_attention`) 4.4.
    """
    import torch

    class InChunks(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, features: dict[str, Any]) -> dict[str, Any]:
            mask = features.get("attention_mask")
            limit = compute.chunk_tokens
            if limit is None or mask is None or mask.ndim != 2:
                return {"sentence_embedding": self._embed(features)}
            order = torch.argsort(mask.sum(dim=1), stable=True)
            chunks = [_rows_of(features, rows) for rows in _cut(order, mask, limit)]
            embeddings = torch.cat([self._embed(chunk) for chunk in chunks])
            return {"sentence_embedding": embeddings[torch.argsort(order)]}

        def __getattr__(self, name: str) -> Any:
            # Losses ask the model for its tokenizer, its limits and the length of its vectors.
            try:
                return super().__getattr__(name)
            except AttributeError:
                return getattr(super().__getattr__("model"), name)

        def __getitem__(self, position: int) -> Any:
            return self.model[position]

        def _embed(self, features: dict[str, Any]) -> torch.Tensor:
            # The trainer calls train() before each step, which turns dropout on. Drawing its masks
            # takes a quarter of a step, for no difference that could be measured: nDCG@10 on tldr
            # .450 with, .453 without (one run each; 6,000 pairs, one epoch, 2,565 test queries).
            self.model.eval()
            with compute.autocast():
                embedding: torch.Tensor = self.model(features)["sentence_embedding"]
            return embedding.float()

    return InChunks()


def _cut(order: torch.Tensor, mask: torch.Tensor, limit: int) -> Iterator[torch.Tensor]:
    """Cut rows, shortest first, so that rows x longest stays within the limit."""
    lengths = mask.sum(dim=1)[order].tolist()
    start = 0
    for end, length in enumerate(lengths):
        if end > start and (end + 1 - start) * length > limit:
            yield order[start:end]
            start = end
    yield order[start:]


def _rows_of(features: dict[str, Any], rows: torch.Tensor) -> dict[str, Any]:
    """Take some rows, without the columns in which all of them are padding."""
    import torch

    mask = features["attention_mask"]
    used = mask[rows].any(dim=0).nonzero()
    columns = slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(0, 1)
    return {
        key: value[rows][:, columns]
        if isinstance(value, torch.Tensor) and value.shape == mask.shape
        else value
        for key, value in features.items()
    }


@contextlib.contextmanager
def plain_attention(model: Any, compute: Compute) -> Iterator[None]:
    """Have attention computed by plain matrix products, within, where that is faster: on a CPU.

    The fused kernel saves memory that short texts do not need, and its backward pass is slow
    there: 4.4 instead of 6.0 CPU seconds for 64 pairs of docstrings in bfloat16. Models that are
    trained on more than `PLAIN_ATTENTION_TOKENS` keep theirs.
    """
    short = (model.max_seq_length or PLAIN_ATTENTION_TOKENS + 1) <= PLAIN_ATTENTION_TOKENS
    changed: list[Any] = []
    for module in model if compute.device == "cpu" and short else ():
        network = getattr(module, "auto_model", None)
        if getattr(getattr(network, "config", None), "_attn_implementation", None) == "sdpa":
            changed.append(network)
    for network in changed:
        network.set_attn_implementation("eager")
    try:
        yield
    finally:
        for network in changed:
            network.set_attn_implementation("sdpa")


# --- the process ---------------------------------------------------------------------------


@contextlib.contextmanager
def kept_random_state() -> Iterator[None]:
    """Give the caller's random generators back as they were: the trainer seeds them all."""
    import torch

    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
