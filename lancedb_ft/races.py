"""Telling a lost commit race, after which one starts over, from a failure."""

from __future__ import annotations

__all__ = ["lost_a_race"]

#: What Lance says when another writer was first. Only some of its calls raise CommitConflictError:
#: dropping a column raises OSError with the same words, and LanceDB's calls RuntimeError.
_CONFLICT_WORDS = (
    "commit conflict",
    "concurrent writers",
    "incompatible with concurrent transaction",
    "fragment being replaced not found",
)


def lost_a_race(error: BaseException) -> bool:
    """Say whether another writer committed first, so that starting over is right."""
    from lance.commit import CommitConflictError

    if isinstance(error, CommitConflictError):
        return True
    told = str(error).lower()
    return isinstance(error, (OSError, RuntimeError)) and any(w in told for w in _CONFLICT_WORDS)
