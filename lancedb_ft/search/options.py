"""What a query can ask for beyond its rows, grouped into one value."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, get_args

from lancedb_ft.errors import QueryError
from lancedb_ft.search.fusion import FUSIONS, Fusion
from lancedb_ft.search.learned import LearnedRanking
from lancedb_ft.search.tiers import Tiers

__all__ = [
    "FIRST_PAGE",
    "Highlight",
    "SearchOptions",
    "TextMatch",
    "count_of",
    "names_of",
    "number_of",
]

#: What `SearchOptions.page` is on the first page.
FIRST_PAGE = "first"
#: The longest time a query may be given, a day: more is a mistake of units.
_MAX_BUDGET_MS = 86_400_000.0

Words: TypeAlias = Literal["any", "all", "phrase"]


@dataclass(frozen=True)
class TextMatch:
    """How the words of a query must stand in a text for the full-text leg to find it.

    Parameters
    ----------
    words
        ``any`` of them (more and rarer ones score higher), ``all`` of them in one column, or the
        words as one ``phrase``, in their order; a phrase needs an index with positions,
        ``FTS(with_position=True)``.
    slop
        How many other words may stand inside a phrase.
    fuzziness
        How many letters of a word may differ: 0, 1, 2, or ``auto`` (0 up to two letters, 1 up to
        five, 2 above). Compared are the indexed forms of words, which are stems by default. Rows
        that are not in the index yet are found by their exact words only.
    prefix_length
        How many letters at the start of a word must be right where it is fuzzy.

    Raises
    ------
    QueryError
        A value is none of these, or the two kinds are mixed: a phrase cannot be fuzzy.

    Examples
    --------
    >>> TextMatch(words="phrase", slop=1).words
    'phrase'
    """

    words: Words = "any"
    slop: int = 0
    fuzziness: int | Literal["auto"] = 0
    prefix_length: int = 0

    def __post_init__(self) -> None:
        """Check the values."""
        if not isinstance(self.words, str) or self.words not in get_args(Words):
            raise QueryError(f"words is {self.words!r}; it must be 'any', 'all' or 'phrase'.")
        for name, most in (("slop", 100), ("prefix_length", 40)):
            count_of(getattr(self, name), name, least=0, most=most)
        if self.fuzziness != "auto":
            count_of(self.fuzziness, "fuzziness", least=0, most=2)
        if self.words == "phrase" and self.fuzziness != 0:
            raise QueryError("A phrase cannot be fuzzy; leave fuzziness out, or words='all'.")
        if self.words != "phrase" and self.slop:
            raise QueryError("slop is for words='phrase'.")


@dataclass(frozen=True)
class Highlight:
    """Mark the words of the query in the texts that are returned.

    Parameters
    ----------
    columns
        The text columns to mark, by default those of the full-text leg.
    before, after
        What is put around each word.
    max_chars
        Length of the piece that is cut out around the most words, marks not counted; None for the
        whole text.
    escape
        Make ``&``, ``<``, ``>`` and quotes of the text harmless in HTML. On by default, since the
        default marks are HTML.

    Raises
    ------
    QueryError
        A value cannot be used.
    """

    columns: Sequence[str] | None = None
    before: str = "<mark>"
    after: str = "</mark>"
    max_chars: int | None = 240
    escape: bool = True

    def __post_init__(self) -> None:
        """Check the values."""
        object.__setattr__(self, "columns", names_of(self.columns, "columns", empty=False))
        for name in ("before", "after"):
            if not _is_text(getattr(self, name)):
                raise QueryError(f"{name} is {getattr(self, name)!r}; it must be text.")
        if self.max_chars is not None:
            count_of(self.max_chars, "max_chars", least=20)


def _is_text(given: object) -> bool:
    """Say whether a value is text that a column can hold: half a surrogate pair is none."""
    return isinstance(given, str) and not any("\ud800" <= c <= "\udfff" for c in given)


@dataclass(frozen=True)
class SearchOptions:
    """What a query can ask for beyond its rows. What is left out costs nothing.

    Parameters
    ----------
    match
        How the words must stand in a text; None: any of them.
    min_score
        Leave out rows whose score is lower: ``_relevance_score``, or ``_score`` with
        ``mode="fts"``. The score of reciprocal rank fusion says how high a row stood, not how good
        it is: give a bound where a reranker, or full text alone, makes the scores. Where the
        reranker failed or was late, rows are not left out.
    max_distance
        Leave out rows whose vectors are farther from the query's, in the vector leg.
    facets
        Columns whose values are counted over all rows that match: those the words match, and those
        the vector leg brought. In `SearchInfo.facets`; of pages, with the first one.
    n_facet_values
        How many values of a facet are listed at most, the most frequent first.
    highlight
        Mark the words of the query in the texts: a column ``_highlights``.
    page
        ``"first"``, or `SearchInfo.next_page` of the page before: pages of ``k`` rows, all on the
        version of the table that the first page saw.
    fusion
        How the legs of a hybrid query are merged: ``rrf`` (the default), ``weighted``,
        ``relative``, a `Fusion`, or ``learned``: as `fit_fusion` found best for this table and its
        model (reciprocal rank fusion where it found nothing). A `LearnedRanking` from a file also
        says what ``mode="auto"`` picks. With a reranker it is what is served where that fails.
    budget_ms
        Answer with what is there after so many milliseconds: without a leg or a reranker that is
        late. `SearchInfo.degraded` says which. A reranker has half of the time. What is late runs
        on in the background, and the rows that were found are read whatever the time is.
    tiers
        The policy that says which rows are hot (`Tiers`): they are ranked beside the core by what
        there is of them, and a reranker is spent on them alone. Adds ``_tier`` and ``_legs``. Not
        with a ``fusion`` of other weights: what is calibrated is reciprocal rank fusion.

    Raises
    ------
    QueryError
        A value cannot be used.

    Examples
    --------
    >>> SearchOptions(match=TextMatch("all"), facets=["lang"], budget_ms=50).facets
    ('lang',)
    """

    match: TextMatch | None = None
    min_score: float | None = None
    max_distance: float | None = None
    facets: Sequence[str] | None = None
    n_facet_values: int = 10
    highlight: Highlight | None = None
    page: str | None = None
    budget_ms: float | None = None
    fusion: str | Fusion | LearnedRanking | None = None
    tiers: Tiers | None = None

    def __post_init__(self) -> None:
        """Check all that can be checked without the table."""
        kinds = {"match": TextMatch, "highlight": Highlight, "page": str, "tiers": Tiers}
        for name, kind in kinds.items():
            value = getattr(self, name)
            if value is not None and not isinstance(value, kind):
                told = f"{name} is {value!r:.80}; it must be a {kind.__name__}."
                raise QueryError(told)
        _check_fusion(self.fusion)
        if self.tiers is not None and not _is_plain(self.fusion):
            raise QueryError(
                f"fusion is {self.fusion!r:.80}, and tiers are merged by reciprocal rank: their "
                "calibration is of that. Leave one of the two out."
            )
        for name in ("min_score", "max_distance", "budget_ms"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, number_of(getattr(self, name), name))
        if self.budget_ms is not None and not 0 < self.budget_ms <= _MAX_BUDGET_MS:
            raise QueryError(f"budget_ms is {self.budget_ms:g}; it must be above 0, up to a day.")
        object.__setattr__(self, "facets", names_of(self.facets, "facets", empty=False))
        count_of(self.n_facet_values, "n_facet_values", most=10_000)


def _check_fusion(fusion: Any) -> None:
    names = (*FUSIONS, "learned")
    if fusion is None or isinstance(fusion, (Fusion, LearnedRanking)):
        return
    if not isinstance(fusion, str) or fusion not in names:
        raise QueryError(
            f"fusion is {fusion!r:.80}; it must be one of {names}, a Fusion, or a LearnedRanking."
        )


def _is_plain(fusion: Any) -> bool:
    """Say whether a fusion is the reciprocal rank fusion that is the default."""
    if isinstance(fusion, LearnedRanking):
        fusion = fusion.fusion
    if isinstance(fusion, Fusion):
        fusion = None if fusion.with_candidates(None) == FUSIONS["rrf"] else fusion
    return fusion in (None, "rrf")


def number_of(value: Any, name: str, *, least: float = -math.inf) -> float:
    """Return a finite number that is not below ``least``.

    Raises
    ------
    QueryError
        It is none.
    """
    try:
        number = math.nan if isinstance(value, (bool, str, bytes)) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or number < least:
        bounds = "" if math.isinf(least) else f", {least:g} or more"
        raise QueryError(f"{name} is {value!r:.80}; it must be a finite number{bounds}.")
    return number


def count_of(value: Any, name: str, *, least: int = 1, most: int | None = None) -> int:
    """Return a whole number in these bounds.

    Raises
    ------
    QueryError
        It is none.
    """
    import operator

    # bool is an int to Python, and k=True is a mistake.
    try:
        told = type(value).__name__
        number = None if told in ("bool", "bool_") else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or (most is not None and number > most):
        bounds = f"{least} or more" if most is None else f"from {least} to {most}"
        raise QueryError(f"{name} is {value!r:.80}; it must be a whole number, {bounds}.")
    return number


def names_of(
    names: Sequence[str] | None, argument: str, *, empty: bool = True
) -> tuple[str, ...] | None:
    """Return names of columns, each once.

    Raises
    ------
    QueryError
        It is no list of text, or it is empty and may not be.
    """
    if names is None:
        return None
    if isinstance(names, (str, bytes)):
        raise QueryError(
            f"{argument} is the text {names!r:.80}; it must be a list: [{names!r:.80}]."
        )
    given: list[object]
    try:
        given = list(names)
    except TypeError:
        given = [None]
    if not all(isinstance(name, str) for name in given):
        raise QueryError(f"{argument} must be a list of column names, and is {names!r:.200}.")
    if not given and not empty:
        raise QueryError(f"{argument} is empty; leave it out to search all indexed columns.")
    return tuple(dict.fromkeys(str(name) for name in given))
