"""The command line's conventions, on every command; what the verbs do is tested in their rooms."""

import json
import sys

import lancedb
import pytest
import typer.main

import lancedb_ft as ft
from lancedb_ft.cli import build_app
from lancedb_ft.data import write_training_file
from lancedb_ft.training_sets import TrainingSet
from tests.tiny import tiny_model
from tests.train.toy import toy_model, toy_pairs

N = 60


def commands(group=None, path=()):
    group = group or typer.main.get_command(build_app())
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


COMMANDS = dict(commands())


@pytest.fixture
def kb(tmp_path):
    """A database with documents, judged queries and two tiny models."""
    uri = str(tmp_path / "kb")
    db = lancedb.connect(uri)
    texts = [
        f"doc number {i} open the settings page {i % 7} for order {i * 13 % 60}" for i in range(N)
    ]
    db.create_table("docs", [{"id": f"d{i}", "text": text} for i, text in enumerate(texts)])
    parts = ["train"] * 40 + ["dev"] * 10 + ["test"] * 10
    db.create_table(
        "docs_queries",
        [
            {"id": f"q{i}", "text": f"order {i} {i * 31} {i * 7}", "split": parts[i]}
            for i in range(N)
        ],
    )
    qrels = [{"query_id": f"q{i}", "doc_id": f"d{i}", "score": 1} for i in range(N)]
    db.create_table("docs_qrels", qrels)
    store = ft.ModelStore(f"{uri}/ft_models")
    for seed in (1, 2):
        folder = tiny_model(tmp_path / f"m{seed}", seed=seed)
        store.save(folder, name="tiny", manifest={"base": "none"})
    return uri


JUDGED = ("--queries-table", "docs_queries", "--qrels-table", "docs_qrels")


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_has_an_example_that_names_the_command(path, run):
    code, out, _ = run(*path, "--help")
    assert code == 0
    assert f"Example: lancedb-ft {' '.join(path)}" in " ".join(out.split())


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_all_that_was_written_of_each_option(path, run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    told = " ".join(run(*path, "--help")[1].split())
    for parameter in COMMANDS[path].params:
        words = getattr(parameter, "help", None) or ""
        assert " ".join(words.split()) in told, parameter.name


def test_help_shows_the_defaults_that_are_told_by_hand(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    told = run("train", "--help")[1]
    assert "[default: chosen]" in told
    assert "[default: id]" in told


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_command_has_json(path):
    options = {o for parameter in COMMANDS[path].params for o in parameter.opts}
    assert "--json" in options


def test_the_version(run):
    assert run("--version")[1].strip() == ft.__version__


def test_wrong_usage_exits_with_2(run):
    assert run("reindex", "run", "--no-such-option")[0] == 2
    assert run("no-such-verb")[0] == 2
    assert run("search", "--db", "x")[0] == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("train", "--name", "x", "--bogus"), "--bogus"),
        (("interpolate", "--alpha", "nan"), "--alpha"),
        (("train",), "--name"),
        (("no-such-verb",), "no-such-verb"),
    ],
)
def test_wrong_usage_is_one_object_too(run, words, told):
    code, out, err = run(*words, "--json")
    assert code == 2
    found = json.loads(out)
    assert told in found["message"]
    assert found["error"]
    assert told in err
    assert run(*words)[1] == ""


def test_errors_are_one_line_and_one_object(run, kb, tmp_path):
    code, out, err = run("search", "hello", "--db", kb, "--table", "nope", "--json")
    assert code == 2
    found = json.loads(out)
    assert found["error"] == "TableNotFoundError"
    assert "'docs'" in found["message"]
    assert "Traceback" not in err
    code, out, _ = run("reindex", "status", "--db", tmp_path / "none", "--table", "docs", "--json")
    assert (code, json.loads(out)["error"]) == (2, "InputError")
    code, out, _ = run("models", "show", "tiny@9", "--db", kb, "--json")
    assert json.loads(out)["error"] == "ModelNotFoundError"


def test_ctrl_c_is_told(kb, run, monkeypatch):
    def interrupted(*_of, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("lancedb_ft.cli.reindex.reindex", interrupted)
    words = ("reindex", "run", "--db", kb, "--table", "docs", "--model", "tiny@1")
    code, out, err = run(*words, "--json")
    assert (code, json.loads(out)["error"]) == (130, "Interrupted")
    assert "The same command goes on" in err
    assert run(*words)[:2] == (130, "")


def test_an_error_of_a_library_is_one_object_and_a_traceback(kb, run, monkeypatch, capsys):
    def broken(*_of, **_named):
        raise OSError("a disk that coughs")

    monkeypatch.setattr("lancedb_ft.cli.reindex.reindex", broken)
    words = ("reindex", "run", "--db", kb, "--table", "docs", "--model", "tiny@1")
    with pytest.raises(OSError, match="coughs"):
        run(*words, "--json")
    told = capsys.readouterr()
    assert json.loads(told.out) == {"error": "OSError", "message": "a disk that coughs"}
    assert "a disk that coughs" in told.err


def test_the_reindex_commands_in_a_row(run, kb):
    common = ("--db", kb, "--table", "docs", "--json")

    def step(*words, expect=0):
        code, out, err = run("reindex", *words, *common)
        assert code == expect, out + err
        assert len(out.strip().splitlines()) == 1
        return json.loads(out)

    assert step("plan", "--model", "tiny@1")["rows"] == N
    assert step("run", "--model", "tiny@1", "--dry-run")["rows_to_encode"] == N
    assert step("status")["generations"][0]["n_vectors"] == 0
    assert step("run", "--model", "tiny@1", "--force")["switched"] is True
    ready = step("run", "--model", "tiny@2")
    assert (ready["switched"], ready["rows"]) == (False, N)
    assert step("switch", expect=2)["error"] == "InputError"
    refused = step("switch", *JUDGED, "--gate", "ndcg@10 > 1.0", expect=3)
    assert refused["error"] == "GateError"
    assert refused["report"]["verdicts"][0]["requirement"] == "ndcg@10 > 1.0"
    assert step("switch", *JUDGED, "--gate", "ndcg@10 >= 0")["model"] == "tiny@2"
    assert step("rollback")["model"] == "tiny@1"
    assert step("switch", "--force")["model"] == "tiny@2"
    assert [g["generation"] for g in step("finish")["removed"]] == [1, 2]
    status = step("status", "--stale")
    assert [(g["phase"], g["n_stale"]) for g in status["generations"]] == [("active", 0)]
    assert step("finish", expect=2)["error"] == "ReindexStateError"


def test_a_gate_needs_its_tables(run, kb):
    code, _, err = run(
        "reindex", "run", "--db", kb, "--table", "docs", "--model", "tiny@1", "--gate", "hit@5 > 0"
    )
    assert code == 2
    assert "--qrels-table" in err


def test_models(run, kb):
    listed = json.loads(run("models", "list", "--db", kb, "--json")[1])["models"]
    assert [m["ref"] for m in listed] == ["tiny@1", "tiny@2"]
    assert json.loads(run("models", "show", "tiny", "--db", kb, "--json")[1])["dims"] == 16
    assert json.loads(run("models", "lineage", "tiny@1", "--db", kb, "--json")[1])["lineage"]
    run("reindex", "run", "--db", kb, "--table", "docs", "--model", "tiny@2", "--force")
    code, out, _ = run("models", "delete", "tiny@2", "--db", kb, "--json")
    assert (code, json.loads(out)["error"]) == (3, "ModelInUseError")
    assert run("models", "delete", "tiny@1", "--db", kb)[0] == 0
    assert run("models", "list")[0] == 2


def test_evaluate_writes_runs_that_compare_reads(run, kb, tmp_path):
    common = ("--db", kb, "--table", "docs", *JUDGED, "--json")
    runs = []
    for model in ("tiny@1", "tiny@2"):
        path = tmp_path / f"{model}.run"
        code, out, err = run("evaluate", "--model", model, "--run", path, *common)
        assert code == 0, err
        found = json.loads(out)
        assert found["n"] == 10
        assert set(found["metrics"]) == {"ndcg@10", "mrr@10", "recall@100", "hit@5", "hit@10"}
        runs.append(path)
    code, out, err = run("compare", *runs, *common, "--metrics", "ndcg@10,map@20")
    assert code == 0, err
    assert set(json.loads(out)["delta"]) == {"ndcg@10", "map@20"}
    assert run("evaluate", "--model", "tiny@1", "--part", "all", *common)[0] == 2


def test_audit_exits_with_3_on_a_leak(run, kb):
    common = ("--db", kb, "--table", "docs", *JUDGED, "--json")
    code, out, _ = run("audit", *common)
    assert code in (0, 3)
    assert json.loads(out)


def test_search_shows_columns_and_filters(run, kb):
    run("reindex", "run", "--db", kb, "--table", "docs", "--model", "tiny@1", "--force")
    words = ("search", "doc number 7", "--db", kb, "--table", "docs", "--mode", "vector")
    code, out, err = run(*words, "-k", "3", "--select", "id", "--where", "id != 'd7'", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["n"] == 3
    assert "d7" not in [row["id"] for row in found["results"]]
    assert run(*words, "--where", "id = ")[0] == 2
    assert run(*words, "-k", "0")[0] == 2
    assert "doc number" in run(*words)[1]


@pytest.mark.parametrize("option", [("--max-pairs", "5"), ("--split-column", "fold")])
@pytest.mark.parametrize("verb", ["train", "tune", "distill", "mine", "train-reranker", "audit"])
def test_options_of_judged_queries_are_refused_with_data(verb, option, run, kb, tmp_path):
    if (verb, option[0]) == ("audit", "--max-pairs"):
        return  # which has none
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"query": "a", "positive": "b"}\n')
    words = {
        "distill": ("--teacher", "tiny@1", "--name", "x"),
        "mine": ("--table", "docs"),
        "audit": (),
    }.get(verb, ("--name", "x"))
    code, out, _ = run(verb, *words, "--db", kb, "--data", file, *option, "--json")
    found = json.loads(out)
    assert (code, found["error"]) == (2, "InputError")
    assert f"{option[0]} is for judged queries (--queries-table, --qrels-table)" in found["message"]


def test_what_is_trained_on_is_counted_without_what_is_held_out(run, tmp_path):
    write_training_file(TrainingSet.of_pairs(toy_pairs()), tmp_path / "pairs.jsonl")
    words = ("train", "--data", tmp_path / "pairs.jsonl", "--base", toy_model(tmp_path / "m"))
    words += ("--store", tmp_path / "store", "--name", "t", "--learning-rate", "0.005")
    for more in (("--epochs", "2"), ("--query-only", "--epochs", "8")):
        code, out, err = run(*words, *more, "--batch-size", "16", "--device", "cpu", "--json")
        assert code == 0, err
        assert json.loads(out)["n_train"] == 144  # of 160, a tenth is held out


def test_max_tokens_are_checked_for_a_query_adapter_too(run, kb, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"query": "a", "positive": "b"}\n')
    words = ("train", "--db", kb, "--data", file, "--name", "x", "--query-only", "--explain")
    code, _, err = run(*words, "--max-tokens", "-5")
    assert code == 2
    assert "max_tokens is -5; it must be a whole number, 8 or more" in err


def test_a_path_is_printed_as_it_is(run, tmp_path):
    folder = tmp_path / "a[old]" / ("long" * 20)
    folder.mkdir(parents=True)
    file = folder / "corpus[x].jsonl"
    file.write_text('{"_id": "1", "text": "one", "meta[/x]": {"deep": 1}}\n')
    code, out, err = run("load", "--db", tmp_path / "kb", "--corpus", file)
    assert code == 0, err
    assert str(file) in out
    assert "meta[/x]" in out


def test_load_looks_at_the_files_before_it_makes_a_database(run, tmp_path):
    words = ("load", "--db", tmp_path / "typo", "--corpus")
    for source, told in (("missing.jsonl", "does not exist"), (tmp_path, "is a folder")):
        code, _, err = run(*words, source)
        assert code == 2
        assert told in err
    assert list(tmp_path.iterdir()) == []


def test_load_says_where_no_database_can_be_made(run, tmp_path):
    file = tmp_path / "corpus.jsonl"
    file.write_text('{"_id": "1", "text": "one"}\n')
    places = [file, *(["/proc/kb"] if sys.platform == "linux" else [])]
    for place in places:
        code, out, _ = run("load", "--db", place, "--corpus", file, "--json")
        found = json.loads(out)
        assert (code, found["error"]) == (2, "InputError")
        assert f"no LanceDB database at {str(place)!r}, and none can be made" in found["message"]


def test_a_model_alone_is_searched_in_no_mode(run, kb):
    words = ("evaluate", "--db", kb, "--table", "docs", *JUDGED, "--model", "x", "--mode", "fts")
    code, out, _ = run(*words, "--json")
    assert (code, "Leave one of them out" in json.loads(out)["message"]) == (2, True)


def test_a_run_file_is_looked_at_before_the_search(run, kb, tmp_path, monkeypatch):
    monkeypatch.setattr("lancedb_ft.cli.evaluate.evaluate", None)
    words = ("evaluate", "--db", kb, "--table", "docs", *JUDGED, "--run")
    for place, told in ((tmp_path, "is a folder"), (tmp_path / "no" / "x.run", "no folder")):
        code, out, _ = run(*words, place, "--json")
        assert (code, json.loads(out)["error"]) == (2, "InputError")
        assert told in json.loads(out)["message"]
