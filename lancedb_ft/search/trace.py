"""What one query did, written down while it runs, where somebody listens.

A query carries a `Trace` when `explain` asks for one or a function is registered with `listen`;
otherwise it carries None, and every place that would write into it does nothing::

    trace = new_trace()                        # None where nobody listens
    with stage(trace, "embed"):                # times the block
        ...
    if trace is not None:
        trace.ranked("vector", row_ids, scores)

The parts of a query may write from several threads: each adds to a list or sets a name of its own.
Nothing of a query's text or of a row's content stands in a trace.
"""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from typing import Any

__all__ = ["IndexUse", "Leg", "Stage", "Trace", "listen", "new_trace", "stage"]

_log = logging.getLogger("lancedb_ft.search")


@dataclass(frozen=True)
class Stage:
    """A named part of a query: when it began, from the start of the query, and how long it took.

    The legs of a hybrid query overlap, so the stages may add up to more than the whole.
    """

    name: str
    start_ms: float
    ms: float


@dataclass(frozen=True)
class Leg:
    """What one leg found: row ids with their scores, best first; an id's place is its rank.

    ``score`` names the scores: ``_distance`` (lower is better) or ``_score``.
    """

    name: str
    column: str
    score: str
    row_ids: tuple[int, ...]
    scores: tuple[float, ...]

    def rank_of(self, row_id: int) -> int | None:
        """Return the rank of a row, from 1; None where the leg did not find it."""
        return self.row_ids.index(row_id) + 1 if row_id in self.row_ids else None


@dataclass(frozen=True)
class IndexUse:
    """An index a leg went through; ``name`` is None where it scanned all rows instead.

    ``n_unindexed`` rows are not in it yet and are searched one by one.
    """

    leg: str
    column: str
    name: str | None
    kind: str | None
    n_indexed: int
    n_unindexed: int


@dataclass
class Trace:
    """What one query did. Its fields are filled in while it runs; unknown ones stay None.

    Parameters
    ----------
    table, version
        What was searched.
    mode, k
        What was asked; ``mode`` is the one that ran, where it was chosen by the query.
    column, model, fingerprint
        The vector column, the model its queries are embedded with, and that model's fingerprint.
    stages
        In the order they ended: ``embed``, ``vector``, ``fts``, ``fuse``, ``rerank``, ``take``,
        and others that a part of the search may add.
    legs
        What each leg found, by name.
    indexes
        What each leg went through.
    fusion, reranker
        What merged the legs, and what ordered the rows afterwards.
    degraded
        Why the answer is less than was asked for, one reason each; empty where it is not.
    counts
        Numbers of a part of the search: cache hits, rows of a tier, candidates reranked.
    notes
        Words of a part of the search: why a mode was chosen, which tiers there are.
    row_ids, scores
        The rows of the answer, best first, and what ordered them.
    of_rows
        What a part of the search says of single rows, by row id: their tier, for example.
    error
        The class of the error that the query ended with.
    started_ns
        Wall-clock time of the start, as `time.time_ns`.
    context
        The context variables of the caller, for a listener that looks for a span around the query.
    """

    table: str = ""
    version: int | None = None
    mode: str = ""
    k: int = 0
    column: str | None = None
    model: str | None = None
    fingerprint: str | None = None
    stages: list[Stage] = field(default_factory=list)
    legs: dict[str, Leg] = field(default_factory=dict)
    indexes: list[IndexUse] = field(default_factory=list)
    fusion: str | None = None
    reranker: str | None = None
    degraded: list[str] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    row_ids: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    of_rows: dict[str, dict[int, Any]] = field(default_factory=dict)
    error: str | None = None
    ms: float = 0.0
    started_ns: int = field(default_factory=time.time_ns)
    started_s: float = field(default_factory=time.perf_counter, repr=False)
    context: contextvars.Context = field(default_factory=contextvars.copy_context, repr=False)

    def ranked(
        self,
        leg: str,
        column: str,
        score: str,
        row_ids: Sequence[int],
        scores: Sequence[float],
    ) -> None:
        """Note what a leg found, best first; of a query run twice the second time counts."""
        self.legs[leg] = Leg(leg, column, score, tuple(row_ids), tuple(scores))

    def count(self, name: str, n: int = 1) -> None:
        """Add to a count."""
        self.counts[name] = self.counts.get(name, 0) + n

    def ms_of(self, name: str) -> float:
        """Return the time spent in a stage, 0 where there was none."""
        return sum(found.ms for found in self.stages if found.name == name)

    def finish(self, error: BaseException | None = None) -> None:
        """Note the whole time, and tell the listeners; called once, by whoever ran the query."""
        self.ms = 1000 * (time.perf_counter() - self.started_s)
        self.error = None if error is None else type(error).__name__
        for listener in _listeners:
            # A query is not lost because somebody who watches it fails.
            try:
                listener(self)
            except Exception:
                _log.warning("a listener of searches failed", exc_info=True)

    def to_dict(self) -> dict[str, Any]:
        """Return all but the context and the clock, in plain types."""
        told: dict[str, Any] = {
            name: value
            for name, value in self.__dict__.items()
            if name not in ("context", "started_s", "stages", "legs", "indexes")
        }
        told["stages"] = [asdict(found) for found in self.stages]
        told["legs"] = {name: asdict(leg) for name, leg in self.legs.items()}
        told["indexes"] = [asdict(index) for index in self.indexes]
        return told


_listeners: tuple[Callable[[Trace], None], ...] = ()
_lock = threading.Lock()


def listen(listener: Callable[[Trace], None]) -> Callable[[], None]:
    """Call ``listener`` with the trace of each query that ends from now on, in its thread.

    Returns
    -------
    function
        Call it to stop listening.
    """
    global _listeners
    with _lock:
        _listeners = (*_listeners, listener)

    def stop() -> None:
        global _listeners
        with _lock:
            _listeners = tuple(other for other in _listeners if other is not listener)

    return stop


def new_trace() -> Trace | None:
    """Return a trace for a query that begins, or None where nobody listens."""
    return Trace() if _listeners else None


_NOTHING: AbstractContextManager[None] = nullcontext()


def stage(trace: Trace | None, name: str) -> AbstractContextManager[None]:
    """Time a block of a query as a stage; for a trace of None do nothing."""
    return _NOTHING if trace is None else _timed(trace, name)


@contextmanager
def _timed(trace: Trace, name: str) -> Iterator[None]:
    start_s = time.perf_counter()
    try:
        yield
    finally:
        ms = 1000 * (time.perf_counter() - start_s)
        trace.stages.append(Stage(name, 1000 * (start_s - trace.started_s), ms))
