"""Words as one full-text index reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["index_tokens", "tokenizer_settings"]

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
    "index_operators",
)


def tokenizer_settings(index: Any) -> dict[str, Any]:
    """Return how an index reads texts, from Lance's description; None: the default tokenizer."""
    if index is None:
        return {}
    details = index.details
    settings = {name: details[name] for name in _SETTINGS if details.get(name) is not None}
    if "max_token_length" in details:  # None is "no limit" there, and is no default here
        settings["max_token_length"] = details["max_token_length"]
    return settings


def index_tokens(text: str, settings: Mapping[str, Any]) -> list[str]:
    """Return the tokens of a text, those that the index leaves out left out."""
    import lance

    return [token.text for token in lance.tokenize(text, **settings)]
