"""Writers, maintenance, settling and readers at once: no error and no stale answer."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[2] / "benchmarks" / "soak.py"


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    from tests.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("soak"))


@pytest.mark.timeout(300)
@pytest.mark.parametrize("seconds", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_soak(tiny, seconds):
    words = ["--seconds", seconds, "--rows", 300, "--readers", 8 if seconds > 10 else 3]
    command = [sys.executable, SOAK, *map(str, words), "--model", tiny]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert (told["errors"], told["stale"], told["maintenance_failed"]) == ([], [], 0)
    assert min(told["writes"], told["queries"]) > 3
