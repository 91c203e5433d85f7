"""Long-lived LanceDB table handles follow a switch of the model.

LanceDB's sync ``Table.embedding_functions`` is a ``cached_property``: a handle that searched once
keeps the functions of that moment. With a ``read_consistency_interval`` the same handle does follow
the table's columns, and after a switch the two no longer belong together: ``search("text")`` turns
into full-text search without a word, hybrid search raises "No embedding function for ...". An
application that stays up for weeks is the very one whose model is switched, so importing
lancedb_ft makes that property look at the metadata it was read from. Nothing else changes.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from lancedb_ft.table import FUNCTIONS_KEY

__all__ = ["follow_switches"]

_KEPT = "_lancedb_ft_functions"


def follow_switches() -> None:
    """Let sync handles read their embedding functions anew when the metadata changed.

    Done once; nothing is done where LanceDB's property is no longer the cached one.
    """
    from lancedb.table import LanceTable

    if isinstance(LanceTable.__dict__.get("embedding_functions"), cached_property):
        LanceTable.embedding_functions = property(_embedding_functions)


def _embedding_functions(table: Any) -> dict[str, Any]:
    """Return ``{vector_column: EmbeddingFunctionConfig}``, parsed once for each metadata."""
    from lancedb.embeddings import get_registry

    metadata = table.schema.metadata
    raw = (metadata or {}).get(FUNCTIONS_KEY.encode())
    kept = table.__dict__.get(_KEPT)
    if kept is None or kept[0] != raw:
        kept = (raw, get_registry().parse_functions(metadata))
        table.__dict__[_KEPT] = kept
    functions: dict[str, Any] = kept[1]
    return functions
