"""``lancedb-ft audit``: tables or files in, problems by name out, exit 3 on an error."""

import json

import lancedb

from lancedb_ft.data import write_training_file
from tests.data import bad_data
from tests.data.test_audit_sets import CLEAN, pairs
from tests.tiny import tiny_model


def test_tables_are_audited_and_what_leaked_is_told(run, tmp_path):
    uri = str(tmp_path / "kb")
    db = lancedb.connect(uri)
    rows = pairs(12).table.to_pylist()
    db.create_table("docs", [{"id": r["doc_id"], "text": r["document"]} for r in rows])
    parts = ["train"] * 8 + ["dev"] * 2 + ["test"] * 2
    queries = [
        {"id": r["query_id"], "text": r["query"], "split": part}
        for r, part in zip(rows, parts, strict=True)
    ]
    db.create_table("queries", queries)
    qrels = [{"query_id": r["query_id"], "doc_id": r["doc_id"], "score": 1} for r in rows]
    db.create_table("qrels", qrels)
    words = ("audit", "--db", uri, "--table", "docs", "--queries-table", "queries")
    words += ("--qrels-table", "qrels")
    code, out, err = run(*words, "--json")
    assert code == 0, out + err
    assert json.loads(out)["parts"]["train"]["n_rows"] == 8
    db["qrels"].add([{"query_id": "q11", "doc_id": "d0", "score": 1}])
    code, out, _ = run(*words, "--json")
    assert code == 0, out
    found = json.loads(out)
    assert [(p["name"], p["where"], p["n"]) for p in found["problems"]] == [
        ("leaks removed", "train", 1)
    ]


def test_a_file_of_any_kind_is_audited(run, tmp_path):
    bad, rows = bad_data.with_positives_as_negatives(CLEAN["triplets"])
    write_training_file(bad, tmp_path / "bad.jsonl")
    code, out, err = run("audit", "--data", f"{tmp_path / 'bad.jsonl'}:triplets", "--json")
    assert code == 3, out + err
    found = json.loads(out)["problems"][0]
    assert (found["name"], found["severity"]) == ("positives as negatives", "error")
    assert found["rows"] == rows
    write_training_file(CLEAN["labelled"], tmp_path / "labels.jsonl")
    both = ("--data", tmp_path / "bad.jsonl", "--data", tmp_path / "labels.jsonl")
    code, out, _ = run("audit", *both, "--json")
    assert list(json.loads(out)["parts"]) == ["triplets", "labelled"]


def test_a_file_in_parts_is_audited_as_the_split_it_is(run, tmp_path):
    rows = CLEAN["pairs"].table.to_pylist()
    parts = ["train"] * (len(rows) - 2) + ["validation", "test"]
    rows = [{**row, "split": part} for row, part in zip(rows, parts, strict=True)]
    path, db = tmp_path / "x.jsonl", lancedb.connect(str(tmp_path / "kb"))

    def audited(*leaked):
        every = [*rows, *leaked]
        path.write_text("".join(json.dumps(row) + "\n" for row in every))
        db.create_table("t", every, mode="overwrite")
        for data in (path, "table:t"):
            code, out, err = run("audit", "--data", data, "--db", db.uri, "--json")
            yield code, json.loads(out), err

    for code, found, err in audited():
        assert (code, list(found["parts"])) == (0, ["train", "dev", "test"]), err
        assert [found["parts"][p]["n_rows"] for p in ("dev", "test")] == [1, 1]
    for code, found, err in audited({**rows[0], "split": "test"}):
        assert (code, found["problems"][0]["name"]) == (3, "leak"), err
        assert found["examples"][0]["parts"] == ["train", "test"]
    code, _, err = run("audit", "--data", path, "--data", path)
    assert (code, "audit it alone" in err) == (2, True)
    for code, found, _ in audited({**rows[0], "split": "later"}):
        assert (code, "'later' is none of train, dev and test" in found["message"]) == (2, True)
    path.write_text(
        "".join(json.dumps({**row, "split": f"202{n % 3}"}) + "\n" for n, row in enumerate(rows))
    )
    code, out, _ = run("audit", "--data", path, "--json")
    assert (code, list(json.loads(out)["parts"])) == (0, ["pairs"]), "no parts, whatever it means"


def test_a_folder_with_two_names_of_one_part_is_refused(run, tmp_path):
    def rows(name, key):
        return "".join(
            json.dumps({"_id": f"{key}{i}", "text": f"{name} {i}"}) + "\n" for i in "0123"
        )

    for name, key in (("corpus", "d"), ("queries", "q")):
        (tmp_path / f"{name}.jsonl").write_text(rows(name, key))
    (tmp_path / "qrels").mkdir()
    for i, part in enumerate(("train", "dev", "validation", "test")):
        judged = f"query-id\tcorpus-id\tscore\nq{i}\td{i}\t1\n"
        (tmp_path / "qrels" / f"{part}.tsv").write_text(judged)
    code, out, _ = run("audit", "--data", tmp_path, "--json")
    told = json.loads(out)["message"]
    assert (code, "'dev' and 'validation', which both mean dev. Make them one" in told) == (2, True)
    (tmp_path / "qrels" / "dev.tsv").unlink()
    _, out, _ = run("audit", "--data", tmp_path, "--json")
    assert list(json.loads(out)["parts"]) == ["train", "dev", "test"]


def test_people_see_bars_and_what_to_do(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    bad, _ = bad_data.with_positives_as_negatives(CLEAN["triplets"])
    write_training_file(bad, tmp_path / "bad.jsonl")
    model = tiny_model(tmp_path / "m")
    words = ("audit", "--data", tmp_path / "bad.jsonl", "--model", model, "--max-tokens", "20")
    code, out, err = run(*words)
    assert code == 3, err
    told = " ".join(out.split())
    assert "\u2588" * 30 in out
    assert "positives as negatives" in told
    assert "cut texts" in told
    write_training_file(CLEAN["scored"], tmp_path / "scored.jsonl")
    code, out, _ = run("audit", "--data", tmp_path / "scored.jsonl")
    assert code == 0
    assert "0.9-1.0" in out
    assert "Nothing is wrong" in out


def test_what_to_audit_must_be_said_once(run):
    code, _, err = run("audit", "--table", "docs")
    assert code == 2
    assert "--data FILE" in err
    code, _, err = run("audit", "--data", "x.jsonl", "--qrels-table", "q")
    assert code == 2
    assert "either --data" in err


def test_what_looks_like_markup_in_data_is_data(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    file = tmp_path / "lab[x].jsonl"
    labels = ("[/INST]", "[bold]")
    # One text under both labels: a problem that names the file and the labels.
    texts = ("one", "two", "same")
    rows = [{"text": text, "label": label} for label in labels for text in texts]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, out, err = run("audit", "--data", file)
    assert code in (0, 3), err
    for label in labels:
        assert label in out
    assert "lab[x]" in out
