"""Which columns are what: a label or a score is not guessed at, nor is a role made up."""

import json

import pyarrow as pa
import pytest

from lancedb_ft.data import read_training_file, read_training_set
from lancedb_ft.data.training.roles import JUDGING, Columns, find_roles, unread_columns
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import KINDS


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def rows_with(column, values):
    return [{"query": f"q{i}", "document": f"d{i}", column: v} for i, v in enumerate(values)]


JUDGED = {
    "is_relevant": [0, 1],
    "relevant": [False, True],
    "labels": [0, 1],
    "target": [0, 1],
    "class": [0, 1],
    "clicked": [0, 1],
    "Score": [0.1, 1.0],
    "scores": [0.1, 1.0],
    "label_text": ["no", "yes"],
    "is_duplicate": [0, 1],
    "Is Duplicate": [0, 1],
    "is-match": [1, 1],
    # By what stands in them.
    "good": [True, False],
    "verified": [True, True],
    "annotator_3": [0.0, 1.0],
    "confidence": [0, 0.5],
}


@pytest.mark.parametrize("column", JUDGED)
def test_rows_that_may_be_judged_wrong_are_not_guessed_to_be_pairs(column, tmp_path, db):
    rows = rows_with(column, JUDGED[column])
    path = lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(InputError, match=rf"column {column!r} beside 'query' and 'document'"):
        read_training_file(path)
    table = db.create_table("t", pa.Table.from_pylist(rows))
    with pytest.raises(InputError, match=f"column {column!r}"):
        read_training_set(table)
    # Who says what the data are is believed.
    assert read_training_file(path, kind="pairs").kind == "pairs"
    roles = {"anchor": "query", "positive": "document"}
    assert read_training_file(path, columns=roles).kind == "pairs"
    assert read_training_set(table, "pairs").source["unread_columns"] == [column]


def test_judgements_in_text_files_are_seen(tmp_path):
    (tmp_path / "x.csv").write_text("question,answer,ok\na,b,True\nc,d,false\n")
    (tmp_path / "y.csv").write_text("question,answer,worth\na,b,0.25\nc,d,1\n")
    for name in ("x.csv", "y.csv"):
        with pytest.raises(InputError, match="would be trained as right"):
            read_training_file(tmp_path / name)


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("price", [9.5, 0.5]),
        ("price", [0.25, 0.5]),
        ("views", [0, 1]),
        ("year", [2023, 2024]),
        ("created_at", [0.0, 1.0]),
        ("chunk_index", [0, 0]),
        ("chunk_index", [0, 1]),
        ("chunk_index", [0.0, 1.0]),
        ("temperature", [0.5, 0.5]),
        ("temperature", [0.5, float("nan")]),
        ("topic", ["a", "b"]),
        ("vector", [[0.5, 0.1], [0.0, 1.0]]),
        ("note", [None, None]),
    ],
)
def test_columns_that_judge_nothing_are_left_out(column, values, tmp_path, db):
    rows = rows_with(column, values)
    assert read_training_file(lines(tmp_path / "x.jsonl", rows)).kind == "pairs"
    if values[0] is not None:
        assert read_training_set(db.create_table("t", pa.Table.from_pylist(rows))).kind == "pairs"


def test_quora_pairs_are_refused_and_read_as_scored(tmp_path):
    rows = [{"sentence1": f"a{i}", "sentence2": f"b{i}", "is_duplicate": i % 2} for i in range(10)]
    path = lines(tmp_path / "x.jsonl", rows)
    with pytest.raises(InputError, match="'is_duplicate' beside 'sentence1' and 'sentence2'"):
        read_training_file(path)
    made = read_training_file(path, columns={"score": "is_duplicate"})
    assert (made.kind, made.table["score"].to_pylist()[:2]) == ("scored", [0.0, 1.0])


@pytest.mark.parametrize("negative", ["c", ["c", "d"]])
def test_examples_with_negatives_have_no_place_for_a_judgement_either(negative, tmp_path):
    row = {"query": "a", "positive": "b", "negative": negative}
    kind = "triplets" if isinstance(negative, str) else "negatives"
    path = lines(tmp_path / "x.jsonl", [{**row, "is_correct": 0}])
    with pytest.raises(InputError, match=f"or '{kind}' if every row is right"):
        read_training_file(path)
    assert read_training_file(path, kind=kind).kind == kind
    # A list beside a list of negatives holds their scores.
    if kind == "negatives":
        path = lines(tmp_path / "y.jsonl", [{**row, "scores": [0.5, 0.25]}])
        assert read_training_file(path).kind == kind


def test_what_every_kind_keeps_is_no_judgement():
    for kind in ("pairs", "triplets", "negatives"):
        names = [*KINDS[kind].columns, *KINDS[kind].optional]
        columns = Columns(names, lists=["negatives", "negative_ids", "negative_scores"])
        assert find_roles(columns, source="x")[0] == kind
        assert not JUDGING & set(names)
    assert {name for name in JUDGING if name != name.lower()} == set()


# --- roles that the caller names -----------------------------------------------------------


def test_a_role_that_no_kind_has_is_refused(tmp_path):
    path = lines(tmp_path / "x.jsonl", [{"anchor": "a", "positive": "b", "subject": "s"}])
    with pytest.raises(InputError, match=r"has the roles 'anchr'.*pairs: anchor, positive, query_"):
        read_training_file(path, columns={"anchr": "subject"})
    with pytest.raises(InputError, match="the roles 'anchor', 'premise' together"):
        read_training_file(path, columns={"anchor": "subject", "premise": "anchor"})


def test_a_kind_without_the_role_is_not_what_the_data_are(tmp_path):
    row = {"query": "q", "positive": "p", "negatives": ["n"], "subject": "s"}
    path = lines(tmp_path / "x.jsonl", [row])
    assert read_training_file(path).kind == "negatives"
    made = read_training_file(path, columns={"anchor": "subject"})
    assert (made.kind, made.table["anchor"].to_pylist()) == ("pairs", ["s"])
    with pytest.raises(InputError, match=r"no kind .*labelled: text, label"):
        read_training_file(path, columns={"text": "subject"})
    made = read_training_file(path, columns={"anchor": "query", **ONE})
    assert (made.kind, made.negative_columns) == ("triplets", ["negative_1", "negative_2"])


ONE = {"negative_1": "positive", "positive": "subject", "negative_2": "query"}


def test_two_columns_of_one_name_are_refused(tmp_path):
    columns = Columns(["anchor", "positive", "anchor", "x", "x"])
    with pytest.raises(InputError, match="several columns 'anchor'"):
        find_roles(columns, source="File 'x'")
    columns = Columns(["anchor", "positive", "x", "x", "split"])
    _, roles = find_roles(columns, source="File 'x'")
    assert unread_columns(columns, roles) == ["x", "x"]


def test_columns_of_a_file_that_are_not_read_are_told(tmp_path):
    given = rows_with("source_url", ["a", "b", "c"])
    found = read_training_file(lines(tmp_path / "x.jsonl", given))
    assert found.source["unread_columns"] == ["source_url"]
    del given[0]["source_url"], given[1]["source_url"], given[2]["source_url"]
    assert "unread_columns" not in read_training_file(lines(tmp_path / "y.jsonl", given)).source


@pytest.mark.parametrize("label", ["1.0", 1.0, "1", 1, "neutral"])
def test_a_label_of_inference_in_any_spelling(tmp_path, label):
    row = {"premise": "dogs run", "hypothesis": "animals move", "label": label}
    assert read_training_file(lines(tmp_path / "x.jsonl", [row])).table["label"].to_pylist() == [1]
