"""Long-lived LanceDB table handles follow a switch of the model, and so does a query in flight.

LanceDB's sync ``Table.embedding_functions`` is a ``cached_property``: a handle that searched once
keeps the functions of that moment. With a ``read_consistency_interval`` the same handle does follow
the table's columns, and after a switch the two no longer belong together: ``search("text")`` turns
into full-text search without a word, hybrid search raises "No embedding function for ...". An
application that stays up for weeks is the very one whose model is switched, so importing
lancedb_ft makes that property look at the metadata it was read from.

A hybrid query asks its two legs one by one. When a switch falls between them the same column is
shown in one leg and parked in the other: the same numbers under two types, which
``pa.concat_tables`` refuses. So both legs are given the plain type before LanceDB puts them
together. Nothing else changes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, wraps
from typing import Any

import pyarrow as pa

from lancedb_ft.table import FUNCTIONS_KEY

__all__ = ["follow_switches"]

_KEPT = "_lancedb_ft_functions"
_COMBINE = "_combine_hybrid_results"


def follow_switches() -> None:
    """Let sync handles read their functions anew, and hybrid queries have legs of two versions.

    Done once; nothing is done where LanceDB's own is no longer what this was written for.
    """
    from lancedb.query import LanceHybridQueryBuilder
    from lancedb.table import LanceTable

    if isinstance(LanceTable.__dict__.get("embedding_functions"), cached_property):
        LanceTable.embedding_functions = property(_embedding_functions)
    combine = LanceHybridQueryBuilder.__dict__.get(_COMBINE)
    if isinstance(combine, staticmethod) and not hasattr(combine.__func__, "__wrapped__"):
        setattr(LanceHybridQueryBuilder, _COMBINE, staticmethod(_of_one_type(combine.__func__)))


def _of_one_type(combine: Callable[..., pa.Table]) -> Callable[..., pa.Table]:
    @wraps(combine)
    def combined(*, fts_results: pa.Table, vector_results: pa.Table, **options: Any) -> pa.Table:
        return combine(
            fts_results=_parked_as_shown(fts_results, vector_results),
            vector_results=_parked_as_shown(vector_results, fts_results),
            **options,
        )

    return combined


def _parked_as_shown(leg: pa.Table, other: pa.Table) -> pa.Table:
    """Give the leg's parked columns the type of the numbers, where the other leg shows them."""
    for i, field in enumerate(leg.schema):
        there = other.schema.get_field_index(field.name)
        parked = isinstance(field.type, pa.FixedShapeTensorType)
        if parked and there >= 0 and other.schema.field(there).type == field.type.storage_type:
            chunks = [chunk.storage for chunk in leg.column(i).chunks]
            numbers = pa.chunked_array(chunks, type=field.type.storage_type)
            leg = leg.set_column(i, other.schema.field(there), numbers)
    return leg


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
