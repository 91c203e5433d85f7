"""A plain LanceDB application runs through a whole change of models without a restart."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import lancedb
import pytest
from lancedb.embeddings import get_registry
from lancedb.index import FTS, IvfFlat
from lancedb.pydantic import LanceModel, Vector

import lancedb_ft as ft
from lancedb_ft.generation import read_state
from lancedb_ft.reindex.commits import other_functions
from lancedb_ft.table import dataset
from tests.tiny import TEXTS, tiny_model

N_ROWS = 300


@pytest.fixture
def database(tmp_path):
    """A table that searches with one tiny model, and another one in the store."""
    uri = str(tmp_path / "db")
    store = ft.ModelStore(f"{uri}/ft_models")
    for seed in (1, 2):
        store.save(tiny_model(tmp_path / f"m{seed}", seed=seed, dims=32), name="tiny", manifest={})
    function = get_registry().get("ft-embed").create(name="tiny@1", store=store.uri)

    class Document(LanceModel):
        id: str
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(uri).create_table("docs", schema=Document)
    table.add([{"id": str(i), "text": f"{TEXTS[i % 4]} row{i}"} for i in range(N_ROWS)])
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    return uri


class Application:
    """The process: it must search on after each step, and never stop by itself."""

    def __init__(self, uri, folder):
        self._folder = folder
        command = [sys.executable, str(Path(__file__).with_name("application.py")), uri, folder]
        self._process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})

    def count(self):
        """How many rows it searched for."""
        path = self._folder / "count"
        return int(path.read_text()) if path.exists() else 0

    def searches_on(self, n=3, at_most_s=120):
        """Wait until it searched for some more rows, begun after this call."""
        wanted, until = self.count() + n + 1, time.monotonic() + at_most_s
        while self.count() < wanted:
            error = self._folder / "error"
            assert not error.exists(), json.loads(error.read_text())
            assert self._process.poll() is None
            assert time.monotonic() < until, "the application hangs"
            time.sleep(0.02)

    def stop(self):
        """Let it end, and see that it ended well."""
        (self._folder / "stop").touch()
        assert self._process.wait(60) == 0

    def kill(self):
        """Do not leave it behind."""
        self._process.kill()
        self._process.wait()


@pytest.fixture
def application(database, tmp_path):
    application = Application(database, tmp_path)
    yield application
    application.kill()


def test_it_runs_through_stage_backfill_switch_rollback_switch_finish(database, application):
    table = lancedb.connect(database).open_table("docs")
    shown = []

    def active():
        state = read_state(dataset(table).schema, table="docs")
        shown.append(state.active.model)
        application.searches_on()

    def while_it_fills(_done, _total):
        if len(shown) == 1:  # staged, both functions registered, nothing filled yet
            active()

    active()
    ft.reindex(table, "tiny@2", progress=while_it_fills)
    active()
    ft.switch(table, force=True)
    active()
    ft.rollback(table)
    active()
    ft.switch(table, force=True)
    active()
    table.checkout_latest()
    table.optimize()
    ft.finish(table)
    active()
    application.stop()
    assert shown == ["tiny@1"] * 3 + ["tiny@2", "tiny@1"] + ["tiny@2"] * 2
    assert len(other_functions(dataset(table), set())) == 1
    assert application.count() >= 3 * len(shown)
