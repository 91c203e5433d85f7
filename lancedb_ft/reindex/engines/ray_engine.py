"""Ray: many fragments at once, on the nodes of a cluster; the driver commits them in groups."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lancedb_ft.errors import InputError, ReindexError
from lancedb_ft.reindex.commits import MAX_ATTEMPTS
from lancedb_ft.reindex.engines.base import backfill_of
from lancedb_ft.reindex.engines.group import Written, commit_written
from lancedb_ft.reindex.engines.ray_pool import RayPool, connect_ray
from lancedb_ft.reindex.engines.worker import WorkerTask, package_versions
from lancedb_ft.reindex.filling.backfill import FillReport
from lancedb_ft.reindex.filling.fragments import Columns, signature
from lancedb_ft.reindex.filling.moved_rows import must_move
from lancedb_ft.reindex.filling.right import RightFragments
from lancedb_ft.reindex.lock import spill_name
from lancedb_ft.storage import storage_options_for
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.table import dataset, storage_options

if TYPE_CHECKING:
    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.engines.base import Filler, FillWork

__all__ = ["RayEngine"]


@dataclass(frozen=True)
class RayEngine:
    """Fills fragments on a Ray cluster, one encoder a worker process.

    A fragment is what is given out, what is committed, and what is lost with a worker. So a table
    of few fragments keeps few workers busy: compact it to smaller ones first
    (``table.to_lance().optimize.compact_files(target_rows_per_fragment=...)`` merges only, so
    choose the size when the table is written).

    Every node must have lancedb-ft with the driver's versions, and see the table and the model
    under the same URI: an object store, or a file system that all nodes mount.

    Parameters
    ----------
    address
        Of the cluster, as in ``ray.init``: ``auto``, ``ray://head:10001``. None: the Ray this
        process is connected to, or ``$RAY_ADDRESS``, or one that is started on this machine.
    workers
        Processes; by default as many as the cluster has room for now.
    num_cpus, num_gpus
        What each worker takes of its node. ``num_gpus`` None: one, if the cluster has GPUs.
    fragments_per_commit, commit_after_s
        Fragments are committed when so many are written, or the first waits so long.
    start_timeout_s
        How long to wait for the first worker to be ready.

    Raises
    ------
    InputError
        A number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    num_cpus: float = 1.0
    num_gpus: float | None = None
    fragments_per_commit: int = 32
    commit_after_s: float = 30.0
    start_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        """Refuse what Ray would wait for without end."""
        if self.workers is not None and self.workers < 1:
            raise InputError(f"workers is {self.workers}; at least 1 is needed.")
        if self.num_cpus <= 0 or (self.num_gpus or 0) < 0:
            raise InputError("num_cpus must be above 0 and num_gpus not below.")
        if self.fragments_per_commit < 1:
            raise InputError("fragments_per_commit must be at least 1.")

    @property
    def name(self) -> str:
        """``ray``."""
        return "ray"

    def filler(self, work: FillWork) -> Filler:
        """Return what fills a generation on the cluster; Ray is reached when it runs."""
        return _RayFill(self, work)


class _RayFill:
    """Rounds over the fragments, as in a local backfill, with workers instead of a loop."""

    def __init__(self, engine: RayEngine, work: FillWork) -> None:
        self._engine = engine
        self._table = work.table
        self._task = _task(work)
        self._progress = work.progress
        self._right = work.right or RightFragments(None, work.generation)
        # Rows of fragments that the shown column's index covers move: one by one, and here.
        self._here = backfill_of(replace(work, right=self._right))
        self.report = self._here.report

    def run(self, only: Collection[int] | None = None) -> FillReport:
        """Fill until a whole pass finds nothing to do."""
        started, before = time.perf_counter(), self.report.seconds
        pool: RayPool | None = None
        try:
            for _ in range(MAX_ATTEMPTS):
                self._move(only)
                pending, total = self._pending(only)
                if not pending:
                    break
                if pool is None:
                    pool = RayPool(self._engine, self._task, connect_ray(self._engine.address))
                self._round(pool, pending, total)
            else:
                raise ReindexError(
                    f"After {MAX_ATTEMPTS} passes over table {self._table.name!r} there are still "
                    "rows whose text changed meanwhile. Run the same command again when fewer "
                    "rows change."
                )
            if pool is not None:
                pool.clean()
        finally:
            if pool is not None:
                pool.close()
            self._right.save()
            # The time of what was moved here is within it.
            self.report.seconds = before + time.perf_counter() - started
        return self.report

    def _move(self, only: Collection[int] | None) -> None:
        """Make fragments right that must not be replaced."""
        kept = must_move(dataset(self._table), self._task.columns.vector)
        kept = kept if only is None else kept.intersection(only)
        if kept:
            self._here.run(only=kept)

    def _pending(self, only: Collection[int] | None) -> tuple[dict[int, int], int]:
        """Return the fragments not known to be right, with their rows, and the rows in all."""
        ds = dataset(self._table)
        fragments = [f for f in ds.get_fragments() if only is None or f.fragment_id in only]
        if only is None:
            self._right.keep(f.fragment_id for f in fragments)
        total = sum(f.count_rows() for f in fragments)
        self.report.rows = max(self.report.rows, total)
        return {f.fragment_id: f.count_rows() for f in fragments if not self._right.has(f)}, total

    def _round(self, pool: RayPool, pending: dict[int, int], total: int) -> None:
        """Give every pending fragment out once."""
        before = self.report.fragments
        done = total - sum(pending.values())
        waiting: list[Written] = []
        oldest = time.monotonic()
        results = pool.run(pending, lambda n: self._tell(done + n, total))
        try:
            with closing(results):
                for written in results:
                    if written is not None:
                        done += pending[written.fragment_id]
                        oldest = oldest if waiting else time.monotonic()
                        waiting += self._unless_right(written)
                    if self._due(waiting, oldest):
                        self._commit(pool, waiting)
                        waiting = []
        finally:
            self._commit(pool, waiting)
        self._tell(done, total)
        self.report.rounds += 1 if self.report.fragments > before else 0

    def _unless_right(self, written: Written) -> list[Written]:
        """Return what is to be committed of a worker's answer: itself, or nothing."""
        if written.right:
            fragment = dataset(self._table).get_fragment(written.fragment_id)
            if fragment is not None and signature(fragment) == written.signature:
                self._right.add(fragment)
        return [written] if written.files else []

    def _due(self, waiting: list[Written], oldest: float) -> bool:
        full = len(waiting) >= self._engine.fragments_per_commit
        return full or (bool(waiting) and time.monotonic() - oldest > self._engine.commit_after_s)

    def _commit(self, pool: RayPool, waiting: list[Written]) -> None:
        """Commit; fragments that moved are found again by the next round."""
        if not waiting:
            return
        done = commit_written(self._table, waiting, self._task.columns)
        for fragment in done.right:
            self._right.add(fragment)
        pool.committed += done.numbers
        self.report.fragments += len(done.numbers)
        for one in waiting:
            self.report.encoded += one.encoded
            self.report.reused += one.reused
            self.report.encode_seconds += one.encode_seconds / pool.n_workers

    def _tell(self, done: int, total: int) -> None:
        if self._progress is not None:
            self._progress(min(done, total), total)


def _task(work: FillWork) -> WorkerTask:
    table, generation, encoder = work.table, work.generation, work.encoder
    uri = _absolute(str(table.uri))
    store = _store_of(generation)
    place = hashlib.sha256(uri.encode()).hexdigest()[:16]
    folder = cache_folder() / "ray" / place / spill_name(encoder, generation.dims)
    return WorkerTask(
        uri=uri,
        columns=Columns.of(generation, work.donors),
        model=str(generation.model),
        store=store,
        fingerprint=str(generation.fingerprint),
        precision=encoder.precision,
        backend=encoder.backend,
        device=_device(work),
        spill=str(folder),
        versions=package_versions(),
        table_options=storage_options(table) or storage_options_for(uri),
        store_options=storage_options_for(store) if store else None,
    )


def _device(work: FillWork) -> str | None:
    """Return where workers encode: None, on the best that each has, unless one was asked for.

    OpenVINO runs on the CPU, whatever else a node has.
    """
    return work.device if work.encoder.backend == "torch" else work.encoder.device


def _store_of(generation: Generation) -> str | None:
    """Return the model store that a generation's function names."""
    named = ((generation.function or {}).get("model") or {}).get("store")
    # Written into tables as $var:ft_store:<uri>, see `lancedb_ft.embedding`.
    return str(named).split(":", 2)[-1] if named else None


def _absolute(uri: str) -> str:
    return uri if "://" in uri else os.path.abspath(uri)
