"""`Searcher`: a table kept open for searching, followed through its versions."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import SearchError, StoreError
from lancedb_ft.evaluate.queries import query_embedder
from lancedb_ft.search.answer import SCORES, answer
from lancedb_ft.search.place import place_of
from lancedb_ft.search.pools import query_pool
from lancedb_ft.search.query import SearchRequest
from lancedb_ft.search.snapshot import Snapshot, files_are_gone
from lancedb_ft.table import id_column_of
from lancedb_ft.types import Retriever, Run

if TYPE_CHECKING:
    import lance
    from lancedb.rerankers import Reranker
    from lancedb.table import AsyncTable, Table

__all__ = ["Searcher"]

#: What a query can fail with because the table moved on under it.
_PASSING = (ValueError, OSError, RuntimeError, StoreError, SearchError)


class Searcher:
    """Search one table again and again, from any number of threads and tasks.

    It follows the table: rows written, indexes built and model generations switched by anyone, in
    any process, are seen by the next query. Each query runs on one version of the table: column,
    model, both legs and the rows that are returned belong together.

    It opens the table by its place, so it sees the newest version also where the handle it was
    made from lags behind or is checked out at an old one, and it keeps its own cache of index
    pages beside LanceDB's. Keep one per table.

    Parameters
    ----------
    table
        A table of a local or object-store database, sync or async.
    refresh_interval_s
        Look for a new version at most that often. 0 looks at every query, which takes 0.01 ms on a
        local disk and one listing on an object store.
    version
        Stay at this version and never look for another.
    embedder
        What embeds queries, for tables whose columns name no function: a LanceDB embedding
        function, an `Encoder`, a SentenceTransformer, or a function from a text to a vector. By
        default the function of the very column that is searched.
    nprobes
        How many partitions of an IVF index are searched at least; LanceDB's own default.
    refine_factor
        Fetch that many times more rows from a quantised index and rank them by exact distance.

    Raises
    ------
    QueryError
        The table is remote or in memory only.
    SearchError
        The table cannot be read.

    Examples
    --------
    >>> with Searcher(docs) as searcher:                                     # doctest: +SKIP
    ...     searcher.search("how do I cancel?", k=5).to_pylist()
    """

    def __init__(
        self,
        table: Table | AsyncTable,
        *,
        refresh_interval_s: float = 0.0,
        version: int | None = None,
        embedder: Any = None,
        nprobes: int = 20,
        refine_factor: int | None = None,
    ) -> None:
        self._place = place_of(table)
        self._refresh_interval_s = refresh_interval_s
        self._version = version
        self._embedder = embedder
        self._nprobes = nprobes
        self._refine_factor = refine_factor
        self._lock = threading.Lock()
        self._snapshot: Snapshot | None = None
        self._checked_s = 0.0
        self._refresh(None)

    # --- searching -------------------------------------------------------------------------

    def search(
        self,
        query: str | None,
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | None = None,
        vector: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
    ) -> pa.Table:
        """Search; arguments, result and errors are those of `lancedb_ft.search`."""
        return self._answer(
            SearchRequest.of(
                query,
                k=k,
                mode=mode,
                where=where,
                select=select,
                reranker=reranker,
                column=column,
                text_columns=text_columns,
                vector=vector,
                embedder=embedder,
                prefilter=prefilter,
                candidates=candidates,
            )
        )

    async def search_async(
        self,
        query: str | None,
        *,
        k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        select: Sequence[str] | None = None,
        reranker: Reranker | None = None,
        column: str | None = None,
        text_columns: Sequence[str] | None = None,
        vector: npt.ArrayLike | None = None,
        embedder: Any = None,
        prefilter: bool = True,
        candidates: int | None = None,
    ) -> pa.Table:
        """Search without blocking the event loop, embedding and reranking included."""
        request = SearchRequest.of(
            query,
            k=k,
            mode=mode,
            where=where,
            select=select,
            reranker=reranker,
            column=column,
            text_columns=text_columns,
            vector=vector,
            embedder=embedder,
            prefilter=prefilter,
            candidates=candidates,
        )
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(query_pool(), self._answer, request)

    def retriever(
        self,
        *,
        mode: str = "hybrid",
        id_column: str | None = None,
        where: str | None = None,
        column: str | None = None,
        reranker: Reranker | None = None,
        candidates: int | None = None,
    ) -> Retriever:
        """Return this search as a `Retriever`, for evaluation on the path that serves.

        Parameters
        ----------
        mode, where, column, reranker, candidates
            As for `search`.
        id_column
            The column with the ids that the qrels use; by default ``id``, ``_id`` or ``doc_id``.

        Raises
        ------
        ColumnNotFoundError
            There is no such column.
        """
        key = id_column_of(self._current().schema, id_column, table=self._place.name)

        def retrieve(queries: Mapping[str, str], k: int) -> Run:
            run: dict[str, dict[str, float]] = {}
            searched = column
            vectors: dict[str, npt.NDArray[np.float32]] = {}
            if mode != "fts" and self._embedder is None:
                searched, vectors = self._embed_all(list(queries.values()), column)
            for query_id, text in queries.items():
                found = self.search(
                    text,
                    k=k,
                    mode=mode,
                    where=where,
                    select=[key],
                    reranker=reranker,
                    column=searched,
                    vector=vectors.get(text),
                    candidates=candidates,
                )
                run[query_id] = _scores_by_id(found, key)
            return run

        return retrieve

    # --- life ------------------------------------------------------------------------------

    def close(self) -> None:
        """Let go of the table and its caches; searching afterwards raises `SearchError`."""
        with self._lock:
            self._snapshot = None

    def __enter__(self) -> Searcher:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Name the table and the version in use."""
        snapshot = self._snapshot
        state = "closed" if snapshot is None else f"version={snapshot.version}"
        return f"Searcher({self._place.name!r}, {state})"

    # --- versions --------------------------------------------------------------------------

    def _current(self) -> Snapshot:
        """Return the snapshot to search: of the newest version, unless it was looked up lately."""
        snapshot = self._snapshot
        if snapshot is None:
            raise SearchError(f"This Searcher of table {self._place.name!r} is closed.")
        fresh_for_s = self._refresh_interval_s
        if self._version is not None or (
            fresh_for_s and time.monotonic() - self._checked_s < fresh_for_s
        ):
            return snapshot
        now_s = time.monotonic()
        latest = self._latest_version(snapshot)
        self._checked_s = now_s
        return snapshot if latest == snapshot.version else self._refresh(snapshot, latest)

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
                raise SearchError(f"This Searcher of table {self._place.name!r} is closed.")
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
                self._place.uri,
                version=self._version,
                storage_options=self._place.storage_options,
            )
        except (OSError, ValueError) as error:
            raise self._unreadable(error) from error

    def _snapshot_of(self, ds: lance.LanceDataset, *, masks_deleted: bool = False) -> Snapshot:
        return Snapshot(
            ds,
            table=self._place.name,
            nprobes=self._nprobes,
            refine_factor=self._refine_factor,
            masks_deleted=masks_deleted,
        )

    def _moved_on(self, failed: Snapshot, error: Exception) -> Snapshot | None:
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

    def _unreadable(self, error: Exception) -> SearchError:
        return SearchError(
            f"Table {self._place.name!r} at {self._place.uri!r} cannot be read: {error} "
            "If it was dropped, make or open it again."
        )

    # --- one query -------------------------------------------------------------------------

    def _embed_all(
        self, texts: list[str], column: str | None
    ) -> tuple[str, dict[str, npt.NDArray[np.float32]]]:
        """Embed many queries in one batch, for the column that goes with those vectors."""
        snapshot = self._current()
        target = snapshot.target(column)
        embed = query_embedder(snapshot.schema, self._place.name, target.column, None)
        return target.column, embed(texts)

    def _answer(self, request: SearchRequest) -> pa.Table:
        snapshot = self._current()
        try:
            return answer(snapshot, request, embedder=self._embedder)
        except _PASSING as error:
            fresh = self._moved_on(snapshot, error)
            if fresh is None:
                raise
            return answer(fresh, request, embedder=self._embedder)


def _scores_by_id(found: pa.Table, key: str) -> dict[str, float]:
    """Return ``{id: score}``, higher is better; of an id found twice the better one."""
    score = next(name for name in reversed(SCORES) if name in found.column_names)
    sign = -1.0 if score == "_distance" else 1.0
    scores: dict[str, float] = {}
    for doc_id, value in zip(found[key].to_pylist(), found[score].to_pylist(), strict=True):
        doc_id, value = str(doc_id), sign * value
        scores[doc_id] = max(value, scores.get(doc_id, value))
    return scores
