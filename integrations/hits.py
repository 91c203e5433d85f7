"""What every adapter needs of a search: text, id, score and the other columns of each row."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.encoder import Encoder, Kind
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.search import Searcher, SearchOptions
from lancedb_ft.search.options import names_of
from lancedb_ft.table import id_column_of, text_column_of

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker
    from lancedb.table import AsyncTable, Table

__all__ = ["Hit", "TableSearch", "embed", "embed_async"]

#: The columns that rank a result; the last that is there is the one that counts.
_SCORES = ("_distance", "_score", "_relevance_score")


@dataclass(frozen=True)
class Hit:
    """One row of a result.

    Parameters
    ----------
    id
        The key of the row as text; None where the table has no id column.
    text
        The text; empty where it is null.
    score
        Higher is better: the relevance, the BM25 score, or minus the distance.
    metadata
        All other columns that were selected, and the score under its own name.
    """

    id: str | None
    text: str
    score: float
    metadata: dict[str, Any]


@dataclass(frozen=True)
class TableSearch:
    """How an adapter searches its table; see `lancedb_ft.search` for what is not said here.

    Parameters
    ----------
    searcher
        The open table.
    text_column, id_column
        Which columns hold the text and the key; found as everywhere in lancedb-ft by default.
    select
        The columns that become metadata; by default all but vectors.
    """

    searcher: Searcher
    schema: pa.Schema
    name: str
    text_column: str
    id_column: str | None
    select: tuple[str, ...] | None
    mode: str
    reranker: Reranker | None
    candidates: int | None
    options: SearchOptions | None

    @classmethod
    def of(
        cls,
        table: Table | AsyncTable,
        *,
        text_column: str | None = None,
        id_column: str | None = None,
        select: Sequence[str] | None = None,
        mode: str = "hybrid",
        reranker: Reranker | None = None,
        candidates: int | None = None,
        options: SearchOptions | None = None,
    ) -> TableSearch:
        """Open a table for an adapter.

        Raises
        ------
        QueryError
            It is no table that can be searched, or ``select`` is no list of names.
        ColumnNotFoundError
            A named column does not exist, or no text column can be found.
        """
        from lancedb.background_loop import LOOP
        from lancedb.table import AsyncTable

        searcher = Searcher(table)  # which says so where it is no table
        schema = LOOP.run(table.schema()) if isinstance(table, AsyncTable) else table.schema
        try:
            key: str | None = id_column_of(schema, id_column, table=table.name)
        except ColumnNotFoundError:
            if id_column is not None:
                raise
            key = None
        return cls(
            searcher=searcher,
            schema=schema,
            name=table.name,
            text_column=text_column_of(schema, text_column, table=table.name),
            id_column=key,
            select=names_of(select, "select"),
            mode=mode,
            reranker=reranker,
            candidates=candidates,
            options=options,
        )

    def hits(
        self, query: str, *, k: int, where: str | None = None, vector: Any = None
    ) -> list[Hit]:
        """Search, best first."""
        return self._hits(self.searcher.search(query, **self._asked(k, where, vector)))

    async def hits_async(
        self, query: str, *, k: int, where: str | None = None, vector: Any = None
    ) -> list[Hit]:
        """Search without blocking the event loop."""
        return self._hits(await self.searcher.search_async(query, **self._asked(k, where, vector)))

    def _asked(self, k: int, where: str | None, vector: Any) -> dict[str, Any]:
        needed = [name for name in (self.text_column, self.id_column) if name is not None]
        wanted = None if self.select is None else list(dict.fromkeys([*needed, *self.select]))
        return {
            "k": k,
            "mode": self.mode,
            "where": where,
            "select": wanted,
            "reranker": self.reranker,
            "candidates": self.candidates,
            "options": self.options,
            "vector": None if self.mode == "fts" else vector,
        }

    def _hits(self, found: pa.Table) -> list[Hit]:
        score = next(name for name in reversed(_SCORES) if name in found.column_names)
        sign = -1.0 if score == "_distance" else 1.0
        hits = []
        for row in found.to_pylist():
            key = None if self.id_column is None else row.get(self.id_column)
            text = row.pop(self.text_column) or ""
            hits.append(Hit(None if key is None else str(key), text, sign * row[score], row))
        return hits


def embed(encoder: Encoder, texts: Sequence[str], kind: Kind) -> list[list[float]]:
    """Embed texts.

    Raises
    ------
    InputError
        A text is blank: it has no vector, and a vector of zeros would be near to nothing.
    """
    vectors: list[list[float] | None] = encoder.encode(list(texts), kind=kind).to_pylist()
    blank = [at for at, vector in enumerate(vectors) if vector is None]
    if blank:
        raise InputError(
            f"{len(blank)} of {len(vectors)} texts are blank and have no vector (first: number "
            f"{blank[0]}). Leave them out."
        )
    return [vector for vector in vectors if vector is not None]


async def embed_async(encoder: Encoder, texts: Sequence[str], kind: Kind) -> list[list[float]]:
    """Embed texts without blocking the event loop."""
    return await asyncio.to_thread(embed, encoder, texts, kind)
