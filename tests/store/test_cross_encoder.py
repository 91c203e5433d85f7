"""Cross-encoders as versions: kept, told apart, and refused where one could do harm."""

import json
import shutil
from pathlib import Path

import pytest

import lancedb_ft as ft
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import FingerprintError, ModelKindError, UnsafeModelError
from lancedb_ft.store import ModelStore, check_folder, fingerprint_folder, resolve_model
from lancedb_ft.store.fingerprint import folder_dims
from lancedb_ft.store.trust import inspect_folder
from tests.store.conftest import change
from tests.tiny import tiny_model

MODEL, SBERT = "config_sentence_transformers.json", "sentence_bert_config.json"


@pytest.fixture(scope="session")
def tiny_6x(tmp_path_factory):
    """A cross-encoder as sentence-transformers 6 saves it. Never written to."""
    from sentence_transformers import CrossEncoder

    place = tmp_path_factory.mktemp("cross")
    model = CrossEncoder(tiny_model(place), num_labels=1, device="cpu")
    model.save_pretrained(str(place / "6x"))
    return place / "6x"


@pytest.fixture
def spelled(tiny_6x, tmp_path):
    """A copy of it, to spoil."""
    return Path(shutil.copytree(tiny_6x, tmp_path / "copy"))


@pytest.fixture
def plain(spelled):
    """The same model as 5.x saves it: a plain transformers folder."""
    for name in ("modules.json", MODEL, SBERT):
        (spelled / name).unlink()
    return spelled


def test_both_spellings_are_a_cross_encoder_with_one_fingerprint(tiny_6x, plain):
    for folder in (tiny_6x, plain):
        found = inspect_folder(folder)
        assert found.kind == "cross-encoder"
        assert folder_dims(found) == 0
    assert fingerprint_folder(tiny_6x) == fingerprint_folder(plain)


def test_a_version_keeps_what_was_saved(tiny_6x, tmp_path):
    store = ModelStore(tmp_path / "store")
    saved = store.save(tiny_6x, name="reranker", manifest={"seed": 7})
    assert (saved.ref, saved.kind, saved.dims) == ("reranker@1", "cross-encoder", 0)
    assert saved.fingerprint == fingerprint_folder(tiny_6x)
    loaded = store.load("reranker")
    assert loaded.manifest["kind"] == "cross-encoder"
    assert loaded.manifest["seed"] == 7
    files = {file.name for file in Path(loaded.path).iterdir()}
    assert not files & {"modules.json", MODEL, SBERT}
    card = (Path(loaded.path) / "README.md").read_text()
    assert "pipeline_tag: text-ranking" in card
    assert 'FineTunedReranker("reranker@1"' in card
    assert "vectors" not in card
    found = resolve_model("reranker@1", store=store.uri, kind="cross-encoder")
    assert (found.kind, found.fingerprint) == ("cross-encoder", saved.fingerprint)


def test_the_store_s_copy_scores_as_the_original_in_sentence_transformers(tiny_6x, tmp_path):
    from sentence_transformers import CrossEncoder

    saved = ModelStore(tmp_path).save(tiny_6x, name="reranker")
    asked = [("cancel my order", "open the settings"), ("fox", "the lazy dog")]
    one, other = (
        CrossEncoder(str(path), device="cpu", local_files_only=True).predict(asked)
        for path in (tiny_6x, saved.path)
    )
    assert one.tolist() == other.tolist()


def test_changed_weights_are_noticed(tiny_6x, tmp_path):
    store = ModelStore(tmp_path)
    saved = store.save(tiny_6x, name="reranker")
    file = Path(saved.path) / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(FingerprintError):
        store.load("reranker@1")


def test_no_embedder_is_made_of_a_reranker(tiny_6x, tmp_path):
    from lancedb.embeddings import get_registry

    store = ModelStore(tmp_path)
    saved = store.save(tiny_6x, name="reranker")
    embed = get_registry().get("ft-embed")
    uses = [
        lambda: embed.create(name="reranker@1", store=store.uri),
        lambda: embed.create(
            name="reranker@1", store=store.uri, fingerprint=saved.fingerprint, dims=16
        ).compute_query_embeddings("a"),
        lambda: ft.get_encoder(saved),
        lambda: ft.get_encoder("reranker", store=store.uri),
        lambda: resolve_model(saved),
        lambda: resolve_model(saved.path),
        lambda: load_sentence_transformer(saved.path),
    ]
    for use in uses:
        with pytest.raises(ModelKindError, match="makes no vectors"):
            use()


def test_no_reranker_is_made_of_an_embedder(tiny, tmp_path):
    saved = ModelStore(tmp_path).save(tiny, name="support")
    assert saved.kind == "embedder"
    assert saved.manifest["kind"] == "embedder"
    with pytest.raises(ModelKindError, match="scores no pairs"):
        resolve_model("support@1", store=saved.store, kind="cross-encoder")
    with pytest.raises(ModelKindError, match="scores no pairs"):
        check_folder(saved.path, kind="cross-encoder")
    assert resolve_model(saved, kind=None).kind == "embedder"


# --- hostile and unfit folders ---------------------------------------------------------------

SPELLED_OUT = [
    (MODEL, {"activation_fn": "torch.hub.load"}, "activation"),
    (MODEL, {"activation_fn": "os.getcwd"}, "activation"),
    (MODEL, {"activation_fn": 3}, "activation"),
    (MODEL, {"prompts": {"query": "q: "}}, "prompts"),
    (MODEL, {"prompts": ["x"]}, "prompts"),
    (MODEL, {"default_prompt_name": "query"}, "default_prompt_name"),
    (MODEL, {"keep_in_fp32_modules": ["0.model.classifier"]}, "keep_in_fp32_modules"),
    (MODEL, {"trust_remote_code": True}, "trust_remote_code"),
    (SBERT, {"transformer_task": "text-generation"}, "transformer_task"),
    (SBERT, {"model_args": {"use_safetensors": False}}, "model_args"),
    (SBERT, {"model_kwargs": {"weights_only": False}}, "model_kwargs"),
    (SBERT, {"backend": "onnx"}, "backend"),
    (SBERT, {"modality_config": {"text": {"method": "save_pretrained"}}}, "modality_config"),
    (SBERT, {"modality_config": None}, "modality_config"),
    (SBERT, {"module_output_name": "x"}, "module_output_name"),
    ("config.json", {"architectures": ["BertModel"]}, "architectures"),
    ("modules.json", {"type": "sentence_transformers.models.Router"}, "module type"),
    ("modules.json", {"type": "sentence_transformers.models.StaticEmbedding"}, "own text modules"),
]
BOTH = [
    ("config.json", {"auto_map": {"AutoModel": "modeling_evil.Evil"}}, "auto_map"),
    ("config.json", {"_attn_implementation": "evil/kernel"}, "attn_implementation"),
    ("config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
    ("config.json", {"sbert_ce_default_activation_function": "torch.hub.load"}, "activation"),
    ("config.json", {"sentence_transformers": {"activation_fn": "torch.hub.load"}}, "activation"),
    ("config.json", {"sentence_transformers": {"load": "x"}}, "sentence_transformers"),
    ("config.json", {"sentence_transformers": ["x"]}, "sentence_transformers"),
    ("config.json", {"id2label": {"0": "a", "1": "b"}}, "2 scores"),
    ("config.json", {"id2label": None}, "2 scores"),
    ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}, "auto_map"),
]


@pytest.mark.parametrize(("name", "keys", "reason"), [*SPELLED_OUT, *BOTH])
def test_configs_of_6x_say_only_what_every_cross_encoder_says(
    spelled, tmp_path, name, keys, reason
):
    change(spelled, name, **keys)
    with pytest.raises(UnsafeModelError, match=reason):
        check_folder(spelled)
    with pytest.raises(UnsafeModelError, match=reason):
        ModelStore(tmp_path / "store").save(spelled, name="evil")


@pytest.mark.parametrize(("name", "keys", "reason"), BOTH)
def test_configs_of_a_plain_folder_reach_nothing(plain, name, keys, reason):
    change(plain, name, **keys)
    with pytest.raises(UnsafeModelError, match=reason) as caught:
        check_folder(plain)
    assert name in caught.value.reason


@pytest.mark.parametrize(
    "name", ["pytorch_model.bin", "model.pt", "modeling.py", "adapter_config.json", "CE.pkl"]
)
def test_pickles_and_code_beside_it_are_refused(plain, name):
    (plain / name).write_text("{}")
    with pytest.raises(UnsafeModelError):
        check_folder(plain)


def test_an_embedder_that_calls_itself_a_cross_encoder_is_refused(folder):
    change(folder, MODEL, model_type="CrossEncoder")
    with pytest.raises(UnsafeModelError, match="is a CrossEncoder, and modules"):
        check_folder(folder)


def test_a_known_activation_of_a_real_reranker_passes(plain):
    own = {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.1.0"}
    change(plain, "config.json", sentence_transformers=own)
    check_folder(plain, kind="cross-encoder")


def test_architectures_that_are_no_list_are_no_cross_encoder(plain):
    for value in ("BertForSequenceClassification", [], [3], None, {"a": 1}):
        config = json.loads((plain / "config.json").read_text())
        (plain / "config.json").write_text(json.dumps({**config, "architectures": value}))
        assert inspect_folder(plain).kind == "embedder"
