"""The encoder: the same vectors as sentence-transformers, in Arrow, once per text and process."""

import json
import shutil
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.numpy import load_file, save_file
from sentence_transformers import SentenceTransformer

from lancedb_ft.encoder import (
    Encoder,
    clear_encoders,
    get_encoder,
    load_sentence_transformer,
    resolve_device,
)
from lancedb_ft.encoder import core as core_room
from lancedb_ft.encoder.precision import MIN_COSINE, choose_precision
from lancedb_ft.encoder.texts import distinct_texts
from lancedb_ft.encoder.tokens import BatchLimit, WindowTokenizer, token_batches
from lancedb_ft.errors import FingerprintError, InputError, StoreError, UnsafeModelError
from tests.tiny import TEXTS, tiny_model

DIMS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"), dims=DIMS)


@pytest.fixture(scope="module")
def reference(folder):
    """sentence-transformers itself, on the same folder."""
    return SentenceTransformer(folder, device="cpu")


@pytest.fixture
def encoder(folder):
    return get_encoder(folder, device="cpu", precision="float32")


def copy_of(folder, tmp_path):
    return str(shutil.copytree(folder, tmp_path / "copy"))


def edit_json(folder, name, **changes):
    file = Path(folder, name)
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def matrix(array):
    return np.array(array.to_pylist(), np.float32)


def many_texts(n, seed=0):
    """Texts of 1 to 90 words: some are longer than the 64 tokens of the tiny model."""
    rng = np.random.default_rng(seed)
    words = " ".join(TEXTS).split()
    return [" ".join(rng.choice(words, rng.integers(1, 90))) + f" {i}" for i in range(n)]


# --- the vectors -------------------------------------------------------------------------------


def test_same_vectors_as_sentence_transformers_in_the_order_of_the_rows(encoder, reference):
    texts = many_texts(120)
    expected = reference.encode(texts, show_progress_bar=False)
    found = encoder.encode(texts)
    assert found.type == pa.list_(pa.float32(), DIMS)
    np.testing.assert_allclose(matrix(found), expected, atol=2e-6)


def test_real_minilm_same_vectors(minilm):
    texts = ["How do I cancel?", "word " * 400, "", "Ünïcödé 漢字", "How do I cancel?"]
    found = get_encoder(minilm, device="cpu", precision="float32").encode(texts)
    expected = SentenceTransformer(minilm, device="cpu").encode(
        [texts[0], texts[1], texts[3]], show_progress_bar=False
    )
    assert found.is_null().to_pylist() == [False, False, True, False, False]
    np.testing.assert_allclose(matrix(found.take([0, 1, 3])), expected, atol=2e-6)
    assert found[4].as_py() == found[0].as_py()


def test_null_and_blank_texts_are_null(encoder):
    found = encoder.encode([None, "a", "", " \t\n\u2003", "b"])
    assert found.is_null().to_pylist() == [True, False, True, True, False]
    assert len(encoder.encode([])) == 0
    assert encoder.encode([]).type == pa.list_(pa.float32(), DIMS)
    assert encoder.encode([None, " "]).null_count == 2
    assert encoder.encode(pa.nulls(3)).null_count == 3


@pytest.mark.parametrize(
    "make",
    [
        lambda texts: pa.array(texts, pa.string()),
        lambda texts: pa.array(texts, pa.large_string()),
        lambda texts: pa.array(texts, pa.string_view()),
        lambda texts: pa.array(texts).dictionary_encode(),
        lambda texts: pa.chunked_array([texts[:2], texts[2:]]),
        lambda texts: pa.chunked_array([texts[:2], texts[2:]]).dictionary_encode(),
        lambda texts: pa.array(["x", *texts, "y"]).slice(1, len(texts)),
        lambda texts: np.array(texts, object),
        tuple,
    ],
)
def test_every_kind_of_column(encoder, make):
    texts = ["one", None, "two", "one", " "]
    assert encoder.encode(make(texts)).to_pylist() == encoder.encode(texts).to_pylist()


@pytest.mark.parametrize(
    "bad", ["one text", [1, 2], ["a", 3.5], pa.array([1]), ["\ud800"], [["nested"]], 7]
)
def test_what_is_not_text_is_refused(encoder, bad):
    with pytest.raises(InputError, match=r"[Ee]xpected"):
        encoder.encode(bad)


def test_each_distinct_text_is_encoded_once(folder, monkeypatch):
    model = load_sentence_transformer(folder, device="cpu")
    n_texts = []
    forward = type(model).forward

    def counting(self, features, **kwargs):
        n_texts.append(len(features["input_ids"]))
        return forward(self, features, **kwargs)

    monkeypatch.setattr(type(model), "forward", counting)
    found = Encoder.of(model).encode(["a", "b", None, "a"] * 500)
    assert sum(n_texts) == 2
    assert len(found) == 2000
    assert found[0].as_py() == found[3].as_py() == found[1996].as_py()
    assert found[1].as_py() == found[1997].as_py() != found[0].as_py()


def test_several_windows_and_progress(encoder, reference, monkeypatch):
    monkeypatch.setattr(core_room, "WINDOW", 32)
    texts = [*many_texts(70), None, *many_texts(70)]
    seen = []
    found = encoder.encode(texts, progress=lambda done, total: seen.append((done, total)))
    np.testing.assert_allclose(
        matrix(found.drop_null()), reference.encode(many_texts(70) * 2), atol=2e-6
    )
    assert {total for _, total in seen} == {141}
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert seen[-1] == (141, 141)
    assert len(seen) >= 3
    only_blank = []
    encoder.encode([None, ""], progress=lambda done, total: only_blank.append((done, total)))
    assert only_blank == [(2, 2)]


def test_result_is_arrow_without_python_lists(encoder):
    found = encoder.encode(["a", "b"])
    values = np.asarray(found.values)
    assert not values.flags.owndata  # a view of the buffer that the model filled
    assert values.dtype == np.float32
    assert found.values.null_count == 0


def test_nan_is_an_error(folder):
    model = load_sentence_transformer(folder, device="cpu")
    with torch.no_grad():
        next(model.parameters()).fill_(float("nan"))
    with pytest.raises(StoreError, match="NaN"):
        Encoder.of(model).encode(["a"])


# --- prompts -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"prompts": {"query": "question: ", "document": "passage: "}},
        {"prompts": {"query": "question: ", "passage": "the doc "}},
        {"prompts": {"corpus": "one ", "passage": "two "}},
        {"prompts": {"query": "", "document": ""}, "default_prompt_name": "query"},
        {"prompts": {"other": "open the page "}, "default_prompt_name": "other"},
        {},
    ],
)
def test_prompts_as_encode_query_and_encode_document(folder, tmp_path, settings):
    copied = copy_of(folder, tmp_path)
    edit_json(copied, "config_sentence_transformers.json", **settings)
    texts = ["how do I cancel", "the fox jumps " * 40]
    reference = SentenceTransformer(copied, device="cpu")
    encoder = get_encoder(copied, device="cpu", precision="float32")
    np.testing.assert_allclose(
        matrix(encoder.encode(texts, kind="query")), reference.encode_query(texts), atol=2e-6
    )
    np.testing.assert_allclose(
        matrix(encoder.encode(texts, kind="document")), reference.encode_document(texts), atol=2e-6
    )


def test_prompt_changes_the_vector_and_counts_as_tokens(folder, tmp_path):
    copied = copy_of(folder, tmp_path)
    edit_json(copied, "config_sentence_transformers.json", prompts={"query": "open the page "})
    encoder = get_encoder(copied, device="cpu", precision="float32")
    assert encoder.encode(["fox"]).to_pylist() != encoder.encode(["fox"], kind="query").to_pylist()
    assert encoder.token_counts(["fox"]).tolist() == [3]
    assert encoder.token_counts(["fox"], kind="query").tolist() == [6]


def test_prompt_left_out_of_the_pooling(folder, tmp_path):
    copied = copy_of(folder, tmp_path)
    edit_json(copied, "config_sentence_transformers.json", prompts={"query": "open the page "})
    edit_json(copied, "1_Pooling/config.json", include_prompt=False)
    reference = SentenceTransformer(copied, device="cpu")
    encoder = get_encoder(copied, device="cpu", precision="float32")
    found = matrix(encoder.encode(["fox", "lazy dog"], kind="query"))
    np.testing.assert_allclose(found, reference.encode_query(["fox", "lazy dog"]), atol=2e-6)


def test_unknown_kind(encoder):
    with pytest.raises(InputError, match="'passage'"):
        encoder.encode(["a"], kind="passage")


# --- dims --------------------------------------------------------------------------------------


def test_truncated_vectors_are_normalised(folder, reference):
    encoder = get_encoder(folder, device="cpu", precision="float32", dims=6)
    found = matrix(encoder.encode(["a", "the fox"]))
    expected = reference.encode(["a", "the fox"])[:, :6]
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert encoder.dims == 6
    assert get_encoder(folder, device="cpu", precision="float32").dims == DIMS


@pytest.mark.parametrize("dims", [0, -1, DIMS + 1, 2.0, True])
def test_impossible_dims(folder, dims):
    with pytest.raises(InputError, match=f"1 to {DIMS}"):
        get_encoder(folder, device="cpu", dims=dims)


def test_a_model_that_does_not_normalise_is_left_so(folder):
    live = load_sentence_transformer(folder, device="cpu")
    bare = SentenceTransformer(modules=list(live)[:2], device="cpu")
    found = matrix(Encoder.of(bare).encode(["a", "the fox"]))
    np.testing.assert_allclose(found, bare.encode(["a", "the fox"]), rtol=1e-5)
    assert not np.allclose(np.linalg.norm(found, axis=1), 1)
    short = matrix(Encoder.of(bare, dims=4).encode(["a"]))
    np.testing.assert_allclose(np.linalg.norm(short, axis=1), 1, atol=1e-6)


# --- tokens and batches ------------------------------------------------------------------------


def test_token_counts(encoder, reference):
    texts = ["fox", None, "the fox", "fox", " ", "the " * 500]
    assert encoder.token_counts(texts).tolist() == [3, 0, 4, 3, 0, 64]
    assert encoder.max_tokens == 64
    texts = many_texts(50)
    expected = reference.preprocess(texts)["attention_mask"].sum(1)
    assert encoder.token_counts(texts).tolist() == expected.tolist()
    assert encoder.token_counts([]).tolist() == []


def test_batches_hold_the_budget_and_each_text_once():
    lengths = np.random.default_rng(1).integers(1, 300, 1000)
    batches = list(token_batches(lengths, BatchLimit(n_tokens=1024, n_texts=50)))
    assert sorted(np.concatenate(batches).tolist()) == list(range(1000))
    assert all(lengths[b].max() * len(b) <= 1024 and len(b) <= 50 for b in batches)
    padding = 1 - lengths.sum() / sum(lengths[b].max() * len(b) for b in batches)
    assert padding < 0.05
    # A text beyond the budget still goes, alone.
    assert [b.tolist() for b in token_batches(np.array([5000]), BatchLimit(1024, 50))] == [[0]]


def test_left_padding_and_left_truncation(folder, tmp_path):
    copied = copy_of(folder, tmp_path)
    edit_json(copied, "tokenizer_config.json", padding_side="left", truncation_side="left")
    model = load_sentence_transformer(copied, device="cpu")
    assert model.tokenizer.padding_side == model.tokenizer.truncation_side == "left"
    tokenizer = WindowTokenizer.of(model, task="document", prompt=None)
    texts = many_texts(20)
    found = tokenizer.features(tokenizer.ids(texts), "cpu")
    for name, expected in model.preprocess(texts).items():
        if isinstance(expected, torch.Tensor):
            assert found[name].tolist() == expected.tolist()


def test_a_tokenizer_that_does_something_of_its_own_is_not_replaced(folder, monkeypatch):
    model = load_sentence_transformer(folder, device="cpu")
    preprocess = type(model[0]).preprocess

    def shouting(self, inputs, prompt=None, **kwargs):
        return preprocess(self, [f"{text} !" for text in inputs], prompt, **kwargs)

    monkeypatch.setattr(type(model[0]), "preprocess", shouting)
    encoder = Encoder.of(model)
    np.testing.assert_allclose(
        matrix(encoder.encode(["fox", "dog"])), model.encode(["fox", "dog"]), atol=2e-6
    )
    assert encoder.token_counts(["fox"]).tolist() == [4]


def test_static_embedding_goes_through_the_library(tmp_path, folder):
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = load_sentence_transformer(folder, device="cpu").tokenizer
    torch.manual_seed(0)
    static = StaticEmbedding(tokenizer, embedding_dim=8)
    SentenceTransformer(modules=[static], device="cpu").save_pretrained(
        str(tmp_path / "static"), create_model_card=False
    )
    encoder = get_encoder(str(tmp_path / "static"), device="cpu", precision="float32")
    assert encoder.max_tokens is None
    texts = [*many_texts(1500), "many_texts"]
    expected = SentenceTransformer(str(tmp_path / "static"), device="cpu").encode(texts)
    np.testing.assert_allclose(matrix(encoder.encode(texts)), expected, atol=2e-6)
    assert encoder.token_counts(["fox", "the fox", None]).tolist() == [1, 2, 0]


def test_out_of_memory_halves_the_batch(folder, reference, monkeypatch):
    model = load_sentence_transformer(folder, device="cpu")
    forward = type(model).forward
    sizes = []

    def small_device(self, features, **kwargs):
        sizes.append(len(features["input_ids"]))
        if sizes[-1] > 3:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, features, **kwargs)

    monkeypatch.setattr(type(model), "forward", small_device)
    found = matrix(Encoder.of(model).encode(many_texts(40)))
    monkeypatch.undo()
    assert max(sizes) > 3
    np.testing.assert_allclose(found, reference.encode(many_texts(40)), atol=2e-6)


# --- a model in training -----------------------------------------------------------------------


def test_live_model_follows_its_weights_and_stays_in_training(folder):
    model = load_sentence_transformer(folder, device="cpu")
    encoder = Encoder.of(model)
    before = encoder.encode(["the fox"]).to_pylist()
    model.train()
    assert encoder.encode(["the fox"]).to_pylist() == before  # no dropout
    assert model.training
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter))
    assert encoder.encode(["the fox"]).to_pylist() != before
    loss = model(model.preprocess(["the fox"]))["sentence_embedding"].sum()
    loss.backward()  # inference mode leaked into nothing


# --- precision ---------------------------------------------------------------------------------


def test_bfloat16_agrees_and_is_normalised(minilm):
    texts = ["How do I cancel?", "The amount is paid back within fourteen days.", "x"]
    exact = matrix(get_encoder(minilm, device="cpu", precision="float32").encode(texts))
    encoder = get_encoder(minilm, device="cpu", precision="bfloat16")
    rounded = matrix(encoder.encode(texts))
    assert encoder.precision == "bfloat16"
    assert not np.array_equal(exact, rounded)
    assert (exact * rounded).sum(1).min() > MIN_COSINE
    np.testing.assert_allclose(np.linalg.norm(rounded, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("times", "flags", "expected"),
    [
        ((1.0, 0.4), {"amx_bf16"}, "bfloat16"),
        ((1.0, 0.9), {"avx512_bf16"}, "float32"),
        ((1.0, 0.1), {"avx2"}, "float32"),
    ],
)
def test_auto_takes_bfloat16_only_where_it_is_faster(folder, monkeypatch, times, flags, expected):
    model = load_sentence_transformer(folder, device="cpu")
    vectors = np.eye(3, dtype=np.float32)
    monkeypatch.setattr("lancedb_ft.encoder.precision._cpu_flags", lambda: flags)
    monkeypatch.setattr(
        "lancedb_ft.encoder.precision._time_both", lambda encoders: [(t, vectors) for t in times]
    )
    assert choose_precision(model) == expected


def test_auto_takes_float32_where_the_vectors_disagree(folder, monkeypatch):
    model = load_sentence_transformer(folder, device="cpu")
    one = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32)
    for other in (np.array([[1.0, 0.0], [0.1, 1.0]], np.float32), one * np.nan):
        monkeypatch.setattr("lancedb_ft.encoder.precision._cpu_flags", lambda: {"amx_bf16"})
        monkeypatch.setattr(
            "lancedb_ft.encoder.precision._time_both",
            lambda encoders, other=other: [(1.0, one), (0.1, other)],
        )
        assert choose_precision(model) == "float32"


def test_auto_really_probed(folder):
    model = load_sentence_transformer(folder, device="cpu")
    assert choose_precision(model) in ("float32", "bfloat16")
    assert model.dtype == torch.float32  # the probe works on a copy


def test_unknown_precision(folder):
    with pytest.raises(InputError, match="float16"):
        get_encoder(folder, precision="float16")


# --- devices -----------------------------------------------------------------------------------


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "cpu:zero", "", "tpu", 0, "cuda:99"])
def test_unknown_device(folder, device):
    with pytest.raises(InputError, match="device"):
        get_encoder(folder, device=device)


def test_device_auto():
    best = "cpu"
    if torch.cuda.is_available():
        best = f"cuda:{torch.cuda.current_device()}"
    elif torch.backends.mps.is_available():
        best = "mps"
    assert resolve_device() == resolve_device("auto") == best
    assert resolve_device("cpu") == "cpu"


# --- loading -----------------------------------------------------------------------------------


def test_missing_tensors_are_refused(folder, tmp_path):
    copied = copy_of(folder, tmp_path)
    file = Path(copied, "model.safetensors")
    tensors = load_file(file)
    lost = "encoder.layer.0.attention.self.query.weight"
    assert lost in tensors
    save_file({k: v for k, v in tensors.items() if k != lost}, file, metadata={"format": "pt"})
    with pytest.raises(UnsafeModelError, match=lost):
        load_sentence_transformer(copied, device="cpu")


def test_prefixed_tensors_and_a_missing_pooler_are_fine(folder, tmp_path, reference):
    # Checkpoints of BertForMaskedLM: everything stands below "bert.", and there is no pooler.
    copied = copy_of(folder, tmp_path)
    file = Path(copied, "model.safetensors")
    tensors = {f"bert.{k}": v for k, v in load_file(file).items() if not k.startswith("pooler.")}
    save_file(tensors, file, metadata={"format": "pt"})
    model = load_sentence_transformer(copied, device="cpu")
    np.testing.assert_allclose(
        matrix(Encoder.of(model).encode(["fox"])), reference.encode(["fox"]), atol=2e-6
    )


def test_pickled_weights_are_refused(folder, tmp_path):
    copied = copy_of(folder, tmp_path)
    Path(copied, "model.safetensors").unlink()
    torch.save({}, Path(copied, "pytorch_model.bin"))
    with pytest.raises(UnsafeModelError):
        get_encoder(copied, device="cpu")


def test_a_torn_model_is_a_store_error(folder, tmp_path):
    copied = copy_of(folder, tmp_path)
    edit_json(copied, "config.json", num_attention_heads=3)
    with pytest.raises(StoreError, match="cannot be loaded"):
        load_sentence_transformer(copied, device="cpu")


def test_loading_writes_nothing(folder, capfd):
    load_sentence_transformer(folder, device="cpu")
    assert capfd.readouterr() == ("", "")


# --- the cache ---------------------------------------------------------------------------------


@pytest.fixture
def loads(monkeypatch):
    """The paths loaded, starting with an empty cache."""
    paths = []

    def counting(path, *, device=None):
        paths.append(str(path))
        return load_sentence_transformer(path, device=device)

    clear_encoders()
    monkeypatch.setattr("lancedb_ft.encoder.cache.load_sentence_transformer", counting)
    return paths


def test_loaded_once_by_eight_threads(folder, loads):
    start = threading.Barrier(8)
    found, errors = [], []

    def work(number):
        start.wait()
        try:
            encoder = get_encoder(folder, device="cpu", precision="float32")
            texts = many_texts(30, seed=number)
            kind = "query" if number % 2 else "document"
            found.append((number, matrix(encoder.encode(texts, kind=kind))))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(loads) == 1
    encoder = get_encoder(folder, device="cpu", precision="float32")
    for number, vectors in found:
        expected = matrix(encoder.encode(many_texts(30, seed=number)))
        np.testing.assert_allclose(vectors, expected, atol=2e-6)


def test_other_dims_share_the_running_model(folder, loads):
    full = get_encoder(folder, device="cpu", precision="float32")
    short = get_encoder(folder, device="cpu", precision="float32", dims=4)
    assert len(loads) == 1
    assert (full.dims, short.dims) == (DIMS, 4)
    get_encoder(folder, device="cpu", precision="bfloat16")
    assert len(loads) == 2


def test_auto_shares_with_what_it_chose(folder, loads):
    chosen = get_encoder(folder, device="cpu").precision
    get_encoder(folder, device="cpu", precision=chosen)
    get_encoder(folder, device="cpu")
    assert len(loads) == 1


def test_least_recently_used_is_dropped(tmp_path, loads):
    folders = [tiny_model(tmp_path / str(seed), seed=seed) for seed in range(5)]
    for folder in [*folders[:4], folders[0], folders[4], folders[0], folders[1]]:
        get_encoder(folder, device="cpu", precision="float32")
    # The fifth dropped the second, which was used longest ago.
    assert loads == [*folders, folders[1]]


def test_fingerprint_is_checked(folder):
    encoder = get_encoder(folder, device="cpu", precision="float32")
    again = get_encoder(folder, device="cpu", precision="float32", fingerprint=encoder.fingerprint)
    assert again is encoder
    with pytest.raises(FingerprintError, match="re-index") as raised:
        get_encoder(folder, device="cpu", precision="float32", fingerprint="0" * 64)
    assert raised.value.found == encoder.fingerprint


def test_a_failed_load_can_be_tried_again(folder, tmp_path, loads):
    copied = copy_of(folder, tmp_path)
    config = Path(copied, "config.json").read_text()
    edit_json(copied, "config.json", num_attention_heads=3)
    with pytest.raises(StoreError):
        get_encoder(copied, device="cpu", precision="float32")
    Path(copied, "config.json").write_text(config)
    assert get_encoder(copied, device="cpu", precision="float32").encode(["a"]).null_count == 0


def test_distinct_texts_keep_the_order_of_first_appearance():
    found = distinct_texts(["b", None, "a", "b", "", "c"])
    assert found.texts.to_pylist() == ["b", "a", "c"]
    assert found.codes.tolist() == [0, -1, 1, 0, -1, 2]
    assert found.row_counts().tolist() == [2, 1, 1]
