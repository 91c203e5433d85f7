"""The command line of probes, replay and interpolation."""

import json

import lancedb
import pytest

from lancedb_ft.cli import main
from lancedb_ft.data import write_training_file
from lancedb_ft.training_sets import TrainingSet
from tests.train.test_probe import documents
from tests.train.toy import toy_model, toy_pairs


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Files of training data, a table of documents, and a base model."""
    folder = tmp_path_factory.mktemp("place")
    sets = {
        "train": toy_pairs(),
        "dev": toy_pairs(30, seed=1, prefix="dev"),
        "new": toy_pairs(60, seed=2, prefix="new"),
        "newdev": toy_pairs(20, seed=3, prefix="newdev"),
        "faq": toy_pairs(40, seed=4, prefix="faq"),
    }
    for name, pairs in sets.items():
        write_training_file(TrainingSet.of_pairs(pairs), folder / f"{name}.jsonl")
    db = lancedb.connect(str(folder / "kb"))
    rows = [{"id": i, "text": t} for i, t in documents().items() if t.strip()]
    db.create_table("manual", rows)
    toy_model(folder / "base")
    return folder


def run(monkeypatch, capsys, *words):
    monkeypatch.setattr("sys.argv", ["lancedb-ft", *map(str, words)])
    code = 0
    try:
        main()
    except SystemExit as ended:
        code = ended.code or 0
    out = capsys.readouterr().out
    return code, json.loads(out) if out.startswith("{") else out


FAST = ("--batch-size", 16, "--learning-rate", "5e-3", "--device", "cpu", "--json")


def test_train_go_on_and_interpolate(place, monkeypatch, capsys):
    base = place / "base" / "model"
    common = ("--db", place / "kb", "--store", place / "store", "--name", "toy")
    code, told = run(
        monkeypatch, capsys, "train", *common, "--base", base, "--epochs", 2, *FAST,
        "--data", place / "train.jsonl", "--dev", place / "dev.jsonl",
        "--probe", place / "faq.jsonl", "--probe", "docs:manual", "--max-regression", 1,
    )  # fmt: skip
    assert (code, told["ref"]) == (0, "toy@1")
    assert set(told["metrics"]["probe"]) == {"faq.jsonl", "docs manual"}
    assert told["metrics"]["probe"]["faq.jsonl"]["n"] == 40

    going_on = (
        "train", *common, "--base", "toy@1", "--epochs", 1, *FAST,
        "--data", place / "new.jsonl", "--dev", place / "newdev.jsonl", "--replay", "0.25",
    )  # fmt: skip
    code, told = run(monkeypatch, capsys, *going_on, "--max-regression", "0.5")
    assert (code, told.get("ref")) == (0, "toy@2"), told
    assert told["metrics"]["probe"]["toy@1 dev"]["n"] == 30
    code, told = run(
        monkeypatch, capsys, "interpolate", "--base", base, "--tuned", "toy@1", "--name", "mixed",
        "--dev", place / "newdev.jsonl", "--store", place / "store", "--alpha", 0.5, "--alpha", 1,
        "--probe", place / "faq.jsonl", "--max-regression", 1, "--device", "cpu", "--json",
    )  # fmt: skip
    assert (code, told["ref"]) == (0, "mixed@1")
    assert [trial["alpha"] for trial in told["trials"]] == [0.0, 0.5, 1.0]
    code, told = run(
        monkeypatch, capsys, "interpolate", "--base", "toy@1", "--tuned", "toy@1", "--name", "same",
        "--dev", place / "newdev.jsonl", "--store", place / "store", "--alpha", 1, "--json",
    )  # fmt: skip
    assert (code, told["error"]) == (3, "NoGainError")


def test_wrong_usage_is_told(place, monkeypatch, capsys):
    start = ("train", "--name", "toy", "--store", place / "store", "--json")
    data = ("--data", place / "train.jsonl")
    code, told = run(monkeypatch, capsys, *start, *data, "--replay-data", place / "new.jsonl")
    assert (code, told["error"]) == (2, "InputError")
    assert "--replay SHARE" in told["message"]
    code, told = run(monkeypatch, capsys, *start, *data, "--probe", "docs:manual")
    assert code == 2
    assert "--db" in told["message"]
