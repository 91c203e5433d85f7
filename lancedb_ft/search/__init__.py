"""Hybrid search of one table: full text, vectors and a reranker, on one version of the table."""

from lancedb_ft.search.fusion import reciprocal_rank_fusion
from lancedb_ft.search.kept import search
from lancedb_ft.search.searcher import Searcher

__all__ = ["Searcher", "reciprocal_rank_fusion", "search"]
