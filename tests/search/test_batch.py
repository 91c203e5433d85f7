"""Many queries in one call, and the vectors of queries that are asked again."""

import asyncio
import gc
import threading
import time
import weakref
from importlib import import_module

import numpy as np
import pytest

from lancedb_ft.errors import NoEmbedderError, QueryError
from lancedb_ft.search import Searcher, SearchInfo, SearchOptions, search, search_many
from lancedb_ft.search.trace import listen
from tests.search.words import DIMS, Switch, Words, embedded, raw_table, unit, words_table

QUERIES = ["document number 7", "document number 9", "document number 7", "document number 41"]
TOPS = ["d7", "d9", "d7", "d41"]


class Batches:
    """An embedder that takes lists, as a SentenceTransformer does, and notes what it gets."""

    def __init__(self):
        self.batches = []

    def encode_query(self, texts):
        self.batches.append(list(texts))
        return np.stack([unit(text) for text in texts])


@pytest.fixture
def docs(db):
    return words_table(db)


def tops(found):
    return [rows["id"].to_pylist()[0] for rows in found]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_many_queries_are_answered_as_each_alone(docs, mode):
    many = search_many(docs, QUERIES, mode=mode, k=5)
    assert tops(many) == TOPS
    for query, found in zip(QUERIES, many, strict=True):
        assert found.schema == search(docs, query, mode=mode, k=5).schema
        assert found.num_rows == 5


def test_all_texts_are_embedded_in_one_batch(db):
    table, embedder = raw_table(db), Batches()
    queries = [f"document number {i}" for i in (3, 8, 3)]
    assert tops(search_many(table, queries, embedder=embedder, mode="vector")) == ["d3", "d8", "d3"]
    assert embedder.batches == [queries[:2]]
    with Searcher(table, embedder=embedder) as searcher:
        embedder.batches.clear()
        assert tops(searcher.search_many(queries, mode="hybrid")) == ["d3", "d8", "d3"]
        assert embedder.batches == [queries[:2]]
        assert tops(searcher.search_many([queries[1], "document number 4"])) == ["d8", "d4"]
        assert embedder.batches[1:] == [["document number 4"]]
        searcher.search("document number 4")
        assert len(embedder.batches) == 2


def test_many_in_an_event_loop(docs):
    async def run():
        with Searcher(docs) as searcher:
            return await asyncio.gather(*(searcher.search_many_async(QUERIES) for _ in range(5)))

    assert [tops(found) for found in asyncio.run(run())] == [TOPS] * 5


def test_vectors_of_ones_own(docs):
    n_embedded = len(embedded)
    vectors = [unit("document number 7"), unit("document number 9")]
    found = search_many(docs, ["a", "b"], vectors=np.stack(vectors), mode="vector", k=1)
    assert tops(found) == ["d7", "d9"]
    assert len(embedded) == n_embedded


def test_no_queries(docs):
    assert search_many(docs, []) == []


@pytest.mark.parametrize(
    ("queries", "asked"),
    [
        ("document", {}),
        (None, {}),
        (5, {}),
        ({"q": "document"}, {}),
        ([None], {}),
        (["a", ""], {}),
        (["a", b"b"], {}),
        (["a"], {"k": 0}),
        (["a"], {"vectors": [unit("a")] * 2}),
        (["a"], {"vectors": unit("a")}),
        (["a"], {"vectors": "abc"}),
        (["a"], {"vectors": [[float("nan")] * DIMS]}),
        (["a"], {"options": SearchOptions(page="x")}),
    ],
)
def test_what_is_no_batch(docs, queries, asked):
    with pytest.raises(QueryError):
        search_many(docs, queries, **asked)


def test_one_bad_query_ends_the_call(db):
    with pytest.raises(NoEmbedderError):
        search_many(raw_table(db), ["a", "b"])


def test_first_pages_of_many_queries(docs):
    found = search_many(docs, QUERIES, k=5, options=SearchOptions(page="first"))
    tokens = [SearchInfo.of(rows).next_page for rows in found]
    second = search(docs, QUERIES[1], k=5, options=SearchOptions(page=tokens[1]))
    assert not set(second["id"].to_pylist()) & set(found[1]["id"].to_pylist())


# --- kept vectors --------------------------------------------------------------------------


def test_a_query_asked_again_is_not_embedded_again(docs):
    counts = []
    stop = listen(lambda trace: counts.append(dict(trace.counts)))
    try:
        with Searcher(docs) as searcher:
            n_embedded = len(embedded)
            for _ in range(3):
                assert tops([searcher.search("document number 7")]) == ["d7"]
            assert len(embedded) == n_embedded + 1
    finally:
        stop()
    assert [(c["query_vectors_kept"], c["query_vectors_embedded"]) for c in counts] == [
        (0, 1),
        (1, 0),
        (1, 0),
    ]


def test_another_model_embeds_for_itself(docs):
    with Searcher(docs) as searcher:
        steps = Switch(docs)
        steps.stage()
        query = "document number 7 of the switch"
        for step, sign in ((lambda: None, 1), (steps.switch, -1)):
            step()
            n_embedded = len(embedded)
            searcher.search(query, mode="vector")
            assert embedded[n_embedded:] == [(sign, query)]
        steps.rollback()
        n_embedded = len(embedded)
        searcher.search(query, mode="vector")
        assert embedded[n_embedded:] == []


def test_queries_that_come_first_at_once_make_one_function(docs, monkeypatch):
    create, made = Words.create, []

    def slow(cls, **arguments):
        made.append(arguments)
        time.sleep(0.1)
        return create(**arguments)

    monkeypatch.setattr(import_module("lancedb_ft.search.embed"), "_functions", {})
    monkeypatch.setattr(Words, "create", classmethod(slow))
    with Searcher(docs) as searcher:
        threads = [
            threading.Thread(
                target=searcher.search, args=(f"query {n}",), kwargs={"mode": "vector"}
            )
            for n in range(6)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(made) == 1


def test_a_kept_vector_is_of_an_embedder_that_lives(docs, monkeypatch):
    """Another one can get the id of one that is gone, and would get its vectors."""
    functions = {}
    monkeypatch.setattr(import_module("lancedb_ft.search.embed"), "_functions", functions)
    with Searcher(docs) as searcher:
        searcher.search("document number 7", mode="vector")
        gone = weakref.ref(next(iter(functions.values())))
        functions.clear()
        gc.collect()
        assert gone() is not None


def test_the_oldest_vectors_go_first_and_long_texts_are_not_kept(db):
    embedder = Batches()
    with Searcher(raw_table(db), embedder=embedder, n_kept_vectors=2) as searcher:
        for text in ("a", "b", "a", "c", "a", "b"):
            searcher.search(text, mode="vector", k=1)
        assert embedder.batches == [["a"], ["b"], ["c"], ["b"]]
        embedder.batches.clear()
        for _ in range(2):
            searcher.search("x" * 5_000, mode="vector", k=1)
        assert len(embedder.batches) == 2
    with Searcher(raw_table(db, "other"), embedder=embedder, n_kept_vectors=0) as searcher:
        embedder.batches.clear()
        for _ in range(2):
            searcher.search("a", mode="vector", k=1)
        assert len(embedder.batches) == 2


def test_kept_vectors_serve_many_threads(db):
    embedder, wrong = Batches(), []
    with Searcher(raw_table(db), embedder=embedder, n_kept_vectors=5) as searcher:

        def work(offset):
            for i in range(30):
                number = (i * 7 + offset) % 20
                found = searcher.search(f"document number {number}", mode="vector", k=1)
                wrong.extend([number] * (found["id"].to_pylist() != [f"d{number}"]))

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_what_a_batch_embeds_is_told(docs):
    told = []
    stop = listen(told.append)
    try:
        with Searcher(docs) as searcher:
            searcher.search("document number 7")
            told.clear()
            searcher.search_many(["document number 8", "document number 7"])
    finally:
        stop()
    assert [[s.name for s in trace.stages].count("embed") for trace in told] == [1, 1]
    assert sum(trace.counts.get("query_vectors_kept", 0) for trace in told) == 1
    assert sum(trace.counts.get("query_vectors_embedded", 0) for trace in told) == 1
