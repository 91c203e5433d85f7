"""Engines: where the rows of a generation are encoded and written.

``local`` fills one fragment after the other in this process; ``ray`` fills many at once on the
nodes of a cluster. Both write the same files, see `lancedb_ft.reindex.filling.fragments`, and in
both one process alone commits.
"""

from lancedb_ft.reindex.engines.base import Engine, Filler, FillWork, LocalEngine, engine_of
from lancedb_ft.reindex.engines.ray_engine import RayEngine

__all__ = ["Engine", "FillWork", "Filler", "LocalEngine", "RayEngine", "engine_of"]
