"""Marking the words of a query in the texts it found, as the column's index reads words.

The index compares stems without accents and capitals, so "running" finds "Run". The same tokenizer
(`lance.tokenize` with the settings of the index) says here which words of a text it meant.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pyarrow as pa

from lancedb_ft.search.options import Highlight, TextMatch
from lancedb_ft.search.text_query import auto_fuzziness

__all__ = ["HIGHLIGHTS", "highlights"]

#: The column with the marked texts: a struct with one text, or null, for each marked column.
HIGHLIGHTS = "_highlights"

#: Settings of an index that `lance.tokenize` takes under the same names.
_SETTINGS = (
    "base_tokenizer",
    "language",
    "max_token_length",
    "lower_case",
    "stem",
    "remove_stop_words",
    "custom_stop_words",
    "ascii_folding",
    "min_ngram_length",
    "max_ngram_length",
    "prefix_only",
    "split_identifiers",
    "split_on_numerics",
    "preserve_original",
)
# Letters and digits, without "_", at which the tokenizers split. Combining marks belong to a word.
_WORD = re.compile(r"(?:[^\W_][\u0300-\u036f]*)+")
#: A word that every tokenizer of words keeps as it is; it stands between the words of a text.
_BETWEEN = "zqxjkv"
#: So much of a text is looked at; beyond it a piece to show was found, or there is none.
_MAX_CHARS = 20_000

_Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class _Reader:
    """Reads words as one index does."""

    settings: Mapping[str, Any]

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text, those left out left out."""
        import lance

        return [token.text for token in lance.tokenize(text, **self.settings)]

    def tokens_of(self, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the tokens of each word, by one call where words stay whole."""
        if self.tokens(_BETWEEN) != [_BETWEEN]:  # n-grams
            return {word: tuple(self.tokens(word)) for word in words}
        found: list[list[str]] = [[]]
        for token in self.tokens("".join(f"{word} {_BETWEEN} " for word in words)):
            if token == _BETWEEN:
                found.append([])
            else:
                found[-1].append(token)
        return {word: tuple(tokens) for word, tokens in zip(words, found, strict=False)}


def highlights(
    text: str,
    rows: pa.Table,
    *,
    wanted: Highlight,
    indexes: Mapping[str, Any],
    match: TextMatch | None,
) -> pa.StructArray:
    """Return the marked texts of these rows.

    Parameters
    ----------
    text
        The query.
    rows
        The rows, with the columns to mark.
    wanted
        How to mark.
    indexes
        Lance's description of the full-text index of each column that has one; others are read
        with the default tokenizer.
    match
        How the words matched: fuzzy ones are marked where they are near.

    Returns
    -------
    pa.StructArray
        One field for each column: the text with marks, or null where it has none of the words.
    """
    columns = []
    for name in rows.column_names:
        reader = _Reader(_settings_of(indexes.get(name)))
        is_hit = _judge(frozenset(reader.tokens(text)), match)
        texts = rows[name].cast(pa.string()).to_pylist()
        columns.append(pa.array([_marked(t, reader, is_hit, wanted) for t in texts], pa.string()))
    if not columns:
        return pa.array([{}] * rows.num_rows, pa.struct([]))
    return pa.StructArray.from_arrays(columns, names=rows.column_names)


def _settings_of(index: Any) -> dict[str, Any]:
    if index is None:
        return {}
    details = index.details
    settings = {name: details[name] for name in _SETTINGS if details.get(name) is not None}
    if "max_token_length" in details:  # None is "no limit" there, and is no default here
        settings["max_token_length"] = details["max_token_length"]
    return settings


def _judge(terms: frozenset[str], match: TextMatch | None) -> Callable[[str], bool]:
    """Return what says whether a token is one of the query's, or near one."""
    if match is None or match.fuzziness == 0:
        return terms.__contains__
    prefix = match.prefix_length

    def allowed(term: str) -> int:
        if match.fuzziness != "auto":
            return match.fuzziness
        return auto_fuzziness(term)

    def near(token: str) -> bool:
        return any(
            term[:prefix] == token[:prefix] and _edits(term, token, most=allowed(term))
            for term in terms
        )

    return near


def _edits(a: str, b: str, *, most: int) -> bool:
    """Say whether so many insertions, deletions and replacements make one of the other.

    Examples
    --------
    >>> _edits("whale", "whlae", most=2), _edits("whale", "whlae", most=1)
    (True, False)
    """
    if abs(len(a) - len(b)) > most:
        return False
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        above, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            above, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, above + (left != right))
        if min(row) > most:
            return False
    return row[-1] <= most


def _marked(
    text: str | None, reader: _Reader, is_hit: Callable[[str], bool], wanted: Highlight
) -> str | None:
    if not text:
        return None
    text = text[:_MAX_CHARS]
    places = [found.span() for found in _WORD.finditer(text)]
    tokens = reader.tokens_of(list(dict.fromkeys(text[a:b] for a, b in places)))
    hits = [
        span for a, b in places for span in _spans(text[a:b], a, tokens.get(text[a:b], ()), is_hit)
    ]
    if not hits:
        return None
    start, end = _piece(hits, len(text), wanted.max_chars)
    return _drawn(text, start, end, [hit for hit in hits if start <= hit[0] < end], wanted)


def _spans(
    word: str, start: int, tokens: Sequence[str], is_hit: Callable[[str], bool]
) -> list[_Span]:
    """Return what of a word is to be marked: all of it, or the tokens that stand in it."""
    hits = [token for token in tokens if is_hit(token)]
    if not hits:
        return []
    if len(tokens) == 1:
        return [(start, start + len(word))]
    lower = word.lower()
    inside = [(at, at + len(hit)) for hit in hits if (at := lower.find(hit)) >= 0]
    if not inside or len(lower) != len(word):
        return [(start, start + len(word))]
    merged: list[_Span] = []
    for a, b in sorted(inside):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return [(start + a, start + b) for a, b in merged]


def _piece(hits: Sequence[_Span], length: int, max_chars: int | None) -> _Span:
    """Return the piece of a text with the most marks, with some words before the first."""
    if max_chars is None or length <= max_chars:
        return 0, length
    best, most, last = 0, 0, 0
    for first, (start, _) in enumerate(hits):
        while last < len(hits) and hits[last][1] <= start + max_chars:
            last += 1
        if last - first > most:
            best, most = first, last - first
    start = hits[best][0]
    reach = hits[max(best, best + most - 1)][1] - start
    start = max(0, start - max(0, max_chars - reach) // 2)
    start = min(start, max(0, length - max_chars))
    return start, min(length, start + max_chars)


def _drawn(text: str, start: int, end: int, hits: Sequence[_Span], wanted: Highlight) -> str:
    safe = html.escape if wanted.escape else str
    parts, at = ["…"] if start else [], start
    for a, b in hits:
        parts += [safe(text[at:a]), wanted.before, safe(text[a : min(b, end)]), wanted.after]
        at = min(b, end)
    parts.append(safe(text[at:end]))
    if end < len(text):
        parts.append("…")
    return "".join(parts)
