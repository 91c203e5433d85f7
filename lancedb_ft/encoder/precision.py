"""float32 or bfloat16: timed and compared on the machine, not assumed."""

from __future__ import annotations

import copy
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder.bags import is_static
from lancedb_ft.encoder.core import Encoder
from lancedb_ft.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "MIN_SPEEDUP",
    "PRECISIONS",
    "check_precision",
    "choose_precision",
    "may_have_bfloat16",
    "with_precision",
]

#: What ``precision`` may be.
PRECISIONS = ("auto", "float32", "bfloat16")

#: bfloat16 is taken when it is so many times as fast, and every probe text agrees this well.
MIN_SPEEDUP = 1.2
MIN_COSINE = 0.999

# Flags of /proc/cpuinfo for which trying is worth its second; without one, bfloat16 is emulated.
# Texts a second in bfloat16 over float32, MiniLM: 2.5 with amx_bf16, 1.8 with avx512_bf16.
_CPU_FLAGS = {"amx_bf16", "avx512_bf16", "bf16"}

_SUBJECTS = (
    "the customer",
    "a scheduled job",
    "this function",
    "our invoice",
    "the cache",
    "an index",
    "the patient",
    "any request",
)
_REST = (
    "returns an error when the second argument is empty and the first one names no file",
    "was cancelled in March, so the amount is paid back within fourteen days to the same account",
    "keeps 3 copies of each block, which is why a node that fails costs no data at all",
    "should be read twice a day; 40 mg are enough unless the doctor says something else",
)


def check_precision(precision: str) -> None:
    """Raise `InputError` unless the precision is one of `PRECISIONS`."""
    if precision not in PRECISIONS:
        raise InputError(f"precision is {precision!r}; it must be one of {', '.join(PRECISIONS)}.")


def with_precision(model: SentenceTransformer, precision: str) -> SentenceTransformer:
    """Convert a model's weights, in place, and return it."""
    import torch

    model.to(getattr(torch, precision))
    return model


def may_have_bfloat16(device: str) -> bool:
    """Say whether a device claims to compute in bfloat16, so that trying is worth its second."""
    import torch

    if device.startswith("cuda"):
        return bool(torch.cuda.is_bf16_supported())
    return device.startswith("cpu") and bool(_cpu_flags() & _CPU_FLAGS)


def choose_precision(model: SentenceTransformer) -> str:
    """Return ``bfloat16`` where it is faster and as good on this machine, else ``float32``.

    A CPU that says it has the instructions is believed only after 32 texts of about 20 tokens ran
    at least `MIN_SPEEDUP` times as fast with every cosine at least `MIN_COSINE`. On a GPU with
    bfloat16 the agreement alone is checked.

    Parameters
    ----------
    model
        In float32, on its device; it is left as it was.
    """
    device = str(model.device)
    on_gpu = device.startswith("cuda")
    if not may_have_bfloat16(device) or is_static(model):
        return "float32"  # a static model computes next to nothing
    other = with_precision(copy.deepcopy(model), "bfloat16")
    encoders = [Encoder(m, ref="", fingerprint="") for m in (model, other)]
    (slow, exact), (fast, rounded) = _time_both(encoders)
    cosine = (exact * rounded).sum(1) / np.maximum(
        np.linalg.norm(exact, axis=1) * np.linalg.norm(rounded, axis=1), 1e-12
    )
    agrees = bool(cosine.min() >= MIN_COSINE)  # False for NaN
    return "bfloat16" if agrees and (on_gpu or slow >= MIN_SPEEDUP * fast) else "float32"


def _time_both(encoders: list[Encoder]) -> list[tuple[float, npt.NDArray[np.float32]]]:
    """Return for each its best time and its vectors; in turns, so that both meet the same load.

    The time is that of this thread on the CPU: on a busy machine it is steadier than the clock.
    """
    texts = [f"{subject} {rest}" for rest in _REST for subject in _SUBJECTS]
    for encoder in encoders:
        encoder.encode(texts[:2])
    seconds: list[list[float]] = [[] for _ in encoders]
    vectors: list[npt.NDArray[np.float32]] = []
    for _ in range(3):
        vectors = []
        for encoder, times in zip(encoders, seconds, strict=True):
            start = time.thread_time()
            found = encoder.encode(texts)
            times.append(time.thread_time() - start)
            vectors.append(found.flatten().to_numpy().reshape(len(texts), -1))
    return [(min(times), v) for times, v in zip(seconds, vectors, strict=True)]


def _cpu_flags() -> set[str]:
    if not sys.platform.startswith("linux"):
        return set()
    try:
        told = Path("/proc/cpuinfo").read_text("utf-8", "replace")
    except OSError:
        return set()
    for line in told.splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
