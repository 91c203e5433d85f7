"""What was encoded once is found again: in the table, in the cache, in a generation that stayed."""

import json
import threading
from importlib import import_module
from pathlib import Path

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

import lancedb_ft as ft
from lancedb_ft.cli import build_app
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError
from lancedb_ft.generation import Generation, read_state
from lancedb_ft.reindex.commits import Change, transition
from lancedb_ft.reindex.engines import LocalEngine
from lancedb_ft.reindex.filling.backfill import Backfill
from lancedb_ft.reindex.filling.right import RightFragments
from lancedb_ft.reindex.filling.spill import Spill
from lancedb_ft.reindex.filling.vector_cache import VectorCache, open_cache
from lancedb_ft.reindex.stage import _add_columns
from tests.fake_encoder import FakeEncoder, vector_of
from tests.tiny import tiny_model

DIMS = 8


def documents(texts, start=0):
    ids = [str(start + n) for n in range(len(texts))]
    return pa.table({"id": ids, "text": list(texts)})


def staged(table):
    generation = Generation(
        number=2,
        column="vector__g2",
        dims=DIMS,
        phase="staging",
        source_column="text",
        hash_column="vector__g2_hash",
    )
    transition(table, lambda state, ds: Change(state.put(generation)), what="stage")
    _add_columns(table, generation)
    return generation


def backfill(table, generation, tmp_path, encoder, **options):
    spill = Spill(tmp_path / f"spill-{table.name}", DIMS)
    return Backfill(table, generation, encoder, spill, **options)


def assert_right(table):
    for row in lance.dataset(table.uri).to_table(columns=["text", "vector__g2"]).to_pylist():
        np.testing.assert_allclose(row["vector__g2"], vector_of(row["text"], "new"), rtol=1e-6)


# --- within one run ----------------------------------------------------------------------------


def test_a_text_that_comes_again_in_another_fragment_is_encoded_once(db, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("lancedb_ft.reindex.filling.fragments"), "WINDOW_ROWS", 50)
    texts = [f"text {n % 60}" for n in range(200)]
    table = db.create_table("docs", documents(texts))
    table.add(documents(texts, 200))
    encoder = FakeEncoder()
    report = backfill(table, staged(table), tmp_path, encoder).run()
    assert sorted(encoder.encoded) == sorted(set(texts))
    assert (report.rows, report.encoded, report.reused) == (400, 60, 340)
    assert_right(table)


def test_many_small_fragments_are_encoded_and_committed_together(db, tmp_path):
    table = db.create_table("docs", documents(["text 0"]))
    for n in range(1, 12):
        table.add(documents([f"text {n}", f"more {n}"], 10 * n))
    table.delete("id = '30'")
    generation = staged(table)
    calls = []
    encoder = FakeEncoder()
    encoder.before_encode = lambda texts: calls.append(len(texts))
    before = lance.dataset(table.uri).version
    report = backfill(table, generation, tmp_path, encoder).run()
    assert calls == [22]
    assert lance.dataset(table.uri).version == before + 1
    assert (report.fragments, report.rounds, report.encoded, report.reused) == (12, 1, 22, 0)
    assert_right(table)


def test_the_next_run_reads_only_what_changed(db, tmp_path, monkeypatch):
    table = db.create_table("docs", documents([f"text {n}" for n in range(100)]))
    table.add(documents([f"late {n}" for n in range(100)], 100))
    generation = staged(table)
    module = import_module("lancedb_ft.reindex.filling.backfill")
    looked, look = [], module.is_right
    monkeypatch.setattr(
        module,
        "is_right",
        lambda ds, f, columns: looked.append(f.fragment_id) or look(ds, f, columns),
    )
    right = tmp_path / "right.json"

    def run(encoder=None):
        known = RightFragments(right, generation)
        return backfill(table, generation, tmp_path, encoder or FakeEncoder(), right=known).run()

    run()
    assert looked == [0, 1]  # each once: what was committed as read is not read again
    looked.clear()
    table.update(where="id = '5'", values={"text": "changed"})
    table.delete("id = '6'")
    encoder = FakeEncoder()
    report = run(encoder)
    assert looked == [2]  # the row moved there; deleting changes no file
    assert encoder.encoded == ["changed"]
    assert report.encoded == 1
    assert_right(table)
    looked.clear()
    right.write_text("{torn")
    run()
    assert len(looked) == 3
    # Of another model, it says nothing.
    right.write_text(right.read_text().replace('"of": "', '"of": "x'))
    looked.clear()
    run()
    assert len(looked) == 3


def test_what_is_kept_of_the_spill_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(
        import_module("lancedb_ft.reindex.filling.spill"), "KEPT_BYTES", 3 * 10 * DIMS * 4
    )
    spill = Spill(tmp_path / "spill", DIMS)

    def put(first):
        vectors = np.full((10, DIMS), first, np.float32)
        made = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMS)
        spill.put(pa.array(range(first, first + 10), pa.int64()), made)

    for first in (0, 10, 20, 30, 40):
        put(first)
    assert len(spill) == 50  # nothing is committed: nothing may go
    spill.committed()
    assert len(spill) == 30
    put(50)
    spill.committed()
    assert len(list((tmp_path / "spill").glob("*.arrow"))) == 3
    found, vectors = spill.find(np.array([3, 25, 55, 48]))
    assert found.tolist() == [False, False, True, True]
    assert vectors[:, 0].tolist() == [50.0, 40.0]


# --- the cache ---------------------------------------------------------------------------------


def encoder_for_cache(salt="new"):
    encoder = FakeEncoder(salt)
    encoder.document_fingerprint = encoder.fingerprint
    encoder.backend = "torch"
    return encoder


def test_a_second_table_finds_its_texts_in_the_cache(db, tmp_path):
    texts = [f"text {n}" for n in range(300)]
    for name, more in (("one", []), ("two", ["new a", "new b"])):
        table = db.create_table(name, documents([*texts, *more]))
        encoder = encoder_for_cache()
        cache = open_cache(table, "ft_vectors", encoder)
        generation = staged(table)
        report = backfill(table, generation, tmp_path, encoder, cache=cache).run()
        assert_right(table)
    assert encoder.encoded == ["new a", "new b"]
    assert (report.encoded, report.cached) == (2, 300)
    assert report.to_dict()["cache_hit_rate"] == round(300 / 302, 4)
    assert db.open_table("ft_vectors").count_rows() == 302
    # Another model finds nothing there, and another length neither.
    other = encoder_for_cache("other")
    assert len(open_cache(table, "ft_vectors", other)) == 0
    assert len(open_cache(table, "ft_vectors", encoder)) == 302


def test_the_cache_can_be_another_database(db, tmp_path):
    table = db.create_table("docs", documents(["a", "b"]))
    place = str(tmp_path / "elsewhere")
    cache = open_cache(table, place, encoder_for_cache())
    cache.put(pa.array(["a"]), np.ones((1, DIMS), np.float32))
    cache.close()
    assert lancedb.connect(place).open_table("ft_vectors").count_rows() == 1
    with pytest.raises(InputError, match="is no cache of vectors"):
        open_cache(table, "docs", encoder_for_cache())


def test_several_writers_leave_each_text_once(db):
    table = db.create_table("docs", documents(["a"]))
    texts = pa.array([f"text {n}" for n in range(500)])
    vectors = np.random.default_rng(0).normal(size=(500, DIMS)).astype(np.float32)
    caches = [open_cache(table, "ft_vectors", encoder_for_cache()) for _ in range(3)]

    def write(cache):
        for start in range(0, 500, 100):
            cache.put(texts.slice(start, 100), vectors[start : start + 100])
            cache.flush()

    threads = [threading.Thread(target=write, args=(cache,)) for cache in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for cache in caches:
        cache.close()
    assert db.open_table("ft_vectors").count_rows() == 500
    found, again = open_cache(table, "ft_vectors", encoder_for_cache()).find(texts)
    assert found.all()
    np.testing.assert_array_equal(again, vectors)


def test_of_caches_created_at_once_one_is_made_and_none_is_overwritten(db):
    """LanceDB's create_table put an empty version over another one's rows, 10 times in 60."""
    table = db.create_table("docs", documents(["a"]))
    names = [f"cache_{n}" for n in range(8)]
    begin = threading.Barrier(4)
    failed = []

    def fill(number):
        for name in names:
            begin.wait()
            try:
                cache = open_cache(table, name, encoder_for_cache())
                cache.put(pa.array([f"text {number}"]), np.ones((1, DIMS), np.float32))
                cache.flush()
            except (OSError, RuntimeError, ValueError) as error:
                failed.append(error)

    threads = [threading.Thread(target=fill, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    assert [db.open_table(name).count_rows() for name in names] == [4] * 8


def test_a_cache_that_takes_nothing_more_does_not_fail_a_finished_fill(db, monkeypatch, caplog):
    table = db.create_table("docs", documents(["a"]))
    cache = open_cache(table, "ft_vectors", encoder_for_cache())
    cache.put(pa.array(["text"]), np.ones((1, DIMS), np.float32))

    def full(*_of):
        raise OSError("No space left on device (os error 28)")

    monkeypatch.setattr(cache._table, "add", full)
    cache.close()
    assert "No space left" in caplog.text


@pytest.mark.parametrize("place", ["", "my cache", "ä"])
def test_a_cache_that_no_table_can_be_called_is_refused(db, place):
    with pytest.raises(InputError, match="letters, digits"):
        open_cache(db.create_table("docs", documents(["a"])), place, encoder_for_cache())


def test_the_cache_is_bounded_and_the_oldest_go(db, monkeypatch):
    monkeypatch.setattr(import_module("lancedb_ft.reindex.filling.vector_cache"), "MAX_ROWS", 250)
    table = db.create_table("docs", documents(["a"]))
    for start in range(0, 400, 100):
        cache = open_cache(table, "ft_vectors", encoder_for_cache())
        texts = pa.array([f"text {n}" for n in range(start, start + 100)])
        cache.put(texts, np.full((100, DIMS), start, np.float32))
        cache.close()
    assert db.open_table("ft_vectors").count_rows() == 250
    cache = open_cache(table, "ft_vectors", encoder_for_cache())
    found, _ = cache.find(pa.array([f"text {n}" for n in range(400)]))
    assert found.tolist() == [False] * 150 + [True] * 250


def test_half_a_key_is_not_enough(db, monkeypatch):
    """Texts whose keys begin alike are told apart by the whole key."""
    module = import_module("lancedb_ft.reindex.filling.vector_cache")
    keys = {"one": b"12345678" + b"a" * 8, "two": b"12345678" + b"b" * 8}
    monkeypatch.setattr(
        module,
        "_text_keys",
        lambda texts: np.stack([np.frombuffer(keys[t], np.uint8) for t in texts.to_pylist()]),
    )
    table = db.create_table("docs", documents(["a"]))
    cache = open_cache(table, "ft_vectors", encoder_for_cache())
    cache.put(pa.array(["one"]), np.ones((1, DIMS), np.float32))
    cache.close()
    again = VectorCache(cache._table, made_by=cache._made_by.rsplit("/", 1)[0], dims=DIMS)
    assert again.find(pa.array(["two", "one"]))[0].tolist() == [False, True]


# --- generations that stayed -------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return [tiny_model(folder / f"m{seed}", seed=seed) for seed in (1, 2)]


TEXTS = [f"doc number {n} how do I cancel my order {n * 7 % 13}" for n in range(120)]


def reindex(table, model, **options):
    options = {"force": True, "precision": "float32", "device": "cpu", **options}
    return ft.reindex(table, model, **options)


def test_going_back_to_a_model_fills_the_difference(db, models):
    table = db.create_table("docs", documents(TEXTS))
    first = reindex(table, models[0])
    reindex(table, models[1])
    table.checkout_latest()
    table.update(where="id = '7'", values={"text": "open the settings page"})
    again = reindex(table, models[0])
    assert (again.generation, again.column) == (first.generation, first.column)
    assert again.switched
    assert again.fill.encoded == 1
    state = read_state(lance.dataset(table.uri).schema, table="docs")
    assert state.active.number == first.generation
    assert state.previous.number == first.generation + 1
    plain = lancedb.connect(table._conn.uri).open_table("docs")
    hit = plain.search("open the settings page", query_type="vector").limit(1).to_list()[0]
    assert (hit["id"], round(hit["_distance"], 4)) == ("7", 0.0)
    # And a ready one, after a rollback, in the same way.
    ft.rollback(table)
    ready = reindex(table, models[0])
    assert (ready.generation, ready.fill.encoded) == (first.generation, 0)


def test_shorter_vectors_of_the_same_model_are_cut_from_the_longer(db, models):
    table = db.create_table("docs", documents(TEXTS))
    reindex(table, models[0])
    table.checkout_latest()
    table.update(where="id = '7'", values={"text": "open the settings page"})
    short = reindex(table, models[0], dims=6, re_embed=True)
    assert short.generation == 3
    assert short.fill.encoded == 1
    rows = lance.dataset(table.uri).to_table(columns=["text", short.column])
    expected = get_encoder(models[0], device="cpu", precision="float32", dims=6)
    vectors = rows[short.column].combine_chunks()
    found = getattr(vectors, "storage", vectors).flatten().to_numpy().reshape(-1, 6)
    made = expected.encode(rows["text"]).flatten().to_numpy().reshape(-1, 6)
    np.testing.assert_allclose(found, made, atol=1e-5)


# --- how it is encoded -------------------------------------------------------------------------


def test_what_is_fast_is_compared_on_the_texts_of_the_table(db, models):
    table = db.create_table("docs", documents(TEXTS))
    report = reindex(table, models[0], precision="bfloat16")
    found = report.to_dict()["agreement"]
    assert found["n_texts"] == 64
    assert found["mean_cosine"] > 0.99
    # A tiny model of random weights may not agree; then float32 takes its place.
    assert report.precision == ("bfloat16" if found["holds"] else "float32")
    details = read_state(lance.dataset(table.uri).schema, table="docs").active.details
    assert details["agreement"] == found
    assert (details["precision"], details["backend"]) == (report.precision, "torch")


def test_what_does_not_agree_is_not_used(db, models, monkeypatch):
    monkeypatch.setattr(import_module("lancedb_ft.encoder.precision"), "MIN_COSINE", 1.1)
    table = db.create_table("docs", documents(TEXTS))
    report = reindex(table, models[0], precision="bfloat16")
    assert report.precision == "float32"
    assert report.agreement["holds"] is False
    assert report.check.min_cosine > 0.9999


def test_what_was_encoded_in_another_precision_is_not_taken(db, models, monkeypatch):
    table = db.create_table("docs", documents(TEXTS))
    jobs = Path(db.uri) / "ft_jobs" / "docs"

    def die(*_args):
        raise KeyboardInterrupt

    def killed(precision):
        with monkeypatch.context() as patch:
            patch.setattr(import_module("lancedb_ft.reindex.job"), "trusted", lambda _, *made: made)
            patch.setattr(Backfill, "_commit", die)
            with pytest.raises(KeyboardInterrupt):
                reindex(table, models[0], precision=precision)

    killed("bfloat16")
    with monkeypatch.context() as patch:
        patch.setattr(import_module("lancedb_ft.reindex.serving"), "forget_spills", lambda *_: None)
        ft.finish(table, abandon=True, grace_s=0)
    assert list(jobs.rglob("*.arrow"))
    report = reindex(table, models[0], precision="float32")
    assert (report.precision, report.fill.reused) == ("float32", 0)


def test_what_was_encoded_is_gone_with_an_abandoned_generation(db, models, monkeypatch):
    table = db.create_table("docs", documents(TEXTS))

    def die(*_args):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Backfill, "_commit", die)
        with pytest.raises(KeyboardInterrupt):
            reindex(table, models[0])
    assert list(Path(db.uri).rglob("ft_jobs/docs/*/*.arrow"))
    ft.finish(table, abandon=True, grace_s=0)
    assert not list(Path(db.uri).rglob("ft_jobs/docs/*/*.arrow"))


def test_openvino_fills_a_table_that_torch_searches(db, models):
    pytest.importorskip("openvino")
    table = db.create_table("docs", documents(TEXTS))
    report = reindex(table, models[0], backend="openvino")
    assert (report.backend, report.agreement["holds"]) == ("openvino", True)
    state = read_state(lance.dataset(table.uri).schema, table="docs")
    assert state.active.details["backend"] == "openvino"
    plain = lancedb.connect(table._conn.uri).open_table("docs")
    hit = plain.search(TEXTS[5], query_type="vector").limit(1).to_list()[0]
    assert (hit["id"], round(hit["_distance"], 4)) == ("5", 0.0)


def test_processes_must_be_some():
    with pytest.raises(InputError, match="at least 1"):
        LocalEngine(processes=0)


def test_the_command_line_tells_the_hit_rate(db, models):
    for name in ("one", "two"):
        db.create_table(name, documents(TEXTS))
        verb = ["reindex", "run", "--db", db.uri, "--table", name, "--model", models[0]]
        how = ["--force", "--precision", "float32", "--cache", "ft_vectors", "--processes", "1"]
        done = CliRunner().invoke(build_app(), [*verb, *how, "--json"])
        assert done.exit_code == 0, done.output
        told = json.loads(done.stdout)
    assert (told["cache_hit_rate"], told["cached"], told["encoded"]) == (1.0, 120, 0)


def test_a_second_run_samples_what_it_wrote_not_the_whole_table(db, tmp_path):
    table = db.create_table("docs", documents([f"text {n}" for n in range(6_600)]))
    model = tiny_model(tmp_path / "tiny")
    assert ft.reindex(table, model, force=True).check.n_sampled == 66  # 1 %
    table.update(where="id IN ('5', '6')", values={"text": "changed"})
    again = ft.reindex(table, model, force=True)
    assert (again.fill.written, again.check.n_rows, again.check.n_stale) == (2, 6_600, 0)
    assert again.check.n_sampled == 64  # the least
    # What nobody has seen yet is sampled whole, however little this run wrote.
    other = tiny_model(tmp_path / "other", seed=1)
    ft.reindex(table, other)
    table.update(where="id = '5'", values={"text": "changed again"})
    assert ft.reindex(table, other).check.n_sampled == 66
