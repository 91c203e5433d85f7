"""Fusion: one ranking out of two legs, from their ranks, their scores, or both."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pyarrow as pa

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.errors import InputError

__all__ = [
    "FUSIONS",
    "RRF_K",
    "Fusion",
    "LegHits",
    "fused_hits",
    "reciprocal_rank_fusion",
    "relative_scores",
]

#: The constant of reciprocal rank fusion. 60 is what the paper found near-optimal, and it is what
#: LanceDB uses; the choice is not critical.
RRF_K = 60

#: Scores are served as float32, and none is higher than the sum of the weights.
_MAX_SCORE = float.fromhex("0x1.fffffep127")


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[int]], *, rrf_k: int = RRF_K
) -> list[tuple[int, float]]:
    """Fuse rankings: the score of an id is the sum of ``1 / (rrf_k + rank)`` over the rankings.

    Parameters
    ----------
    rankings
        Ids, best first, no id twice in one ranking.
    rrf_k
        Higher values make the first ranks count less against the later ones.

    Returns
    -------
    list of (id, score)
        Best first; the same scores in ascending order of the id, so that the same rankings always
        give the same answer. Scores lie in ``(0, len(rankings) / (rrf_k + 1)]``.

    References
    ----------
    Cormack, Clarke, Büttcher: Reciprocal Rank Fusion outperforms Condorcet and individual Rank
    Learning Methods. SIGIR 2009.

    Examples
    --------
    >>> [row_id for row_id, _ in reciprocal_rank_fusion([[7, 8, 9], [9, 7, 5]])]
    [7, 9, 8, 5]
    """
    # Plain dicts: for two rankings of 50 this takes 20 µs, less than np.unique alone.
    scores: dict[int, float] = {}
    for ranking in rankings:
        for rank, row_id in enumerate(ranking, rrf_k + 1):
            scores[row_id] = scores.get(row_id, 0.0) + 1.0 / rank
    return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


class LegHits(NamedTuple):
    """What one leg found, best first: the ids, and scores of which higher is better."""

    ids: Sequence[Any]
    scores: Sequence[float]


@dataclass(frozen=True)
class Fusion:
    """How the two legs of a hybrid query become one ranking: four weights.

    The score of a row is ``rank weight / (rrf_k + rank) + score weight * relative score``, summed
    over the legs that found it. The relative score is the leg's own score scaled to 0..1 over what
    the leg found for this query: 1 for its best row, 0 for its last (and 1 for all where they are
    equal). The named ways to fuse are choices of the weights: `rrf`, `weighted`, `relative`;
    `lancedb_ft.fit_fusion` learns them. Scores compare rows of one query, not two queries.

    Parameters
    ----------
    vector_rank, text_rank
        Weights of ``1 / (rrf_k + rank)`` in the leg of vectors and of full text, 0 or more.
    vector_score, text_score
        Weights of the relative score in each leg, 0 or more.
    rrf_k
        See `reciprocal_rank_fusion`.
    candidates
        How many rows each leg brings where the query does not say: relative scores depend on it.

    Raises
    ------
    InputError
        A weight is negative, one or their sum is not finite as float32, all are 0, or another
        number is below 1.

    Examples
    --------
    >>> vector, text = LegHits([7, 8, 9], [0.9, 0.5, 0.1]), LegHits([9, 7, 5], [12.0, 3.0, 2.0])
    >>> [row for row, _ in Fusion.rrf().fuse(vector, text)]
    [7, 9, 8, 5]
    >>> [(row, round(score, 2)) for row, score in Fusion.relative(vector=0.4).fuse(vector, text)]
    [(9, 0.6), (7, 0.46), (8, 0.2), (5, 0.0)]
    """

    vector_rank: float = 1.0
    text_rank: float = 1.0
    vector_score: float = 0.0
    text_score: float = 0.0
    rrf_k: int = RRF_K
    candidates: int | None = None

    def __post_init__(self) -> None:
        """Check the weights."""
        if not all(_is_weight(weight) for weight in self.weights) or not any(self.weights):
            raise InputError(
                f"The weights of a fusion are {self.weights}; they must be finite numbers, 0 or "
                "more, and not all 0."
            )
        if sum(self.weights) > _MAX_SCORE:
            raise InputError(
                f"The weights of a fusion are {self.weights!s:.200}; their sum must be finite, "
                f"{_MAX_SCORE:.2g} at most. Divide all by the same number: that changes no ranking."
            )
        for name in ("rrf_k", "candidates"):
            value = getattr(self, name)
            if value is not None or name != "candidates":
                check_whole(name, value, least=1)

    @classmethod
    def rrf(cls, *, rrf_k: int = RRF_K) -> Fusion:
        """Fuse by reciprocal rank, both legs alike: what a hybrid query does by itself."""
        return cls(rrf_k=rrf_k)

    @classmethod
    def weighted(cls, *, vector: float = 0.5, rrf_k: int = RRF_K) -> Fusion:
        """Fuse by reciprocal rank, ``vector`` (0..1) of the weight on the leg of vectors."""
        share = _share(vector)
        return cls(vector_rank=share, text_rank=1.0 - share, rrf_k=rrf_k)

    @classmethod
    def relative(cls, *, vector: float = 0.5) -> Fusion:
        """Fuse by relative scores, ``vector`` (0..1) of the weight on the leg of vectors.

        What Weaviate calls relativeScoreFusion, with ``vector`` for its alpha.
        """
        share = _share(vector)
        return cls(vector_rank=0, text_rank=0, vector_score=share, text_score=1.0 - share)

    @property
    def weights(self) -> tuple[float, float, float, float]:
        """The four weights: vector rank, text rank, vector score, text score."""
        return self.vector_rank, self.text_rank, self.vector_score, self.text_score

    def with_candidates(self, candidates: int | None) -> Fusion:
        """Return the same fusion of legs of another length."""
        return replace(self, candidates=candidates)

    def __str__(self) -> str:
        """Name it for a trace: ``rrf``, or the four weights."""
        if self.weights == (1.0, 1.0, 0.0, 0.0):
            return "rrf"
        return "weights " + " ".join(f"{weight:.3g}" for weight in self.weights)

    def fuse(self, vector: LegHits, text: LegHits) -> list[tuple[Any, float]]:
        """Fuse two legs.

        Returns
        -------
        list of (id, score)
            Best first; the same scores in ascending order of the id. What any leg found is in it,
            whatever the weights.
        """
        scores: dict[Any, float] = {}
        legs = (
            (vector, self.vector_rank, self.vector_score),
            (text, self.text_rank, self.text_score),
        )
        for leg, by_rank, by_score in legs:
            relative = relative_scores(leg.scores) if by_score else [0.0] * len(leg.ids)
            for rank, (row_id, score) in enumerate(
                zip(leg.ids, relative, strict=True), self.rrf_k + 1
            ):
                scores[row_id] = scores.get(row_id, 0.0) + by_rank / rank + by_score * score
        return sorted(scores.items(), key=lambda item: (-item[1], item[0]))


def relative_scores(scores: Sequence[float]) -> list[float]:
    """Scale scores, best first, to 0..1; equal ones, or a single one, become 1."""
    if not len(scores):
        return []
    best, last = max(scores), min(scores)
    spread = best - last
    if not spread > 0 or not math.isfinite(spread):
        return [1.0] * len(scores)
    return [(score - last) / spread for score in scores]


def fused_hits(fusion: Any, vector_hits: pa.Table, text_hits: pa.Table) -> list[tuple[int, float]]:
    """Fuse the hits of the legs: tables of ``_rowid`` with ``_distance`` or ``_score``.

    ``fusion`` is a `Fusion`, or None for reciprocal rank fusion, which is the faster then.
    """
    by_vector, by_text = vector_hits["_rowid"].to_pylist(), text_hits["_rowid"].to_pylist()
    if not isinstance(fusion, Fusion):
        return reciprocal_rank_fusion([by_vector, by_text])
    nearness = [-distance for distance in vector_hits["_distance"].to_pylist()]
    return fusion.fuse(
        LegHits(by_vector, nearness), LegHits(by_text, text_hits["_score"].to_pylist())
    )


def _is_weight(value: Any) -> bool:
    # Compared, not converted: of a whole number that is no float, isfinite raises.
    return is_number(value) and 0 <= value <= sys.float_info.max


def _share(vector: float) -> float:
    if not _is_weight(vector) or vector > 1:
        raise InputError(f"vector is {vector!r}; the share of a leg must be from 0 to 1.")
    return float(vector)


#: The fusions that a query can name. ``learned`` is not among them: it stands with the model.
FUSIONS = {"rrf": Fusion.rrf(), "weighted": Fusion.weighted(), "relative": Fusion.relative()}
