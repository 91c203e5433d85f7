"""One query, checked: what was asked, before any table is touched."""

from __future__ import annotations

import hashlib
import logging
import math
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import QueryError
from lancedb_ft.search.filters import one_expression
from lancedb_ft.search.options import SearchOptions, count_of, names_of

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker

__all__ = ["MAX_K", "MAX_WORDS", "Mode", "SearchRequest", "text_terms"]

Mode: TypeAlias = Literal["hybrid", "vector", "fts", "auto"]

#: The most rows one search returns. More than that is a scan, not a search.
MAX_K = 100_000

#: What of a query the full-text search reads. Its cost grows with the number of terms (at 50,000
#: rows: 3 ms for 32 words, 25 ms for 128, over 5 s for 100 KB), and a page of text is past the
#: point where more terms say more. The vector takes as much as its model reads.
MAX_WORDS = 128
_MAX_CHARS = 2_000  # for scripts without spaces, where a "word" can be a whole text

#: Scores must stay finite in float32, whatever they are multiplied with.
_MAX_BOOST = 1_000_000
_NO_OPTIONS = SearchOptions()

_log = logging.getLogger("lancedb_ft.search")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A query and how to answer it; every field is checked. See `lancedb_ft.search` for them.

    ``left_out`` names parts that are not run (``vector``, ``fts``, ``rerank``), and says why.
    """

    text: str | None
    vector: npt.NDArray[np.float32] | None
    k: int
    mode: Mode
    where: str | None
    select: tuple[str, ...] | None
    column: str | None
    text_columns: tuple[str, ...] | None
    boosts: tuple[float, ...] | None
    reranker: Reranker | None
    embedder: Any
    prefilter: bool
    candidates: int | None
    options: SearchOptions
    deadline_s: float | None
    digest: str = ""
    left_out: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        query: str | None,
        *,
        k: int,
        mode: str,
        where: str | None,
        select: Sequence[str] | None,
        reranker: Reranker | None,
        column: str | None,
        text_columns: Sequence[str] | Mapping[str, float] | None,
        vector: npt.ArrayLike | None,
        embedder: Any,
        prefilter: bool,
        candidates: int | None,
        options: SearchOptions | None,
    ) -> SearchRequest:
        """Check everything that can be checked without the table.

        Raises
        ------
        QueryError
            Anything but the filter cannot be used as given.
        FilterError
            The filter is no text, or blank.
        """
        if not isinstance(mode, str) or mode not in get_args(Mode):
            raise QueryError(f"mode is {mode!r}; it must be 'hybrid', 'vector', 'fts' or 'auto'.")
        if vector is not None and mode == "fts":
            raise QueryError("A full-text search has no use for vector=; leave it out.")
        options = _options(options, mode, reranked=reranker is not None)
        columns, boosts = _boosted(text_columns)
        text_needed = mode != "vector" or vector is None or reranker is not None
        request = cls(
            text=_text(query, needed=text_needed),
            vector=None if vector is None else as_vector(vector, what="vector"),
            k=count_of(k, "k"),
            mode=mode,  # type: ignore[arg-type]  # checked above
            where=None if where is None else one_expression(where),
            select=names_of(select, "select"),
            column=_column(column),
            text_columns=columns,
            boosts=boosts,
            reranker=_reranker(reranker),
            embedder=embedder,
            prefilter=bool(prefilter),
            candidates=None if candidates is None else count_of(candidates, "candidates"),
            options=options,
            deadline_s=None
            if options.budget_ms is None
            else time.monotonic() + options.budget_ms / 1000,
        )
        return request if options.page is None else replace(request, digest=_digest(request))

    @property
    def legs_deadline_s(self) -> float:
        """When the legs must be done, as `time.monotonic`: a reranker that follows has half."""
        if self.deadline_s is None:
            return math.inf
        kept_s = 0.0 if self.reranker is None else (self.options.budget_ms or 0.0) / 2000
        return self.deadline_s - kept_s

    def depth(self, k: int) -> int:
        """Return how many rows each leg fetches when ``k`` are wanted.

        As many as are wanted, like LanceDB, unless the caller says more. More costs little and is
        not better by itself: with all-MiniLM-L6-v2 and RRF, 50 instead of 10 gave nDCG@10 .707
        for .702 on scifact (300 queries) and .486 for .496 on tldr (600). A reranker that reads
        the texts is what makes use of more.
        """
        return max(k, self.candidates or k)


def as_vector(value: npt.ArrayLike, *, what: str) -> npt.NDArray[np.float32]:
    """Return one query vector, shape ``(dims,)``.

    Raises
    ------
    QueryError
        It is not one row of finite numbers.
    """
    vector = as_floats(value, what=what)
    if vector.ndim != 1 or not len(vector):
        raise QueryError(f"{what} has the shape {vector.shape}; it must be one row, (dims,).")
    if not np.isfinite(vector).all():
        raise QueryError(f"{what} holds NaN or infinite values, which are near to nothing.")
    return vector


def as_floats(value: npt.ArrayLike, *, what: str) -> npt.NDArray[np.float32]:
    """Return numbers as float32; those that are too large become infinite.

    Raises
    ------
    QueryError
        They are no real numbers.
    """
    try:
        given = np.asarray(value)
        if given.dtype.kind == "c":
            raise TypeError("they are complex")
        with np.errstate(over="ignore"):
            return given.astype(np.float32, copy=False)
    except (TypeError, ValueError, OverflowError) as error:
        raise QueryError(f"{what} is not a row of numbers: {error}") from error


def text_terms(text: str) -> str:
    """Return the part of a query that the full-text search reads: the first `MAX_WORDS` words.

    Examples
    --------
    >>> len(text_terms("word " * 20_000).split())
    128
    """
    kept = text[:_MAX_CHARS]
    for n_words, word in enumerate(_WORD.finditer(kept)):
        if n_words == MAX_WORDS:
            kept = kept[: word.start()]
            break
    if len(kept) < len(text.rstrip()):
        _log.info("full-text search reads %d of %d characters", len(kept), len(text))
    return kept


def _text(query: str | None, *, needed: bool) -> str | None:
    if query is None and not needed:
        return None
    if not isinstance(query, str):
        hint = " A vector of your own goes in vector=." if query is not None else ""
        raise QueryError(f"The query is a {type(query).__name__}; it must be text.{hint}")
    if not query.strip():
        raise QueryError("The query is blank; there is nothing to search for.")
    try:
        query.encode()
    except UnicodeEncodeError as error:
        raise QueryError(f"The query is not valid Unicode text: {error}") from error
    return query


def _digest(request: SearchRequest) -> str:
    """Return a digest of all that decides the ranking of a query, as it was asked."""
    # All options count but those that change what is shown of the ranking.
    options = replace(
        request.options, page=None, highlight=None, facets=None, n_facet_values=1, budget_ms=None
    )
    parts = (
        request.text,
        request.mode,
        request.where,
        request.column,
        request.text_columns,
        request.boosts,
        request.prefilter,
        None if request.reranker is None else str(request.reranker).split(" object at ")[0],
        options,
    )
    digest = hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass"))
    if request.vector is not None:
        digest.update(np.ascontiguousarray(request.vector).tobytes())
    return digest.hexdigest()[:16]


def _column(column: str | None) -> str | None:
    if column is not None and not isinstance(column, str):
        raise QueryError(f"column is {column!r:.80}; it must be the name of a vector column.")
    return column


def _boosted(
    columns: Sequence[str] | Mapping[str, float] | None,
) -> tuple[tuple[str, ...] | None, tuple[float, ...] | None]:
    """Return the columns of the full-text leg, and their weights where some were given."""
    names = names_of(
        list(columns) if isinstance(columns, Mapping) else columns, "text_columns", empty=False
    )
    if not isinstance(columns, Mapping) or names is None:
        return names, None
    return names, tuple(_boost(name, columns[name]) for name in names)


def _boost(name: str, value: Any) -> float:
    try:
        boost = math.nan if isinstance(value, (bool, str)) else float(value)
    except (TypeError, ValueError, OverflowError):
        boost = math.nan
    if not 0 < boost <= _MAX_BOOST:
        raise QueryError(
            f"The boost of {name!r} is {value!r:.80}; it must be a number above 0, up to "
            f"{_MAX_BOOST:,}. Leave a column out to search without it."
        )
    return boost


def _options(options: SearchOptions | None, mode: str, *, reranked: bool) -> SearchOptions:
    if options is None:
        return _NO_OPTIONS
    if not isinstance(options, SearchOptions):
        raise QueryError(f"options is a {type(options).__name__}; it must be a SearchOptions.")
    if options.match is not None and mode == "vector":
        raise QueryError("A vector search matches no words; leave match out.")
    if options.max_distance is not None and mode == "fts":
        raise QueryError("A full-text search has no distances; leave max_distance out.")
    if options.min_score is not None and mode in ("vector", "auto") and not reranked:
        raise QueryError("A vector search gives distances; bound them with max_distance.")
    return options


def _reranker(reranker: Reranker | None) -> Reranker | None:
    if reranker is None:
        return None
    from lancedb.rerankers import Reranker as LanceReranker

    if not isinstance(reranker, LanceReranker):
        raise QueryError(
            f"reranker is a {type(reranker).__name__}; it must be an instance of "
            "lancedb.rerankers.Reranker, such as CrossEncoderReranker()."
        )
    return reranker
