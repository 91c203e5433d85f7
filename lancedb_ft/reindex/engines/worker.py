"""A worker: one process with one encoder that writes the files of one fragment after the other.

It commits nothing. What it encoded is kept on its machine's disk until the driver says that the
fragment is committed, so a fragment that is given out again there goes on where it stopped.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lancedb_ft.errors import EngineError, LancedbFtError
from lancedb_ft.reindex.engines.group import Written
from lancedb_ft.reindex.filling.fragments import Columns, is_right, signature, write_fragment

if TYPE_CHECKING:
    import lance

    from lancedb_ft.encoder import Encoder

__all__ = ["FillWorker", "Node", "WorkerTask"]


@dataclass(frozen=True)
class WorkerTask:
    """What every worker of a job is told once.

    Options of object stores are left out of the ``repr``, which ends up in logs.
    """

    uri: str
    columns: Columns
    model: str
    store: str | None
    fingerprint: str
    precision: str
    backend: str
    device: str | None
    spill: str
    versions: tuple[tuple[str, str], ...]
    table_options: dict[str, str] | None = field(default=None, repr=False)
    store_options: dict[str, str] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Node:
    """A worker that is ready."""

    name: str
    device: str


class FillWorker:
    """Fills fragments; made by Ray, one a process."""

    def __init__(self, task: WorkerTask) -> None:
        # Read when torch is imported, which is below: see the command line.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        os.environ.setdefault("LANCE_LOG", "error")
        self._task = task
        self._at = (-1, 0)
        self._encoder: Encoder | None = None

    def start(self) -> Node:
        """Load the model and look at the table.

        Raises
        ------
        EngineError
            This node cannot see one of them, sees another one, or has other packages.
        """
        found = package_versions()
        if found != self._task.versions:
            raise EngineError(
                f"has {_told(found)}, and the driver {_told(self._task.versions)}: install the "
                "same versions on all nodes.",
                node=platform.node(),
            )
        self._dataset()
        self._encoder = self._load()
        return Node(platform.node(), self._encoder.device)

    def fill(self, fragment_id: int, committed: Iterable[int]) -> Written:
        """Write a fragment's files.

        Parameters
        ----------
        fragment_id
            Of the newest version, which is read to the end as it is now.
        committed
            Fragments whose vectors need not be kept any more.
        """
        self._forget(committed)
        self._at = (fragment_id, 0)
        ds = self._dataset()
        fragment = ds.get_fragment(fragment_id)
        if fragment is None:
            return Written(fragment_id)
        try:
            return self._fill(ds, fragment)
        except OSError:
            # Compaction and a clean-up in the middle take the files away that are being read.
            if self._moved(fragment_id, signature(fragment)):
                return Written(fragment_id)
            raise

    def rows_done(self) -> tuple[int, int]:
        """Return the present fragment, and how many of its rows were encoded or found."""
        return self._at

    def finish(self) -> None:
        """Remove what is kept on this machine: all is committed."""
        shutil.rmtree(self._task.spill, ignore_errors=True)

    def _fill(self, ds: lance.LanceDataset, fragment: lance.LanceFragment) -> Written:
        from lancedb_ft.reindex.filling.backfill import FillReport, SpilledVectors
        from lancedb_ft.reindex.filling.spill import Spill

        task = self._task
        number = fragment.fragment_id
        rows = fragment.count_rows()
        if is_right(ds, fragment, task.columns):
            return Written(number, signature(fragment), right=True, rows=rows)
        if self._encoder is None:
            raise EngineError("was not started", node=platform.node())
        report = FillReport()
        spill = Spill(Path(task.spill) / str(number), task.columns.dims)
        vectors = SpilledVectors(self._encoder, spill, task.columns.dims, report)
        vectors.begin(self._tell, 0, rows)
        files = write_fragment(
            ds, fragment, task.columns, vectors, storage_options=task.table_options
        )
        return Written(
            number,
            signature(fragment),
            tuple(files),
            rows=rows,
            encoded=report.encoded,
            reused=report.reused,
            encode_seconds=report.encode_seconds,
            node=platform.node(),
        )

    def _tell(self, done: int, _total: int | None, /) -> None:
        self._at = (self._at[0], done)

    def _forget(self, fragment_ids: Iterable[int]) -> None:
        for number in fragment_ids:
            shutil.rmtree(Path(self._task.spill) / str(number), ignore_errors=True)

    def _moved(self, fragment_id: int, was: str) -> bool:
        fragment = self._dataset().get_fragment(fragment_id)
        return fragment is None or signature(fragment) != was

    def _dataset(self) -> lance.LanceDataset:
        import lance

        task = self._task
        try:
            ds = lance.dataset(task.uri, storage_options=task.table_options)
        except (OSError, ValueError) as error:
            raise EngineError(
                f"cannot open the table at {task.uri!r}: {error} A local path must be on a file "
                "system that every node mounts at the same place; or put the database in an "
                "object store.",
                node=platform.node(),
            ) from None
        missing = [name for name in task.columns.names if name not in ds.schema.names]
        if missing:
            raise EngineError(
                f"sees another table at {task.uri!r}: it has no column {missing[0]!r}.",
                node=platform.node(),
            )
        return ds

    def _load(self) -> Encoder:
        from lancedb_ft.encoder import get_encoder
        from lancedb_ft.storage import use_storage_options

        task = self._task
        if task.store is not None and task.store_options:
            use_storage_options(task.store, task.store_options)
        try:
            return get_encoder(
                task.model,
                store=task.store,
                device=task.device,
                precision=task.precision,
                dims=task.columns.dims,
                fingerprint=task.fingerprint,
                backend=task.backend,
            )
        except (LancedbFtError, OSError) as error:
            where = f" in the store {task.store!r}" if task.store else ""
            raise EngineError(
                f"cannot load the model {task.model!r}{where}: {error} A local path must be on a "
                "file system that every node mounts at the same place; or put the store in an "
                "object store.",
                node=platform.node(),
            ) from None


def package_versions() -> tuple[tuple[str, str], ...]:
    """Return the versions that must be the same on all nodes: they share files."""
    from importlib.metadata import version

    return tuple((name, version(name)) for name in ("lancedb-ft", "pylance"))


def _told(versions: tuple[tuple[str, str], ...]) -> str:
    return " and ".join(f"{name} {number}" for name, number in versions)
