"""Engines: one result, whoever fills; and what a worker, or a group of fragments, can meet."""

import contextlib
import os
import signal
import threading
import time
from dataclasses import replace

import lance
import lancedb
import numpy as np
import psutil
import pyarrow as pa
import pytest
from lancedb.index import IvfFlat

import lancedb_ft as ft
from lancedb_ft.errors import EngineError, FingerprintError, InputError
from lancedb_ft.generation import read_state
from lancedb_ft.leftovers import has_leftovers
from lancedb_ft.reindex import RayEngine
from lancedb_ft.reindex.checks.verify import verify
from lancedb_ft.reindex.engines import FillWork, engine_of
from lancedb_ft.reindex.engines.group import commit_written
from lancedb_ft.reindex.engines.ray_engine import _task
from lancedb_ft.reindex.engines.worker import FillWorker
from lancedb_ft.reindex.filling.fragments import is_right
from lancedb_ft.reindex.filling.spill import Spill
from lancedb_ft.reindex.stage import stage
from lancedb_ft.reindex.target import make_target
from lancedb_ft.table import dataset
from tests.tiny import tiny_model

N_FRAGMENTS, N_ROWS = 6, 40


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / f"m{seed}", seed=seed) for seed in (1, 2)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCEDB_FT_CACHE", str(tmp_path / "cache"))


def fill_table(db, name, n_fragments=N_FRAGMENTS, n_rows=N_ROWS):
    """Fragments with null and blank texts, repeated ones, and deleted rows."""
    table = None
    for part in range(n_fragments):
        texts = [f"doc number {part} {i} how do I cancel my order" for i in range(n_rows)]
        texts[3], texts[4], texts[5] = None, "  ", "the same text in all fragments"
        rows = pa.table({"id": [f"{part}-{i}" for i in range(n_rows)], "text": texts})
        if table is None:
            table = db.create_table(name, rows)
        else:
            table.add(rows)
    table.delete("id in ('0-0', '2-39', '3-7')")
    return table


@pytest.fixture
def table(db, models):
    store = ft.ModelStore(f"{db.uri}/ft_models")
    store.save(models[0], name="tiny", manifest={})
    return fill_table(db, "docs")


@pytest.fixture
def staged(table, tmp_path):
    """The table with its staged generation and what a worker is told."""
    return table, work_of(table, tmp_path)


def work_of(table, tmp_path, backend="torch"):
    target, encoder = make_target(
        table,
        "tiny@1",
        text_column=None,
        vector_column=None,
        store=None,
        dims=None,
        device="cpu",
        precision="float32",
        backend=backend,
    )
    generation = stage(table, target)
    return FillWork(table, generation, encoder, Spill(tmp_path / "unused", generation.dims))


def started(work):
    worker = FillWorker(_task(work))
    worker.start()
    return worker


def vectors(table):
    """All rows by id: text, vector, mark."""
    column = read_state(dataset(table).schema, table="docs").active.column
    rows = dataset(table).to_table(columns=["id", column, f"{column}_hash"]).to_pylist()
    return {row["id"]: (row[column], row[f"{column}_hash"]) for row in rows}


def assert_same_rows(mine, other):
    assert mine.keys() == other.keys()
    for key, (vector, mark) in mine.items():
        if vector is None:
            assert other[key] == (None, None)
            continue
        # Batches of other lengths are added up in another order; the mark is of these bits.
        np.testing.assert_allclose(vector, other[key][0], atol=2e-6)
        assert (mark is None) == (other[key][1] is None)


# --- a worker, in this process -------------------------------------------------------------


def test_engine_names():
    assert engine_of("local").name == "local"
    assert engine_of("ray") == RayEngine()
    assert engine_of(RayEngine(workers=3)).workers == 3
    with pytest.raises(InputError, match="local, ray"):
        engine_of("spark")
    for wrong in ({"workers": 0}, {"num_cpus": 0}, {"num_gpus": -1}, {"fragments_per_commit": 0}):
        with pytest.raises(InputError):
            RayEngine(**wrong)


def test_a_cache_that_workers_would_not_read_is_refused_before_anything_is_done(table):
    before = table.version
    with pytest.raises(InputError, match="do not look into a cache"):
        ft.reindex(table, "tiny@2", engine="ray", cache="ft_vectors")
    table.checkout_latest()
    assert table.version == before


def test_workers_write_and_one_commit_takes_all(staged):
    table, work = staged
    worker = started(work)
    before = dataset(table).version
    numbers = [f.fragment_id for f in dataset(table).get_fragments()]
    written = [worker.fill(number, []) for number in numbers]
    done = commit_written(table, written, _task(work).columns)
    assert done.numbers == numbers
    assert [f.fragment_id for f in done.right] == numbers
    ds = dataset(table)
    assert ds.version == before + 1
    assert all(is_right(ds, f, _task(work).columns) for f in ds.get_fragments())
    assert worker.fill(0, numbers).right
    assert verify(table, work.generation, work.encoder).n_stale == 0


def test_workers_use_the_backend_and_the_device_that_are_asked_for(table, tmp_path):
    pytest.importorskip("openvino")
    work = work_of(table, tmp_path, backend="openvino")
    worker = started(work)
    assert (worker._encoder.backend, worker._encoder.device) == ("openvino", "cpu")
    torch = work_of(table, tmp_path)
    assert _task(torch).device is None  # each worker takes the best that it has
    assert _task(replace(torch, device="cpu")).device == "cpu"


def test_a_fragment_that_moved_holds_up_nobody(staged):
    table, work = staged
    worker = started(work)
    columns = _task(work).columns
    written = [worker.fill(f.fragment_id, []) for f in dataset(table).get_fragments()]
    # The first are merged into another one, a row of 4 is changed, a row of 5 is deleted.
    merged = compact_some(dataset(table))
    assert 1 < len(merged) < 4
    table.checkout_latest()
    table.update(where="id = '4-9'", values={"text": "changed meanwhile"})
    table.delete("id = '5-9'")
    done = commit_written(table, written, columns)
    assert done.numbers == [n for n in range(N_FRAGMENTS) if n not in merged]
    ds = dataset(table)
    wrong = [f.fragment_id for f in ds.get_fragments() if not is_right(ds, f, columns)]
    assert len(wrong) == 2  # the merged one, and that of the changed row
    again = [worker.fill(number, []) for number in wrong]
    assert commit_written(table, again, columns).numbers == wrong
    check = verify(table, work.generation, work.encoder)
    assert (check.n_rows, check.n_stale) == (N_FRAGMENTS * N_ROWS - 4, 0)


def compact_some(ds):
    """Merge the first fragments alone, as a compaction in the middle of its work has done."""
    from lance.optimize import Compaction

    task = Compaction.plan(ds, {"target_rows_per_fragment": 2 * N_ROWS}).tasks[0]
    Compaction.commit(ds, [task.execute(ds)])
    return [fragment.id for fragment in task.fragments]


def test_a_conflict_within_the_group_is_met_one_by_one(staged, monkeypatch):
    """Another committer between looking and committing, again and again, as under load."""
    table, work = staged
    worker = started(work)
    written = [worker.fill(number, []) for number in range(3)]
    real = lance.LanceDataset.commit
    sizes = []

    def commit(ds, operation, **more):
        sizes.append(len(operation.replacements))
        if len(operation.replacements) > 1:
            table.update(where=f"id = '1-{9 + len(sizes)}'", values={"text": "changed"})
        return real(ds, operation, **more)

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(commit))
    done = commit_written(table, written, _task(work).columns)
    assert done.numbers == [0, 1, 2]
    assert sizes == [3, 3, 3, 1, 1, 1]


def test_what_a_dead_worker_encoded_is_found_on_its_machine(staged, monkeypatch):
    table, work = staged
    first = started(work)
    number = dataset(table).get_fragments()[2].fragment_id
    assert first.fill(number, []).encoded > 30
    again = started(work).fill(number, [])
    assert (again.encoded, again.files != ()) == (0, True)
    assert started(work).fill(number, [number]).encoded > 30, "committed: it may be forgotten"
    started(work).finish()
    assert not os.path.exists(_task(work).spill)


def test_a_fragment_that_is_gone_is_nobodys_fault(staged):
    _, work = staged
    gone = started(work).fill(99, [])
    assert (gone.files, gone.right) == ((), False)


def test_what_a_node_cannot_see_is_said(staged, tmp_path):
    _, work = staged
    task = _task(work)
    for wrong, told in (
        ({"uri": str(tmp_path / "nowhere")}, "every node mounts"),
        ({"store": str(tmp_path / "no_store")}, "cannot load the model 'tiny@1' in the store"),
        ({"fingerprint": "0" * 64}, "was made with"),
        ({"columns": replace(task.columns, vector="other")}, "sees another table"),
        ({"versions": (("lancedb-ft", "0.0"), ("pylance", "1"))}, "same versions on all nodes"),
    ):
        with pytest.raises(EngineError, match="The worker on") as caught:
            FillWorker(replace(task, **wrong)).start()
        assert told in str(caught.value) or isinstance(caught.value.__context__, FingerprintError)
    options = {"aws_secret_access_key": "not-to-be-shown"}
    assert "not-to-be-shown" not in repr(replace(task, table_options=options))


def test_files_of_dead_workers_are_reclaimed_by_lances_cleanup(staged):
    """They are in no version: `delete_unverified`, or seven days, and they are gone."""
    from datetime import timedelta

    table, work = staged
    left = started(work).fill(0, []).files[0].path
    path = os.path.join(table.uri, "data", left)
    assert os.path.exists(path)
    ds = dataset(table)
    ds.cleanup_old_versions(older_than=timedelta(0))
    assert os.path.exists(path), "young files may belong to a commit that is under way"
    ds.cleanup_old_versions(older_than=timedelta(0), delete_unverified=True)
    assert not os.path.exists(path)
    assert dataset(table).count_rows() == N_FRAGMENTS * N_ROWS - 3


# --- Ray -----------------------------------------------------------------------------------


def start_ray(ray):
    if not ray.is_initialized():
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40)


# Ray forks to start its processes, which replace themselves at once: nothing of Lance runs there.
FORKS = pytest.mark.filterwarnings("ignore:.*lance is not fork-safe")


def ray_workers():
    """Our own Ray's worker processes that are filling."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "FillWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


class _At:
    """Progress that does something once, when so many rows are done."""

    def __init__(self, rows, action):
        self.rows, self.action, self.seen = rows, action, []

    def __call__(self, done, total, /):
        self.seen.append((done, total))
        if self.action is not None and done >= self.rows:
            action, self.action = self.action, None
            action()


@pytest.fixture(scope="module")
def ray():
    ray = pytest.importorskip("ray")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # What Ray will do by default one day, and warns of until then.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    start_ray(ray)
    yield ray
    ray.shutdown()


@pytest.mark.slow
@FORKS
def test_ray_makes_what_the_local_engine_makes(db, table, ray):
    ft.reindex(table, "tiny@1", force=True, precision="float32")
    other = fill_table(db, "other")
    gone = RayEngine(workers=1, num_cpus=64, start_timeout_s=0.5)
    with pytest.raises(EngineError, match="64 CPUs"):
        ft.reindex(other, "tiny@1", precision="float32", engine=gone)

    progress = _At(0, None)
    engine = RayEngine(workers=1, fragments_per_commit=2)
    report = ft.reindex(
        other, "tiny@1", force=True, precision="float32", engine=engine, progress=progress
    )
    assert report.switched
    assert report.fill.fragments == N_FRAGMENTS
    total = N_FRAGMENTS * N_ROWS - 3
    assert progress.seen[-1] == (total, total)
    assert progress.seen == sorted(progress.seen)
    assert_same_rows(vectors(table), vectors(other))


@pytest.mark.slow
@FORKS
def test_rows_that_the_shown_index_covers_are_moved_by_the_driver(table, ray):
    column = ft.reindex(table, "tiny@1", force=True, precision="float32").column
    table.checkout_latest()
    table.create_index(column, config=IvfFlat(num_partitions=1))
    lance.dataset(table.uri).update({column: "null"}, where="id in ('0-6', '2-7', '5-8')")
    table.checkout_latest()
    table.optimize()
    lance.dataset(table.uri).update({column: "null"}, where="id in ('0-9', '1-9')")
    table.checkout_latest()
    report = ft.reindex(table, "tiny@1", precision="float32", engine=RayEngine(workers=1))
    assert (report.fill.moved, report.fill.written, report.fill.fragments) == (3, 5, 1)
    assert not has_leftovers(lance.dataset(table.uri), f"{column}_idx", None)
    assert ft.verify(table, n="all").passed


@pytest.mark.slow
@FORKS
def test_a_killed_worker_loses_its_fragment_only(db, table, ray):
    ft.reindex(table, "tiny@1", force=True, precision="float32")
    other = fill_table(db, "other")
    killed = []

    def kill():
        for process in ray_workers()[:1]:
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)

    report = ft.reindex(
        other,
        "tiny@1",
        force=True,
        precision="float32",
        engine=RayEngine(workers=1, fragments_per_commit=2),
        progress=_At(2 * N_ROWS, kill),
    )
    assert killed
    assert report.fill.fragments == N_FRAGMENTS
    assert_same_rows(vectors(table), vectors(other))
    assert ft.reindex(other, "tiny@1", engine=RayEngine(workers=1)).fill.encoded == 0


@FORKS
@pytest.mark.slow
def test_a_node_is_removed_while_it_runs(db, table, ray):
    """Two raylets with one CPU each; one of them goes in the middle."""
    from ray.cluster_utils import Cluster

    ray.shutdown()
    ft.reindex(table, "tiny@1", force=True, precision="float32")
    other = fill_table(db, "other")
    cluster = Cluster(
        initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False}
    )
    node = cluster.add_node(num_cpus=1)
    cluster.wait_for_nodes()
    removed = threading.Event()

    def remove():
        cluster.remove_node(node, allow_graceful=False)
        removed.set()

    try:
        engine = RayEngine(address=cluster.address, workers=2, fragments_per_commit=2)
        progress = _At(2 * N_ROWS, remove)
        began = time.monotonic()
        report = ft.reindex(
            other, "tiny@1", force=True, precision="float32", engine=engine, progress=progress
        )
        assert report.switched
        assert removed.is_set()
        assert report.fill.fragments == N_FRAGMENTS
        assert_same_rows(vectors(table), vectors(other))
        assert time.monotonic() - began < 240
    finally:
        ray.shutdown()
        cluster.shutdown()


@pytest.mark.slow
@FORKS
def test_ray_reaches_a_table_on_s3(models, ray):
    """The workers get the connection's options; nothing is in their environment."""
    from tests.reindex.s3 import empty, s3_server

    start_ray(ray)
    with s3_server() as options:
        empty(options)
        uri = "s3://bucket/ray"
        db = lancedb.connect(uri, storage_options=options)
        ft.ModelStore(f"{uri}/ft_models", storage_options=options).save(
            models[0], name="tiny", manifest={}
        )
        table = fill_table(db, "docs", n_fragments=2)
        report = ft.reindex(table, "tiny@1", force=True, engine=RayEngine(workers=1))
        assert report.switched
        found = db.open_table("docs").search("the same text in all fragments").limit(2).to_list()
        assert {round(row["_distance"], 3) for row in found} == {0.0}
        ft.use_storage_options(uri, None)
        empty(options)
