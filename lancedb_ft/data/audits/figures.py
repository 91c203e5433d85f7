"""The figures of an audit: how long the texts are, how labels and scores are spread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lancedb_ft.data.audits.view import Side, View
from lancedb_ft.data.texts import normalise

if TYPE_CHECKING:
    from lancedb_ft.encoder import Encoder

__all__ = ["LabelFigures", "Lengths", "ScoreFigures", "SetFigures", "SideFigures", "set_figures"]

_QUANTILES = (0.05, 0.5, 0.95)
#: Texts of fewer words say too little to be told from others.
SHORT_WORDS = {"query": 2, "text": 2}
_SHORT_OTHERS = 3
_SCORE_BINS = 10


@dataclass(frozen=True)
class Lengths:
    """How long texts are.

    Parameters
    ----------
    mean
        Of all texts.
    quantiles
        ``{"p5", "p50", "p95", "max"}``.
    histogram
        ``(shortest, longest, number of texts)`` a bin; each bin is twice as wide as the one before.
    """

    mean: float
    quantiles: Mapping[str, int]
    histogram: tuple[tuple[int, int, int], ...]

    @classmethod
    def of(cls, lengths: npt.NDArray[np.int64]) -> Lengths:
        """Describe lengths.

        Examples
        --------
        >>> Lengths.of(np.array([1, 2, 2, 7])).histogram
        ((1, 1, 1), (2, 3, 2), (4, 7, 1))
        """
        if not len(lengths):
            return cls(0.0, {}, ())
        quantiles = {f"p{q * 100:.0f}": int(np.quantile(lengths, q)) for q in _QUANTILES}
        quantiles["max"] = int(lengths.max())
        # 0 and 1 in one bin: 0 is a text without a word, such as Chinese without spaces never is.
        bins = np.floor(np.log2(np.maximum(lengths, 1))).astype(np.int64)
        counts = np.bincount(bins)
        histogram = tuple(
            (2**b, 2 ** (b + 1) - 1, int(counts[b])) for b in range(int(bins.min()), len(counts))
        )
        return cls(round(float(lengths.mean()), 1), quantiles, histogram)


@dataclass(frozen=True)
class SideFigures:
    """The texts of one role.

    Parameters
    ----------
    n_texts
        Texts, each as often as it stands there.
    n_distinct
        Texts that differ by more than case and white space.
    n_short
        Texts of fewer than 2 words (queries and labelled texts) or 3 (all others).
    words, tokens
        Their lengths; ``tokens`` only with a model, cut at its own limit.
    n_cut
        How many have more tokens than fit, and so are cut; None without a model.
    """

    n_texts: int
    n_distinct: int
    n_short: int
    words: Lengths
    tokens: Lengths | None = None
    n_cut: int | None = None

    @property
    def cut_share(self) -> float | None:
        """Share of the texts that are cut; None without a model."""
        return None if self.n_cut is None else self.n_cut / max(1, self.n_texts)


@dataclass(frozen=True)
class LabelFigures:
    """How the labels are spread.

    Parameters
    ----------
    counts
        Rows by label, the most frequent first.
    largest_share
        Share of the most frequent label.
    n_effective
        ``exp(entropy)`` of the shares: how many equally frequent labels would be as diverse.
    n_single
        Labels of one row: no pair can be made of them.
    """

    counts: Mapping[str, int]
    largest_share: float
    n_effective: float
    n_single: int

    @classmethod
    def of(cls, labels: Sequence[str]) -> LabelFigures:
        """Describe labels.

        Examples
        --------
        >>> found = LabelFigures.of(["a", "a", "b", "b"])
        >>> found.largest_share, found.n_effective
        (0.5, 2.0)
        """
        counts = Counter(labels)
        shares = np.array(list(counts.values()), np.float64) / max(1, len(labels))
        entropy = float(-(shares * np.log(shares)).sum()) if len(shares) else 0.0
        return cls(
            counts=dict(counts.most_common()),
            largest_share=round(float(shares.max(initial=0.0)), 4),
            n_effective=round(float(np.exp(entropy)), 2) if counts else 0.0,
            n_single=sum(n == 1 for n in counts.values()),
        )


@dataclass(frozen=True)
class ScoreFigures:
    """How the scores are spread over 0 to 1; ``histogram`` counts ten equal bins."""

    mean: float
    std: float
    histogram: tuple[int, ...]

    @classmethod
    def of(cls, scores: npt.NDArray[np.float64]) -> ScoreFigures:
        """Describe scores."""
        counts, _ = np.histogram(scores, bins=_SCORE_BINS, range=(0.0, 1.0))
        if not len(scores):
            return cls(0.0, 0.0, tuple(int(n) for n in counts))
        return cls(
            round(float(scores.mean()), 4),
            round(float(scores.std()), 4),
            tuple(int(n) for n in counts),
        )


@dataclass(frozen=True)
class SetFigures:
    """What one set, or one part of a split, holds.

    Parameters
    ----------
    kind
        The type of data.
    n_rows
        Rows.
    sides
        Figures of the texts by role: ``query``, ``document``, ``negative``, ``sentence1`` and so
        on.
    labels, scores
        How the values are spread; None where the type has none.
    """

    kind: str
    n_rows: int
    sides: Mapping[str, SideFigures]
    labels: LabelFigures | None = None
    scores: ScoreFigures | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object, without what this type of data does not have."""
        found = {key: value for key, value in asdict(self).items() if value is not None}
        for name, side in self.sides.items():
            found["sides"][name]["cut_share"] = side.cut_share
        return found


def set_figures(
    view: View, *, encoder: Encoder | None = None, max_tokens: int | None = None
) -> SetFigures:
    """Measure a set.

    Parameters
    ----------
    view
        The set.
    encoder
        Counts tokens.
    max_tokens
        Longer texts are cut; never more than the model's own limit.
    """
    sides = {side.name: _side_figures(side, encoder, max_tokens) for side in view.sides}
    return SetFigures(
        kind=view.kind,
        n_rows=view.n_rows,
        sides=sides,
        labels=None if view.labels is None else LabelFigures.of(view.labels),
        scores=None if view.scores is None else ScoreFigures.of(view.scores),
    )


def _side_figures(side: Side, encoder: Encoder | None, max_tokens: int | None) -> SideFigures:
    words = np.array([len(text.split()) for text in side.texts], np.int64)
    tokens = None
    if encoder is not None:
        tokens = encoder.token_counts(side.texts, kind="query" if side.is_query else "document")
    return SideFigures(
        n_texts=len(side.texts),
        n_distinct=len({normalise(text) for text in side.texts}),
        n_short=int((words < SHORT_WORDS.get(side.name, _SHORT_OTHERS)).sum()),
        words=Lengths.of(words),
        tokens=None if tokens is None else Lengths.of(tokens),
        n_cut=None if tokens is None else _n_cut(tokens, encoder, max_tokens),
    )


def _n_cut(
    tokens: npt.NDArray[np.int64], encoder: Encoder | None, max_tokens: int | None
) -> int | None:
    own = encoder.max_tokens if encoder is not None else None
    if max_tokens is not None and (own is None or max_tokens < own):
        return int((tokens > max_tokens).sum())
    # The encoder counts what it reads, so a longer text has as many tokens as the limit: texts
    # that fit to the token count as cut here.
    return 0 if own is None else int((tokens >= own).sum())
