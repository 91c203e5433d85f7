"""Marking the words of a query in the texts it found, as the column's index reads words.

The index compares stems without accents and capitals, so "running" finds "Run". The same tokenizer
(`lance.tokenize` with the settings of the index) says here which words of a text it meant.
"""

from __future__ import annotations

import html
import itertools
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any, TypeAlias

import pyarrow as pa

from lancedb_ft.search.options import Highlight, TextMatch
from lancedb_ft.search.text_query import auto_fuzziness
from lancedb_ft.search.tokens import index_tokens, tokenizer_settings

__all__ = ["HIGHLIGHTS", "highlights"]

#: The column with the marked texts: a struct with one text, or null, for each marked column.
HIGHLIGHTS = "_highlights"

#: Words that every tokenizer of words keeps as they are: one stands between the words of a text.
_SEPARATORS = ("zqxjkv", "qkzxvj", "xvqzjk")
#: So many words are read at a time: a text that a piece is cut from is read until words are found.
_BATCH = 4_000
#: Settings with which a tokenizer leaves characters as they are.
_PLAIN = {
    "base_tokenizer": "simple",
    "lower_case": False,
    "stem": False,
    "remove_stop_words": False,
    "ascii_folding": False,
}

_Span: TypeAlias = tuple[int, int]


@dataclass(frozen=True)
class _Reader:
    """Reads words as one index does."""

    settings: Mapping[str, Any]

    @property
    def base(self) -> str:
        """How the index splits texts."""
        return str(self.settings.get("base_tokenizer", "simple"))

    def tokens(self, text: str) -> list[str]:
        """Return the tokens of a text, those left out left out."""
        return index_tokens(text, self.settings)

    def words(self, text: str) -> Iterator[re.Match[str]]:
        """Find what the index takes for a word: group 1; the rest is what is drawn on it."""
        odd = frozenset() if text.isascii() else frozenset(c for c in set(text) if _is_odd(c))
        return _pattern(self.base, odd).finditer(text)

    def tokens_of(self, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
        """Return the tokens of each word, by one call where words stay whole."""
        for separator in _SEPARATORS if len(words) > 1 else ():
            if self.tokens(separator) != [separator]:  # n-grams
                continue
            found = self._between(separator, words)
            if len(found) == len(words):  # else it is the token of a word, too
                return dict(zip(words, found, strict=True))
        return {word: tuple(self.tokens(word)) for word in words}

    def _between(self, separator: str, words: Sequence[str]) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        current: list[str] = []
        for token in self.tokens("".join(f"{word} {separator} " for word in words)):
            if token == separator:
                found.append(tuple(current))
                current = []
            else:
                current.append(token)
        return found


def _is_odd(character: str) -> bool:
    """Say whether Python takes a character for no letter or digit, where the index could."""
    return not character.isascii() and not character.isalnum()


@lru_cache(maxsize=256)
def _pattern(base: str, odd: frozenset[str]) -> re.Pattern[str]:
    """Return what finds the words of a text that has these odd characters.

    Rather too long a word than two: what the index splits further, it is asked for.
    """
    if base == "raw":
        return re.compile(r"(.+)", re.DOTALL)
    if base in ("whitespace", "ngram"):
        return re.compile(r"([^ \t\n\f\r]+)")
    letters, marks = _letters_and_marks(odd)
    accents = f"{_one_of(marks)}*"
    if base == "icu":  # which keeps "don't", "foo_bar" and "3.14"
        one = rf"(?:\w|{_one_of(letters | marks)})"
        joined = rf"(?:[.:'\u2019\u00b7\u2027]|(?<=\d)[,;](?=\d)){one}+"
        return re.compile(rf"({one}+(?:{joined})*)")
    if base == "code":  # whose operators, "->", are words if it was told so
        return re.compile(rf"((?:\w|{_one_of(letters)})+|[^\w\s]+){accents}")
    return re.compile(rf"((?:[^\W_]|{_one_of(letters)})+){accents}")


def _one_of(characters: Iterable[str]) -> str:
    """Return the pattern of one of these characters, which nothing matches if there are none."""
    one_of = re.escape("".join(sorted(characters)))
    return f"[{one_of}]" if one_of else "(?:(?!))"


def _letters_and_marks(odd: frozenset[str]) -> tuple[frozenset[str], frozenset[str]]:
    """Return which characters the index takes for letters, and which are drawn on a letter.

    Vowel signs and circled letters are letters to Unicode, and to the index, but not to Python.
    Accents that stand alone, and signs like the Hindi virama, are no letters: words end there.
    """
    letters = frozenset(index_tokens(" ".join(sorted(odd)), _PLAIN))
    marks = (c for c in odd - letters if unicodedata.category(c).startswith("M"))
    return letters, frozenset(marks)


class _Finder:
    """Finds the words of a query in texts. What is known of a word is kept for the next text."""

    def __init__(self, reader: _Reader, is_hit: Callable[[str], bool]) -> None:
        self._reader = reader
        self._is_hit = is_hit
        self._known: dict[str, Sequence[_Span]] = {}

    def hits(self, text: str, *, everywhere: bool) -> list[_Span]:
        """Return what is to be marked: all of it, or what there is where words are found first."""
        found: list[_Span] = []
        words = self._reader.words(text)
        while batch := list(itertools.islice(words, _BATCH)):
            self._learn(dict.fromkeys(word[1] for word in batch))
            for word in batch:
                start, last = word.span(1)
                for a, b in self._known[word[1]]:
                    # An accent behind the last letter is marked with it.
                    found.append((start + a, word.end() if start + b == last else start + b))
            if found and not everywhere:
                break
        return _merged(found)

    def _learn(self, words: Iterable[str]) -> None:
        new = [word for word in words if word not in self._known]
        overlapping = self._reader.base == "ngram"
        for word, tokens in self._reader.tokens_of(new).items():
            self._known[word] = _spans(word, tokens, self._is_hit, overlapping=overlapping)


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
        reader = _Reader(tokenizer_settings(indexes.get(name)))
        finder = _Finder(reader, _judge(frozenset(reader.tokens(text)), match))
        texts = rows[name].cast(pa.string()).to_pylist()
        columns.append(pa.array([_marked(t, finder, wanted) for t in texts], pa.string()))
    if not columns:
        return pa.array([{}] * rows.num_rows, pa.struct([]))
    return pa.StructArray.from_arrays(columns, names=rows.column_names)


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

    return cache(near)


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


def _marked(text: str | None, finder: _Finder, wanted: Highlight) -> str | None:
    if not text:
        return None
    hits = finder.hits(text, everywhere=wanted.max_chars is None)
    if not hits:
        return None
    start, end = _piece(hits, len(text), wanted.max_chars)
    return _drawn(text, start, end, [(a, b) for a, b in hits if a < end and b > start], wanted)


def _spans(
    word: str, tokens: Sequence[str], is_hit: Callable[[str], bool], *, overlapping: bool
) -> Sequence[_Span]:
    """Return what of a word is to be marked: all of it, or the tokens that stand in it."""
    hits = {token for token in tokens if is_hit(token)}
    if not hits:
        return ()
    whole = (0, len(word))
    if len(tokens) == 1:
        return (whole,)
    if overlapping:
        inside = [place for hit in hits for place in _everywhere(hit, _shapes(word))]
    else:
        places = zip(tokens, _in_turn(tokens, word), strict=True)
        inside = [place for token, place in places if token in hits and place is not None]
    return _merged(inside) or (whole,)


def _shapes(word: str) -> list[str]:
    """Return a word as tokens can have it: as it is, small, and without accents."""
    bare = "".join(unicodedata.normalize("NFD", c.lower())[0] for c in word)
    # Small letters can be more than the capitals were; places in them would be others.
    return [shape for shape in (word, word.lower(), bare) if len(shape) == len(word)]


def _everywhere(token: str, shapes: Sequence[str]) -> Iterator[_Span]:
    for shape in shapes:
        for found in re.finditer(f"(?={re.escape(token)})", shape):
            yield found.start(), found.start() + len(token)


def _in_turn(tokens: Sequence[str], word: str) -> Iterator[_Span | None]:
    """Return where in a word its tokens stand, which come one after the other.

    Examples
    --------
    >>> list(_in_turn(["max_x", "max", "x"], "max_x"))
    [(0, 5), (0, 3), (4, 5)]
    """
    shapes, after = _shapes(word), 0
    for token in tokens:
        places = (shape.find(token, start) for start in (after, 0) for shape in shapes)
        at = next((place for place in places if place >= 0), None)
        if at is None:  # its stem does not stand in it
            yield None
            continue
        yield at, at + len(token)
        if len(token) < len(word):  # else the word is kept beside its parts
            after = at + len(token)


def _merged(spans: Iterable[_Span]) -> list[_Span]:
    """Return spans in order, those that touch as one."""
    merged: list[_Span] = []
    for a, b in sorted(spans):
        if merged and a <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(b, merged[-1][1]))
        else:
            merged.append((a, b))
    return merged


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
    for first, last in hits:
        a, b = max(first, start), min(last, end)
        parts += [safe(text[at:a]), wanted.before, safe(text[a:b]), wanted.after]
        at = b
    parts.append(safe(text[at:end]))
    if end < len(text):
        parts.append("…")
    return "".join(parts)
