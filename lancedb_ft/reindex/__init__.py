"""Re-index: change the embedding model of a live table, in one commit, with a way back.

``plan`` estimates; ``job.py`` stages, fills, verifies, gates and switches; ``serving.py`` has the
ways back and the cleaning up. `commits` is the only module that changes a table's state.
"""

from lancedb_ft.reindex.checks.audit import Audit, ColumnAudit, verify
from lancedb_ft.reindex.checks.verify import Check
from lancedb_ft.reindex.engines import RayEngine
from lancedb_ft.reindex.gates.gate import GateReport
from lancedb_ft.reindex.generation_job import ReindexReport
from lancedb_ft.reindex.job import reindex
from lancedb_ft.reindex.plans.plan import ReindexPlan, plan_reindex
from lancedb_ft.reindex.plans.plan_check import PlanCheck
from lancedb_ft.reindex.serving import finish, rollback, switch
from lancedb_ft.reindex.status import GenerationStatus, ReindexStatus, reindex_status
from lancedb_ft.reindex.sweeping.sweep import SweepReport, SweptGeneration, sweep
from lancedb_ft.reindex.sweeping.watch import watch

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
