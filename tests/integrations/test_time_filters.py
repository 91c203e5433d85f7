"""Filters by time, as each framework writes them, over columns of every type of time."""

import datetime as dt
from zoneinfo import ZoneInfo

import lancedb
import pandas as pd
import pyarrow as pa
import pytest
from lancedb.index import FTS
from llama_index.core.vector_stores.types import (
    FilterCondition,
    FilterOperator,
    MetadataFilter,
    MetadataFilters,
)

from lancedb_ft.errors import FilterError, InputError
from lancedb_ft.integrations.filters import comparison
from lancedb_ft.integrations.haystack import LancedbFtRetriever as HaystackRetriever
from lancedb_ft.integrations.llama_index import LancedbFtRetriever as LlamaIndexRetriever

N_ROWS = 30
START = dt.datetime(2026, 1, 1, tzinfo=dt.timezone.utc)
CUT = START + dt.timedelta(hours=10)
TIMES = {
    "naive": pa.timestamp("us"),
    "utc": pa.timestamp("us", tz="UTC"),
    "new_york": pa.timestamp("us", tz="America/New_York"),
    "kolkata": pa.timestamp("ms", tz="Asia/Kolkata"),
    "offset": pa.timestamp("us", tz="+05:30"),
    "ns": pa.timestamp("ns", tz="America/New_York"),
    "seconds": pa.timestamp("s", tz="America/New_York"),
}
HOURLY = pa.array([START + dt.timedelta(hours=i) for i in range(N_ROWS)], pa.timestamp("us", "UTC"))
DAYS = [(START + dt.timedelta(days=i)).date() for i in range(N_ROWS)]


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """Thirty rows, an hour apart, and in `day` and `day64` a day; the last has no times."""
    known = pa.array([i < N_ROWS - 1 for i in range(N_ROWS)])
    columns = {
        "id": [f"d{i}" for i in range(N_ROWS)],
        "text": ["document"] * N_ROWS,
        "number": list(range(N_ROWS)),
        "day": pa.array([*DAYS[:-1], None], pa.date32()),
        "day64": pa.array([*DAYS[:-1], None], pa.date64()),
        "moments": pa.array([[each] for each in HOURLY.to_pylist()], pa.list_(TIMES["new_york"])),
        "iso": [each.isoformat() for each in HOURLY.to_pylist()],
    }
    for name, kind in TIMES.items():
        columns[name] = pa.compute.if_else(known, HOURLY, None).cast(kind)
    table = lancedb.connect(tmp_path_factory.mktemp("log")).create_table("log", pa.table(columns))
    table.create_index("text", config=FTS())
    return table


def by_haystack(log, field, operator, value):
    condition = {"field": f"meta.{field}", "operator": operator, "value": value}
    retriever = HaystackRetriever(str(log._conn.uri), "log", mode="fts", top_k=99)
    return numbers([doc.id for doc in retriever.run("document", condition)["documents"]])


def by_llama_index(log, *filters, condition=FilterCondition.AND):
    given = MetadataFilters(filters=list(filters), condition=condition)
    retriever = LlamaIndexRetriever(log, mode="fts", similarity_top_k=99, filters=given)
    return numbers([node.node_id for node in retriever.retrieve("document")])


def numbers(ids):
    return sorted(int(each[1:]) for each in ids)


def rows(first, last=N_ROWS - 2):
    return list(range(first, last + 1))


#: The same moment, as people write it.
WRITTEN = [
    CUT,
    CUT.replace(tzinfo=None),
    CUT.astimezone(dt.timezone(dt.timedelta(hours=5))),
    CUT.astimezone(ZoneInfo("America/New_York")),
    pd.Timestamp(CUT),
    "2026-01-01T10:00:00",
    "2026-01-01 10:00",
    "2026-01-01T10:00:00Z",
    "2026-01-01t10:00:00.000000000z",
    "2026-01-01T05:00:00-05:00",
    "2026-01-01T15:30:00.000+0530",
    "2026-01-01T11:00+01",
]


@pytest.mark.parametrize("value", WRITTEN, ids=str)
@pytest.mark.parametrize("field", TIMES)
def test_one_moment_in_every_zone(log, field, value):
    assert by_haystack(log, field, ">=", value) == rows(10)


@pytest.mark.parametrize("field", TIMES)
def test_all_operators(log, field):
    text = "2026-01-01T10:00:00Z"
    assert by_haystack(log, field, ">", text) == rows(11)
    assert by_haystack(log, field, "<", text) == rows(0, 9)
    assert by_haystack(log, field, "<=", text) == rows(0, 10)
    assert by_haystack(log, field, "==", text) == [10]
    assert by_haystack(log, field, "!=", CUT) == [*rows(0, 9), *rows(11, N_ROWS - 1)]
    assert by_haystack(log, field, "in", [text, START]) == [0, 10]
    assert by_haystack(log, field, "not in", [text, "2026-01-01"]) == [
        *rows(1, 9),
        *rows(11, N_ROWS - 1),
    ]
    assert by_haystack(log, field, "==", None) == [N_ROWS - 1]
    assert by_haystack(log, field, "!=", None) == rows(0)


@pytest.mark.parametrize("field", TIMES)
def test_what_lies_between_two_values(log, field):
    """Lance would round it to the unit of the column, and take the row before."""
    for late in ("2026-01-01T10:00:00.000000001", "2026-01-01T10:00:00,5Z"):
        assert by_haystack(log, field, ">=", late) == rows(11)
        assert by_haystack(log, field, ">", late) == rows(11)
        assert by_haystack(log, field, "<", late) == rows(0, 10)
        assert by_haystack(log, field, "<=", late) == rows(0, 10)
        assert by_haystack(log, field, "==", late) == []
        assert by_haystack(log, field, "in", [late]) == []
        assert by_haystack(log, field, "in", [late, CUT]) == [10]
        assert by_haystack(log, field, "not in", [late, CUT]) == [
            *rows(0, 9),
            *rows(11, N_ROWS - 1),
        ]
        assert len(by_haystack(log, field, "!=", late)) == N_ROWS


@pytest.mark.parametrize("field", [*TIMES, "day", "day64"])
def test_the_ends_of_time(log, field):
    for ever in ("9999-12-31", "9999-12-31T23:59:59.999999-23:59", dt.datetime.max):
        assert by_haystack(log, field, "<", ever) == rows(0)
        assert by_haystack(log, field, ">=", ever) == []
    for never in ("0001-01-01T00:00:00+23:59", dt.date.min):
        assert by_haystack(log, field, ">=", never) == rows(0)
        assert by_haystack(log, field, "<", never) == []


@pytest.mark.parametrize("value", ["2026-01-15", dt.date(2026, 1, 15), "2026-01-15T00:00:00Z"])
@pytest.mark.parametrize("field", ["day", "day64"])
def test_days(log, field, value):
    assert by_haystack(log, field, ">=", value) == rows(14)
    assert by_haystack(log, field, "<", value) == rows(0, 13)
    assert by_haystack(log, field, "==", value) == [14]
    assert by_haystack(log, field, "in", [value, "2026-01-01"]) == [0, 14]
    assert by_haystack(log, field, "!=", value) == [*rows(0, 13), *rows(15, N_ROWS - 1)]


@pytest.mark.parametrize("field", ["day", "day64"])
def test_a_moment_within_a_day(log, field):
    noon = "2026-01-15T12:00:00"
    assert by_haystack(log, field, ">=", noon) == rows(15)
    assert by_haystack(log, field, "<=", noon) == rows(0, 14)
    assert by_haystack(log, field, "==", noon) == []


@pytest.mark.parametrize("field", TIMES)
def test_llama_index_writes_times_as_text(log, field):
    def at(operator, value):
        return MetadataFilter(key=field, operator=operator, value=value)

    since = at(FilterOperator.GTE, "2026-01-01T10:00:00Z")
    until = at(FilterOperator.LT, "2026-01-01T15:00:00-05:00")
    assert by_llama_index(log, since) == rows(10)
    assert by_llama_index(log, since, until) == rows(10, 19)
    # "not" takes the row without a time, too.
    outside = by_llama_index(log, since, until, condition=FilterCondition.NOT)
    assert outside == [*rows(0, 9), *rows(20, N_ROWS - 1)]
    some = at(FilterOperator.IN, ["2026-01-01", "2026-01-01T10:00:00"])
    assert by_llama_index(log, some) == [0, 10]


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        (FilterOperator.CONTAINS, "2026-01-01T10:00:00Z", [10]),
        (FilterOperator.CONTAINS, "2026-01-01T10:00:00.0000001Z", []),
        (FilterOperator.ANY, ["2026-01-01", "2026-01-01T05:00:00-05:00"], [0, 10]),
        (FilterOperator.ANY, ["2026-01-01", "2026-01-01T10:00:00.0000001Z"], [0]),
        (FilterOperator.ALL, ["2026-01-01T10:00:00Z"], [10]),
        (FilterOperator.ALL, ["2026-01-01T10:00:00Z", "2026-01-01T10:00:00.0000001Z"], []),
    ],
)
def test_lists_of_times(log, operator, value, expected):
    asked = MetadataFilter(key="moments", operator=operator, value=value)
    assert by_llama_index(log, asked) == expected


@pytest.mark.parametrize(
    "value",
    [
        "last week",
        "",
        "2026-02-30",
        "2026-01-01T24:30",
        "2026-01-01T10:00+99:00",
        "2026-01-01' OR 'a' = 'a",
        "1767261600",
        "\ud800",
        "\u0662026-01-01",
        1767261600,
        1.5,
        True,
        pd.NaT,
        {"a": 1},
    ],
)
@pytest.mark.parametrize(("field", "kind"), [("naive", r"timestamp\[us\]"), ("day", "date32")])
def test_what_is_no_time(log, field, kind, value):
    for operator, given in ((">=", value), ("==", value), ("!=", value), ("in", [value])):
        with pytest.raises(FilterError, match=f"'{field}' is of type {kind}"):
            by_haystack(log, field, operator, given)


def test_a_list_has_no_order_and_a_text_is_no_list(log):
    for operator, value in ((">", ["2026-01-01"]), ("in", "2026-01-01"), ("in", []), (">", None)):
        with pytest.raises(InputError):
            by_haystack(log, "utc", operator, value)


def test_text_that_looks_like_a_time_stays_text(log):
    assert by_haystack(log, "iso", "==", "2026-01-01T10:00:00+00:00") == [10]
    assert by_haystack(log, "iso", "==", "2026-01-01T10:00:00Z") == []
    schema = pa.schema([("note", pa.string())])
    assert comparison(schema, "t", "note", ">=", "2026-01-15") == "`note` >= '2026-01-15'"
