"""Pages of one ranking, while others write."""

import base64
import json
import time
from datetime import timedelta

import pyarrow as pa
import pytest
from lancedb.rerankers import RRFReranker

from lancedb_ft.errors import PageExpiredError, QueryError
from lancedb_ft.search import Searcher, SearchInfo, SearchOptions, TextMatch, search
from lancedb_ft.search.pages import PageToken, Rankings, ordered_hits
from tests.search.words import rows, words_table

MODES = ("hybrid", "vector", "fts")


@pytest.fixture
def docs(db):
    return words_table(db)


def pages(search, query, *, between=lambda n: None, **asked):
    """Return the ids of all pages."""
    found, page = [], "first"
    while page is not None:
        rows = search(query, options=SearchOptions(page=page), **asked)
        found.append(rows["id"].to_pylist())
        page = SearchInfo.of(rows).next_page
        between(len(found))
    return found


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("fresh_searcher", [False, True])
def test_pages_are_of_one_version_whatever_is_written(docs, mode, fresh_searcher):
    def write(n):
        docs.add(rows(1000 * n, 1000 * n + 5))
        docs.delete(f"id = 'd{50 + n}'")
        if n == 2:
            docs.optimize()

    def by_another(query, **asked):
        with Searcher(docs) as other:
            return other.search(query, **asked)

    with Searcher(docs) as searcher:
        ask = by_another if fresh_searcher else searcher.search
        found = pages(ask, "document number 7", between=write, mode=mode, k=16)
    assert [len(page) for page in found] == [16, 16, 16, 12]
    shown = [doc_id for page in found for doc_id in page]
    assert sorted(shown) == sorted(f"d{i}" for i in range(60))
    assert found[0][0] == "d7"


def test_pages_are_slices_of_what_one_query_ranks(docs):
    whole = search(docs, "document number 7", k=60, candidates=60)["id"].to_pylist()
    shown = pages(lambda q, **a: search(docs, q, **a), "document number 7", k=7, candidates=60)
    assert [doc_id for page in shown for doc_id in page][:1] == whole[:1]
    assert sorted(doc_id for page in shown for doc_id in page) == sorted(whole)


def test_filters_and_bounds_hold_on_every_page(docs):
    found = pages(
        lambda q, **a: search(docs, q, **a), "document", k=6, where="`group` = 1", mode="fts"
    )
    assert [len(page) for page in found] == [6, 6, 6, 2]
    assert {int(i[1:]) % 3 for page in found for i in page} == {1}


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_reranked_pages(docs, mode):
    asked = {"k": 16, "mode": mode, "reranker": RRFReranker(), "candidates": 60}
    if mode == "vector":
        from tests.search.test_rerank import ShortestFirst

        asked["reranker"] = ShortestFirst()
    found = pages(lambda q, **a: search(docs, q, **a), "document number 7", **asked)
    assert [len(page) for page in found] == [16, 16, 16, 12]
    assert len({doc_id for page in found for doc_id in page}) == 60


def test_the_last_page_and_what_lies_behind_it(docs):
    first = search(docs, "document", k=60, mode="fts", options=SearchOptions(page="first"))
    assert SearchInfo.of(first).next_page is None
    assert SearchInfo.of(first).version == docs.version
    token = str(PageToken.parse(token_of(docs, k=59)).next(500))
    behind = search(docs, "document", k=5, mode="fts", options=SearchOptions(page=token))
    assert behind.num_rows == 0
    assert SearchInfo.of(behind).next_page is None
    none = search(docs, "zebra", mode="fts", where="id = 'no'", options=SearchOptions(page="first"))
    assert none.num_rows == 0


def token_of(docs, query="document", *, k=5, mode="fts", **asked):
    found = search(docs, query, k=k, mode=mode, options=SearchOptions(page="first"), **asked)
    return SearchInfo.of(found).next_page


def test_select_and_k_may_differ_between_pages(docs):
    token = token_of(docs)
    found = search(
        docs, "document", k=9, mode="fts", select=["id"], options=SearchOptions(page=token)
    )
    assert found.column_names == ["id", "_score"]
    assert found.num_rows == 9


@pytest.mark.parametrize(
    "asked",
    [
        {"query": "number"},
        {"mode": "vector"},
        {"where": "id <> 'd1'"},
        {"text_columns": ["text"]},
        {"prefilter": False},
        {"reranker": RRFReranker(), "mode": "hybrid"},
        {"options": SearchOptions(match=TextMatch("all"))},
        {"options": SearchOptions(min_score=0.1)},
    ],
)
def test_a_token_is_of_one_query(docs, asked):
    from dataclasses import replace

    token = token_of(docs)
    asked = {"query": "document", "mode": "fts", "options": SearchOptions(), **asked}
    asked["options"] = replace(asked["options"], page=token)
    with pytest.raises(QueryError, match="another query"):
        search(docs, asked.pop("query"), k=5, **asked)


def packed(document):
    return base64.urlsafe_b64encode(json.dumps(document).encode()).decode().rstrip("=")


@pytest.mark.parametrize(
    "page",
    [
        "",
        "second",
        "FIRST",
        "x" * 10_000,
        "%%%",
        "字",
        "\x00",
        "\ud800",
        packed("first"),
        packed([1, 2, 3]),
        packed([1, -1, 5, "q"]),
        packed([0, 0, 5, "q"]),
        packed([1, 0, 10**9, "q"]),
        packed([True, 0, 5, "q"]),
        packed([1.5, 0, 5, "q"]),
        packed([1, 10**30, 5, "q"]),
        packed([1, 0, 5, None]),
        packed({"version": 1}),
        packed([[[[]]]] * 4),
    ],
)
def test_what_is_no_token(docs, page):
    with pytest.raises(QueryError, match="page is"):
        search(docs, "document", mode="fts", options=SearchOptions(page=page))


def test_a_version_that_was_cleaned_up(docs):
    token = token_of(docs)
    docs.add(rows(100, 110))
    time.sleep(0.01)
    docs.optimize(cleanup_older_than=timedelta(milliseconds=1))
    with Searcher(docs) as other:
        with pytest.raises(PageExpiredError, match="page='first'") as caught:
            other.search("document", k=5, mode="fts", options=SearchOptions(page=token))
        assert caught.value.version == PageToken.parse(token).version
        assert other.search("document", k=5, mode="fts").num_rows == 5


def test_a_version_that_never_was(docs):
    found = PageToken.parse(token_of(docs))
    token = str(PageToken(10**6, found.offset, found.depth, found.query))
    with pytest.raises(PageExpiredError):
        search(docs, "document", mode="fts", options=SearchOptions(page=token))


def test_equal_scores_come_in_one_order():
    ids, scores = [5, 3, 9, 1, 7], [2.0, 1.0, 1.0, 1.0, 0.5]
    fetched = []

    def fetch(depth):
        fetched.append(depth)
        order = [0, 2, 1, 3, 4][:depth]  # which of the equal ones come first is chance
        return pa.table(
            {
                "_score": pa.array([scores[i] for i in order], pa.float32()),
                "_rowid": pa.array([ids[i] for i in order], pa.uint64()),
            }
        )

    found = ordered_hits(fetch, 2, "_score", n_rows=5)
    assert found["_rowid"].to_pylist() == [5, 1]
    assert fetched == [3, 5]
    fetched.clear()
    assert ordered_hits(fetch, 4, "_score", n_rows=5)["_rowid"].to_pylist() == [5, 1, 3, 9]
    assert fetched == [5]


def test_the_last_rankings_are_kept():
    rankings = Rankings(capacity=2)
    for key in "abc":
        rankings.put((key,), pa.table({"x": [key]}))
        assert rankings.get(("a",)) is not None or key == "c"
    assert rankings.get(("b",)) is None
    assert rankings.get(("a",)) is not None
