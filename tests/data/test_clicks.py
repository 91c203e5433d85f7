"""Click logs: what counts as an answer, what is counted, and that the rest of the tools take it."""

import gzip
import json

import lancedb
import pyarrow as pa
import pyarrow.parquet
import pytest

from lancedb_ft.data import load_clicks, read_qrels_split, read_training_file
from lancedb_ft.errors import (
    BadRowsError,
    ColumnNotFoundError,
    InputError,
    TableNotFoundError,
)


@pytest.fixture
def db(tmp_path):
    db = lancedb.connect(tmp_path / "kb")
    db.create_table(
        "docs", [{"id": f"d{n}", "text": f"Document {n} on topic {n}."} for n in range(40)]
    )
    return db


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def tables(db):
    queries = {r["id"]: r for r in db.open_table("docs_queries").to_arrow().to_pylist()}
    judged = db.open_table("docs_qrels").to_arrow().to_pylist()
    return {(queries[r["query_id"]]["text"], r["doc_id"]): r["clicks"] for r in judged}, queries


ROWS = [
    *[{"query": "How do I cancel?", "doc_id": "d1"}] * 3,
    {"query": "how do i  CANCEL?", "doc_id": "d1"},
    {"query": "how do i cancel?", "doc_id": "d2"},
    *[{"query": "refund", "doc_id": "d3"}] * 2,
]


def test_each_row_is_a_click_and_spellings_of_a_query_are_one(db, tmp_path):
    report = load_clicks(db, written(tmp_path / "log.jsonl", ROWS))
    pairs, queries = tables(db)
    assert pairs == {
        ("How do I cancel?", "d1"): 4,
        ("How do I cancel?", "d2"): 1,
        ("refund", "d3"): 2,
    }
    assert {q["text"]: q["clicks"] for q in queries.values()} == {
        "How do I cancel?": 5,
        "refund": 2,
    }
    assert report.tables == {"docs_qrels": 3, "docs_queries": 2}
    assert (report.files[0].role, report.files[0].n_loaded) == ("clicks", 7)
    scores = db.open_table("docs_qrels").to_arrow()["score"]
    assert (scores.type, set(scores.to_pylist())) == (pa.int32(), {1})


@pytest.mark.parametrize(
    ("options", "kept", "left_out"),
    [
        (
            {"min_clicks": 2},
            {("How do I cancel?", "d1"), ("refund", "d3")},
            "pairs of fewer than 2 clicks",
        ),
        (
            {"min_share": 0.25},
            {("How do I cancel?", "d1"), ("refund", "d3")},
            "pairs of less than 0.25 of their query's clicks",
        ),
    ],
)
def test_what_was_clicked_too_seldom_is_left_out_and_counted(db, tmp_path, options, kept, left_out):
    report = load_clicks(db, written(tmp_path / "log.jsonl", ROWS), **options)
    pairs, queries = tables(db)
    assert set(pairs) == kept
    assert report.files[0].left_out == {left_out: 1}
    assert f"left out 1 x {left_out}" in str(report)
    assert {q["text"]: q["clicks"] for q in queries.values()} == {
        "How do I cancel?": 4,
        "refund": 2,
    }


@pytest.mark.parametrize(
    ("column", "values", "clicks"),
    [
        ("clicks", [3, 0, 2], {"d1": 3, "d3": 2}),
        ("count", ["3", "0", "2.0"], {"d1": 3, "d3": 2}),
        ("is_clicked", ["true", "False", "yes"], {"d1": 1, "d3": 1}),
        ("clicked", [True, False, True], {"d1": 1, "d3": 1}),
    ],
)
def test_a_column_says_how_often_or_whether(db, tmp_path, column, values, clicks):
    rows = [{"query": f"query {n}", "doc_id": f"d{n}", column: v} for n, v in enumerate(values, 1)]
    report = load_clicks(db, written(tmp_path / "log.jsonl", rows))
    assert {doc_id: n for (_, doc_id), n in tables(db)[0].items()} == clicks
    assert report.files[0].left_out == {"shown, not clicked": 1}


def test_logs_in_files_of_each_format_and_in_tables_give_the_same(db, tmp_path):
    rows = [{"query": f"query {n % 9}", "doc_id": f"d{n % 20}", "clicks": n} for n in range(1, 60)]
    made = []
    lines = "query\tdoc_id\tclicks\n" + "".join(
        f"{r['query']}\t{r['doc_id']}\t{r['clicks']}\n" for r in rows
    )
    (tmp_path / "log.tsv.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "log.csv").write_text(lines.replace("\t", ","))
    pa.parquet.write_table(pa.Table.from_pylist(rows), tmp_path / "log.parquet")
    logs = [
        written(tmp_path / "log.jsonl", rows),
        *map(tmp_path.joinpath, ("log.tsv.gz", "log.csv")),
    ]
    logs += [tmp_path / "log.parquet", db.create_table("clicks", rows)]
    for log in logs:
        load_clicks(db, log, mode="overwrite")
        made.append(tables(db)[0])
    assert all(each == made[0] for each in made)
    assert sum(made[0].values()) == sum(r["clicks"] for r in rows)


def test_the_same_call_goes_on_after_a_kill_and_another_is_refused(db, tmp_path):
    log = written(tmp_path / "log.jsonl", ROWS)
    load_clicks(db, log)
    db.drop_table("docs_queries")  # as if killed between the two
    assert load_clicks(db, log).resumed == ("docs_qrels",)
    for options in ({}, {"min_clicks": 2}):
        with pytest.raises(InputError, match="'docs_qrels', 'docs_queries' already"):
            load_clicks(db, log, **options)


def test_what_is_loaded_is_what_training_and_the_gate_read(db, tmp_path):
    rows = [{"query": f"what is topic {n}", "doc_id": f"d{n}"} for n in range(40)]
    load_clicks(db, written(tmp_path / "log.jsonl", rows))
    docs, queries, qrels = (db.open_table(n) for n in ("docs", "docs_queries", "docs_qrels"))
    split = read_qrels_split(docs, queries, qrels)
    assert sum(map(len, split.parts().values())) == 40
    assert split.train.corpus.keys() <= {f"d{n}" for n in range(40)}


@pytest.mark.parametrize(
    ("rows", "options", "error", "told"),
    [
        (
            [{"q": "a", "page": "d1"}],
            {},
            InputError,
            r"'page', and none of them is known for the doc_id",
        ),
        (
            [{"text": "a", "doc_id": "d1"}],
            {},
            InputError,
            r"known for the query: query, search_query",
        ),
        (ROWS, {"query": "words"}, ColumnNotFoundError, "'words'"),
        (ROWS, {"table": "pages"}, TableNotFoundError, "'pages'"),
        (
            ROWS,
            {"min_clicks": 9},
            InputError,
            r"no pair is left \(3 x pairs of fewer than 9 clicks",
        ),
        (ROWS, {"min_clicks": 0}, InputError, "whole number, 1 or more"),
        (ROWS, {"min_share": 2}, InputError, "share, 0 to 1"),
        (ROWS, {"mode": "append"}, InputError, "'create' or 'overwrite'"),
        ([{"query": "a", "doc_id": "x"}], {}, BadRowsError, "1 x no document of this id"),
        (
            [{"query": " ", "doc_id": "d1"}, *ROWS],
            {"max_rejected": 0},
            BadRowsError,
            r"no query \(line 1\)",
        ),
        (
            [{"query": "a", "doc_id": None}, *ROWS],
            {"max_rejected": 0},
            BadRowsError,
            "no document id",
        ),
        (
            [{"query": "a", "doc_id": "d1", "clicks": -1}],
            {},
            BadRowsError,
            "whole number of 0 or more, nor yes or no",
        ),
        ([], {}, BadRowsError, "no rows"),
    ],
)
def test_mistakes_write_nothing(db, tmp_path, rows, options, error, told):
    with pytest.raises(error, match=told):
        load_clicks(db, written(tmp_path / "log.jsonl", rows), **options)
    assert set(db.list_tables().tables) == {"docs"}


def test_a_log_is_not_replaced_by_what_is_made_of_it(db):
    log = db.create_table("docs_queries", [{**row, "user": "u1"} for row in ROWS])
    for mode in ("create", "overwrite"):
        with pytest.raises(InputError, match="Give the log another name"):
            load_clicks(db, log, mode=mode)
    other = db.create_table("log", ROWS)
    with pytest.raises(InputError, match="'docs_queries' was not made by a load"):
        load_clicks(db, other, mode="overwrite")
    assert db.open_table("docs_queries").count_rows() == len(ROWS)


def test_a_column_of_clicks_that_begins_late_is_no_log_of_clicks(db, tmp_path):
    rows = [{"query": f"query {n}", "doc_id": "d1"} for n in range(110)]
    rows += [{"query": "seen", "doc_id": "d2", "clicks": 0}]
    with pytest.raises(InputError, match="column 'clicks' from line 111 on"):
        load_clicks(db, written(tmp_path / "log.jsonl", rows))


def test_a_query_of_several_lines_or_half_an_emoji_is_a_bad_row(db, tmp_path):
    lines = [f"query {n}\td{n}\n" for n in range(40)]
    lines[10], lines[14] = '"new york hotels\td10\n', 'cheap flights"\td14\n'
    (tmp_path / "log.tsv").write_text("query\tdoc_id\n" + "".join(lines))
    report = load_clicks(db, tmp_path / "log.tsv")
    assert report.files[0].rejected == {"query of several lines (a stray quote before it?)": 1}
    rows = [{"query": "party \ud83d", "doc_id": "d1"}, *ROWS]
    report = load_clicks(
        db, written(tmp_path / "log.jsonl", rows), mode="overwrite", max_rejected=0.5
    )
    assert report.files[0].rejected == {"query is not valid Unicode": 1}


def test_a_share_that_is_just_reached_is_enough(db, tmp_path):
    rows = [{"query": "a", "doc_id": f"d{n}", "clicks": n} for n in (7, 1)]
    rows[1]["clicks"] = 93
    load_clicks(db, written(tmp_path / "log.jsonl", rows), min_share=0.07)
    assert {doc_id for _, doc_id in tables(db)[0]} == {"d1", "d7"}


def test_a_missing_and_a_torn_file(db, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_clicks(db, tmp_path / "nowhere.csv")
    (tmp_path / "log.jsonl").write_text('{"query": "a", "doc_id": "d1"}\n{"query": "b", "do')
    with pytest.raises(InputError, match="ends in the middle of line 2"):
        load_clicks(db, tmp_path / "log.jsonl")


def test_whole_numbers_as_ids_and_columns_that_are_named(tmp_path):
    db = lancedb.connect(tmp_path / "kb")
    db.create_table("faq", [{"key": n, "text": f"Text {n}"} for n in range(5)])
    rows = [{"words": "a", "hit": 3}, {"words": "b", "hit": "4"}]
    load_clicks(
        db,
        written(tmp_path / "log.jsonl", rows),
        table="faq",
        query="words",
        doc_id="hit",
        id_column="key",
    )
    assert db.open_table("faq_qrels").to_arrow()["doc_id"].to_pylist() == ["3", "4"]


def test_training_data_of_ids_name_what_reads_them(tmp_path):
    with pytest.raises(InputError, match="lancedb-ft load-clicks"):
        read_training_file(written(tmp_path / "log.jsonl", ROWS))


def test_the_command_line(run, db, tmp_path):
    log = written(tmp_path / "log.jsonl", ROWS)
    words = ("load-clicks", "--db", tmp_path / "kb", "--log", log)
    code, told, err = run(*words, "--min-clicks", "2", "--json")
    assert code == 0, err
    found = json.loads(told)
    assert found["tables"] == {"docs_qrels": 2, "docs_queries": 2}
    assert found["files"][0]["left_out"] == {"pairs of fewer than 2 clicks": 1}
    assert run(*words)[0] == 2  # they exist
    db.create_table("log", ROWS)
    code, told, _ = run(*words[:-1], "table:log", "--overwrite")
    assert (code, "table docs_qrels: 3 rows" in told) == (0, True)
