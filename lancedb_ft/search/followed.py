"""A table kept open and followed through its versions, for all threads of a `Searcher`."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from contextlib import suppress
from typing import TYPE_CHECKING

from lancedb_ft.errors import PageExpiredError, SearchError
from lancedb_ft.search.filters import files_are_gone
from lancedb_ft.search.options import count_of, number_of
from lancedb_ft.search.place import TablePlace
from lancedb_ft.search.snapshot import Snapshot

if TYPE_CHECKING:
    import lance

__all__ = ["FollowedTable"]

#: How many older versions are kept open for pages.
_MAX_PINNED = 8
#: Every version that is followed leaves its manifest and what is known of its files in the cache of
#: metadata, 0.1 MB a write; Lance keeps 1 GB of that. What a query needs of it is far less.
_METADATA_CACHE_BYTES = 64 << 20
#: What Lance takes for a number, and for a version.
_MAX_INT = 2**31 - 1
_MAX_VERSION = 2**63 - 1


class FollowedTable:
    """The snapshots of one table: the newest, and older ones that pages are of.

    Parameters
    ----------
    place
        Where the table is.
    refresh_interval_s
        Look for a new version at most that often.
    version
        Stay at this version and never look for another.
    nprobes, refine_factor
        See `Snapshot`.

    Raises
    ------
    QueryError
        A number cannot be used.
    SearchError
        The table cannot be read.
    """

    def __init__(
        self,
        place: TablePlace,
        *,
        refresh_interval_s: float,
        version: int | None,
        nprobes: int,
        refine_factor: int | None,
    ) -> None:
        self.place = place
        self._refresh_interval_s = number_of(refresh_interval_s, "refresh_interval_s", least=0)
        self._version = version
        if version is not None:
            self._version = count_of(version, "version", most=_MAX_VERSION)
        self._nprobes = count_of(nprobes, "nprobes", most=_MAX_INT)
        self._refine_factor = refine_factor
        if refine_factor is not None:
            self._refine_factor = count_of(refine_factor, "refine_factor", most=_MAX_INT)
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._pinned: OrderedDict[int, Snapshot] = OrderedDict()
        self._checked_s = 0.0
        self._refresh(None)

    @property
    def version(self) -> int | None:
        """The version in use; None when closed."""
        snapshot = self._snapshot
        return None if snapshot is None else snapshot.version

    def close(self) -> None:
        """Let go of all snapshots and their caches."""
        with self._lock:
            self._snapshot = None
            self._pinned.clear()

    def current(self) -> Snapshot:
        """Return the snapshot to search: of the newest version, unless it was looked up lately.

        Raises
        ------
        SearchError
            It was closed, or the table cannot be read.
        """
        snapshot = self._snapshot
        if snapshot is None:
            raise self._closed()
        fresh_for_s = self._refresh_interval_s
        if self._version is not None or (
            fresh_for_s and time.monotonic() - self._checked_s < fresh_for_s
        ):
            return snapshot
        now_s = time.monotonic()
        latest = self._latest_version(snapshot)
        self._checked_s = now_s
        return snapshot if latest == snapshot.version else self._refresh(snapshot, latest)

    def at(self, version: int) -> Snapshot:
        """Return the snapshot of one version, for as long as that can be read.

        Raises
        ------
        PageExpiredError
            It was cleaned up, or never was.
        """
        current = self.current()
        if version == current.version:
            return current
        with self._lock:
            if version in self._pinned:
                self._pinned.move_to_end(version)
                return self._pinned[version]
        try:
            found = self._snapshot_of(current.ds.checkout_version(version))
        except (OSError, ValueError) as error:
            raise self.expired(version) from error
        with self._lock:
            if self._snapshot is None:
                raise self._closed()
            self._pinned[version] = found
            while len(self._pinned) > _MAX_PINNED:
                self._pinned.popitem(last=False)
        return found

    def expired(self, version: int) -> PageExpiredError:
        """Return the error for a version that is gone; it is not kept open any more."""
        with self._lock:
            self._pinned.pop(version, None)
        reason = "it was cleaned up, or the table was made anew."
        return PageExpiredError(self.place.name, version=version, reason=reason)

    def moved_on(self, failed: Snapshot, error: Exception) -> Snapshot | None:
        """Return a new snapshot if the failure may come from the old one's age, else None.

        A query can fail because its version was cleaned up, because its model was deleted after a
        switch, or because the table was dropped and made again, perhaps with the same version
        number: then its files are gone.
        """
        if self._version is not None:
            return None
        if files_are_gone(error):
            fresh = self._snapshot_of(self._open())
            with self._lock:
                if self._snapshot is not None:
                    self._snapshot = fresh
            return fresh
        latest = self._latest_version(failed)
        return None if latest == failed.version else self._refresh(failed, latest)

    # --- versions --------------------------------------------------------------------------

    def _latest_version(self, snapshot: Snapshot) -> int:
        try:
            return int(snapshot.ds.latest_version)
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _refresh(self, stale: Snapshot | None, version: int | None = None) -> Snapshot:
        """Replace the snapshot by one of ``version``, or of the newest where that is gone.

        It stays in the session of ``stale``, so that index pages stay cached, unless the table was
        made anew: its versions then start again.
        """
        with self._lock:
            if stale is not None and self._snapshot is None:
                raise self._closed()
            if self._snapshot is not None and self._snapshot.version == version:
                return self._snapshot  # another thread was here first
            ds = None
            if stale is not None and version is not None and version > stale.version:
                # Not there any more if it was cleaned up in the meantime.
                with suppress(OSError, ValueError):
                    ds = stale.ds.checkout_version(version)
            masks_deleted = ds is not None and stale is not None and stale.masks_deleted
            ds = self._open() if ds is None else ds
            self._snapshot = self._snapshot_of(ds, masks_deleted=masks_deleted)
            self._checked_s = time.monotonic()
            return self._snapshot

    def _open(self) -> lance.LanceDataset:
        import lance

        try:
            return lance.dataset(
                self.place.uri,
                version=self._version,
                storage_options=self.place.storage_options,
                metadata_cache_size_bytes=_METADATA_CACHE_BYTES,
            )
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _snapshot_of(self, ds: lance.LanceDataset, *, masks_deleted: bool = False) -> Snapshot:
        return Snapshot(
            ds,
            table=self.place.name,
            nprobes=self._nprobes,
            refine_factor=self._refine_factor,
            masks_deleted=masks_deleted,
        )

    def _closed(self) -> SearchError:
        return SearchError(f"This Searcher of table {self.place.name!r} is closed.")

    def _unreadable(self, error: Exception) -> SearchError:
        return SearchError(
            f"Table {self.place.name!r} at {self.place.uri!r} cannot be read: {error} "
            "If it was dropped, make or open it again."
        )
