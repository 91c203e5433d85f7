"""SIGKILL at the worst moments, then the same call: the model is that of a run nobody killed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lancedb_ft.train import train
from tests.train.killed import arguments
from tests.train.toy import toy_model, toy_pairs

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGKILL")


@pytest.mark.slow
def test_killed_twice_and_still_the_same_model(tmp_path):
    base = toy_model(tmp_path / "toy")
    whole = train(base, toy_pairs(), **arguments(str(tmp_path / "whole")))
    store = tmp_path / "killed"
    # A checkpoint every 3 steps. The second is written and not sealed, so the first one counts.
    assert kill(base, store, "seal", 2) == (0, [3])
    began, sealed = kill(base, store, "best", 1)
    assert began == 3
    (checkpoint,) = sealed
    steps = []
    saved = train(
        base,
        toy_pairs(),
        progress=lambda done, total: steps.append(done),
        **arguments(str(store)),
    )
    assert steps[0] == checkpoint
    assert saved.fingerprint == whole.fingerprint
    assert saved.manifest["dev"]["history"] == whole.manifest["dev"]["history"]
    assert sorted(p.name for p in store.iterdir()) == [".runs", "toy"]
    assert list((store / ".runs").iterdir()) == []


def kill(base, store, where, number):
    """Run until it kills itself; return the step it began at and the checkpoints it left sealed."""
    command = [sys.executable, "-u", "-m", "tests.train.killed", base, str(store)]
    done = subprocess.run(
        [*command, str(torch.get_num_threads()), where, str(number)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr[-2000:]
    assert not (store / "toy").exists()
    (run,) = (store / ".runs").iterdir()
    sealed = [int(p.parent.name.split("-")[1]) for p in run.glob("checkpoint-*/sealed.json")]
    return int(done.stdout.split()[0]), sealed
