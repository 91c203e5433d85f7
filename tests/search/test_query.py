import logging
from importlib import import_module

import numpy as np
import pytest

import lancedb_ft.errors
from lancedb_ft.errors import (
    ColumnNotFoundError,
    FilterError,
    NoEmbedderError,
    NoTextIndexError,
    QueryError,
    SearchError,
)
from lancedb_ft.search import Searcher, search
from lancedb_ft.search.query import MAX_WORDS, text_terms
from tests.search.words import DIMS, embedded, raw_table, rows, unit, words_table


@pytest.fixture
def docs(db):
    return words_table(db)


# --- k -------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [0, -1, True, False, "5", 2.0, None, np.float32(3)])
def test_k_must_be_a_whole_number(docs, k):
    with pytest.raises(QueryError, match="whole number"):
        search(docs, "document", k=k)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
@pytest.mark.parametrize("k", [61, 5000, 10**9, np.int64(10**12)])
def test_more_than_there_is_returns_all(docs, mode, k):
    assert search(docs, "document", k=k, mode=mode).num_rows == 60


def test_too_many_rows_are_refused(docs, monkeypatch):
    # By module: "lancedb_ft.search" as an attribute is the verb.
    monkeypatch.setattr(import_module("lancedb_ft.search.snapshot"), "MAX_K", 50)
    with pytest.raises(QueryError, match="would return 60 rows"):
        search(docs, "document", k=10**9)
    with pytest.raises(QueryError, match="would return 60 rows"):
        search(docs, "document", k=5, candidates=10**9)


# --- the query -----------------------------------------------------------------------------


@pytest.mark.parametrize("query", [None, b"document", 5, ["document"], unit("x")])
def test_a_query_is_text(docs, query):
    with pytest.raises(QueryError, match="must be text"):
        search(docs, query)


@pytest.mark.parametrize("query", ["", "   ", "\n\t", "\u3000"])
def test_a_blank_query_is_refused(docs, query):
    with pytest.raises(QueryError, match="blank"):
        search(docs, query)


def test_a_lone_surrogate_is_refused(docs):
    with pytest.raises(QueryError, match="Unicode"):
        search(docs, "document \ud800")


@pytest.mark.parametrize("query", ["!!! ... ???", "😀", "\x00", "¿", "the"])
def test_what_has_no_terms_finds_nothing_in_the_text_and_something_by_vector(docs, query):
    assert search(docs, query, mode="fts").num_rows == 0
    assert search(docs, query, mode="hybrid", k=7).num_rows == 7
    assert search(docs, query, mode="vector", k=7).num_rows == 7


@pytest.mark.parametrize(
    "query",
    [
        '"document number 7',
        "document AND (number OR 7",
        "text:document +number -7 ~2 ^3",
        "document*number?7",
        "document\\ number' 7; --",
        '{"match": {"query": "number"}} 7',
    ],
)
def test_nothing_in_a_query_is_syntax(docs, query):
    found = search(docs, query, mode="fts", k=3)["id"].to_pylist()
    assert found[0] == "d7"
    assert search(docs, query, k=3).num_rows == 3


def test_a_long_text_is_answered_quickly_by_its_first_words(docs, caplog):
    long = "document number 7 " + "number 8 zebra " * 7_000
    assert len(long) > 100_000
    with caplog.at_level(logging.INFO, "lancedb_ft.search"):
        assert search(docs, long, mode="fts", k=2)["id"].to_pylist() == ["d8", "d7"]
    assert "full-text search reads" in caplog.text
    assert search(docs, long, k=5).num_rows == 5
    assert embedded[-1] == (1, long)  # the model gets all of it


def test_what_the_full_text_leg_reads():
    assert text_terms("a short one") == "a short one"
    assert len(text_terms("x " * 1000).split()) == MAX_WORDS
    assert text_terms(" ".join(["y"] * MAX_WORDS)) == " ".join(["y"] * MAX_WORDS)
    assert len(text_terms("字" * 100_000)) == 2000


# --- the vector ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ([0.1] * (DIMS - 1), "15 dimensions"),
        ([float("nan")] * DIMS, "NaN"),
        ([float("inf")] * DIMS, "NaN or infinite"),
        ([[0.1] * DIMS] * 2, "shape"),
        ([], "shape"),
        (["a"] * DIMS, "numbers"),
        ("abc", "numbers"),
        (0.5, "shape"),
    ],
)
@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_a_vector_must_fit(docs, vector, reason, mode):
    with pytest.raises(QueryError, match=reason):
        search(docs, "document", vector=vector, mode=mode)


def test_a_vector_of_ones_own_needs_no_text(docs):
    n_embedded = len(embedded)
    found = search(docs, None, vector=unit("document number 9"), mode="vector", k=1)
    assert found["id"].to_pylist() == ["d9"]
    assert found["_distance"].to_pylist() == [pytest.approx(0, abs=1e-6)]
    hybrid = search(docs, "number 9", vector=list(unit("document number 9")), k=1)
    assert hybrid["id"].to_pylist() == ["d9"]
    assert len(embedded) == n_embedded
    with pytest.raises(QueryError, match="must be text"):
        search(docs, None, vector=unit("x"), mode="hybrid")
    with pytest.raises(QueryError, match="no use for vector"):
        search(docs, "x", vector=unit("x"), mode="fts")


def test_unknown_mode(docs):
    with pytest.raises(QueryError, match="'hybrid', 'vector', 'fts' or 'auto'"):
        search(docs, "x", mode="keyword")


# --- where ---------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
@pytest.mark.parametrize(
    ("where", "ids"),
    [
        ("id = 'd5'", ["d5"]),
        ("id = 'd5' -- and nothing else", ["d5"]),
        ("id = 'O''Brien'", []),
        ("id IN ('d5', ')', '(') /* ) it's */", ["d5"]),
        ("id = '''; DROP TABLE docs; --'", []),
        ("text LIKE '%number 41%' OR id = 'd3' AND id <> 'd3'", ["d41"]),
    ],
)
def test_where(docs, mode, where, ids):
    assert search(docs, "document", where=where, mode=mode)["id"].to_pylist() == ids


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
@pytest.mark.parametrize(
    "where",
    [
        "id = 'd5",
        "nope = 1",
        "id = 'd5'; DROP TABLE docs",
        "1=1; DROP TABLE docs",
        "id = 'd5' LIMIT 0",
        "id = 'd5' UNION SELECT 1",
        "id = 'd5')",
        "id = 'd5') OR (1 = 1",
        "(id = 'd5'",
        "SELECT 1",
        "id IN (SELECT id FROM docs)",
        "text",
        "1",
        "id = 5",
        "CAST(text AS INT) = 1",
        "_distance < 0.5",
        "-- only a comment",
        "",
        "  ",
        5,
    ],
)
def test_a_bad_where_says_why(docs, mode, where):
    with pytest.raises(FilterError) as caught:
        search(docs, "document", where=where, mode=mode)
    assert caught.value.where == str(where)
    assert caught.value.reason
    assert "/home/" not in str(caught.value)
    assert docs.count_rows() == 60


def test_filtering_before_and_after_ranking(docs):
    query = "document number 7"  # d7 is of group 1
    before = search(docs, query, where="`group` = 0", mode="vector", k=5)
    after = search(docs, query, where="`group` = 0", mode="vector", k=5, prefilter=False)
    assert before.num_rows == 5
    assert after.num_rows < 5


# --- columns -------------------------------------------------------------------------------


def test_select(docs):
    assert search(docs, "document").column_names == ["id", "text", "group", "_relevance_score"]
    assert search(docs, "document", select=["id", "id"], mode="fts").column_names == [
        "id",
        "_score",
    ]
    assert search(docs, "number", select=["vector"], mode="vector", k=1).column_names == [
        "vector",
        "_distance",
    ]
    assert search(docs, "document", select=[], k=3).column_names == ["_relevance_score"]
    with_ids = search(docs, "document", select=["_rowid", "text", "_score"], k=3)
    assert with_ids.column_names == ["text", "_rowid", "_relevance_score"]


@pytest.mark.parametrize("select", [["nope"], ["id", "Text"], ["id; DROP"], ["id AS x"]])
def test_unknown_columns(docs, select):
    with pytest.raises(ColumnNotFoundError, match="'id', 'text', 'group', 'vector'"):
        search(docs, "document", select=select)


def test_other_column_mistakes(docs):
    with pytest.raises(QueryError, match=r"list: \['id'\]"):
        search(docs, "document", select="id")
    with pytest.raises(QueryError, match="list of column names"):
        search(docs, "document", select=[1])
    with pytest.raises(ColumnNotFoundError, match="vector column"):
        search(docs, "document", column="text")
    with pytest.raises(ColumnNotFoundError):
        search(docs, "document", text_columns=["nope"])
    with pytest.raises(QueryError, match="empty"):
        search(docs, "document", text_columns=[])
    with pytest.raises(NoTextIndexError, match="'id'"):
        search(docs, "document", text_columns=["id"])


# --- tables that lack something ------------------------------------------------------------


@pytest.mark.parametrize("mode", ["hybrid", "fts"])
@pytest.mark.parametrize("n_rows", [0, 20])
def test_without_a_text_index(db, mode, n_rows):
    table = words_table(db, n_rows=n_rows, fts=False)
    with pytest.raises(NoTextIndexError, match="'text'"):
        search(table, "document", mode=mode)
    assert search(table, "document", mode="vector", k=3).num_rows == min(3, n_rows)


def test_a_text_index_built_later_is_seen(db):
    table = words_table(db, fts=False)
    with Searcher(table) as searcher:
        with pytest.raises(NoTextIndexError):
            searcher.search("document")
        from lancedb.index import FTS

        table.create_index("text", config=FTS())
        assert searcher.search("document number 3", k=1)["id"].to_pylist() == ["d3"]


@pytest.mark.parametrize("mode", ["hybrid", "vector"])
def test_raw_vectors(db, mode):
    table = raw_table(db)
    with pytest.raises(NoEmbedderError, match="'vector'"):
        search(table, "document number 4", mode=mode)
    assert search(table, "number 4", mode="fts", k=1)["id"].to_pylist() == ["d4"]
    found = search(table, "document number 4", mode=mode, embedder=unit, k=1)
    assert found["id"].to_pylist() == ["d4"]
    with Searcher(table, embedder=unit) as searcher:
        assert searcher.search("document number 4", mode=mode, k=1)["id"].to_pylist() == ["d4"]


def test_embedders_of_the_wrong_kind(db):
    table = raw_table(db)
    for embedder in ("a-model-name", 7):
        with pytest.raises(QueryError, match="embedder"):
            search(table, "document", embedder=embedder)
    with pytest.raises(QueryError, match="3 dimensions"):
        search(table, "document", embedder=lambda text: [1.0, 2.0, 3.0])
    with pytest.raises(QueryError, match="no vector"):
        search(table, "document", embedder=lambda text: None)


def test_an_alias_that_nothing_registered(db):
    from lancedb.embeddings import get_registry

    table = words_table(db)
    registry = get_registry()
    held = registry._functions.pop("search-words")
    try:
        with pytest.raises(NoEmbedderError, match=r"'search-words'.*registered") as caught:
            search(table, "document")
    finally:
        registry._functions["search-words"] = held
    assert caught.value.alias == "search-words"
    assert search(table, "document number 4", k=1)["id"].to_pylist() == ["d4"]


def test_no_vector_column(db):
    from lancedb.index import FTS

    table = db.create_table("plain", [{"id": "a", "text": "some words"}])
    table.create_index("text", config=FTS())
    assert search(table, "words", mode="fts")["id"].to_pylist() == ["a"]
    for mode in ("vector", "hybrid"):
        with pytest.raises(QueryError, match="no vector column"):
            search(table, "words", mode=mode)


def test_two_vector_columns(db):
    import pyarrow as pa
    from lancedb.index import FTS

    table = raw_table(db, fts=False)
    other = pa.FixedSizeListArray.from_arrays(
        pa.array(np.concatenate([unit(f"other {i}") for i in range(20)])), DIMS
    )
    both = db.create_table("both", table.to_arrow().append_column("second", other))
    both.create_index("text", config=FTS())
    assert search(both, "number 4", mode="fts", k=1)["id"].to_pylist() == ["d4"]
    with pytest.raises(QueryError, match=r"\['second', 'vector'\].*column="):
        search(both, "number 4", vector=unit("other 3"))
    found = search(both, None, vector=unit("other 3"), column="second", mode="vector", k=1)
    assert found["id"].to_pylist() == ["d3"]
    assert "second" not in found.column_names


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_an_empty_table(db, mode):
    table = words_table(db, n_rows=0)
    found = search(table, "document", mode=mode)
    assert found.num_rows == 0
    assert found.column_names[:3] == ["id", "text", "group"]
    assert found.column_names[-1].startswith("_")
    table.add(rows(0, 3))
    assert search(table, "document number 1", mode=mode, k=1)["id"].to_pylist() == ["d1"]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_nothing_found_has_the_columns_of_something_found(docs, mode):
    full = search(docs, "document", mode=mode)
    none = search(docs, "document", mode=mode, where="id = 'nobody'")
    assert none.num_rows == 0
    assert none.schema == full.schema


# --- what is no table ----------------------------------------------------------------------


def test_not_a_table():
    for thing in ("docs", None, 5):
        with pytest.raises(QueryError, match="Cannot search a"):
            search(thing, "document")


def test_in_memory():
    import lancedb

    table = lancedb.connect("memory://").create_table("docs", [{"id": "a", "text": "b"}])
    with pytest.raises(QueryError, match="in memory only"):
        search(table, "b", mode="fts")


def test_every_error_is_ours(docs):
    for error in (QueryError, FilterError, NoTextIndexError, NoEmbedderError, SearchError):
        assert issubclass(error, lancedb_ft.errors.LancedbFtError)
