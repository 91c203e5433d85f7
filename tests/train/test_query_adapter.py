"""Training a query adapter: it learns, says what it did, and leaves documents as they are."""

import contextlib
import json
import random
import sys
import sysconfig
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
import torch
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

import lancedb_ft as ft
from lancedb_ft.cli import main
from lancedb_ft.data import read_api_docs, split_pairs
from lancedb_ft.encoder.query_adapter import adapted, adapter_tensors
from lancedb_ft.errors import InputError, LeakError, NoGainError
from lancedb_ft.evaluate import compare, evaluate, exact_retriever
from lancedb_ft.store import ModelStore
from lancedb_ft.store.query_adapter import QueryAdapter, read_adapter
from lancedb_ft.train import distill, explain_training, interpolate_models, train, tune
from lancedb_ft.train.queries.fit import AdapterConfig, Examples, fit_adapter
from lancedb_ft.train.queries.trainer import train_query_adapter
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.train.toy import WORDS, toy_model

ZERO = np.zeros(32, np.float32)
FAST = {"learning_rate": 3e-3, "epochs": 12, "batch_size": 32, "device": "cpu"}


def toy_pairs(n=160, seed=0, prefix=""):
    """Queries say little, and the same things always: a map of vectors can learn to unsay them."""
    dice, rows = random.Random(seed), []
    for i in range(n):
        words = dice.sample(WORDS[:-2], 4)
        query = "yankee zulu zulu yankee zulu " + " ".join(words[:3])
        rows.append((f"{prefix}q{i}", query, f"{prefix}d{i}", " ".join(words)))
    return Pairs.of(rows)


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"), dims=32)


@pytest.fixture(scope="session")
def learned(toy, tmp_path_factory):
    """A version trained once, with all that was told on the way."""
    store, told, steps = str(tmp_path_factory.mktemp("store")), [], []
    arguments = {"dev": toy_pairs(60, seed=1, prefix="dev"), "name": "toy", "store": store, **FAST}
    version = train_query_adapter(
        toy,
        toy_pairs(),
        on_event=told.append,
        progress=lambda done, n: steps.append((done, n)),
        **arguments,
    )
    return version, told, steps, arguments


def vectors(ref, texts, kind, **settings):
    encoder = ft.get_encoder(ref, precision="float32", device="cpu", **settings)
    return encoder.encode(texts, kind=kind).flatten().to_numpy().reshape(len(texts), -1)


def test_it_learns_and_tells_with_how_many_queries(learned):
    figures = learned[0].manifest["metrics"]["dev"]
    assert figures["n"] == 60
    assert figures["tuned"]["ndcg@10"]["mean"] > figures["base"]["ndcg@10"]["mean"] + 0.1
    low, high = figures["tuned"]["ndcg@10"]["ci95"]
    assert low < figures["tuned"]["ndcg@10"]["mean"] < high


def test_documents_are_those_of_the_base_and_queries_are_not(learned, toy):
    texts = [*toy_pairs().queries.values()][:20]
    for dims in (None, 8):
        for kind, same in (("document", True), ("query", False)):
            ours, base = (vectors(ref, texts, kind, dims=dims) for ref in (learned[0], toy))
            assert np.array_equal(ours, base) is same
            np.testing.assert_allclose(np.linalg.norm(ours, axis=1), 1, atol=1e-5)


def test_the_encoder_serves_what_was_measured(learned):
    """The dev figure, once more, through the encoder and exact search in all documents."""
    version = learned[0]
    dev = learned[3]["dev"]
    corpus = {**toy_pairs().corpus, **dev.corpus}
    encoder = ft.get_encoder(version, device="cpu")
    found = evaluate(exact_retriever(encoder, corpus), dev, metrics=("ndcg@10",))
    told = version.manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"]
    assert found.metrics["ndcg@10"].mean == pytest.approx(told, abs=1e-6)


def test_the_manifest_says_where_it_comes_from(learned, toy):
    version = learned[0]
    manifest = version.manifest
    base = ft.resolve_model(toy)
    assert version.document_fingerprint == base.fingerprint != version.fingerprint
    assert manifest["base"]["fingerprint"] == base.fingerprint
    assert manifest["query_adapter"] == {"kind": "linear", "dims": 32}
    assert manifest["training"]["query_only"] is True
    assert manifest["training"]["best_epoch"] >= 1
    assert manifest["dev"]["history"].keys() == {str(n) for n in range(13)}
    assert manifest["data"]["n_pairs"] == 160


def test_events_and_progress(learned):
    version, told, steps, _ = learned
    n_steps = 12 * 5
    assert told[0] == {"event": "started", "steps": n_steps, "query_only": True}
    assert told[-1] == {"event": "saved", "ref": version.ref}
    losses = [event["loss"] for event in told if event["event"] == "loss"]
    assert len(losses) == n_steps
    assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5])
    measured = [event["step"] for event in told if event["event"] == "evaluation"]
    assert measured == [5 * epoch for epoch in range(13)]
    assert steps == [(step + 1, n_steps) for step in range(n_steps)]


def test_the_course_is_drawn_as_that_of_any_training(learned):
    version = learned[0]
    assert (Path(version.path) / "training.png").read_bytes()[:4] == b"\x89PNG"
    assert "training.png" in (Path(version.path) / "README.md").read_text("utf-8")


def test_the_same_call_returns_the_same_version(learned, toy):
    version, _, _, arguments = learned
    again = train_query_adapter(toy, toy_pairs(), **arguments)
    assert (again.ref, again.fingerprint) == (version.ref, version.fingerprint)


def test_the_same_seed_gives_the_same_adapter_and_another_another(learned, toy, tmp_path):
    version, _, _, arguments = learned
    arguments = {**arguments, "store": str(tmp_path)}
    same = train_query_adapter(toy, toy_pairs(), **arguments)
    other = train_query_adapter(toy, toy_pairs(), **{**arguments, "seed": 1})
    assert same.fingerprint == version.fingerprint != other.fingerprint


def test_train_leads_here(learned, toy):
    version, _, _, arguments = learned
    assert train(toy, toy_pairs(), query_only=True, **arguments).ref == version.ref
    with pytest.raises(InputError, match="loss is for fine-tuning"):
        train(toy, toy_pairs(), query_only=True, loss="mnrl", **arguments)


def test_a_low_rank_is_smaller_and_learns(learned, toy):
    version = train_query_adapter(toy, toy_pairs(), **{**learned[3], "rank": 6, "name": "low"})
    adapter = read_adapter(version.path)
    assert (adapter.kind, adapter.rank) == ("low-rank", 6)
    figures = version.manifest["metrics"]["dev"]
    assert figures["tuned"]["ndcg@10"]["mean"] > figures["base"]["ndcg@10"]["mean"] + 0.05


def test_a_base_with_an_adapter_must_be_beaten_and_its_documents_stay(learned):
    version, _, _, arguments = learned
    start = version.manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"]
    with pytest.raises(NoGainError) as caught:
        train_query_adapter(version, toy_pairs(), **{**arguments, "epochs": 1})
    assert caught.value.base == pytest.approx(start, abs=1e-6)


def test_weights_are_not_trained_from_under_an_adapter(learned, toy, tmp_path):
    """It would be ignored, dropped, and the base named in the manifest not the one beaten."""
    dev = learned[3]["dev"]
    store = str(tmp_path)
    plain = ModelStore(store).save(toy, name="plain")
    adapter = QueryAdapter("linear", {"weight": np.eye(32, dtype=np.float32), "bias": ZERO})
    manifest = {"base": {"ref": plain.ref, "fingerprint": plain.fingerprint}, "parent": plain.ref}
    ModelStore(store).save(plain.path, name="q", query_adapter=adapter, manifest=manifest)
    rest = {"name": "toy", "store": store, "device": "cpu"}
    calls = [
        lambda: train("q@1", toy_pairs(), dev=dev, **rest),
        lambda: train("q@1", toy_pairs(), dev=dev, replay=0.2, **rest),
        lambda: train(plain, toy_pairs(), dev=dev, loss="gist", guide="q@1", **rest),
        lambda: explain_training("q@1", toy_pairs(), store=store, device="cpu"),
        lambda: tune("q@1", toy_pairs(), dev=dev, **rest),
        lambda: interpolate_models("plain@1", "q@1", dev=dev, **rest),
        lambda: distill("plain@1", ["a text"], student="q@1", dev=dev, **rest),
    ]
    for call in calls:
        with pytest.raises(InputError, match=r"'q@1', a query-only version.*under it, 'plain@1'"):
            call()


def test_nothing_is_saved_without_a_gain(toy, tmp_path):
    """The base model is perfect already: each query is its document."""
    texts = list(toy_pairs(60, seed=1).corpus.values())
    dev = Pairs.of([(f"dev{n}", text, f"dev{n}", text) for n, text in enumerate(texts)])
    with pytest.raises(NoGainError, match=r"base 1\.0000 \(n = 60\)"):
        train_query_adapter(
            toy, toy_pairs(), dev=dev, name="none", store=str(tmp_path), **{**FAST, "epochs": 2}
        )
    assert not (tmp_path / "none").exists()


def test_training_sets_and_a_held_out_dev_set(toy, tmp_path):
    pairs = toy_pairs(300)
    columns = {"query": pairs.table["query"], "positive": pairs.table["document"]}
    negatives = pa.array([["uniform victor whiskey"]] * 300)
    data = TrainingSet("negatives", pa.table({**columns, "negatives": negatives}))
    version = train_query_adapter(toy, [data], name="held", store=str(tmp_path), **FAST)
    assert version.manifest["split"]["dev"]["held_out_of_train"] is True
    labelled = TrainingSet("labelled", pa.table({"text": ["a", "b"], "label": ["x", "y"]}))
    with pytest.raises(InputError, match="no queries with documents"):
        train_query_adapter(toy, labelled, dev=pairs, name="x", store=str(tmp_path))
    prompted = TrainingSet("negatives", data.table, query_prompt="query: ")
    with pytest.raises(InputError, match="wants the query prompt 'query: '"):
        train_query_adapter(toy, prompted, name="x", store=str(tmp_path))


def test_a_leak_is_refused(toy, tmp_path):
    with pytest.raises(LeakError):
        train_query_adapter(toy, toy_pairs(), dev=toy_pairs(), name="x", store=str(tmp_path))


def test_what_is_no_data_no_dev_set_and_no_corpus_is_told(toy, tmp_path):
    run = {"name": "x", "store": str(tmp_path), "device": "cpu"}
    dev = toy_pairs(9, seed=1, prefix="dev")
    for data, settings, told in (
        (None, {}, "data to train on is a NoneType"),
        ([], {}, "no data"),
        (toy_pairs(), {"dev": "dev.jsonl"}, "dev is a str"),
        (toy_pairs(), {"dev": Pairs.of([])}, "dev set is empty"),
        (toy_pairs(), {"dev": dev, "corpus": {"a": 5}}, "corpus has a int"),
        (toy_pairs(), {"dev": dev, "corpus": ["a"]}, "a list"),
    ):
        with pytest.raises(InputError, match=told):
            train_query_adapter(toy, data, **run, **settings)


@pytest.mark.parametrize(
    "wrong",
    [
        {"rank": 0},
        {"epochs": 0},
        {"batch_size": 1.5},
        {"learning_rate": 0.0},
        {"learning_rate": "1e-3"},
        {"seed": 2**70},
        {"temperature": float("nan")},
        {"temperature": "cold"},
        {"negatives": -1},
        {"identity": -1.0},
        {"metric": "accuracy"},
    ],
)
def test_values_out_of_range(wrong):
    with pytest.raises(InputError):
        AdapterConfig(**wrong)


# --- the table's own vectors ---------------------------------------------------------------


def table_of(db, model, corpus):
    """Return a table that plain LanceDB filled with the model."""
    function = get_registry().get("ft-embed").create(name=model)
    field = pa.field("vector", pa.list_(pa.float32(), function.ndims()))
    schema = pa.schema([("id", pa.string()), ("text", pa.string()), field])
    config = EmbeddingFunctionConfig(
        source_column="text", vector_column="vector", function=function
    )
    docs = db.create_table("docs", schema=schema, embedding_functions=[config])
    docs.add([{"id": key, "text": text} for key, text in corpus.items()])
    return docs


def test_the_table_s_vectors_are_read_and_not_made_again(learned, toy, tmp_path):
    _, _, _, arguments = learned
    corpus = {**toy_pairs().corpus, **arguments["dev"].corpus}
    docs = table_of(lancedb.connect(str(tmp_path)), toy, corpus)
    docs.add([{"id": "blank", "text": " "}], on_bad_vectors="null")
    read = train_query_adapter(toy, toy_pairs(), corpus=docs, **{**arguments, "name": "read"})
    assert read.manifest["training"]["n_vectors_read"] == len(corpus)
    made = train_query_adapter(toy, toy_pairs(), corpus=corpus, **{**arguments, "name": "made"})
    assert made.manifest["training"]["n_vectors_read"] == 0
    ours, theirs = (read_adapter(version.path).tensors for version in (read, made))
    np.testing.assert_allclose(ours["weight"], theirs["weight"], atol=1e-3)
    report = ft.reindex(docs, read, force=True, store=read.store)
    assert (report.query_only, report.fill.encoded) == (True, 0)


def test_from_the_command_line(toy, tmp_path, monkeypatch, capsys):
    """Train against the table, plan, switch: the table's vectors are read, and none is made."""
    uri = str(tmp_path / "kb")
    db = lancedb.connect(uri)
    parts = {
        "train": toy_pairs(),
        "dev": toy_pairs(60, seed=1, prefix="dev"),
        "test": toy_pairs(20, seed=2, prefix="test"),
    }
    corpus = {k: v for part in parts.values() for k, v in part.corpus.items()}
    table_of(db, toy, corpus)
    asked = [
        {"id": key, "text": text, "split": part}
        for part, pairs in parts.items()
        for key, text in pairs.queries.items()
    ]
    db.create_table("docs_queries", asked)
    judged = [
        {"query_id": query, "doc_id": doc, "score": 1}
        for pairs in parts.values()
        for query, docs in pairs.qrels.items()
        for doc in docs
    ]
    db.create_table("docs_qrels", judged)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["lancedb-ft", *words, "--json"])
        with contextlib.suppress(SystemExit):
            main()
        return json.loads(capsys.readouterr().out)

    place = ("--db", uri, "--table", "docs")
    data = ("--queries-table", "docs_queries", "--qrels-table", "docs_qrels")
    settings = ("--name", "queries", "--base", toy, "--learning-rate", "3e-3", "--epochs", "6")
    explained = run("train", *place, *data, *settings, "--query-only", "--explain")["choices"]
    told = run("train", *place, *data, *settings, "--query-only", "--device", "cpu")
    assert told.get("ref") == "queries@1", told
    training = ft.ModelStore(told["store"]).load("queries@1").manifest["training"]
    assert (training["query_only"], training["n_vectors_read"]) == (True, len(corpus))
    assert {c["argument"]: c["value"] for c in explained}.items() <= training.items()
    assert {c["argument"] for c in explained if c["why"] == "given"} == {"epochs", "learning_rate"}
    plan = run("reindex", "plan", *place, "--model", "queries@1")
    assert (plan["rows_to_encode"], plan["query_only"]) == (0, True)
    done = run("reindex", "run", *place, "--model", "queries@1", "--force")
    assert (done["switched"], done["query_only"], done["encoded"]) == (True, True, 0)


# --- the fit -------------------------------------------------------------------------------


def fitted(examples, **settings):
    found = []
    config = AdapterConfig(**{"learning_rate": 5e-2, "epochs": 30, **settings})
    fit_adapter(
        examples,
        config,
        after_step=lambda *step: None,
        after_epoch=lambda epoch, adapter: found.append(adapter),
    )
    return found[-1]


def moved(adapter, queries):
    return adapted(torch.tensor(queries), adapter_tensors(adapter, device="cpu")).numpy()


def test_a_rotation_is_found():
    """Documents are the queries turned by a quarter in one plane: a matrix can say that."""
    dice = np.random.default_rng(0)
    queries = dice.normal(size=(200, 6)).astype(np.float32)
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    turn = np.eye(6, dtype=np.float32)
    turn[:2, :2] = [[0, -1], [1, 0]]
    documents = queries @ turn.T
    pairs = np.stack([np.arange(100), np.arange(100)], axis=1)
    adapter = fitted(Examples(queries[:100], documents, pairs), negatives=1000)
    cosines = (moved(adapter, queries[100:]) * documents[100:]).sum(axis=1)
    assert (queries[100:] * documents[100:]).sum(axis=1).mean() < 0.8
    assert cosines.mean() > 0.9


def test_a_query_s_other_documents_are_no_negatives():
    """With the second right document as a negative, the first would be pulled away from it."""
    queries = np.eye(4, dtype=np.float32)[:1]
    documents = np.eye(4, dtype=np.float32)[[1, 2, 3]]
    both = Examples(queries, documents, np.array([[0, 0], [0, 1]]))
    found = moved(fitted(both, negatives=1000), queries) @ documents.T
    assert found[0, 0] == pytest.approx(found[0, 1], abs=0.05)
    assert found[0, 2] < 0 < found[0, 0]


def test_the_identity_holds_it_back():
    dice = np.random.default_rng(0)
    queries, documents = (dice.normal(size=(50, 8)).astype(np.float32) for _ in range(2))
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    documents /= np.linalg.norm(documents, axis=1, keepdims=True)
    examples = Examples(queries, documents, np.stack([np.arange(50)] * 2, axis=1))
    shift = [
        np.square(moved(fitted(examples, identity=weight), queries) - queries).sum(axis=1).mean()
        for weight in (0.0, 100.0)
    ]
    assert shift[1] < 0.2 * shift[0]


def test_lengths_stay_and_zero_is_no_trouble():
    weight = np.random.default_rng(0).normal(size=(3, 3)).astype(np.float32)
    adapter = QueryAdapter("linear", {"weight": weight, "bias": np.zeros(3, np.float32)})
    queries = np.array([[3, 0, 4], [0, 0, 0], [0.1, 0, 0]], np.float32)
    found = moved(adapter, queries)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [5, 0, 0.1], atol=1e-6)


# --- the real model ------------------------------------------------------------------------


@pytest.mark.slow  # the real model, half a minute; the tiny one runs by default
def test_minilm_finds_more_of_the_standard_library_than_before(minilm, tmp_path):
    """Summaries of functions never seen, in a corpus of bodies never seen, cut for time."""
    docs = read_api_docs(paths=[sysconfig.get_paths()["stdlib"]])
    split = split_pairs(docs.pairs, seed=0, shares=(0.6, 0.2, 0.2))

    def short(part, n):
        rows = part.table.slice(0, n).to_pylist()
        cut = [(r["query_id"], r["query"], r["doc_id"], r["document"][:120]) for r in rows]
        return Pairs.of(cut)

    pairs, dev, test = (
        short(part, n) for part, n in zip(split.parts().values(), (500, 150, 250), strict=True)
    )
    version = train_query_adapter(minilm, pairs, dev=dev, name="api", store=str(tmp_path))
    figures = version.manifest["metrics"]["dev"]
    assert figures["tuned"]["ndcg@10"]["mean"] > figures["base"]["ndcg@10"]["mean"]
    base, tuned = (
        evaluate(exact_retriever(ft.get_encoder(model), test.corpus), test, metrics=("ndcg@10",))
        for model in (minilm, version)
    )
    delta = compare(base, tuned).delta["ndcg@10"]
    assert base.n > 200
    assert delta.mean > 0, delta
