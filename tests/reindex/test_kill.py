"""SIGKILL the re-indexer again and again, under a reader that must never notice."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import lancedb
import numpy as np
import pytest
from lancedb.embeddings import get_registry
from lancedb.index import FTS, IvfFlat
from lancedb.pydantic import LanceModel, Vector

import lancedb_ft
from lancedb_ft.generation import read_state
from lancedb_ft.reindex.checks.verify import verify
from lancedb_ft.table import dataset
from tests.tiny import tiny_model

N_ROWS = 4000


@pytest.fixture
def database(tmp_path):
    """A table that searches with one tiny model, and another one in the store."""
    uri = str(tmp_path / "db")
    store = lancedb_ft.ModelStore(str(tmp_path / "db" / "ft_models"))
    for seed in (1, 2):
        store.save(tiny_model(tmp_path / f"m{seed}", seed=seed, dims=32), name="tiny", manifest={})
    function = get_registry().get("ft-embed").create(name="tiny@1", store=f"{uri}/ft_models")

    class Document(LanceModel):
        id: str
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(uri).create_table("docs", schema=Document)
    rng = np.random.default_rng(0)
    words = [
        "open",
        "settings",
        "page",
        "choose",
        "password",
        "cancel",
        "order",
        "money",
        "back",
        "quick",
        "fox",
    ]
    for start in range(0, N_ROWS, 1000):
        rows = [
            {"id": str(i), "text": f"{' '.join(rng.choice(words, 6))} {i}"}
            for i in range(start, start + 1000)
        ]
        table.add(rows)
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    return uri


def command(uri, *more):
    verb = ["reindex", "run", "--db", uri, "--table", "docs", "--model", "tiny@2", "--force"]
    return [sys.executable, "-m", "lancedb_ft", *verb, "--json", *more]


def survive(uri, folder, n_kills, seed):
    reader = subprocess.Popen(
        [sys.executable, str(Path(__file__).parent / "reader.py"), uri, str(folder)]
    )
    rng = random.Random(seed)
    killed = 0
    try:
        while killed < n_kills:
            process = subprocess.Popen(
                command(uri), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
            )
            try:
                # From before the first commit to about when an undisturbed run is done.
                process.wait(timeout=rng.uniform(1.0, 9.0))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
            killed += 1
        last = subprocess.run(command(uri), capture_output=True, text=True, check=True)
        time.sleep(1)
    finally:
        (folder / "stop").touch()
        reader.wait(timeout=60)
    error = folder / "error"
    assert not error.exists(), json.loads(error.read_text())
    assert int((folder / "count").read_text()) > 10
    return json.loads(last.stdout)


def check_end(uri):
    table = lancedb.connect(uri).open_table("docs")
    state = read_state(dataset(table).schema, table="docs")
    assert state.active.model == "tiny@2"
    encoder = lancedb_ft.get_encoder("tiny@2", store=f"{uri}/ft_models")
    check = verify(table, state.active, encoder, n=N_ROWS)
    assert (check.n_rows, check.n_stale) == (N_ROWS, 0)
    assert dataset(table).count_rows(f"{state.active.column} is null") == 0


def test_killed_twice(database, tmp_path):
    assert survive(database, tmp_path, n_kills=2, seed=0)["switched"]
    check_end(database)


@pytest.mark.slow
def test_killed_twenty_times(database, tmp_path):
    assert survive(database, tmp_path, n_kills=20, seed=1)["switched"]
    check_end(database)


@pytest.mark.slow
def test_ten_kills_among_writers_readers_and_an_optimizer():
    script = Path(__file__).parents[2] / "benchmarks" / "chaos_reindex.py"
    options = ["--kills", "10", "--rows", "200", "--seconds-limit", "600"]
    done = subprocess.run(
        [sys.executable, str(script), *options], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    for line in found["aims"]:
        met = line["value"] >= line["aim"] if line["op"] == ">=" else line["value"] == line["aim"]
        assert met, (line, found)
