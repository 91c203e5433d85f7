"""Malformed and hostile input: the right answer or an error of ours, at every public entry."""

import asyncio
import json
import math

import lancedb
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lancedb_ft.errors import (
    ColumnNotFoundError,
    FilterError,
    InputError,
    LancedbFtError,
    NoTextIndexError,
    QueryError,
)
from lancedb_ft.search import (
    Searcher,
    SearchOptions,
    TextMatch,
    explain,
    search,
    search_many,
)
from tests.search.words import DIMS, unit, words_table

N_ROWS = 30


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return words_table(lancedb.connect(str(tmp_path_factory.mktemp("hostile"))), n_rows=N_ROWS)


@pytest.fixture(scope="module")
def searcher(docs):
    with Searcher(docs) as searcher:
        yield searcher


NAN = [math.nan] * DIMS
#: What is asked, and the error it gives or how many rows.
HOSTILE = {
    "query of another type": ({"query": b"document"}, QueryError),
    "query is a list": ({"query": ["document"]}, QueryError),
    "query is a number": ({"query": 7.5}, QueryError),
    "query is blank": ({"query": " \t\u2028\u3000"}, QueryError),
    "query is half a surrogate pair": ({"query": "x\udfff"}, QueryError),
    "query of NUL and control characters": ({"query": "\x00\x01document\x7f"}, N_ROWS),
    "query of right-to-left marks and joiners": ({"query": "\u202edocument\u200d"}, 10),
    "query of 2,000 combining marks": ({"query": "e" + "\u0301" * 2_000}, 10),
    "query of 300,000 characters": ({"query": "document " * 33_334}, 10),
    "query in the syntax of full-text engines": ({"query": '+"document" -(number) ~2^9 *:*'}, 10),
    "query in JSON of full-text queries": ({"query": '{"match_all": {"boost": 1}} document'}, 10),
    "query with SQL": ({"query": "document'; DROP TABLE docs; --"}, 10),
    "k is 0": ({"k": 0}, QueryError),
    "k is negative": ({"k": -1}, QueryError),
    "k is 10^9": ({"k": 10**9}, N_ROWS),
    "k is 10^30": ({"k": 10**30}, N_ROWS),
    "k is a float": ({"k": 5.0}, QueryError),
    "k is a boolean": ({"k": True}, QueryError),
    "candidates are text": ({"candidates": "50"}, QueryError),
    "mode that is none": ({"mode": "HYBRID"}, QueryError),
    "mode of another type": ({"mode": ["fts"]}, QueryError),
    "filter with two statements": ({"where": "id = 'd1'; DELETE FROM docs"}, FilterError),
    "filter that closes our parenthesis": ({"where": "id = 'd1') OR (1 = 1"}, FilterError),
    "filter that is always true by a comment": ({"where": "id = 'd1' --' AND id = 'x'"}, 1),
    "filter on a column that is not there": ({"where": "password = 'x'"}, FilterError),
    "filter that is no condition": ({"where": "id || text"}, FilterError),
    "filter with a subquery": ({"where": "id IN (SELECT id FROM docs)"}, FilterError),
    "filter nested 200 times": ({"where": "(" * 200 + "id = 'd1'" + ")" * 200}, FilterError),
    "filter half a surrogate pair": ({"where": "id = '\ud83d'"}, FilterError),
    "filter with NUL": ({"where": "id = 'd1\x00'"}, 0),
    "filter of another type": ({"where": {"id": "d1"}}, FilterError),
    "filter that divides by zero": ({"where": "1 / (`group` - `group`) = 1"}, FilterError),
    "columns that are not there": ({"select": ["id", "nope"]}, ColumnNotFoundError),
    "columns as one text": ({"select": "id"}, QueryError),
    "columns as expressions": ({"select": ["upper(id)"]}, ColumnNotFoundError),
    "columns of other types": ({"select": [None, 3]}, QueryError),
    "columns are no list": ({"select": 3}, QueryError),
    "column is half a surrogate pair": ({"select": ["\ud800"]}, ColumnNotFoundError),
    "vector column that is text": ({"column": "text"}, ColumnNotFoundError),
    "vector column of another type": ({"column": ["vector"]}, QueryError),
    "text column without an index": ({"text_columns": ["id"]}, NoTextIndexError),
    "text columns are empty": ({"text_columns": []}, QueryError),
    "boost is NaN": ({"text_columns": {"text": math.nan}}, QueryError),
    "boost is 10^30": ({"text_columns": {"text": 1e30}}, QueryError),
    "reranker is a name": ({"reranker": "cohere"}, QueryError),
    "reranker is a class": ({"reranker": dict}, QueryError),
    "embedder is a name": ({"embedder": "ft-embed"}, QueryError),
    "embedder gives NaN": ({"embedder": lambda text: NAN}, QueryError),
    "embedder gives another length": ({"embedder": lambda text: [1.0]}, QueryError),
    "options are a dict": ({"options": {"page": "first"}}, QueryError),
    "page is forged": ({"options": SearchOptions(page="WzEsMCw1LCJ4Il0")}, QueryError),
    "facet that is not there": ({"options": SearchOptions(facets=["n"])}, ColumnNotFoundError),
    "phrase without positions": (
        {"options": SearchOptions(match=TextMatch("phrase"))},
        LancedbFtError,
    ),
    "bound that nothing meets": ({"options": SearchOptions(min_score=1e300)}, 0),
    "negative distance": ({"options": SearchOptions(max_distance=-1e300)}, 10),
}
VECTORS = {
    "vector of NaN": ({"vector": NAN}, QueryError),
    "vector of infinity": ({"vector": [math.inf] * DIMS}, QueryError),
    "vector beyond float32": ({"vector": [1e300] * DIMS}, QueryError),
    "vector of another length": ({"vector": [0.5] * 7}, QueryError),
    "vector of two rows": ({"vector": [[0.5] * DIMS] * 2}, QueryError),
    "vector of text": ({"vector": ["a"] * DIMS}, QueryError),
    "vector of objects": ({"vector": [object()] * DIMS}, QueryError),
    "vector of complex numbers": ({"vector": np.full(DIMS, 1j)}, QueryError),
    "vector is empty": ({"vector": []}, QueryError),
    "vector of zeros": ({"vector": [0.0] * DIMS}, 10),
    "vector of the largest floats": ({"vector": [3e38] * DIMS}, 10),
}


def by_search(docs, searcher, query, asked):
    return search(docs, query, **asked)


def by_explain(docs, searcher, query, asked):
    told = explain(docs, query, **asked)
    assert len(told.rows) == told.results.num_rows
    assert json.dumps(told.to_dict())
    assert str(told)
    return told.results


def by_searcher(docs, searcher, query, asked):
    return searcher.search(query, **asked)


def by_searcher_async(docs, searcher, query, asked):
    return asyncio.run(searcher.search_async(query, **asked))


def by_search_many(docs, searcher, query, asked):
    asked = dict(asked)
    if "vector" in asked:
        asked["vectors"] = [asked.pop("vector")]
    return search_many(docs, [query], **asked)[0]


ENTRIES = [by_search, by_explain, by_searcher, by_searcher_async, by_search_many]


ALL = [*HOSTILE, *VECTORS]
#: These share all checks with the others; they get every second one.
HALF = {by_searcher_async, by_search_many}
CASES = [(ask, name) for ask in ENTRIES for name in (ALL[::2] if ask in HALF else ALL)]


@pytest.mark.parametrize(
    ("ask", "name"), CASES, ids=[f"{ask.__name__}-{name}" for ask, name in CASES]
)
def test_the_right_answer_or_an_error_of_ours(docs, searcher, ask, name):
    given, expected = {**HOSTILE, **VECTORS}[name]
    given = dict(given)
    query = given.pop("query", "document")
    if isinstance(expected, int):
        found = ask(docs, searcher, query, given)
        assert found.num_rows == min(expected, given.get("k", 10))
    else:
        with pytest.raises(expected) as caught:
            ask(docs, searcher, query, given)
        assert isinstance(caught.value, LancedbFtError)
        assert len(str(caught.value)) < 2_000
    assert docs.count_rows() == N_ROWS


@pytest.mark.parametrize("table", [None, "docs", 5, b"x", [], {}, object(), type, math.nan])
@pytest.mark.parametrize("verb", [search, explain, Searcher], ids=lambda verb: verb.__name__)
def test_what_is_no_table(verb, table):
    with pytest.raises(QueryError, match="Cannot search"):
        verb(table) if verb is Searcher else verb(table, "x")


# --- the command line ----------------------------------------------------------------------

COMMANDS = {
    "blank query": ((" ",), 2),
    "query of 100,000 characters": (("document " * 11_000,), 0),
    "query of control characters": (("document\x01\x7f",), 0),
    "query like an option": (("--", "--document"), 0),
    "query in full-text syntax": (('+"document" AND (',), 0),
    "query with bytes that are no UTF-8": (("document \udcff",), 2),
    "k is 0": (("document", "-k", "0"), 2),
    "k is negative": (("document", "-k", "-1"), 2),
    "k is 10^9": (("document", "-k", "1000000000"), 0),
    "k is text": (("document", "-k", "many"), 2),
    "mode that is none": (("document", "--mode", "all"), 2),
    "two statements": (("document", "--where", "id = 'd1'; DROP TABLE docs"), 2),
    "unbalanced filter": (("document", "--where", "(id = 'd1'"), 2),
    "blank filter": (("document", "--where", ""), 2),
    "unknown column in a filter": (("document", "--where", "nope = 1"), 2),
    "unknown column": (("document", "--select", "id,nope"), 2),
    "empty column names": (("document", "--select", ",,"), 2),
    "facet of vectors": (("document", "--facets", "vector"), 2),
    "facet that is not there": (("document", "--facets", "nope"), 2),
    "forged page": (("document", "--page", "x"), 2),
    "bound is NaN": (("document", "--min-score", "nan"), 2),
    "distance is infinite": (("document", "--max-distance", "inf"), 2),
    "no time": (("document", "--budget-ms", "0"), 2),
    "boost without a number": (("document", "--boost", "text=much"), 2),
    "boost of nothing": (("document", "--boost", "=2"), 2),
    "boost is negative": (("document", "--boost", "text=-2"), 2),
    "fuzzy phrase": (("document", "--match", "phrase", "--fuzzy", "1"), 2),
    "slop below 0": (("document", "--match", "phrase", "--slop", "-1"), 2),
    "phrase without positions": (("document", "--match", "phrase"), 1),
    "reranker that is not there": (("document", "--reranker", "no@1"), 1),
    "markup in the query": (("[/red][link=x]document",), 0),
}


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("name", COMMANDS)
def test_the_command_ends_with_a_code_and_a_word(run, docs, tmp_path, name, as_json):
    words, expected = COMMANDS[name]
    place = str(docs.uri).rsplit("/", 1)[0]
    options = ["--db", place, "--table", "docs", "--store", tmp_path]
    code, out, err = run("search", *options, *(["--json"] if as_json else []), *words)
    assert code == expected, err
    assert "Traceback" not in err
    if code and not as_json:
        assert err
    if as_json and code == 0:
        assert json.loads(out)["n"] == (N_ROWS if "1000000000" in words else 10)
    elif as_json and out:
        assert json.loads(out)["error"].endswith("Error")


# --- any text ------------------------------------------------------------------------------

#: Text that looks like a query, a filter or neither, half surrogate pairs included.
PIECES = st.sampled_from(
    [
        *("document", "number", "7", "'", '"', "(", ")", "--", "/*", "*/", ";", " OR ", " AND "),
        *("=", "id", "text", "`group`", " IN ", "NULL", " LIKE ", "%", "\\", "\n", "\x00", "字"),
        *("\ud800", "'d1'", "1", " < ", " IS NOT ", "::", "$1", "?", "CAST(", "SELECT ", "{", "["),
    ]
)
TEXT = st.one_of(
    st.text(st.characters(codec=None), max_size=60),
    st.lists(PIECES, max_size=12).map("".join),
)
QUICK = settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@QUICK
@given(query=TEXT, mode=st.sampled_from(["hybrid", "fts", "vector"]))
def test_any_query_is_answered_or_refused_by_name(docs, searcher, query, mode):
    try:
        found = searcher.search(query, mode=mode, k=N_ROWS)
    except QueryError:
        assert not query.strip() or query.encode("utf-8", "ignore").decode() != query
        return
    assert found.num_rows == N_ROWS or mode == "fts"
    assert len(set(found["id"].to_pylist())) == found.num_rows


@QUICK
@given(query=TEXT, words=st.sampled_from(["any", "all"]), fuzziness=st.sampled_from([0, 2, "auto"]))
def test_any_query_is_matched_however_it_is_asked(docs, searcher, query, words, fuzziness):
    options = SearchOptions(match=TextMatch(words, fuzziness=fuzziness), facets=["group"])
    try:
        found = searcher.search(query, mode="fts", k=N_ROWS, options=options)
    except QueryError:
        return
    assert found.num_rows <= N_ROWS


@QUICK
@given(where=TEXT, mode=st.sampled_from(["hybrid", "fts", "vector"]))
def test_any_filter_keeps_its_rows_or_is_refused_by_name(docs, searcher, where, mode):
    try:
        found = searcher.search(
            "document", mode=mode, where=where, k=N_ROWS, vector=vector_of(mode)
        )
    except FilterError:
        return
    kept = docs.to_lance().to_table(columns=["id"], filter=where)["id"].to_pylist()
    assert sorted(found["id"].to_pylist()) == sorted(kept)


def vector_of(mode):
    return None if mode == "fts" else unit("document")


@QUICK
@given(where=TEXT)
def test_no_filter_shows_more_than_a_tenant_may_see(docs, searcher, where):
    """A filter that a caller joins with AND in parentheses holds whatever the other part is."""
    try:
        found = searcher.search(
            "document", mode="fts", where=f"(`group` = 1) AND ({where}\n)", k=30
        )
    except InputError:
        return
    assert set(found["group"].to_pylist()) <= {1}
