"""One running cross-encoder per model, device and precision in a process."""

from __future__ import annotations

import copy
import threading
import time
from collections import OrderedDict
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from lancedb_ft.encoder import resolve_device
from lancedb_ft.encoder.packed import pack_weights
from lancedb_ft.encoder.precision import MIN_SPEEDUP, check_precision, may_have_bfloat16
from lancedb_ft.reranking.loading import CrossEncoderModel, load_cross_encoder
from lancedb_ft.reranking.scorer import Scorer
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.types import ModelVersion

__all__ = ["clear_scorers", "get_scorer"]

#: So many are kept; the one not used for longest is dropped.
CAPACITY = 2
#: bfloat16 is taken where no probe pair's score, from 0 to 1, moves by more than this.
MAX_SHIFT = 0.02

_PROBES = tuple(
    (query, f"{query} {rest}")
    for query in ("how to cancel", "list all files of a folder", "side effects", "reset it")
    for rest in (
        "in the settings, under the account, at the end of the second page",
        "was paid back within fourteen days, so nothing more is owed by either side",
        "takes two arguments and returns an error when the second one is empty",
        "should be read twice a day; more is not better unless somebody says so",
    )
)


class _Key(NamedTuple):
    fingerprint: str
    device: str
    precision: str


_guard = threading.Lock()
_scorers: OrderedDict[_Key, Scorer] = OrderedDict()
_chosen: dict[tuple[str, str], str] = {}
_loading: dict[tuple[str, str], threading.Lock] = {}


def clear_scorers() -> None:
    """Drop the cached models, to free their memory."""
    with _guard:
        _scorers.clear()


def get_scorer(
    model: str | ModelVersion | ResolvedModel,
    *,
    store: str | None = None,
    device: str | None = None,
    precision: str = "auto",
) -> Scorer:
    """Return the running cross-encoder, loaded once a process however many threads ask.

    Parameters
    ----------
    model
        A reference (``support-reranker@1``, a folder, ``hf://org/name@revision``), or what a store
        returned.
    store
        The model store, for ``name@version``.
    device
        ``cpu``, ``cuda``, ``mps``; None for the best there is.
    precision
        ``float32``, ``bfloat16``, or ``auto``: bfloat16 where it proves faster and as good.

    Raises
    ------
    ModelKindError
        It is an embedder.
    ModelNotFoundError, StoreNotFoundError, UnsafeModelError
        It is not there, or may not be loaded.
    InputError
        Device or precision cannot be used.
    """
    check_precision(precision)
    found = (
        model
        if isinstance(model, ResolvedModel)
        else resolve_model(model, store=store, kind="cross-encoder")
    )
    place = (found.fingerprint, resolve_device(device))
    if (ready := _find(place, precision)) is not None:
        return ready
    with _guard:
        lock = _loading.setdefault(place, threading.Lock())
    with lock:
        if (ready := _find(place, precision)) is not None:
            return ready
        live = load_cross_encoder(found.path, device=place[1])
        wanted = _chosen.get(place) or choose_precision(live) if precision == "auto" else precision
        _in_precision(live, wanted)
        made = Scorer(live, ref=found.ref, fingerprint=found.fingerprint)
        with _guard:
            if precision == "auto":
                _chosen[place] = wanted
            _scorers[_Key(*place, wanted)] = made
            while len(_scorers) > CAPACITY:
                _scorers.popitem(last=False)
        return made


def _find(place: tuple[str, str], precision: str) -> Scorer | None:
    with _guard:
        wanted = _chosen.get(place, "") if precision == "auto" else precision
        key = _Key(*place, wanted)
        if key in _scorers:
            _scorers.move_to_end(key)
        return _scorers.get(key)


def _in_precision(model: CrossEncoderModel, precision: str) -> CrossEncoderModel:
    import torch

    model.network.to(getattr(torch, precision))
    if precision == "bfloat16":
        few = Scorer(model)
        pack_weights(model.network, lambda: few.score(_PROBES[:4]))
    return model


def choose_precision(model: CrossEncoderModel) -> str:
    """Return ``bfloat16`` where it is faster and as good on this machine, else ``float32``.

    16 pairs are scored in both: no score, from 0 to 1, may move by more than `MAX_SHIFT`, and on a
    CPU it must take less time by `MIN_SPEEDUP`.

    Parameters
    ----------
    model
        In float32; it is left as it was.
    """
    device = str(model.network.device)
    if not may_have_bfloat16(device):
        return "float32"
    other = CrossEncoderModel(copy.deepcopy(model.network), model.tokenizer, model.max_tokens)
    both = (Scorer(model), Scorer(_in_precision(other, "bfloat16")))
    seconds: list[list[float]] = [[], []]
    found: list[npt.NDArray[np.float32]] = []
    for _ in range(3):
        found = []
        for scorer, times in zip(both, seconds, strict=True):
            start = time.thread_time()
            found.append(scorer.score(_PROBES))
            times.append(time.thread_time() - start)
    exact, rounded = (1 / (1 + np.exp(-scores)) for scores in found)
    if np.abs(exact - rounded).max() > MAX_SHIFT:
        return "float32"
    faster = min(seconds[0]) >= MIN_SPEEDUP * min(seconds[1])
    return "bfloat16" if faster or not device.startswith("cpu") else "float32"
