"""Haystack: a retriever over a table, and embedders by a model of lancedb-ft."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from lancedb_ft.encoder import Encoder, get_encoder
from lancedb_ft.errors import InputError, MissingExtraError
from lancedb_ft.table import connect, open_table

from .filters import combined, comparison, narrowed
from .hits import Hit, TableSearch, embed, embed_async

try:
    from haystack import Document, component, default_from_dict, default_to_dict
except ImportError as error:
    raise MissingExtraError(
        "haystack-ai", extra="haystack", purpose="The Haystack adapter"
    ) from error

__all__ = ["LancedbFtDocumentEmbedder", "LancedbFtRetriever", "LancedbFtTextEmbedder"]


@component
class LancedbFtRetriever:
    """Search a table as `lancedb_ft.search` does; each row becomes a `Document` with its score.

    The table is opened by its place at the first query, so that a pipeline can be written to YAML
    and read back. Credentials of an object store come from the environment or from
    `lancedb_ft.use_storage_options` and are never written there.

    Parameters
    ----------
    database
        URI of the LanceDB database.
    table
        Name of the table.
    top_k
        How many rows to return.
    filters
        Haystack's filters over the table's columns (``meta.`` before a name is left out).
    where
        SQL over the columns, joined with ``filters``.
    mode, candidates
        As for `lancedb_ft.search`.
    text_column, id_column, select
        Which columns hold the text and the id, and which become ``meta`` (all but vectors).
    """

    def __init__(
        self,
        database: str,
        table: str,
        *,
        top_k: int = 10,
        filters: dict[str, Any] | None = None,
        where: str | None = None,
        mode: str = "hybrid",
        candidates: int | None = None,
        text_column: str | None = None,
        id_column: str | None = None,
        select: list[str] | None = None,
    ) -> None:
        self.database = database
        self.table = table
        self.top_k = top_k
        self.filters = filters
        self.where = where
        self.mode = mode
        self.candidates = candidates
        self.text_column = text_column
        self.id_column = id_column
        self.select = select

    def to_dict(self) -> dict[str, Any]:
        """Return it as Haystack writes it down."""
        names = ("database", "table", "top_k", "filters", "where", "mode", "candidates")
        columns = ("text_column", "id_column", "select")
        arguments: dict[str, Any] = {name: getattr(self, name) for name in (*names, *columns)}
        return default_to_dict(self, **arguments)

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> LancedbFtRetriever:
        """Make it from what `to_dict` returned."""
        return default_from_dict(cls, data)

    def warm_up(self) -> None:
        """Open the table."""
        _ = self._search

    @cached_property
    def _search(self) -> TableSearch:
        return TableSearch.of(
            open_table(connect(self.database), self.table),
            text_column=self.text_column,
            id_column=self.id_column,
            select=self.select,
            mode=self.mode,
            candidates=self.candidates,
        )

    @component.output_types(documents=list[Document])
    def run(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Search; ``filters`` and ``top_k`` stand in for those given at first, ``where`` holds."""
        hits = self._search.hits(query, k=self._k(top_k), where=self._where(filters))
        return {"documents": [_document(hit) for hit in hits]}

    @component.output_types(documents=list[Document])
    async def run_async(
        self, query: str, filters: dict[str, Any] | None = None, top_k: int | None = None
    ) -> dict[str, list[Document]]:
        """Search without blocking the event loop."""
        where = self._where(filters)
        hits = await self._search.hits_async(query, k=self._k(top_k), where=where)
        return {"documents": [_document(hit) for hit in hits]}

    def _where(self, filters: Mapping[str, Any] | None) -> str | None:
        filters = filters or self.filters
        return narrowed(_sql(filters, self._search) if filters else None, self.where)

    def _k(self, top_k: int | None) -> int:
        return self.top_k if top_k is None else top_k


class _Embedder:
    """What both embedders are made from."""

    def __init__(
        self,
        model: str,
        *,
        store: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        dims: int | None = None,
    ) -> None:
        self.model = model
        self.store = store
        self.device = device
        self.precision = precision
        self.dims = dims

    def to_dict(self) -> dict[str, Any]:
        """Return it as Haystack writes it down."""
        names = ("model", "store", "device", "precision", "dims")
        arguments: dict[str, Any] = {name: getattr(self, name) for name in names}
        return default_to_dict(self, **arguments)

    def warm_up(self) -> None:
        """Load the model."""
        _ = self._encoder

    @cached_property
    def _encoder(self) -> Encoder:
        return get_encoder(
            self.model,
            store=self.store,
            device=self.device,
            precision=self.precision,
            dims=self.dims,
        )


@component
class LancedbFtTextEmbedder(_Embedder):
    """Embed a query with a model of lancedb-ft.

    Parameters
    ----------
    model
        ``name@version``, a folder, or ``hf://org/name@revision``.
    store
        The model store, for ``name@version``.
    device, precision, dims
        See `lancedb_ft.get_encoder`.
    """

    @component.output_types(embedding=list[float])
    def run(self, text: str) -> dict[str, list[float]]:
        """Embed the query."""
        return {"embedding": embed(self._encoder, [text], "query")[0]}

    @component.output_types(embedding=list[float])
    async def run_async(self, text: str) -> dict[str, list[float]]:
        """Embed the query without blocking the event loop."""
        return {"embedding": (await embed_async(self._encoder, [text], "query"))[0]}


@component
class LancedbFtDocumentEmbedder(_Embedder):
    """Embed documents with a model of lancedb-ft; parameters as for `LancedbFtTextEmbedder`.

    The documents given are not changed: those returned are copies with an embedding.
    """

    @component.output_types(documents=list[Document])
    def run(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed the documents."""
        vectors = embed(self._encoder, _texts(documents), "document")
        return {"documents": _embedded(documents, vectors)}

    @component.output_types(documents=list[Document])
    async def run_async(self, documents: list[Document]) -> dict[str, list[Document]]:
        """Embed the documents without blocking the event loop."""
        vectors = await embed_async(self._encoder, _texts(documents), "document")
        return {"documents": _embedded(documents, vectors)}


def _texts(documents: Sequence[Document]) -> list[str]:
    if not all(isinstance(document, Document) for document in documents):
        raise InputError("The document embedder takes a list of Documents.")
    return [document.content or "" for document in documents]


def _embedded(documents: Sequence[Document], vectors: list[list[float]]) -> list[Document]:
    return [
        replace(document, embedding=vector)
        for document, vector in zip(documents, vectors, strict=True)
    ]


def _sql(filters: Mapping[str, Any], search: TableSearch) -> str:
    try:
        if "field" not in filters:
            parts = [_sql(part, search) for part in filters["conditions"]]
            return combined(str(filters["operator"]), parts)
        field, operator, value = filters["field"], filters["operator"], filters["value"]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"The filter {filters!r:.200} is not one of Haystack's: it has no {error}."
        ) from error
    column = search.text_column if field == "content" else str(field).removeprefix("meta.")
    return comparison(search.schema, search.name, column, operator, value)


def _document(hit: Hit) -> Document:
    # Without an id Haystack makes one of the content.
    return Document(id=hit.id or "", content=hit.text, meta=hit.metadata, score=hit.score)
