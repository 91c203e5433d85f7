"""Pages of one ranking, while others write."""

import base64
import json
import time
from datetime import timedelta

import lance
import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.rerankers import RRFReranker

from lancedb_ft.errors import PageExpiredError, QueryError
from lancedb_ft.search import Searcher, SearchInfo, SearchOptions, TextMatch, search
from lancedb_ft.search.pages import KeptRanking, PageToken, Rankings, ordered_hits
from lancedb_ft.search.tiers import Tiers
from tests.search.test_rerank import ShortestFirst
from tests.search.words import DIMS, rows, unit, words_table

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
        packed([1, 0, 5, "q", "r", 0.0, ["vector", "fts"]]),
        packed([1, 0, 5, "q", "r", 0.0, ["rows"]]),
        packed([1, 0, 5, "q", "r", 0.0, None]),
        packed([1, 0, 5, "q", "r", 1e12, []]),
        packed([1, 0, 5, "q", "r", float("nan"), []]),
        packed([1, 0, 5, "q", "r", "now", []]),
        packed([1, 0, 5, "q", 7, 0.0, []]),
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
        rankings.put((key,), KeptRanking(pa.table({"x": [key]}), ()))
        assert rankings.get(("a",)) is not None or key == "c"
    assert rankings.get(("b",)) is None
    assert rankings.get(("a",)) is not None


# --- what is not told by the words of a query ------------------------------------------------


class ByNumber(ShortestFirst):
    """Ranks by the number in the id: the highest first with ``sign=1``. It shows no settings."""

    def __init__(self, sign, *, fails=0):
        super().__init__()
        self.sign, self.fails = sign, fails

    def _rerank(self, query, rows):
        self.fails -= 1
        if self.fails >= 0:
            time.sleep(2)
        scores = pa.array([self.sign * float(i[1:]) for i in rows["id"].to_pylist()], pa.float32())
        rows = rows.append_column("_relevance_score", scores)
        return rows.sort_by([("_relevance_score", "descending")])


def first_and_second(searcher, **asked):
    """Two pages of one query; each is asked for when the returned functions are called."""
    found = {}

    def page(number):
        name = "first" if number == 1 else SearchInfo.of(found[1]).next_page
        options = SearchOptions(
            page=name, budget_ms=asked.get("budget_ms"), tiers=asked.get("tiers")
        )
        given = {n: asked[n] for n in asked if n not in ("budget_ms", "tiers")}
        found[number] = searcher.search(
            "document number 7", select=["id"], options=options, **given
        )
        return found[number]["id"].to_pylist()

    return page


def test_users_with_rerankers_of_their_own_get_their_own_pages(docs):
    with Searcher(docs) as searcher:
        up, down = (
            first_and_second(searcher, k=5, candidates=60, reranker=ByNumber(sign))
            for sign in (1, -1)
        )
        assert (up(1), down(1)) == (
            ["d59", "d58", "d57", "d56", "d55"],
            ["d0", "d1", "d2", "d3", "d4"],
        )
        assert (up(2), down(2)) == (
            ["d54", "d53", "d52", "d51", "d50"],
            ["d5", "d6", "d7", "d8", "d9"],
        )


def test_users_with_embedders_of_their_own_get_their_own_pages(docs):
    def embed(number):
        return lambda text: unit(f"document number {number}")

    with Searcher(docs) as searcher:
        asked = [{"k": 5, "mode": "vector", "embedder": embed(number)} for number in (1, 20)]
        users = [first_and_second(searcher, **each) for each in asked]
        firsts = [user(1) for user in users]
        seconds = [user(2) for user in users]
        for first, second, each in zip(firsts, seconds, asked, strict=True):
            whole = searcher.search("document number 7", **{**each, "k": 10})
            assert first + second == whole["id"].to_pylist()


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_a_page_after_a_degraded_one_goes_on_without_what_was_late(docs, kept, mode):
    reranker = ByNumber(1, fails=1)
    asked = {"k": 30, "candidates": 60, "mode": mode, "reranker": reranker, "budget_ms": 1_000}
    with Searcher(docs) as searcher:
        searcher.search("document number 7")  # warm
        page = first_and_second(searcher, **asked)
        first = page(1)
        if not kept:
            searcher._rankings = Rankings()
        second = page(2)
    assert first[0] == "d7"
    assert sorted(first + second) == sorted(f"d{i}" for i in range(60))


def test_a_page_says_that_the_first_one_was_degraded(docs):
    with Searcher(docs) as searcher:
        searcher.search("document number 7")
        asked = {"k": 5, "select": ["id"], "reranker": ByNumber(1, fails=1)}
        options = SearchOptions(page="first", budget_ms=1_000)
        first = SearchInfo.of(searcher.search("document number 7", options=options, **asked))
        assert first.degraded == ("rerank: late",)
        options = SearchOptions(page=first.next_page)
        kept = searcher.search("document number 7", options=options, **asked)
        assert SearchInfo.of(kept).degraded == ("rerank: late",)
        searcher._rankings = Rankings()
        anew = searcher.search("document number 7", options=options, **asked)
        assert SearchInfo.of(anew).degraded == ("rerank: left out, as on the first page",)
        assert anew["id"].to_pylist() == kept["id"].to_pylist()


@pytest.mark.parametrize("mode", ["hybrid", "fts"])
def test_hot_rows_stay_hot_for_all_pages(db, mode):
    now_s = time.time()
    texts = [f"document number {i}" for i in range(40)]
    vectors = [None if i % 2 else unit(text).tolist() for i, text in enumerate(texts)]
    changed = [now_s if i % 2 else 0.0 for i in range(40)]
    rows = pa.table(
        {
            "id": [f"d{i}" for i in range(40)],
            "text": texts,
            "changed": changed,
            "vector": pa.array(vectors, pa.list_(pa.float32(), DIMS)),
        }
    )
    lance.write_dataset(rows, f"{db.uri}/hot.lance")  # LanceDB takes no rows without a vector
    docs = db.open_table("hot")
    docs.create_index("text", config=FTS())
    tiers = Tiers(updated_at="changed", settle=1.5)
    with Searcher(docs, embedder=unit) as searcher:
        options = SearchOptions(page="first", tiers=tiers)
        asked = {"k": 20, "mode": mode, "select": ["id"]}
        first = searcher.search("document number 7", options=options, **asked)
        time.sleep(max(0.0, now_s + 1.6 - time.time()))
        searcher._rankings = Rankings()  # as in another process
        options = SearchOptions(page=SearchInfo.of(first).next_page, tiers=tiers)
        second = searcher.search("document number 7", options=options, **asked)
    shown = [*first.to_pylist(), *second.to_pylist()]
    assert sorted(row["id"] for row in shown) == sorted(f"d{i}" for i in range(40))
    assert all((row["_tier"] == "hot") == (int(row["id"][1:]) % 2 == 1) for row in shown)


def test_a_page_of_another_table_is_refused(db):
    options = SearchOptions(page="first")
    first, other = words_table(db, n_rows=40), words_table(db, name="other", n_rows=40)
    token = SearchInfo.of(search(first, "document", k=5, options=options)).next_page
    again = SearchOptions(page=token)
    assert len(search(first, "document", k=5, options=again)) == 5
    with pytest.raises(QueryError, match="same table"):
        search(other, "document", k=5, options=again)
