"""`get_reranker`: from what a user writes to a reranker."""

from __future__ import annotations

import re
from collections.abc import Callable

from lancedb_ft.errors import InputError
from lancedb_ft.reranking.base import TextReranker
from lancedb_ft.reranking.chain import RerankerChain
from lancedb_ft.reranking.cohere import CohereReranker
from lancedb_ft.reranking.colbert import ColbertReranker
from lancedb_ft.reranking.guard import RerankGuard
from lancedb_ft.reranking.llm import LLMReranker
from lancedb_ft.reranking.reranker import FineTunedReranker

__all__ = ["get_reranker"]

_STAGE = re.compile(r"^(?P<name>.+?)(?:\[(?P<top_k>\d{1,6})\])?$", re.DOTALL)


def get_reranker(
    name: str,
    *,
    store: str | None = None,
    column: str = "text",
    return_score: str = "relevance",
    guard: RerankGuard | None = None,
) -> TextReranker:
    """Return the reranker that a name stands for.

    ============================== =========================================================
    ``support-reranker@1``         a cross-encoder of the store, a folder, ``hf://org/name``
    ``cohere:rerank-v3.5``         `CohereReranker`; key in ``COHERE_API_KEY``
    ``llm:qwen3``                  `LLMReranker`; address in ``OPENAI_BASE_URL``
    ``colbert:FOLDER``             `ColbertReranker`
    ``support-reranker@1[100]``    at most so many candidates are read
    ``A[100] > cohere:B[20]``      a chain: one after another
    ============================== =========================================================

    Parameters
    ----------
    name
        See above.
    store
        URI of the model store, for ``name@version``.
    column, return_score
        See `TextReranker`.
    guard
        Deadline, retries, circuit breaker; None for what each kind has by default.

    Raises
    ------
    InputError
        It is none of these forms, or a key is missing.
    ModelNotFoundError, StoreNotFoundError, ModelKindError
        There is no such model.
    """
    if not isinstance(name, str) or not name.strip():
        raise InputError("The name of the reranker is empty. Name one, as 'support-reranker@1'.")
    stages = []
    for part in name.split(" > "):
        found = _STAGE.match(part.strip())
        if found is None:
            raise InputError(f"{name!r} has an empty part; a chain is written 'A[100] > B[20]'.")
        top_k = None if found["top_k"] is None else int(found["top_k"])
        stages.append(_one(found["name"].strip(), store, column, top_k, return_score, guard))
    return (
        stages[0]
        if len(stages) == 1
        else RerankerChain(*stages, return_score=return_score, guard=guard)
    )


def _one(
    name: str,
    store: str | None,
    column: str,
    top_k: int | None,
    return_score: str,
    guard: RerankGuard | None,
) -> TextReranker:
    def cohere(model: str) -> TextReranker:
        return CohereReranker(
            model, column=column, top_k=top_k, return_score=return_score, guard=guard
        )

    def llm(model: str) -> TextReranker:
        return LLMReranker(
            model, column=column, top_k=top_k or 20, return_score=return_score, guard=guard
        )

    def colbert(model: str) -> TextReranker:
        return ColbertReranker(
            model, store=store, column=column, top_k=top_k, return_score=return_score, guard=guard
        )

    def cross_encoder(model: str) -> TextReranker:
        return FineTunedReranker(
            model, store=store, column=column, top_k=top_k, return_score=return_score, guard=guard
        )

    kinds: dict[str, Callable[[str], TextReranker]] = {
        "cohere": cohere,
        "llm": llm,
        "colbert": colbert,
        "cross-encoder": cross_encoder,
    }
    kind, colon, model = name.partition(":")
    return kinds[kind](model) if colon and kind in kinds else cross_encoder(name)
