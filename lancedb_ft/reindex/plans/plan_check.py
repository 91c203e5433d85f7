"""The plan and what came of it: `plan` leaves its figures beside the job, the report compares.

A re-index does not sample by itself: that would cost seconds of every run. Where the user ran
`plan_reindex` (``reindex plan``) for the same model before, its figures are found here.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.reindex.lock import job_folder
from lancedb_ft.reindex.plans.estimate import folder_bytes, table_bytes

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.types import Progress

__all__ = ["PlanCheck", "Watch", "save_plan"]

_FILE = "plan.json"
#: A plan for another number of rows (a run that goes on, a table that grew) is not compared.
_SAME_ROWS = 0.1
#: Seconds between two looks at what lies on its way to a commit.
_LOOK_EVERY_S = 0.5


@dataclass(frozen=True)
class PlanCheck:
    """Predicted and real figures: seconds in all and by stage, bytes kept, most bytes on disk.

    Parameters
    ----------
    predicted, real
        ``seconds``, ``bytes`` (new columns and index), ``peak_disk_bytes``.
    predicted_stages, real_stages
        Seconds by stage.
    """

    predicted: Mapping[str, float]
    real: Mapping[str, float]
    predicted_stages: Mapping[str, float] = field(default_factory=dict)
    real_stages: Mapping[str, float] = field(default_factory=dict)

    def ratio(self, name: str) -> float | None:
        """Return predicted over real."""
        real = self.real[name]
        return round(self.predicted[name] / real, 3) if real else None

    def to_dict(self) -> dict[str, Any]:
        """``{"seconds": {"predicted", "real", "ratio"}, ..., "stages": {...}}``."""
        figures: dict[str, Any] = {
            name: {"predicted": value, "real": self.real[name], "ratio": self.ratio(name)}
            for name, value in self.predicted.items()
        }
        figures["stages"] = {
            name: {
                "predicted": round(self.predicted_stages.get(name, 0.0), 3),
                "real": round(seconds, 3),
            }
            for name, seconds in self.real_stages.items()
        }
        return figures


def save_plan(table: Table, *, fingerprint: str, dims: int, figures: Mapping[str, Any]) -> None:
    """Leave a plan's figures for the report; where nothing can be written, there is none."""
    with contextlib.suppress(OSError):
        folder = job_folder(table)
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f"{_FILE}.partial"
        plan = {"fingerprint": fingerprint, "dims": dims, **figures}
        partial.write_text(json.dumps(plan), encoding="utf-8")
        os.replace(partial, folder / _FILE)


class Watch:
    """Notes what a run takes on disk, where a plan was made for it.

    Parameters
    ----------
    table
        The table.
    fingerprint, dims
        Of the run: a plan for another model is left alone.
    spill
        The folder of what is on its way to a commit.
    """

    def __init__(self, table: Table, *, fingerprint: str, dims: int, spill: Path) -> None:
        self._table = table
        self._spill = spill
        self._most = 0
        self._looked = 0.0
        self._path = job_folder(table) / _FILE
        plan = _read(self._path)
        same = (plan.get("fingerprint"), plan.get("dims")) == (fingerprint, dims)
        self._plan = plan if same else {}
        self._before = table_bytes(table) if self._plan else 0

    def progress(self, told: Progress | None) -> Progress | None:
        """Return a progress that looks at the disk now and then on its way to ``told``."""
        if not self._plan:
            return told

        def look(done: int, total: int | None, /) -> None:
            now = time.monotonic()
            # Also at the end: it is cleared only after that is told.
            if done == total or now - self._looked > _LOOK_EVERY_S:
                self._looked = now
                self._most = max(self._most, folder_bytes(self._spill))
            if told is not None:
                told(done, total)

        return look

    def compare(self, stages: Mapping[str, float], n_rows: int) -> PlanCheck | None:
        """Return plan and reality of a run that made so many rows; the plan is then used up."""
        plan, self._plan = self._plan, {}
        if not plan:
            return None
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)
        if abs(n_rows - plan["rows_to_encode"]) > _SAME_ROWS * plan["rows_to_encode"]:
            return None
        predicted_stages = {k: s for k, s in plan["stages"].items() if k in stages}
        real_stages = {k: s for k, s in stages.items() if k in plan["stages"]}
        after = table_bytes(self._table)
        return PlanCheck(
            predicted={
                "seconds": round(sum(predicted_stages.values()), 3),
                "bytes": plan["bytes"],
                "peak_disk_bytes": plan["peak_disk_bytes"],
            },
            real={
                "seconds": round(sum(real_stages.values()), 3),
                "bytes": after - self._before,
                "peak_disk_bytes": after + self._most,
            },
            predicted_stages=predicted_stages,
            real_stages=real_stages,
        )


def _read(path: Path) -> dict[str, Any]:
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return plan if isinstance(plan, dict) else {}
