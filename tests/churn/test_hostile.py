"""Malformed and hostile input of what keeps a table fresh: the right answer or an error of ours."""

import math
from datetime import datetime

import lance
import lancedb
import pandas as pd
import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.churn import settle_watch
from lancedb_ft.errors import (
    ColumnNotFoundError,
    FilterError,
    InputError,
    LancedbFtError,
    QueryError,
)
from lancedb_ft.search.maintain import maintain_watch
from tests.search.words import DIMS, raw_table, unit, words_table

N_ROWS = 30
NEW = {"id": "new", "text": "brand new"}
NO_TABLES = [None, "docs", 5, b"x", [], {}, object(), math.nan, lance.LanceDataset]


def table_of(db):
    table = words_table(db, n_rows=N_ROWS)
    table.add_columns([pa.field("at", pa.timestamp("us")), pa.field("small", pa.int32())])
    table.update(values={"small": 7})
    return table


@pytest.fixture
def docs(db):
    return table_of(db)


@pytest.fixture(scope="module")
def still(tmp_path_factory):
    """A table that no test changes."""
    return table_of(lancedb.connect(str(tmp_path_factory.mktemp("still"))))


@pytest.fixture
def raw(db):
    return raw_table(db)


def is_of_ours(error):
    assert isinstance(error, LancedbFtError)
    assert 0 < len(str(error)) < 2_000


# --- write ---------------------------------------------------------------------------------

#: Rows and options, and the error or how many rows are new.
WRITES = {
    "nothing": (None, {}, InputError),
    "a number": (5, {}, InputError),
    "text": ("id", {}, InputError),
    "one row": (NEW, {}, InputError),
    "rows that are none": ([1, 2], {}, InputError),
    "rows of different columns": ([NEW, {"id": "b"}], {}, InputError),
    "a row without its key": ([{"text": "x"}], {}, ColumnNotFoundError),
    "null as a key": ([{"id": None}], {}, InputError),
    "a key twice": ([NEW, NEW], {}, InputError),
    "a column twice": (pa.table([["a"], ["b"]], names=["id", "id"]), {}, InputError),
    "a column that is not there": ([NEW | {"nope": 1}], {}, ColumnNotFoundError),
    "a column called 5": ([NEW | {5: 1}], {}, ColumnNotFoundError),
    "a column of vectors that a model makes": ([NEW | {"vector": [0.0] * DIMS}], {}, InputError),
    "a number as text": ([{"id": "a", "text": 7}], {}, InputError),
    "text as a number": ([NEW | {"group": "7"}], {}, InputError),
    "a number of 70 bits": ([NEW | {"group": 2**70}], {}, InputError),
    "half a surrogate pair": ([{"id": "a", "text": "\ud800"}], {}, InputError),
    "half a surrogate pair as a key": ([{"id": "\udfff"}], {}, InputError),
    "a frame of mixed types": (pd.DataFrame({"id": ["a", 1]}), {}, InputError),
    "a frame of categories": (pd.DataFrame({"id": pd.Categorical(["a", "b"])}), {}, 2),
    "a frame of integers as keys": (pd.DataFrame({"id": [1, 2]}), {}, InputError),
    "no rows": ([], {}, 0),
    "an empty table": (pa.table({"id": pa.array([], pa.string())}), {}, 0),
    "a generator": ((row for row in [NEW]), {}, 1),
    "a reader": (pa.table({"id": ["a"]}).to_reader(), {}, 1),
    "keys that look like SQL": ([{"id": "x' OR '1'='1"}, {"id": "--"}, {"id": "`"}], {}, 3),
    "NUL, joiners and marks": ([{"id": "a\x00\u202e\u200d", "text": "\x00e\u0301"}], {}, 1),
    "a text of a million characters": ([{"id": "a", "text": "word " * 200_000}], {}, 1),
    "a blank text": ([{"id": "a", "text": "\u3000 \n"}], {"embed": "now"}, 1),
    "another way to embed": ([NEW], {"embed": ["now"]}, InputError),
    "a key column that is not there": ([NEW], {"id_column": 5}, ColumnNotFoundError),
    "a key column of vectors": ([NEW], {"id_column": "vector"}, ColumnNotFoundError),
    "a key column of nulls": ([{"small": 1} | NEW], {"id_column": "at"}, ColumnNotFoundError),
    "a vector column that is none": ([NEW], {"vector_column": 5}, InputError),
    "ids to delete that are one text": ([NEW], {"delete": "d1"}, InputError),
    "ids to delete that are a number": ([NEW], {"delete": 5}, InputError),
    "ids to delete of another type": ([NEW], {"delete": [1.5]}, InputError),
    "null to delete": ([NEW], {"delete": [None]}, InputError),
    "written and deleted": ([NEW], {"delete": ["new"]}, InputError),
    "deletes of what is not there": ([NEW], {"delete": ["'; DROP", "\x00"]}, 1),
}
OF_VECTORS = {
    "NaN": [math.nan] * DIMS,
    "infinite": [math.inf] * DIMS,
    "beyond float32": [1e300] * DIMS,
    "with a null": [None] + [0.5] * (DIMS - 1),
    "short": [0.5] * 3,
    "text": ["a"] * DIMS,
    "nested": [[0.5]] * DIMS,
}


@pytest.mark.parametrize("name", WRITES)
def test_write(docs, name):
    rows, options, expected = WRITES[name]
    before = lance.dataset(docs.uri).version
    if isinstance(expected, int):
        assert ft.write(docs, rows, **options).n_inserted == expected
        assert docs.checkout_latest() or docs.count_rows() == N_ROWS + expected
        return
    with pytest.raises(expected) as caught:
        ft.write(docs, rows, **options)
    is_of_ours(caught.value)
    assert lance.dataset(docs.uri).version == before


@pytest.mark.parametrize("name", OF_VECTORS)
def test_write_of_vectors(raw, name):
    before = lance.dataset(raw.uri).version
    with pytest.raises(InputError) as caught:
        ft.write(raw, [NEW | {"vector": OF_VECTORS[name]}])
    is_of_ours(caught.value)
    assert lance.dataset(raw.uri).version == before


@pytest.mark.parametrize("table", NO_TABLES)
def test_what_is_no_table(table):
    quiet = ft.Tiers(where="false")
    for verb in (
        lambda: ft.write(table, []),
        lambda: ft.settle(table, quiet),
        lambda: next(settle_watch(table, quiet)),
        lambda: ft.calibrate(table, quiet),
        lambda: ft.maintain(table),
        lambda: ft.index_status(table),
    ):
        with pytest.raises(InputError, match="LanceDB database"):
            verb()


# --- policies ------------------------------------------------------------------------------

#: The arguments of a policy, and the error or how many of the 30 rows are hot. Times are null.
POLICIES = {
    "none": ({}, InputError),
    "two": ({"updated_at": "at", "where": "true"}, InputError),
    "a blank filter": ({"where": " \n"}, FilterError),
    "a filter of another type": ({"where": {"id": "d1"}}, FilterError),
    "half a surrogate pair": ({"where": "id = '\ud83d'"}, FilterError),
    "a filter that closes our parenthesis": ({"where": "false) OR (true"}, FilterError),
    "a filter without an end": ({"where": "id = 'd1"}, FilterError),
    "two statements": ({"where": "true; DROP TABLE docs"}, FilterError),
    "no expression": ({"where": "id ="}, FilterError),
    "no condition": ({"where": "id || text"}, FilterError),
    "a filter on a column that is not there": ({"where": "nope = 1"}, FilterError),
    "a filter that Lance panics at": ({"where": "id = $$a$$"}, FilterError),
    "a parameter": ({"where": "id = ?"}, FilterError),
    "a subquery": ({"where": "id IN (SELECT id FROM docs)"}, FilterError),
    "a division by zero": ({"where": "1 / (`group` - `group`) = 1"}, FilterError),
    "a comment": ({"where": "true -- AND false"}, N_ROWS),
    "NUL": ({"where": "id = 'd1\x00'"}, 0),
    "a column that is not there": ({"updated_at": "nope"}, ColumnNotFoundError),
    "a column of another type": ({"updated_at": 5}, InputError),
    "a list of columns": ({"updated_at": ["at"]}, InputError),
    "a column of text": ({"updated_at": "text"}, ColumnNotFoundError),
    "a column of vectors": ({"updated_at": "vector"}, ColumnNotFoundError),
    "a time that is none": ({"updated_at": "at", "settle": "soon"}, InputError),
    "a time below 0": ({"updated_at": "at", "settle": -1}, InputError),
    "NaN": ({"updated_at": "at", "settle": math.nan}, InputError),
    "too large a number": ({"updated_at": "at", "settle": 10**400}, InputError),
    "no time": ({"updated_at": "at", "settle": None}, InputError),
    "2,700 years": ({"updated_at": "at", "settle": "999999d"}, 0),
    "longer than time": ({"updated_at": "at", "settle": 1e300}, 0),
    "longer than 32 bits hold": ({"updated_at": "small", "settle": "999999d"}, N_ROWS),
    "row versions, longer than time": ({"row_versions": True, "settle": 1e300}, 0),
    "row versions of another type": ({"row_versions": "yes"}, InputError),
    "near of another type": ({"where": "true", "near": 2.5}, InputError),
    "a calibration that is a file": ({"where": "true", "calibration": "c.json"}, InputError),
}


@pytest.mark.parametrize("verb", ["settle", "index_status", "calibrate", "search"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy(still, name, verb):
    arguments, expected = POLICIES[name]
    before = lance.dataset(still.uri).version

    def ask():
        tiers = ft.Tiers(**arguments)
        if verb == "settle":
            return ft.settle(still, tiers).n_hot
        if verb == "index_status":
            return ft.index_status(still, tiers=tiers).n_hot
        if verb == "search":
            options = ft.SearchOptions(tiers=tiers)
            found = ft.search(still, "document", k=N_ROWS, options=options)
            return found["_tier"].to_pylist().count("hot")
        if expected == N_ROWS:
            return expected  # nothing is left to sample
        return N_ROWS - ft.calibrate(still, tiers, n=N_ROWS).n_queries

    if isinstance(expected, int):
        assert ask() == expected
    else:
        with pytest.raises(expected) as caught:
            ask()
        is_of_ours(caught.value)
    assert lance.dataset(still.uri).version == before


@pytest.mark.parametrize("tiers", ["x", 5, {}, [], "updated_at", ft.Tiers, {"updated_at": "at"}])
def test_what_is_no_policy(still, tiers):
    for verb in (ft.settle, ft.calibrate, lambda table, tiers: ft.index_status(table, tiers=tiers)):
        with pytest.raises(InputError, match="must be a Tiers"):
            verb(still, tiers)
    for verb in (ft.settle, ft.calibrate):
        with pytest.raises(InputError, match="must be a Tiers"):
            verb(still, None)


@pytest.mark.parametrize(
    "now_s",
    [math.nan, math.inf, -math.inf, "now", True, datetime(2026, 1, 1), [], 10**400],
    ids=lambda now_s: str(now_s)[:20],
)
def test_settle_at_no_time(still, now_s):
    with pytest.raises(InputError, match="now_s"):
        ft.settle(still, ft.Tiers(updated_at="at"), now_s=now_s)


@pytest.mark.parametrize("now_s", [0, -1e300, 1e300, -(10**18)])
def test_settle_at_any_time(still, now_s):
    assert ft.settle(still, ft.Tiers(updated_at="at"), now_s=now_s).n_hot == 0


@pytest.mark.parametrize("every_s", [-1, math.nan, math.inf, "soon", None, []])
def test_settle_watch_without_a_pause(still, every_s):
    with pytest.raises(InputError, match="every_s"):
        next(settle_watch(still, ft.Tiers(where="false"), every_s=every_s))


# --- calibrate -----------------------------------------------------------------------------

CALIBRATIONS = {
    "queries are text": ({"queries": "hello"}, InputError),
    "queries are bytes": ({"queries": b"hello"}, InputError),
    "queries are a number": ({"queries": 5}, InputError),
    "queries of other types": ({"queries": [1, None]}, InputError),
    "a blank query": ({"queries": ["document", " "]}, InputError),
    "half a surrogate pair": ({"queries": ["\ud800"]}, QueryError),
    "no queries": ({"queries": []}, InputError),
    "a generator": ({"queries": (q for q in ["document"])}, 1),
    "full-text syntax": ({"queries": ['+"document" AND (', "~2^9 *:*"]}, 2),
    "SQL": ({"queries": ["document'; DROP TABLE docs; --"]}, 1),
    "a query of 100,000 characters": ({"queries": ["document " * 11_000]}, 1),
    "words that are nowhere": ({"queries": ["zebra"]}, 1),
    "n is 0": ({"n": 0}, InputError),
    "n is negative": ({"n": -1}, InputError),
    "n is a float": ({"n": 1.5}, InputError),
    "n is 10^30": ({"n": 10**30}, N_ROWS),
    "depth is 0": ({"depth": 0}, InputError),
    "depth is 10^9": ({"depth": 10**9}, InputError),
    "depth is text": ({"depth": "50"}, InputError),
    "seed is negative": ({"seed": -1}, InputError),
    "seed is text": ({"seed": "0"}, InputError),
    "text column that is not there": ({"text_column": "nope"}, ColumnNotFoundError),
    "text column of vectors": ({"text_column": "vector"}, ColumnNotFoundError),
    "embedder is a name": ({"embedder": "ft-embed"}, QueryError),
    "embedder gives NaN": ({"embedder": lambda text: [math.nan] * DIMS}, QueryError),
    "embedder gives another length": ({"embedder": lambda text: [1.0]}, QueryError),
    "embedder of one's own": ({"embedder": unit, "n": 3}, 3),
}


@pytest.mark.parametrize("name", CALIBRATIONS)
def test_calibrate(still, name):
    arguments, expected = CALIBRATIONS[name]
    if isinstance(expected, int):
        found = ft.calibrate(still, ft.Tiers(where="false"), **arguments)
        assert found.n_queries == expected
        return
    with pytest.raises(expected) as caught:
        ft.calibrate(still, ft.Tiers(where="false"), **arguments)
    is_of_ours(caught.value)


# --- maintain ------------------------------------------------------------------------------

NO_NUMBERS = [None, "1", True, math.nan, -1, []]
MAINTENANCE = [
    *[
        {name: value}
        for name in ("max_unindexed", "min_rows", "max_parts", "quiet_s", "every_s")
        for value in (*NO_NUMBERS, math.inf)
    ],
    {"max_unindexed": 1.5},
    {"max_parts": 1},
    {"every_s": 0},
    {"every_s": 1e300},
    {"keep_versions": "long"},
    {"keep_versions": -1},
    {"keep_versions": math.nan},
    {"keep_versions": []},
    {"keep_versions": True},
]


@pytest.mark.parametrize("options", MAINTENANCE, ids=str)
def test_maintenance_that_is_none(options):
    with pytest.raises(InputError) as caught:
        ft.Maintenance(**options)
    is_of_ours(caught.value)


@pytest.mark.parametrize("options", ["x", 5, {}, {"quiet_s": 0}, [], ft.Maintenance])
def test_maintain_with_other_options(still, options):
    with pytest.raises(InputError, match="must be a Maintenance"):
        ft.maintain(still, options)
    with pytest.raises(InputError, match="must be a Maintenance"):
        next(maintain_watch(still, options))


@pytest.mark.parametrize("keep", ["999999999999999d", 1e300, 10**18, "0s", None])
def test_maintain_keeps_versions_however_long(docs, keep):
    options = ft.Maintenance(quiet_s=0, keep_versions=keep)
    assert bool(ft.maintain(docs, options).n_removed_versions) == (keep == "0s")


@pytest.mark.parametrize("rows", [0, 1])
def test_tables_of_hardly_any_rows(db, rows):
    table = words_table(db, n_rows=rows)
    assert ft.maintain(table, ft.Maintenance(quiet_s=0)).n_rows == rows
    assert ft.index_status(table, tiers=ft.Tiers(where="true")).n_hot == rows
    assert ft.settle(table, ft.Tiers(where="false")).n_settled == 0


@pytest.mark.parametrize("measure", [True, False])
def test_status_of_texts_that_are_no_queries(db, measure):
    texts = ["", " ", "\x00", "🙂", "(", "'", "*", '"', None, "word " * 20_000]
    table = db.create_table("odd", pa.table({"id": list(range(len(texts))), "text": texts}))
    from lancedb.index import FTS

    table.create_index("text", config=FTS())
    table.add(pa.table({"id": list(range(100, 110)), "text": texts}))
    found = ft.index_status(lancedb.connect(db.uri).open_table("odd"), measure=measure)
    assert [index.n_unindexed for index in found.indexes] == [10]
