"""OpenVINO and several processes give the vectors that torch in one process gives."""

import numpy as np
import pytest

from lancedb_ft.encoder import Encoder, get_encoder, load_sentence_transformer
from lancedb_ft.encoder.pool import EncoderPool
from lancedb_ft.encoder.precision import MIN_OVERLAP, Agreement, agreement
from lancedb_ft.errors import InputError, StoreError
from tests.tiny import TEXTS, tiny_model

DIMS = 16


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("tiny"))


def matrix(vectors):
    return vectors.flatten().to_numpy().reshape(len(vectors), -1)


@pytest.fixture(scope="module")
def texts():
    rng = np.random.default_rng(0)
    words = sorted({word for text in TEXTS for word in text.split()})
    return [" ".join(rng.choice(words, rng.integers(1, 40))) for _ in range(2500)]


# --- openvino ----------------------------------------------------------------------------------


def test_openvino_gives_what_torch_gives(folder, texts):
    pytest.importorskip("openvino")
    exact = get_encoder(folder, device="cpu", precision="float32")
    other = get_encoder(folder, device="cpu", precision="float32", backend="openvino")
    assert (other.backend, other.precision, other.dims) == ("openvino", "float32", DIMS)
    assert "openvino" in repr(other)
    assert exact is get_encoder(folder, device="cpu", precision="float32")
    # Lengths 1 to 64 tokens: nothing of the traced example's shape is left in the network.
    some = texts[:300]
    np.testing.assert_allclose(matrix(other.encode(some)), matrix(exact.encode(some)), atol=1e-5)
    found = agreement(other, exact, some)
    assert found.holds
    assert found.min_cosine > 0.99999
    assert found.top10_overlap > 0.99


def test_openvino_is_for_transformers_on_a_cpu(folder):
    with pytest.raises(InputError, match="one of torch, openvino"):
        get_encoder(folder, device="cpu", backend="onnx")


def test_openvino_refuses_what_it_does_not_run(tmp_path):
    pytest.importorskip("openvino")
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(f"{tiny_model(tmp_path / 'm')}/tokenizer.json")
    static = SentenceTransformer(
        modules=[StaticEmbedding(tokenizer, embedding_dim=8)], device="cpu"
    )
    static.save_pretrained(str(tmp_path / "static"), create_model_card=False)
    with pytest.raises(InputError, match="StaticEmbedding"):
        get_encoder(str(tmp_path / "static"), device="cpu", backend="openvino")


# --- agreement ---------------------------------------------------------------------------------


def test_another_model_does_not_agree(folder, tmp_path, texts):
    exact = get_encoder(folder, device="cpu", precision="float32")
    other = get_encoder(tiny_model(tmp_path / "m", seed=5), device="cpu", precision="float32")
    found = agreement(other, exact, [*texts[:150], None, " "])
    assert found.n_texts == 150
    assert not found.holds
    assert found.top10_overlap < MIN_OVERLAP


def test_few_texts_are_compared_by_cosine_alone(folder):
    exact = get_encoder(folder, device="cpu", precision="float32")
    found = agreement(exact, exact, list(TEXTS))
    assert (found.holds, found.top10_overlap, found.min_cosine) == (True, None, 1.0)
    assert agreement(exact, exact, [None, ""]) is None


def test_agreement_needs_cosine_and_neighbours():
    good = Agreement(200, 0.9999, 0.99, 0.98, 1.5)
    assert good.holds
    assert "top-10 overlap 0.980" in str(good)
    assert not Agreement(200, 0.998, 0.99, 0.98, 1.5).holds
    assert not Agreement(200, 0.9999, 0.99, 0.90, 1.5).holds


# --- several processes -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_pool_gives_what_one_process_gives_and_survives_a_death(folder, texts):
    alone = get_encoder(folder, device="cpu", precision="float32")
    expected = matrix(alone.encode(texts))
    told = []
    with EncoderPool(alone, 2) as pool:

        def die(n, of):
            if not told:
                next(iter(pool._executor._processes.values())).kill()
            told.append((n, of))

        found = pool.encode([*texts, texts[3], None], progress=die)
        assert found[-1].as_py() is None
        assert found[-2].equals(found[3])
        np.testing.assert_allclose(matrix(found.slice(0, len(texts))), expected, atol=1e-5)
        assert told[-1] == (len(texts) + 2, len(texts) + 2)
        assert pool._deaths == 1
        assert pool.encode(texts[:5]).equals(alone.encode(texts[:5]))  # few: in this process


@pytest.mark.slow
def test_a_pool_that_keeps_dying_says_so(folder, texts, monkeypatch):
    alone = get_encoder(folder, device="cpu", precision="float32")
    monkeypatch.setattr("lancedb_ft.encoder.pool._MAX_DEATHS", 1)
    with EncoderPool(alone, 2) as pool:
        pool._model = pool._model.__class__("/nowhere", "x", "float32", "torch", DIMS)
        with pytest.raises(StoreError, match="died 1 times"):
            pool.encode(texts)


def test_a_pool_needs_a_saved_model(folder):
    alone = Encoder.of(load_sentence_transformer(folder, device="cpu"))
    with pytest.raises(InputError, match="save it first"):
        EncoderPool(alone, 2)
    with pytest.raises(InputError, match="2 or more"):
        EncoderPool(alone, 1)
