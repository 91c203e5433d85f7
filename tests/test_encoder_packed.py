"""Weights laid out for the processor: the same vectors, or nothing is changed."""

import gc
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from lancedb_ft.encoder import get_encoder  # noqa: E402
from lancedb_ft.encoder.core import Encoder  # noqa: E402
from lancedb_ft.encoder.loading import load_sentence_transformer  # noqa: E402
from lancedb_ft.encoder.packed import pack_weights  # noqa: E402
from lancedb_ft.encoder.precision import may_have_bfloat16  # noqa: E402

TEXTS = ["a", "how do I cancel an order?", "money back " * 40, "Ünïcödé 漢字"]
needs_bfloat16 = pytest.mark.skipif(
    not may_have_bfloat16("cpu"), reason="this processor has no bfloat16"
)


def matrix(encoder, texts=TEXTS):
    found = encoder.encode(texts)
    return found.flatten().to_numpy().reshape(len(texts), -1)


def linear_layers(network):
    return [m for m in network.modules() if type(m) is torch.nn.Linear]


@pytest.fixture
def model(minilm):
    return load_sentence_transformer(minilm, device="cpu")


@needs_bfloat16
def test_packed_weights_give_the_same_vectors_for_any_batch(model):
    model.to(torch.bfloat16)
    encoder = Encoder(model, ref="", fingerprint="")
    before, one_by_one = matrix(encoder), [matrix(encoder, [text])[0] for text in TEXTS]
    assert pack_weights(model, lambda: matrix(encoder))
    assert not linear_layers(model)
    assert encoder.precision == "bfloat16"
    assert str(model.dtype) == "torch.bfloat16"
    assert ((matrix(encoder) * before).sum(1) > 0.9995).all()
    after = np.stack([matrix(encoder, [text])[0] for text in TEXTS])
    assert ((after * np.stack(one_by_one)).sum(1) > 0.9995).all()


@needs_bfloat16
def test_weights_are_not_kept_twice(model):
    model.to(torch.bfloat16)
    layers = [weakref.ref(layer) for layer in linear_layers(model)]
    assert pack_weights(model, lambda: matrix(Encoder(model, ref="", fingerprint="")))
    gc.collect()
    assert not any(layer() for layer in layers)


@needs_bfloat16
def test_a_model_asked_for_in_bfloat16_is_packed_and_agrees_with_float32(minilm):
    fast = get_encoder(minilm, device="cpu", precision="bfloat16")
    exact = get_encoder(minilm, device="cpu", precision="float32")
    assert not linear_layers(fast._model)
    assert linear_layers(exact._model)
    assert ((matrix(fast) * matrix(exact)).sum(1) > 0.999).all()


def test_float32_stays_as_it_is(model):
    encoder = Encoder(model, ref="", fingerprint="")
    layers = linear_layers(model)
    assert not pack_weights(model, lambda: matrix(encoder))
    assert linear_layers(model) == layers


class ReadsWeights(torch.nn.Module):
    """Does not call its layer."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 16)

    def forward(self, inputs):
        return inputs @ self.layer.weight.t() + self.layer.bias


class Counts(torch.nn.Module):
    """Gives something else each time."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(16, 16)
        self.n = 0

    def forward(self, inputs):
        self.n += 1
        return self.layer(inputs) * self.n


@pytest.mark.parametrize("kind", [ReadsWeights, Counts])
def test_a_network_whose_outputs_do_not_stay_runs_as_it_was(kind):
    network = kind().to(torch.bfloat16).eval()
    layer = network.layer
    inputs = torch.ones(3, 16, dtype=torch.bfloat16)

    def outputs():
        with torch.inference_mode():
            return network(inputs).float().numpy()

    assert not pack_weights(network, outputs)
    assert network.layer is layer
    assert np.isfinite(outputs()).all()
