"""Arguments that cannot be used: each is told by name, before any work, by every verb alike."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import InputError, StoreError
from lancedb_ft.train.checks import MAX_SEED
from lancedb_ft.train.distillation.config import DistillConfig
from lancedb_ft.train.tuning.space import SearchSpace, limited
from tests.train.toy import FAST, toy_model, toy_pairs

DEV = toy_pairs(30, seed=1, prefix="dev")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("arguments"))


@pytest.mark.parametrize(
    ("argument", "value", "told"),
    [
        ("learning_rate", "1e-4", "learning_rate is '1e-4'"),
        ("learning_rate", float("nan"), "learning_rate is nan"),
        ("warmup", "0.1", "warmup is '0.1'"),
        ("temperature", "x", "temperature is 'x'"),
        ("max_regression", "a", "max_regression is 'a'"),
        ("replay", "a", "replay is 'a'"),
        ("matryoshka_dims", 8, "matryoshka_dims is 8"),
        ("matryoshka_dims", "8", "matryoshka_dims is '8'"),
        ("loss", ["mnrl"], r"no loss \['mnrl'\]"),
        ("seed", 2**64, "seed is 18446744073709551616"),
        ("max_tokens", -5, "max_tokens is -5"),
        ("distractors", ["a text"], "distractors is a list"),
        ("distractors", {"a": 5}, "distractors has a int under 'a'"),
        ("dev", "dev.jsonl", "dev is a str"),
        ("name", None, "name is None"),
        ("store", 5, "store is a int"),
    ],
)
def test_train_names_what_has_the_wrong_type(base, tmp_path, argument, value, told):
    given = {"dev": DEV, "name": "toy", "store": str(tmp_path / "store"), "device": "cpu"}
    with pytest.raises(InputError, match=told):
        ft.train(base, toy_pairs(32), **{**given, argument: value})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("data", [None, "clicks.jsonl", {"a": "b"}, [toy_pairs(4), "x"], []])
def test_data_that_is_none(base, tmp_path, data):
    with pytest.raises(InputError, match="data to train on"):
        ft.train(base, data, dev=DEV, name="toy", store=str(tmp_path))


def test_one_name_to_report_to_is_one_name(base, tmp_path):
    with pytest.raises(InputError, match="report_to names 'nowhere'"):
        ft.train(base, toy_pairs(32), name="toy", store=str(tmp_path), report_to="nowhere")


@pytest.mark.parametrize("given", [{"run_dir": "x"}, {"report_to": "tensorboard"}])
def test_a_query_adapter_refuses_what_it_would_not_heed(base, tmp_path, given):
    with pytest.raises(InputError, match=f"{next(iter(given))} is for fine-tuning"):
        ft.train(base, toy_pairs(32), name="q", store=str(tmp_path), query_only=True, **given)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"seed": -1}, "seed is -1"),
        ({"seed": MAX_SEED + 1}, "seed is 4294967296"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"learning_rate": "a"}, "learning_rate is 'a'"),
        ({"batch_size": True}, "batch_size is True"),
        ({"student": None}, "student is a NoneType"),
    ],
)
def test_a_distillation_has_the_same_ranges(given, told):
    with pytest.raises(InputError, match=told):
        DistillConfig(**given)


def test_a_distillation_needs_a_dev_set(base, tmp_path):
    with pytest.raises(InputError, match="dev is a NoneType"):
        ft.distill(base, toy_pairs(32), name="s", dev=None, store=str(tmp_path))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"alphas": ["a"]}, r"alphas are \['a'\]"),
        ({"alphas": 0.5}, r"alphas are 0\.5"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"seed": -1}, "seed is -1"),
        ({"dev": None}, "dev is a NoneType"),
        ({"distractors": ["a"]}, "distractors is a list"),
    ],
)
def test_an_interpolation_has_the_same_ranges(base, tmp_path, given, told):
    usual = {"dev": DEV, "name": "between", "store": str(tmp_path), "device": "cpu"}
    with pytest.raises(InputError, match=told):
        ft.interpolate_models(base, base, **{**usual, **given})


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        ({"lr": (1e-4, 1e-3)}, "'lr', which is not searched; what is: learning_rate, batch_size"),
        ({"epochs": 1}, r"epochs is 1; give the choices in a tuple: \(1,\)"),
        ({"loss": "mnrl"}, "loss is 'mnrl'; give the choices"),
        ({"learning_rate": ("a", "b")}, "two numbers above 0"),
        ({"learning_rate": 1e-4}, "two numbers above 0"),
    ],
)
def test_the_limits_of_a_search(limits, told):
    with pytest.raises(InputError, match=told):
        limited(SearchSpace(), limits)


# --- where it is saved ---------------------------------------------------------------------

CALLS = {
    "train": lambda base, **k: ft.train(base, toy_pairs(32), **FAST, **k),
    "query_only": lambda base, **k: ft.train(base, toy_pairs(32), query_only=True, **k),
    "distill": lambda base, **k: ft.distill(base, toy_pairs(32), **k),
    "tune": lambda base, **k: ft.tune(base, toy_pairs(32), n_trials=1, **k),
    "interpolate": lambda base, **k: ft.interpolate_models(base, base, **k),
}


def never(*_of, **_named):
    raise AssertionError("a model was loaded before the store was looked at")


@pytest.mark.parametrize("verb", CALLS)
def test_a_file_is_no_store_and_is_told_before_a_model_is_loaded(base, tmp_path, verb, monkeypatch):
    file = tmp_path / "models"
    file.write_text("x")
    monkeypatch.setattr("lancedb_ft.encoder.loading.load_sentence_transformer", never)
    for store in (file, file / "deeper"):
        with pytest.raises(StoreError, match=r"must be a folder, and .*models' is a file"):
            CALLS[verb](base, dev=DEV, name="toy", store=str(store))


# Everything is imported first: another user may not read where the modules lie.
DROPPED = """
import os, sys
from lancedb_ft.errors import StoreError
from lancedb_ft.train.places import Path, check_store, make_folder
shut = Path(sys.argv[1])
check_store(str(shut / "new"))
os.setgid(65534)
os.setuid(65534)
for ask in (check_store, lambda s: check_store(s + "/new"), lambda s: make_folder(Path(s) / "r")):
    try:
        ask(str(shut))
    except StoreError as error:
        print(error)
"""


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="drops privileges")
def test_a_store_that_this_user_cannot_write_to_is_told():
    with tempfile.TemporaryDirectory() as shut:
        os.chmod(shut, 0o755)
        told = subprocess.run(
            [sys.executable, "-c", DROPPED, shut],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[2],
            check=False,
        )
        assert os.listdir(shut) == []
    lines = told.stdout.splitlines()
    assert len(lines) == 3, told.stdout + told.stderr
    assert all("cannot be written to by this user" in line for line in lines[:2])
    assert "cannot be made (Permission denied)" in lines[2]


# --- what is left behind -------------------------------------------------------------------


def test_a_run_that_is_refused_before_its_first_step_leaves_no_folder(base, tmp_path):
    with pytest.raises(InputError, match="have a sentence and more"):
        ft.train(
            base,
            toy_pairs(32),
            dev=DEV,
            name="toy",
            store=str(tmp_path),
            probe={"a": "too short", "b": None},
            **FAST,
        )
    assert list((tmp_path / ".runs").iterdir()) == []


def test_a_teacher_that_finds_nothing_is_told_before_its_vectors_are_computed(base, tmp_path):
    lost = pa.table(
        {
            "query_id": ["q"],
            "query": ["alpha"],
            "doc_id": ["d"],
            "document": ["zulu yankee xray"],
        }
    )
    told = []
    with pytest.raises(InputError, match="0 on all 1 dev queries"):
        ft.distill(
            base,
            [*toy_pairs(200).corpus.values(), "alpha"],
            name="s",
            dev=ft.Pairs(lost),
            store=str(tmp_path),
            metric="hit@1",
            device="cpu",
            progress=lambda done, total: told.append(done),
        )
    assert told == []
    assert list((tmp_path / ".runs").iterdir()) == []
