"""Real searches on a tiny model: what is tried, pruned, kept, and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time
from importlib import import_module
from pathlib import Path

import optuna
import pyarrow as pa
import pytest

from lancedb_ft.errors import InputError, LeakError, MissingExtraError, NoGainError, TrainingError
from lancedb_ft.store import ModelStore
from lancedb_ft.train import explain_training
from lancedb_ft.train.tuning.space import SearchSpace, default_space
from lancedb_ft.train.tuning.study import open_study
from lancedb_ft.train.tuning.tune import _Follower, tune
from lancedb_ft.training_sets import TrainingSet
from tests.train.toy import toy_model, toy_pairs

SPACE = SearchSpace(
    learning_rate=(1e-4, 1e-2),
    batch_size=(16, 32),
    epochs=(1,),
    pooling=(None, "cls"),
    temperature=(0.03, 0.1),
)
DEV = toy_pairs(40, seed=1, prefix="dev")


@pytest.fixture(scope="session")
def model(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("tune"))


def search(model, store, n_trials=5, **settings):
    settings = {"space": SPACE, "seed": 0, "device": "cpu", **settings}
    return tune(
        model, toy_pairs(64), dev=DEV, name="toy", store=str(store), n_trials=n_trials, **settings
    )


@pytest.fixture(scope="session")
def whole(model, tmp_path_factory):
    """A search of five trials that nothing interrupted, with its events and its store."""
    store, events = tmp_path_factory.mktemp("whole"), []
    return search(model, store, on_event=events.append), events, store


def outcomes(report):
    return [(t.number, t.state, dict(t.arguments), t.value) for t in report.trials]


def test_the_best_trial_becomes_a_version_with_the_study_in_its_manifest(whole):
    report, _, store = whole
    assert report.check().ok
    best = report.best
    assert best.value == max(t.value for t in report.trials if t.state == "complete")
    assert best.value > report.base
    assert best.ci95[0] <= best.value <= best.ci95[1]
    [saved] = ModelStore(str(store)).list("toy")
    assert saved.ref == report.model.ref == "toy@1"
    manifest = saved.manifest
    assert manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"] == best.value
    assert manifest["training"]["learning_rate"] == best.arguments["learning_rate"]
    assert manifest["study"]["trial"] == best.number
    assert len(manifest["study"]["trials"]) == 5
    assert "juliet" not in json.dumps(manifest["study"])
    assert json.loads(json.dumps(report.to_dict()))["model"] == "toy@1"
    assert Path(report.plot).read_bytes()[:4] == b"\x89PNG"


def test_a_trial_is_pruned_and_the_weights_of_losing_trials_are_deleted(whole):
    report, _, _ = whole
    trials = Path(report.folder) / "trials"
    assert not list(trials.rglob("*.safetensors"))
    assert [t.state for t in report.trials] == ["complete"] * 4 + ["pruned"]
    assert report.trials[4].value is not None


def test_events_tell_their_trial(whole):
    report, events, _ = whole
    ended = [event for event in events if event["event"] == "trial"]
    assert [event["trial"] for event in ended] == list(range(5))
    assert ended[-1]["best"] == report.best.value
    assert {e["trial"] for e in events if e["event"] == "loss"} == set(range(5))


def test_the_same_call_repeats_nothing_and_more_trials_go_on(whole, model):
    report, _, store = whole
    told = []
    again = search(model, store, on_event=told.append)
    assert told == []
    assert outcomes(again) == outcomes(report)
    assert again.model.ref == report.model.ref
    assert len(ModelStore(str(store)).list("toy")) == 1
    more = search(model, store, n_trials=6, on_event=told.append)
    assert outcomes(more)[:5] == outcomes(report)
    assert {event["trial"] for event in told} == {5}


def test_what_is_measured_in_another_corpus_is_another_study(model, tmp_path):
    first = search(model, tmp_path, n_trials=1)
    others = toy_pairs(40, seed=5, prefix="x").corpus
    other = search(model, tmp_path, n_trials=1, distractors=others)
    assert other.folder != first.folder
    assert other.base != first.base
    same = dict(reversed(list(others.items())))
    assert search(model, tmp_path, n_trials=1, distractors=same).folder == other.folder


class Stop(Exception):
    pass


def test_a_search_that_was_stopped_ends_as_one_that_was_not(whole, model, tmp_path):
    report, _, _ = whole

    def stop_in_trial_2(event):
        if event["event"] == "evaluation" and event["trial"] == 2 and event["step"] > 0:
            raise Stop

    with pytest.raises(Stop):
        search(model, tmp_path, n_trials=4, on_event=stop_in_trial_2)
    told = []
    resumed = search(model, tmp_path, n_trials=4, on_event=told.append)
    assert min(event["trial"] for event in told) == 2
    assert outcomes(resumed) == outcomes(report)[:4]


KILLED = """
import sys
from tests.train.test_tune import search
search(sys.argv[1], sys.argv[2], on_event=lambda e: print(e["event"], e["trial"], flush=True))
"""


@pytest.mark.slow
def test_a_killed_search_goes_on(whole, model, tmp_path):
    report, _, _ = whole
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, model, str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
    )
    for line in child.stdout:
        if line.split() == ["evaluation", "2"]:
            break
    time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    child.stdout.close()
    assert outcomes(search(model, tmp_path)) == outcomes(report)


def test_a_trial_that_is_behind_is_pruned_and_its_value_kept(model, tmp_path):
    """Events by hand, so that it is known when; the pruner is the real one."""
    fast = SearchSpace((3e-3, 1e-2), (16,), (1,), (None,), None)
    study = tmp_path / "study"
    states = []
    with open_study(study, {"x": 1}, seed=0) as folder:
        first = {"learning_rate": 5e-3, "batch_size": 16, "epochs": 1, "pooling": None}
        for slot in range(5):
            planned = folder.next_trial(fast, {**first, "loss": None})
            follower, state = _Follower(planned, None), "COMPLETE"
            try:
                for step in range(1, 5):
                    value = (0.1 if slot == 4 else 0.5) + step / 100
                    figure = {"ndcg@10": {"mean": value, "ci95": [value, value]}}
                    follower.follow(
                        {
                            "event": "evaluation",
                            "step": step,
                            "steps": 4,
                            "metric": "ndcg@10",
                            "value": value,
                            "dev": figure,
                        }
                    )
            except optuna.TrialPruned:
                state = "PRUNED"
            value = None if state == "PRUNED" else planned.trial.user_attrs["value"]
            folder.study.tell(planned.trial, value, state=optuna.trial.TrialState[state])
            states.append((state, planned.trial.user_attrs["value"]))
    assert [state for state, _ in states] == ["COMPLETE"] * 4 + ["PRUNED"]
    assert states[4][1] == pytest.approx(0.12)


def test_no_gain_at_all_saves_nothing_and_says_so(model, tmp_path):
    still = SearchSpace((1e-12, 1e-12), (16,), (1,), (None,), None)
    report = search(model, tmp_path, n_trials=2, space=still)
    assert report.model is None
    assert [(t.state, t.gain) for t in report.trials] == [("complete", False)] * 2
    assert all(t.value == pytest.approx(report.base, abs=1e-6) for t in report.trials)
    with pytest.raises(NoGainError):
        report.check()


def test_one_process_searches_at_a_time_and_a_folder_is_of_one_study(model, tmp_path):
    with (
        open_study(tmp_path / "s", {"a": 1}, seed=0),
        pytest.raises(TrainingError, match="Another process"),
        open_study(tmp_path / "s", {"a": 1}, seed=0),
    ):
        pass
    with (
        pytest.raises(InputError, match="different are: a"),
        open_study(tmp_path / "s", {"a": 2}, seed=0),
    ):
        pass
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_text("x")
    with (
        pytest.raises(InputError, match="other files"),
        open_study(tmp_path / "other", {"a": 1}, seed=0),
    ):
        pass


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"epochs": ()}, "epochs has no choices"),
        ({"epochs": (0,)}, "epochs is 0"),
        ({"pooling": ("max",)}, "pooling is 'max'"),
        ({"loss": ("none",)}, "no loss 'none'"),
        ({"learning_rate": (1e-3, 1e-4)}, "lowest and the highest"),
        ({"temperature": (0.0, 0.1)}, "lowest and the highest"),
    ],
)
def test_a_space_that_could_only_fail_is_refused(settings, told):
    with pytest.raises(InputError, match=told):
        SearchSpace(**settings)


def test_the_space_follows_the_data_and_the_model(model, tmp_path):
    pairs = default_space([toy_pairs(8)], model, 16)
    assert pairs.loss == ("mnrl", "gist")
    assert pairs.pooling == (None, "cls")
    assert pairs.batch_size[0] == 32
    scored = TrainingSet(
        "scored", pa.table({"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]})
    )
    assert default_space([scored], tmp_path, 16).loss == ("cosent", "angle", "cosine")
    assert default_space([scored], tmp_path, 16).pooling == (None,)
    assert default_space([scored, toy_pairs(8)], model, 16).loss == (None,)


def test_the_first_trial_is_what_train_would_choose(model, tmp_path):
    """Of 20,000 rows train takes 128 a batch and two epochs; a space has its own order."""
    asked = {"loss": "mnrl", "learning_rate": 3e-4, "batch_size": 128, "epochs": 2}
    space = SearchSpace(
        (1e-5, 1e-3), (64, 32, 128), (1, 2, 3), ("cls", None), (0.02, 0.1), ("gist", "mnrl")
    )
    first = space.first(asked)
    assert first == {**asked, "pooling": None, "temperature": 0.05}
    narrow = SearchSpace((1e-5, 1e-4), (16, 64), (1,), ("cls",), None, ("gist",))
    assert narrow.first(asked) == {
        **{"learning_rate": 1e-4, "batch_size": 64, "epochs": 1, "pooling": "cls", "loss": "gist"}
    }
    scored = TrainingSet(
        "scored",
        pa.table(
            {
                "sentence1": [f"{i} alpha" for i in range(40)],
                "sentence2": [f"{i} bravo {i % 3}" for i in range(40)],
                "score": [i / 40 for i in range(40)],
            }
        ),
    )
    given = {"name": "s", "store": str(tmp_path), "device": "cpu", "n_trials": 1}
    [trial] = tune(model, scored, limits={"loss": ("angle", "cosent")}, **given).trials
    told = {c.argument: c.value for c in explain_training(model, scored, device="cpu")}
    for argument in ("loss", "learning_rate", "batch_size", "epochs"):
        assert trial.arguments[argument] == told[argument]


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"loss": ("mnrl", "cosent", "triplet")}, "may choose loss 'cosent', and cannot train"),
        ({"batch_size": (16, 1)}, "may choose batch_size 1 with loss 'mnrl'"),
    ],
)
def test_a_choice_that_no_trial_could_be_trained_with_is_refused_before_any(
    model, tmp_path, limits, told
):
    for _ in range(2):  # and it leaves nothing that would refuse the next call
        with pytest.raises(InputError, match=told):
            search(model, tmp_path, space=None, limits=limits)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(LeakError):
        tune(model, toy_pairs(64), dev=toy_pairs(64), name="toy", store=str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_an_input_error_in_a_trial_is_a_failed_trial(model, tmp_path, monkeypatch):
    tune_module = import_module("lancedb_ft.train.tuning.tune")
    real, calls = tune_module.train, []

    def fails_once(*of, **named):
        calls.append(named)
        if len(calls) == 1:
            raise InputError("a choice that nobody foresaw")
        return real(*of, **named)

    monkeypatch.setattr(tune_module, "train", fails_once)
    report = search(model, tmp_path, n_trials=2)
    assert [trial.state for trial in report.trials] == ["failed", "complete"]
    assert "nobody foresaw" in report.trials[0].error
    assert report.model is not None


def test_all_trials_that_failed_say_so(model, tmp_path, monkeypatch):
    def fails(*_of, **_named):
        raise TrainingError("it diverged")

    monkeypatch.setattr(import_module("lancedb_ft.train.tuning.tune"), "train", fails)
    report = search(model, tmp_path, n_trials=2)
    assert (report.metric, report.n_queries, report.base) == ("ndcg@10", 40, None)
    with pytest.raises(TrainingError, match=r"All 2 trials failed, the last one with .*diverged"):
        report.check()


def test_no_limit_of_tokens_is_the_own_one_of_the_model(model, tmp_path):
    limits = {"epochs": (1,), "learning_rate": (5e-3, 5e-3), "batch_size": (16,)}
    report = search(model, tmp_path, 1, space=None, limits=limits, max_tokens=None)
    assert report.model.manifest["training"]["max_tokens"] is None


def test_a_missing_optuna_is_one_install_line(model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingExtraError, match=r"lancedb-ft\[tune\]"):
        search(model, tmp_path)


def test_wrong_numbers(model, tmp_path):
    with pytest.raises(InputError, match="n_trials is 0"):
        search(model, tmp_path, n_trials=0)
    with pytest.raises(InputError, match="timeout_s is 0"):
        search(model, tmp_path, timeout_s=0)


def test_after_the_timeout_no_trial_begins(model, tmp_path):
    report = search(model, tmp_path, n_trials=3, timeout_s=1e-9)
    assert report.trials == []
    assert report.model is None
    assert report.plot is None
    assert (report.metric, report.n_queries) == ("ndcg@10", 40)
    with pytest.raises(TrainingError, match="No trial was run"):
        report.check()
