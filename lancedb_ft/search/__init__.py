"""Hybrid search of one table: full text, vectors and a reranker, on one version of the table.

::

    kept.py        search, search_many, explain: the verbs
    searcher.py    Searcher: a table kept open; followed.py: its versions
    query.py       one query, checked; options.py: what else it can ask for; batch.py: many
    answer.py      legs, fusion, reranker, rows; legs.py: each leg, in its time
    snapshot.py    what can be searched at one version; text_query.py: words as Lance's queries
    embed.py       queries as vectors, the last ones kept
    pages.py, facets.py, highlights.py, budget.py    one option each; info.py: what a result says
    trace.py       what a query did, for explanation.py and whoever listens
"""

from lancedb_ft.search.explanation import Explanation
from lancedb_ft.search.fusion import reciprocal_rank_fusion
from lancedb_ft.search.info import Facet, SearchInfo
from lancedb_ft.search.kept import explain, search, search_many
from lancedb_ft.search.options import Highlight, SearchOptions, TextMatch
from lancedb_ft.search.searcher import Searcher

__all__ = [
    "Explanation",
    "Facet",
    "Highlight",
    "SearchInfo",
    "SearchOptions",
    "Searcher",
    "TextMatch",
    "explain",
    "reciprocal_rank_fusion",
    "search",
    "search_many",
]
