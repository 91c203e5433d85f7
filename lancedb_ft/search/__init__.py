"""Hybrid search of one table: full text, vectors and a reranker, on one version of the table.

::

    kept.py        search, search_many, explain: the verbs
    searcher.py    Searcher: a table kept open; followed.py: its versions
    query.py       one query, checked; options.py: what else it can ask for; batch.py: many
    answer.py      legs, fusion, reranker, rows; legs.py: each leg, in its time
    snapshot.py    what can be searched at one version; text_query.py: words as Lance's queries
    tokens.py      words as an index reads them; times.py: moments as SQL
    embed.py       queries as vectors, the last ones kept
    pages.py, facets.py, highlights.py, budget.py    one option each; info.py: what a result says
    fusion.py, auto.py       one ranking of two legs; which legs a query gets
    fit.py         both learned on judged queries; learned.py: what is kept of it
    trace.py       what a query did, for explanation.py and whoever listens
    tiers.py       which rows are hot; tiered.py: one ranking of both; calibration.py, calibrate.py
    maintain.py    indexes kept current under churn; index_status.py: what they lack, and its cost
"""

from lancedb_ft.search.calibrate import calibrate
from lancedb_ft.search.calibration import Calibration
from lancedb_ft.search.explanation import Explanation
from lancedb_ft.search.fit import fit_auto, fit_fusion
from lancedb_ft.search.fusion import Fusion, reciprocal_rank_fusion
from lancedb_ft.search.index_status import TableStatus, index_status
from lancedb_ft.search.info import Facet, SearchInfo
from lancedb_ft.search.kept import explain, search, search_many
from lancedb_ft.search.learned import LearnedRanking
from lancedb_ft.search.maintain import Maintenance, maintain, maintain_watch
from lancedb_ft.search.options import Highlight, SearchOptions, TextMatch
from lancedb_ft.search.searcher import Searcher
from lancedb_ft.search.tiers import Tiers

__all__ = [
    "Calibration",
    "Explanation",
    "Facet",
    "Fusion",
    "Highlight",
    "LearnedRanking",
    "Maintenance",
    "SearchInfo",
    "SearchOptions",
    "Searcher",
    "TableStatus",
    "TextMatch",
    "Tiers",
    "calibrate",
    "explain",
    "fit_auto",
    "fit_fusion",
    "index_status",
    "maintain",
    "maintain_watch",
    "reciprocal_rank_fusion",
    "search",
    "search_many",
]
