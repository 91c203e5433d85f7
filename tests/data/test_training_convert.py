"""``lancedb-ft convert`` and ``--data``: training data between files and tables."""

import json
import sys

import lancedb
import pytest

from lancedb_ft.cli import main
from lancedb_ft.cli.data import read_data_option
from lancedb_ft.data import read_training_file, write_training_file
from lancedb_ft.errors import InputError
from tests.data.training_data import small


@pytest.fixture
def convert(monkeypatch, capsys):
    """Run ``lancedb-ft convert --json``; return the exit code and what it printed."""

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["lancedb-ft", "convert", *map(str, words), "--json"])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        return code, json.loads(capsys.readouterr().out)

    return call


def test_a_file_becomes_a_table_and_a_file_of_another_format(convert, tmp_path):
    write_training_file(small("negatives"), tmp_path / "x.jsonl", format="bge")
    code, told = convert(tmp_path / "x.jsonl", "table:t", "--db", tmp_path / "db")
    assert code == 0
    expected = {"kind": "negatives", "n_rows": 2, "from": "bge", "to": "table", "table": "t"}
    assert {key: told[key] for key in expected} == expected
    code, _ = convert("table:t", tmp_path / "y.parquet", "--db", tmp_path / "db")
    assert code == 0
    assert read_training_file(tmp_path / "y.parquet").table.equals(small("negatives").table)
    code, told = convert(
        "table:t",
        tmp_path / "z.jsonl",
        "--db",
        tmp_path / "db",
        "--kind",
        "pairs",
        "--to",
        "openai",
    )
    assert (code, told["left_out"]) == (0, {})
    assert json.loads((tmp_path / "z.jsonl").read_text().splitlines()[0]) == {
        "input": "cancel",
        "output": "Cancel in the settings.",
    }


def test_only_a_table_of_training_data_is_replaced(convert, tmp_path):
    write_training_file(small("pairs"), tmp_path / "x.jsonl", format="bge")
    db = lancedb.connect(tmp_path / "db")
    db.create_table("docs", [{"id": "1", "text": "precious"}])
    words = (tmp_path / "x.jsonl", "table:docs", "--db", tmp_path / "db")
    for more, expected in (((), "has a table 'docs'"), (("--overwrite",), "is no training data")):
        code, told = convert(*words, *more)
        assert (code, expected in told["message"]) == (2, True)
    assert db.open_table("docs").to_arrow()["text"].to_pylist() == ["precious"]
    words = (tmp_path / "x.jsonl", "table:t", "--db", tmp_path / "db")
    assert [convert(*words, *more)[0] for more in ((), (), ("--overwrite",))] == [0, 2, 0]


def test_columns_scores_and_rejected_rows(convert, tmp_path):
    rows = [{"left": "a", "right": "b", "stars": 4}, {"left": " ", "right": "b", "stars": 4}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    named = ["--kind", "scored", "--score-range", "1", "5"]
    for pair in ("sentence1=left", "sentence2=right", "score=stars"):
        named += ["--column", pair]
    code, told = convert(tmp_path / "x.jsonl", tmp_path / "y.csv", *named)
    assert (code, told["error"]) == (2, "BadRowsError")
    assert not (tmp_path / "y.csv").exists()
    code, told = convert(tmp_path / "x.jsonl", tmp_path / "y.csv", *named, "--max-rejected", "0.5")
    assert (code, told["rejected"]) == (0, {"blank sentence1": 1})
    assert read_training_file(tmp_path / "y.csv").table["score"].to_pylist() == [0.75]
    code, told = convert(tmp_path / "y.csv", tmp_path / "y.csv")
    assert (code, told["error"]) == (2, "InputError")
    code, told = convert(tmp_path / "x.jsonl", tmp_path / "w.csv", "--column", "anchor")
    assert (code, "ROLE=COLUMN" in told["message"]) == (2, True)


def test_parts_are_converted_one_by_one(convert, tmp_path):
    rows = [{"query": "a", "answer": p, "split": p} for p in ("train", "test", "train")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    db = lancedb.connect(str(tmp_path / "db"))
    db.create_table("t", rows)
    for source in (tmp_path / "x.jsonl", "table:t"):
        words = (source, tmp_path / "y.jsonl", "--db", tmp_path / "db")
        code, told = convert(*words)
        assert (code, "in the parts 'train', 'test'" in told["message"]) == (2, True)
        assert not (tmp_path / "y.jsonl").exists()
        code, told = convert(*words, "--split", "train")
        assert (code, told["n_rows"]) == (0, 2)
        (tmp_path / "y.jsonl").unlink()
    db.create_table("docs", [{"id": "d1", "text": "Body."}])
    queries = [{"id": f"q{n}", "text": "ask", "split": p} for n, p in enumerate(("train", None))]
    db.create_table("q", queries)
    db.create_table("r", [{"query_id": "q0", "doc_id": "d1", "score": 1}])
    tables = ["--db", tmp_path / "db", "--queries-table", "q", "--qrels-table", "r"]
    assert convert("table:docs", tmp_path / "one", "--to", "beir", *tables)[0] == 0
    db["q"].add([{"id": "q2", "text": "try", "split": "test"}])
    code, told = convert("table:docs", tmp_path / "two", "--to", "beir", *tables)
    assert (code, "'q' comes in the parts 'train', 'test'" in told["message"]) == (2, True)


def test_the_other_parts_of_a_file_are_not_written_over(convert, tmp_path):
    path = tmp_path / "x.jsonl"
    rows = [{"query": "a", "answer": p, "split": p, "note": "mine"} for p in ("train", "test")]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    before = path.read_bytes()
    code, told = convert(path, path, "--split", "train", "--overwrite")
    assert (code, "Write to another name" in told["message"]) == (2, True)
    assert path.read_bytes() == before


def test_three_tables_become_a_beir_folder(convert, tmp_path):
    db = lancedb.connect(str(tmp_path / "db"))
    db.create_table("docs", [{"id": "d1", "text": "Body."}, {"id": "d2", "text": "Other."}])
    db.create_table("q", [{"id": "q1", "text": "ask"}])
    judged = [("q1", "d1", 1), ("q1", "d2", 0)]
    db.create_table("r", [{"query_id": q, "doc_id": d, "score": s} for q, d, s in judged])
    tables = ["--db", tmp_path / "db", "--queries-table", "q", "--qrels-table", "r"]
    code, told = convert("table:docs", tmp_path / "beir", "--to", "beir", *tables)
    assert (code, told["kind"], told["n_rows"]) == (0, "ranking", 2)
    assert read_training_file(tmp_path / "beir").table["grade"].to_pylist() == [1, 0]
    code, _ = convert("table:docs", tmp_path / "x", "--db", tmp_path / "db", "--qrels-table", "r")
    assert code == 2


def test_data_names_a_file_or_a_table_and_maybe_a_kind(convert, tmp_path):
    path = tmp_path / "with:colon.jsonl"
    write_training_file(small("triplets"), path)
    convert(path, "table:t", "--db", tmp_path / "db")
    assert read_data_option(str(path)).kind == "triplets"
    assert read_data_option(f"{path}:pairs").kind == "pairs"
    db = str(tmp_path / "db")
    assert read_data_option("table:t", db=db).kind == "triplets"
    assert read_data_option("table:t:negatives", db=db).kind == "negatives"
    with pytest.raises(InputError, match="with --db"):
        read_data_option("table:t")
    with pytest.raises(InputError, match=r"no file or folder '.*:couples'.*may stand one of pairs"):
        read_data_option(f"{path}:couples")


def test_what_is_lost_on_the_way_is_told(convert, tmp_path):
    scored = {"query": "a", "pos": ["b"], "neg": ["c"], "pos_scores": [1], "neg_scores": [0.5]}
    rows = [scored] * 50 + [{"query": "z", "pos": ["y"], "neg": ["x"]}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, told = convert(tmp_path / "x.jsonl", tmp_path / "y.jsonl")
    assert (code, told["rejected"]) == (0, {})
    lacking = {"positive_score": 1, "negative_scores": 1}
    assert {name: told["incomplete_columns"][name] for name in lacking} == lacking
    (tmp_path / "s.jsonl").write_text(json.dumps(scored) + "\n")
    for kind, lost in (
        ("triplets", {"positive_score": 1, "negative_scores": 1}),
        ("pairs", {"positive_score": 1, "negative_scores": 1, "negatives": 1}),
    ):
        out = tmp_path / f"{kind}.jsonl"
        code, told = convert(tmp_path / "s.jsonl", out, "--kind", kind)
        assert (code, told["kind"], told["left_out"]) == (0, kind, lost)
        code, told = convert(
            tmp_path / "s.jsonl", f"table:{kind}", "--kind", kind, "--db", tmp_path
        )
        assert (code, told["left_out"]) == (0, lost)
    row = {"anchor": "a", "positive": "b", "negative_1": "c", "group": "g"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    code, told = convert(tmp_path / "t.jsonl", tmp_path / "t.bge", "--to", "bge")
    assert (code, told["left_out"]) == (0, {"group": 1})


@pytest.mark.parametrize("name", ["beir", "trec"])
def test_what_a_folder_has_no_place_for_is_told(convert, tmp_path, name):
    row = {"anchor": "how to cancel", "positive": "press it", "group": "orders"}
    (tmp_path / "x.jsonl").write_text(json.dumps(row) + "\n")
    code, told = convert(tmp_path / "x.jsonl", tmp_path / "out", "--to", name)
    assert (code, told["left_out"]) == (0, {"group": 1})


def test_texts_that_a_folder_lost_are_told(convert, tmp_path, run):
    (tmp_path / "b" / "qrels").mkdir(parents=True)
    for name, rows in (("corpus", [("d1", "text"), ("d2", " ")]), ("queries", [("q1", "ask")])):
        lines = [json.dumps({"_id": key, "text": text}) + "\n" for key, text in rows]
        (tmp_path / "b" / f"{name}.jsonl").write_text("".join(lines))
    judged = "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td2\t1\n"
    (tmp_path / "b" / "qrels" / "train.tsv").write_text(judged)
    code, told = convert(tmp_path / "b", tmp_path / "x.jsonl", "--max-rejected", "0.5")
    assert (code, list(told["rejected_texts"])) == (0, ["corpus"])
    words = (tmp_path / "b", tmp_path / "y.jsonl", "--max-rejected", "0.5")
    code, shown, _ = run("convert", *words)
    assert (code, "rejected texts" in shown, "late columns" in shown) == (0, True, False)


def test_spellings_of_a_text_have_one_made_id(convert, tmp_path):
    rows = [{"query": q, "answer": "Press it."} for q in ("How do I cancel?", "how do i  cancel?")]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lost = {"other spellings of a text": 1, "repeated pairs": 1}
    code, told = convert(tmp_path / "x.jsonl", tmp_path / "y.json", "--to", "llamaindex")
    assert (code, told["left_out"]) == (0, lost)
    assert read_training_file(tmp_path / "y.json").table["anchor"].to_pylist() == [rows[0]["query"]]
    for name in ("beir", "trec"):
        assert convert(tmp_path / "x.jsonl", tmp_path / name, "--to", name)[0] == 0
    # So has a ranking that came without ids.
    rows = [
        {"query": row["query"], "document": d, "grade": 1}
        for row, d in zip(rows, "xy", strict=True)
    ]
    (tmp_path / "r.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, told = convert(tmp_path / "r.jsonl", tmp_path / "z.json", "--to", "llamaindex")
    assert (code, told["left_out"]) == (0, {"other spellings of a text": 1})
    for name in ("beir", "trec"):
        assert convert(tmp_path / "r.jsonl", tmp_path / f"r.{name}", "--to", name)[0] == 0
    # An id of the user's own for two texts is a mistake.
    rows = [{**row, "query_id": "1", "doc_id": row["document"]} for row in rows]
    (tmp_path / "i.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    code, told = convert(tmp_path / "i.jsonl", tmp_path / "i.json", "--to", "llamaindex")
    assert (code, "query_id '1' stands for two texts" in told["message"]) == (2, True)


def test_a_target_or_a_role_that_cannot_be_is_told_first(convert, tmp_path):
    path = tmp_path / "x.jsonl"
    write_training_file(small("triplets"), path)
    (tmp_path / "afile").write_text("x")
    nowhere = tmp_path / "nowhere.jsonl"
    for source, target, told in (
        (nowhere, "table:bad name", "No table can be named 'bad name'"),
        (nowhere, "table:", "No table can be named ''"),
        (nowhere, tmp_path / "afile" / "out.jsonl", "is a file, not a folder"),
        (nowhere, path, "exists"),
        (nowhere, tmp_path / "y.jsonl", "no file or folder"),
    ):
        code, found = convert(source, target, "--db", tmp_path / "db")
        assert (code, found["error"]) == (2, "InputError")
        assert told in found["message"]
    code, found = convert(path, tmp_path / "y.jsonl", "--column", "anchr=anchor")
    assert (code, "has the roles 'anchr'" in found["message"]) == (2, True)
    assert not (tmp_path / "y.jsonl").exists()
