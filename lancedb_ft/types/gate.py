"""`Gate`: what must hold before a table is switched, as conditions on metrics."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lancedb_ft.errors import InputError
from lancedb_ft.types.figures import DEFAULT_METRICS
from lancedb_ft.types.pairs import Pairs, Split
from lancedb_ft.types.retrieval import Mode

__all__ = ["LATENCIES", "METRIC_KINDS", "Gate", "Requirement"]

#: The kinds of ranking metrics, each with a cutoff: ``ndcg@10``. See `lancedb_ft.evaluate.metrics`.
METRIC_KINDS = ("ndcg", "mrr", "map", "recall", "precision", "f1", "hit")

#: What a gate can ask of the time a query takes, in milliseconds: percentiles over queries.
LATENCIES = ("latency_p50", "latency_p95", "latency_p99")

_REQUIREMENT = re.compile(
    r"^\s*(?P<metric>[a-z_]\w*(?:@\d+)?)\s*(?P<op>>=|<=|>|<)\s*"
    r"(?:(?P<factor>\d*\.?\d+)\s*\*\s*)?(?P<ref>base|\d*\.?\d+)"
    r"\s*(?:(?P<sign>[+-])\s*(?P<offset>\d*\.?\d+))?\s*$"
)
_OPERATORS: dict[str, Callable[[float, float], bool]] = {
    ">=": lambda a, b: a >= b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    "<": lambda a, b: a < b,
}


@dataclass(frozen=True)
class Requirement:
    """One condition of a gate, such as ``ndcg@10 >= base - 0.01``.

    It is a condition on means (for a latency, on a percentile): the report has the intervals
    beside them, and a margin is said with an offset or a factor.

    Examples
    --------
    >>> Requirement.parse("recall@100 >= base - 0.01").holds(0.90, base=0.905)
    True
    >>> Requirement.parse("ndcg@10 > 0.5").needs_base
    False
    >>> Requirement.parse("latency_p95 <= 1.2 * base").bound(10.0)
    12.0
    """

    text: str
    metric: str
    op: str
    factor: float
    reference: float | None
    offset: float

    @classmethod
    def parse(cls, text: str) -> Requirement:
        """Read ``METRIC OP [FACTOR *] (base | NUMBER) [+- NUMBER]``.

        A metric is a kind of `METRIC_KINDS` with a cutoff, or one of `LATENCIES` (milliseconds).

        Raises
        ------
        InputError
            The text is not of that form, or names no such metric.
        """
        match = _REQUIREMENT.match(text) if isinstance(text, str) else None
        if match is None:
            raise InputError(
                f"{text!r} is not a requirement. Write METRIC, then >=, <=, > or <, then a number "
                "or base, which may have a factor and an offset: 'ndcg@10 >= base', "
                "'recall@100 >= base - 0.01', 'ndcg@10 >= 0.5', 'latency_p95 <= 1.2 * base'."
            )
        _check_metric(match["metric"], text)
        sign = -1.0 if match["sign"] == "-" else 1.0
        return cls(
            text=text.strip(),
            metric=match["metric"],
            op=match["op"],
            factor=float(match["factor"] or 1.0),
            reference=None if match["ref"] == "base" else float(match["ref"]),
            offset=sign * float(match["offset"] or 0.0),
        )

    @property
    def needs_base(self) -> bool:
        """Whether the right side names the present model."""
        return self.reference is None

    @property
    def cutoff(self) -> int | None:
        """How many documents the metric looks at; None for a latency."""
        return int(self.metric.split("@")[1]) if "@" in self.metric else None

    def bound(self, base: float | None) -> float:
        """Return the right side as a number."""
        reference = base if self.reference is None else self.reference
        if reference is None:
            raise InputError(f"{self.text!r} needs the figure of the present model.")
        return self.factor * reference + self.offset

    def holds(self, value: float, *, base: float | None = None) -> bool:
        """Say whether ``value`` meets the condition."""
        return _OPERATORS[self.op](value, self.bound(base))


def _check_metric(name: str, text: str) -> None:
    kind, at, cutoff = name.partition("@")
    if name in LATENCIES or (kind in METRIC_KINDS and at and int(cutoff)):
        return
    if kind in METRIC_KINDS:
        raise InputError(
            f"{text!r}: {name!r} needs a cutoff from 1, the documents it looks at: '{kind}@10'."
        )
    raise InputError(
        f"{text!r}: {name!r} is not a metric. Known are {', '.join(METRIC_KINDS)}, each with a "
        f"cutoff such as ndcg@10, and {', '.join(LATENCIES)} in milliseconds."
    )


@dataclass(frozen=True)
class Gate:
    """What the new vectors must reach on the real table before a switch.

    Both columns answer the same queries through their real indexes and the reranker that will
    serve: a better embedder can make a reranked pipeline worse, so the pair that will run is what
    is measured.

    Parameters
    ----------
    pairs
        Test pairs that training never saw, or a `Split`, whose test part is used.
    require
        One or several conditions on metrics, see `Requirement`.
    mode
        The search that will serve, and so is measured: ``vector``, ``fts`` or ``hybrid``.
    reranker
        The reranker that will serve: any ``lancedb.rerankers.Reranker``, or a reference to one of
        the store (``support-reranker@1``).
    k
        Documents asked for, as ``limit(k)`` in LanceDB, and so also what a reranker gets to read of
        each leg. By default as deep as the reported metrics look (with a reranker: the required
        ones), and 10 where a latency is measured.

    Raises
    ------
    InputError
        A requirement cannot be read, looks deeper than ``k``, or there are no test pairs.

    Examples
    --------
    >>> pairs = Pairs.of([("q1", "how to cancel?", "d1", "Cancel in the settings.")])
    >>> Gate(pairs, require=["ndcg@10 >= base", "latency_p95 <= 1.2 * base"]).depth
    100
    """

    pairs: Pairs | Split
    require: str | Sequence[str] = "ndcg@10 >= base"
    mode: Mode = "vector"
    reranker: Any = None
    k: int | None = None

    def __post_init__(self) -> None:
        """Reject what could never be evaluated."""
        if not isinstance(self.pairs, (Pairs, Split)):
            raise InputError(
                f"A gate needs test pairs: Pairs or a Split, and got {type(self.pairs).__name__}."
            )
        if not len(self.test):
            raise InputError("A gate needs test pairs, and got none.")
        if self.mode not in ("vector", "fts", "hybrid"):
            raise InputError(f"mode is {self.mode!r}; it must be 'vector', 'fts' or 'hybrid'.")
        if not self.requirements:
            raise InputError("A gate needs at least one requirement, such as 'ndcg@10 >= base'.")
        deepest = max((r.cutoff or 1 for r in self.requirements), default=1)
        if self.k is not None and self.k < deepest:
            raise InputError(
                f"k is {self.k}, and the requirements look at {deepest} documents. Raise k, or "
                "lower the cutoff."
            )

    @property
    def test(self) -> Pairs:
        """The pairs that are asked."""
        return self.pairs.test if isinstance(self.pairs, Split) else self.pairs

    @property
    def requirements(self) -> tuple[Requirement, ...]:
        """The conditions, parsed."""
        several = isinstance(self.require, Iterable) and not isinstance(self.require, str)
        texts: list[Any] = list(self.require) if several else [self.require]
        return tuple(Requirement.parse(text) for text in texts)

    @property
    def depth(self) -> int:
        """How many documents are asked for when quality is measured."""
        if self.k is not None:
            return self.k
        cutoffs = [r.cutoff for r in self.requirements if r.cutoff is not None]
        if self.reranker is None:
            cutoffs += [int(metric.split("@")[1]) for metric in DEFAULT_METRICS]
        return max(cutoffs, default=10)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The ranking metrics that are measured: the required ones and the usual ones in reach."""
        required = [r.metric for r in self.requirements if r.cutoff is not None]
        usual = [m for m in DEFAULT_METRICS if int(m.split("@")[1]) <= self.depth]
        return tuple(dict.fromkeys([*usual, *required]))
