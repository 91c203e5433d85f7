"""float32 or bfloat16: timed and compared on the machine, not assumed."""

from __future__ import annotations

import copy
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.encoder.bags import is_static
from lancedb_ft.encoder.core import Encoder
from lancedb_ft.encoder.openvino import with_openvino
from lancedb_ft.encoder.packed import pack_weights
from lancedb_ft.encoder.texts import Texts
from lancedb_ft.errors import InputError

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = [
    "MIN_SPEEDUP",
    "PRECISIONS",
    "Agreement",
    "agreement",
    "check_precision",
    "choose_precision",
    "may_have_bfloat16",
    "running",
    "with_precision",
]

#: What ``precision`` may be.
PRECISIONS = ("auto", "float32", "bfloat16")

#: bfloat16 is taken when it is so many times as fast, and every probe text agrees this well.
MIN_SPEEDUP = 1.2
MIN_COSINE = 0.999

#: On the texts of a table: the least mean cosine is `MIN_COSINE`, and this the least share of each
#: text's ten nearest that stay.
MIN_OVERLAP = 0.95
_NEAREST = 10

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


def running(model: SentenceTransformer, precision: str, backend: str) -> SentenceTransformer:
    """Return a model in float32 as it is to run; for torch it is converted in place."""
    if backend == "openvino":
        return with_openvino(model, precision)
    with_precision(model, precision)
    if precision == "bfloat16":
        few = Encoder(model, ref="", fingerprint="")
        pack_weights(model, lambda: _matrix(few.encode(_probe_texts()[::8])))
    return model


def choose_precision(model: SentenceTransformer, backend: str = "torch") -> str:
    """Return ``bfloat16`` where it is faster and as good on this machine, else ``float32``.

    A CPU that says it has the instructions is believed only after 32 texts of about 20 tokens ran
    at least `MIN_SPEEDUP` times as fast with every cosine at least `MIN_COSINE`. On a GPU with
    bfloat16 the agreement alone is checked.

    Parameters
    ----------
    model
        In float32, on its device; it is left as it was.
    backend
        What is to run it.
    """
    device = str(model.device)
    on_gpu = device.startswith("cuda")
    if not may_have_bfloat16(device) or is_static(model):
        return "float32"  # a static model computes next to nothing
    # For torch the model is the float32 one: a copy would be the most that the process ever holds.
    tried = {"float32": model if backend == "torch" else copy.deepcopy(model)}
    tried["bfloat16"] = copy.deepcopy(model)
    models = (running(m, precision, backend) for precision, m in tried.items())
    encoders = [Encoder(m, ref="", fingerprint="") for m in models]
    (slow, exact), (fast, rounded) = _time_both(encoders)
    agrees = bool(_cosines(exact, rounded).min() >= MIN_COSINE)  # False for NaN
    return "bfloat16" if agrees and (on_gpu or slow >= MIN_SPEEDUP * fast) else "float32"


@dataclass(frozen=True)
class Agreement:
    """How well a fast encoder agrees with the exact one, on texts of a table.

    Parameters
    ----------
    n_texts
        Distinct texts that both encoded.
    mean_cosine, min_cosine
        Of the two vectors of a text.
    top10_overlap
        Share of each text's ten nearest among the others that are the same; None below 100 texts.
    speedup
        How many times as fast the fast one was on them.
    """

    n_texts: int
    mean_cosine: float
    min_cosine: float
    top10_overlap: float | None
    speedup: float

    @property
    def holds(self) -> bool:
        """Whether the fast one may take the place of the exact one."""
        near = self.top10_overlap is None or self.top10_overlap >= MIN_OVERLAP
        return self.mean_cosine >= MIN_COSINE and near

    def to_dict(self) -> dict[str, Any]:
        """Return the figures, and whether they suffice."""
        return {**asdict(self), "holds": self.holds}

    def __str__(self) -> str:
        """Say it in one line."""
        near = "" if self.top10_overlap is None else f", top-10 overlap {self.top10_overlap:.3f}"
        return (
            f"mean cosine {self.mean_cosine:.5f}{near} on {self.n_texts} texts of the table, "
            f"{self.speedup:.2f} times as fast"
        )


def agreement(fast: Encoder, exact: Encoder, texts: Texts) -> Agreement | None:
    """Encode texts with both, timed, and compare; None where there are no texts."""
    vectors, seconds = [], []
    for encoder in (fast, exact):
        encoder.encode(texts[:2])
        started = time.perf_counter()
        found = encoder.encode(texts).drop_null()
        seconds.append(time.perf_counter() - started)
        vectors.append(_matrix(found))
    if not len(vectors[0]):
        return None
    cosines = _cosines(*vectors)
    return Agreement(
        n_texts=len(cosines),
        mean_cosine=round(float(cosines.mean()), 6),
        min_cosine=round(float(cosines.min()), 6),
        top10_overlap=_overlap(*vectors) if len(cosines) >= _NEAREST**2 else None,
        speedup=round(seconds[1] / seconds[0], 2),
    )


def _cosines(
    one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]
) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return np.asarray((one * other).sum(1) / np.maximum(lengths, 1e-12))


def _overlap(one: npt.NDArray[np.float32], other: npt.NDArray[np.float32]) -> float:
    """Return the mean share of the ten nearest that two sets of vectors have in common."""
    nearest = []
    for vectors in (one, other):
        unit = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
        scores = unit @ unit.T
        np.fill_diagonal(scores, -np.inf)
        nearest.append(np.argpartition(-scores, _NEAREST, axis=1)[:, :_NEAREST])
    pairs = zip(*nearest, strict=True)
    return round(float(np.mean([len(np.intersect1d(a, b)) for a, b in pairs])) / _NEAREST, 4)


def _time_both(encoders: list[Encoder]) -> list[tuple[float, npt.NDArray[np.float32]]]:
    """Return for each its best time and its vectors; in turns, so that both meet the same load.

    The time is that of this thread on the CPU: on a busy machine it is steadier than the clock.
    """
    texts = _probe_texts()
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
            vectors.append(_matrix(found))
    return [(min(times), v) for times, v in zip(seconds, vectors, strict=True)]


def _probe_texts() -> list[str]:
    return [f"{subject} {rest}" for rest in _REST for subject in _SUBJECTS]


def _matrix(vectors: pa.FixedSizeListArray) -> npt.NDArray[np.float32]:
    found: npt.NDArray[np.float32] = vectors.flatten().to_numpy()
    return found.reshape(len(vectors), vectors.type.list_size)


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
