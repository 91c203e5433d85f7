"""The rerankers that run in this process: limits of a cross-encoder, late interaction, names."""

import os
import shutil
import time

import numpy as np
import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import (
    InputError,
    ModelKindError,
    ModelNotFoundError,
    StoreError,
    UnsafeModelError,
)
from lancedb_ft.reranking import degraded_reason, new_cross_encoder
from lancedb_ft.reranking.waves import WAVE
from lancedb_ft.store import ModelStore
from tests.reranking.service import KEY
from tests.tiny import TEXTS, tiny_model

QUERY = "cancel my order"
WORDS = " ".join(TEXTS).split()
LONG = [" ".join(WORDS[n : n + 12]) for n in range(24)]


@pytest.fixture(scope="module")
def embedder(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("embedder"))


@pytest.fixture(scope="module")
def store(tmp_path_factory, embedder):
    place = tmp_path_factory.mktemp("store")
    model = new_cross_encoder(embedder, seed=1, device="cpu")
    model.network.classifier.weight.data *= 5
    model.save(place / "cross")
    ModelStore(place / "store").save(place / "cross", name="reranker")
    return str(place / "store")


@pytest.fixture(scope="module")
def colbert(tmp_path_factory, embedder):
    """A model as sentence-transformers saves one: projection, scoring mask, prompts."""
    import torch
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask

    torch.manual_seed(0)
    words = Transformer(embedder, max_seq_length=32)
    names = {"module_input_name": "token_embeddings", "module_output_name": "token_embeddings"}
    dense = Dense(16, 8, bias=False, activation_function=torch.nn.Identity(), **names)
    model = MultiVectorEncoder(
        modules=[words, dense, MultiVectorMask(skiplist_words=[".", "the"]), Normalize(**names)],
        prompts={"query": "how ", "document": "doc "},
        device="cpu",
    )
    folder = tmp_path_factory.mktemp("colbert") / "model"
    model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


def rows_of(texts):
    return pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))})


def cross_encoder(store, **settings):
    return ft.FineTunedReranker(
        "reranker@1", store=store, device="cpu", precision="float32", **settings
    )


# --- cross-encoders ------------------------------------------------------------------------


def test_a_token_budget_reads_the_best_of_the_search(store):
    everything = cross_encoder(store).rerank_fts(QUERY, rows_of(LONG))
    tokens = cross_encoder(store).scorer().tokenizer().tokens([(QUERY, text) for text in LONG])
    budget = sum(len(pair.ids) for pair in tokens[:7])
    some = cross_encoder(store, token_budget=budget).rerank_fts(QUERY, rows_of(LONG))
    read = [n for n in everything["n"].to_pylist() if n < 7]
    assert some["n"].to_pylist() == [*read, *range(7, 24)]
    assert some["_relevance_score"].to_pylist()[7:] == [0.0] * 17
    assert degraded_reason(some) == ""  # as asked for
    with pytest.raises(InputError, match="token_budget"):
        cross_encoder(store, token_budget=0)


def test_out_of_time_the_first_of_the_search_are_read(store, monkeypatch):
    unhurried = cross_encoder(store, guard=ft.RerankGuard(deadline_s=60))
    whole = unhurried.rerank_fts(QUERY, rows_of(LONG))
    best = cross_encoder(store).rerank_fts(QUERY, rows_of(LONG))["n"].to_pylist()
    assert whole["n"].to_pylist() == best
    assert degraded_reason(whole) == ""
    scorer = unhurried.scorer()

    def slow(pairs, **settings):
        time.sleep(0.6)
        return type(scorer).score(scorer, pairs, **settings)

    monkeypatch.setattr(scorer, "score", slow)
    hurried = cross_encoder(store, guard=ft.RerankGuard(deadline_s=0.5))
    found = hurried.rerank_fts(QUERY, rows_of(LONG))
    read = [n for n in best if n < WAVE]
    assert found["n"].to_pylist() == [*read, *range(WAVE, 24)]
    assert f"{WAVE} of 24 texts" in degraded_reason(found)
    assert (hurried.usage.degraded, hurried.usage.failures) == (1, 0)


# --- late interaction ----------------------------------------------------------------------


def by_hand(model, texts):
    """MaxSim in numpy over the library's own vectors."""
    asked = model.encode_query([QUERY], normalize_embeddings=True, show_progress_bar=False)[0]
    found = []
    for text in texts:
        told = model.encode_document([text], normalize_embeddings=True, show_progress_bar=False)[0]
        found.append(float((asked.numpy() @ told.numpy().T).max(1).mean()))
    return np.array(found)


def test_a_multi_vector_model_scores_as_sentence_transformers_does(colbert):
    from sentence_transformers import MultiVectorEncoder

    reranker = ft.ColbertReranker(colbert, device="cpu", batch_size=4)
    found = reranker.rerank_fts(QUERY, rows_of([*LONG, None]))
    own = by_hand(MultiVectorEncoder(colbert, device="cpu", local_files_only=True), LONG)
    assert np.std(own) > 0.005
    order = found["n"].to_pylist()
    assert order[-1] == 24
    shown = found["_relevance_score"].to_pylist()
    np.testing.assert_allclose(shown[:-1], np.clip(own[order[:-1]], 0, 1), atol=1e-5)
    assert shown == sorted(shown, reverse=True)
    assert reranker.encoder().prompts["document"] == "doc "
    assert str(reranker) == f"ColbertReranker({colbert})"


def test_an_embedder_s_token_vectors_can_be_compared(embedder):
    reranker = ft.ColbertReranker(embedder, device="cpu")
    texts = [*LONG[:5], QUERY]
    found = reranker.rerank_hybrid(
        QUERY,
        *(
            pa.table({"text": texts, "_rowid": pa.array(range(6), pa.uint64()), name: [0.1] * 6})
            for name in ("_distance", "_score")
        ),
    )
    assert found["_rowid"].to_pylist()[0] == 5
    assert found["_relevance_score"].to_pylist()[0] == pytest.approx(1, abs=1e-4)
    assert reranker.encoder() is ft.ColbertReranker(embedder, device="cpu").encoder()


def test_what_is_refused_of_a_multi_vector_folder(colbert, store, tmp_path):
    import json

    def copy(name):
        return shutil.copytree(colbert, tmp_path / name)

    with pytest.raises(ModelKindError):
        ft.ColbertReranker("reranker@1", store=store)
    with pytest.raises(ModelNotFoundError):
        ft.ColbertReranker(str(tmp_path / "nobody"))
    pickled = copy("pickled")
    (pickled / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    strange = copy("strange")
    modules = json.loads((strange / "modules.json").read_text())
    modules[0]["type"] = "os.system"
    (strange / "modules.json").write_text(json.dumps(modules))
    masked = copy("masked")
    mask = next(m["path"] for m in modules if "Mask" in m["type"])
    (masked / mask / "config.json").write_text('{"skiplist_words": [{"a": 1}]}')
    linked = copy("linked")
    (linked / "link.json").symlink_to("/etc/passwd")
    leaving = copy("leaving")
    modules = json.loads((leaving / "modules.json").read_text())
    next(m for m in modules if "Mask" in m["type"])["path"] = "../masked"
    (leaving / "modules.json").write_text(json.dumps(modules))
    for folder, told in (
        (pickled, "pickle"),
        (strange, "os.system"),
        (masked, "skiplist_words"),
        (linked, "link"),
        (leaving, "plain sub-folder"),
    ):
        with pytest.raises(UnsafeModelError, match=told):
            ft.ColbertReranker(str(folder), device="cpu").encoder()
    torn = copy("torn")
    next(torn.rglob("model.safetensors")).write_bytes(b"torn")
    with pytest.raises((StoreError, UnsafeModelError)):
        ft.ColbertReranker(str(torn), device="cpu").encoder()
    assert os.path.getsize(os.path.join(colbert, "modules.json")) > 2  # the original is whole


# --- names ---------------------------------------------------------------------------------


def test_names(store, embedder, monkeypatch):
    monkeypatch.setenv("COHERE_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:9/v1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    for name, shown, top_k in (
        ("reranker@1", "FineTunedReranker(reranker@1)", None),
        ("cross-encoder:reranker@1[7]", "FineTunedReranker(reranker@1)", 7),
        ("cohere:rerank-v3.5", "CohereReranker(rerank-v3.5)", None),
        ("llm:qwen3:8b", "LLMReranker(qwen3:8b)", 20),
        (f"colbert:{embedder}", f"ColbertReranker({embedder})", None),
        (
            "reranker@1[100] > cohere:m[20]",
            "RerankerChain(FineTunedReranker(reranker@1) > CohereReranker(m))",
            100,
        ),
    ):
        found = ft.get_reranker(name, store=store, column="body")
        assert str(found) == shown
        assert (found.top_k, found.column) == (top_k, "body")
    for wrong in ("", " ", "reranker@1 > ", None, "[5]"):
        with pytest.raises((InputError, StoreError)):
            ft.get_reranker(wrong, store=store)
    monkeypatch.delenv("COHERE_API_KEY")
    with pytest.raises(InputError, match="COHERE_API_KEY"):
        ft.get_reranker("cohere:m")
