"""Adapters of low rank: trained beside frozen weights, merged on save, resumed exactly."""

import sys

import pytest
import torch

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError, MissingExtraError
from lancedb_ft.train import train
from lancedb_ft.train.lora import add_lora, merge_lora
from tests.train.toy import FAST, WORDS, toy_model, toy_pairs

TEXTS = [" ".join(WORDS[i : i + 4]) for i in range(12)]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def arguments(base):
    settings = {**FAST, "learning_rate": 2e-2, "epochs": 3, "lora_rank": 4}
    return {"dev": toy_pairs(30, seed=1, prefix="dev"), "name": "toy", **settings}


@pytest.fixture(scope="module")
def trained(base, arguments, tmp_path_factory):
    return train(base, toy_pairs(), store=str(tmp_path_factory.mktemp("store")), **arguments)


def test_adapters_change_nothing_before_training_and_merging_keeps_what_they_learned(base):
    model = load_sentence_transformer(base, device="cpu")
    before = model.encode(TEXTS)
    names = set(model.state_dict())
    add_lora(model, 4, seed=0)
    assert (model.encode(TEXTS) == before).all()
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    assert trainable
    assert all("lora_" in name for name in trainable)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(generator=torch.Generator().manual_seed(1))
    tuned = model.encode(TEXTS)
    assert abs(tuned - before).max() > 0.01
    merge_lora(model)
    assert set(model.state_dict()) == names
    assert abs(model.encode(TEXTS) - tuned).max() < 1e-5
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_seed_decides_the_adapters_and_the_callers_generator_stays(base):
    state = torch.random.get_rng_state()
    found = []
    for seed in (0, 0, 1):
        model = load_sentence_transformer(base, device="cpu")
        add_lora(model, 2, seed=seed)
        found.append(next(p for n, p in model.named_parameters() if "lora_A" in n))
    assert torch.equal(found[0], found[1])
    assert not torch.equal(found[0], found[2])
    assert torch.equal(torch.random.get_rng_state(), state)


def test_what_is_saved_is_an_ordinary_model_that_learned(trained, base):
    history = trained.manifest["dev"]["history"]
    assert max(history.values()) > history["0"] + 0.1
    assert trained.manifest["training"]["lora_rank"] == 4
    tuned, before = (load_sentence_transformer(p, device="cpu") for p in (trained.path, base))
    assert set(tuned.state_dict()) == set(before.state_dict())
    # Only linear layers have adapters: the words' own vectors are those of the base.
    (words,) = (name for name in tuned.state_dict() if "word_embeddings" in name)
    assert torch.equal(tuned.state_dict()[words], before.state_dict()[words])
    assert not any("peft" in name for name in vars(tuned[0].auto_model))


def test_an_interrupted_run_goes_on_to_the_same_model(trained, base, arguments, tmp_path):
    def interrupt(done, total):
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, toy_pairs(), store=str(tmp_path), progress=interrupt, **arguments)
    steps = []
    version = train(
        base,
        toy_pairs(),
        store=str(tmp_path),
        progress=lambda done, total: steps.append(done),
        **arguments,
    )
    assert steps[0] == 18
    assert version.fingerprint == trained.fingerprint


def test_a_model_without_a_transformer_has_no_room_for_adapters():
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    tokenizer = load_tokenizer()
    static = SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=8)])
    with pytest.raises(InputError, match="lora_rank needs"):
        add_lora(static, 4, seed=0)


def load_tokenizer():
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    return Tokenizer(WordLevel({"[UNK]": 0, "alpha": 1}, unk_token="[UNK]"))


def test_a_missing_peft_names_the_extra(base, arguments, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lancedb-ft\[lora\]"'):
        train(base, toy_pairs(), store=str(tmp_path), **arguments)
