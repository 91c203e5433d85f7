"""``mode="auto"``: which legs a query gets, by what can be seen of its text in microseconds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from lancedb_ft.errors import InputError
from lancedb_ft.types import Mode

__all__ = ["FEATURES", "AutoMode", "query_features"]

#: What is seen of a query. All but the first two lie in 0..1.
FEATURES = (
    "log_words",  # log(1 + number of words)
    "word_length",  # mean, in characters
    "digits",  # share of the words with a digit: numbers, versions, error codes
    "symbols",  # share with a sign inside: paths, flags, identifiers (read_csv, --help, a.b)
    "capitals",  # share that begins in upper case: names; and acronyms
    "short",  # share of words of three letters or fewer: a sentence has many, keywords few
    "question",  # begins with a question word or ends with a question mark
    "quoted",  # something stands in quotes: the exact words are meant
)

_QUESTION = re.compile(
    r"^\W*(who|what|when|where|which|why|how|is|are|can|could|do|does|did|should|will)\b|\?\s*$",
    re.IGNORECASE,
)
_QUOTED = re.compile(r"\"[^\"]+\"|“[^”]+”|`[^`]+`|(?<!\w)'[^']+'(?!\w)")
_SYMBOL = re.compile(r"[^\W_][^\w\s',;][^\W_]|\w_\w|^--?\w|^[./~]\w|[a-z][A-Z]")
# What is read of a query: the features of a page of text are those of its beginning.
_MAX_CHARS = 2_000


def query_features(text: str) -> tuple[float, ...]:
    """Return the `FEATURES` of a query; zeros for a blank one.

    Examples
    --------
    >>> dict(zip(FEATURES, query_features("How do I read_csv?")))["symbols"]
    0.25
    >>> query_features("  ") == (0.0,) * len(FEATURES)
    True
    """
    text = text[:_MAX_CHARS]
    words = text.split()
    if not words:
        return (0.0,) * len(FEATURES)
    n = len(words)
    return (
        math.log1p(n),
        sum(map(len, words)) / n,
        sum(any(c.isdigit() for c in word) for word in words) / n,
        sum(_SYMBOL.search(word) is not None for word in words) / n,
        sum(word[0].isupper() for word in words) / n,
        sum(len(word) <= 3 for word in words) / n,
        float(_QUESTION.search(text) is not None),
        float(_QUOTED.search(text) is not None),
    )


@dataclass(frozen=True)
class AutoMode:
    """A rule that picks a mode for each query; `lancedb_ft.fit_auto` learns it.

    Parameters
    ----------
    default
        The mode that is best for most queries.
    gains
        For each other mode what it is expected to gain over the default: a constant, then one
        weight for each of `FEATURES`. The mode with the highest gain is picked, if it is above 0.

    Raises
    ------
    InputError
        A mode is not one, or has another number of weights.

    Examples
    --------
    >>> quoted = AutoMode("hybrid", {"fts": (-0.5, 0, 0, 0, 0, 0, 0, 0, 1.0)})
    >>> quoted.choose('the "exact words"'), quoted.choose("other words")
    ('fts', 'hybrid')
    """

    default: Mode
    gains: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        """Check the modes and the weights."""
        for mode in (self.default, *self.gains):
            if mode not in get_args(Mode):
                raise InputError(f"{mode!r} is not a mode; the modes are {get_args(Mode)}.")
        for mode, weights in self.gains.items():
            if len(weights) != 1 + len(FEATURES) or not all(map(math.isfinite, weights)):
                raise InputError(
                    f"The rule for {mode!r} has the weights {list(weights)}; it needs "
                    f"{1 + len(FEATURES)} finite numbers."
                )

    def choose(self, text: str) -> Mode:
        """Return the mode for a query."""
        seen = query_features(text)
        best, highest = self.default, 0.0
        for mode, (constant, *weights) in self.gains.items():
            gain = constant + sum(w * x for w, x in zip(weights, seen, strict=True))
            if gain > highest:
                best, highest = mode, gain  # type: ignore[assignment]  # checked above
        return best

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON has it; the features are named, so that a change of them is seen."""
        return {
            "default": self.default,
            "features": list(FEATURES),
            "gains": {mode: list(weights) for mode, weights in self.gains.items()},
        }

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> AutoMode:
        """Read what `to_dict` returned.

        Raises
        ------
        InputError
            It was learned with other features.
        """
        if list(document["features"]) != list(FEATURES):
            raise InputError(
                f"The rule was learned with the features {document['features']}, and this version "
                f"of lancedb-ft sees {list(FEATURES)}. Fit it again: lancedb-ft fusion auto."
            )
        gains = {mode: tuple(weights) for mode, weights in document["gains"].items()}
        return cls(document["default"], gains)
