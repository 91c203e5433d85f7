"""``lancedb-ft mine``."""

import json
from functools import partial

import lancedb
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import FTS

import lancedb_ft as ft
from tests.train.toy import toy_model, toy_pairs

N = 80


@pytest.fixture
def run(run):
    return partial(run, "mine")


@pytest.fixture(scope="module")
def kb(tmp_path_factory):
    """Documents that a tiny model embeds, judged queries in three parts, a topic a document."""
    folder = tmp_path_factory.mktemp("kb")
    db = lancedb.connect(folder / "kb")
    pairs = toy_pairs(N)
    model = toy_model(folder / "m")
    docs = [
        {"id": doc_id, "text": text, "topic": f"t{i % 4}"}
        for i, (doc_id, text) in enumerate(pairs.corpus.items())
    ]
    function = get_registry().get("ft-embed").create(name=model, device="cpu")
    config = EmbeddingFunctionConfig(
        source_column="text", vector_column="vector", function=function
    )
    vectors = function.compute_source_embeddings([doc["text"] for doc in docs])
    rows = pa.Table.from_pylist(docs).append_column(
        "vector", pa.array([list(v) for v in vectors], pa.list_(pa.float32(), function.ndims()))
    )
    db.create_table("docs", rows, embedding_functions=[config])
    table = db.open_table("docs")
    table.create_index("text", config=FTS())
    raw = db.create_table("raw", [{k: doc[k] for k in ("id", "text", "topic")} for doc in docs])
    assert raw.count_rows() == N
    parts = ["train"] * 60 + ["dev"] * 10 + ["test"] * 10
    db.create_table(
        "docs_queries",
        [
            {"id": q, "text": text, "split": part}
            for (q, text), part in zip(pairs.queries.items(), parts, strict=True)
        ],
    )
    qrels = [{"query_id": f"q{i}", "doc_id": f"d{i}", "score": 1} for i in range(N)]
    db.create_table("docs_qrels", qrels)
    return str(folder / "kb")


JUDGED = ("--queries-table", "docs_queries", "--qrels-table", "docs_qrels")


def test_bm25_to_a_file_that_reads_back(run, kb, tmp_path):
    out = tmp_path / "negatives.jsonl"
    common = ("--db", kb, "--table", "raw", *JUDGED, "--mode", "bm25", "--n-negatives", "3")
    code, told, err = run(*common, "--out", out, "--sample", "2", "--json")
    assert code == 0, err
    found = json.loads(told)
    assert (found["n_pairs"], len(found["sample"]), found["out"]) == (60, 2, str(out))
    assert found["removed"]["held out for dev or test"] > 0
    read = ft.read_training_file(out)
    assert (read.kind, len(read)) == ("negatives", 60)
    held_out = {f"d{i}" for i in range(60, N)}
    texts = {
        row["id"]: row["text"]
        for row in lancedb.connect(kb).open_table("raw").to_arrow().to_pylist()
    }
    mined = {text for row in read.table["negatives"].to_pylist() for text in row}
    assert not mined & {texts[doc_id] for doc_id in held_out}
    assert run(*common, "--out", out)[0] == 2  # it exists
    assert run(*common, "--out", out, "--overwrite")[0] == 0


def test_fts_to_a_table_with_groups_and_a_sample_to_read(run, kb):
    words = ("--db", kb, "--table", "docs", *JUDGED, "--mode", "fts", "--n-negatives", "2")
    words += ("--strategy", "domain_confusion", "--group-column", "topic", "--margin", "0")
    code, told, err = run(*words, "--out-table", "mined", "--sample", "1")
    assert code == 0, err
    assert "of another group" in told
    assert "negative" in told
    db = lancedb.connect(kb)
    rows = db.open_table("mined").to_arrow().to_pylist()
    topics = {row["id"]: row["topic"] for row in db.open_table("docs").to_arrow().to_pylist()}
    assert len(rows) == 60
    for row in rows:
        assert {topics[i] for i in row["negative_ids"]} == {topics[row["doc_id"]]}
    assert run(*words, "--out-table", "mined")[0] == 2
    # What was mined can be mined again.
    again = ("--db", kb, "--table", "docs", "--mode", "fts", "--data", "table:mined", "--json")
    code, told, err = run(*again)
    assert code == 0, err
    assert json.loads(told)["n_pairs"] == 60


def test_of_a_file_in_parts_train_is_mined_for_and_the_rest_held_out(run, kb, tmp_path):
    pairs = toy_pairs(N)
    parts = ["train"] * 60 + ["dev"] * 10 + ["test"] * 10
    rows = [
        {"query": query, "answer": pairs.corpus[f"d{n}"], "split": part}
        for n, (query, part) in enumerate(zip(pairs.queries.values(), parts, strict=True))
    ]
    data, out = tmp_path / "x.jsonl", tmp_path / "negatives.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ("--db", kb, "--table", "raw", "--mode", "bm25", "--data", data, "--n-negatives", "3")
    code, told, err = run(*words, "--out", out, "--json")
    assert code == 0, err
    assert json.loads(told)["n_pairs"] == 60
    read = ft.read_training_file(out).table.to_pylist()
    assert {row["query"] for row in read} == {row["query"] for row in rows[:60]}
    mined = {text for row in read for text in row["negatives"]}
    assert not mined & {row["answer"] for row in rows[60:]}
    data.write_text("".join(json.dumps({**row, "split": "2024"}) + "\n" for row in rows))
    code, _, err = run(*words)
    assert (code, "no part 'train'" in err, "rename it" in err) == (2, True, True)


@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_the_table_embeds_the_queries_itself(run, kb, mode):
    words = ("--db", kb, "--table", "docs", *JUDGED, "--mode", mode, "--margin", "1", "--json")
    code, told, err = run(*words)
    assert code == 0, err
    report = json.loads(told)
    assert -1 <= report["mean_negative_score"] < report["mean_positive_score"] <= 1.0001


def test_wrong_usage(run, kb, tmp_path):
    common = ("--db", kb, "--table", "docs")
    assert run(*common)[0] == 2
    assert run(*common, *JUDGED, "--data", "x.jsonl")[0] == 2
    assert run(*common, *JUDGED, "--out", tmp_path / "x.txt")[0] == 2
    assert run(*common, *JUDGED, "--mode", "fts", "--group-column", "nope")[0] == 2
    code, told, _ = run("--db", kb, "--table", "raw", *JUDGED, "--mode", "vector", "--json")
    assert (code, json.loads(told)["error"]) == (1, "NoEmbedderError")


def test_what_cannot_be_written_is_refused_before_anything_is_mined(run, kb, tmp_path, monkeypatch):
    from lancedb_ft.cli import mine

    def never(*_, **__):
        raise AssertionError("mined for nothing")

    monkeypatch.setattr(mine, "mine_negatives", never)
    common = ("--db", kb, "--table", "raw", *JUDGED, "--mode", "bm25", "--json")
    kept = tmp_path / "precious.parquet" / "keep.txt"
    kept.parent.mkdir()
    kept.write_text("hi")
    for words, told in (
        (("--out-table", "bad name"), "No table can be named 'bad name'"),
        (("--out-table", "raw", "--overwrite"), "'raw' is no training data"),
        (("--out-table", "raw"), "has a table 'raw'"),
        (("--out", kept / "x.jsonl"), "is a file, not a folder"),
        (("--out", kept.parent, "--overwrite"), "never replaces a folder"),
        (("--out", kept.parent), "exists"),
    ):
        code, out, _ = run(*common, *words)
        found = json.loads(out)
        assert (code, found["error"]) == (2, "InputError")
        assert told in found["message"]
    assert kept.read_text() == "hi"


def test_the_file_that_is_mined_for_is_not_written_over(run, kb, tmp_path, monkeypatch):
    data = tmp_path / "x.jsonl"
    rows = [{"query": q, "answer": "a", "split": p} for q, p in (("one", "train"), ("two", "test"))]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = data.read_bytes()
    monkeypatch.setattr("lancedb_ft.cli.mine.mine_negatives", None)  # refused before the work
    words = ("--db", kb, "--table", "raw", "--mode", "bm25", "--data", data)
    code, _, err = run(*words, "--out", data, "--overwrite")
    assert code == 2
    assert "Write to another name" in err
    assert data.read_bytes() == before
