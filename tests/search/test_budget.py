"""A query with a time budget answers with what is there, and says what is missing."""

import logging
import threading
import time

import pyarrow as pa
import pytest

from lancedb_ft.errors import FilterError, QueryError, SearchTimeoutError
from lancedb_ft.search import SearchInfo, SearchOptions, search
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
