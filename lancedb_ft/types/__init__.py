"""The nouns: frozen, validated values that the verbs pass to one another.

::

    retrieval.py      Mode, Run, Qrels, Retriever, Progress
    pairs.py          Pairs, Split
    figures.py        Estimate, Delta, Evaluation, Comparison
    model_version.py  ModelVersion
    gate.py           Gate, Requirement
"""

from lancedb_ft.types.figures import DEFAULT_METRICS, Comparison, Delta, Estimate, Evaluation
from lancedb_ft.types.gate import LATENCIES, METRIC_KINDS, Gate, Requirement
from lancedb_ft.types.model_version import ModelVersion
from lancedb_ft.types.pairs import Pairs, Split, hash_rows, take_rows
from lancedb_ft.types.retrieval import Mode, Progress, Qrels, Retriever, Run

__all__ = [
    "DEFAULT_METRICS",
    "LATENCIES",
    "METRIC_KINDS",
    "Comparison",
    "Delta",
    "Estimate",
    "Evaluation",
    "Gate",
    "Mode",
    "ModelVersion",
    "Pairs",
    "Progress",
    "Qrels",
    "Requirement",
    "Retriever",
    "Run",
    "Split",
    "hash_rows",
    "take_rows",
]
