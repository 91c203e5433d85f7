"""The same model in several processes, one a device or a share of the cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lancedb_ft.encoder.core import Encoder, Kind
from lancedb_ft.encoder.texts import Texts, distinct_texts
from lancedb_ft.errors import InputError, StoreError
from lancedb_ft.types import Progress

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["EncoderPool", "default_processes"]

# Texts a process gets at a time: enough to be sorted into even batches, few enough that the
# processes end together.
_CHUNK = 1024
# Chunks that are sent ahead to each process.
_AHEAD = 2
# So often the processes are started anew after one of them died.
_MAX_DEATHS = 3


def default_processes(encoder: Encoder) -> int:
    """Return one process for each GPU, where the encoder runs on one of several, else one.

    On a CPU one process with all its cores is the default: it holds the model once.
    """
    if encoder.path is None or not encoder.device.startswith("cuda"):
        return 1
    import torch

    return max(1, torch.cuda.device_count())


def _all_devices(encoder: Encoder, n_processes: int) -> list[str]:
    """Return a device for each of some processes: its own for each where there are several."""
    if not encoder.device.startswith("cuda"):
        return [encoder.device] * n_processes
    import torch

    n_devices = torch.cuda.device_count()
    return [f"cuda:{number % n_devices}" for number in range(n_processes)]


@dataclass(frozen=True)
class _Model:
    """What a process needs to load the model that the parent has."""

    path: str
    fingerprint: str
    precision: str
    backend: str
    dims: int


class EncoderPool:
    """Encodes documents in several processes; used as a context.

    Parameters
    ----------
    encoder
        From `get_encoder`: its model is loaded again in each process.
    n_processes
        How many; the cores are shared among them.

    Raises
    ------
    InputError
        The encoder's model lives in memory only.
    """

    def __init__(self, encoder: Encoder, n_processes: int) -> None:
        if n_processes < 2:
            raise InputError(f"processes is {n_processes}; a pool needs 2 or more.")
        if encoder.path is None:
            raise InputError("A model in memory cannot be run in several processes: save it first.")
        self._encoder = encoder
        self._model = _Model(
            encoder.path, encoder.fingerprint, encoder.precision, encoder.backend, encoder.dims
        )
        self._devices = _all_devices(encoder, n_processes)
        self._executor: ProcessPoolExecutor | None = None
        self._deaths = 0

    def __enter__(self) -> Self:
        """Return the pool; its processes start with the first texts."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the processes."""
        self._stop()

    def encode(
        self, texts: Texts, *, kind: Kind = "document", progress: Progress | None = None
    ) -> pa.FixedSizeListArray:
        """Embed texts as `Encoder.encode` does; few of them in this process.

        Raises
        ------
        StoreError
            A process died `_MAX_DEATHS` times.
        """
        rows = distinct_texts(texts)
        if len(rows.texts) <= _CHUNK:
            return self._encoder.encode(texts, kind=kind, progress=progress)
        starts = list(range(0, len(rows.texts), _CHUNK))
        vectors = np.empty((len(rows.texts), self._encoder.dims), np.float32)
        left, n_done = starts, 0
        while left:
            try:
                for start, made in self._made(rows.texts, left, kind):
                    vectors[start : start + len(made)] = made
                    left = [other for other in left if other != start]
                    n_done += len(made)
                    if progress is not None:
                        progress(n_done * rows.n_rows // len(rows.texts), rows.n_rows)
            except BrokenProcessPool as error:
                self._stop()
                self._deaths += 1
                if self._deaths >= _MAX_DEATHS:
                    raise StoreError(
                        f"A process that runs {self._encoder!r} died {self._deaths} times: out of "
                        "memory, or the program has no `if __name__ == '__main__':`, which "
                        "processes=2 and more need. Try processes=1."
                    ) from error
        return rows.to_rows(vectors)

    def _made(self, texts: pa.Array, starts: Sequence[int], kind: Kind) -> Any:
        """Yield ``(start, vectors)`` of each chunk as it is done."""
        executor = self._started()
        queue = list(reversed(starts))
        running: dict[Future[Any], int] = {}
        while queue or running:
            while queue and len(running) < _AHEAD * len(self._devices):
                start = queue.pop()
                chunk = texts.slice(start, _CHUNK).to_pylist()
                running[executor.submit(_encode, chunk, kind)] = start
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                yield running.pop(future), future.result()

    def _started(self) -> ProcessPoolExecutor:
        if self._executor is None:
            context = multiprocessing.get_context("spawn")
            devices = context.Queue()
            for device in self._devices:
                devices.put(device)
            n_threads = max(1, (os.cpu_count() or 1) // len(self._devices))
            self._executor = ProcessPoolExecutor(
                len(self._devices),
                mp_context=context,
                initializer=_load,
                initargs=(self._model, devices, n_threads),
            )
        return self._executor

    def _stop(self) -> None:
        if self._executor is not None:
            self._executor.shutdown(wait=True, cancel_futures=True)
            self._executor = None


# The encoder of a process of the pool.
_LOADED: list[Encoder] = []


def _load(model: _Model, devices: Any, n_threads: int) -> None:
    """Load the model, once in each process."""
    import torch

    from lancedb_ft.encoder.cache import get_encoder

    torch.set_num_threads(n_threads)
    encoder = get_encoder(
        model.path,
        fingerprint=model.fingerprint,
        device=devices.get(),
        precision=model.precision,
        backend=model.backend,
        dims=model.dims,
    )
    _LOADED[:] = [encoder]


def _encode(texts: list[str], kind: Kind) -> Any:
    vectors = _LOADED[0].encode(texts, kind=kind)
    return vectors.flatten().to_numpy().reshape(len(texts), -1)
