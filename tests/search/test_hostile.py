"""Malformed and hostile input: the right answer or an error of ours, at every public entry."""

import asyncio
import json
import math

import lancedb
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from lancedb_ft.errors import FilterError, InputError, LancedbFtError, QueryError
from lancedb_ft.integrations.filters import narrowed
from lancedb_ft.search import (
    Searcher,
    SearchOptions,
    TextMatch,
    explain,
    search,
    search_many,
)
from tests.search.hostile import HOSTILE, N_ROWS, PANICS, VECTORS
from tests.search.words import unit, words_table


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return words_table(lancedb.connect(str(tmp_path_factory.mktemp("hostile"))), n_rows=N_ROWS)


@pytest.fixture(scope="module")
def searcher(docs):
    with Searcher(docs) as searcher:
        yield searcher


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


def by_search_many_async(docs, searcher, query, asked):
    asked = dict(asked)
    if "vector" in asked:
        asked["vectors"] = [asked.pop("vector")]
    return asyncio.run(searcher.search_many_async([query], **asked))[0]


def by_facets(docs, searcher, query, asked):
    """The filter also chooses what facets count."""
    asked = {"options": SearchOptions(facets=["group"]), **asked}
    return searcher.search(query, **asked)


ENTRIES = [
    *(by_search, by_explain, by_searcher, by_facets),
    *(by_searcher_async, by_search_many, by_search_many_async),
]


ALL = [*HOSTILE, *VECTORS]
#: These share all checks with the others; they get every second one.
HALF = {by_facets, by_searcher_async, by_search_many, by_search_many_async}
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


@pytest.mark.parametrize(
    "asked",
    [
        *({"nprobes": value} for value in (0, -1, "x", 1.5, True, None, 10**12)),
        *({"refine_factor": value} for value in (0, -1, "x", 1.5, 10**12)),
        *({"refresh_interval_s": value} for value in ("1", -1, math.nan, math.inf, None, True)),
        *({"n_kept_vectors": value} for value in ("x", -1, None, 2.5)),
        *({"maintenance": value} for value in (True, "x", {"every_s": 1})),
    ],
    ids=str,
)
def test_what_a_searcher_cannot_be_opened_with(docs, asked):
    with pytest.raises(QueryError, match=next(iter(asked))):
        Searcher(docs, **asked)


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
    **{f"filter {sql}": (("document", "--where", sql), 2) for sql in PANICS},
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
@example(where="true) OR (true")
@example(where="id = '\\' ) OR (true OR id = ' '")
@example(where="true -- ")
def test_no_filter_shows_more_than_a_tenant_may_see(docs, searcher, where):
    """Two conditions that the integrations join hold both, whatever the second one is."""
    try:
        both = narrowed("`group` = 1", where)
        found = searcher.search("document", mode="fts", where=both, k=30)
    except InputError:
        return
    assert set(found["group"].to_pylist()) <= {1}
