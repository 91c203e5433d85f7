"""Pages of one ranking, made on one version of the table, that writes cannot move.

A token names the version, where the next page begins, and how deep the ranking was made. It also
has a digest of the query, so that it cannot be used with another one by mistake, and what else the
first page was made with: the moment that says which rows are hot, and the parts that were late or
failed. The ranking itself is kept for a while, under a name that the token has, too: two users who
ask the same with rerankers or embedders of their own do not get each other's. It is no secret
and not signed: whoever can send a token can name an older version of the same table, and is shown
what the query finds there. Where rows are deleted to be forgotten, sign what you hand out, or
clean up old versions: `lancedb_ft.PageExpiredError` is what such a page then gives.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import secrets
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from lancedb_ft.errors import QueryError
from lancedb_ft.search.options import FIRST_PAGE
from lancedb_ft.search.query import MAX_K, SearchRequest

__all__ = ["KeptRanking", "PageToken", "Rankings", "ordered_hits"]

#: How many rows each leg brings to a ranking that is shown in pages, unless the caller says.
PAGED_DEPTH = 1_000
#: The same where a reranker has to read them.
RERANKED_DEPTH = 100
_MAX_TOKEN = 512
#: What a ranking can be made without, and in which combinations: one leg there must be.
_PARTS = ("vector", "fts", "rerank")
_LEFT_OUT: tuple[list[str], ...] = (
    *([], ["vector"], ["fts"]),
    *(["rerank"], ["vector", "rerank"], ["fts", "rerank"]),
)


@dataclass(frozen=True)
class PageToken:
    """Where a page begins.

    Parameters
    ----------
    version
        The version of the table that all pages are of.
    offset
        How many rows the pages before it had.
    depth
        How many rows each leg brings to the ranking.
    query
        Digest of the query and the table's name.
    ranking
        Under which the ranking of the first page is kept.
    began_s
        When the first page was asked for, in seconds since 1970.
    left_out
        The parts that the first page had to do without. A ranking made anew does without them, too,
        or rows would stand on two pages, or on none.
    """

    version: int
    offset: int
    depth: int
    query: str
    ranking: str = ""
    began_s: float = 0.0
    left_out: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as text that may stand in a URL."""
        packed = json.dumps(astuple(self), separators=(",", ":")).encode()
        return base64.urlsafe_b64encode(packed).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> PageToken:
        """Read what ``str`` gave.

        Raises
        ------
        QueryError
            It is no token of a page.
        """
        try:
            if len(text) > _MAX_TOKEN:
                raise ValueError("too long")
            packed = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
            version, offset, depth, query, ranking, began_s, left_out = json.loads(packed)
            numbers = (version, offset, depth)
            if not all(type(n) is int and 0 <= n < 2**63 for n in numbers):
                raise ValueError("not whole numbers")
            if not all(isinstance(text, str) for text in (query, ranking)):
                raise ValueError("no digests")
            if not (1 <= depth <= MAX_K and version >= 1 and type(began_s) is float):
                raise ValueError("out of bounds")
            if not 0 <= began_s < 1e11 or left_out not in _LEFT_OUT:
                raise ValueError("out of bounds")
        except (ValueError, TypeError, RecursionError, binascii.Error) as error:
            raise QueryError(
                f"page is {text!r:.80}; it must be 'first', or next_page of the page before "
                "(SearchInfo.of(found).next_page)."
            ) from error
        return cls(version, offset, depth, query, ranking, began_s, tuple(left_out))

    @classmethod
    def of(cls, request: SearchRequest, *, table: str, version: int) -> PageToken:
        """Return the token of the page of a table that a request asks for, the first one included.

        Raises
        ------
        QueryError
            It is no token, or of another query or table.
        """
        query = hashlib.sha256(f"{request.digest}/{table}".encode()).hexdigest()[:16]
        if request.options.page == FIRST_PAGE:
            usual = PAGED_DEPTH if request.reranker is None else RERANKED_DEPTH
            depth = max(request.k, request.candidates or usual)
            name, began_s = secrets.token_hex(4), round(time.time(), 3)
            return cls(version, 0, min(depth, MAX_K), query, name, began_s)
        found = cls.parse(request.options.page or "")
        if found.query != query:
            raise QueryError(
                "page is of another query. Ask for its next page with the same table, query, "
                "filter, mode, columns and reranker; only k and select may differ."
            )
        return found

    def next(self, n_rows: int) -> PageToken:
        """Return the token of the page after so many rows."""
        return replace(self, offset=self.offset + n_rows)

    def without(self, degraded: Sequence[str]) -> PageToken:
        """Return the token of a ranking that was made without some parts, by their reasons."""
        parts = {reason.partition(":")[0] for reason in degraded}
        return replace(self, left_out=tuple(name for name in _PARTS if name in parts))


def ordered_hits(
    fetch: Callable[[int], pa.Table], depth: int, score: str, *, n_rows: int
) -> pa.Table:
    """Return the best ``depth`` hits in an order that is the same each time.

    Which of the rows with equal scores come first, and which come at all, differs between two
    runs of one query. Here they come by row id; where the last ones could be any of more rows with
    that score, more are fetched until they cannot.

    Parameters
    ----------
    fetch
        Returns the best so many hits, with ``_rowid`` and ``score``.
    depth
        How many are wanted.
    score
        ``_distance`` or ``_score``.
    n_rows
        How many rows the table has.
    """
    n_fetched = depth + 1
    while True:
        hits = fetch(n_fetched)
        scores = hits[score].to_numpy()
        is_cut = len(scores) >= n_fetched and n_fetched < n_rows and scores[depth - 1] == scores[-1]
        if not is_cut:
            break
        n_fetched = min(4 * n_fetched, n_rows)
    sign = 1.0 if score == "_distance" else -1.0
    order = np.lexsort((hits["_rowid"].to_numpy(), sign * scores))[:depth]
    return hits.take(pa.array(order))


class KeptRanking(NamedTuple):
    """Rows that were ranked, and why they are less than was asked for."""

    rows: pa.Table
    degraded: tuple[str, ...]


class Rankings:
    """The last rankings that were shown in pages, so that the next page is not ranked again.

    Where one is not there any more it is made anew, on the same version and in the same way: the
    same, as far as embedder and reranker say the same again.

    Parameters
    ----------
    capacity
        How many are kept.
    """

    def __init__(self, capacity: int = 32) -> None:
        self._capacity = capacity
        self._kept: OrderedDict[tuple[object, ...], KeptRanking] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: tuple[object, ...]) -> KeptRanking | None:
        """Return a ranking, if it is still there."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def put(self, key: tuple[object, ...], ranking: KeptRanking) -> None:
        """Keep a ranking, in place of the one not used for longest."""
        with self._lock:
            self._kept[key] = ranking
            self._kept.move_to_end(key)
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)
