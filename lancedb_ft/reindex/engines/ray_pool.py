"""A pool of Ray actors: one fragment a worker at a time; the fragment of a lost one again."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from lancedb_ft.errors import EngineError, LancedbFtError, MissingExtraError
from lancedb_ft.reindex.engines.group import Written
from lancedb_ft.reindex.engines.worker import FillWorker, WorkerTask

if TYPE_CHECKING:
    from lancedb_ft.reindex.engines.ray_engine import RayEngine

__all__ = ["RayPool", "connect_ray"]

#: Workers a fragment may lose before it is held to be the cause.
_MAX_LOSSES = 5
#: Workers in a row that may die before any was ready.
_MAX_FALSE_STARTS = 3
_POLL_S = 1.0


def connect_ray(address: str | None) -> Any:
    """Return ``ray``, connected.

    A Ray that this process is connected to is used; else that at the address; else one is started
    on this machine, which ends with this process and reports nothing to anybody.

    Raises
    ------
    MissingExtraError
        Ray is not installed.
    EngineError
        There is no cluster at the address.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("ray", extra="ray", purpose="--engine ray") from None
    if ray.is_initialized():
        return ray
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    named = address or os.environ.get("RAY_ADDRESS")
    try:
        # What workers print stays in Ray's logs: stdout is the driver's, and may be JSON.
        if named:
            ray.init(address=named, log_to_driver=False, logging_level=logging.ERROR)
        else:
            ray.init(log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineError(
            f"No Ray cluster at {named!r}: {error} Start one with: ray start --head"
        ) from None
    return ray


@dataclass
class _Worker:
    """A worker as the driver sees it."""

    actor: Any
    node: str = ""
    told: int = 0  # so many committed fragments it has been told of
    fragment: int = -1
    rows: int = 0  # of the fragment it has now
    asked: bool = False


class _Call(NamedTuple):
    """What an answer that is waited for belongs to; ``fragment`` None: the worker's start."""

    worker: _Worker
    fragment: int | None


class RayPool:
    """Workers on a cluster.

    Parameters
    ----------
    engine
        How many workers, and what each takes.
    task
        What they do.
    ray
        The module, connected.
    """

    def __init__(self, engine: RayEngine, task: WorkerTask, ray: Any) -> None:
        self._engine = engine
        self._task = task
        self._ray = ray
        self._calls: dict[Any, _Call] = {}
        self._polls: dict[Any, _Worker] = {}
        self._idle: list[_Worker] = []
        self._losses: dict[int, int] = {}
        self._false_starts = 0
        self._any_ready = False
        self._make, self.n_workers = self._sized()
        #: Fragments that are committed; workers are told with their next one.
        self.committed: list[int] = []

    def _sized(self) -> tuple[Any, int]:
        """Return what makes an actor, and how many of them the cluster has room for."""
        has = self._ray.cluster_resources()
        gpus = self._engine.num_gpus
        if gpus is None:
            gpus = 1.0 if has.get("GPU", 0) >= 1 else 0.0
        room = has.get("GPU", 0) // gpus if gpus else has.get("CPU", 0) // self._engine.num_cpus
        # A dead actor is replaced here, by a new one that may stand anywhere; Ray itself would
        # call a lost fragment's worker again before its start.
        options = {
            "num_cpus": self._engine.num_cpus,
            "num_gpus": gpus,
            "max_restarts": 0,
            "max_concurrency": 2,  # one fills, one tells how far it is
        }
        made = self._ray.remote(FillWorker).options(**options)
        return made, self._engine.workers or max(1, int(room))

    def run(
        self, fragments: Mapping[int, int], tell: Callable[[int], None]
    ) -> Generator[Written | None, None, None]:
        """Fill fragments, the largest first; yield each when written, and None each second.

        Parameters
        ----------
        fragments
            Their rows by their ids.
        tell
            Called with the rows that are done of those fragments that are being filled.

        Raises
        ------
        EngineError
            A worker cannot see the table or the model; a fragment lost too many workers; no
            worker became ready.
        """
        queue = deque(sorted(fragments, key=lambda n: -fragments[n]))
        left = len(queue)
        started = time.monotonic()
        while left:
            self._grow(len(queue))
            while queue and self._idle:
                self._give(queue.popleft())
            for call, outcome in self._answers():
                if isinstance(outcome, Written):
                    left -= 1
                    yield outcome
                elif outcome is None and call.fragment is not None:
                    queue.appendleft(call.fragment)
            self._check_start(started)
            tell(sum(c.worker.rows for c in self._calls.values() if c.fragment is not None))
            yield None

    def clean(self) -> None:
        """Have the workers remove what they kept for fragments that are now committed."""
        finishing = [worker.actor.finish.remote() for worker in self._idle]
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.get(finishing, timeout=30)

    def close(self) -> None:
        """End all workers, which gives their CPUs and GPUs back."""
        workers = [*self._idle, *(call.worker for call in self._calls.values())]
        for worker in workers:
            with contextlib.suppress(self._ray.exceptions.RayError):
                self._ray.kill(worker.actor)
        self._idle, self._calls, self._polls = [], {}, {}

    def _grow(self, n_queued: int) -> None:
        """Start workers for what is queued, up to the size; also in place of dead ones."""
        starting = sum(call.fragment is None for call in self._calls.values())
        alive = len(self._idle) + len(self._calls)
        wanted = min(self.n_workers - alive, n_queued - len(self._idle) - starting)
        for _ in range(wanted):
            worker = _Worker(self._make.remote(self._task))
            self._calls[worker.actor.start.remote()] = _Call(worker, None)

    def _give(self, fragment: int) -> None:
        worker = self._idle.pop()
        fresh, worker.told = self.committed[worker.told :], len(self.committed)
        worker.fragment, worker.rows = fragment, 0
        answer = worker.actor.fill.remote(fragment, fresh)
        self._calls[answer] = _Call(worker, fragment)

    def _answers(self) -> Iterator[tuple[_Call, Any]]:
        """Yield what came in within a second: a `Written`, a node, or None for a lost worker."""
        self._poll()
        waited = [*self._calls, *self._polls]
        ready, _ = self._ray.wait(waited, num_returns=1, timeout=_POLL_S)
        if ready:  # and whatever else is there
            ready, _ = self._ray.wait(waited, num_returns=len(waited), timeout=0)
        for answer in ready:
            if answer in self._polls:
                self._read_poll(answer)
                continue
            call = self._calls.pop(answer)
            outcome = self._outcome(answer, call)
            if outcome is not None:
                self._idle.append(call.worker)
            yield call, outcome

    def _outcome(self, answer: Any, call: _Call) -> Any:
        """Return a worker's answer; None if the worker is gone.

        Raises
        ------
        EngineError
            The worker is there and says that it cannot.
        """
        try:
            outcome = self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise _told(error, call.worker.node) from None
        except self._ray.exceptions.RayError as error:
            self._lost(call, error)
            return None
        if call.fragment is None:
            call.worker.node = outcome.name
            self._any_ready = True
        return outcome

    def _lost(self, call: _Call, error: Exception) -> None:
        """Note a dead worker; its fragment is given out again, unless it keeps killing them."""
        with contextlib.suppress(self._ray.exceptions.RayError):
            self._ray.kill(call.worker.actor)
        if call.fragment is None:
            self._false_starts += not self._any_ready
            if self._false_starts >= _MAX_FALSE_STARTS:
                raise EngineError(f"{_MAX_FALSE_STARTS} Ray workers died at their start: {error}")
            return
        self._losses[call.fragment] = self._losses.get(call.fragment, 0) + 1
        if self._losses[call.fragment] >= _MAX_LOSSES:
            raise EngineError(
                f"Fragment {call.fragment} lost {_MAX_LOSSES} Ray workers in a row, the last one "
                f"with: {error} If they run out of memory, give each more of its node "
                "(num_cpus). What was committed stays; the same command goes on from there."
            )

    def _poll(self) -> None:
        """Ask busy workers how far they are, one question each at a time."""
        for call in self._calls.values():
            if call.fragment is not None and not call.worker.asked:
                call.worker.asked = True
                self._polls[call.worker.actor.rows_done.remote()] = call.worker

    def _read_poll(self, answer: Any) -> None:
        worker = self._polls.pop(answer)
        worker.asked = False
        with contextlib.suppress(self._ray.exceptions.RayError):
            fragment, rows = self._ray.get(answer)
            if fragment == worker.fragment:  # else the answer is about the one before
                worker.rows = rows

    def _check_start(self, started: float) -> None:
        if self._any_ready or time.monotonic() - started < self._engine.start_timeout_s:
            return
        raise EngineError(
            f"No Ray worker was ready after {self._engine.start_timeout_s:.0f} s. Each asks for "
            f"{self._engine.num_cpus:g} CPUs and {self._engine.num_gpus or 0:g} GPUs; free in the "
            f"cluster are {self._ray.available_resources()}."
        )


def _told(error: Any, node: str) -> Exception:
    """Return what a worker raised: one of ours as it is, another one with its node."""
    cause = getattr(error, "cause", error)
    if isinstance(cause, LancedbFtError):
        return cause
    return EngineError(f"failed: {type(cause).__name__}: {cause}", node=node or "a Ray node")
