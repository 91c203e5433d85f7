"""The nouns refuse what could only fail later."""

import pyarrow as pa
import pytest

from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.evaluate import METRICS
from lancedb_ft.types import DEFAULT_METRICS, METRIC_KINDS, Gate, Pairs, Requirement, Split

ROWS = [("q1", "how?", "d1", "so."), ("q1", "how?", "d2", "or so."), ("q2", "why?", "d1", "so.")]


def test_pairs_give_queries_corpus_and_qrels():
    pairs = Pairs.of(ROWS, database="kb")
    assert len(pairs) == 3
    assert pairs.queries == {"q1": "how?", "q2": "why?"}
    assert pairs.corpus == {"d1": "so.", "d2": "or so."}
    assert pairs.qrels == {"q1": {"d1": 1, "d2": 1}, "q2": {"d1": 1}}
    assert pairs.source["database"] == "kb"
    assert repr(pairs) == "Pairs(n=3, queries=2)"


def test_no_pairs_are_pairs():
    assert len(Pairs.of([])) == 0


@pytest.mark.parametrize("blank", [None, "", "  "])
@pytest.mark.parametrize("column", range(4))
def test_blank_texts_are_refused(blank, column):
    row = list(ROWS[0])
    row[column] = blank
    with pytest.raises(InputError, match="1 of 1 pairs have no"):
        Pairs.of([tuple(row)])


def test_a_missing_column_is_named():
    with pytest.raises(ColumnNotFoundError, match="'doc_id'"):
        Pairs(pa.table({"query_id": ["a"], "query": ["b"], "document": ["c"]}))


def test_a_wrong_type_is_named():
    table = pa.table({"query_id": [1], "query": ["b"], "doc_id": ["c"], "document": ["d"]})
    with pytest.raises(ColumnNotFoundError, match="int64"):
        Pairs(table)


def test_a_grade_below_one_is_refused():
    table = Pairs.of(ROWS).table.set_column(4, "grade", pa.array([1, 0, 1]))
    with pytest.raises(InputError, match="1 or higher"):
        Pairs(table)


def test_the_fingerprint_is_that_of_the_content():
    same = Pairs.of(ROWS, database="elsewhere").fingerprint
    assert Pairs.of(ROWS).fingerprint == same
    assert Pairs.of(ROWS[:2]).fingerprint != same
    moved = [("q1", "how", "?d1", "so."), *ROWS[1:]]
    assert Pairs.of(moved).fingerprint != same


@pytest.mark.parametrize(
    ("text", "value", "base", "holds"),
    [
        ("ndcg@10 >= base", 0.5, 0.5, True),
        ("ndcg@10 > base", 0.5, 0.5, False),
        ("recall@100 >= base - 0.01", 0.495, 0.5, True),
        ("recall@100 >= base + 0.01", 0.505, 0.5, False),
        ("mrr@10 >= 1.1 * base", 0.54, 0.5, False),
        ("hit@5 <= 0.3", 0.3, None, True),
        ("  map@100 >= .2 ", 0.2, None, True),
        ("f1@5 >= base", 0.5, 0.5, True),
        ("latency_p95 <= 1.2 * base", 11.9, 10.0, True),
        ("latency_p99 <= 1.2 * base + 5", 17.1, 10.0, False),
        ("latency_p50 < 50", 49.9, None, True),
    ],
)
def test_requirements(text, value, base, holds):
    assert Requirement.parse(text).holds(value, base=base) is holds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a requirement"),
        ("ndcg@10", "is not a requirement"),
        ("ndcg@10 == base", "is not a requirement"),
        ("ndcg@10 >= tuned", "is not a requirement"),
        (">= base", "is not a requirement"),
        ("ndcg@10 >= base * base", "is not a requirement"),
        ("latency_p95 <= 20ms", "is not a requirement"),
        (0.5, "is not a requirement"),
        ("ndgc@10 >= base", "'ndgc@10' is not a metric"),
        ("latency_p90 <= 5", "'latency_p90' is not a metric.*latency_p95"),
        ("latency_p95@10 <= 5", "is not a metric"),
        ("ndcg >= base", "needs a cutoff.*'ndcg@10'"),
        ("recall@0 >= base", "needs a cutoff"),
    ],
)
def test_other_requirements_are_refused(text, message):
    with pytest.raises(InputError, match=message):
        Requirement.parse(text)


def test_the_kinds_of_metrics_are_those_that_can_be_measured():
    assert METRIC_KINDS == METRICS


def test_a_gate_asks_as_deep_as_it_must():
    pairs = Pairs.of(ROWS)
    assert Gate(pairs).depth == 100
    assert Gate(pairs).metrics == DEFAULT_METRICS
    reads = Gate(pairs, require=["ndcg@10 >= base", "hit@20 >= base"], reranker="r@1")
    assert (reads.depth, "recall@100" in reads.metrics) == (20, False)
    assert Gate(pairs, require="latency_p95 <= 5", reranker="r@1").depth == 10
    assert Gate(pairs, require="recall@200 >= base").depth == 200
    assert Gate(pairs, k=50).depth == 50
    split = Split(train=Pairs.of([]), dev=Pairs.of([]), test=pairs)
    assert Gate(split).test is pairs


def test_a_gate_refuses_what_it_could_never_judge():
    pairs = Pairs.of(ROWS)
    with pytest.raises(InputError, match="test pairs"):
        Gate(Pairs.of([]))
    with pytest.raises(InputError, match="mode"):
        Gate(pairs, mode="magic")
    with pytest.raises(InputError, match="at least one"):
        Gate(pairs, require=[])
    for nothing in (None, 5):
        with pytest.raises(InputError, match="is not a requirement"):
            Gate(pairs, require=nothing)
    with pytest.raises(InputError, match="needs the figure"):
        Gate(pairs).requirements[0].bound(None)
    with pytest.raises(InputError, match="Pairs or a Split, and got dict"):
        Gate({"q": "d"})
    with pytest.raises(InputError, match="test pairs, and got none"):
        Gate(Split(train=pairs, dev=pairs, test=Pairs.of([])))
    with pytest.raises(InputError, match="k is 10, and the requirements look at 100"):
        Gate(pairs, require="recall@100 >= base", k=10)
