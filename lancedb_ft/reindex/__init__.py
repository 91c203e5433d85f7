"""Re-index: change the embedding model of a live table, in one commit, with a way back.

``plan`` estimates; `reindex` stages, fills, verifies, gates and switches; ``rollback`` and
``finish`` undo and clean up. `commits` is the only module that changes a table's state.
"""

from lancedb_ft.reindex.audit import Audit, ColumnAudit, verify
from lancedb_ft.reindex.engines import RayEngine
from lancedb_ft.reindex.gate import GateReport
from lancedb_ft.reindex.generation_job import ReindexReport
from lancedb_ft.reindex.job import finish, reindex, rollback, switch
from lancedb_ft.reindex.plan import ReindexPlan, plan_reindex
from lancedb_ft.reindex.plan_check import PlanCheck
from lancedb_ft.reindex.status import GenerationStatus, ReindexStatus, reindex_status
from lancedb_ft.reindex.sweep import SweepReport, SweptGeneration, sweep
from lancedb_ft.reindex.verify import Check
from lancedb_ft.reindex.watch import watch

__all__ = [
    "Audit",
    "Check",
    "ColumnAudit",
    "GateReport",
    "GenerationStatus",
    "PlanCheck",
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
