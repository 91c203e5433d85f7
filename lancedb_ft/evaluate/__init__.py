"""Measure retrieval: metrics, retrievers, evaluations with intervals, paired comparisons."""

from lancedb_ft.evaluate.compare import average, bootstrap_means, compare, evaluate
from lancedb_ft.evaluate.exact import exact_retriever, exact_retriever_of
from lancedb_ft.evaluate.latency import latency_estimates, time_queries
from lancedb_ft.evaluate.metrics import METRICS, parse_metric, per_query
from lancedb_ft.evaluate.queries import TextEncoder, query_embedder
from lancedb_ft.evaluate.report import comparison_table, evaluation_table, to_text
from lancedb_ft.evaluate.retrievers import require_reranker, retriever, run_retriever
from lancedb_ft.evaluate.runs import read_run, read_trec_qrels, write_run, write_trec_qrels
from lancedb_ft.evaluate.stored import stored_retriever

__all__ = [
    "METRICS",
    "TextEncoder",
    "average",
    "bootstrap_means",
    "compare",
    "comparison_table",
    "evaluate",
    "evaluation_table",
    "exact_retriever",
    "exact_retriever_of",
    "latency_estimates",
    "parse_metric",
    "per_query",
    "query_embedder",
    "read_run",
    "read_trec_qrels",
    "require_reranker",
    "retriever",
    "run_retriever",
    "stored_retriever",
    "time_queries",
    "to_text",
    "write_run",
    "write_trec_qrels",
]
