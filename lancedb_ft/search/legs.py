"""The two legs of one query: what each searches, how long it may take, and what is noted of it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import SearchTimeoutError
from lancedb_ft.reranking import answer_within
from lancedb_ft.search.budget import done_in_time
from lancedb_ft.search.embed import QueryVectors, check_dims
from lancedb_ft.search.pages import ordered_hits
from lancedb_ft.search.pools import in_context, leg_pool
from lancedb_ft.search.query import SearchRequest
from lancedb_ft.search.snapshot import ROW_ID, Snapshot, Target
from lancedb_ft.search.trace import Trace, stage

__all__ = ["Legs"]

_log = logging.getLogger("lancedb_ft.search")
_SCORES = {"vector": "_distance", "fts": "_score"}

#: What of the time that is left a reranker is told it has.
_OWN_SHARE = 0.9


class Legs:
    """The legs of one query on one snapshot; each can run in any thread.

    Parameters
    ----------
    snapshot
        The version of the table to search.
    request
        The checked query.
    depth
        How many rows each leg fetches.
    vectors
        What embeds the query.
    trace
        What is told of it, if anybody listens.
    began_s
        The present of the query, in seconds since 1970; None for that of the clock.

    Attributes
    ----------
    degraded
        Why the answer is less than was asked for.
    vector_hits
        What the vector leg found, once it ran.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        request: SearchRequest,
        depth: int,
        vectors: QueryVectors,
        trace: Trace | None = None,
        *,
        began_s: float | None = None,
    ) -> None:
        self.snapshot = snapshot
        self.began_s = began_s
        self.request = request
        self.trace = trace
        self.degraded: list[str] = []
        self.vector_hits: pa.Table | None = None
        self._depth = depth
        self._vectors = vectors

    @property
    def text(self) -> str:
        """The text of the query; `SearchRequest` requires it wherever this is read."""
        return self.request.text or ""

    @property
    def text_columns(self) -> tuple[str, ...]:
        """The columns of the full-text leg."""
        return self.snapshot.require_text_columns(self.request.text_columns)

    # --- the legs --------------------------------------------------------------------------

    def by_text(self) -> pa.Table:
        """Run the full-text leg."""
        columns = self.text_columns

        def fetch(depth: int) -> pa.Table:
            return self.snapshot.text_hits(
                self.text,
                columns,
                depth=depth,
                where=self.request.where,
                prefilter=self.request.prefilter,
                boosts=self.request.boosts,
                match=self.request.options.match,
            )

        with stage(self.trace, "fts"):
            hits = self._fetched(fetch, "_score")
        if self.trace is not None:
            self._note("fts", columns, hits)
        return hits

    def by_vector(self) -> pa.Table:
        """Embed the query and run the vector leg."""
        target = self.snapshot.target(self.request.column)
        vector = self._query_vector(target)

        def fetch(depth: int) -> pa.Table:
            return self.snapshot.vector_hits(
                vector,
                target.column,
                depth=depth,
                where=self.request.where,
                prefilter=self.request.prefilter,
            )

        with stage(self.trace, "vector"):
            hits = self._fetched(fetch, "_distance")
        most = self.request.options.max_distance
        if most is not None:
            distances = hits["_distance"].to_numpy().astype(np.float64)
            hits = hits.slice(0, int((distances <= most).sum()))
        if self.trace is not None:
            self._note("vector", (target.column,), hits)
        self.vector_hits = hits
        return hits

    def _fetched(self, fetch: Callable[[int], pa.Table], score: str) -> pa.Table:
        if self.request.options.page is None:
            return fetch(self._depth)
        return ordered_hits(fetch, self._depth, score, n_rows=self.snapshot.n_rows)

    def _query_vector(self, target: Target) -> npt.NDArray[np.float32]:
        if self.request.vector is not None:
            return check_dims(self.request.vector, dims=target.dims, column=target.column)
        with stage(self.trace, "embed"):
            return self._vectors.of(
                [self.text],
                target,
                table=self.snapshot.table,
                embedder=self.request.embedder,
                trace=self.trace,
            )[0]

    # --- in time ---------------------------------------------------------------------------

    def one(self, name: str) -> pa.Table:
        """Run one leg, ``vector`` or ``fts``.

        Raises
        ------
        SearchTimeoutError
            It was late.
        """
        leg = self.by_text if name == "fts" else self.by_vector
        if self._is_plain:
            return leg()
        return self._in_time({name: leg})[name]

    def both(self) -> tuple[pa.Table, pa.Table]:
        """Run both legs at once; return what the vector leg found, and what the text leg found.

        A leg that was late found nothing, and stands in `degraded`.

        Raises
        ------
        SearchTimeoutError
            Both were late.
        """
        _ = self.text_columns  # before any work is done
        if not self._is_plain:
            found = self._in_time({"vector": self.by_vector, "fts": self.by_text})
            return found["vector"], found["fts"]
        # The text leg runs in the pool while this thread embeds the query and runs the other leg,
        # so the threads of the pool never wait for one another.
        by_text = leg_pool().submit(in_context(self.by_text))
        try:
            vector_hits = self.by_vector()
        finally:
            # Also when the vector leg failed: nothing may go on reading behind the caller's back.
            by_text.exception()
        return vector_hits, by_text.result()

    def in_time(self, name: str, task: Callable[[], pa.Table]) -> pa.Table | None:
        """Run a further part of the query; None where there is no time left for it."""
        deadline_s = self.request.deadline_s
        found: pa.Table | None = None
        if name not in self.request.left_out:
            if deadline_s is None:
                with stage(self.trace, name):
                    return task()
            left_s = deadline_s - time.monotonic()
            if left_s > 0:
                # A reranker of ours that ends in time gives what it has read until then.
                with stage(self.trace, name), answer_within(_OWN_SHARE * left_s):
                    found = done_in_time({name: task}, deadline_s).get(name)
        if found is None:
            self._degrade_part(name)
        return found

    def degrade(self, reason: str) -> None:
        """Note why the answer is less than was asked for."""
        self.degraded.append(reason)
        _log.warning("search of table %r degraded: %s", self.snapshot.table, reason)

    def _degrade_part(self, name: str) -> None:
        self.degrade(f"{name}: {self.request.left_out.get(name, 'late')}")

    @property
    def _is_plain(self) -> bool:
        """Whether both legs are run, for as long as they take."""
        return self.request.deadline_s is None and not self.request.left_out

    def _in_time(self, tasks: dict[str, Callable[[], pa.Table]]) -> dict[str, pa.Table]:
        begun = {name: task for name, task in tasks.items() if name not in self.request.left_out}
        found = done_in_time(begun, self.request.legs_deadline_s)
        late = [name for name in tasks if name not in found]
        if len(late) == len(tasks):
            raise SearchTimeoutError(
                self.snapshot.table, budget_ms=self.request.options.budget_ms or 0.0, late=late
            )
        for name in late:
            self._degrade_part(name)
            found[name] = _nothing(_SCORES[name])
        return found

    # --- the trace -------------------------------------------------------------------------

    def _note(self, leg: str, columns: tuple[str, ...], hits: pa.Table) -> None:
        trace = self.trace
        if trace is None:
            return
        score = _SCORES[leg]
        trace.ranked(
            leg, ", ".join(columns), score, hits[ROW_ID].to_pylist(), hits[score].to_pylist()
        )
        trace.indexes += [self.snapshot.index_use(leg, column) for column in columns]


def _nothing(score: str) -> pa.Table:
    return pa.table({score: pa.array([], pa.float32()), ROW_ID: pa.array([], pa.uint64())})


def describe_target(trace: Trace, target: Target) -> None:
    """Write the vector column and its model into a trace."""
    trace.column = target.column
    arguments: Any = (target.function or {}).get("model", {})
    name = arguments.get("name") or (target.function or {}).get("name")
    trace.model = None if name is None else str(name)
    fingerprint = arguments.get("fingerprint")
    trace.fingerprint = None if fingerprint is None else str(fingerprint)
