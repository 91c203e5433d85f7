"""Maintain: keep a table that is written all the time fast to search, without ever blocking it.

Rows that are not in an index yet are compared one by one by each query, so a round puts them in as
soon as they are more than a share of the table: into a small new part of that index alone, which
reads the new rows and nothing else. Parts are merged when there are many. Files are compacted while
nobody writes, and large indexes merged whole; in a table that is written all the time, where each
write adds a file that each query opens, the small files among them as soon as they are many.

Every step is one optimistic commit. One that loses against a writer is dropped, and the next round
looks again; a writer that loses against one retries by itself, as it does against other writers.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from lancedb_ft.arguments import is_number
from lancedb_ft.errors import InputError
from lancedb_ft.leftovers import has_leftovers
from lancedb_ft.memory import give_back
from lancedb_ft.races import lost_a_race
from lancedb_ft.search.index_status import IndexStatus, index_statuses
from lancedb_ft.search.place import opened_in_lancedb, place_of
from lancedb_ft.search.tiers import seconds_of
from lancedb_ft.table import stable_row_ids

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

    from lancedb_ft.search.place import TablePlace

__all__ = [
    "IndexWork",
    "Maintainer",
    "Maintenance",
    "MaintenanceReport",
    "MaintenanceThread",
    "maintain",
    "maintain_watch",
]

_log = logging.getLogger("lancedb_ft.maintain")

#: What writes left lately: files of fewer rows. Merging them takes tens of milliseconds.
SMALL_FILE_ROWS = 4_096
#: Seconds between two listings of all versions, in quiet windows and beside writers.
_CLEAN_EVERY_S = {True: 60.0, False: 3_600.0}

#: Seconds between two looks for freed memory, which take some milliseconds.
_GIVE_BACK_EVERY_S = 30.0

#: No version is older than a hundred years, and longer times are none that Lance can count.
_FOR_EVER_S = 100 * 365 * 86_400.0


@dataclass(frozen=True)
class Maintenance:
    """How a table is maintained.

    Parameters
    ----------
    max_unindexed
        Share of the table's rows that may stay out of an index, 0 to 1.
    min_rows
        So many rows may always stay out: a commit costs more than comparing them.
    max_parts
        Parts of an index from which the later ones are merged into one.
    max_files
        Files of fewer than 4,096 rows that may lie there while others write; more are merged. A
        query opens each.
    quiet_s
        Nobody has written for this long: a quiet window, in which all files are compacted.
    every_s
        Seconds between the rounds of those that go on.
    compact
        Whether to compact at all.
    keep_versions
        Remove older versions, such as ``7d``, in a quiet window or once an hour; tagged ones always
        stay. None removes none.

    Raises
    ------
    InputError
        A value cannot be used.
    """

    max_unindexed: float = 0.01
    min_rows: int = 64
    max_parts: int = 8
    max_files: int = 64
    quiet_s: float = 30.0
    every_s: float = 5.0
    compact: bool = True
    keep_versions: str | float | None = "7d"

    def __post_init__(self) -> None:
        bounds = (
            ("max_unindexed", 0, 1),
            ("min_rows", 0, None),
            ("max_parts", 2, None),
            ("max_files", 1, None),
            ("quiet_s", 0, None),
            ("every_s", 0.01, 86_400 * 365),
        )
        for name, least, most in bounds:
            value = getattr(self, name)
            fits = is_number(value) and least <= value < math.inf
            if not fits or (most is not None and value > most):
                until = f"from {least} to {most}" if most is not None else f"{least} or more"
                raise InputError(f"{name} is {value!r}; it must be {until}.")
        if self.keep_versions is not None:
            seconds_of(self.keep_versions, name="keep_versions")

    def bound(self, n_rows: int) -> int:
        """Return how many rows may stay out of an index of a table of that size."""
        return max(int(self.min_rows), int(self.max_unindexed * n_rows))


@dataclass(frozen=True)
class IndexWork:
    """What a round did for one index."""

    name: str
    n_unindexed: int
    merged_parts: int
    ms: float


@dataclass
class MaintenanceReport:
    """What a round found and did; ``lost`` names the steps that lost against a writer."""

    table: str
    version: int = 0
    n_rows: int = 0
    quiet: bool = False
    indexes: list[IndexWork] = field(default_factory=list)
    n_compacted_files: int = 0
    n_removed_versions: int = 0
    lost: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def did_something(self) -> bool:
        """Whether anything was committed or removed."""
        return bool(self.indexes or self.n_compacted_files or self.n_removed_versions)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}


class Maintainer:
    """Maintains one table, round after round; it knows which commits were its own.

    Parameters
    ----------
    place
        Where the table is.
    options
        How to maintain it.
    """

    def __init__(self, place: TablePlace, options: Maintenance) -> None:
        self._place = place
        self._options = options
        self._own_version = -1  # the newest version, where it is a commit of ours
        self._written_s = 0.0  # when somebody else committed last
        # In a quiet window at once, beside writers not before they have written for a while.
        self._cleaned_s = {True: -math.inf, False: time.monotonic()}

    def round(self) -> MaintenanceReport:
        """Look once, and do what is due."""
        started = time.perf_counter()
        ds = self._open()
        report = MaintenanceReport(self._place.name, int(ds.version), int(ds.count_rows()))
        report.quiet = self._quiet_for_s(ds) >= self._options.quiet_s
        for index in index_statuses(ds):
            self._index(ds, index, report)
        if self._options.compact:
            self._tidy(report)
        self._clean(report)
        report.seconds = time.perf_counter() - started
        return report

    def _open(self) -> lance.LanceDataset:
        import lance

        return lance.dataset(self._place.uri, storage_options=self._place.storage_options)

    def _quiet_for_s(self, ds: lance.LanceDataset) -> float:
        """Return for how long nobody else has written."""
        if int(ds.version) != self._own_version:
            self._written_s = float(ds.get_version()["timestamp"].timestamp())
        return time.time() - self._written_s

    def _index(self, ds: lance.LanceDataset, index: IndexStatus, report: MaintenanceReport) -> None:
        options = self._options
        # What is not in the table any more takes places of answers, until all parts are merged.
        spoiled = index.is_of_vectors and has_leftovers(ds, index.name, self._place.storage_options)
        late = index.n_unindexed > options.bound(report.n_rows)
        # A quiet window is the time for the large first part; otherwise it is left alone.
        parts = index.n_parts if report.quiet else index.n_parts - 1
        many = index.n_parts > (1 if report.quiet else options.max_parts)
        if not (late or spoiled) and not (many and (index.n_unindexed or index.n_parts > 1)):
            return
        merged = index.n_parts if spoiled else max(0, parts) if many else 0
        started = time.perf_counter()

        def put_in(ds: lance.LanceDataset) -> None:
            if index.kind == "BTree" and stable_row_ids(ds):
                _build_anew(self._place, index)
            else:
                ds.optimize.optimize_indices(index_names=[index.name], num_indices_to_merge=merged)

        if self._commit(f"index {index.name}", put_in, report):
            ms = round(1000 * (time.perf_counter() - started), 1)
            report.indexes.append(IndexWork(index.name, index.n_unindexed, merged, ms))

    def _tidy(self, report: MaintenanceReport) -> None:
        ds = self._open()
        # Looked at once more: compaction is what a writer would have to wait for.
        if report.quiet and self._quiet_for_s(ds) >= self._options.quiet_s:
            if len(ds.get_fragments()) > 1 or _has_deletions(ds):
                self._compact(report)
        elif _n_small_files(ds) > self._options.max_files:
            # The large files stay, with their deleted rows: what is busy is what came last.
            self._compact(
                report, target_rows_per_fragment=SMALL_FILE_ROWS, materialize_deletions=False
            )

    def _compact(self, report: MaintenanceReport, **options: Any) -> None:
        def compact(ds: lance.LanceDataset) -> None:
            report.n_compacted_files = int(ds.optimize.compact_files(**options).files_removed)

        self._commit("compact", compact, report)

    def _clean(self, report: MaintenanceReport) -> None:
        keep, now_s = self._options.keep_versions, time.monotonic()
        # Listing all versions is worth it now and then only.
        if keep is None or now_s - self._cleaned_s[report.quiet] < _CLEAN_EVERY_S[report.quiet]:
            return
        self._cleaned_s = dict.fromkeys(_CLEAN_EVERY_S, now_s)
        stats = self._open().cleanup_old_versions(
            timedelta(seconds=min(seconds_of(keep), _FOR_EVER_S)),
            error_if_tagged_old_versions=False,
        )
        report.n_removed_versions = int(stats.old_versions)

    def _commit(
        self, what: str, step: Callable[[lance.LanceDataset], None], report: MaintenanceReport
    ) -> bool:
        """Do one step on the newest version; note it where a writer was faster."""
        ds = self._open()
        self._quiet_for_s(ds)
        before = int(ds.version)
        try:
            step(ds)
        except Exception as error:
            if not (lost_a_race(error) or "Not found: " in str(error)):
                raise
            report.lost.append(what)
            return False
        report.version = int(ds.version)
        # With more between them, somebody wrote, and is looked up by the next step.
        self._own_version = report.version if report.version == before + 1 else -1
        return True


def _build_anew(place: TablePlace, index: IndexStatus) -> None:
    """Have LanceDB build a scalar index of all rows.

    Where row ids are stable, pylance 14 adds to a BTREE index in a format that LanceDB 0.40 does
    not read: it ignores the whole index from then on. One column is read; others are not.
    """
    from lancedb.index import BTree

    opened_in_lancedb(place).create_index(
        index.column, config=BTree(), name=index.name, replace=True
    )


def _has_deletions(ds: lance.LanceDataset) -> bool:
    return any(fragment.num_deletions for fragment in ds.get_fragments())


def _n_small_files(ds: lance.LanceDataset) -> int:
    return int(ds.stats.dataset_stats(max_rows_per_group=SMALL_FILE_ROWS)["num_small_files"])


def maintain(table: Table, options: Maintenance | None = None) -> MaintenanceReport:
    """Do what is due to keep a table fast to search, once.

    Parameters
    ----------
    table
        A table of a local or object-store database.
    options
        How; see `Maintenance`.

    Raises
    ------
    QueryError
        The table is remote or in memory only.
    InputError
        An option cannot be used.

    Examples
    --------
    >>> maintain(docs, Maintenance(max_unindexed=0.02)).indexes              # doctest: +SKIP
    """
    return Maintainer(place_of(table), _checked(options)).round()


def _checked(options: Maintenance | None) -> Maintenance:
    if options is not None and not isinstance(options, Maintenance):
        raise InputError(
            f"options is a {type(options).__name__}, and must be a Maintenance: "
            "Maintenance(max_unindexed=0.02)."
        )
    return options or Maintenance()


def maintain_watch(
    table: Table,
    options: Maintenance | None = None,
    *,
    stop: threading.Event | None = None,
    on_error: Callable[[Exception], None] | None = None,
) -> Iterator[MaintenanceReport]:
    """Maintain a table round after round; yield a report for each that did something.

    Parameters
    ----------
    table, options
        See `maintain`.
    stop
        Ends the loop when set.
    on_error
        Called with what a round failed with; the next one tries again. Without, it is raised.
    """
    yield from _rounds(place_of(table), _checked(options), stop, on_error)


def _rounds(
    place: TablePlace,
    options: Maintenance,
    stop: threading.Event | None,
    on_error: Callable[[Exception], None] | None,
) -> Iterator[MaintenanceReport]:
    stop = stop or threading.Event()
    maintainer = Maintainer(place, options)
    while not stop.is_set():
        report = None
        try:
            report = maintainer.round()
        except Exception as error:
            if on_error is None:
                raise
            on_error(error)
        if report is not None and (report.did_something or report.lost):
            yield report
        stop.wait(options.every_s)


class MaintenanceThread:
    """Maintains a table in the background for as long as a `Searcher` is open.

    It never fails the searches: what goes wrong is logged, and the next round tries again.

    Parameters
    ----------
    place, options
        Which table, and how.

    Attributes
    ----------
    last
        The report of the last round that did something, or lost.
    n_failed
        How many rounds failed; each is logged.
    """

    def __init__(self, place: TablePlace, options: Maintenance) -> None:
        self._stop = threading.Event()
        self.last: MaintenanceReport | None = None
        self.n_failed = 0
        self._arguments = (place, options, self._stop, self._failed)
        self._thread = threading.Thread(
            target=self._run, name=f"lancedb-ft-maintain-{place.name}", daemon=True
        )
        self._thread.start()

    def _run(self) -> None:
        gave_back_s = time.monotonic()
        for report in _rounds(*self._arguments):
            self.last = report
            # A process that is searched and written for weeks is not to grow by what it freed.
            if time.monotonic() - gave_back_s >= _GIVE_BACK_EVERY_S:
                give_back()
                gave_back_s = time.monotonic()

    def _failed(self, error: Exception) -> None:
        self.n_failed += 1
        _log.warning("maintenance of a table failed, and is tried again: %s", error)

    def close(self) -> None:
        """End after the round that is at work, and wait for it."""
        self._stop.set()
        if self._thread is not threading.current_thread():
            self._thread.join()
