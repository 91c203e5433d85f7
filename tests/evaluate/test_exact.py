"""Brute-force retrieval: what is found, in which order, at which size."""

import numpy as np
import pyarrow as pa
import pytest

from lancedb_ft.errors import ColumnNotFoundError, InputError, QueryError
from lancedb_ft.evaluate import exact as exact_module
from lancedb_ft.evaluate.exact import exact_retriever, exact_retriever_of
from lancedb_ft.types import Retriever

CORPUS = {
    "d1": "red apple",
    "d2": "green apple tree",
    "d3": "blue boat",
    "d4": "   ",
    "d5": "red car",
}


def test_finds_the_nearest_first(encoder):
    search = exact_retriever(encoder, CORPUS)
    assert isinstance(search, Retriever)
    run = search({"q1": "red apple", "q2": "blue boat blue"}, 2)
    assert list(run["q1"]) == ["d1", "d5"]
    assert run["q1"] == pytest.approx({"d1": 1.0, "d5": 0.5})
    assert next(iter(run["q2"])) == "d3"
    assert "n_docs=4" in repr(search)


def test_the_corpus_is_encoded_once_and_queries_as_queries(encoder):
    steps = []
    search = exact_retriever(encoder, CORPUS, progress=lambda *step: steps.append(step))
    search({"q1": "red", "q2": "red", "q3": "blue"}, 1)
    search({"q1": "red"}, 1)
    kinds = [kind for kind, _ in encoder.calls]
    assert kinds == ["document", "query", "query"]
    assert encoder.calls[1][1] == ["red", "blue"]
    assert steps == [(5, 5)]


def test_blank_texts_are_never_found_and_find_nothing(encoder):
    run = exact_retriever(encoder, CORPUS)({"q1": "red", "q2": " ", "q3": "unknown"}, 100)
    assert set(run["q1"]) == {"d1", "d2", "d3", "d5"}
    assert run["q2"] == run["q3"] == {}
    assert exact_retriever(encoder, {"d": " "})({"q": "red"}, 5) == {"q": {}}


def test_no_queries_no_answers(encoder):
    assert exact_retriever(encoder, CORPUS)({}, 5) == {}


def test_a_table_is_a_corpus_too(encoder):
    table = pa.table({"doc": [7, 8], "body": ["red apple", "blue boat"]})
    search = exact_retriever(encoder, table, id_column="doc", text_column="body")
    assert list(search({"q": "boat"}, 1)["q"]) == ["8"]
    with pytest.raises(ColumnNotFoundError, match="'id'"):
        exact_retriever(encoder, table)


def test_equal_documents_are_ordered_by_id_at_any_size():
    rng = np.random.default_rng(0)
    vectors = np.tile(rng.normal(size=(1, 33)).astype(np.float32), (1001, 1))
    ids = [f"d{i:04}" for i in rng.permutation(1001)]
    search = exact_retriever_of(ids, vectors, lambda texts: vectors[: len(texts)])
    assert list(search({"q": "x"}, 5)["q"]) == ["d0000", "d0001", "d0002", "d0003", "d0004"]


@pytest.mark.parametrize("metric", ["cosine", "dot"])
def test_agrees_with_a_full_sort_over_blocks_of_all_sizes(metric, monkeypatch):
    rng = np.random.default_rng(1)
    docs = (rng.normal(size=(500, 24)) * rng.uniform(0.1, 9, (500, 1))).astype(np.float32)
    docs[100:150] = docs[0]  # ties, also across blocks
    asked = rng.normal(size=(37, 24)).astype(np.float32)
    asked[0] = docs[0]
    ids = [f"d{i:03}" for i in range(500)]
    a, b = asked.astype(np.float64), docs.astype(np.float64)
    if metric == "cosine":
        a /= np.linalg.norm(a, axis=1, keepdims=True)
        b /= np.linalg.norm(b, axis=1, keepdims=True)
    order = np.argsort(-(a @ b.T).round(6), axis=1, kind="stable")
    queries = {f"q{i}": f"text {i}" for i in range(37)}
    for size, n_queries, k in [(16_384, 256, 10), (7, 5, 10), (64, 37, 120), (33, 1, 999)]:
        monkeypatch.setattr(exact_module, "_DOCS_PER_BLOCK", size)
        monkeypatch.setattr(exact_module, "_QUERIES_PER_BLOCK", n_queries)
        run = exact_retriever_of(ids, docs, lambda texts: asked, metric=metric)(queries, k)
        for i, query_id in enumerate(queries):
            assert list(run[query_id]) == [ids[j] for j in order[i, :k]]
            scores = list(run[query_id].values())
            assert scores == sorted(scores, reverse=True)


def test_arrow_vectors_with_nulls_slices_and_chunks():
    vectors = pa.array([[9.0, 9.0], [1.0, 0.0], None, [0.0, 1.0]], pa.list_(pa.float16(), 2))
    chunked = pa.chunked_array([vectors.slice(1, 1), vectors.slice(2)])
    search = exact_retriever_of(["a", "b", "c"], chunked, lambda texts: np.eye(2)[: len(texts)])
    assert search({"q": "x"}, 5) == {"q": {"a": 1.0, "c": 0.0}}


@pytest.mark.parametrize(
    ("ids", "vectors", "message"),
    [
        (["a", "a"], np.eye(2), "1 ids stand in the corpus more than once"),
        (["a", None], np.eye(2), "has no id"),
        (["a"], np.eye(2), "1 documents and 2 vectors"),
        (["a", "b"], np.array([[1.0, np.nan], [1.0, 0.0]]), "1 of 2 vectors"),
        (["a", "b"], np.ones(2), "shape"),
        (["a"], pa.array([[1.0]]), "fixed-size lists"),
    ],
)
def test_a_bad_corpus_is_refused(ids, vectors, message):
    with pytest.raises(InputError, match=message):
        exact_retriever_of(ids, vectors, lambda texts: np.eye(2))


def test_bad_calls_are_refused(encoder):
    search = exact_retriever(encoder, CORPUS)
    with pytest.raises(QueryError, match="k is 0"):
        search({"q": "red"}, 0)
    with pytest.raises(QueryError, match="'q' is a NoneType"):
        search({"q": None}, 1)
    with pytest.raises(QueryError, match="surrogate"):
        search({"q": "cut \ud83d"}, 1)
    with pytest.raises(InputError, match="empty"):
        exact_retriever(encoder, {})
    with pytest.raises(InputError, match="metric is 'l2'"):
        exact_retriever(encoder, CORPUS, metric="l2")
    wrong = exact_retriever_of(["a"], np.eye(1), lambda texts: np.eye(2)[: len(texts)])
    with pytest.raises(InputError, match="2 dims and the corpus 1"):
        wrong({"q": "red"}, 1)
