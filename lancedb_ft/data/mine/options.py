"""The options of mining that decide about candidates, checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lancedb_ft.arguments import check_whole
from lancedb_ft.errors import InputError

__all__ = ["MiningOptions"]


@dataclass(frozen=True)
class MiningOptions:
    """The arguments of `mine_negatives` that decide about candidates, checked.

    Raises
    ------
    InputError
        One is out of its range.
    """

    n_negatives: int
    sampling: str
    margin: float | None
    absolute_margin: float | None
    range_min: int
    range_max: int
    near_threshold: float
    when_few: str
    seed: int

    def __post_init__(self) -> None:
        """Check the ranges."""
        for name, least in (("n_negatives", 1), ("range_min", 0), ("range_max", 1), ("seed", 0)):
            check_whole(name, getattr(self, name), least=least)
        if self.sampling not in ("top", "random"):
            raise InputError(f"sampling is {self.sampling!r}; it must be 'top' or 'random'.")
        if self.when_few not in ("fill", "keep", "drop"):
            raise InputError(f"when_few is {self.when_few!r}; it must be 'fill', 'keep' or 'drop'.")
        if self.margin is not None and not 0 < self.margin <= 1:
            raise InputError(
                f"margin is {self.margin}; it is the share of the positive's score that a "
                "negative must stay below: above 0, at most 1 (0.95 is usual), or None."
            )
        if self.absolute_margin is not None and self.absolute_margin < 0:
            raise InputError(f"absolute_margin is {self.absolute_margin}; it must be 0 or more.")
        if self.range_min >= self.range_max:
            raise InputError(
                f"range_min is {self.range_min} and range_max {self.range_max}: ranks count from "
                "0, and range_min must be the smaller one."
            )
        if self.range_max - self.range_min < self.n_negatives:
            raise InputError(
                f"{self.range_max - self.range_min} ranks cannot give {self.n_negatives} "
                "negatives; raise range_max or lower range_min."
            )
        if not 0 < self.near_threshold <= 1:
            raise InputError(f"near_threshold is {self.near_threshold}; it must be in (0, 1].")

    def to_dict(self) -> dict[str, Any]:
        """Return the options for the lineage."""
        return dict(vars(self))
