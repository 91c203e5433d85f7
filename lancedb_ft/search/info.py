"""What a result says about itself: its version, what is missing, facets, and the next page.

It travels in the schema metadata of the returned Arrow table, so the result stays an ordinary
table, and a result with nothing to say is just that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from lancedb_ft.errors import InputError

__all__ = ["Facet", "SearchInfo", "told"]

_KEY = b"lancedb_ft.search"
#: What reading something else than `SearchInfo.to_dict` wrote fails with.
_DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class Facet:
    """The values of one column over all rows that match, the most frequent first.

    Dates, decimals and bytes stand as text. ``n_other`` rows have values that are not listed.
    """

    values: tuple[tuple[Any, int], ...]
    n_other: int = 0


@dataclass(frozen=True)
class SearchInfo:
    """What a result says about itself; `SearchInfo.of` reads it.

    Parameters
    ----------
    version
        The version of the table the result is of, where pages or facets were asked for.
    degraded
        Why the answer is less than was asked for: a leg or a reranker that was late or failed.
    next_page
        What `SearchOptions.page` must be for the next page; None after the last.
    facets
        By column.
    n_matching
        How many rows the facets count.

    Examples
    --------
    >>> SearchInfo.of(pa.table({"id": ["a"]})).degraded
    ()
    """

    version: int | None = None
    degraded: tuple[str, ...] = ()
    next_page: str | None = None
    facets: Mapping[str, Facet] = field(default_factory=dict)
    n_matching: int | None = None

    @classmethod
    def of(cls, found: pa.Table) -> SearchInfo:
        """Read what a result of `search` says about itself.

        Raises
        ------
        InputError
            It is no Arrow table, or what it says was damaged.
        """
        if not isinstance(found, pa.Table):
            raise InputError(
                f"A {type(found).__name__} says nothing of its search; pass the Arrow table that "
                "search() returned."
            )
        raw = (found.schema.metadata or {}).get(_KEY)
        if raw is None:
            return cls()
        try:
            return cls._from(json.loads(raw))
        except _DAMAGED as error:
            raise InputError(
                f"What the result says of its search is damaged ({error!r:.120}); it was made by "
                "another version, or changed on the way."
            ) from error

    @classmethod
    def _from(cls, document: dict[str, Any]) -> SearchInfo:
        facets = {
            name: Facet(tuple((value, n) for value, n in facet["values"]), facet["n_other"])
            for name, facet in document["facets"].items()
        }
        return cls(
            document["version"],
            tuple(document["degraded"]),
            document["next_page"],
            facets,
            document["n_matching"],
        )

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain types."""
        return {
            "version": self.version,
            "degraded": list(self.degraded),
            "next_page": self.next_page,
            "facets": {
                name: {"values": [list(pair) for pair in facet.values], "n_other": facet.n_other}
                for name, facet in self.facets.items()
            },
            "n_matching": self.n_matching,
        }


def told(found: pa.Table, info: SearchInfo) -> pa.Table:
    """Return the result with this written into its metadata; nothing where there is nothing."""
    if info == _NOTHING:
        return found
    written = json.dumps(info.to_dict(), default=str, ensure_ascii=False).encode()
    return found.replace_schema_metadata({**(found.schema.metadata or {}), _KEY: written})


_NOTHING = SearchInfo()
