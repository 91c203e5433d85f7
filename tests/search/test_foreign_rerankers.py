"""Rerankers that are not ours, and fail, lie or break their word: no query is lost with them."""

import gc
import logging
import time
import weakref
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pytest
from lancedb.rerankers import Reranker

import lancedb_ft as ft
from lancedb_ft.errors import QueryError
from lancedb_ft.reranking import foreign
from tests.search.words import words_table

QUERY = "document number 7"
TIERS = ft.Tiers(where="`group` = 1")
WAYS = [
    pytest.param(mode, options, id=f"{mode}-{name}")
    for mode in ("hybrid", "vector", "fts")
    for name, options in [
        ("plain", ft.SearchOptions()),
        ("tiers", ft.SearchOptions(tiers=TIERS)),
        ("budget", ft.SearchOptions(budget_ms=20_000)),
    ]
]


class Foreign(Reranker):
    """Answers with what ``answer`` makes of the rows, in every mode."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer
        self.n_asked = 0

    def rerank_hybrid(self, query, vector_results, fts_results):
        return self.rerank_fts(query, self.merge_results(vector_results, fts_results))

    def rerank_vector(self, query, vector_results):
        return self.rerank_fts(query, vector_results)

    def rerank_fts(self, query, fts_results):
        self.n_asked += 1
        return self.answer(fts_results)


def scored(rows, scores=None, kind=None):
    scores = np.linspace(1, 0, rows.num_rows, dtype=np.float32) if scores is None else scores
    return rows.append_column("_relevance_score", pa.array(scores, kind))


def boom(rows):
    raise RuntimeError("with key sk-123 in its words")


def no_such_op(rows):
    raise NotImplementedError


def with_ids(rows, first):
    ids = pa.array(range(first, first + rows.num_rows), pa.uint64())
    return scored(rows.set_column(rows.column_names.index("_rowid"), "_rowid", ids))


BROKEN = {
    "raises": (boom, "it raised RuntimeError"),
    "no table": (lambda rows: None, "it answered with a NoneType"),
    "no scores": (lambda rows: rows, "one column _relevance_score"),
    "two scores": (lambda rows: scored(scored(rows)), "one column _relevance_score"),
    "no row ids": (lambda rows: scored(rows.drop_columns(["_rowid"])), "one column _rowid"),
    "other rows": (lambda rows: with_ids(rows, 10**6), "rows that it was not given"),
    "text": (lambda rows: scored(rows, ["0.5"] * rows.num_rows), "its scores are string"),
    "only NaN": (lambda rows: scored(rows, [np.nan] * rows.num_rows), "it gave no scores"),
    "only null": (lambda rows: scored(rows, [None] * rows.num_rows, pa.float32()), "no scores"),
}


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    import lancedb

    return words_table(lancedb.connect(str(tmp_path_factory.mktemp("foreign"))), n_rows=60)


def look(docs, reranker, mode="hybrid", k=5, **named):
    """Search; return the ids, their scores, and why it is degraded."""
    found = ft.search(docs, QUERY, k=k, mode=mode, reranker=reranker, **named)
    scores = found["_relevance_score"].to_pylist()
    return found["id"].to_pylist(), scores, ft.SearchInfo.of(found).degraded


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize(("mode", "options"), WAYS)
def test_the_query_is_answered_in_the_order_of_the_search(docs, kind, mode, options):
    answer, reason = BROKEN[kind]
    ids, scores, degraded = look(docs, Foreign(answer), mode, options=options)
    plain = ft.search(docs, QUERY, k=5, mode=mode, options=options)
    assert ids == plain["id"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert len(degraded) == 1
    assert degraded[0].startswith("rerank: Foreign: ")
    assert reason in degraded[0]


def test_its_words_go_nowhere(docs, caplog):
    with caplog.at_level(logging.DEBUG):
        _, _, degraded = look(docs, Foreign(boom))
    assert "sk-123" not in caplog.text + str(degraded)
    assert "it raised RuntimeError" in caplog.text


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_an_unsorted_answer_is_sorted_before_it_is_cut(docs, mode):
    given = []

    def ascending(rows):
        given[:] = rows["id"].to_pylist()
        return scored(rows, np.arange(rows.num_rows, dtype=np.float32))

    ids, scores, degraded = look(docs, Foreign(ascending), mode, candidates=30)
    assert degraded == ()
    assert ids == given[:-6:-1]
    assert scores == [len(given) - place for place in range(1, 6)]


def with_gaps(rows, missing):
    scores = [missing, *range(10, 10 + rows.num_rows - 2), missing]
    return scored(rows, scores, pa.float32())


@pytest.mark.parametrize("missing", [np.nan, None, -np.inf])
def test_rows_without_a_score_stand_last(docs, missing):
    given = []

    def answer(rows):
        given[:] = rows["id"].to_pylist()
        return with_gaps(rows, missing)

    ids, scores, degraded = look(docs, Foreign(answer), "fts", k=30)
    assert degraded == ()
    assert ids[-2:] == [given[0], given[-1]]
    assert scores == sorted(scores, reverse=True)
    assert scores[-1] == 10  # the least that was given


@pytest.mark.parametrize("missing", [np.nan, None, -np.inf, np.inf])
@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_rows_without_a_score_among_tiers(docs, missing, mode):
    reranker = Foreign(lambda rows: with_gaps(rows, missing))
    options = ft.SearchOptions(tiers=TIERS)
    _, scores, degraded = look(docs, reranker, mode, k=30, options=options)
    assert degraded == ()
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)


def test_a_row_that_stands_twice_comes_once(docs):
    def twice(rows):
        worse = scored(rows, np.full(rows.num_rows, -1, np.float32))
        return pa.concat_tables([worse, scored(rows)])

    ids, scores, degraded = look(docs, Foreign(twice), "fts", k=20)
    assert len(ids) == len(set(ids)) == 20
    assert min(scores) >= 0
    assert degraded == ()


@pytest.mark.parametrize(("mode", "options"), WAYS)
@pytest.mark.parametrize("kept", [[], ["text"]])
def test_columns_that_were_left_out_are_there_again(docs, mode, options, kept):
    short = Foreign(lambda rows: scored(rows).select([*kept, "_relevance_score", "_rowid"]))
    found = ft.search(docs, QUERY, k=5, mode=mode, reranker=short, options=options)
    assert ft.SearchInfo.of(found).degraded == ()
    assert {"id", "text", "group"} <= set(found.column_names)
    for row in found.to_pylist():
        assert row["text"] == f"document number {row['id'][1:]}"


def test_it_may_leave_rows_out(docs):
    ids, _, degraded = look(docs, Foreign(lambda rows: scored(rows).slice(0, 2)), "fts")
    assert len(ids) == 2
    assert degraded == ()
    nothing = look(docs, Foreign(lambda rows: scored(rows).slice(0, 0)), "fts")
    assert nothing == ([], [], ())


def test_a_slow_one_is_waited_for(docs):
    def slow(rows):
        time.sleep(2.3)  # longer than the deadline of RerankGuard()
        return scored(rows)

    assert look(docs, Foreign(slow))[2] == ()


@pytest.mark.parametrize("options", [None, ft.SearchOptions(tiers=TIERS)])
def test_after_some_failures_it_is_left_alone(docs, options):
    failing, other = Foreign(boom), Foreign(boom)
    with ft.Searcher(docs) as searcher:
        for _ in range(3):
            searcher.search(QUERY, reranker=failing, options=options)
    _, _, degraded = look(docs, failing, options=options)
    assert failing.n_asked == 3
    assert "not asked: it failed before" in degraded[0]
    look(docs, other)
    assert other.n_asked == 1  # each has a circuit of its own


def test_an_answer_closes_the_circuit_and_a_pause_ends_it(docs, monkeypatch):
    monkeypatch.setattr(foreign, "_GUARD", ft.RerankGuard(deadline_s=None, cooldown_s=0.05))
    moody = Foreign(boom)
    for _ in range(4):
        look(docs, moody)
    assert moody.n_asked == 3
    moody.answer = scored
    time.sleep(0.06)
    assert look(docs, moody)[2] == ()
    assert look(docs, moody)[2] == ()


def test_nothing_is_kept_of_one_that_is_gone(docs):
    failing = Foreign(boom)
    look(docs, failing)
    gone = weakref.ref(failing)
    del failing
    gc.collect()
    assert gone() is None


@dataclass
class Unhashable(Foreign):
    url: str = ""

    def __post_init__(self):
        super().__init__(boom)


def test_one_that_cannot_be_remembered(docs):
    assert Unhashable.__hash__ is None
    reranker = Unhashable("http://x")
    for _ in range(4):
        assert look(docs, reranker)[2] == ("rerank: Unhashable: it raised RuntimeError",)
    assert reranker.n_asked == 4


def test_one_whose_class_forgot_its_base(docs):
    class Forgetful(Foreign):
        def __init__(self):
            self.answer, self.n_asked = scored, 0

    assert look(docs, Forgetful(), "fts")[2] == ()


def test_what_it_cannot_do_at_all(docs):
    """Merging is what LanceDB demands of each; the rest is a matter of how it is used."""
    assert "NotImplementedError" in look(docs, Foreign(no_such_op))[2][0]
    with pytest.raises(QueryError, match="merges two legs"):
        look(docs, Foreign(no_such_op), "fts")


def test_being_stopped_is_no_failure(docs):
    def stop(rows):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ft.search(docs, QUERY, mode="fts", reranker=Foreign(stop))


def test_no_least_score_is_asked_of_the_order_of_the_search(docs):
    options = ft.SearchOptions(min_score=0.9)
    assert len(look(docs, Foreign(boom), options=options)[0]) == 5


def test_pages_go_on_without_it(docs):
    failing = Foreign(boom)
    found = ft.search(docs, QUERY, k=5, reranker=failing, options=ft.SearchOptions(page="first"))
    info = ft.SearchInfo.of(found)
    failing.answer = scored
    options = ft.SearchOptions(page=info.next_page)
    following = ft.search(docs, QUERY, k=5, reranker=failing, options=options)
    assert not set(found["id"].to_pylist()) & set(following["id"].to_pylist())
