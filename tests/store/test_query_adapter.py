"""The files of a query adapter: what is written, what is refused, what the fingerprints cover."""

import json
import os
import shutil
import struct

import numpy as np
import pytest
from safetensors.numpy import save_file

from lancedb_ft.errors import FingerprintError, InputError, UnsafeModelError
from lancedb_ft.store import ModelStore, check_folder, fingerprint_folder, resolve_model
from lancedb_ft.store.query_adapter import (
    CONFIG,
    WEIGHTS,
    QueryAdapter,
    read_adapter,
    write_adapter,
)


def linear(dims=16, seed=0):
    dice = np.random.default_rng(seed)
    weight = dice.normal(size=(dims, dims)).astype(np.float32)
    return QueryAdapter("linear", {"weight": weight, "bias": np.zeros(dims, np.float32)})


def low_rank(dims=16, rank=4):
    dice = np.random.default_rng(0)
    shapes = {"down": (rank, dims), "up": (dims, rank), "bias": (dims,)}
    return QueryAdapter(
        "low-rank", {n: dice.normal(size=s).astype(np.float32) for n, s in shapes.items()}
    )


@pytest.mark.parametrize("adapter", [linear(), low_rank()], ids=["linear", "low-rank"])
def test_what_is_written_is_read(folder, adapter):
    write_adapter(adapter, folder)
    check_folder(folder)
    found = read_adapter(folder)
    assert found.to_config() == adapter.to_config()
    for name, tensor in adapter.tensors.items():
        np.testing.assert_array_equal(found.tensors[name], tensor)


def test_a_model_without_one_has_none(folder):
    assert read_adapter(folder) is None
    found = resolve_model(folder)
    assert found.document_fingerprint == found.fingerprint


def test_the_fingerprint_covers_it_and_that_of_the_documents_does_not(folder):
    before = fingerprint_folder(folder)
    prints = []
    for seed in (1, 2):
        write_adapter(linear(seed=seed), folder)
        found = resolve_model(folder)
        assert found.document_fingerprint == before
        prints.append(found.fingerprint)
    assert len({before, *prints}) == 3


def test_sentence_transformers_alone_loads_the_base(folder):
    from sentence_transformers import SentenceTransformer

    texts = ["open the settings page", "cancel my order"]
    before = SentenceTransformer(str(folder), device="cpu").encode(texts)
    write_adapter(linear(), folder)
    np.testing.assert_array_equal(
        SentenceTransformer(str(folder), device="cpu").encode(texts), before
    )


# --- a version in a store ------------------------------------------------------------------


def test_a_version_has_the_base_s_documents_and_shares_its_weights(folder, tmp_path):
    store = ModelStore(tmp_path / "store")
    base = store.save(folder, name="support", manifest={})
    saved = store.save(base.path, name="support", query_adapter=linear())
    assert saved.document_fingerprint == base.fingerprint != saved.fingerprint
    assert saved.manifest["document_fingerprint"] == base.fingerprint
    found = resolve_model("support@2", store=store.uri)
    assert (found.fingerprint, found.document_fingerprint) == (saved.fingerprint, base.fingerprint)
    weights = [f"{version.path}/model.safetensors" for version in (base, saved)]
    assert os.path.samefile(*weights)
    store.delete("support@1")
    assert resolve_model("support@2", store=store.uri) == found


def test_a_new_one_replaces_the_old_one(folder, tmp_path):
    store = ModelStore(tmp_path / "store")
    first = store.save(folder, name="support", query_adapter=linear(seed=1))
    second = store.save(first.path, name="support", query_adapter=low_rank())
    assert second.document_fingerprint == first.document_fingerprint
    assert read_adapter(second.path).kind == "low-rank"
    assert read_adapter(first.path).kind == "linear"
    assert store.load("support@1").fingerprint == first.fingerprint


def test_a_folder_from_elsewhere_is_copied(folder, tmp_path):
    saved = ModelStore(tmp_path / "store").save(folder, name="support", query_adapter=linear())
    assert not os.path.samefile(folder / "model.safetensors", f"{saved.path}/model.safetensors")


def test_a_manifest_that_claims_other_documents_is_refused(folder, tmp_path):
    """It would have a table switched without encoding, to a model whose documents are others."""
    store = ModelStore(tmp_path / "store")
    saved = store.save(folder, name="support", query_adapter=linear())
    file = tmp_path / "store" / "support" / "1" / "manifest.json"
    manifest = json.loads(file.read_text())
    file.write_text(json.dumps({**manifest, "document_fingerprint": "0" * 64}))
    with pytest.raises(FingerprintError):
        store.load(saved.ref)


# --- hostile -------------------------------------------------------------------------------


def config(folder, **keys):
    (folder / CONFIG).write_text(json.dumps(keys))


def tensors(folder, **shapes):
    save_file({n: np.zeros(s, np.float32) for n, s in shapes.items()}, folder / WEIGHTS)


def half_precision(folder):
    save_file(
        {"weight": np.zeros((16, 16), np.float16), "bias": np.zeros(16, np.float16)},
        folder / WEIGHTS,
    )


def cut_short(folder):
    whole = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(whole[:-8])


def huge_header(folder):
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 1 << 60) + b"{}")


def outside(folder):
    target = folder.parent / "elsewhere.safetensors"
    shutil.move(folder / WEIGHTS, target)
    (folder / WEIGHTS).symlink_to(target)


def in_a_module(folder):
    shutil.move(folder / WEIGHTS, folder / "1_Pooling" / WEIGHTS)


SPOILED = {
    "no weights": lambda f: (f / WEIGHTS).unlink(),
    "no config": lambda f: (f / CONFIG).unlink(),
    "not JSON": lambda f: (f / CONFIG).write_text("import os"),
    "a list": lambda f: (f / CONFIG).write_text("[]"),
    "another kind": lambda f: config(f, kind="torch.nn.Linear", dims=16),
    "no kind": lambda f: config(f, dims=16),
    "a kind that is no name": lambda f: config(f, kind=["linear"], dims=16),
    "another key": lambda f: config(f, kind="linear", dims=16, auto_map={"a": "b"}),
    "a rank too many": lambda f: config(f, kind="linear", dims=16, rank=4),
    "no dims": lambda f: config(f, kind="linear"),
    "dims that are no number": lambda f: config(f, kind="linear", dims="16"),
    "true dims": lambda f: config(f, kind="linear", dims=True),
    "no dimension": lambda f: config(f, kind="linear", dims=0),
    "too many dims": lambda f: config(f, kind="linear", dims=10**9),
    "other dims": lambda f: config(f, kind="linear", dims=8),
    "a tensor too few": lambda f: tensors(f, weight=(16, 16)),
    "a tensor too many": lambda f: tensors(f, weight=(16, 16), bias=(16,), more=(1,)),
    "a tensor of the model": lambda f: tensors(
        f, **{"weight": (16, 16), "bias": (16,), "embeddings.word_embeddings.weight": (1, 16)}
    ),
    "another shape": lambda f: tensors(f, weight=(16, 8), bias=(16,)),
    "half precision": half_precision,
    "cut short": cut_short,
    "a huge header": huge_header,
    "a link out of the folder": outside,
    "in a module's folder": in_a_module,
}


@pytest.mark.parametrize("how", SPOILED)
def test_a_spoiled_adapter_is_refused(folder, how):
    write_adapter(linear(), folder)
    check_folder(folder)
    SPOILED[how](folder)
    with pytest.raises(UnsafeModelError, match=r"query_adapter|link"):
        check_folder(folder)


def test_an_adapter_for_another_model_is_refused(folder):
    write_adapter(linear(dims=8), folder)
    with pytest.raises(UnsafeModelError, match="for 8 dimensions, and its model makes 16"):
        resolve_model(folder)


def test_it_is_no_stand_in_for_the_model_s_weights(folder):
    write_adapter(linear(), folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeModelError, match=r"model\.safetensors, the weights of Transformer"):
        check_folder(folder)


def test_it_is_no_part_of_split_weights(folder):
    write_adapter(linear(), folder)
    shutil.move(folder / "model.safetensors", folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"embeddings.word_embeddings.weight": WEIGHTS}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UnsafeModelError, match="not a part of these weights"):
        check_folder(folder)


@pytest.mark.parametrize(
    ("kind", "arrays", "reason"),
    [
        ("linear", {}, "needs a 'bias'"),
        ("linear", {"bias": np.zeros((2, 2))}, "needs a 'bias'"),
        ("mlp", {"bias": np.zeros(2)}, "'kind' is 'mlp'"),
        ("linear", {"bias": np.zeros(2), "weight": np.zeros((2, 3))}, "has the shapes"),
        ("linear", {"bias": np.zeros(2), "down": np.zeros((1, 2))}, "has the shapes"),
        ("linear", {"bias": np.array([0, np.nan]), "weight": np.zeros((2, 2))}, "NaN"),
    ],
)
def test_what_is_no_adapter_is_not_made(kind, arrays, reason):
    with pytest.raises(InputError, match=reason):
        QueryAdapter(kind, arrays)


def test_weights_that_are_not_numbers_are_not_run(folder):
    write_adapter(linear(), folder)
    nans = {"weight": np.full((16, 16), np.nan, np.float32), "bias": np.zeros(16, np.float32)}
    save_file(nans, folder / WEIGHTS)
    with pytest.raises(InputError, match="NaN"):
        read_adapter(folder)
