"""A query with a time budget answers with what is there, and says what is missing."""

import asyncio
import logging
import subprocess
import sys
import threading
import time
from importlib import import_module

import numpy as np
import pyarrow as pa
import pytest

from lancedb_ft.errors import FilterError, QueryError, SearchTimeoutError
from lancedb_ft.reranking import RerankGuard, answer_within
from lancedb_ft.reranking.base import Reading, TextReranker
from lancedb_ft.search import Searcher, SearchInfo, SearchOptions, search, search_many
from lancedb_ft.search.budget import MAX_LATE, done_in_time
from lancedb_ft.search.snapshot import Snapshot
from tests.search.test_rerank import ShortestFirst
from tests.search.words import unit, words_table

SLOW_S = 2.0
BUDGET = SearchOptions(budget_ms=400)


@pytest.fixture
def docs(db):
    return words_table(db)


@pytest.fixture
def release():
    """What slow parts wait for; set at the end, so that no thread outlives its test by much."""
    event = threading.Event()
    yield event
    event.set()


def slow_embedder(release):
    def embed(text):
        release.wait(SLOW_S)
        return unit(text)

    return embed


@pytest.fixture
def slow_text(monkeypatch, release):
    text_hits = Snapshot.text_hits

    def late(self, *args, **kwargs):
        release.wait(SLOW_S)
        return text_hits(self, *args, **kwargs)

    monkeypatch.setattr(Snapshot, "text_hits", late)


class Slow(ShortestFirst):
    """A reranker that is late."""

    def __init__(self, release):
        super().__init__()
        self.release = release

    def _rerank(self, query, rows):
        self.release.wait(SLOW_S)
        return super()._rerank(query, rows)


def timed(*args, **asked):
    start_s = time.monotonic()
    found = search(*args, **asked)
    return found, time.monotonic() - start_s


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_in_time_the_answer_is_that_without_a_budget(docs, mode):
    search(docs, "document number 7", mode=mode)
    ample = SearchOptions(budget_ms=60_000)
    with_budget = search(docs, "document number 7", mode=mode, options=ample)
    assert with_budget.schema.metadata is None
    assert with_budget["id"].to_pylist()[0] == "d7"
    assert with_budget.num_rows == 10


def test_a_late_embedder_leaves_the_words(docs, release, caplog):
    with caplog.at_level(logging.WARNING, "lancedb_ft.search"):
        found, took_s = timed(
            docs, "document number 7", embedder=slow_embedder(release), options=BUDGET
        )
    assert SearchInfo.of(found).degraded == ("vector: late",)
    assert "degraded: vector: late" in caplog.text
    assert found["id"].to_pylist()[0] == "d7"
    assert found.column_names[-1] == "_relevance_score"
    assert took_s < SLOW_S


def test_a_late_text_leg_leaves_the_vectors(docs, slow_text):
    found, took_s = timed(docs, "document number 7", options=BUDGET)
    assert SearchInfo.of(found).degraded == ("fts: late",)
    assert found["id"].to_pylist()[0] == "d7"
    assert took_s < SLOW_S


def test_a_late_leg_leaves_the_other_to_the_reranker(docs, slow_text):
    reranker = ShortestFirst()
    found = search(docs, "document number 7", reranker=reranker, options=BUDGET)
    assert SearchInfo.of(found).degraded == ("fts: late",)
    assert reranker.legs[1].num_rows == 0
    assert found.num_rows == 10


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_a_late_reranker_leaves_the_order_of_the_search(docs, release, mode):
    asked = SearchOptions(budget_ms=400, min_score=0.9)  # a bound for what the reranker gives
    found, took_s = timed(
        docs, "document number 7", mode=mode, reranker=Slow(release), options=asked
    )
    assert SearchInfo.of(found).degraded == ("rerank: late",)
    assert found["id"].to_pylist()[0] == "d7"
    assert found.num_rows == 10
    scores = found["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert took_s < SLOW_S


def test_nothing_in_time_is_an_error(docs, release, slow_text):
    with pytest.raises(SearchTimeoutError, match="'vector', 'fts'") as caught:
        search(docs, "document", embedder=slow_embedder(release), options=BUDGET)
    assert caught.value.late == ["vector", "fts"]
    with pytest.raises(SearchTimeoutError):
        search(docs, "document", mode="fts", options=BUDGET)


def test_an_error_is_an_error_also_within_a_budget(docs):
    def broken(text):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        search(docs, "document", embedder=broken, options=SearchOptions(budget_ms=10_000))
    with pytest.raises(FilterError):
        search(docs, "document", where="nope = 1", options=SearchOptions(budget_ms=10_000))
    with pytest.raises(QueryError):
        search(docs, " ", options=SearchOptions(budget_ms=10_000))


def test_a_reranker_that_marks_its_result_degraded(docs):
    class Failing(ShortestFirst):
        def _rerank(self, query, rows):
            found = super()._rerank(query, rows)
            return found.replace_schema_metadata({b"lancedb_ft.degraded": b"HTTP 500"})

    for mode in ("hybrid", "vector", "fts"):
        found = search(docs, "document number 7", mode=mode, reranker=Failing())
        assert SearchInfo.of(found).degraded == ("rerank: HTTP 500",)
        assert isinstance(found, pa.Table)
        assert found.num_rows == 10


def test_facets_that_are_late_are_left_out(docs, monkeypatch, release):
    matches = Snapshot.matches

    def late(self, *args, **kwargs):
        release.wait(SLOW_S)
        return matches(self, *args, **kwargs)

    monkeypatch.setattr(Snapshot, "matches", late)
    asked = SearchOptions(budget_ms=400, facets=["group"])
    info = SearchInfo.of(search(docs, "document", mode="fts", options=asked))
    assert info.degraded == ("facets: late",)
    assert info.facets == {}
    assert info.n_matching is None


# --- what hangs ----------------------------------------------------------------------------


def rerankers():
    return {t for t in threading.enumerate() if t.name == "lancedb-ft-rerank"}


def until_they_end(threads):
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()


def test_hanging_rerankers_hold_up_no_other_query(docs, monkeypatch):
    until_they_end(rerankers())  # of other tests
    release, begun = threading.Event(), []
    monkeypatch.setattr(import_module("lancedb_ft.search.budget"), "MAX_LATE", 3)

    class Hanging(ShortestFirst):
        def _rerank(self, query, rows):
            begun.append(query)
            release.wait(60)
            return super()._rerank(query, rows)

    asked = {"reranker": Hanging(), "options": SearchOptions(budget_ms=500)}
    try:
        for _ in range(6):
            found = search(docs, "document number 7", **asked)
            assert SearchInfo.of(found).degraded == ("rerank: late",)
            assert found["id"].to_pylist()[0] == "d7"
        assert len(begun) == 3  # with as many hanging, no further one is begun or waited for
        plain = search(docs, "document number 7", options=SearchOptions(budget_ms=20_000))
        assert SearchInfo.of(plain).degraded == ()
    finally:
        release.set()
    until_they_end(rerankers())  # those that ended make room
    asked["options"] = SearchOptions(budget_ms=20_000)
    assert SearchInfo.of(search(docs, "document number 7", **asked)).degraded == ()


def test_only_late_ones_are_counted():
    gate = threading.Barrier(MAX_LATE + 9)
    tasks = {"healthy": lambda: gate.wait(30)}
    answers = []

    def ask():
        answers.append(done_in_time(tasks, time.monotonic() + 30))

    threads = [threading.Thread(target=ask) for _ in range(MAX_LATE + 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("healthy" in answer for answer in answers)


EXIT = """
import sys, time, lancedb, lancedb_ft as ft
from tests.search.test_rerank import ShortestFirst
class Hanging(ShortestFirst):
    def _rerank(self, query, rows):
        time.sleep(120)
docs = lancedb.connect(sys.argv[1]).open_table("docs")
found = ft.search(docs, "document", reranker=Hanging(), options=ft.SearchOptions(budget_ms=300))
print(ft.SearchInfo.of(found).degraded)
"""


def test_a_process_ends_without_what_hangs(db, docs):
    done = subprocess.run(
        [sys.executable, "-c", EXIT, str(db.uri)], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == "('rerank: late',)", done.stderr


# --- what a reranker is told of the time ---------------------------------------------------


class Asking(TextReranker):
    """It notes how much time it is told it has."""

    def __init__(self):
        super().__init__(guard=RerankGuard(deadline_s=None))
        self.left_s = []

    def read(self, query, texts, deadline):
        self.left_s.append(deadline.left_s())
        return Reading(np.arange(len(texts), dtype=float), np.zeros(len(texts), np.float32))


def test_a_reranker_is_told_what_the_budget_leaves(docs):
    reranker = Asking()
    search(docs, "document", reranker=reranker, options=SearchOptions(budget_ms=30_000))
    assert 10 < reranker.left_s[0] <= 27.0


def test_a_reranker_is_told_what_its_caller_allows_in_any_thread(docs):
    reranker, many = Asking(), ["document", "number"]
    with Searcher(docs) as searcher, answer_within(20):
        searcher.search("document", reranker=reranker)
        searcher.search_many(many, reranker=reranker)
        asyncio.run(searcher.search_async("document", reranker=reranker))
        asyncio.run(searcher.search_many_async(many, reranker=reranker))
    assert len(reranker.left_s) == 6
    assert all(0 < left_s <= 20 for left_s in reranker.left_s)


# --- many queries --------------------------------------------------------------------------


def test_a_late_batch_of_vectors_leaves_the_words(docs, release):
    queries = ["document number 7", "document number 9"]
    asked = {"embedder": slow_embedder(release), "options": BUDGET}
    for run in (
        lambda: search_many(docs, queries, **asked),
        lambda: asyncio.run(Searcher(docs).search_many_async(queries, **asked)),
    ):
        start_s = time.monotonic()
        found = run()
        assert time.monotonic() - start_s < SLOW_S
        assert [SearchInfo.of(rows).degraded for rows in found] == [("vector: late",)] * 2
        assert [rows["id"].to_pylist()[0] for rows in found] == ["d7", "d9"]
    with pytest.raises(SearchTimeoutError, match="vector"):
        search_many(docs, queries, mode="vector", **asked)


def test_a_batch_in_time_is_that_without_a_budget(docs):
    queries = ["document number 7", "document number 9"]
    found = search_many(docs, queries, options=SearchOptions(budget_ms=60_000))
    assert [rows.to_pylist() for rows in found] == [
        rows.to_pylist() for rows in search_many(docs, queries)
    ]
