"""LangChain: a retriever over a table, and embeddings by a model of lancedb-ft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lancedb_ft.encoder import Encoder, get_encoder
from lancedb_ft.errors import MissingExtraError
from lancedb_ft.search import SearchOptions

from .filters import narrowed
from .hits import Hit, TableSearch, embed, embed_async

try:
    from langchain_core.callbacks import (
        AsyncCallbackManagerForRetrieverRun,
        CallbackManagerForRetrieverRun,
    )
    from langchain_core.documents import Document
    from langchain_core.embeddings import Embeddings
    from langchain_core.retrievers import BaseRetriever
    from pydantic import PrivateAttr
except ImportError as error:
    raise MissingExtraError(
        "langchain-core", extra="langchain", purpose="The LangChain adapter"
    ) from error

__all__ = ["LancedbFtEmbeddings", "LancedbFtRetriever"]


class LancedbFtRetriever(BaseRetriever):
    """Search a table as `lancedb_ft.search` does; each row becomes a `Document`.

    Parameters
    ----------
    table
        A LanceDB table, sync or async. It is followed through switches of its model.
    k, mode, where, reranker, candidates, options
        As for `lancedb_ft.search`. ``invoke`` takes ``k``, too, and a ``where`` that narrows this
        one: a row must pass both.
    text_column, id_column, select
        Which columns hold the text and the id, and which become metadata (all but vectors).

    Returns
    -------
    list of Document
        Best first. ``metadata`` has the other columns and the score by its name in LanceDB
        (``_relevance_score``, ``_score``, or ``_distance``, where lower is better).

    Examples
    --------
    >>> retriever = LancedbFtRetriever(table=docs, k=5)                       # doctest: +SKIP
    >>> retriever.invoke("how do I cancel?", where="lang = 'en'")             # doctest: +SKIP
    """

    table: Any
    k: int = 10
    mode: str = "hybrid"
    where: str | None = None
    reranker: Any = None
    candidates: int | None = None
    options: SearchOptions | None = None
    text_column: str | None = None
    id_column: str | None = None
    select: Sequence[str] | None = None

    _search: TableSearch = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Open the table."""
        super().model_post_init(context)
        self._search = TableSearch.of(
            self.table,
            text_column=self.text_column,
            id_column=self.id_column,
            select=self.select,
            mode=self.mode,
            reranker=self.reranker,
            candidates=self.candidates,
            options=self.options,
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,
        k: int | None = None,
        where: str | None = None,
    ) -> list[Document]:
        hits = self._search.hits(query, k=self._k(k), where=narrowed(self.where, where))
        return [_document(hit) for hit in hits]

    async def _aget_relevant_documents(
        self,
        query: str,
        *,
        run_manager: AsyncCallbackManagerForRetrieverRun,
        k: int | None = None,
        where: str | None = None,
    ) -> list[Document]:
        hits = await self._search.hits_async(query, k=self._k(k), where=narrowed(self.where, where))
        return [_document(hit) for hit in hits]

    def _k(self, k: int | None) -> int:
        return self.k if k is None else k


class LancedbFtEmbeddings(Embeddings):
    """Embed with a model of lancedb-ft; queries and documents get their own prompts.

    Parameters
    ----------
    model
        ``name@version``, a folder, or ``hf://org/name@revision``.
    store
        The model store, for ``name@version``.
    device, precision, dims
        See `lancedb_ft.get_encoder`.
    """

    def __init__(
        self,
        model: str,
        *,
        store: str | None = None,
        device: str | None = None,
        precision: str = "auto",
        dims: int | None = None,
    ) -> None:
        self.encoder: Encoder = get_encoder(
            model, store=store, device=device, precision=precision, dims=dims
        )

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents."""
        return embed(self.encoder, texts, "document")

    def embed_query(self, text: str) -> list[float]:
        """Embed a query."""
        return embed(self.encoder, [text], "query")[0]

    async def aembed_documents(self, texts: list[str]) -> list[list[float]]:
        """Embed documents without blocking the event loop."""
        return await embed_async(self.encoder, texts, "document")

    async def aembed_query(self, text: str) -> list[float]:
        """Embed a query without blocking the event loop."""
        return (await embed_async(self.encoder, [text], "query"))[0]


def _document(hit: Hit) -> Document:
    return Document(id=hit.id, page_content=hit.text, metadata=hit.metadata)
