"""Files become tables; bad rows become a report, and too many of them an error."""

import csv
import gzip
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import lance
import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lancedb_ft.data import load_files
from lancedb_ft.data.records import clean_judgement
from lancedb_ft.errors import BadRowsError, InputError, TableNotFoundError

SETS = Path(__file__).parents[3] / "shared" / "data"


def jsonl(path, rows):
    text = "".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(text)
    return path


def beir(folder, n=30, suffix=""):
    docs = [
        {"_id": f"d{i}", "title": f"T{i}", "text": f"Text {i}", "metadata": {}} for i in range(n)
    ]
    queries = [{"_id": f"q{i}", "text": f"Query {i}", "year": 1990 + i} for i in range(n)]
    jsonl(folder / f"corpus.jsonl{suffix}", docs)
    jsonl(folder / f"queries.jsonl{suffix}", queries)
    (folder / "qrels").mkdir()
    for part, start, end in (("train", 0, 20), ("test", 20, 30)):
        lines = [f"q{i}\td{i}\t{1 + i % 2}\n" for i in range(start, end)]
        path = folder / "qrels" / f"{part}.tsv"
        path.write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    return folder


def rows(db, name):
    return db.open_table(name).to_arrow().to_pylist()


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_a_beir_folder(db, tmp_path, suffix):
    report = load_files(db, beir=beir(tmp_path / "set", suffix=suffix))
    assert report.tables == {"docs": 30, "docs_queries": 30, "docs_qrels": 30}
    assert rows(db, "docs")[3] == {"id": "d3", "title": "T3", "text": "Text 3"}
    queries = {row["id"]: row for row in rows(db, "docs_queries")}
    assert queries["q4"] == {"id": "q4", "text": "Query 4", "split": "train", "year": 1994}
    assert queries["q25"]["split"] == "test"
    qrels = {(row["query_id"], row["doc_id"]): row["score"] for row in rows(db, "docs_qrels")}
    assert (qrels["q7", "d7"], qrels["q8", "d8"]) == (2, 1)
    assert report.n_rejected == 0
    assert report.files[0].ignored_fields == {"metadata": 30}
    assert "fields left out: metadata" in str(report)
    assert json.loads(json.dumps(report.to_dict()))["tables"]["docs"] == 30


def test_tables_have_stable_row_ids(db, tmp_path):
    load_files(db, corpus=jsonl(tmp_path / "c.jsonl", [{"id": "a", "text": "b"}]))
    assert lance.dataset(str(db.open_table("docs").uri)).has_stable_row_ids


def test_trec_qrels_csv_and_tsv(db, tmp_path):
    with (tmp_path / "docs.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["doc_id", "body", "lang"])
        writer.writerow(["1", 'He said "no",\nthen left.', "en"])
        writer.writerow(["2", "x" * 300_000, ""])
    (tmp_path / "topics.tsv").write_text("\ufeffqid\tquery\n301\tönly one\n", encoding="utf-8")
    (tmp_path / "qrels.txt").write_text("301 0 1 2\n301 0 2 0\n")
    report = load_files(
        db,
        corpus=tmp_path / "docs.csv",
        queries=tmp_path / "topics.tsv",
        qrels=tmp_path / "qrels.txt",
        split="test",
    )
    assert report.n_rejected == 0
    first, second = rows(db, "docs")
    assert first == {"id": "1", "text": 'He said "no",\nthen left.', "lang": "en"}
    assert len(second["text"]) == 300_000
    assert rows(db, "docs_queries") == [{"id": "301", "text": "önly one", "split": "test"}]
    assert [row["score"] for row in rows(db, "docs_qrels")] == [2, 0]
    assert csv.field_size_limit() == 131072


def test_parquet_keeps_types_and_leaves_nested_columns_out(db, tmp_path):
    stamp = pa.array([1_000_000_001, None], pa.timestamp("ns", "UTC"))
    table = pa.table(
        {
            "_id": pa.array([10, 11], pa.int32()),
            "contents": pa.array(["a b", "c"], pa.large_string()),
            "kind": pa.array(["x", "y"]).dictionary_encode(),
            "price": pa.array([1, 2], pa.int16()),
            "seen": stamp,
            "tags": [["a"], []],
        }
    )
    pq.write_table(table, tmp_path / "c.parquet")
    report = load_files(db, corpus=tmp_path / "c.parquet")
    schema = db.open_table("docs").schema
    assert schema.names == ["id", "text", "kind", "price", "seen"]
    assert schema.field("price").type == pa.int16()
    assert rows(db, "docs")[0]["id"] == "10"
    assert list(report.files[0].ignored_fields) == ["tags"]


def test_mixed_columns_become_float_or_text(db, tmp_path):
    path = jsonl(
        tmp_path / "c.jsonl",
        [
            {"id": "a", "text": "t", "n": 1, "m": True, "a.b": 1, "_rowid": 3, "big": 2**70},
            {"id": "b", "text": "t", "n": 2.5, "m": "no"},
            {"id": "c", "text": "t", "late": 1, "title": "only here"},
        ],
    )
    report = load_files(db, corpus=path)
    found = rows(db, "docs")
    assert [row["n"] for row in found] == [1.0, 2.5, None]
    assert [row["m"] for row in found] == ["true", "no", None]
    assert [row["title"] for row in found] == ["", "", "only here"]
    assert found[2]["late"] == 1
    assert found[0]["big"] == str(2**70)
    assert set(report.files[0].ignored_fields) == {"a.b", "_rowid"}


BAD = [
    ('{"id": "x", ', "not JSON"),
    ("[1, 2]", "not a JSON object"),
    ('{"id": null, "text": "a"}', "no id (text or a whole number)"),
    ('{"id": 1.5, "text": "a"}', "no id (text or a whole number)"),
    ('{"id": "y"}', "no text"),
    ('{"id": "y", "text": " "}', "blank text"),
    ('{"id": "y", "text": 5}', "text is not text"),
    ('{"id": "d1", "text": "again"}', "repeated id"),
    ('{"id": "y", "text": "\\ud800"}', "text is not valid Unicode"),
    ("[" * 100_000, "not JSON"),
]


def test_bad_rows_are_counted_with_their_lines(db, tmp_path):
    good = [{"id": f"d{i}", "text": f"t{i}"} for i in range(40)]
    path = jsonl(tmp_path / "c.jsonl", [*good, "", *(line for line, _ in BAD)])
    with path.open("ab") as file:
        file.write(b'{"id": "y", "text": "\xff"}\n')
    with pytest.raises(BadRowsError, match=r"11 of 51 rows rejected: .*not JSON \(lines 42, 51\)"):
        load_files(db, corpus=path)
    assert db.list_tables().tables == []
    report = load_files(db, corpus=path, max_rejected=0.25)
    (file,) = report.files
    reasons = [reason for _, reason in BAD] + ["not UTF-8"]
    assert file.rejected == {reason: reasons.count(reason) for reason in reasons}
    assert file.lines["repeated id"] == (49,)
    assert (file.n_rows, file.n_loaded, report.tables["docs"]) == (51, 40, 40)
    assert "rejected 2 x not JSON (lines 42, 51)" in str(report)


def test_bad_csv_rows_do_not_swallow_their_neighbours(db, tmp_path):
    lines = ["id,text", *(f"{i},t{i}" for i in range(30)), 'x,"a" b', "y,1,2", "z,ok"]
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    with (tmp_path / "c.csv").open("ab") as file:
        file.write(b"u,\xff\xfe\n")
    report = load_files(db, corpus=tmp_path / "c.csv")
    assert sum(report.files[0].rejected.values()) == 3
    assert rows(db, "docs")[-1]["id"] == "z"
    assert report.files[0].rejected["not as many fields as the header"] == 1
    assert report.files[0].lines["not UTF-8"] == (35,)


def test_bad_judgements(db, tmp_path):
    folder = beir(tmp_path / "set")
    more = ["q99 d1 1", "q1 d99 1", "q1 d2 1.5", "q1 d3 -1", "q1 d1 1", "q25 d1 1", "q2 d9 high"]
    with (folder / "qrels" / "train.tsv").open("a") as file:
        file.write("".join(line.replace(" ", "\t") + "\n" for line in [*more, "q1"]))
    report = load_files(db, beir=folder, max_rejected=0.5)
    train = next(file for file in report.files if file.path.endswith("train.tsv"))
    assert train.rejected == {
        "no query of this id": 1,
        "no document of this id": 1,
        "score is not a whole number": 2,
        "score is negative": 1,
        "repeated judgement": 1,
        "query is in test already": 1,
        "not as many fields as the header": 1,
    }
    assert report.tables["docs_qrels"] == 30


@pytest.mark.parametrize("score", [10**400, float("inf")])
def test_a_grade_too_large_to_be_one_is_a_bad_row(score):
    fields = {"query_id": "q", "doc_id": "d", "score": "s"}
    reason, found = clean_judgement({"q": "q1", "d": "d1", "s": score}, fields)
    assert (reason, found) == ("score is not a whole number", None)


def test_blank_texts_with_a_title_name_the_cure(db, tmp_path):
    items = [{"_id": f"d{i}", "title": f"T{i}", "text": ["", "body"][i % 2]} for i in range(10)]
    path = jsonl(tmp_path / "c.jsonl", items)
    with pytest.raises(BadRowsError, match="it has a title: join_title keeps it"):
        load_files(db, corpus=path)
    load_files(db, corpus=path, join_title=True)
    assert [row["text"] for row in rows(db, "docs")[:2]] == ["T0", "T1 body"]


def test_queries_and_judgements_for_a_table_that_exists(db, tmp_path):
    db.create_table("docs", [{"id": 5, "text": "five"}])
    queries = jsonl(tmp_path / "q.jsonl", [{"id": "q", "text": "which?"}])
    (tmp_path / "qrels.tsv").write_text("q\t5\t1\n")
    report = load_files(db, queries=queries, qrels=tmp_path / "qrels.tsv")
    assert report.tables == {"docs_queries": 1, "docs_qrels": 1}
    with pytest.raises(TableNotFoundError, match="other"):
        load_files(db, table="other", queries=queries, qrels=tmp_path / "qrels.tsv")


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("c.jsonl", '{"key": "a", "story": "b"}\n', "found 'key', 'story'.*text_field="),
        ("c.jsonl", '{"key": "a", "text": "b"}\n', "field for the id.*id_field="),
        ("c.csv", "", "is empty"),
        ("c.jsonl", "", "0 of 0 rows rejected"),
        ("c.csv", 'id,"te"xt\n', "header"),
        ("c.docx", "x", "Cannot tell the format"),
        ("c.parquet", "no parquet", "cannot be read as parquet"),
        ("c.jsonl.gz", "no gzip", "torn"),
    ],
)
def test_files_that_cannot_be_read(db, tmp_path, name, content, told):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=told):
        load_files(db, corpus=tmp_path / name)
    assert db.list_tables().tables == []


def test_a_torn_archive(db, tmp_path):
    path = jsonl(tmp_path / "c.jsonl.gz", [{"id": f"{i}", "text": f"{i**9}"} for i in range(5000)])
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(InputError, match="torn"):
        load_files(db, corpus=path)


def test_wrong_arguments(db, tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        load_files(db, corpus=tmp_path / "nowhere.jsonl")
    with pytest.raises(InputError, match="nothing to load"):
        load_files(db)
    with pytest.raises(InputError, match="not both"):
        load_files(db, beir=tmp_path, corpus="x")
    with pytest.raises(InputError, match="max_rejected"):
        load_files(db, corpus="x", max_rejected=3)
    (tmp_path / "qrels").mkdir()
    with pytest.raises(InputError, match=r"no train\.tsv"):
        load_files(db, qrels=tmp_path / "qrels")


def test_own_field_names(db, tmp_path):
    corpus = jsonl(tmp_path / "c.jsonl", [{"key": "a", "story": "b", "id": "other"}])
    queries = jsonl(tmp_path / "q.jsonl", [{"k": "q", "ask": "what?"}])
    load_files(
        db,
        corpus=corpus,
        queries=queries,
        id_field="key",
        text_field="story",
        query_id_field="k",
        query_text_field="ask",
    )
    assert rows(db, "docs") == [{"id": "a", "text": "b"}]
    assert rows(db, "docs_queries") == [{"id": "q", "text": "what?"}]


def test_an_existing_table_is_only_replaced_on_demand(db, tmp_path):
    db.create_table("docs", [{"id": "old", "text": "old"}])
    path = jsonl(tmp_path / "c.jsonl", [{"id": "new", "text": "new"}])
    with pytest.raises(InputError, match=r"has 'docs' already.*overwrite"):
        load_files(db, corpus=path)
    load_files(db, corpus=path, mode="overwrite")
    assert rows(db, "docs") == [{"id": "new", "text": "new"}]
    assert lance.dataset(str(db.open_table("docs").uri)).has_stable_row_ids
    with pytest.raises(InputError, match="already"):
        load_files(db, corpus=path)


def test_progress_counts_the_bytes_of_both_passes(db, tmp_path):
    folder = beir(tmp_path / "set", n=5000)
    seen = []
    load_files(db, beir=folder, progress=lambda done, total: seen.append((done, total)))
    sizes = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    total = sum(sizes.values()) + sizes["corpus.jsonl"] + sizes["queries.jsonl"]
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)
    assert len(seen) > 10


KILLED = """
import os, signal, sys, lancedb
from lancedb_ft.data import load_files
from lancedb_ft.data.records import clean_judgement
at = float(sys.argv[3])
def progress(done, total):
    if done >= at * total:
        os.kill(os.getpid(), signal.SIGKILL)
load_files(lancedb.connect(sys.argv[1]), beir=sys.argv[2], progress=progress)
"""


@pytest.mark.parametrize(("at", "n_done"), [(0.3, 0), (0.66, 1), (0.9, 2)])
def test_a_killed_load_goes_on_with_the_same_call(tmp_path, at, n_done):
    folder = beir(tmp_path / "set", n=20_000)
    uri = str(tmp_path / "db")
    command = [sys.executable, "-c", KILLED, uri, str(folder), str(at)]
    killed = subprocess.run(command, env={**os.environ}, capture_output=True, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    db = lancedb.connect(uri)
    report = load_files(db, beir=folder)
    assert len(report.resumed) == n_done
    assert report.tables == {"docs": 20_000, "docs_queries": 20_000, "docs_qrels": 30}
    assert len({row["id"] for row in rows(db, "docs")}) == 20_000
    with pytest.raises(InputError, match="already"):
        load_files(db, beir=folder)


def test_a_file_that_changes_while_it_is_read_is_refused(db, tmp_path):
    path = jsonl(tmp_path / "c.jsonl", [{"id": f"{i}", "text": "t" * 50} for i in range(5000)])
    size = path.stat().st_size

    def progress(done, total):
        if done == size:
            jsonl(path, [{"id": "1", "text": "another"}])

    with pytest.raises(InputError, match="changed while it was loaded"):
        load_files(db, corpus=path, progress=progress)
    assert db.list_tables().tables == []


@pytest.mark.parametrize("stable", [True, False])
@pytest.mark.parametrize("ending", ["changed", "interrupted"])
def test_what_is_to_be_replaced_stays_until_the_new_table_is_whole(db, tmp_path, stable, ending):
    kept = [{"id": "old", "text": "precious"}]
    options = {"new_table_enable_stable_row_ids": "true"} if stable else None
    db.create_table("docs", kept, storage_options=options)
    path = jsonl(tmp_path / "c.jsonl", [{"id": f"{i}", "text": "t" * 50} for i in range(20_000)])
    size = path.stat().st_size

    def progress(done, total):
        if ending == "changed" and done == size:
            jsonl(path, [{"id": "1", "text": "another"}])
        if ending == "interrupted" and done > 1.5 * size:
            raise KeyboardInterrupt

    expected = InputError if ending == "changed" else BaseException
    with pytest.raises(expected):
        load_files(db, corpus=path, mode="overwrite", progress=progress)
    assert rows(db, "docs") == kept
    jsonl(path, [{"id": "new", "text": "new"}])
    load_files(db, corpus=path, mode="overwrite")
    assert rows(db, "docs") == [{"id": "new", "text": "new"}]
    assert lance.dataset(str(db.open_table("docs").uri)).has_stable_row_ids
    assert db.list_tables().tables == ["docs"]


def test_a_name_that_no_table_can_have_is_refused_before_anything_is_read(db, tmp_path):
    path = jsonl(tmp_path / "c.jsonl", [{"id": "a", "text": "b"}])
    with pytest.raises(InputError, match="No table can be named 'my docs'"):
        load_files(db, table="my docs", corpus=path)


@pytest.mark.data
def test_the_shared_sets_load_as_they_are(db):
    if not (SETS / "scifact").is_dir():
        pytest.skip("needs the shared data sets")
    paths = {name: SETS / "scifact" / f"{name}.parquet" for name in ("corpus", "queries", "qrels")}
    report = load_files(db, **paths)
    assert report.tables == {"docs": 5183, "docs_queries": 1107, "docs_qrels": 1256}
    assert report.n_rejected == 0
    assert db.open_table("docs").schema.names == ["id", "title", "text"]
    assert db.open_table("docs_queries").count_rows("split = 'test'") == 300
