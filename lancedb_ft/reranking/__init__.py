"""Put what a search found in a better order, with a cross-encoder of the store.

::

    table.search(text, query_type="hybrid").rerank(FineTunedReranker("support-reranker@1"))

    loading.py    the one place where a cross-encoder's folder becomes a running model
    pairs.py      queries and texts as token pairs
    scorer.py     Scorer: pairs in, one number each out
    cache.py      get_scorer: loaded once a process, in the precision that proves itself
    reranker.py   FineTunedReranker, a `lancedb.rerankers.Reranker`

torch and transformers are imported by the first query, not by this package.
"""

from lancedb_ft.reranking.cache import clear_scorers, get_scorer
from lancedb_ft.reranking.loading import CrossEncoderModel, load_cross_encoder, new_cross_encoder
from lancedb_ft.reranking.reranker import FineTunedReranker
from lancedb_ft.reranking.scorer import Scorer

__all__ = [
    "CrossEncoderModel",
    "FineTunedReranker",
    "Scorer",
    "clear_scorers",
    "get_scorer",
    "load_cross_encoder",
    "new_cross_encoder",
]
