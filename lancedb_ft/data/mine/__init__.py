"""Hard negatives: documents that search ranks high for a query although they do not answer it."""

from lancedb_ft.data.mine.bm25 import bm25_retriever
from lancedb_ft.data.mine.curriculum import curriculum
from lancedb_ft.data.mine.documents import TableDocuments
from lancedb_ft.data.mine.negatives import MinedNegatives, mine_negatives
from lancedb_ft.data.mine.questions import FalseNegative
from lancedb_ft.data.mine.report import MineReport
from lancedb_ft.data.mine.rules import STRATEGIES
from lancedb_ft.data.mine.scores import ScoringRetriever, Teacher
from lancedb_ft.data.mine.teacher import cross_encoder_teacher

__all__ = [
    "STRATEGIES",
    "FalseNegative",
    "MineReport",
    "MinedNegatives",
    "ScoringRetriever",
    "TableDocuments",
    "Teacher",
    "bm25_retriever",
    "cross_encoder_teacher",
    "curriculum",
    "mine_negatives",
]
