"""Two processes on this machine, started as users start them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lancedb_ft.data import write_training_file
from lancedb_ft.errors import NoGainError
from lancedb_ft.store import ModelStore
from lancedb_ft.train.distributed import ALONE, told_rank
from lancedb_ft.training_sets import TrainingSet
from tests.train.toy import toy_model, toy_pairs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="gloo and processes of a launcher")


def launch(folder, *options):
    """Train on files in a folder with two processes; return the ended command."""
    # With --cpu accelerate starts one process, unless MPI is there; with --multi_gpu it starts as
    # many as it is told, and they find no GPU.
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu"]
    command += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    command += ["--dynamo_backend", "no", "--main_process_port", "0"]
    command += ["-m", "lancedb_ft", "train", "--name", "toy"]
    command += ["--base", str(folder / "toy" / "model"), "--store", str(folder / "store")]
    command += ["--data", str(folder / "train.jsonl"), "--dev", str(folder / "dev.jsonl")]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LANCEDB_FT_DB": ""}
    return subprocess.run(
        [*command, "--device", "cpu", "--json", *options],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        timeout=250,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("launched")
    toy_model(path / "toy")
    for name, pairs in (("train", toy_pairs()), ("dev", toy_pairs(30, seed=1, prefix="dev"))):
        write_training_file(TrainingSet.of_pairs(pairs), path / f"{name}.jsonl")
    return path


@pytest.mark.slow
def test_two_processes_train_one_model_and_the_first_one_tells(folder):
    options = ("--batch-size", "8", "--learning-rate", "5e-3", "--epochs", "2")
    done = launch(folder, *options)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)  # one object, from one process
    (version,) = ModelStore(folder / "store").list()
    assert told["ref"] == version.ref == "toy@1"
    training = version.manifest["training"]
    # 160 pairs, 2 processes with 8 each: 10 steps an epoch.
    assert (training["processes"], training["steps"]) == (2, 20)
    history = version.manifest["dev"]["history"]
    assert max(history.values()) > history["0"] + 0.1
    assert list((folder / "store" / ".runs").iterdir()) == []


@pytest.mark.slow
def test_a_refusal_ends_both_processes(folder):
    done = launch(folder, "--loss", "hinge")
    assert done.returncode != 0
    assert done.stdout.count("There is no loss 'hinge'") == 1


def test_alone_nothing_is_told_to_anyone(monkeypatch):
    assert ALONE.first(lambda: 5) == 5
    assert ALONE.average(2.5) == 2.5
    with pytest.raises(NoGainError):
        ALONE.first(fail)
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert told_rank() == 0
    monkeypatch.setenv("WORLD_SIZE", "4")
    assert told_rank() == 3


def fail():
    raise NoGainError(metric="ndcg@10", base=0.5, best=0.4, n_queries=3)
