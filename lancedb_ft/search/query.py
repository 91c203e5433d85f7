"""One query, checked: what was asked, before any table is touched."""

from __future__ import annotations

import logging
import operator
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import FilterError, QueryError

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker

__all__ = ["MAX_K", "MAX_WORDS", "Mode", "SearchRequest", "text_terms"]

Mode: TypeAlias = Literal["hybrid", "vector", "fts"]

#: The most rows one search returns. More than that is a scan, not a search.
MAX_K = 100_000

#: What of a query the full-text search reads. Its cost grows with the number of terms (at 50,000
#: rows: 3 ms for 32 words, 25 ms for 128, over 5 s for 100 KB), and a page of text is past the
#: point where more terms say more. The vector takes as much as its model reads.
MAX_WORDS = 128
_MAX_CHARS = 2_000  # for scripts without spaces, where a "word" can be a whole text

_log = logging.getLogger("lancedb_ft.search")
_WORD = re.compile(r"\w+")
#: What of a filter is no syntax: quoted text and names, comments.
_QUOTED = re.compile(r"'(?:[^']|'')*'|\"[^\"]*\"|`[^`]*`|--[^\n]*|/\*.*?\*/", re.DOTALL)


@dataclass(frozen=True, eq=False)
class SearchRequest:
    """A query and how to answer it; every field is checked. See `lancedb_ft.search` for them."""

    text: str | None
    vector: npt.NDArray[np.float32] | None
    k: int
    mode: Mode
    where: str | None
    select: tuple[str, ...] | None
    column: str | None
    text_columns: tuple[str, ...] | None
    reranker: Reranker | None
    embedder: Any
    prefilter: bool
    candidates: int | None

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
        text_columns: Sequence[str] | None,
        vector: npt.ArrayLike | None,
        embedder: Any,
        prefilter: bool,
        candidates: int | None,
    ) -> SearchRequest:
        """Check everything that can be checked without the table.

        Raises
        ------
        QueryError
            Anything but the filter cannot be used as given.
        FilterError
            The filter is no text, or blank.
        """
        if mode not in get_args(Mode):
            raise QueryError(f"mode is {mode!r}; it must be 'hybrid', 'vector' or 'fts'.")
        if vector is not None and mode == "fts":
            raise QueryError("A full-text search has no use for vector=; leave it out.")
        text_needed = mode != "vector" or vector is None or reranker is not None
        return cls(
            text=_text(query, needed=text_needed),
            vector=None if vector is None else as_vector(vector, what="vector"),
            k=_count(k, "k"),
            mode=mode,  # type: ignore[arg-type]  # checked above
            where=_where(where),
            select=_names(select, "select"),
            column=column,
            text_columns=_names(text_columns, "text_columns", empty=False),
            reranker=_reranker(reranker),
            embedder=embedder,
            prefilter=bool(prefilter),
            candidates=None if candidates is None else _count(candidates, "candidates"),
        )

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
    try:
        vector = np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise QueryError(f"{what} is not a row of numbers: {error}") from error
    if vector.ndim != 1 or not len(vector):
        raise QueryError(f"{what} has the shape {vector.shape}; it must be one row, (dims,).")
    if not np.isfinite(vector).all():
        raise QueryError(f"{what} holds NaN or infinite values, which are near to nothing.")
    return vector


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


def _count(value: int, name: str) -> int:
    # bool is an int to Python, and k=True is a mistake.
    try:
        number = -1 if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        number = -1
    if number < 1:
        raise QueryError(f"{name} is {value!r}; it must be a whole number, 1 or more.")
    return number


def _where(where: str | None) -> str | None:
    if where is None:
        return None
    if not isinstance(where, str):
        raise FilterError(str(where), reason=f"it is a {type(where).__name__}, not text.")
    if not where.strip():
        # Not "no filter": a blank where a tenant's filter should stand must not show every row.
        raise FilterError(where, reason="it is blank. Leave it out to search all rows.")
    # LanceDB reads one expression and ignores what follows: "a = 1; b = 2" and "a = 1 LIMIT 0"
    # would silently mean "a = 1". In parentheses that it does not close itself, all of it must be
    # one expression. The line break ends a "--" comment.
    if not _balanced(_QUOTED.sub("", where)):
        raise FilterError(where, reason="its parentheses do not match.")
    return f"({where}\n)"


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character == "(") - (character == ")")
        if depth < 0:
            return False
    return depth == 0


def _names(
    names: Sequence[str] | None, argument: str, *, empty: bool = True
) -> tuple[str, ...] | None:
    if names is None:
        return None
    if isinstance(names, str):
        raise QueryError(f"{argument} is the text {names!r}; it must be a list: [{names!r}].")
    unique = tuple(dict.fromkeys(names))
    if not all(isinstance(name, str) for name in unique):
        raise QueryError(f"{argument} must be a list of column names, and is {names!r}.")
    if not unique and not empty:
        raise QueryError(f"{argument} is empty; leave it out to search all indexed columns.")
    return unique


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
