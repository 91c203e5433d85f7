"""LlamaIndex: a retriever over a table, and an embedding by a model of lancedb-ft."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder, get_encoder
from lancedb_ft.errors import MissingExtraError
from lancedb_ft.search import SearchOptions

from .filters import combined, comparison, narrowed
from .hits import Hit, TableSearch, embed, embed_async

try:
    from llama_index.core.base.embeddings.base import BaseEmbedding
    from llama_index.core.bridge.pydantic import PrivateAttr
    from llama_index.core.callbacks import CallbackManager
    from llama_index.core.retrievers import BaseRetriever
    from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
    from llama_index.core.vector_stores.types import MetadataFilters
except ImportError as error:
    raise MissingExtraError(
        "llama-index-core", extra="llama-index", purpose="The LlamaIndex adapter"
    ) from error

if TYPE_CHECKING:
    from lancedb.rerankers import Reranker
    from lancedb.table import AsyncTable, Table

__all__ = ["LancedbFtEmbedding", "LancedbFtRetriever"]


class LancedbFtRetriever(BaseRetriever):
    """Search a table as `lancedb_ft.search` does; each row becomes a `TextNode` with its score.

    Parameters
    ----------
    table
        A LanceDB table, sync or async. It is followed through switches of its model.
    similarity_top_k
        How many rows to return.
    filters
        LlamaIndex's filters over the table's columns, joined with ``where``.
    mode, where, reranker, candidates, options
        As for `lancedb_ft.search`.
    text_column, id_column, select
        Which columns hold the text and the id, and which become metadata (all but vectors).

    A ``QueryBundle`` that brings an embedding is searched with that one. The score is higher for
    better: the relevance, the BM25 score, or minus the distance.

    Examples
    --------
    >>> LancedbFtRetriever(docs, similarity_top_k=5).retrieve("how do I cancel?")  # doctest: +SKIP
    """

    def __init__(
        self,
        table: Table | AsyncTable,
        *,
        similarity_top_k: int = 10,
        mode: str = "hybrid",
        where: str | None = None,
        filters: MetadataFilters | None = None,
        reranker: Reranker | None = None,
        candidates: int | None = None,
        options: SearchOptions | None = None,
        text_column: str | None = None,
        id_column: str | None = None,
        select: Sequence[str] | None = None,
        callback_manager: CallbackManager | None = None,
    ) -> None:
        self._k = similarity_top_k
        self._search = TableSearch.of(
            table,
            text_column=text_column,
            id_column=id_column,
            select=select,
            mode=mode,
            reranker=reranker,
            candidates=candidates,
            options=options,
        )
        self._where = narrowed(None if filters is None else _sql(filters, self._search), where)
        super().__init__(callback_manager=callback_manager)

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = self._search.hits(
            query_bundle.query_str,
            k=self._k,
            where=self._where,
            vector=query_bundle.embedding,
        )
        return [_node(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        hits = await self._search.hits_async(
            query_bundle.query_str,
            k=self._k,
            where=self._where,
            vector=query_bundle.embedding,
        )
        return [_node(hit) for hit in hits]


class LancedbFtEmbedding(BaseEmbedding):
    """Embed with a model of lancedb-ft; queries and documents get their own prompts.

    Parameters
    ----------
    model_name
        ``name@version``, a folder, or ``hf://org/name@revision``.
    store
        The model store, for ``name@version``.
    device, precision, dims
        See `lancedb_ft.get_encoder`.
    """

    store: str | None = None
    device: str | None = None
    precision: str = "auto"
    dims: int | None = None

    _encoder: Encoder = PrivateAttr()

    def model_post_init(self, context: Any) -> None:
        """Get the running model, which the process shares."""
        super().model_post_init(context)
        self._encoder = get_encoder(
            self.model_name,
            store=self.store,
            device=self.device,
            precision=self.precision,
            dims=self.dims,
        )

    @classmethod
    def class_name(cls) -> str:
        """Return the name by which LlamaIndex writes it down."""
        return "LancedbFtEmbedding"

    def _get_query_embedding(self, query: str) -> list[float]:
        return embed(self._encoder, [query], "query")[0]

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return (await embed_async(self._encoder, [query], "query"))[0]

    def _get_text_embedding(self, text: str) -> list[float]:
        return embed(self._encoder, [text], "document")[0]

    async def _aget_text_embedding(self, text: str) -> list[float]:
        return (await embed_async(self._encoder, [text], "document"))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return embed(self._encoder, texts, "document")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[list[float]]:
        return await embed_async(self._encoder, texts, "document")


def _sql(filters: MetadataFilters, search: TableSearch) -> str:
    parts = [
        _sql(each, search)
        if isinstance(each, MetadataFilters)
        else comparison(search.schema, search.name, each.key, each.operator.value, each.value)
        for each in filters.filters
    ]
    condition = filters.condition.value if filters.condition is not None else "and"
    return combined(condition, parts)


def _node(hit: Hit) -> NodeWithScore:
    # An id of its own where the table has none: LlamaIndex merges nodes by id.
    named = {} if hit.id is None else {"id_": hit.id}
    return NodeWithScore(
        node=TextNode(text=hit.text, metadata=hit.metadata, **named), score=hit.score
    )
