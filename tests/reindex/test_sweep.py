"""Rows whose vectors no longer belong to their texts are found and made again, cheaply."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module

import lance
import pyarrow as pa
import pytest
from lancedb.embeddings import (
    EmbeddingFunctionConfig,
    TextEmbeddingFunction,
    get_registry,
    register,
)
from lancedb.index import FTS, IvfFlat

import lancedb_ft as ft
from lancedb_ft.errors import InputError, ReindexConflictError, StorageError
from lancedb_ft.reindex import watch
from lancedb_ft.reindex.filling.backfill import Backfill
from tests.fake_encoder import vector_of
from tests.reindex.marked import (
    DIMS,
    STABLE,
    assert_all_of,
    make_models,
    matrix,
    new_table,
    reindexed,
    reopened,
    rows,
    state,
)

EDIT = {"text": "concat('edited text of ', id)"}


@register("test-sweep-function")
class Foreign(TextEmbeddingFunction):
    """A function of somebody else."""

    def ndims(self):
        return 8

    def generate_embeddings(self, texts):
        return [vector_of(text, "foreign") for text in texts]


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("sweep"))


def edit(table, ids):
    table = reopened(table)
    table.update(where=f"id in ({', '.join(map(repr, ids))})", values_sql=EDIT)
    return table


def phase_of(report, phase):
    return next(g for g in report.generations if g.phase == phase)


def with_vectors_of_somebody_else(table):
    """Nothing says which model made them."""
    field = pa.field("vector__g2", pa.list_(pa.float32(), DIMS))
    foreign = [[1.0, *[0.0] * (DIMS - 1)]] * len(table)
    return table.append_column(field, pa.array(foreign, field.type))


@pytest.mark.parametrize("stable", [True, False])
def test_updates_nulls_and_rows_without_marks_are_mended(db, store, stable):
    table = reindexed(db, store, stable=stable)
    ft.sweep(table, store=store.uri)
    table = edit(table, ["3", "40"])
    table.update(where="id = '5'", values_sql={"vector__g2": "NULL"})
    table.update(where="id = '6'", values={"text": None})
    table.add(with_vectors_of_somebody_else(rows(200, 203, "appended")))
    table.delete("id = '7'")
    report = ft.sweep(table, store=store.uri)
    active = phase_of(report, "active")
    assert (active.stale, active.unmarked, active.missing, active.encoded) == (3, 3, 1, 6)
    assert report.complete
    table = reopened(table)
    assert table.count_rows() == 122
    assert table.count_rows("vector__g2 is null") == 1
    table.delete("id = '6'")
    assert_all_of(table, store, "vector__g2", "tiny@2")
    again = ft.sweep(table, store=store.uri)
    assert (again.mended, again.encoded) == (0, 0)


def test_with_stable_row_ids_only_what_changed_is_read(db, store):
    table = reindexed(db, store, 2000)
    first = ft.sweep(table, store=store.uri)
    assert phase_of(first, "active").read == 0  # the re-index has looked at every row
    for start, n_changed in ((100, 2), (200, 20)):
        edit(table, [str(n) for n in range(start, start + n_changed)])
        report = ft.sweep(table, store=store.uri)
        active = phase_of(report, "active")
        assert (active.how, active.encoded) == ("row versions", n_changed)
        # Read once as changed, and once more as mended, in the pass that finds nothing.
        assert active.read == 2 * n_changed
    idle = ft.sweep(table, store=store.uri)
    assert phase_of(idle, "active").read == 0
    assert lance.dataset(table.uri).version == idle.version


def test_compaction_does_not_make_rows_look_changed(db, store):
    table = edit(reindexed(db, store, 300), ["8", "9"])
    ft.sweep(table, store=store.uri)
    reopened(table).optimize()
    edit(table, ["10"])
    reopened(table).optimize()
    report = ft.sweep(table, store=store.uri)
    assert phase_of(report, "active").encoded == 1
    assert phase_of(report, "active").read == 2


def test_a_restored_version_brings_its_own_memory(db, store):
    table = reindexed(db, store)
    ft.sweep(table, store=store.uri)
    edit(table, ["8"])
    stale_version = lance.dataset(table.uri).version
    ft.sweep(table, store=store.uri)
    table = reopened(table)
    table.restore(stale_version)
    assert phase_of(ft.sweep(table, store=store.uri), "active").stale == 1
    assert_all_of(table, store, "vector__g2", "tiny@2")


def test_without_stable_row_ids_all_rows_are_read(db, store):
    table = edit(reindexed(db, store, 300, stable=False), ["8"])
    report = ft.sweep(table, store=store.uri)
    active = phase_of(report, "active")
    assert (active.how, active.read, active.encoded) == ("scan", 600, 1)


def folder_size(table):
    files = [os.path.join(at, name) for at, _, names in os.walk(table.uri) for name in names]
    return sum(os.path.getsize(path) for path in files)


@pytest.mark.parametrize("stable", [True, False])
def test_a_few_rows_of_a_big_fragment_move_and_all_indexes_stay(db, store, stable):
    table = reindexed(db, store, 2000, stable=stable)
    edit(table, ["8", "900"])
    reopened(table).optimize()  # the edited rows stand in the one big fragment now
    table = reopened(table)
    table.create_index("text", config=FTS())
    table.create_index("vector__g2", config=IvfFlat(num_partitions=2))
    before, ids = folder_size(table), row_ids(table)
    report = ft.sweep(table, store=store.uri)
    assert (report.moved, report.fragments) == (2, 0)
    assert phase_of(report, "active").unindexed == 2
    assert folder_size(table) - before < 2000 * 4 * DIMS / 2
    table = reopened(table)
    assert table.index_stats("text_idx").num_unindexed_rows == (0 if stable else 2)
    if stable:
        assert row_ids(table) == ids
    assert_all_of(table, store, "vector__g2", "tiny@2")
    for mode in ("vector", "fts"):
        found = table.search("edited text of 900", query_type=mode).limit(2).to_list()
        assert "900" in [hit["id"] for hit in found]


def row_ids(table):
    found = lance.dataset(table.uri).to_table(columns=["id"], with_row_id=True)
    return dict(zip(found["id"].to_pylist(), found["_rowid"].to_pylist(), strict=True))


def test_a_fragment_that_is_wrong_throughout_gets_a_new_column(db, store):
    table = reindexed(db, store)
    reopened(table).add(with_vectors_of_somebody_else(rows(200, 260, "appended")))
    report = ft.sweep(table, store=store.uri)
    assert (report.moved, report.fragments) == (0, 1)
    assert_all_of(table, store, "vector__g2", "tiny@2")


def test_kept_generations_are_swept_too(db, store):
    table = reindexed(db, store)
    ft.reindex(table, "tiny@3", force=True, store=store.uri)
    edit(table, ["8", "9"])
    report = ft.sweep(table, store=store.uri)
    assert [(g.phase, g.number, g.encoded) for g in report.generations] == [
        ("active", 3, 2),
        ("previous", 2, 2),
        ("previous", 1, 0),
    ]
    assert "no marks" in report.generations[2].note
    assert_all_of(table, store, "vector__g3", "tiny@3")
    ft.rollback(table)
    assert_all_of(table, store, "vector__g2", "tiny@2")


@pytest.mark.parametrize("stable", [True, False])
def test_rows_of_a_parked_column_move_as_well(db, store, stable):
    """After a second re-index both columns have marks, and few rows of a fragment are wrong."""
    table = reindexed(db, store, 400, stable=stable)
    ft.reindex(table, "tiny@3", force=True, store=store.uri)
    table = edit(table, ["8", "9"])
    table.optimize()
    report = ft.sweep(table, store=store.uri)
    assert [(g.number, g.encoded) for g in report.generations] == [(3, 2), (2, 2), (1, 0)]
    assert report.complete
    assert_all_of(table, store, "vector__g3", "tiny@3")
    ft.rollback(table)
    assert_all_of(table, store, "vector__g2", "tiny@2")


@pytest.mark.parametrize("stable", [True, False])
def test_rows_that_are_compacted_while_the_model_loads_are_mended(db, store, stable, monkeypatch):
    """Their fragments are gone when they are to be filled; their versions are as they were."""
    table = reindexed(db, store, 400, stable=stable)
    for number in range(5):
        ft.write(table, [{"id": f"new{number}", "text": f"deferred text {number}"}])
    sweeping = import_module("lancedb_ft.reindex.sweeping.sweep")
    load = sweeping.encoder_of

    def compacted(*given, **options):
        reopened(table).optimize()
        return load(*given, **options)

    monkeypatch.setattr(sweeping, "encoder_of", compacted)
    report = ft.sweep(table, store=store.uri)
    assert (report.complete, phase_of(report, "active").encoded) == (True, 5)
    assert_all_of(table, store, "vector__g2", "tiny@2")


@pytest.mark.parametrize("stable", [True, False])
def test_a_text_that_changes_before_the_commit_is_made_again(db, store, stable, monkeypatch):
    """The writer wins twice between our reading and our commit."""
    table = reindexed(db, store, 400, stable=stable)
    edit(table, ["8"])
    reopened(table).optimize()
    moved = import_module("lancedb_ft.reindex.filling.moved_rows")
    written, n_raced = moved._written, 0

    def raced(*arguments):
        nonlocal n_raced
        n_raced += 1
        if n_raced <= 2:
            other = reopened(table)
            other.update(where="id = '8'", values={"text": f"changed meanwhile {n_raced}"})
        return written(*arguments)

    monkeypatch.setattr(moved, "_written", raced)
    report = ft.sweep(table, store=store.uri)
    # Without stable row ids the moved row is found by the next pass, in a fragment of its own.
    assert n_raced >= (3 if stable else 1)
    assert report.complete
    assert_all_of(table, store, "vector__g2", "tiny@2")
    assert reopened(table).count_rows(f"text = 'changed meanwhile {min(n_raced, 2)}'") == 1
    assert reopened(table).count_rows() == 400


def with_function(db):
    function = get_registry().get("test-sweep-function").create()
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    field = pa.field("vector", pa.list_(pa.float32(), 8))
    schema = rows(0, 1).schema.append(field)
    table = db.create_table("docs", schema=schema, embedding_functions=[config])
    table.add(rows(0, 50))
    return table


@pytest.mark.parametrize("kind", ["foreign", "ours, never re-indexed"])
def test_without_marks_missing_vectors_are_filled_and_the_rest_is_said(db, store, kind):
    table = with_function(db) if kind == "foreign" else new_table(db, store, 50)
    table.update(where="id in ('3', '4')", values_sql={"vector": "NULL"})
    table.update(where="id = '5'", values={"text": "edited"})
    kept = reopened(table).search().where("id = '5'").limit(1).to_list()[0]["vector"]
    report = ft.sweep(table, store=store.uri)
    active = phase_of(report, "active")
    assert (active.how, active.missing, active.encoded) == ("missing only", 2, 2)
    assert "cannot be found" in active.note
    after = reopened(table)
    assert after.count_rows("vector is null") == 0
    assert after.search().where("id = '5'").limit(1).to_list()[0]["vector"] == kept
    if kind == "foreign":
        found = after.search().where("id = '3'").limit(1).to_list()[0]
        assert found["vector"] == pytest.approx(vector_of(found["text"], "foreign").tolist())


def test_raw_vectors_are_left_alone_and_named(db, store):
    vectors = ft.get_encoder("tiny@1", store=store.uri).encode(rows(0, 20)["text"])
    table = db.create_table("docs", rows(0, 20).append_column("vector", vectors))
    report = ft.sweep(table, store=store.uri)
    assert report.generations[0].how == "not swept"
    assert "nothing says which model" in report.generations[0].note


def test_of_several_columns_of_an_untouched_table_the_named_one_is_swept(db, store, run):
    functions = [
        EmbeddingFunctionConfig(vector_column=name, source_column="text", function=function)
        for name in ("one", "two")
        for function in [get_registry().get("ft-embed").create(name="tiny@1", store=store.uri)]
    ]
    fields = [pa.field(name, pa.list_(pa.float32(), DIMS)) for name in ("one", "two")]
    schema = pa.schema([*rows(0, 1).schema, *fields])
    table = db.create_table(
        "docs", schema=schema, embedding_functions=functions, storage_options=STABLE
    )
    table.add(rows(0, 10))
    table.update(where="id = '3'", values_sql={"one": "NULL", "two": "NULL"})
    with pytest.raises(InputError, match="vector_column="):
        ft.sweep(table, store=store.uri)
    words = ["sweep", "--db", db.uri, "--table", "docs", "--store", store.uri, "--json"]
    for name in ("one", "two"):
        code, out, _ = run(*words, "--vector-column", name)
        assert (code, json.loads(out)["mended"]) == (0, 1)
        assert reopened(table).to_arrow()[name].null_count == 0


def test_a_sweep_tells_of_a_full_disk(db, store, monkeypatch):
    def full(*_of, **_named):
        raise OSError(errno.ENOSPC, "No space left on device")

    table = edit(reindexed(db, store), ["8"])
    monkeypatch.setattr(Backfill, "run", full)
    with pytest.raises(StorageError, match="no room left"):
        ft.sweep(table, store=store.uri)
    monkeypatch.undo()
    assert ft.sweep(table, store=store.uri).mended == 1


def test_an_earlier_model_that_is_gone_does_not_stop_the_sweep(db, store, tmp_path):
    own = make_models(tmp_path)
    table = reindexed(db, own)
    ft.reindex(table, "tiny@3", force=True, store=own.uri)
    import_module("lancedb_ft.encoder.core")
    gone = import_module("lancedb_ft.reindex.checks.models_of")
    edit(table, ["8"])
    real = gone.encoder_of

    def encoder_of(table, generation, **options):
        if generation.number == 2:
            raise InputError("No model 'tiny@2'.")
        return real(table, generation, **options)

    gone.encoder_of = encoder_of
    try:
        report = ft.sweep(table, store=own.uri)
    finally:
        gone.encoder_of = real
    assert "not mended: No model" in phase_of(report, "previous").note
    assert_all_of(table, own, "vector__g3", "tiny@3")
    # What was not mended is not remembered as right.
    assert ft.sweep(table, store=own.uri).generations[1].stale == 1
    assert_all_of(table, own, "vector__g2", "tiny@2")


def test_re_encoding_replaces_what_the_marks_do_not_show(db, store):
    table = reindexed(db, store)
    plant(table, store, ["8", "80"])
    assert ft.sweep(table, store=store.uri).mended == 0
    with pytest.raises(InputError, match=r"no fragment \[99\]"):
        ft.sweep(table, re_encode=[99], store=store.uri)
    fragment = int(row_addresses(table)["8"] >> 32)
    report = ft.sweep(table, re_encode=[fragment], store=store.uri)
    assert phase_of(report, "active").stale == 2
    assert report.moved == 2
    assert_all_of(table, store, "vector__g2", "tiny@2")


def row_addresses(table):
    found = lance.dataset(table.uri).to_table(columns=["id"], with_row_address=True)
    return dict(zip(found["id"].to_pylist(), found["_rowaddr"].to_pylist(), strict=True))


def plant(table, store, ids, column="vector__g2", model="tiny@3"):
    """Write another model's vectors with marks that say they are right."""
    from lancedb_ft.marks import row_marks, text_hashes

    table = reopened(table)
    found = table.search().where(f"id in ({', '.join(map(repr, ids))})").limit(len(ids)).to_arrow()
    vectors = ft.get_encoder(model, store=store.uri).encode(found["text"].combine_chunks())
    marks = row_marks(text_hashes(found["text"].combine_chunks()), vectors)
    given = pa.table({"id": found["id"], column: vectors, f"{column}_hash": marks})
    lance.dataset(table.uri).merge_insert("id").when_matched_update_all().execute(given)
    assert matrix(vectors).shape == (len(ids), DIMS)


def test_watching_follows_a_rollback_and_ends_when_told(db, store):
    table = reindexed(db, store)
    ft.reindex(table, "tiny@3", force=True, store=store.uri)
    stop = threading.Event()
    rounds = watch(table, every_s=0.01, stop=stop, store=store.uri)
    edit(table, ["8"])
    assert next(rounds).encoded == 2
    ft.rollback(table)
    edit(table, ["9"])
    report = next(rounds)
    assert (phase_of(report, "active").number, phase_of(report, "ready").number) == (2, 3)
    ft.finish(table)
    edit(table, ["10"])
    assert [g.number for g in next(rounds).generations] == [2, 3]
    stop.set()
    assert list(rounds) == []


def test_watching_does_not_overlook_what_changes_during_a_round(db, store, monkeypatch):
    table = reindexed(db, store)
    sweeping, stop = import_module("lancedb_ft.reindex.sweeping.sweep"), threading.Event()
    real, edits = sweeping._remember, iter(["9"])

    def remember(*arguments):
        for key in edits:  # after the last look, before the round ends
            edit(table, [key])
        return real(*arguments)

    monkeypatch.setattr(sweeping, "_remember", remember)
    edit(table, ["8"])
    rounds = watch(table, every_s=0.01, stop=stop, store=store.uri)
    assert [next(rounds).encoded, next(rounds).encoded] == [1, 1]
    assert_all_of(table, store, "vector__g2", "tiny@2")


def test_watching_backs_off_when_it_lost(db, store, monkeypatch):
    table = reindexed(db, store)
    watching = import_module("lancedb_ft.reindex.sweeping.watch")
    lost, outcomes = [], iter([True, True, False])

    def sweep(*arguments, **options):
        if next(outcomes):
            raise ReindexConflictError("write", attempts=60, last="preempted")
        stop.set()
        return ft.sweep(*arguments, **options)

    stop = threading.Event()
    monkeypatch.setattr(watching, "sweep", sweep)
    told = watch(
        table,
        every_s=0.01,
        stop=stop,
        store=store.uri,
        on_conflict=lambda error, wait_s: lost.append(wait_s),
    )
    assert list(told) == []
    assert lost == [0.02, 0.04]


@pytest.mark.slow
def test_the_command_watches_until_it_gets_a_signal(db, store):
    table = reindexed(db, store)
    command = [sys.executable, "-m", "lancedb_ft", "sweep", "--db", db.uri, "--table", "docs"]
    command += ["--store", store.uri, "--watch", "--every", "0.1s", "--json"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ
    )
    assert "Ctrl-C ends" in process.stderr.readline()
    edit(table, ["8"])
    first = json.loads(process.stdout.readline())
    assert (first["mended"], first["encoded"]) == (1, 1)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (0, "")
    assert "Ended." in err
    assert_all_of(table, store, "vector__g2", "tiny@2")
    assert state(table).active.number == 2
