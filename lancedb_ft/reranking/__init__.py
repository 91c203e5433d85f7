"""Put what a search found in a better order.

::

    table.search(text, query_type="hybrid").rerank(FineTunedReranker("support-reranker@1"))

    base.py       TextReranker, a `lancedb.rerankers.Reranker`: which texts, which order, failing
    guard.py      deadline, circuit breaker, counters
    legs.py       the order of the search, which is also the answer where a reranker fails
    waves.py      reading within a limit of time and of tokens
    named.py      get_reranker: from a name to a reranker

    reranker.py   FineTunedReranker: a cross-encoder of the store
      loading.py    the one place where a cross-encoder's folder becomes a running model
      pairs.py      queries and texts as token pairs
      scorer.py     Scorer: pairs in, one number each out
      cache.py      get_scorer: loaded once a process, in the precision that proves itself
    colbert.py    ColbertReranker: late interaction; late.py loads its models
    cohere.py     CohereReranker
    llm.py        LLMReranker: listwise, through an OpenAI-like endpoint
      service.py    what these two share: client, key, cutting
      remote.py     asking in time, again where that helps
      secret.py     keys and addresses
    chain.py      RerankerChain: a cheap one on many, a dear one on the best
    guarded.py    GuardedReranker: any other reranker of LanceDB, with a deadline
    foreign.py    ForeignReranker: what a search makes of any other reranker by itself
    running.py    rerank_hybrid, rerank_one: any reranker on one or two legs, as LanceDB runs it

torch, transformers and the clients of services are imported by what uses them, not by this package.
"""

from lancedb_ft.reranking.base import TextReranker, degraded_reason
from lancedb_ft.reranking.cache import clear_scorers, get_scorer
from lancedb_ft.reranking.chain import RerankerChain
from lancedb_ft.reranking.cohere import CohereReranker
from lancedb_ft.reranking.colbert import ColbertReranker
from lancedb_ft.reranking.guard import DEGRADED_KEY, RerankGuard, Usage, answer_within
from lancedb_ft.reranking.guarded import GuardedReranker
from lancedb_ft.reranking.llm import LLMReranker
from lancedb_ft.reranking.loading import CrossEncoderModel, load_cross_encoder, new_cross_encoder
from lancedb_ft.reranking.named import get_reranker
from lancedb_ft.reranking.reranker import FineTunedReranker
from lancedb_ft.reranking.scorer import Scorer

__all__ = [
    "DEGRADED_KEY",
    "CohereReranker",
    "ColbertReranker",
    "CrossEncoderModel",
    "FineTunedReranker",
    "GuardedReranker",
    "LLMReranker",
    "RerankGuard",
    "RerankerChain",
    "Scorer",
    "TextReranker",
    "Usage",
    "answer_within",
    "clear_scorers",
    "degraded_reason",
    "get_reranker",
    "get_scorer",
    "load_cross_encoder",
    "new_cross_encoder",
]
