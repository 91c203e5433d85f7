"""``lancedb-ft distill`` from a table's judged queries, and from a file."""

import json

import lancedb
import pytest

from lancedb_ft.store import ModelStore
from tests.tiny import tiny_model
from tests.train.toy import WORDS, toy_pairs


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("teacher"), texts=[" ".join(WORDS)])


@pytest.fixture
def kb(tmp_path):
    """Documents, judged queries, and documents that nobody asked for."""
    uri = str(tmp_path / "kb")
    db = lancedb.connect(uri)
    pairs = toy_pairs(150, seed=1)
    others = toy_pairs(40, seed=2, prefix="other-")
    documents = {**pairs.corpus, **others.corpus}
    db.create_table("docs", [{"id": i, "text": text} for i, text in documents.items()])
    parts = ["train"] * 90 + ["dev"] * 30 + ["test"] * 30
    queries = [
        {"id": i, "text": text, "split": part}
        for (i, text), part in zip(pairs.queries.items(), parts, strict=True)
    ]
    db.create_table("docs_queries", queries)
    qrels = [
        {"query_id": q, "doc_id": d, "score": 1} for q, found in pairs.qrels.items() for d in found
    ]
    db.create_table("docs_qrels", qrels)
    return uri


def test_a_static_student_of_a_table(run, kb, teacher):
    words = (
        *("distill", "--teacher", teacher, "--db", kb, "--table", "docs", "--name", "quick"),
        *("--queries-table", "docs_queries", "--qrels-table", "docs_qrels", "--device", "cpu"),
    )
    code, out, err = run(*words, "--json")
    assert code == 0, err
    told = json.loads(out)
    assert told["ref"] == "quick@1"
    assert told["distillation"]["student"] == "static"
    assert told["distillation"]["texts_per_s"]["student"] > 0
    assert told["distillation"]["share_kept"]["ci95"][1] > 0
    assert told["metrics"]["dev"]["n"] == 30
    version = ModelStore(f"{kb}/ft_models").load("quick@1")
    data = version.manifest["data"]
    assert (data["n_documents"], data["n_queries"], data["n_pairs"]) == (190, 90, 90)
    assert version.manifest["training"]["trained_on_pairs"] is True
    again = run(*words)
    assert again[0] == 0
    assert "Distilled quick@1" in again[1]


def test_fewer_dims_from_a_file(run, tmp_path, teacher):
    rows = [
        {"query": row["query"], "positive": row["document"]}
        for row in toy_pairs(120, seed=4).table.to_pylist()
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = ("--name", "small", "--store", tmp_path / "s", "--device", "cpu", "--json")
    code, out, err = run(
        "distill", "--teacher", teacher, "--data", file, "--dims", "8", "--no-pairs", *common
    )
    assert code == 0, err
    assert json.loads(out)["dims"] == 8
    code, out, _ = run("distill", "--teacher", teacher, "--student", "layers:1", *common)
    assert (code, json.loads(out)["error"]) == (2, "InputError")
