"""Scores that compare across tiers: what a row that has no vector would have had by vector.

Reciprocal rank fusion adds a share for each leg, so a row that one leg cannot find is held back
against rows that both find, however well its words fit. What its missing share would be is known
from rows that have both: in a sample of queries, of the rows that stood at the same place by full
text, how high did they stand by vector? The mean share, made to fall from place to place, is what
a hot row without a vector gets. So all scores stay on the scale of the fusion.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError
from lancedb_ft.search.fusion import RRF_K

__all__ = ["Calibration", "falling"]

_MAX_RANK = 2**31 - 1


@dataclass(frozen=True, eq=False)
class Calibration:
    """How high rows stand by vector that stand at some place by full text, in a sample.

    Parameters
    ----------
    vector_ranks
        Whole numbers, shape (queries, places by full text): the rank by vector, from 1, of the row
        at that place by full text; 0 where the vector leg did not bring it, -1 where there was no
        such row, or it had no vector.
    source
        What was sampled, for the lineage.
    """

    vector_ranks: npt.NDArray[np.int32]
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ranks = np.asarray(self.vector_ranks)
        if ranks.ndim != 2 or not ranks.size:
            raise InputError(
                f"vector_ranks has the shape {ranks.shape}; it must be (queries, places), and "
                "there must be some."
            )
        if ranks.dtype.kind not in "iu" or ranks.min() < -1 or ranks.max() > _MAX_RANK:
            raise InputError(
                f"vector_ranks holds {ranks.dtype} from {ranks.min()!s:.20} to "
                f"{ranks.max()!s:.20}; it must hold whole numbers from -1 to {_MAX_RANK}."
            )
        if not isinstance(self.source, Mapping):
            raise InputError(f"source is {self.source!r:.80}; it must be a mapping.")
        ranks = ranks.astype(np.int32)
        object.__setattr__(self, "vector_ranks", ranks)
        object.__setattr__(self, "_shares", {})

    @property
    def n_queries(self) -> int:
        """How many queries were sampled."""
        return int(self.vector_ranks.shape[0])

    def shares(self, depth: int) -> tuple[float, ...]:
        """Return the vector share of reciprocal rank fusion to expect, by place by full text.

        Parameters
        ----------
        depth
            How many rows the vector leg brings; what stands lower has no share.

        Returns
        -------
        tuple of float
            The first is for place 1; they never rise. For lower places the last one holds.
        """
        depth = max(depth, 1)
        kept: dict[int, tuple[float, ...]] = self._shares  # type: ignore[attr-defined]
        if depth not in kept:
            ranks = self.vector_ranks
            found = (ranks > 0) & (ranks <= depth)
            share = np.where(found, 1.0 / (RRF_K + np.maximum(ranks, 1)), 0.0)
            known = (ranks >= 0).sum(axis=0)
            means = np.where(ranks >= 0, share, 0.0).sum(axis=0) / np.maximum(known, 1)
            there = known > 0
            kept[depth] = tuple(falling(means[there], known[there])) if there.any() else (0.0,)
        return kept[depth]

    def to_json(self) -> str:
        """Return it as text, to be kept beside the model version."""
        return json.dumps({"vector_ranks": self.vector_ranks.tolist(), "source": dict(self.source)})

    @classmethod
    def from_json(cls, text: str) -> Calibration:
        """Read what `to_json` wrote.

        Raises
        ------
        InputError
            It is something else.
        """
        try:
            told = json.loads(text)
            return cls(np.asarray(told["vector_ranks"]), told["source"])
        except InputError:
            raise
        except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
            raise InputError(f"This is no calibration: {error!r}.") from error


def falling(means: Sequence[float] | npt.NDArray[Any], weights: Any) -> list[float]:
    """Return the nearest values that never rise (pool adjacent violators).

    References
    ----------
    Ayer, Brunk, Ewing, Reid, Silverman: An Empirical Distribution Function for Sampling with
    Incomplete Information. Annals of Mathematical Statistics 26, 1955.

    Examples
    --------
    >>> falling([3.0, 1.0, 2.0], [1, 1, 1])
    [3.0, 1.5, 1.5]
    """
    blocks: list[list[float]] = []  # mean, weight, how many
    for mean, weight in zip(means, weights, strict=True):
        blocks.append([float(mean), float(weight), 1])
        while len(blocks) > 1 and blocks[-2][0] < blocks[-1][0]:
            last, before = blocks.pop(), blocks.pop()
            both = before[1] + last[1]
            mixed = (before[0] * before[1] + last[0] * last[1]) / both
            blocks.append([mixed, both, before[2] + last[2]])
    return [mean for mean, _, n in blocks for _ in range(int(n))]
