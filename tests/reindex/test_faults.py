"""Faults of the machine: each gives a clear error, loses nothing, and the same call goes on."""

import contextlib
import errno
import os
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import lance
import lancedb
import pytest
from lancedb.embeddings import get_registry
from lancedb.index import FTS, IvfFlat
from lancedb.pydantic import LanceModel, Vector

import lancedb_ft as ft
from lancedb_ft.errors import ModelNotFoundError, StorageError, TornManifestError
from lancedb_ft.generation import read_state
from lancedb_ft.reindex import reindex_status
from lancedb_ft.reindex.checks.verify import verify
from lancedb_ft.reindex.lock import job_lock
from lancedb_ft.table import connect, open_table
from tests.tiny import TEXTS, tiny_model

N_ROWS = 400
DAY_S = 24 * 3600

needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0, reason="mounts file systems"
)


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    """A database with one table that searches with tiny@1; tiny@2 is in its store."""
    root = tmp_path_factory.mktemp("template")
    store = ft.ModelStore(f"{root}/db/ft_models")
    for seed in (1, 2):
        store.save(tiny_model(root / f"m{seed}", seed=seed), name="tiny", manifest={})
    function = get_registry().get("ft-embed").create(name="tiny@1", store=store.uri)

    class Document(LanceModel):
        id: str
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(f"{root}/db").create_table("docs", schema=Document)
    for start in range(0, N_ROWS, 100):
        numbers = range(start, start + 100)
        table.add([{"id": str(i), "text": f"{TEXTS[i % 4]} number {i}"} for i in numbers])
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    return root / "db"


@pytest.fixture
def place(tmp_path):
    """Where the database of a test is."""
    return tmp_path


@pytest.fixture
def table(template, place, monkeypatch):
    """A copy of the template, whose store is its own."""
    shutil.copytree(template, place / "db")
    monkeypatch.setattr(get_registry(), "_variables", {"ft_store": f"{place}/db/ft_models"})
    return lancedb.connect(f"{place}/db").open_table("docs")


def assert_serves(table, model):
    """Nothing is lost, and every way to search finds a row by its own text, with that model."""
    fresh = lancedb.connect(table._conn.uri).open_table("docs")
    assert sorted(fresh.to_lance().to_table(columns=["id"])["id"].to_pylist()) == sorted(
        str(i) for i in range(N_ROWS)
    )
    state = read_state(fresh.schema, table="docs")
    assert state.active.model == model
    hit = fresh.search(f"{TEXTS[3]} number 7").limit(1).to_list()[0]
    assert (hit["id"], hit["_distance"] < 1e-2) == ("7", True)
    assert fresh.search("7", query_type="fts").limit(1).to_list()[0]["id"] == "7"


def assert_goes_on(table):
    """The same call does the rest."""
    report = ft.reindex(table, "tiny@2", force=True)
    assert report.switched
    assert_serves(table, "tiny@2")
    state = read_state(lance.dataset(table.uri).schema, table="docs")
    encoder = ft.get_encoder("tiny@2", store=f"{table._conn.uri}/ft_models")
    assert verify(table, state.active, encoder, n=N_ROWS).n_stale == 0
    return report


def at_first_progress(act):
    """Return a progress callback that does something once, when filling begins."""
    done = []

    def progress(_done, _total):
        if not done:
            done.append(True)
            act()

    return progress


# --- disk ----------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 6 MB."""
    root = tmp_path / "small"
    root.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", root], check=True)
    yield root
    subprocess.run(["umount", "-l", root], check=True)


def fill_up(root, left):
    """Take all room but ``left`` bytes."""
    found = os.statvfs(root)
    with open(root / "filler", "wb") as file:
        file.write(b"\0" * max(0, found.f_bavail * found.f_frsize - left))


@needs_root
def test_a_full_disk(template, small_disk, monkeypatch):
    shutil.copytree(template, small_disk / "db")
    monkeypatch.setattr(get_registry(), "_variables", {"ft_store": f"{small_disk}/db/ft_models"})
    table = lancedb.connect(f"{small_disk}/db").open_table("docs")
    stopped_at = []
    for left in (0, 16, 32, 64):  # kB: the job gets further each time
        fill_up(small_disk, left * 1024)
        with contextlib.suppress(StorageError):
            ft.reindex(table, "tiny@2")
            stopped_at.append("done")
        state = read_state(lance.dataset(table.uri).schema, table="docs")
        stopped_at.append(state.coming.phase if state.coming else "before")
        (small_disk / "filler").unlink()
        assert_serves(table, "tiny@1")
        assert not list(small_disk.rglob("*.partial"))
    assert stopped_at[0] == "before"
    assert stopped_at.count("staging") >= 2
    fill_up(small_disk, 0)
    with pytest.raises(StorageError, match="make some") as caught:
        ft.reindex(table, "tiny@2", force=True)
    assert caught.value.reason == "full"
    (small_disk / "filler").unlink()
    assert_goes_on(table)


@pytest.fixture(params=["database", "table"])
def remount(request, table, place):
    """Make the database, or the table alone, read-only or writable again."""
    folder = {"database": place, "table": table.uri}[request.param]
    subprocess.run(["mount", "--bind", folder, folder], check=True)

    def how(mode):
        subprocess.run(["mount", "-o", f"remount,{mode},bind", folder], check=True)

    yield how
    subprocess.run(["umount", "-l", folder], check=True)


@needs_root
def test_a_read_only_store(table, place, remount):
    ft.reindex(table, "tiny@2")
    remount("ro")
    table = lancedb.connect(f"{place}/db").open_table("docs")
    for verb in (
        lambda: ft.reindex(table, "tiny@2", force=True),
        lambda: ft.switch(table, force=True),
        lambda: ft.finish(table, abandon=True),
    ):
        with pytest.raises(StorageError, match="make it writable") as caught:
            verb()
        assert caught.value.reason == "read-only"
    assert reindex_status(table).rows == N_ROWS
    assert_serves(table, "tiny@1")
    remount("rw")
    assert_goes_on(table)


@needs_root
@pytest.mark.parametrize("remount", ["table"], indirect=True)
def test_a_table_that_becomes_read_only_in_the_middle(table, place, remount):
    with pytest.raises(StorageError, match="read-only"):
        ft.reindex(table, "tiny@2", force=True, progress=at_first_progress(lambda: remount("ro")))
    assert reindex_status(table).rows == N_ROWS  # also while its lock file is there
    assert_serves(table, "tiny@1")
    remount("rw")
    assert_goes_on(table)


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "full"),
        (OSError(errno.EFBIG, "File too large"), "full"),
        (PermissionError(errno.EACCES, "Permission denied"), "forbidden"),
        (RuntimeError("lance error: LanceError(IO): Permission denied (os error 13)"), "forbidden"),
        (RuntimeError("No space left on device (os error 28), writer.rs:191:9"), "full"),
        (RuntimeError("something else"), None),
        (FileNotFoundError(errno.ENOENT, "No such file"), None),
    ],
)
def test_what_the_system_says_is_understood(error, reason):
    assert import_module("lancedb_ft.reindex.faults")._reason(error) == reason


# --- the model -----------------------------------------------------------------------------


def model_folder(table, number):
    (found,) = Path(table._conn.uri, "ft_models").glob(f"*/{number}")
    return found


def test_a_model_removed_while_it_fills(table):
    folder = model_folder(table, 2)
    away = folder.with_name("away")
    with pytest.raises(ModelNotFoundError, match="tiny@2"):
        ft.reindex(
            table, "tiny@2", force=True, progress=at_first_progress(lambda: folder.rename(away))
        )
    assert_serves(table, "tiny@1")
    with pytest.raises(ModelNotFoundError, match="tiny@2"):
        ft.switch(table, force=True)
    assert_serves(table, "tiny@1")
    away.rename(folder)
    assert assert_goes_on(table).fill.encoded == 0


def test_no_way_back_to_a_model_that_is_gone(table):
    ft.reindex(table, "tiny@2", force=True)
    folder = model_folder(table, 1)
    away = folder.rename(folder.with_name("away"))
    with pytest.raises(ModelNotFoundError, match="tiny@1"):
        ft.rollback(table)
    assert_serves(table, "tiny@2")
    away.rename(folder)
    ft.rollback(table)
    assert_serves(table, "tiny@1")


# --- a torn manifest -----------------------------------------------------------------------


def tear(table, n_bytes):
    """Cut the newest manifest off; return its path."""
    newest = min(Path(table.uri, "_versions").glob("*.manifest"))
    content = newest.read_bytes()
    newest.write_bytes(content[:n_bytes])
    return newest


@pytest.mark.parametrize("n_bytes", [0, 100, -3])
def test_a_torn_manifest_is_named(table, n_bytes):
    version = table.version
    ft.reindex(table, "tiny@2")
    newest = tear(table, n_bytes)
    for verb in (
        lambda: open_table(connect(table._conn.uri), "docs"),
        lambda: ft.reindex(table, "tiny@2", force=True),
        lambda: ft.switch(table, force=True),
    ):
        with pytest.raises(TornManifestError, match="mv '") as caught:
            verb()
        assert caught.value.path == str(newest)
        assert caught.value.version > version
    newest.rename(f"{newest}.torn")  # what the error says
    assert_serves(table, "tiny@1")
    assert_goes_on(table)


def test_a_manifest_torn_while_it_fills(table):
    torn = []
    with pytest.raises(TornManifestError):
        ft.reindex(
            table, "tiny@2", progress=at_first_progress(lambda: torn.append(tear(table, 50)))
        )
    torn[0].rename(f"{torn[0]}.torn")
    assert_serves(table, "tiny@1")
    assert_goes_on(table)


def test_a_whole_manifest_is_never_called_torn(table):
    torn = import_module("lancedb_ft.torn")
    assert torn._torn(str(table.uri)) is None
    assert torn._torn("s3://bucket/docs.lance") is None
    assert torn._torn(f"{table.uri}-that-is-not-there") is None


# --- the clock -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clock(tmp_path_factory):
    """A library that moves the clock of a process by CLOCK_JUMP_S seconds."""
    compiler = shutil.which("cc")
    if sys.platform != "linux" or compiler is None:
        pytest.skip("needs a C compiler on Linux")
    library = tmp_path_factory.mktemp("clock") / "clock.so"
    source = Path(__file__).with_name("clock.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    return library


def at_another_time(clock, days, *command):
    """Run a Python command with its clock moved."""
    moved = {"LD_PRELOAD": str(clock), "CLOCK_JUMP_S": str(days * DAY_S)}
    done = subprocess.run(
        [sys.executable, *command], env={**os.environ, **moved}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_optimizer_whose_clock_is_a_month_ahead(table, clock, monkeypatch):
    """To it the file that waits for its commit is a month old, and nobody's: it is removed."""
    code = (
        "import lancedb, sys; t = lancedb.connect(sys.argv[1]).open_table('docs'); "
        "print(t.optimize() or t.version)"
    )
    real, done = lance.LanceDataset.commit, []

    def commit(ds, operation, **more):
        if not done and isinstance(operation, lance.LanceOperation.DataReplacement):
            before = set(Path(table.uri, "data").iterdir())
            at_another_time(clock, 30, "-c", code, table._conn.uri)
            done.append(before - set(Path(table.uri, "data").iterdir()))
        return real(ds, operation, **more)

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(commit))
    report = assert_goes_on(table)
    assert done[0], "nothing was removed: this test shows nothing"
    assert report.fill.encoded == N_ROWS  # what was encoded for the lost file was kept


@pytest.mark.slow
def test_a_clock_that_jumps_back_and_forth(table, clock):
    run = ["-m", "lancedb_ft", "reindex", "run", "--db", table._conn.uri, "--table", "docs"]
    ft.reindex(table, "tiny@2")
    at_another_time(clock, -400, *run, "--model", "tiny@2", "--force", "--json")
    assert_serves(table, "tiny@2")
    ft.rollback(table)
    assert_serves(table, "tiny@1")
    lancedb.connect(table._conn.uri).open_table("docs").optimize()
    assert_goes_on(table)


def test_the_lock_of_a_job_can_be_asked_for_without_the_right_to_write(table, monkeypatch):
    with job_lock(table, model="tiny@2"):
        monkeypatch.setattr(os, "access", lambda path, mode: False)
        assert "tiny@2" in str(reindex_status(table).running)
    assert reindex_status(table).running is None
