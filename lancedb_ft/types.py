"""The nouns: frozen, validated values that the verbs pass to one another."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import ColumnNotFoundError, InputError

__all__ = [
    "DEFAULT_METRICS",
    "LATENCIES",
    "METRIC_KINDS",
    "Comparison",
    "Delta",
    "Estimate",
    "Evaluation",
    "Gate",
    "Mode",
    "ModelVersion",
    "Pairs",
    "Progress",
    "Qrels",
    "Requirement",
    "Retriever",
    "Run",
    "Split",
    "hash_rows",
    "take_rows",
]

#: What a search looks at.
Mode: TypeAlias = Literal["vector", "fts", "hybrid"]

#: The metrics of every report, in the order they are shown.
DEFAULT_METRICS = ("ndcg@10", "mrr@10", "recall@100", "hit@5", "hit@10")

#: ``{query_id: {doc_id: score}}``, higher is better (the shape of ranx and TREC run files).
Run: TypeAlias = Mapping[str, Mapping[str, float]]

#: ``{query_id: {doc_id: grade}}``, grade > 0 means relevant (the shape of TREC qrels).
Qrels: TypeAlias = Mapping[str, Mapping[str, int]]


@runtime_checkable
class Retriever(Protocol):
    """Anything that answers queries with ranked document ids."""

    def __call__(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the best ``k`` documents for each query; a query may have fewer, or none."""
        ...


class Progress(Protocol):
    """Called as ``progress(done, total)`` during long work; ``total`` may be None."""

    def __call__(self, done: int, total: int | None, /) -> None:
        """Report that ``done`` of ``total`` units are finished."""
        ...


# --- training and test data ----------------------------------------------------------------


def hash_rows(table: pa.Table, *, salt: str = "") -> str:
    """Return the SHA-256 of all rows in order, whatever the order of the columns."""
    digest = hashlib.sha256(salt.encode())
    for name in sorted(table.column_names):
        digest.update(f"\x1e{name}\x1d".encode())
        for value in table[name].to_pylist():
            digest.update(str(value).encode("utf-8", "surrogatepass") + b"\x1f")
    return digest.hexdigest()


def take_rows(table: pa.Table, indices: Any) -> pa.Table:
    """Return the rows at these positions (an int array or a boolean mask as Arrow array)."""
    is_mask = isinstance(indices, (pa.Array, pa.ChunkedArray)) and pa.types.is_boolean(indices.type)
    return table.filter(indices) if is_mask else table.take(indices)


@dataclass(frozen=True)
class Pairs:
    """Queries, each with a document that answers it.

    Parameters
    ----------
    table
        Arrow table with the string columns ``query_id``, ``query``, ``doc_id``, ``document``, an
        int column ``grade`` (relevance, > 0; 1 everywhere if absent) and, optionally, a string
        column ``negative`` (a document text that does not answer the query).
    source
        Where the pairs come from (database, tables, Lance versions), kept in the lineage.

    Raises
    ------
    ColumnNotFoundError
        A column is missing or not text.
    InputError
        A text is null or blank.

    Examples
    --------
    >>> pairs = Pairs.of([("q1", "how to cancel?", "d1", "Cancel in the settings.")])
    >>> len(pairs), pairs.qrels
    (1, {'q1': {'d1': 1}})
    """

    table: pa.Table
    source: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Check the columns, give them one type and one order."""
        texts = ["query_id", "query", "doc_id", "document"]
        if "negative" in self.table.column_names:
            texts.append("negative")
        columns: dict[str, Any] = {}
        for name in texts:
            if name not in self.table.column_names:
                raise ColumnNotFoundError(
                    name, table="pairs", available=self.table.column_names, expected="text"
                )
            column = self.table[name]
            if pa.types.is_dictionary(column.type):
                column = pc.cast(column, column.type.value_type)
            if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
                raise ColumnNotFoundError(
                    name,
                    table="pairs",
                    available=self.table.column_names,
                    expected=f"text, found {column.type}",
                )
            blank = pc.fill_null(pc.equal(pc.utf8_trim_whitespace(column), ""), True)
            if n_blank := pc.sum(blank).as_py():
                raise InputError(f"{n_blank} of {len(column)} pairs have no {name}.")
            columns[name] = column.cast(pa.string())
        if "grade" in self.table.column_names:
            grade = self.table["grade"].cast(pa.int32())
        else:
            grade = pa.chunked_array([pa.array([1] * self.table.num_rows, pa.int32())])
        if self.table.num_rows and (grade.null_count or pc.min(grade).as_py() < 1):
            raise InputError("The grade of a pair must be 1 or higher.")
        columns["grade"] = grade
        object.__setattr__(self, "table", pa.table(columns))

    @classmethod
    def of(cls, rows: Sequence[tuple[str, str, str, str]], **source: Any) -> Pairs:
        """Make pairs from ``(query_id, query, doc_id, document)`` rows."""
        names = ["query_id", "query", "doc_id", "document"]
        columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
        arrays = [pa.array(column, pa.string()) for column in columns]
        return cls(pa.table(arrays, names=names), source)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return int(self.table.num_rows)

    @property
    def queries(self) -> dict[str, str]:
        """``{query_id: text}``, each query once, in the order of the pairs."""
        return dict(
            zip(
                self.table["query_id"].to_pylist(),
                self.table["query"].to_pylist(),
                strict=True,
            )
        )

    @property
    def corpus(self) -> dict[str, str]:
        """``{doc_id: text}`` of the documents that stand in the pairs."""
        return dict(
            zip(
                self.table["doc_id"].to_pylist(),
                self.table["document"].to_pylist(),
                strict=True,
            )
        )

    @property
    def qrels(self) -> dict[str, dict[str, int]]:
        """``{query_id: {doc_id: grade}}``; of a pair given twice the higher grade counts."""
        qrels: dict[str, dict[str, int]] = {}
        for row in self.table.select(["query_id", "doc_id", "grade"]).to_pylist():
            grades = qrels.setdefault(row["query_id"], {})
            grades[row["doc_id"]] = max(row["grade"], grades.get(row["doc_id"], 0))
        return qrels

    @property
    def fingerprint(self) -> str:
        """SHA-256 over all rows in order: the same pairs have the same fingerprint anywhere."""
        return hash_rows(self.table)

    def take(self, indices: Any) -> Pairs:
        """Return the pairs at these positions (an int array or a boolean mask as Arrow array)."""
        return Pairs(take_rows(self.table, indices), self.source)

    def __repr__(self) -> str:
        """Say how many, not what."""
        return f"Pairs(n={len(self)}, queries={len(set(self.table['query_id'].to_pylist()))})"


@dataclass(frozen=True)
class Split:
    """Pairs in three parts; no document and no query stands in two of them.

    ``info`` says how it was made (seed, shares, groups) and is kept in the lineage.
    """

    train: Pairs
    dev: Pairs
    test: Pairs
    info: Mapping[str, Any] = field(default_factory=dict)

    def parts(self) -> dict[str, Pairs]:
        """``{"train": ..., "dev": ..., "test": ...}``."""
        return {"train": self.train, "dev": self.dev, "test": self.test}


# --- figures -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Estimate:
    """A mean over ``n`` queries with its 95 % bootstrap interval."""

    mean: float
    ci95: tuple[float, float]
    n: int

    def to_dict(self) -> dict[str, Any]:
        """``{"mean", "ci95"}``, the shape of the reports."""
        return {"mean": self.mean, "ci95": list(self.ci95)}

    def __str__(self) -> str:
        """``0.743 [0.718, 0.767]``."""
        return f"{self.mean:.3f} [{self.ci95[0]:.3f}, {self.ci95[1]:.3f}]"


@dataclass(frozen=True)
class Delta(Estimate):
    """A mean paired difference with its interval and the two-sided bootstrap p-value."""

    p: float = 1.0

    def to_dict(self) -> dict[str, Any]:
        """``{"mean", "ci95", "p"}``."""
        return {**super().to_dict(), "p": self.p}

    def __str__(self) -> str:
        """``+0.094 [+0.075, +0.113] p=0.000``."""
        return f"{self.mean:+.3f} [{self.ci95[0]:+.3f}, {self.ci95[1]:+.3f}] p={self.p:.3f}"


@dataclass(frozen=True)
class Evaluation:
    """Figures of one retriever on one query set.

    ``per_query`` holds ``{metric: {query_id: value}}``: what a paired comparison needs.
    """

    name: str
    n: int
    metrics: Mapping[str, Estimate]
    per_query: Mapping[str, Mapping[str, float]] = field(default_factory=dict, repr=False)
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """``{metric: {"mean", "ci95"}}``."""
        return {metric: estimate.to_dict() for metric, estimate in self.metrics.items()}


@dataclass(frozen=True)
class Comparison:
    """Two evaluations on the same queries, and the paired differences ``tuned - base``."""

    base: Evaluation
    tuned: Evaluation
    delta: Mapping[str, Delta]

    @property
    def n(self) -> int:
        """Number of queries that both answered."""
        return self.base.n

    def to_dict(self) -> dict[str, Any]:
        """``{"n", "base", "tuned", "delta"}``."""
        return {
            "n": self.n,
            "base": self.base.to_dict(),
            "tuned": self.tuned.to_dict(),
            "delta": {metric: delta.to_dict() for metric, delta in self.delta.items()},
        }


# --- models --------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelVersion:
    """A saved, immutable model: ``name@version`` in the store at ``store``.

    ``path`` is the local folder with the weights (for an object store: the local copy).
    """

    name: str
    version: int
    store: str
    path: str
    fingerprint: str
    dims: int
    manifest: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def ref(self) -> str:
        """``name@version``."""
        return f"{self.name}@{self.version}"

    @property
    def kind(self) -> str:
        """``embedder``, or ``cross-encoder`` for a reranker, whose ``dims`` are 0."""
        return str(self.manifest.get("kind", "embedder"))

    @property
    def document_fingerprint(self) -> str:
        """The fingerprint without a query adapter: the same one, the same vectors of documents."""
        return str(self.manifest.get("document_fingerprint", self.fingerprint))

    def __str__(self) -> str:
        """``name@version``."""
        return self.ref


# --- the gate ------------------------------------------------------------------------------

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
