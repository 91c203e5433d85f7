"""One running model per process, however many callers ask for it.

LanceDB makes an embedding function anew for each asynchronous search and each add, so a model kept
by the function is loaded again and again. It is kept here instead.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from lancedb_ft.encoder.core import Encoder
from lancedb_ft.encoder.loading import load_sentence_transformer, resolve_device
from lancedb_ft.encoder.openvino import check_backend
from lancedb_ft.encoder.precision import (
    check_precision,
    choose_precision,
    running,
    with_precision,
)
from lancedb_ft.errors import FingerprintError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.store.query_adapter import read_adapter
from lancedb_ft.types import ModelVersion

__all__ = ["clear_encoders", "get_encoder"]

#: So many encoders are kept; the one not used for longest is dropped.
CAPACITY = 4


class _Key(NamedTuple):
    fingerprint: str
    device: str
    backend: str
    precision: str
    dims: int | None


class _Cache:
    """Encoders, least recently used first; each is loaded by one thread while others wait."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._guard = threading.Lock()
        self._encoders: OrderedDict[_Key, Encoder] = OrderedDict()
        self._loading: dict[tuple[str, str, str], threading.Lock] = {}
        self._chosen: dict[tuple[str, str, str], str] = {}

    def find(self, key: _Key) -> Encoder | None:
        """Return the encoder if it is here, or one of the same running model."""
        with self._guard:
            found = self._encoders.get(key)
            if found is None:
                precision = key.precision
                if precision == "auto":
                    precision = self._chosen.get(key[:3], "")
                alike = [
                    e
                    for k, e in self._encoders.items()
                    if (*k[:3], e.precision) == (*key[:3], precision)
                ]
                found = alike[0].with_dims(key.dims) if alike else None
            if found is not None:
                self._keep(key, found)
            return found

    def get(self, key: _Key, load: Callable[[str], Encoder]) -> Encoder:
        """Return the encoder, made by ``load(precision)`` if no thread made it before."""
        if (found := self.find(key)) is not None:
            return found
        model = key[:3]
        with self._guard:
            lock = self._loading.setdefault(model, threading.Lock())
        with lock:
            if (found := self.find(key)) is not None:
                return found
            precision = (
                self._chosen.get(model, "auto") if key.precision == "auto" else key.precision
            )
            made = load(precision)
            with self._guard:
                if key.precision == "auto":
                    self._chosen[model] = made.precision
                self._keep(key, made)
            return made

    def _keep(self, key: _Key, encoder: Encoder) -> None:
        self._encoders[key] = encoder
        self._encoders.move_to_end(key)
        while len(self._encoders) > self._capacity:
            self._encoders.popitem(last=False)

    def clear(self) -> None:
        """Drop all encoders; those in use live on until their users are done."""
        with self._guard:
            self._encoders.clear()


_CACHE = _Cache(CAPACITY)

# (reference, store, fingerprint) that were found to belong together in this process: hashing the
# weights again at each query would cost more than the query.
_VERIFIED: dict[tuple[str, str | None, str], ResolvedModel] = {}


def clear_encoders() -> None:
    """Drop the cached models, to free their memory."""
    _CACHE.clear()
    _VERIFIED.clear()


def get_encoder(
    model: str | ModelVersion | ResolvedModel,
    *,
    store: str | None = None,
    device: str | None = None,
    precision: str = "auto",
    dims: int | None = None,
    fingerprint: str | None = None,
    backend: str = "torch",
) -> Encoder:
    """Return the encoder of a model, loaded once a process.

    Parameters
    ----------
    model
        A reference (``support@3``, a folder, ``hf://org/name@revision``), or what a store returned.
    store
        The model store, for ``name@version``.
    device
        ``cpu``, ``cuda``, ``cuda:1``, ``mps``; None or ``auto`` for the best there is.
    precision
        ``float32``, ``bfloat16``, or ``auto``: bfloat16 where it proves faster and as good.
    dims
        Length of the vectors, for models trained to be truncated (Matryoshka).
    fingerprint
        The fingerprint the model must have.
    backend
        What runs the network: ``torch``, or ``openvino`` (extra ``openvino``; CPU only).

    Raises
    ------
    FingerprintError
        The model found has another fingerprint.
    ModelNotFoundError, StoreNotFoundError, UnsafeModelError
        It is not there, or may not be loaded.
    InputError
        Device, precision, backend or dims cannot be used.
    """
    check_precision(precision)
    where = resolve_device(device)
    check_backend(backend, where)
    found = _resolve(model, store, fingerprint)
    dims = dims if dims is not None else found.dims
    key = _Key(found.fingerprint, where, backend, precision, dims)

    def load(precision: str) -> Encoder:
        if found.document_fingerprint != found.fingerprint:
            # The running model is shared with whoever embeds documents, or queries, without it.
            plain = replace(found, fingerprint=found.document_fingerprint)
            model = get_encoder(
                plain, device=where, precision=precision, dims=dims, backend=backend
            )
            adapter = read_adapter(found.path)
            return model.with_query_adapter(adapter, ref=found.ref, fingerprint=found.fingerprint)
        live = with_precision(load_sentence_transformer(found.path, device=where), "float32")
        with (
            kept_memory()
        ):  # then the copies that were tried, and the float32 weights, are given back
            precision = choose_precision(live, backend) if precision == "auto" else precision
            network = running(live, precision, backend)
        return Encoder(
            network,
            ref=found.ref,
            fingerprint=found.fingerprint,
            dims=dims,
            precision=precision,
            backend=backend,
            path=str(found.path),
        )

    return _CACHE.get(key, load)


def _resolve(
    model: str | ModelVersion | ResolvedModel, store: str | None, fingerprint: str | None
) -> ResolvedModel:
    reference = model if isinstance(model, str) else model.ref
    known = _VERIFIED.get((reference, store, fingerprint or ""))
    if known is not None:
        return known
    found = model if isinstance(model, ResolvedModel) else resolve_model(model, store=store)
    if fingerprint is not None:
        if fingerprint != found.fingerprint:
            raise FingerprintError(reference, expected=fingerprint, found=found.fingerprint)
        _VERIFIED[reference, store, fingerprint] = found
    return found
