"""Chunks, precision, memory: how a step runs must not change what it learns."""

import random
import resource
import sys

import numpy as np
import pytest
import torch

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError
from lancedb_ft.memory import kept_memory
from lancedb_ft.train.compute import (
    Compute,
    choose_compute,
    in_chunks,
    kept_random_state,
    plain_attention,
)
from tests.train.toy import WORDS, toy_model

TEXTS = [" ".join(WORDS[: 1 + (7 * i) % 19]) for i in range(24)]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = toy_model(tmp_path_factory.mktemp("toy"))
    return load_sentence_transformer(folder, device="cpu").eval()


@pytest.mark.parametrize("chunk_tokens", [1, 40, 100, 10_000])
def test_chunks_give_the_embeddings_and_gradients_of_one_pass_in_the_order_given(
    model, chunk_tokens
):
    features = model.preprocess(TEXTS)
    weight = next(p for p in model.parameters() if p.requires_grad)
    found = []
    for compute in (Compute("cpu", "float32", None), Compute("cpu", "float32", chunk_tokens)):
        model.zero_grad()
        embeddings = in_chunks(model, compute)(dict(features))["sentence_embedding"]
        (embeddings[:12] @ embeddings[12:].T).exp().sum().backward()
        found.append((embeddings.detach(), weight.grad.clone()))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert weight.grad.abs().sum() > 0


def test_no_chunk_is_larger_than_the_limit_and_padding_is_cut(model):
    shapes = []
    features = model.preprocess(TEXTS)
    handle = model[0].register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0]["input_ids"].shape))
    )
    in_chunks(model, Compute("cpu", "float32", 60))(features)
    handle.remove()
    assert sum(rows for rows, _ in shapes) == len(TEXTS)
    assert all(rows * tokens <= 60 for rows, tokens in shapes)
    n_tokens = int(features["attention_mask"].sum())
    whole = features["attention_mask"].numel()
    assert n_tokens <= sum(rows * tokens for rows, tokens in shapes) < 0.7 * whole


def test_bfloat16_computes_in_it_and_returns_float32(model):
    features = model.preprocess(TEXTS)
    exact = in_chunks(model, Compute("cpu", "float32", 100))(dict(features))["sentence_embedding"]
    rough = in_chunks(model, Compute("cpu", "bfloat16", 100))(dict(features))["sentence_embedding"]
    assert rough.dtype == torch.float32
    assert not torch.equal(exact, rough)
    torch.testing.assert_close(exact, rough, rtol=0, atol=0.05)
    assert all(p.dtype == torch.float32 for p in model.parameters())


def test_dropout_is_off_though_the_trainer_turns_it_on(model):
    wrapped = in_chunks(model, Compute("cpu", "float32", 100))
    first, second = (
        wrapped.train()(model.preprocess(TEXTS))["sentence_embedding"] for _ in range(2)
    )
    assert torch.equal(first, second)


def test_attention_is_plain_within_and_as_before_after(model):
    network = model[0].auto_model
    features = model.preprocess(TEXTS)
    before = model(dict(features))["sentence_embedding"]
    assert network.config._attn_implementation == "sdpa"
    with plain_attention(model, Compute("cpu", "float32", None)):
        assert network.config._attn_implementation == "eager"
        within = model(dict(features))["sentence_embedding"]
    assert network.config._attn_implementation == "sdpa"
    torch.testing.assert_close(before, within, rtol=1e-4, atol=1e-5)


def test_the_choice_is_the_machines_and_stays_the_same():
    assert choose_compute("cpu") == choose_compute("cpu")
    assert choose_compute("cpu").chunk_tokens >= 1_024
    with pytest.raises(InputError, match="abacus"):
        choose_compute("abacus")


def test_the_callers_random_generators_are_given_back():
    draw = lambda: (random.random(), float(np.random.rand()), float(torch.rand(())))  # noqa: E731
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    with kept_random_state():
        random.seed(9), np.random.seed(9), torch.manual_seed(9)
        draw()
    assert draw() == expected


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc")
def test_pages_are_kept_from_step_to_step():
    """A freed block of 8 MB is taken again without new page faults (2,048 of them by default)."""

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            torch.ones(2 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with kept_memory():
        faults()
        assert faults() < 100
