"""`CohereReranker`: Cohere's rerank models, or whatever speaks version 2 of their interface."""

from __future__ import annotations

import math
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from lancedb_ft.arguments import is_number, is_whole
from lancedb_ft.errors import InputError
from lancedb_ft.reranking.base import Reading, check_count, check_price
from lancedb_ft.reranking.guard import Deadline, RerankGuard, Usage
from lancedb_ft.reranking.remote import MalformedError, together
from lancedb_ft.reranking.secret import Secret
from lancedb_ft.reranking.service import ServiceReranker, require_package

__all__ = ["CohereReranker"]

_PUBLIC = "https://api.cohere.com"
#: The most texts of one request that Cohere recommends.
_MAX_BATCH = 1_000


class CohereReranker(ServiceReranker):
    """Cohere's rerank endpoint, version 2, within a deadline and behind a circuit breaker.

    LanceDB's own reranker of that name asks version 1 without a timeout and raises whatever goes
    wrong. The query and the texts leave this machine; see `TextReranker` for the result.

    Parameters
    ----------
    model
        Cohere's name of it.
    base_url
        Another address that speaks this interface; None for the environment variable
        ``CO_API_URL``, then Cohere's own.
    api_key
        ``$var:name``, a variable of LanceDB's embedding registry; None for the environment variable
        ``COHERE_API_KEY`` or ``CO_API_KEY``. Never the key itself.
    batch_size
        Texts in one request, 1,000 at most; the requests of a query run at the same time. Cohere
        bills a query by the hundred.
    max_chars
        Cut longer texts. Cohere bills by the 500 tokens of a text, the query included, which
        English text of 2,000 characters has.
    max_tokens_per_doc
        Let Cohere cut texts, too; None for its own limit.
    usd_per_1000_units
        The price of 1,000 search units, for ``usage.cost_usd``.
    column, top_k, return_score
        See `TextReranker`.
    guard
        Deadline, retries, circuit breaker; None for ``RerankGuard()``.

    Raises
    ------
    InputError
        There is no key, or an argument cannot be used.
    MissingExtraError
        The package cohere is not installed.

    Examples
    --------
    >>> reranker = CohereReranker(top_k=50, guard=RerankGuard(deadline_s=1.0))     # doctest: +SKIP
    >>> docs.search("cancel", query_type="hybrid").rerank(reranker).to_list()  # doctest: +SKIP
    """

    def __init__(
        self,
        model: str = "rerank-v3.5",
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        batch_size: int = 100,
        max_chars: int = 2_000,
        max_tokens_per_doc: int | None = None,
        usd_per_1000_units: float = 0.0,
        column: str = "text",
        top_k: int | None = None,
        return_score: str = "relevance",
        guard: RerankGuard | None = None,
    ) -> None:
        super().__init__(
            model,
            base_url=base_url or os.environ.get("CO_API_URL") or _PUBLIC,
            secret=Secret.of(api_key, "COHERE_API_KEY", "CO_API_KEY"),
            needs_key=True,
            max_chars=max_chars,
            column=column,
            top_k=top_k,
            return_score=return_score,
            guard=guard,
        )
        check_count("batch_size", batch_size)
        check_count("max_tokens_per_doc", max_tokens_per_doc)
        check_price("usd_per_1000_units", usd_per_1000_units)
        if batch_size > _MAX_BATCH:
            raise InputError(f"batch_size is {batch_size}; a request takes {_MAX_BATCH} at most.")
        self.batch_size = batch_size
        self.max_tokens_per_doc = max_tokens_per_doc
        self.usd_per_1000_units = usd_per_1000_units
        require_package("cohere", extra="cohere", purpose="Reranking with Cohere")

    def make_client(self, key: str) -> tuple[Any, Callable[[], Awaitable[None]]]:
        """Return Cohere's client for version 2."""
        cohere = require_package("cohere", extra="cohere", purpose="Reranking with Cohere")
        httpx = require_package("httpx", extra="cohere", purpose="Reranking with Cohere")
        # No timeout of its own: the deadline stops a call at any point. No redirects: a key goes
        # to the address that was named.
        http = httpx.AsyncClient(timeout=None, follow_redirects=False)
        client = cohere.AsyncClientV2(
            api_key=key,
            base_url=self.base_url,
            client_name="lancedb-ft",
            max_retries=0,
            httpx_client=http,
            log_warning_experimental_features=False,
        )
        return client, http.aclose

    def read(self, query: str, texts: Sequence[str], deadline: Deadline) -> Reading:
        """Ask for the relevance of all texts, in batches at the same time."""
        client, service = self.client(), self.service()
        sent = [self.cut(text) for text in texts]
        batches = [
            sent[start : start + self.batch_size] for start in range(0, len(sent), self.batch_size)
        ]

        async def ask() -> list[list[float]]:
            return await together(
                [service.tries(self._call(client, query, batch), deadline) for batch in batches]
            )

        found = service.ask(ask, deadline)
        keys = np.concatenate([np.array(scores) for scores in found])
        n_unread = int(np.isnan(keys).sum())
        told = f"{self}: no scores for {n_unread} of {len(texts)} texts" if n_unread else ""
        return Reading(keys, np.clip(np.nan_to_num(keys), 0, 1).astype(np.float32), told)

    def _call(
        self, client: Any, query: str, texts: list[str]
    ) -> Callable[[], Awaitable[list[float]]]:
        options = (
            {}
            if self.max_tokens_per_doc is None
            else {"max_tokens_per_doc": self.max_tokens_per_doc}
        )

        async def call() -> list[float]:
            answer = await client.rerank(
                model=self.model,
                query=query,
                documents=texts,
                request_options={"max_retries": 0},
                **options,
            )
            self._count(answer)
            return _scores_of(answer, len(texts))

        return call

    def _count(self, answer: Any) -> None:
        billed = getattr(getattr(answer, "meta", None), "billed_units", None)
        units = getattr(billed, "search_units", None)
        if isinstance(units, (int, float)) and 0 <= units < math.inf:
            cost = units * self.usd_per_1000_units / 1000
            self._counters.add(Usage(search_units=units, cost_usd=cost))


def _scores_of(answer: Any, n_texts: int) -> list[float]:
    """Return a score for each text, NaN where there is none.

    The client believes what it gets, so everything is looked at here.
    """
    results = getattr(answer, "results", None)
    if not isinstance(results, list) or not results:
        raise MalformedError("it has no results")
    scores = [math.nan] * n_texts
    for result in results:
        place, score = getattr(result, "index", None), getattr(result, "relevance_score", None)
        if not is_whole(place, 0, n_texts - 1):
            raise MalformedError("it names a text that was not sent")
        if not is_number(score):
            raise MalformedError("a score is no number")
        if not math.isfinite(score) or not math.isnan(scores[place]):
            raise MalformedError("a score is not finite, or given twice")
        scores[place] = float(score)
    return scores
