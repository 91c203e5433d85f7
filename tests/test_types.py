"""The nouns refuse what could only fail later."""

import pyarrow as pa
import pytest

from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.types import Gate, Pairs, Requirement

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
        ("  map >= .2 ", 0.2, None, True),
    ],
)
def test_requirements(text, value, base, holds):
    assert Requirement.parse(text).holds(value, base=base) is holds


@pytest.mark.parametrize("text", ["", "ndcg@10", "ndcg@10 == base", "ndcg@10 >= tuned", ">= base"])
def test_other_requirements_are_refused(text):
    with pytest.raises(InputError, match="is not a requirement"):
        Requirement.parse(text)


def test_a_gate_refuses_what_it_could_never_judge():
    pairs = Pairs.of(ROWS)
    with pytest.raises(InputError, match="test pairs"):
        Gate(Pairs.of([]))
    with pytest.raises(InputError, match="mode"):
        Gate(pairs, mode="magic")
    with pytest.raises(InputError, match="at least one"):
        Gate(pairs, require=[])
    with pytest.raises(InputError, match="needs the figure"):
        Gate(pairs).requirements[0].bound(None)
