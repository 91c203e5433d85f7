"""Documents of several places: told apart by their texts, whatever ids they have there."""

import contextlib

import numpy as np
import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import exact_retriever
from lancedb_ft.train import train, train_reranker
from lancedb_ft.train.corpus import corpus_around, ids_beside, named_as_in
from lancedb_ft.train.dev import make_measured, retrieval_pairs
from lancedb_ft.train.devset import make_dev_set
from lancedb_ft.train.queries.documents import fixed_documents
from lancedb_ft.train.queries.trainer import _divided, _joined
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.train.toy import toy_model, toy_pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


class Stop(Exception):
    pass


def everything(*parts):
    """The documents of pairs with ids of their own, as a table that was loaded elsewhere."""
    texts = [text for part in parts for text in part.corpus.values()]
    return {f"row{n}": text for n, text in enumerate(texts)}


# --- ids ------------------------------------------------------------------------------------


def test_a_document_gets_the_id_that_the_corpus_has_for_its_text():
    corpus = {"0": "the first", "1": "the second", "2": "The  first"}
    pairs = Pairs.of(
        [
            ("a", "query a", "2", "the first"),  # of two with this text, the one that is named
            ("b", "query b", "0", "THE SECOND"),
            ("c", "query c", "0", "a third"),  # its id is taken there
            ("d", "query d", "7", "a fourth"),
            ("e", "query e", "8", "a  third"),
        ]
    )
    named = named_as_in(pairs, corpus)
    ids = named.table["doc_id"].to_pylist()
    assert (ids[:2], ids[3]) == (["2", "1"], "7")
    assert ids[2] == ids[4] not in corpus
    both = {**named.corpus, **corpus}
    assert set(corpus.items()) <= set(both.items())
    assert sorted(both.values()) == sorted([*corpus.values(), "a  third", "a fourth"])
    assert named_as_in(named, corpus).table.equals(named.table)


def test_an_id_made_of_a_text_may_be_taken_too():
    (made,) = ids_beside(["0"], ["a text"], {"0": "another"})
    (again,) = ids_beside(["0"], ["a text"], {"0": "another", made: "changed since"})
    assert again not in ("0", made)


def test_no_document_of_dev_stands_around_it_again():
    dev = toy_pairs(5, seed=1)
    others = {"x": dev.corpus["d0"].upper(), "d1": "another text", "blank": " ", 7: "more"}
    corpus = corpus_around(dev, others, n_others=10, seed=0)
    assert sorted(corpus.values()) == sorted([*dev.corpus.values(), "another text", "more"])
    assert {**corpus, **dev.corpus} == corpus
    assert len(corpus_around(dev, others, n_others=1, seed=0)) == 6


def test_a_distractor_whose_id_a_dev_document_has_is_still_one():
    dev, trained = toy_pairs(60, seed=1), toy_pairs(160)
    corpus = make_dev_set(dev, trained, seed=0).corpus
    assert sorted(corpus.values()) == sorted([*dev.corpus.values(), *trained.corpus.values()])
    assert {**corpus, **dev.corpus} == corpus


# --- a query adapter ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sets", "dev"),
    [
        ([toy_pairs(40), toy_pairs(20, seed=7)], toy_pairs(10, seed=1, prefix="v")),
        ([toy_pairs(40)], toy_pairs(10, seed=1)),
        ([toy_pairs(40), toy_pairs(20, seed=7)], toy_pairs(10, seed=1)),
    ],
)
@pytest.mark.parametrize("corpus", [None, "the same ids", "other ids"])
def test_each_query_is_trained_towards_its_own_document(base, sets, dev, corpus):
    pairs, held, _ = _divided(sets, dev, 0, {})
    if corpus is not None:
        corpus = sets[0].corpus if corpus == "the same ids" else everything(*sets, dev)
    encoder = ft.get_encoder(base, device="cpu")
    documents = fixed_documents(corpus, _joined([pairs, held]), encoder)
    assert len(documents.texts) == sum(map(len, sets)) + len(dev)
    texts = pairs.table["document"].to_pylist()
    vectors = encoder.encode(texts, kind="document").flatten().to_numpy().reshape(len(texts), -1)
    found = documents.distinct()[documents.numbers(texts)]
    np.testing.assert_allclose((found * vectors).sum(axis=1), 1, atol=1e-2)
    for part in (pairs, held):
        rows = documents.named(part).table.to_pylist()
        assert all(documents.texts[row["doc_id"]] == row["document"] for row in rows)


def test_ids_of_several_sets_mean_one_text_each():
    sets = [toy_pairs(40), toy_pairs(20, seed=7)]
    joined = _joined(sets)
    assert (len(joined.queries), len(joined.corpus)) == (60, 60)
    assert joined.table["doc_id"].to_pylist()[:40] == list(sets[0].corpus)
    assert _joined(sets[:1]).fingerprint == sets[0].fingerprint


def test_a_query_adapter_is_measured_alike_whatever_the_ids_of_the_corpus(base, tmp_path):
    """With ids of its own in the table, each dev document stood there twice."""
    pairs, dev = toy_pairs(160), toy_pairs(60, seed=1, prefix="v")
    same, other = {**pairs.corpus, **dev.corpus}, everything(pairs, dev)

    def figure(dev, **corpus):
        found = []

        def stop(event):
            if event["event"] == "evaluation":
                found.append(event["value"])
                raise Stop

        run = {"name": "q", "store": str(tmp_path), "device": "cpu", "on_event": stop}
        with contextlib.suppress(Stop):
            train(base, pairs, dev=dev, query_only=True, **run, **corpus)
        return found[0]

    expected = figure(dev)
    assert figure(dev, distractors=same) == figure(dev, distractors=other) == expected
    assert figure(toy_pairs(60, seed=1)) == expected
    assert figure(toy_pairs(60, seed=1), distractors=pairs.corpus) == expected


# --- a reranker -----------------------------------------------------------------------------


def first_search(base, store, dev, **search):
    """The figure of the first search, from the first evaluation of a run that ends there."""
    found = []

    def stop(event):
        if event["event"] == "evaluation":
            figure = event["dev"]["ndcg@10"]
            found.append(figure["mean"] - figure["gain"]["mean"])
            raise Stop

    with contextlib.suppress(Stop):
        train_reranker(
            base, toy_pairs(60), dev=dev, name="r", store=store, device="cpu", on_event=stop,
            **search,
        )  # fmt: skip
    return found[0]


def test_a_reranker_s_first_search_is_measured_alike_whatever_the_ids(base, tmp_path):
    dev, store = toy_pairs(30, seed=1, prefix="v"), str(tmp_path)
    same, other = {**toy_pairs(60).corpus, **dev.corpus}, everything(toy_pairs(60), dev)
    expected = first_search(base, store, dev, documents=same)
    assert first_search(base, store, dev, documents=other) == pytest.approx(expected, abs=1e-9)
    colliding = first_search(base, store, toy_pairs(30, seed=1), documents=toy_pairs(60).corpus)
    assert colliding == pytest.approx(expected, abs=1e-9)
    # The table's own search: it finds what dev, read from a file, has under other ids.
    search = exact_retriever(ft.get_encoder(base, device="cpu"), other)
    found = first_search(base, store, dev, documents=other, candidates=search)
    assert found == pytest.approx(expected, abs=1e-9)


# --- what is no dev set ---------------------------------------------------------------------


def test_what_is_no_dev_set_and_no_corpus_is_told():
    for dev, told in ((None, "dev is a NoneType"), ("dev.jsonl", "dev is a str")):
        with pytest.raises(InputError, match=told):
            make_measured(dev, [toy_pairs(4)], seed=0)
    with pytest.raises(InputError, match=r"given is a list.*read_training_file"):
        retrieval_pairs([])
    with pytest.raises(InputError, match="distractors is a list"):
        make_measured(toy_pairs(4, seed=1), [toy_pairs(4)], seed=0, distractors=["a text"])


def test_entailments_without_a_contradiction_are_asked_for_too():
    rows = {
        "premise": ["dogs run", "dogs run", "cats sleep"],
        "hypothesis": ["animals move", "nothing moves", "pets rest"],
        "label": [0, 2, 0],
    }
    asked = retrieval_pairs(TrainingSet("nli", pa.table(rows)))
    assert asked.table["document"].to_pylist() == ["animals move", "pets rest"]
