"""When two texts count as the same, and ids: as text, or made from texts."""

from __future__ import annotations

import hashlib
import unicodedata
from typing import Any

__all__ = ["document_id_of", "key_of", "normalise", "query_id_of", "stable_key"]


def normalise(text: str) -> str:
    r"""Return the text as it is compared: NFKC, case folded, every run of white space one space.

    Punctuation stays: in code and shell commands it is the meaning.

    Examples
    --------
    >>> normalise("  How do I\u00a0CANCEL? ")
    'how do i cancel?'
    """
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def key_of(value: Any) -> str:
    """Return an id as text; empty if it is none.

    Examples
    --------
    >>> key_of(7), key_of("d1"), key_of(" "), key_of(None)
    ('7', 'd1', '', '')
    """
    if isinstance(value, str):
        return value if value.strip() else ""
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return ""


def query_id_of(text: str) -> str:
    """Return an id for a query without one: the same text has the same id anywhere.

    Examples
    --------
    >>> query_id_of("How do I cancel?") == query_id_of("how do i  cancel?")
    True
    """
    return "q" + hashlib.blake2b(normalise(text).encode(), digest_size=8).hexdigest()


def document_id_of(text: str) -> str:
    """Return an id for a document without one: the same text has the same id anywhere."""
    return "d" + query_id_of(text)[1:]


def stable_key(seed: int, text: str) -> bytes:
    """Return 16 bytes that order texts at random, the same for a seed on every machine."""
    return hashlib.blake2b(f"{seed}\x1f{text}".encode(), digest_size=16).digest()
