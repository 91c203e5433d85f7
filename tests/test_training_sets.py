"""`TrainingSet` accepts what each type is, and says what is wrong with anything else."""

import pyarrow as pa
import pytest

from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.training_sets import KINDS, TrainingSet, require_kind, require_score_range
from lancedb_ft.types import Pairs

GOOD = {
    "pairs": {"anchor": ["a"], "positive": ["p"]},
    "triplets": {"anchor": ["a"], "positive": ["p"], "negative_1": ["n"]},
    "scored": {"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]},
    "nli": {"premise": ["a"], "hypothesis": ["b"], "label": [2]},
    "ranking": {
        "query_id": ["q"],
        "query": ["a"],
        "doc_id": ["d"],
        "document": ["b"],
        "grade": [0],
    },
    "negatives": {"query": ["a"], "positive": ["p"], "negatives": [["x", "y"]]},
    "labelled": {"text": ["a"], "label": ["b"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_takes_its_columns_and_drops_others(kind):
    made = TrainingSet(kind, pa.table({**GOOD[kind], "other": ["x"]}))
    assert len(made) == 1
    assert set(made.table.column_names) == set(GOOD[kind])
    assert made.fingerprint == TrainingSet(kind, pa.table(GOOD[kind])).fingerprint


@pytest.mark.parametrize("kind", KINDS)
def test_each_type_names_the_column_it_lacks(kind):
    for column in KINDS[kind].columns:
        table = pa.table({n: v for n, v in GOOD[kind].items() if n != column} or {"x": [1]})
        with pytest.raises(ColumnNotFoundError, match=column):
            TrainingSet(kind, table)


@pytest.mark.parametrize(
    ("kind", "column", "values", "told"),
    [
        ("scored", "score", [4.5], "from 0 to 1"),
        ("scored", "score", [float("nan")], "from 0 to 1"),
        ("scored", "score", ["high"], "found string"),
        ("scored", "sentence1", [" "], "blank"),
        ("nli", "label", [3], "contradiction"),
        ("nli", "label", ["entailment"], "found string"),
        ("ranking", "grade", [-1], "0 or higher"),
        ("pairs", "anchor", pa.array([None], pa.string()), "no anchor"),
        ("negatives", "negatives", [["x", ""]], "blank"),
        ("negatives", "negatives", ["x"], "found string"),
        ("negatives", "negative_scores", [[0.5]], "as many entries"),
        ("negatives", "negative_scores", [[0.5, float("nan")]], "1 of 2 entries have a negative_s"),
        ("negatives", "positive_score", [float("inf")], "1 of 1 rows .* not a finite number"),
    ],
)
def test_bad_values_are_told(kind, column, values, told):
    with pytest.raises((InputError, ColumnNotFoundError), match=told):
        TrainingSet(kind, pa.table({**GOOD[kind], column: values}))


def test_further_negatives_are_kept_in_their_order():
    columns = {**GOOD["triplets"], "negative_10": ["ten"], "negative_2": ["two"]}
    made = TrainingSet("triplets", pa.table(columns))
    assert made.negative_columns == ["negative_1", "negative_2", "negative_10"]


def test_loss_and_prompts_are_part_of_the_fingerprint():
    table = pa.table(GOOD["pairs"])
    plain = TrainingSet("pairs", table)
    assert TrainingSet("pairs", table, loss="cosine").fingerprint != plain.fingerprint
    assert TrainingSet("pairs", table, query_prompt="q: ").fingerprint != plain.fingerprint


def test_pairs_become_a_training_set():
    pairs = Pairs.of([("q1", "how?", "d1", "so.")], database="kb")
    made = TrainingSet.of_pairs(pairs)
    assert (made.kind, made.source) == ("pairs", {"database": "kb"})
    assert made.table["query_id"].to_pylist() == ["q1"]
    more = Pairs(pairs.table.append_column("negative", pa.array(["not so."])))
    assert TrainingSet.of_pairs(more).negative_columns == ["negative_1"]


def test_an_unknown_type_lists_those_there_are():
    with pytest.raises(InputError, match="labelled"):
        require_kind("quadruplets")


def test_two_columns_of_one_name_are_told():
    arrays = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    table = pa.Table.from_arrays(arrays, names=["anchor", "positive", "anchor"])
    with pytest.raises(InputError, match="has 2 columns 'anchor'"):
        TrainingSet("pairs", table)
    other = pa.Table.from_arrays([*arrays, arrays[0]], names=["anchor", "positive", "x", "x"])
    assert len(TrainingSet("pairs", other)) == 1


def test_a_scale_has_two_ends():
    require_score_range(None)
    require_score_range((1, 5))
    for ends in ((0, float("inf")), (float("-inf"), 0), (5, 1), (float("nan"), 1)):
        with pytest.raises(InputError, match="two finite numbers such as"):
            require_score_range(ends)
