"""ModelStore: versions are whole, numbered, immutable and traceable, however their save ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pytest

from lancedb_ft.errors import (
    FingerprintError,
    InputError,
    ManifestError,
    ModelInUseError,
    ModelNotFoundError,
    StoreError,
    StoreNotFoundError,
    UnsafeModelError,
)
from lancedb_ft.generation import STATE_KEY, Generation, TableState
from lancedb_ft.store import ModelStore, default_store_uri, fingerprint_folder
from lancedb_ft.store.places import TOMBSTONE
from lancedb_ft.store.reference import parse_reference
from lancedb_ft.store.remote import RemotePlace, open_filesystem
from lancedb_ft.types import Estimate
from tests.store.conftest import change

ROOT = Path(__file__).parents[2]


def remote_store(tmp_path):
    """A store that is used as an object store is, without a rename, on a local file system."""
    (tmp_path / "bucket").mkdir(exist_ok=True)
    filesystem = pafs.SubTreeFileSystem(str(tmp_path / "bucket"), pafs.LocalFileSystem())
    return ModelStore("mock://models", filesystem=filesystem)


@pytest.fixture(params=["local", "remote"])
def store(request, tmp_path):
    return ModelStore(tmp_path / "store") if request.param == "local" else remote_store(tmp_path)


def files_of(store, tmp_path):
    """The folder on the disk that holds either kind of store."""
    return Path(store.uri) if "://" not in store.uri else tmp_path / "bucket" / "models"


# --- what every store does -----------------------------------------------------------------


def test_save_load_list_latest(store, tiny):
    first = store.save(tiny, name="support", manifest={"seed": 7})
    second = store.save(tiny, name="support")
    other = store.save(tiny, name="Other-1.x")
    assert (first.ref, second.ref, other.ref) == ("support@1", "support@2", "Other-1.x@1")
    assert store.load("support@1") == first
    assert store.load("support") == store.latest("support") == second
    assert [v.ref for v in store.list()] == ["Other-1.x@1", "support@1", "support@2"]
    assert [v.ref for v in store.list("support")] == ["support@1", "support@2"]
    assert store.list("nothing") == []
    assert first.dims == 16
    assert first.manifest["seed"] == 7
    assert Path(store.load("support@1").path, "model.safetensors").is_file()


def test_the_fingerprint_is_that_of_the_folder_saved(store, tiny):
    version = store.save(tiny, name="support")
    assert version.fingerprint == fingerprint_folder(tiny)
    assert fingerprint_folder(store.load("support@1").path) == version.fingerprint


def test_a_copied_store_holds_the_same_models(tiny, tmp_path):
    version = ModelStore(tmp_path / "a").save(tiny, name="support")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert ModelStore(tmp_path / "b").load("support@1").fingerprint == version.fingerprint


def test_errors_name_what_there_is(store, tiny):
    with pytest.raises(StoreNotFoundError) as missing:
        store.load("support@1")
    assert missing.value.reference == "support@1"
    for use in (store.list, lambda: store.delete("a@1"), lambda: store.lineage("a@1")):
        with pytest.raises(StoreNotFoundError):
            use()
    store.save(tiny, name="support")
    with pytest.raises(ModelNotFoundError) as absent:
        store.load("support@7")
    assert absent.value.available == ["support@1"]
    with pytest.raises(ModelNotFoundError) as absent:
        store.load("suport")
    assert absent.value.available == ["support@1"]


BAD_NAMES = ["", ".", "..", "../x", "a/b", ".hidden", "-a", "a b", "a@1", "a" * 101, "ä", "a\n"]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_paths_or_worse_are_refused(tmp_path, tiny, name):
    with pytest.raises(InputError):
        ModelStore(tmp_path / "store").save(tiny, name=name)
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("reference", ["support@", "support@x", "support@0", "support@-1", "a@01"])
def test_references_that_are_none(reference):
    with pytest.raises(InputError):
        parse_reference(reference)


def test_what_the_system_refuses_is_told_in_words_and_loses_nothing(
    store, tiny, tmp_path, monkeypatch
):
    def refuse(*_):
        raise OSError(30, "Read-only file system")

    first = store.save(tiny, name="support")
    folder = files_of(store, tmp_path)
    (folder / "other").write_text("a file in the way")
    with pytest.raises(StoreError, match="A version of 'other' could not be written to the store"):
        store.save(tiny, name="other")
    (folder / "other").unlink()
    with monkeypatch.context() as patched:
        patched.setattr(type(store._place), "bury", refuse)
        with pytest.raises(StoreError, match=r"The deletion of support@1 .* Read-only file"):
            store.delete("support@1")
    assert store.load("support") == first
    assert [v.ref for v in store.list()] == ["support@1"]


def test_a_full_disk_is_told_in_words(tiny, tmp_path):
    code = f"""
import resource, signal
from lancedb_ft.errors import StoreError
from lancedb_ft.store import ModelStore
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    ModelStore({str(tmp_path / "store")!r}).save({str(tiny)!r}, name="support")
except StoreError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "could not be written to the store" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert list((tmp_path / "store").iterdir()) == []


def test_a_full_disk_is_told_of_a_live_model_too(tiny, tmp_path):
    # Room for the config, not for the weights, which safetensors writes: its error is its own.
    code = f"""
import resource, signal
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import StoreError
from lancedb_ft.store import ModelStore
model = load_sentence_transformer({str(tiny)!r}, device="cpu")
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    ModelStore({str(tmp_path / "store")!r}).save(model, name="support")
except StoreError as error:
    print(type(error.__cause__).__name__, error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert "could not be written to the store" in done.stdout, done.stderr
    assert done.stdout.startswith("SafetensorError")
    assert list((tmp_path / "store").iterdir()) == []


def test_delete_keeps_the_number_taken(store, tiny, tmp_path):
    for _ in range(3):
        store.save(tiny, name="support")
    store.delete("support@3")
    store.delete("support@1")
    assert [v.ref for v in store.list()] == ["support@2"]
    assert store.latest("support").version == 2
    with pytest.raises(ModelNotFoundError):
        store.load("support@3")
    with pytest.raises(ModelNotFoundError):
        store.delete("support@3")
    assert store.save(tiny, name="support").version == 4
    left = sorted(p.name for p in (files_of(store, tmp_path) / "support" / "3").iterdir())
    assert [name for name in left if not name.startswith("claim-")] == [TOMBSTONE]


def test_delete_wants_a_number(store, tiny):
    store.save(tiny, name="support")
    with pytest.raises(InputError, match="which version"):
        store.delete("support")


def test_weights_changed_after_the_save_are_not_loaded(tiny, tmp_path):
    store = ModelStore(tmp_path / "store")
    version = store.save(tiny, name="support")
    weights = Path(version.path) / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(FingerprintError) as caught:
        store.load("support@1")
    assert caught.value.expected == version.fingerprint
    (Path(version.path) / "evil.py").write_text("")
    with pytest.raises(UnsafeModelError):
        store.load("support@1")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"format": 1, "na', "torn"),
        ("[]", "not a manifest"),
        ('{"format": 2, "name": "support"}', "Upgrade"),
        ('{"format": 1, "name": "support", "version": 1}', "no 'fingerprint'"),
        ('{"format":1,"name":"x","version":1,"fingerprint":"f","dims":1}', "that of x@1"),
    ],
)
def test_a_manifest_that_cannot_be_read_says_so(store, tiny, tmp_path, text, reason):
    store.save(tiny, name="support")
    (files_of(store, tmp_path) / "support" / "1" / "manifest.json").write_text(text)
    for use in (lambda: store.load("support@1"), store.list, lambda: store.delete("support@1")):
        with pytest.raises(ManifestError, match=reason):
            use()
    store.delete("support@1", force=True)
    assert store.list() == []


# --- the manifest --------------------------------------------------------------------------


def test_the_manifest_is_completed_and_keeps_what_it_does_not_know(tmp_path, folder):
    change(folder, "config_sentence_transformers.json", prompts={"query": "q: ", "document": ""})
    given = {
        "base": {"ref": "all-MiniLM-L6-v2", "fingerprint": "f" * 64},
        "metrics": {"ndcg@10": Estimate(0.5, (0.4, 0.6), 10), "bad": float("nan")},
        "training": {"lr": np.float32(0.5), "epochs": np.int64(2), "path": Path("x")},
        "of the future": [1, {"a": None}],
    }
    version = ModelStore(tmp_path / "store").save(folder, name="support", manifest=given)
    saved = json.loads((Path(version.path).parent / "manifest.json").read_text())
    assert saved == version.manifest
    assert saved["name"] == "support"
    assert saved["version"] == 1
    assert saved["format"] == 1
    assert saved["dims"] == 16
    assert saved["fingerprint"] == version.fingerprint
    assert saved["prompts"] == {"query": "q: "}
    assert saved["packages"]["lancedb"] == lancedb.__version__
    assert datetime.fromisoformat(saved["created_at"]) <= datetime.now(timezone.utc)
    assert saved["metrics"] == {"ndcg@10": {"mean": 0.5, "ci95": [0.4, 0.6]}, "bad": None}
    assert saved["training"] == {"lr": 0.5, "epochs": 2, "path": "x"}
    assert saved["of the future"] == [1, {"a": None}]


@pytest.mark.parametrize(
    "manifest", [{"fingerprint": "0"}, {"dims": 3}, {"name": "other"}, {"x": object()}]
)
def test_a_manifest_that_contradicts_or_is_not_json_saves_nothing(tmp_path, tiny, manifest):
    store = ModelStore(tmp_path / "store")
    with pytest.raises(InputError):
        store.save(tiny, name="support", manifest=manifest)
    assert not (tmp_path / "store").exists() or os.listdir(tmp_path / "store") == []


def test_the_model_card_holds_figures_and_no_training_text(tmp_path, folder):
    (folder / "README.md").write_text("SECRET of the training data")
    manifest = {
        "base": {"ref": "base/model"},
        "metrics": {"ndcg@10": 0.5, "per_query": {"SECRET question?": 1.0}, "note": "SECRET"},
    }
    version = ModelStore(tmp_path / "store").save(folder, name="support", manifest=manifest)
    card = (Path(version.path) / "README.md").read_text()
    assert "support@1" in card
    assert "base/model" in card
    assert "ndcg@10" in card
    assert "SECRET" not in card


# --- live models and the layout ------------------------------------------------------------


def _encode(path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(path), device="cpu", local_files_only=True)
    return model.encode(["how do i cancel my order", "open the settings"])


def test_a_live_model_is_saved_in_the_5x_spelling_and_loads_with_the_same_vectors(tiny, tmp_path):
    from sentence_transformers import SentenceTransformer

    live = SentenceTransformer(str(tiny), device="cpu", prompts={"query": "query: "})
    version = ModelStore(tmp_path / "store").save(live, name="support")
    modules = json.loads((Path(version.path) / "modules.json").read_text())
    assert [m["type"] for m in modules] == [
        f"sentence_transformers.models.{name}" for name in ("Transformer", "Pooling", "Normalize")
    ]
    bert = json.loads((Path(version.path) / "sentence_bert_config.json").read_text())
    assert not bert.keys() & {"transformer_task", "modality_config", "module_output_name"}
    pooling = json.loads((Path(version.path) / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == 16
    assert pooling["pooling_mode_mean_tokens"] is True
    assert version.manifest["prompts"] == {"query": "query: "}
    np.testing.assert_array_equal(_encode(version.path), live.encode(_texts()))


def _texts():
    return ["how do i cancel my order", "open the settings"]


def test_pooling_modes_and_dense_keep_their_vectors(tiny, tmp_path):
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Pooling, Transformer

    torch.manual_seed(1)
    modules = [
        Transformer(str(tiny)),
        Pooling(16, pooling_mode=("cls", "mean")),
        Dense(32, 8, activation_function=torch.nn.GELU()),
    ]
    live = SentenceTransformer(modules=modules, device="cpu")
    version = ModelStore(tmp_path / "store").save(live, name="wide")
    assert version.dims == 8
    np.testing.assert_array_equal(_encode(version.path), live.encode(_texts()))


def test_an_unsafe_folder_is_not_saved(folder, tmp_path):
    (folder / "pytorch_model.bin").write_bytes(b"")
    store = ModelStore(tmp_path / "store")
    with pytest.raises(UnsafeModelError):
        store.save(folder, name="support")
    assert os.listdir(store.uri) == []


def test_checkpoints_beside_the_weights_are_refused_and_the_card_is_left_behind(folder, tmp_path):
    (folder / "data_config.json").write_text("[]")
    version = ModelStore(tmp_path / "store").save(folder, name="support")
    assert not (Path(version.path) / "data_config.json").exists()
    (folder / "checkpoint-10").mkdir()
    (folder / "checkpoint-10" / "config.json").write_text("{}")
    with pytest.raises(UnsafeModelError):
        ModelStore(tmp_path / "store").save(folder, name="support")


# --- saves at once, and saves that are killed ----------------------------------------------

_SAVER = """
import sys, time
from pathlib import Path
import pyarrow.fs as pafs
from lancedb_ft.store import ModelStore
kind, place, model, start = sys.argv[1:5]
if kind == "remote":
    fs = pafs.SubTreeFileSystem(place, pafs.LocalFileSystem())
    store = ModelStore("mock://models", filesystem=fs)
else:
    store = ModelStore(place)
while not Path(start).exists():
    time.sleep(0.001)
for _ in range(5):
    print(store.save(model, name="support").version, flush=True)
"""


def _save_in_a_process(kind, place, model, start):
    arguments = [sys.executable, "-c", _SAVER, kind, str(place), str(model), str(start)]
    return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_processes_that_save_at_once_get_one_version_each(kind, tiny, tmp_path):
    place = tmp_path / "bucket"
    place.mkdir()
    savers = [_save_in_a_process(kind, place, tiny, tmp_path / "start") for _ in range(2)]
    time.sleep(1.0)
    (tmp_path / "start").touch()
    numbers = []
    for saver in savers:
        numbers += [int(line) for line in saver.communicate(timeout=60)[0].split()]
        assert saver.returncode == 0
    assert len(numbers) == len(set(numbers)) == 10
    store = ModelStore(place) if kind == "local" else remote_store(tmp_path)
    assert sorted(v.version for v in store.list("support")) == sorted(numbers)
    assert all(store.load(v.ref) for v in store.list())


_SLOW_SAVER = """
import sys, time
import lancedb_ft.store.versions
from lancedb_ft.store import ModelStore
from lancedb_ft.store import places, remote
import pyarrow.fs as pafs
kind, place, model, point = sys.argv[1:5]
def hang(*args, **kwargs):
    print("there", flush=True)
    time.sleep(600)
if point == "copy":
    lancedb_ft.store.versions.rewrite_as_5x = hang
elif point == "sync":
    places._sync_tree = hang
elif point == "rename":
    places.os.rename = hang
elif point == "manifest":
    write = remote.RemotePlace._write
    remote.RemotePlace._write = lambda self, data, *parts: (
        hang() if parts[-1] == "manifest.json" else write(self, data, *parts)
    )
elif point == "upload":
    remote.shutil.copyfileobj = hang
if kind == "remote":
    fs = pafs.SubTreeFileSystem(place, pafs.LocalFileSystem())
    store = ModelStore("mock://models", filesystem=fs)
else:
    store = ModelStore(place)
store.save(model, name="support")
"""


@pytest.mark.parametrize(
    ("kind", "point"),
    [
        *(("local", "copy"), ("local", "sync"), ("local", "rename")),
        *(("remote", "upload"), ("remote", "manifest")),
    ],
)
def test_a_save_killed_halfway_leaves_nothing_to_be_seen(kind, point, tiny, tmp_path):
    place = tmp_path / "bucket"
    place.mkdir()
    store = ModelStore(place) if kind == "local" else remote_store(tmp_path)
    store.save(tiny, name="support")
    arguments = [sys.executable, "-c", _SLOW_SAVER, kind, str(place), str(tiny), point]
    saver = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert saver.stdout.readline() == "there\n"
    saver.send_signal(signal.SIGKILL)
    saver.communicate(timeout=30)
    assert saver.returncode == -signal.SIGKILL
    assert [v.ref for v in store.list()] == ["support@1"]
    assert store.latest("support").version == 1
    after = store.save(tiny, name="support")
    assert [v.version for v in store.list()] == [1, after.version]
    assert store.load(after.ref) == after


def test_what_a_killed_save_left_is_swept_a_day_later(tiny, tmp_path):
    store = ModelStore(tmp_path / "store")
    store.save(tiny, name="support")
    old, new = (Path(store.uri) / f".incoming-{kind}" for kind in ("old", "new"))
    old.mkdir()
    new.mkdir()
    yesterday = time.time() - 25 * 3600
    os.utime(old, (yesterday, yesterday))
    store.save(tiny, name="support")
    assert not old.exists()
    assert new.exists()


def test_objects_of_a_killed_upload_are_swept_a_day_later(tiny, tmp_path):
    store = remote_store(tmp_path)
    store.save(tiny, name="support")
    killed = files_of(store, tmp_path) / "support" / "2"
    (killed / "model").mkdir(parents=True)
    (killed / "claim-x").touch()
    assert store.save(tiny, name="support").version == 3
    assert (killed / "model").exists()
    yesterday = (datetime.now() - timedelta(hours=25)).timestamp()
    os.utime(killed / "claim-x", (yesterday, yesterday))
    assert store.save(tiny, name="support").version == 4
    assert not (killed / "model").exists()
    assert (killed / "claim-x").exists()


@pytest.mark.parametrize("deleted", [False, True])
def test_a_number_that_was_taken_meanwhile_is_passed_over(deleted, tiny, tmp_path, monkeypatch):
    store = ModelStore(tmp_path / "store")
    first = store.save(tiny, name="support")
    if deleted:
        store.delete("support@1")
    monkeypatch.setattr(store._place, "numbers", lambda name: [])
    second = store.save(tiny, name="support")
    monkeypatch.undo()
    assert (first.version, second.version) == (1, 2)
    assert (Path(first.path).parent / TOMBSTONE).exists() == deleted
    assert second.manifest["version"] == store.latest("support").manifest["version"] == 2


def test_a_claim_gives_way_to_any_other(tmp_path, tiny):
    """Both writers of one number withdraw: never two models under one name."""
    place = remote_store(tmp_path)._place
    listed = place._list

    def another_arrives(*parts, deep=False):
        if parts == ("support", 1) and not (tmp_path / "bucket/models/support/1/claim-0").exists():
            (tmp_path / "bucket/models/support/1/claim-0").touch()
        return listed(*parts, deep=deep)

    place._list = another_arrives
    assert isinstance(place, RemotePlace)
    assert place._claim("support", wait=lambda seconds: None) == 2


# --- the cache of an object store ----------------------------------------------------------


def test_an_object_store_is_read_through_a_cache_that_is_verified(tiny, tmp_path):
    store = remote_store(tmp_path)
    version = store.save(tiny, name="support")
    assert not Path(version.path).exists()
    loaded = store.load("support@1")
    assert loaded == version
    cached = tmp_path / "cache" / "models" / version.fingerprint
    assert Path(loaded.path) == cached
    before = (cached / "model.safetensors").stat().st_ino
    store.load("support@1")
    assert (cached / "model.safetensors").stat().st_ino == before
    (cached / "model.safetensors").write_bytes(b"spoilt")
    assert fingerprint_folder(store.load("support@1").path) == version.fingerprint
    assert sorted(os.listdir(cached.parent)) == [version.fingerprint]


def test_objects_that_were_changed_are_not_loaded(tiny, tmp_path):
    store = remote_store(tmp_path)
    store.save(tiny, name="support")
    change(files_of(store, tmp_path) / "support" / "1" / "model", "config.json", hidden_act="relu")
    with pytest.raises(FingerprintError):
        store.load("support@1")
    assert os.listdir(tmp_path / "cache" / "models") == []


def test_a_file_uri_is_the_local_folder(tiny, tmp_path):
    ModelStore(f"file://{tmp_path}/store").save(tiny, name="support")
    assert ModelStore(tmp_path / "store").load("support@1").version == 1


def test_uris_that_cannot_be_a_store():
    with pytest.raises(InputError):
        ModelStore("nonsense://x")
    with pytest.raises(InputError):
        ModelStore("")
    with pytest.raises(InputError, match="storage_options"):
        ModelStore("gs://bucket/x", storage_options={"region": "x"})
    with pytest.raises(InputError, match="no folder"):
        default_store_uri("db://cloud")


def test_s3_options_are_those_of_lancedb():
    options = {
        "aws_access_key_id": "a",
        "aws_secret_access_key": "b",
        "region": "eu-west-1",
        "endpoint": "http://localhost:9",
    }
    filesystem, path = open_filesystem("s3://bucket/models/", options)
    assert path == "bucket/models"
    assert filesystem.region == "eu-west-1"
    with pytest.raises(StoreError, match="cannot be reached"):
        ModelStore("s3://bucket/models", storage_options=options).list()


def test_a_store_on_s3(tiny):
    moto = pytest.importorskip("moto.server", reason="needs moto[server]")
    server = moto.ThreadedMotoServer(port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "aws_access_key_id": "a",
            "aws_secret_access_key": "b",
            "region": "us-east-1",
            "endpoint": f"http://{host}:{port}",
        }
        filesystem, _ = open_filesystem("s3://bucket", options)
        made = pafs.S3FileSystem(
            access_key="a",
            secret_key="b",
            endpoint_override=f"{host}:{port}",
            scheme="http",
            region="us-east-1",
            allow_bucket_creation=True,
        )
        made.create_dir("bucket")
        store = ModelStore("s3://bucket/models", storage_options=options)
        with pytest.raises(StoreNotFoundError):
            store.list()
        first = store.save(tiny, name="support")
        second = store.save(tiny, name="support")
        assert [v.ref for v in store.list()] == ["support@1", "support@2"]
        assert store.load("support@1").fingerprint == first.fingerprint == fingerprint_folder(tiny)
        store.delete("support@2")
        assert store.latest("support").version == 1
        assert store.save(tiny, name="support").version == second.version + 1
        found = filesystem.get_file_info(pafs.FileSelector("bucket/models/support/2"))
        assert {f.base_name for f in found if f.is_file} >= {TOMBSTONE}
    finally:
        server.stop()


# --- deletion while in use -----------------------------------------------------------------


def _function(alias, /, **model):
    return {
        "name": alias,
        "model": model,
        "source_column": "text",
        "vector_column": "vector",
    }


def _table(db, metadata, name="docs"):
    schema = pa.schema([("text", pa.string()), ("vector", pa.list_(pa.float32(), 16))])
    rows = pa.table({"text": ["a"], "vector": [[0.0] * 16]}, schema=schema)
    return db.create_table(name, rows.replace_schema_metadata(metadata))


@pytest.fixture
def own_store(db, tiny):
    """The store in its default place inside a database, with two versions."""
    store = ModelStore(default_store_uri(str(db.uri)))
    store.save(tiny, name="support")
    store.save(tiny, name="support")
    return store


def _entries(*functions):
    return {"embedding_functions": json.dumps(functions)}


def test_a_version_that_a_table_embeds_with_is_not_deleted(db, own_store):
    fingerprint = own_store.load("support@1").fingerprint
    _table(db, _entries(_function("ft-embed", name="support@1", fingerprint=fingerprint)))
    with pytest.raises(ModelInUseError) as caught:
        own_store.delete("support@1")
    assert caught.value.tables == [f"{db.uri}/docs"]
    own_store.delete("support@2")  # another version, with the very same weights
    own_store.delete("support@1", force=True)
    assert own_store.list() == []


@pytest.mark.parametrize(
    ("model", "used"),
    [
        ({"name": "support@1"}, True),
        ({"name": "support", "fingerprint": "of support@1"}, True),
        ({"name": "path of support@1"}, True),
        ({"name": "support@1", "fingerprint": "0" * 64}, False),
        ({"name": "support"}, False),
        ({"name": "support@11"}, False),
        ({}, False),
    ],
)
def test_what_counts_as_use(db, own_store, model, used):
    version = own_store.load("support@1")
    if model.get("fingerprint", "").startswith("of"):
        model = {**model, "fingerprint": version.fingerprint}
    if model.get("name", "").startswith("path"):
        model = {"name": version.path}
    _table(db, _entries(_function("ft-embed", **model)))
    if used:
        with pytest.raises(ModelInUseError):
            own_store.delete("support@1")
    else:
        own_store.delete("support@1")


@pytest.mark.parametrize("phase", ["staging", "ready", "previous", "active"])
def test_a_parked_generation_counts_as_use(db, own_store, phase):
    fingerprint = own_store.load("support@2").fingerprint
    generation = Generation(
        number=2,
        column="vector",
        dims=16,
        phase=phase,
        function=_function("ft-embed", name="support@2", fingerprint=fingerprint),
    )
    _table(db, {STATE_KEY: TableState((generation,)).to_json()})
    with pytest.raises(ModelInUseError):
        own_store.delete("support@2")
    own_store.delete("support@1")


def test_tables_of_other_databases_are_looked_at_when_named(db, tiny, tmp_path):
    store = ModelStore(tmp_path / "elsewhere")
    store.save(tiny, name="support")
    _table(db, _entries(_function("ft-embed", name="support@1")))
    with pytest.raises(ModelInUseError):
        store.delete("support@1", databases=[str(db.uri)])
    with pytest.raises(InputError, match="no LanceDB database"):
        store.delete("support@1", databases=[str(tmp_path / "nowhere")])
    store.delete("support@1")


def test_every_page_of_tables_is_looked_at(db, own_store):
    for n in range(12):
        _table(db, {}, name=f"table_{n:02}")
    _table(db, _entries(_function("ft-embed", name="support@1")), name="zz_last")
    with pytest.raises(ModelInUseError, match="zz_last"):
        own_store.delete("support@1")


def test_the_store_inside_a_database_is_no_table(db, own_store):
    _table(db, {})
    assert db.list_tables().tables == ["docs"]


# --- lineage -------------------------------------------------------------------------------


def test_lineage_goes_back_to_the_base_over_deleted_versions(store, tiny):
    base = {"ref": "sentence-transformers/all-MiniLM-L6-v2", "fingerprint": "b" * 64}
    store.save(tiny, name="support", manifest={"base": base, "metrics": {"ndcg@10": 0.5}})
    second = {"base": base, "parent": "support@1", "table": "docs", "data": {"fingerprint": "d"}}
    store.save(tiny, name="support", manifest=second)
    store.save(tiny, name="support", manifest={"base": {"ref": "support@2"}})
    store.delete("support@1")
    steps = store.lineage("support")
    assert [step["ref"] for step in steps] == [
        *("support@3", "support@2", "support@1"),
        "sentence-transformers/all-MiniLM-L6-v2",
    ]
    assert steps[1]["table"] == "docs"
    assert steps[1]["data"] == {"fingerprint": "d"}
    assert steps[2]["metrics"] == {"ndcg@10": 0.5}
    assert "deleted_at" in steps[2]
    assert steps[3] == base
    json.dumps(steps)


def test_a_base_of_another_store_is_not_looked_up_in_this_one(store, tiny):
    store.save(tiny, name="support", manifest={"metrics": {"ndcg@10": 0.1}})
    elsewhere = {"ref": "other@1", "fingerprint": "e" * 64}
    store.save(tiny, name="other", manifest={"metrics": {"ndcg@10": 0.9}})
    store.save(tiny, name="support", manifest={"base": elsewhere, "parent": None})
    assert store.lineage("support@2")[1:] == [elsewhere]
    namesake = {"ref": "new@1", "fingerprint": "e" * 64}
    store.save(tiny, name="new", manifest={"base": namesake, "parent": None})
    assert store.lineage("new@1")[1:] == [namesake]


def test_lineage_ends_where_nothing_is_known(store, tiny):
    store.save(tiny, name="support", manifest={"parent": "gone@4", "base": "org/name"})
    assert [s["ref"] for s in store.lineage("support@1")] == ["support@1", "gone@4", "org/name"]
    with pytest.raises(ModelNotFoundError):
        store.lineage("support@9")


def test_lineage_does_not_run_in_a_circle(store, tiny):
    store.save(tiny, name="support", manifest={"parent": "support@1"})
    assert [step["ref"] for step in store.lineage("support@1")] == ["support@1"]
