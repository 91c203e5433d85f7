"""Tables and model stores on s3://, against a real S3 protocol server on loopback."""

import json
import logging
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import lance
import lancedb
import pyarrow as pa
import pytest
from lancedb.index import FTS, IvfFlat
from typer.testing import CliRunner

import lancedb_ft as ft
from lancedb_ft.cli.app import build_app
from lancedb_ft.errors import InputError, LancedbFtError, ReindexStateError
from lancedb_ft.generation import read_state
from lancedb_ft.reindex.checks.verify import verify
from lancedb_ft.reindex.commits import Change, transition
from lancedb_ft.reindex.stage import stage
from lancedb_ft.reindex.target import make_target
from lancedb_ft.storage import use_storage_options
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.table import connect, dataset, open_table
from tests.reindex.s3 import SECRET, all_objects, empty, environment, s3_server
from tests.test_docs_scale import BLOCKS
from tests.tiny import tiny_model

N_ROWS = 240
TEXTS = [f"doc number {i} how do I cancel my order {i * 7 % 13}" for i in range(N_ROWS)]
URI = "s3://bucket/db"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / f"m{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(scope="module")
def server():
    with s3_server() as options:
        yield options


@pytest.fixture
def options(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LANCEDB_FT_CACHE", str(tmp_path / "cache"))
    for name in list(os.environ):
        if name.startswith("AWS_"):
            monkeypatch.delenv(name)
    yield server
    use_storage_options(URI, None)
    empty(server)


@pytest.fixture
def table(options, models):
    """Three fragments and a text index; the models in the store inside the database."""
    db = lancedb.connect(URI, storage_options=options)
    rows = pa.table({"id": [str(i) for i in range(N_ROWS)], "text": TEXTS})
    table = db.create_table("docs", rows.slice(0, 80))
    table.add(rows.slice(80, 80))
    table.add(rows.slice(160))
    store = ft.ModelStore(f"{URI}/ft_models", storage_options=options)
    for folder in models:
        store.save(folder, name="tiny", manifest={})
    return table


def reopened(options):
    return lancedb.connect(URI, storage_options=options).open_table("docs")


def assert_searches_with(options, model):
    table = reopened(options)
    hit = table.search(TEXTS[5], query_type="vector").limit(1).to_list()[0]
    assert (hit["id"], round(hit["_distance"], 4)) == ("5", 0.0)
    assert read_state(table.schema, table="docs").active.model == model


def assert_right(options, n_rows=N_ROWS):
    """No row is lost or twice, and each vector is that of its text by the active model."""
    table = reopened(options)
    generation = read_state(dataset(table).schema, table="docs").active
    encoder = ft.get_encoder(generation.model, store=f"{URI}/ft_models")
    check = verify(table, generation, encoder, n=n_rows)
    assert (check.n_rows, check.n_stale) == (n_rows, 0)
    ids = dataset(table).to_table(columns=["id"])["id"].to_pylist()
    assert len(set(ids)) == len(ids) == n_rows


def test_a_whole_life_on_s3(table, options):
    table.create_index("text", config=FTS())
    assert ft.reindex(table, "tiny@1", force=True).switched
    assert_searches_with(options, "tiny@1")
    table.checkout_latest()
    table.create_index("vector__g2", config=IvfFlat(num_partitions=1))

    pairs = ft.Pairs.of([(f"q{i}", TEXTS[i], str(i), TEXTS[i]) for i in range(0, N_ROWS, 5)])
    gate = ft.Gate(pairs, require="recall@10 >= base - 1")
    report = ft.reindex(table, "tiny@2", gate=gate)
    assert report.switched
    assert report.gate.passed
    assert report.index is not None
    assert report.fill.fragments == 3
    assert_searches_with(options, "tiny@2")

    ft.rollback(table)
    assert_searches_with(options, "tiny@1")
    ft.switch(table, force=True)
    assert_searches_with(options, "tiny@2")
    ft.finish(table)
    assert "vector__g2" not in reopened(options).schema.names

    reopened(options).add([{"id": "new", "text": "written afterwards"}])
    where = "id = '7'"
    reopened(options).update(where=where, values={"text": "another text"})
    again = ft.reindex(table, "tiny@2")
    assert again.fill.encoded == 1  # the changed one; the new one was marked when it was written
    assert_right(options, N_ROWS + 1)
    assert len(list((cache_folder() / "models").iterdir())) == 2


def test_two_committers_at_once_on_s3(table, options):
    """A commit is a put-if-none-match there: of those that read one version, one wins."""
    ds = dataset(table)

    def commit(number):
        change = lance.LanceOperation.UpdateMap({"who": str(number)})
        operation = lance.LanceOperation.UpdateConfig(schema_metadata_updates=change)
        mine = lance.dataset(ds.uri, version=ds.version, storage_options=options)
        barrier.wait()
        try:
            lance.LanceDataset.commit(mine, operation, read_version=ds.version, max_retries=0)
        except lance.commit.CommitConflictError:
            return None
        return number

    barrier = threading.Barrier(6)
    with ThreadPoolExecutor(6) as pool:
        won = [n for n in pool.map(commit, range(6)) if n is not None]
    assert len(won) == 1
    newest = dataset(table)
    assert newest.version == ds.version + 1
    assert newest.schema.metadata[b"who"] == str(won[0]).encode()


def test_transitions_from_several_processes_all_count(table, options):
    """The compare-and-swap of the state: no transition is lost, whatever the order."""

    def add(number):
        mine = reopened(options)
        transition(
            mine,
            lambda state, ds: Change(state.record(event=f"test-{number}")),
            what="count",
        )

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(add, range(5)))
    history = read_state(dataset(table).schema, table="docs").history
    assert sorted(e["event"] for e in history) == [f"test-{n}" for n in range(5)]


def test_no_secret_in_the_bucket_logs_or_errors(table, options, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    ft.reindex(table, "tiny@1", force=True)
    broken = dict(options, endpoint="http://127.0.0.1:9", client_max_retries="0")
    broken["client_retry_timeout"] = "1"
    with pytest.raises((LancedbFtError, OSError, ValueError, RuntimeError)) as caught:
        open_table(connect("s3://bucket/elsewhere", broken), "docs")
    told = [str(caught.value), repr(caught.value), str(caught.value.__cause__)]
    seen = capfd.readouterr()
    told += [caplog.text, seen.out, seen.err, repr(table.schema.metadata)]
    assert not [text for text in told if SECRET in text]
    objects = dict(all_objects(options))
    assert any("/_versions/" in key for key in objects)
    assert not [key for key, data in objects.items() if SECRET.encode() in data]
    files = [p for p in cache_folder().rglob("*") if p.is_file()]
    assert files
    assert not [p for p in files if SECRET.encode() in p.read_bytes()]


VERB = ["reindex", "run", "--db", URI, "--table", "docs", "--model", "tiny@2", "--force", "--json"]


def on_another_machine(tmp_path, options):
    """Start the command line with a job folder of its own."""
    env = {**os.environ, **environment(options), "LANCEDB_FT_CACHE": str(tmp_path / "other")}
    return subprocess.Popen(
        [sys.executable, "-m", "lancedb_ft", *VERB],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=env,
    )


def history(table):
    return read_state(dataset(table).schema, table="docs").history


def wait_until_staged(table, process):
    deadline = time.monotonic() + 100
    while not any(e["event"] == "stage" for e in history(table)):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


@pytest.mark.slow
def test_killed_in_the_middle_and_run_again(table, options, tmp_path):
    process = on_another_machine(tmp_path, options)
    wait_until_staged(table, process)  # what it does at this moment is left to chance
    process.kill()
    process.communicate()
    assert ft.reindex(table, "tiny@2", force=True).switched
    assert_searches_with(options, "tiny@2")
    assert_right(options)


def test_the_command_line_takes_storage_options(table, options):
    use_storage_options(URI, None)
    given = [f"--storage-option={key}={value}" for key, value in options.items()]
    done = CliRunner().invoke(build_app(), [*VERB, *given])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["model"] == "tiny@2"
    assert SECRET not in done.output
    assert_right(options)


def test_a_storage_option_without_a_value_is_refused_and_not_repeated():
    done = CliRunner().invoke(build_app(), [*VERB, "--storage-option", SECRET])
    assert isinstance(done.exception, InputError)
    assert SECRET not in str(done.exception)


def test_another_model_is_refused_while_another_machine_works(
    table, options, tmp_path, monkeypatch
):
    """Its lock file is elsewhere: what it staged is in the table, for all to see."""
    target, _ = make_target(
        table,
        "tiny@2",
        text_column=None,
        vector_column=None,
        store=None,
        dims=None,
        device="cpu",
        precision="float32",
    )
    stage(table, target)
    monkeypatch.setenv("LANCEDB_FT_CACHE", str(tmp_path / "other"))
    with pytest.raises(ReindexStateError, match="already being re-indexed to tiny@2"):
        ft.reindex(reopened(options), "tiny@1", force=True)


@pytest.mark.slow
def test_two_reindexers_on_two_machines(table, options, tmp_path):
    """Each has its own lock file, so only the compare-and-swap stands between them."""
    process = on_another_machine(tmp_path, options)
    wait_until_staged(table, process)
    told = ""
    try:
        ft.reindex(table, "tiny@2", force=True)
    except LancedbFtError as error:
        told = str(error)
    out, err = process.communicate(timeout=180)
    assert process.returncode == 0 or not told, (err, told)
    if process.returncode:
        assert json.loads(out)["error"].startswith("Reindex")
        assert "Traceback" not in err
    assert_searches_with(options, "tiny@2")
    assert_right(options)
    state = read_state(dataset(table).schema, table="docs")
    assert [g.model for g in state.generations if g.model] == ["tiny@2"]
    assert [e["event"] for e in state.history].count("switch") == 1


def test_the_first_block_of_the_document_runs(server, models, tmp_path, monkeypatch, capsys):
    """docs/scale.md, with the environment that it asks for."""
    monkeypatch.setenv("LANCEDB_FT_CACHE", str(tmp_path / "cache"))
    for name, value in environment(server).items():
        monkeypatch.setenv(name, value)
    uri = "s3://bucket/kb"
    lancedb.connect(uri).create_table("docs", pa.table({"id": ["1"], "text": ["one row"]}))
    ft.ModelStore(f"{uri}/ft_models").save(models[0], name="support", manifest={})
    exec(next(text for kind, text in BLOCKS if kind == "python"), {})
    assert capsys.readouterr().out == "support@1 1\n"
    use_storage_options(uri, None)
    empty(server)
