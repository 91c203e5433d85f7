"""Static models: the tokenizer's own tokens, sentence-transformers' own vectors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.encoder.bags import BagTokenizer, is_static
from lancedb_ft.encoder.precision import choose_precision
from lancedb_ft.train.distillation.static import static_model
from tests.tiny import tiny_model

ODD = [
    "How do I Cancel my order?",
    "a=b≠c --flag/path_to.file 漢字 Σας ΣΑΣ İstanbul ﬁne",
    "foo\x00bar\tbaz\x1cq\u00a0nbsp\u200bzero",
    "!\u0301x naïve cafe\u0301",
    "",
    "   ",
    "x" * 150,
]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    import torch

    teacher = tiny_model(tmp_path_factory.mktemp("m"))
    made = static_model(load_sentence_transformer(teacher, device="cpu"), 8)
    torch.manual_seed(0)
    torch.nn.init.normal_(made[0].embedding.weight)
    return made


@pytest.fixture(scope="module")
def tokenizer(model):
    return BagTokenizer(model[0].tokenizer)


def rows(tokenizer, texts):
    ids, lengths = tokenizer.ids(texts)
    return [part.tolist() for part in np.split(ids, np.cumsum(lengths)[:-1])]


def test_odd_texts_have_the_tokenizers_own_tokens(model, tokenizer):
    texts = [f"{text} {n}" for n in range(8) for text in ODD] + ODD
    expected = [e.ids for e in model[0].tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert tokenizer._by_piece
    assert rows(tokenizer, texts) == expected
    assert rows(tokenizer, texts[:3]) == expected[:3]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=20), min_size=40, max_size=50))
def test_any_texts_have_the_tokenizers_own_tokens(model, tokenizer, texts):
    expected = [e.ids for e in model[0].tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert rows(tokenizer, texts) == expected


def test_special_tokens_written_out_are_kept_whole(model, tokenizer):
    texts = [f"a [MASK] b{n} [SEP]" for n in range(40)]
    expected = [e.ids for e in model[0].tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert rows(tokenizer, texts) == expected


def test_vectors_and_counts_are_those_of_sentence_transformers(model):
    texts = [f"{text} {n}" for n in range(8) for text in ODD[:4]]
    encoder = Encoder.of(model)
    found = encoder.encode(texts)
    assert np.array_equal(np.asarray(found.values).reshape(len(texts), -1), model.encode(texts))
    counts = [len(e.ids) for e in model[0].tokenizer.encode_batch(texts, add_special_tokens=False)]
    assert encoder.token_counts(texts).tolist() == counts


def test_a_prompt_stands_before_each_text(model):
    model.prompts["query"] = "find: "
    try:
        found = Encoder.of(model).encode(
            ["fox"] * 1 + [f"dog {n}" for n in range(40)], kind="query"
        )
        expected = model.encode_query(["fox"] + [f"dog {n}" for n in range(40)])
    finally:
        model.prompts["query"] = ""
    assert np.array_equal(np.asarray(found.values).reshape(41, -1), expected)


def test_what_training_changes_the_next_encode_uses(model):
    import torch

    encoder = Encoder.of(model)
    texts = [f"fox {n}" for n in range(40)]
    before = encoder.encode(texts)
    with torch.no_grad():
        model[0].embedding.weight.add_(1.0)
    assert not encoder.encode(texts).equals(before)


def test_a_network_is_not_static_and_a_static_model_stays_in_float32(model, tmp_path):
    assert is_static(model)
    assert choose_precision(model) == "float32"
    assert not is_static(load_sentence_transformer(tiny_model(tmp_path), device="cpu"))
