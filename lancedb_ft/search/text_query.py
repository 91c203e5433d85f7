"""The words of a query as full-text queries of Lance: any, all, a phrase, fuzzy, with boosts."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lancedb_ft.errors import NoPositionsError
from lancedb_ft.search.options import TextMatch
from lancedb_ft.search.tokens import index_tokens, tokenizer_settings

if TYPE_CHECKING:
    from lance.query import FullTextQuery

__all__ = ["auto_fuzziness", "best_of", "require_positions", "text_queries"]

_ANY = TextMatch()
#: Letters of a word that may differ from what stands in a row: indexes leave out longer words by
#: default, and Lance has no automaton for some hundreds.
_MOST_FUZZY_LETTERS = 40
_LETTERS = re.compile(r"\w+")


def text_queries(
    terms: str,
    columns: Sequence[str],
    *,
    indexes: Mapping[str, Any],
    boosts: Sequence[float] | None = None,
    match: TextMatch | None = None,
) -> list[tuple[FullTextQuery, float]]:
    """Return the queries to run, each with what its scores are multiplied by.

    A row's score is the best of its columns'. One query of Lance does that for plain words; there
    is none for several columns that takes phrases or fuzzy words, so there each has its own.

    Parameters
    ----------
    terms
        The words; nothing in them is syntax.
    columns
        The columns to search, one or more.
    indexes
        Lance's description of the full-text index of each column.
    boosts
        What the scores of each column are multiplied by.
    match
        How the words must match; None: any of them, as they are written.
    """
    from lance.query import MultiMatchQuery, PhraseQuery

    match = match or _ANY
    weights = list(boosts) if boosts is not None else [1.0] * len(columns)
    if match.words == "phrase":
        return [
            (PhraseQuery(terms, column, slop=match.slop), weight)
            for column, weight in zip(columns, weights, strict=True)
        ]
    if len(columns) > 1 and match.fuzziness == 0:
        told = None if boosts is None else weights
        operator = _operator(match)
        return [(MultiMatchQuery(terms, list(columns), boosts=told, operator=operator), 1.0)]
    return [
        (_words(terms, column, match, indexes[column]), weight)
        for column, weight in zip(columns, weights, strict=True)
    ]


def _operator(match: TextMatch) -> Any:
    from lance.query import FullTextOperator

    return FullTextOperator.AND if match.words == "all" else FullTextOperator.OR


def _words(terms: str, column: str, match: TextMatch, index: Any) -> FullTextQuery:
    """Return the query for words in one column, each as fuzzy as it may be."""
    from lance.query import BooleanQuery, MatchQuery, Occur

    by_fuzziness: dict[int, list[str]] = {}
    for word in _fuzzy_words(terms, match, index):
        by_fuzziness.setdefault(_fuzziness(word, match), []).append(word)
    if not by_fuzziness:
        by_fuzziness[0] = [terms]
    parts = [
        MatchQuery(
            " ".join(words),
            column,
            fuzziness=fuzziness,
            prefix_length=match.prefix_length,
            operator=_operator(match),
        )
        for fuzziness, words in by_fuzziness.items()
    ]
    if len(parts) == 1:
        return parts[0]
    occur = Occur.MUST if match.words == "all" else Occur.SHOULD
    return BooleanQuery([(occur, part) for part in parts])


def _fuzzy_words(terms: str, match: TextMatch, index: Any) -> list[str]:
    """Return the words to be asked for one by one; none where the index reads them as they are.

    Of fuzzy words Lance leaves no stop words out, which stand in no index: where all words must be
    found, none would be.
    """
    if match.fuzziness == 0:
        return []
    words = terms.split()
    if match.words != "all":
        return words
    settings = tokenizer_settings(index)
    return [word for word in words if index_tokens(word, settings)]


def _fuzziness(word: str, match: TextMatch) -> int:
    """Return how many letters of a word may differ.

    Lance has fuzziness=None for ``auto``, with which pylance 14.0 finds exact words only.
    """
    if max(map(len, _LETTERS.findall(word)), default=0) > _MOST_FUZZY_LETTERS:
        return 0
    return auto_fuzziness(word) if match.fuzziness == "auto" else match.fuzziness


def auto_fuzziness(word: str) -> int:
    """Return how many letters of a word may differ: 0 up to two letters, 1 up to five, 2 above.

    Examples
    --------
    >>> [auto_fuzziness(word) for word in ("of", "whale", "whales")]
    [0, 1, 2]
    """
    return (len(word) > 2) + (len(word) > 5)


def best_of(found: Sequence[tuple[pa.Table, float]], depth: int) -> pa.Table:
    """Return the best rows of several queries: ``_rowid`` and ``_score``, best first.

    Parameters
    ----------
    found
        Hits with ``_rowid`` and ``_score``, and what their scores are multiplied by.
    depth
        How many rows to keep; each query must have fetched as many.
    """
    if len(found) == 1 and found[0][1] == 1.0:
        return found[0][0]
    ids = np.concatenate([hits["_rowid"].to_numpy() for hits, _ in found])
    scores = np.concatenate([hits["_score"].to_numpy() * weight for hits, weight in found])
    order = np.lexsort((ids, -scores))
    _, first = np.unique(ids[order], return_index=True)
    kept = order[np.sort(first)][:depth]
    return pa.table(
        {
            "_score": pa.array(scores[kept], pa.float32()),
            "_rowid": pa.array(ids[kept], pa.uint64()),
        }
    )


def require_positions(columns: Sequence[str], indexes: Any, *, table: str) -> None:
    """Check that the columns' indexes know where in a text a word stands.

    Parameters
    ----------
    columns
        The columns to search for a phrase.
    indexes
        ``{column: index description of Lance}``.

    Raises
    ------
    NoPositionsError
        An index was built without positions.
    """
    for column in columns:
        if not indexes[column].details.get("with_position", False):
            raise NoPositionsError(table, column=column)
