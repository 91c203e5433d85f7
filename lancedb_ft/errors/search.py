"""Search, rerankers, and what is learned about them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from lancedb_ft.errors.base import LancedbFtError, listing

__all__ = [
    "NoEmbedderError",
    "NoPositionsError",
    "NoTextIndexError",
    "NotBetterError",
    "PageExpiredError",
    "RerankError",
    "SearchError",
    "SearchTimeoutError",
]


class SearchError(LancedbFtError):
    """A search could not be answered."""


class NoTextIndexError(SearchError):
    """Full-text or hybrid search needs a full-text index."""

    def __init__(self, table: str, *, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"Table {table!r} has no full-text index on {column!r}. Build it with "
            f'table.create_index({column!r}, config=FTS()), or search with mode="vector".'
        )


class NotBetterError(SearchError):
    """What was learned on judged queries does not beat what is served already. Nothing was saved.

    ``evidence`` holds the figures.
    """

    exit_code = 3

    def __init__(
        self, what: str, *, than: str, metric: str, evidence: Mapping[str, Any], cure: str
    ) -> None:
        self.what = what
        self.than = than
        self.metric = metric
        self.evidence = dict(evidence)
        delta = self.evidence["delta"][metric]
        low, high = delta["ci95"]
        super().__init__(
            f"{what} does not beat {than} for sure: {metric} {delta['mean']:+.4f} "
            f"[{low:+.4f}, {high:+.4f}] (n = {self.evidence['n']}), and the interval must lie "
            f"above 0. Nothing was saved. {cure}"
        )


class RerankError(SearchError):
    """A reranker gave no order: its service failed, was late, or said what makes no sense.

    ``reason`` is short and without anything of a query, a text or a key. ``detail`` is what the
    service said. ``permanent`` failures, as a refused key, are not cured by trying again;
    ``retry_after_s`` is how long the service asked to be left alone.
    """

    def __init__(
        self,
        reranker: str,
        *,
        reason: str,
        detail: str = "",
        permanent: bool = False,
        retry_after_s: float | None = None,
    ) -> None:
        self.reranker = reranker
        self.reason = reason
        self.detail = detail
        self.permanent = permanent
        self.retry_after_s = retry_after_s
        told = f" It said: {detail}" if detail else ""
        super().__init__(f"{reranker} gave no order: {reason}.{told}")


class NoPositionsError(SearchError):
    """A phrase needs a full-text index that knows where in a text its words stand."""

    def __init__(self, table: str, *, column: str) -> None:
        self.table = table
        self.column = column
        super().__init__(
            f"The full-text index on {column!r} of table {table!r} has no positions, which a "
            f"phrase needs. Build it anew with table.create_index({column!r}, "
            "config=FTS(with_position=True)), or search with words='all'."
        )


class PageExpiredError(SearchError):
    """The version of the table that the pages are of cannot be read any more."""

    def __init__(self, table: str, *, version: int, reason: str) -> None:
        self.table = table
        self.version = version
        self.reason = reason
        super().__init__(
            f"Version {version} of table {table!r}, which these pages are of, cannot be read: "
            f"{reason} Start again with page='first'."
        )


class SearchTimeoutError(SearchError):
    """No leg of the search was done when its time was over."""

    def __init__(self, table: str, *, budget_ms: float, late: Iterable[str]) -> None:
        self.table = table
        self.budget_ms = budget_ms
        self.late = list(late)
        super().__init__(
            f"The search of table {table!r} found nothing in its {budget_ms:g} ms: late were "
            f"{listing(self.late)}. An empty answer would read as 'nothing matches'. Give it more "
            "with budget_ms=, or see where the time goes: lancedb_ft.explain."
        )


class NoEmbedderError(SearchError):
    """There is no embedding function to embed a text query with.

    The table names none, or it names an ``alias`` that nothing in this process has registered.
    """

    def __init__(self, table: str, *, columns: Iterable[str] = (), alias: str = "") -> None:
        self.table = table
        self.columns = list(columns)
        self.alias = alias
        found = (
            f"Table {table!r} names the embedding function {alias!r} for {listing(self.columns)}, "
            "and nothing in this process has registered it, so a text query cannot be embedded. "
            "Import the module that registers it,"
            if alias
            else f"Table {table!r} names no embedding function for a vector column (it has "
            f"{listing(self.columns)}), so a text query cannot be embedded. Re-index it with "
            "lancedb-ft reindex run,"
        )
        super().__init__(f'{found} pass embedder=..., or search with mode="fts".')
