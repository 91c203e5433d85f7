"""Other processes write at every step of a re-index; nothing is lost and nothing is stale.

The steps are held while the writer, a process of its own, appends, upserts, updates, deletes and
optimizes: each interleaving happens in every run. Random ones are for the campaign
(benchmarks/chaos_reindex.py).
"""

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import FTS, BTree, IvfFlat

import lancedb_ft as ft
from lancedb_ft.encoder import clear_encoders
from lancedb_ft.errors import VerifyError
from lancedb_ft.reindex.checks.verify import verify
from tests.fake_encoder import FakeEncoder
from tests.reindex import ledger
from tests.reindex.test_backfill import assert_right, fill, rows, stage
from tests.tiny import TEXTS, tiny_model

N_ROWS, DIMS = 120, 16
MODELS = ("tiny@1", "tiny@2")


class Writer:
    """The process that is told what to write, and what the table must hold after it."""

    def __init__(self, uri, *, plugin, vectors=False):
        command = [sys.executable, str(Path(__file__).with_name("told_writer.py")), uri]
        self._process = subprocess.Popen(
            [*command, *(["plugin"] if plugin else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._vectors = vectors
        self.rows = {}
        self.rounds = 0

    def tell(self, act, argument):
        """Have it done; return the error, if any."""
        self._process.stdin.write(json.dumps([act, argument]) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def _row(self, key, text):
        own = {"vector": [0.5] * DIMS} if self._vectors else {}
        return {"id": key, "text": text, **own}

    def _texts(self, act, texts):
        assert self.tell(act, [self._row(*row) for row in texts.items()]) is None
        self.rows |= texts

    def one_of_each(self, what):
        """Append, upsert rows old and new, update, delete, optimize."""
        self.rounds += 1
        n = self.rounds
        self._texts("add", {f"a{n}": f"the quick order {n} {what}", f"d{n}": "to be deleted"})
        self._texts("upsert", {f"{n}": f"choose a new page {n} {what}", f"u{n}": f"lazy fox {n}"})
        assert self.tell("update", {"id": f"{n + 20}", "text": f"money back {n} {what}"}) is None
        self.rows[f"{n + 20}"] = f"money back {n} {what}"
        assert self.tell("delete", f"d{n}") is None
        assert self.tell("delete", f"{n + 40}") is None
        del self.rows[f"d{n}"], self.rows[f"{n + 40}"]
        assert self.tell("optimize", None) is None

    def stop(self):
        """End it."""
        self._process.stdin.close()
        self._process.wait(60)
        self._process.stdout.close()


def held(monkeypatch, module, name, before):
    """Let ``before`` happen once, when the function is called."""
    owner = import_module(module) if isinstance(module, str) else module
    real, done = getattr(owner, name), []

    def call(*args, **kwargs):
        if not done:
            done.append(True)
            before()
        return real(*args, **kwargs)

    monkeypatch.setattr(owner, name, call)


def hold_every_step(monkeypatch, writer):
    """Have one of each written right before each step goes on."""
    job = "lancedb_ft.reindex."
    commit, held_up = lance.LanceDataset.commit, []

    def late(ds, operation, **more):
        if isinstance(operation, lance.LanceOperation.DataReplacement) and not held_up:
            held_up.append(True)
            writer.one_of_each("before a fragment's commit")
        return commit(ds, operation, **more)

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(late))
    held(monkeypatch, job + "stage", "_add_columns", lambda: writer.one_of_each("columns"))
    held(monkeypatch, job + "job", "verify", lambda: writer.one_of_each("verify"))
    held(
        monkeypatch,
        lancedb.table.LanceTable,
        "create_index",
        lambda: writer.one_of_each("index"),
    )
    held(monkeypatch, job + "switch", "show", lambda: writer.one_of_each("switch"))


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The folders of two tiny models."""
    root = tmp_path_factory.mktemp("models")
    return [tiny_model(root / f"m{seed}", seed=seed, dims=DIMS) for seed in (1, 2)]


@pytest.fixture
def store(db, models, monkeypatch):
    monkeypatch.setattr(
        import_module("lancedb_ft.encoder.cache"), "choose_precision", lambda *_: "float32"
    )
    clear_encoders()  # another file's may be the same model, found to be faster in bfloat16
    store = ft.ModelStore(f"{db.uri}/ft_models")
    for model in models:
        store.save(model, name="tiny", manifest={})
    return store


def make_table(db, function=None):
    """The table, with a BTREE on its key: partial upserts then write in place."""
    texts = {str(i): f"{TEXTS[i % 4]} number {i}" for i in range(N_ROWS)}
    schema = pa.schema(
        [("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), DIMS))]
    )
    column = {"vector_column": "vector", "source_column": "text", "function": function}
    configs = [EmbeddingFunctionConfig(**column)] if function else None
    table = db.create_table("docs", schema=schema, embedding_functions=configs)
    own = {} if function else {"vector": [0.5] * DIMS}
    for start in range(0, N_ROWS, 40):
        keys = [str(i) for i in range(start, start + 40)]
        table.add([{"id": key, "text": texts[key], **own} for key in keys])
    table.create_index("id", config=BTree())
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    return table, texts


def assert_nothing_lost(table, expected, models):
    """The checker trusts nothing of lancedb-ft but the names of the models."""
    from sentence_transformers import SentenceTransformer

    live = {n: SentenceTransformer(m, device="cpu") for n, m in zip(MODELS, models, strict=True)}

    def encode(model, texts):
        return np.asarray(live[model].encode(texts), np.float32)

    verdict = ledger.check(str(table.uri), expected, encode, MODELS)
    assert not verdict.faults
    return verdict.model


def test_writers_with_the_plugin(db, store, models, monkeypatch):
    function = get_registry().get("ft-embed").create(name="tiny@1", store=store.uri)
    table, texts = make_table(db, function)
    writer = Writer(db.uri, plugin=True)
    writer.rows = texts
    try:
        with monkeypatch.context() as patch:
            hold_every_step(patch, writer)
            ft.reindex(table, "tiny@2", force=True)
            assert writer.rounds == 5
            assert_nothing_lost(table, writer.rows, models)
            held(
                patch,
                "lancedb_ft.reindex.switch",
                "drop_columns",
                lambda: writer.one_of_each("drop"),
            )
            writer.one_of_each("between switch and rollback")
            ft.rollback(table)
            writer.one_of_each("between rollback and switch")
            ft.switch(table, force=True)
            writer.one_of_each("between switch and finish")
            ft.finish(table)
        assert writer.rounds == 9
        ft.reindex(table, "tiny@2")  # mends what a plain update left stale
        assert assert_nothing_lost(table, writer.rows, models) == "tiny@2"
    finally:
        writer.stop()


def test_writers_without_the_plugin(db, store, models, monkeypatch):
    """They write vectors of their own until the switch; from then on an append needs the plugin."""
    table, texts = make_table(db)
    writer = Writer(db.uri, plugin=False, vectors=True)
    writer.rows = texts
    try:
        with monkeypatch.context() as patch:
            hold_every_step(patch, writer)
            ft.reindex(table, "tiny@2", force=True)
        assert writer.rounds == 5
        assert assert_nothing_lost(table, writer.rows, models) == "tiny@2"
        refused = writer.tell("add", [{"id": "late", "text": "too late", "vector": [0.5] * DIMS}])
        assert "ft-embed" in refused
        assert writer.tell("update", {"id": "7", "text": "a plain update"}) is None
        assert writer.tell("delete", "8") is None
        assert writer.tell("optimize", None) is None
        writer.rows["7"] = "a plain update"
        del writer.rows["8"]
        ft.reindex(table, "tiny@2")
        assert_nothing_lost(table, writer.rows, models)
    finally:
        writer.stop()


def test_a_replacement_over_a_newer_text_is_caught_by_verify(db, tmp_path, monkeypatch):
    """A partial upsert under a BTREE: the one write that the replacement does not conflict with."""
    table = db.create_table("docs", rows(0, 300))
    table.create_index("id", config=BTree())
    generation = stage(table)
    commit, written, encoder = lance.LanceDataset.commit, [], FakeEncoder()

    def late(ds, operation, **more):
        if written:
            raise KeyboardInterrupt  # killed before the next round could look again
        written.append(True)
        news = pa.table({"id": ["3"], "text": ["three anew"]})
        upsert = lancedb.connect(db.uri).open_table("docs").merge_insert("id")
        upsert.when_matched_update_all().execute(news)
        return commit(ds, operation, **more)

    with monkeypatch.context() as patch:
        patch.setattr(lance.LanceDataset, "commit", staticmethod(late))
        with pytest.raises(KeyboardInterrupt):
            fill(table, generation, tmp_path, encoder)
    assert lance.dataset(table.uri).count_rows("vector__g2 is not null") == 300
    with pytest.raises(VerifyError, match="1 of 300 rows have no vector of their present text"):
        verify(table, generation, FakeEncoder())
    fill(table, generation, tmp_path, encoder)
    assert encoder.encoded[300:] == ["three anew"]
    assert_right(table)
