"""What may be loaded: each hostile folder is built, refused with the reason, and runs nothing."""

import json
import os
import pickle
import shutil
import struct
from pathlib import Path

import pytest

from lancedb_ft.errors import ModelNotFoundError, UnsafeModelError
from lancedb_ft.store import ModelStore, check_folder, fingerprint_folder, resolve_model
from lancedb_ft.store.fingerprint import folder_dims
from lancedb_ft.store.layout import MODULE_TYPES
from lancedb_ft.store.trust import inspect_folder
from tests.store.conftest import change

BASE = "sentence_transformers.base.modules."


def add_dense(folder, activation="torch.nn.modules.activation.Tanh", dims=8):
    import torch
    from safetensors.torch import save_file

    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": f"{BASE}dense.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    change(
        folder,
        "3_Dense/config.json",
        in_features=16,
        out_features=dims,
        bias=True,
        activation_function=activation,
    )
    weights = {"linear.weight": torch.ones(dims, 16), "linear.bias": torch.zeros(dims)}
    save_file(weights, folder / "3_Dense" / "model.safetensors")


# --- what passes ---------------------------------------------------------------------------


def test_the_real_minilm_passes(minilm):
    check_folder(minilm)
    assert folder_dims(inspect_folder(minilm)) == 384


def test_a_folder_that_sentence_transformers_6_saved_passes(tiny):
    folder = inspect_folder(tiny)
    assert [(m.cls, m.path) for m in folder.modules] == [
        ("Transformer", ""),
        ("Pooling", "1_Pooling"),
        ("Normalize", "2_Normalize"),
    ]


def test_a_plain_transformers_folder_passes(folder):
    (folder / "modules.json").unlink()
    shutil.rmtree(folder / "1_Pooling")
    shutil.rmtree(folder / "2_Normalize")
    assert folder_dims(inspect_folder(folder)) == 16


def test_a_dense_with_an_activation_of_torch_passes_and_sets_the_dims(folder):
    add_dense(folder)
    assert folder_dims(inspect_folder(folder)) == 8


def test_a_static_embedding_passes_and_its_dims_are_read_from_the_weights(tmp_path, tiny):
    import torch
    from safetensors.torch import save_file

    folder = tmp_path / "static"
    folder.mkdir()
    shutil.copy(tiny / "tokenizer.json", folder)
    save_file({"embedding.weight": torch.ones(130, 24)}, folder / "model.safetensors")
    kind = "sentence_transformers.models.StaticEmbedding"
    entry = {"idx": 0, "name": "0", "path": "", "type": kind}
    (folder / "modules.json").write_text(json.dumps([entry]))
    assert folder_dims(inspect_folder(folder)) == 24


@pytest.mark.parametrize("spelled", sorted(MODULE_TYPES))
def test_every_accepted_type_is_the_class_that_sentence_transformers_imports(spelled):
    from sentence_transformers.util import import_from_string

    found = import_from_string(spelled)
    assert isinstance(found, type)
    assert found.__name__ == MODULE_TYPES[spelled]
    assert found.__module__.startswith("sentence_transformers.")


def test_what_is_never_read_is_passed_over_and_changes_nothing(folder):
    before = fingerprint_folder(folder)
    (folder / "README.md").write_text("# a card")
    (folder / "onnx").mkdir()
    (folder / "onnx" / "model.onnx").write_bytes(b"\x00")
    (folder / "onnx" / "evil.py").write_text("raise SystemExit")
    assert fingerprint_folder(folder) == before


def test_links_of_the_hub_cache_pass(tiny, tmp_path):
    cache = tmp_path / "models--org--name"
    snapshot = cache / "snapshots" / ("a" * 40)
    (cache / "blobs").mkdir(parents=True)
    for file in (f for f in tiny.rglob("*") if f.is_file()):
        blob = cache / "blobs" / file.relative_to(tiny).as_posix().replace("/", "-")
        shutil.copy(file, blob)
        link = snapshot / file.relative_to(tiny)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    assert fingerprint_folder(snapshot) == fingerprint_folder(tiny)


def test_no_folder_is_no_model(tmp_path):
    with pytest.raises(ModelNotFoundError):
        check_folder(tmp_path / "nothing")
    with pytest.raises(ModelNotFoundError):
        check_folder(tmp_path)


# --- what is refused -----------------------------------------------------------------------

PICKLES = (
    *("pytorch_model.bin", "model.pt", "model.pkl", "head.joblib", "last.ckpt", "weights.npy"),
    *("optimizer.pt", "1_Pooling/pytorch_model.bin"),
)


class Bomb:
    """Unpickling it makes a file."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused_and_not_opened(folder, tmp_path, name):
    marker = tmp_path / "ran"
    (folder / name).write_bytes(pickle.dumps(Bomb(marker)))
    with pytest.raises(UnsafeModelError, match="may hold a pickle") as caught:
        check_folder(folder)
    assert name in caught.value.reason
    assert not marker.exists()


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("modeling.py", "is program code"),
        ("1_Pooling/pooling.py", "is program code"),
        ("native.so", "is program code"),
        ("tf_model.h5", "a format that is not loaded"),
        ("model.gguf", "a format that is not loaded"),
        ("adapter_config.json", "names another model"),
        ("router_config.json", "own text modules"),
        ("preprocessor_config.json", "own text modules"),
        ("processor_config.json", "own text modules"),
        ("model-evil.safetensors", "own text modules"),
        ("2_Normalize/model.safetensors", "of a module"),
        ("extra/config.json", "of a module"),
    ],
)
def test_files_that_are_not_on_the_list_are_refused(folder, name, reason):
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text("{}")
    with pytest.raises(UnsafeModelError, match=reason) as caught:
        check_folder(folder)
    assert name in caught.value.reason


@pytest.mark.parametrize(
    "kind",
    [
        "modeling_evil.Evil",  # a file of the folder
        "os.path.join",  # anything importable
        "sentence_transformers.SentenceTransformer",
        # A module of sentence-transformers as the way to a library it imports: has a load().
        "sentence_transformers.base.modules.module.torch",
        "sentence_transformers.util.misc.importlib",
        # Their own, and they import further classes that configs name.
        "sentence_transformers.models.Router",
        "sentence_transformers.models.Asym",
        "sentence_transformers.models.WordEmbeddings",
        "sentence_transformers.base.modules.router.Router",
        # torch.load of the whole folder
        "sentence_transformers.models.LSTM",
        "",
        None,
        7,
    ],
)
def test_module_types_that_are_not_on_the_list_are_refused(folder, tmp_path, kind):
    marker = tmp_path / "ran"
    evil = f"import os\nos.mkdir({str(marker)!r})\nclass Evil: pass\n"
    (folder / "README.md").write_text(evil)
    change(folder, "modules.json", type=kind)
    with pytest.raises(UnsafeModelError, match="the module type"):
        check_folder(folder)
    with pytest.raises(UnsafeModelError):
        resolve_model(str(folder))
    with pytest.raises(UnsafeModelError):
        ModelStore(tmp_path / "store").save(folder, name="evil")
    assert not marker.exists()


@pytest.mark.parametrize(
    "path", ["../x", "x\n", "/etc", "a/b", "..", ".", "C:\\x", "a\\..\\b", 3, None]
)
def test_module_paths_that_leave_the_folder_are_refused(folder, path):
    change(folder, "modules.json", path=path)
    with pytest.raises(UnsafeModelError, match="not a plain sub-folder"):
        check_folder(folder)


@pytest.mark.parametrize(
    "activation",
    [
        "os.system",
        "torch.hub.load",
        "torch.utils.bottleneck.__main__.run",
        "torch.nn.modules.activation.MultiheadAttention",
        "torch.nn.Tanh.__init__",
        "torch.nn.TanhX",
        None,
    ],
)
def test_a_dense_names_no_code(folder, activation):
    add_dense(folder, activation)
    with pytest.raises(UnsafeModelError, match="'activation_function'"):
        check_folder(folder)


SBERT = "sentence_bert_config.json"


@pytest.mark.parametrize(
    ("name", "keys", "reason"),
    [
        (SBERT, {"model_args": {"use_safetensors": False}}, "use_safetensors"),
        (SBERT, {"model_kwargs": {"weights_only": False}}, "weights_only"),
        (SBERT, {"model_args": {"trust_remote_code": True}}, "trust_remote_code"),
        (SBERT, {"model_args": {"attn_implementation": "evil/kernel"}}, "attn_implementation"),
        (SBERT, {"config_kwargs": {"auto_map": {"AutoConfig": "x.Y"}}}, "auto_map"),
        (SBERT, {"processor_kwargs": {"tokenizer_file": "/etc/passwd"}}, "tokenizer_file"),
        (SBERT, {"tokenizer_name_or_path": "/elsewhere"}, "tokenizer_name_or_path"),
        (SBERT, {"backend": "onnx"}, "backend"),
        (SBERT, {"cache_dir": "/elsewhere"}, "cache_dir"),
        (SBERT, {"transformer_task": "text-generation"}, "transformer_task"),
        (
            SBERT,
            {"modality_config": {"text": {"method": "save_pretrained"}}},
            "another method",
        ),
        (
            SBERT,
            {"modality_config": {"text": {"method": "forward"}, "image": {"method": "forward"}}},
            "not for text alone",
        ),
        (SBERT, {"processing_kwargs": {"text": {"x": {"y": 1}}}}, "more than plain values"),
        ("sentence_roberta_config.json", {"model_args": {"use_safetensors": False}}, "safetensors"),
        ("config.json", {"auto_map": {"AutoModel": "modeling_evil.Evil"}}, "auto_map"),
        ("config.json", {"custom_pipelines": {"x": {"impl": "evil.Evil"}}}, "custom_pipelines"),
        ("config.json", {"trust_remote_code": True}, "trust_remote_code"),
        ("config.json", {"encoder": {"auto_map": {"AutoModel": "m.E"}}}, "auto_map"),
        ("config.json", {"_attn_implementation": "evil/kernel"}, "attn_implementation"),
        ("config.json", {"attn_implementation": {"": "evil/kernel"}}, "attn_implementation"),
        ("config.json", {"experts_implementation": "evil/kernel"}, "experts_implementation"),
        ("config.json", {"quantization_config": {"quant_method": "x"}}, "quantization_config"),
        ("config.json", {"transformers_weights": "adapter_model.bin"}, "transformers_weights"),
        ("config.json", {"use_safetensors": False}, "use_safetensors"),
        ("config.json", {"backbone": "evil/model"}, "backbone"),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["t.T", None]}}, "auto_map"),
        ("tokenizer_config.json", {"init_inputs": ["/etc/passwd"]}, "init_inputs"),
        ("config_sentence_transformers.json", {"model_type": "CrossEncoder"}, "CrossEncoder"),
        ("config_sentence_transformers.json", {"prompts": ["x"]}, "prompts"),
        ("config_sentence_transformers.json", {"truncate_dim": "4"}, "truncate_dim"),
        ("1_Pooling/config.json", {"auto_map": {}}, "auto_map"),
        ("1_Pooling/config.json", {"embedding_dimension": "16"}, "embedding_dimension"),
        ("1_Pooling/config.json", {"pooling_mode": 3}, "pooling_mode"),
        ("2_Normalize/config.json", {"module_input_name": ["x"]}, "plain values"),
        ("modules.json", {"kwargs": {"x": 1}}, "kwargs"),
        ("modules.json", {"class": "x"}, "class"),
    ],
)
def test_keys_that_reach_outside_the_data_are_refused(folder, name, keys, reason):
    change(folder, name, **keys)
    with pytest.raises(UnsafeModelError, match=reason) as caught:
        check_folder(folder)
    assert name in caught.value.reason


def test_harmless_keys_of_real_models_pass(folder):
    change(folder, SBERT, model_args={"torch_dtype": "float16"}, max_seq_length=32)
    change(folder, "config.json", attn_implementation="sdpa", quantization_config=None)
    change(folder, "tokenizer_config.json", trust_remote_code=False, name_or_path="/home/me/x")
    change(folder, "added_tokens.json", auto_map=5)  # a token
    check_folder(folder)


def test_a_folder_that_unpickles_in_sentence_transformers_is_refused_here(folder, tmp_path):
    """The whole chain, as it runs code in 6.2 with trust_remote_code=False and nothing else."""
    marker = tmp_path / "ran"
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Bomb(marker)))
    unsafe = {"use_safetensors": False, "weights_only": False, "dtype": "auto"}
    change(folder, SBERT, model_args=unsafe)
    change(folder, "config.json", dtype=None)
    for use in (check_folder, fingerprint_folder, lambda path: resolve_model(str(path))):
        with pytest.raises(UnsafeModelError):
            use(folder)
    assert not marker.exists()


@pytest.mark.parametrize("text", ["", "{", "[" * 100_000, "\x00", '"text"', "[]", "[[]]", "{}"])
def test_a_modules_json_that_is_none_is_refused(folder, text):
    (folder / "modules.json").write_text(text)
    with pytest.raises(UnsafeModelError, match=r"modules\.json"):
        check_folder(folder)


def test_modules_that_share_a_folder_or_cannot_read_text_are_refused(folder):
    change(folder, "modules.json", path="1_Pooling")
    with pytest.raises(UnsafeModelError, match="share one sub-folder"):
        check_folder(folder)
    kind = "sentence_transformers.models.Pooling"
    entry = {"idx": 0, "name": "0", "path": "1_Pooling", "type": kind}
    (folder / "modules.json").write_text(json.dumps([entry]))
    with pytest.raises(UnsafeModelError, match="cannot read text"):
        check_folder(folder)


# --- links and special files ---------------------------------------------------------------


def test_a_link_that_leaves_the_folder_is_refused(folder, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("a secret")
    (folder / "vocab.txt").symlink_to(secret)
    with pytest.raises(UnsafeModelError, match=r"vocab\.txt is a link that leaves"):
        check_folder(folder)
    with pytest.raises(UnsafeModelError):
        ModelStore(tmp_path / "store").save(folder, name="leak")


def test_a_link_to_a_folder_is_refused(folder, tmp_path):
    shutil.move(folder / "1_Pooling", tmp_path / "elsewhere")
    (folder / "1_Pooling").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnsafeModelError, match="is a link to a folder"):
        check_folder(folder)


def test_a_pipe_is_refused_and_not_waited_for(folder):
    os.mkfifo(folder / "vocab.txt")
    with pytest.raises(UnsafeModelError, match="not a plain file"):
        check_folder(folder)


def test_a_broken_link_is_refused(folder):
    (folder / "vocab.txt").symlink_to(folder / "nowhere")
    with pytest.raises(UnsafeModelError, match="cannot be read"):
        check_folder(folder)


# --- weights -------------------------------------------------------------------------------


def _spoilt(kind, good):
    header_length = int.from_bytes(good[:8], "little")
    return {
        "empty": b"",
        "cut short": good[:-10],
        "longer": good + b"x",
        "length beyond the file": struct.pack("<Q", 10**12) + good[8:],
        "no JSON": struct.pack("<Q", header_length) + b"\xff" * (len(good) - 8),
        "a pickle": pickle.dumps({"a": 1}),
        "no tensors": struct.pack("<Q", 2) + b"{}",
        "a list": struct.pack("<Q", 2) + b"[]",
        "no offsets": struct.pack("<Q", 12) + b'{"a": {"b":1' + b"}}",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        *("empty", "cut short", "longer", "length beyond the file", "no JSON", "a pickle"),
        *("no tensors", "a list", "no offsets"),
    ],
)
def test_weights_that_are_not_whole_safetensors_are_refused(folder, kind):
    file = folder / "model.safetensors"
    file.write_bytes(_spoilt(kind, file.read_bytes()))
    with pytest.raises(UnsafeModelError, match=r"model\.safetensors"):
        check_folder(folder)


def test_missing_weights_and_configs_are_refused(folder):
    (folder / "1_Pooling" / "config.json").rename(folder / "kept.md")
    with pytest.raises(UnsafeModelError, match=r"1_Pooling/config\.json"):
        check_folder(folder)
    (folder / "kept.md").rename(folder / "1_Pooling" / "config.json")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UnsafeModelError, match="the weights of Transformer"):
        check_folder(folder)


def _shard(folder, part):
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"a": part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def test_weights_in_parts_pass(folder):
    _shard(folder, "model-00001-of-00001.safetensors")
    check_folder(folder)


@pytest.mark.parametrize("part", ["../other.safetensors", "/etc/passwd", "pytorch_model.bin", 3])
def test_an_index_names_only_its_own_parts(folder, part):
    _shard(folder, part)
    with pytest.raises(UnsafeModelError, match="not a part of these weights"):
        check_folder(folder)


# --- the fingerprint -----------------------------------------------------------------------


def test_the_fingerprint_of_a_copy_is_the_same(tiny, folder):
    assert fingerprint_folder(folder) == fingerprint_folder(tiny)
    assert len(fingerprint_folder(tiny)) == 64


@pytest.mark.parametrize(
    "name",
    ["modules.json", "config.json", SBERT, "tokenizer_config.json", "1_Pooling/config.json"],
)
def test_white_space_and_the_order_of_keys_do_not_count(folder, name):
    before = fingerprint_folder(folder)
    document = json.loads((folder / name).read_text())
    if isinstance(document, dict):
        document = dict(reversed(document.items()))
    (folder / name).write_text(json.dumps(document, indent=7))
    assert fingerprint_folder(folder) == before


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("config_sentence_transformers.json", {"__version__": {"transformers": "9"}}),
        ("config_sentence_transformers.json", {"prompts": {}}),
        ("config.json", {"_name_or_path": "/home/me", "transformers_version": "9"}),
        ("tokenizer_config.json", {"name_or_path": "/home/me", "is_local": False}),
        (SBERT, {"do_lower_case": False}),
    ],
)
def test_what_the_vectors_do_not_depend_on_does_not_count(folder, name, keys):
    before = fingerprint_folder(folder)
    change(folder, name, **keys)
    assert fingerprint_folder(folder) == before


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("config_sentence_transformers.json", {"prompts": {"query": "q: "}}),
        ("config_sentence_transformers.json", {"default_prompt_name": "query"}),
        ("config_sentence_transformers.json", {"truncate_dim": 8}),
        ("config.json", {"layer_norm_eps": 0.1}),
        ("tokenizer_config.json", {"model_max_length": 8}),
        (SBERT, {"max_seq_length": 8}),
        ("1_Pooling/config.json", {"pooling_mode": "cls"}),
        ("1_Pooling/config.json", {"include_prompt": False}),
        ("2_Normalize/config.json", {"module_output_name": "other"}),
    ],
)
def test_what_the_vectors_depend_on_counts(folder, name, keys):
    before = fingerprint_folder(folder)
    change(folder, name, **keys)
    assert fingerprint_folder(folder) != before


def test_one_changed_bit_of_the_weights_counts_also_in_the_process_that_hashed_them(folder):
    before = fingerprint_folder(folder)
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    assert fingerprint_folder(folder) != before


def test_removing_a_module_counts(folder):
    before = fingerprint_folder(folder)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    shutil.rmtree(folder / "2_Normalize")
    assert fingerprint_folder(folder) != before


def test_hashing_is_done_once_per_process(minilm, monkeypatch):
    from lancedb_ft.store import fingerprint

    first = fingerprint_folder(minilm)
    monkeypatch.setattr(fingerprint, "_hash_file", lambda file: pytest.fail(f"hashed {file}"))
    assert fingerprint_folder(Path(minilm)) == first
