"""Training data of every kind in LanceDB tables, at a version that is recorded."""

import pyarrow as pa
import pytest

from lancedb_ft.data import read_qrels, read_ranking, read_training_set, write_training_table
from lancedb_ft.data.training.tables import check_table_name
from lancedb_ft.errors import BadRowsError, ColumnNotFoundError, FilterError, InputError
from lancedb_ft.training_sets import KINDS, TrainingSet
from tests.data.training_data import SMALL, small

#: For each kind: a value that is no good, and the reason that is counted for it.
BAD = {
    "pairs": ("positive", None, "no positive"),
    "triplets": ("negative_2", " ", "blank negative_2"),
    "scored": ("score", 7.5, "score is not from 0 to 1"),
    "nli": ("label", -1, "label is -1 (the annotators did not agree)"),
    "ranking": ("grade", -2, "grade is not a whole number of 0 or more"),
    "negatives": ("negatives", [], "no negatives"),
    "labelled": ("text", "\n", "blank text"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_read_and_its_bad_rows_are_counted(kind, db):
    column, value, reason = BAD[kind]
    rows = pa.table(SMALL[kind]).to_pylist()
    table = db.create_table("t", pa.Table.from_pylist([*rows, {**rows[0], column: value}]))
    with pytest.raises(BadRowsError) as caught:
        read_training_set(table, kind, score_range=(0, 1) if kind == "scored" else None)
    assert caught.value.reasons == {reason: 1}
    assert str(caught.value).startswith("Table 't': 1 of ")
    found = read_training_set(
        table, kind, max_rejected=0.5, score_range=(0, 1) if kind == "scored" else None
    )
    assert found.table.equals(small(kind).table)
    assert found.source["rejected"] == {reason: 1}
    assert found.source["n_rows"] == len(rows) + 1
    assert found.source["kind"] == kind
    assert found.source["database"] == str(db.uri)
    assert found.source["tables"] == {"rows": {"name": "t", "version": 1}}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_column_is_named_with_those_there_are(kind, db):
    for column in set(KINDS[kind].columns) - {"query_id", "doc_id"}:
        table = db.create_table("t", pa.table({"x": ["a"]}), mode="overwrite")
        with pytest.raises(ColumnNotFoundError, match="its columns are 'x'"):
            read_training_set(table, kind)
        columns = {name: v for name, v in SMALL[kind].items() if name != column}
        if columns:
            table = db.create_table("t", pa.table({**columns}), mode="overwrite")
            with pytest.raises(ColumnNotFoundError, match=column.removesuffix("_1")):
                read_training_set(table, kind)


def test_a_version_is_pinned(db):
    table = db.create_table("t", pa.table({"question": ["a"], "answer": ["b"]}))
    table.add([{"question": "c", "answer": "d"}])
    now, before = read_training_set(table), read_training_set(table, version=1)
    assert (len(now), now.source["tables"]["rows"]["version"]) == (2, 2)
    assert (len(before), before.source["tables"]["rows"]["version"]) == (1, 1)
    with pytest.raises(InputError, match="no version 9"):
        read_training_set(table, version=9)


def test_columns_filter_and_limit(db):
    columns = {"subject": list("abcd"), "reply": list("efgh"), "ok": [1, 1, 0, 1]}
    table = db.create_table("t", pa.table(columns))
    roles = {"anchor": "subject", "positive": "reply"}
    found = read_training_set(table, "pairs", columns=roles, where="ok = 1", limit=2)
    assert found.table["anchor"].to_pylist() == ["a", "b"]
    assert (found.source["where"], found.source["columns"]) == ("ok = 1", roles)
    with pytest.raises(FilterError):
        read_training_set(table, "pairs", columns=roles, where="ok =")
    with pytest.raises(BadRowsError, match="0 of 0 rows rejected"):
        read_training_set(table, "pairs", columns=roles, where="ok = 7")
    with pytest.raises(InputError, match="no type of training data 'couples'"):
        read_training_set(table, "couples")


def test_rows_of_one_part_are_told_by_their_column(db):
    columns = {"question": list("abc"), "answer": list("def"), "split": ["train", "test", "train"]}
    table = db.create_table("t", pa.table(columns))
    assert len(read_training_set(table)) == 3
    found = read_training_set(table, split="train")
    assert (len(found), found.source["other_parts"]) == (2, {"test": 1})
    with pytest.raises(InputError, match="no part 'dev'"):
        read_training_set(table, split="dev")


def test_labels_are_texts_or_whole_numbers(db):
    table = db.create_table("t", pa.table({"text": list("abc"), "label": [0, 7, 0]}))
    assert read_training_set(table).table["label"].to_pylist() == ["0", "7", "0"]
    table = db.create_table("u", pa.table({"text": ["a"], "label": [0.5]}))
    with pytest.raises(BadRowsError, match="label is not text"):
        read_training_set(table)
    names = ["Entailment", "neutral", "contradiction"]
    columns = {"premise": list("abc"), "hypothesis": list("def"), "label": names}
    table = db.create_table("v", pa.table(columns))
    assert read_training_set(table).table["label"].to_pylist() == [0, 1, 2]


def test_what_a_label_says_is_not_guessed(db):
    columns = {"query": ["a", "a"], "passage": ["right", "wrong"], "score": [1.0, 0.0]}
    table = db.create_table("t", pa.table(columns))
    with pytest.raises(InputError, match=r"'score' beside 'query' and 'passage'.*every row is"):
        read_training_set(table)
    assert read_training_set(table, "ranking").table["grade"].to_pylist() == [1, 0]
    columns = {"sentence1": ["a", "a"], "sentence2": ["b", "c"]}
    table = db.create_table("u", pa.table(columns | {"label": ["neutral", "entailment"]}))
    assert read_training_set(table).kind == "nli"
    assert read_training_set(table, where="sentence2 = 'b'", limit=1).kind == "nli"


def test_lists_that_belong_together_are_equally_long(db):
    rows = SMALL["negatives"] | {"negative_scores": [[1.0], [2.0]]}
    table = db.create_table("t", pa.table(rows))
    with pytest.raises(BadRowsError, match="1 x negatives and negative_scores are not equally"):
        read_training_set(table)


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_we_wrote_is_read_back_with_its_prompts(kind, db):
    made = TrainingSet(kind, small(kind).table, query_prompt="query: ", document_prompt="doc: ")
    table = write_training_table(made, db, "t")
    found = read_training_set(table)
    assert (found.kind, found.fingerprint) == (kind, made.fingerprint)
    with pytest.raises(InputError, match="has a table 't'"):
        write_training_table(made, db, "t")
    assert write_training_table(made, db, "t", mode="overwrite").count_rows() == len(made)


# --- three tables --------------------------------------------------------------------------


@pytest.fixture
def judged(db):
    docs = db.create_table("docs", [{"id": f"d{n}", "text": f"Body {n}."} for n in range(4)])
    queries = [{"id": "q1", "text": "one", "split": "train"}]
    queries += [{"id": "q2", "text": "two", "split": "test"}]
    qrels = [("q1", "d0", 2), ("q1", "d1", 0), ("q2", "d2", 1), ("q1", "d9", 1), ("q1", "d0", 1)]
    rows = [{"query_id": q, "doc_id": d, "score": s} for q, d, s in qrels]
    return docs, db.create_table("queries", queries), db.create_table("qrels", rows)


def test_ranking_keeps_grades_and_judged_misses(judged):
    found = read_ranking(*judged, max_rejected=0.5)
    assert [(r["query_id"], r["doc_id"], r["grade"]) for r in found.table.to_pylist()] == [
        ("q1", "d0", 2),
        ("q1", "d1", 0),
        ("q2", "d2", 1),
    ]
    assert found.source["kind"] == "ranking"
    assert found.source["rejected"] == {"no document of this id": 1}
    assert found.source["skipped"] == {"repeated pair (the highest grade kept)": 1}
    assert set(found.source["tables"]) == {"docs", "queries", "qrels"}
    with pytest.raises(BadRowsError):
        read_ranking(*judged)


def test_ranking_in_one_table_needs_no_ids(db):
    columns = {"query": ["a", "A", "b"], "document": ["x", "y", "x"], "grade": [2, 0, 1]}
    found = read_training_set(db.create_table("t", pa.table(columns)))
    assert found.kind == "ranking"
    query_ids, doc_ids = (found.table[name].to_pylist() for name in ("query_id", "doc_id"))
    assert query_ids[0] == query_ids[1] != query_ids[2]
    assert doc_ids[0] == doc_ids[2] != doc_ids[1]


def test_ranking_of_one_part(judged):
    found = read_ranking(*judged, split="test")
    assert found.table["query_id"].to_pylist() == ["q2"]
    pairs = read_qrels(*judged, max_rejected=0.5)
    assert 0 not in pairs.table["grade"].to_pylist(), "pairs have no judged misses, as before"


@pytest.mark.parametrize("name", ["bad name", "", "..", "a/b", "é"])
def test_a_name_that_no_table_can_have_is_told(name, db):
    with pytest.raises(InputError, match=r"No table can be named .* letters from a to z"):
        write_training_table(small("pairs"), db, name)
    with pytest.raises(ValueError, match="Invalid table name"):
        db.create_table(name, small("pairs").table)
    check_table_name("support_train-2.0")


def test_a_scale_without_an_end_is_refused(db):
    table = db.create_table("t", small("scored").table)
    for score_range in ((0, float("inf")), (float("nan"), 1), (1, 1)):
        with pytest.raises(InputError, match="two finite numbers"):
            read_training_set(table, score_range=score_range)


def test_columns_that_are_not_read_are_recorded(db):
    table = db.create_table("t", small("negatives").table)
    assert read_training_set(table).source["unread_columns"] == []
    unread = read_training_set(table, "pairs").source["unread_columns"]
    assert unread == ["negatives", "positive_score", "negative_scores"]
