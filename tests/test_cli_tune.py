"""``lancedb-ft tune``: a table of trials for people, one object with --json, 3 without a gain."""

import json

from lancedb_ft.data import write_training_file
from lancedb_ft.training_sets import TrainingSet
from tests.train.toy import toy_model, toy_pairs


def test_a_search_over_files(run, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    for name, pairs in (("train", toy_pairs(48)), ("dev", toy_pairs(30, 1, "dev"))):
        write_training_file(TrainingSet.of_pairs(pairs), tmp_path / f"{name}.jsonl")
    words = ("tune", "--name", "toy", "--base", toy_model(tmp_path / "m"), "--device", "cpu")
    words += ("--data", tmp_path / "train.jsonl", "--dev", tmp_path / "dev.jsonl")
    words += ("--epochs", "1", "--batch-size", "16", "--pooling", "own", "--loss", "mnrl")
    still = (*words, "--learning-rate", "1e-12,1e-12", "--store", tmp_path / "none")
    code, out, err = run(*still, "--trials", "1", "--json")
    assert code == 3, out + err
    assert json.loads(out)["model"] is None
    words += ("--learning-rate", "5e-3,5e-3", "--store", tmp_path / "models")
    code, out, err = run(*words, "--trials", "1", "--json")
    assert code == 0, out + err
    found = json.loads(out)
    assert found["model"] == "toy@1"
    assert found["trials"][0]["arguments"]["batch_size"] == 16
    code, out, err = run(*words, "--trials", "1")  # nothing is trained again
    assert code == 0, err
    told = " ".join(out.split())
    assert "learning_rate" in told
    assert "Saved toy@1" in told
    assert "tune.png" in out


def test_no_trial_at_all_is_not_a_trial_without_a_gain(run, tmp_path):
    write_training_file(TrainingSet.of_pairs(toy_pairs(48)), tmp_path / "train.jsonl")
    words = ("tune", "--name", "toy", "--base", toy_model(tmp_path / "m"), "--device", "cpu")
    words += ("--data", tmp_path / "train.jsonl", "--store", tmp_path / "models", "--trials", "1")
    code, out, _ = run(*words, "--timeout", "1e-9")
    assert code == 3
    assert "No trial was run" in " ".join(out.split())
    assert "beats the base" not in out
    code, out, _ = run(*words, "--timeout", "1e-9", "--json")
    assert (code, json.loads(out)["metric"]) == (3, "ndcg@10")


def test_what_cannot_be_read_is_wrong_usage(run, tmp_path):
    write_training_file(TrainingSet.of_pairs(toy_pairs(8)), tmp_path / "train.jsonl")
    words = ("tune", "--name", "toy", "--data", tmp_path / "train.jsonl", "--store", tmp_path)
    code, _, err = run(*words, "--epochs", "one")
    assert code == 2
    assert "--epochs" in err
