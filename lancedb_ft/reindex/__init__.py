"""Re-index: change the embedding model of a live table, in one commit, with a way back.

``plan`` estimates; `reindex` stages, fills, verifies, gates and switches; ``rollback`` and
``finish`` undo and clean up. `commits` is the only module that changes a table's state.
"""

from lancedb_ft.reindex.engines import RayEngine
from lancedb_ft.reindex.gate import GateReport
from lancedb_ft.reindex.generation_job import ReindexReport
from lancedb_ft.reindex.job import finish, reindex, rollback, switch
from lancedb_ft.reindex.plan import ReindexPlan, plan_reindex
from lancedb_ft.reindex.status import GenerationStatus, ReindexStatus, reindex_status
from lancedb_ft.reindex.sweep import SweepReport, SweptGeneration, sweep, watch
from lancedb_ft.reindex.verify import Check, verify

__all__ = [
    "Check",
    "GateReport",
    "GenerationStatus",
    "RayEngine",
    "ReindexPlan",
    "ReindexReport",
    "ReindexStatus",
    "SweepReport",
    "SweptGeneration",
    "finish",
    "plan_reindex",
    "reindex",
    "reindex_status",
    "rollback",
    "sweep",
    "switch",
    "verify",
    "watch",
]
