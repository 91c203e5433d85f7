"""Times of change of every type: the SQL of `settle` and the labels of `search` say the same."""

import math
import time
from datetime import datetime, timezone

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from lancedb_ft.errors import ColumnNotFoundError
from lancedb_ft.search import Searcher
from lancedb_ft.search.index_status import index_status
from tests.search.words import DIMS, unit
from tests.tiny import tiny_model

HOUR = 3600
UNITS_PER_SECOND = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
TIERS = ft.Tiers(updated_at="at", settle="6h")
ZONES = [None, "UTC", "America/New_York", "Asia/Kolkata", "+05:30"]
#: In New York the clock was turned back at 6:00 UTC, and 1:30 was there twice.
AUTUMN_S = int(datetime(2025, 11, 2, 6, 30, tzinfo=timezone.utc).timestamp())


def of_times(db, kind, counts):
    """Rows without a vector, as writing them defers it, changed at these counts of the unit."""
    ids = [f"d{i}" for i in range(len(counts))]
    columns = {
        "id": ids,
        "text": [f"document number {i}" for i in range(len(counts))],
        "at": pa.array(counts, pa.int64()).cast(kind),
        "vector": pa.nulls(len(counts), pa.list_(pa.float32(), DIMS)),
    }
    lance.write_dataset(pa.table(columns), f"{db.uri}/t.lance")  # LanceDB refuses such vectors
    return db.open_table("t")


def hot_ids(table, now_s, tiers=TIERS):
    """By the SQL, in Lance and through LanceDB, and in memory."""
    ds = table.to_lance()
    sql = tiers.hot(ds, table="t", now_s=now_s)
    by_lance = ds.scanner(columns=["id"], filter=sql).to_table()["id"].to_pylist()
    by_lancedb = table.search().where(sql).limit(99).to_arrow()["id"].to_pylist()
    mask = tiers.hot_mask(ds.to_table()["at"], now_s=now_s)
    in_memory = ds.to_table()["id"].to_numpy()[mask].tolist()
    assert sorted(by_lance) == sorted(by_lancedb) == sorted(in_memory)
    quiet = ds.count_rows(tiers.quiet(ds, table="t", now_s=now_s))
    assert quiet == table.count_rows() - len(by_lance)
    return set(by_lance)


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("unit_name", UNITS_PER_SECOND)
def test_a_time_zone_changes_nothing(db, unit_name, zone, indexed):
    per_s = UNITS_PER_SECOND[unit_name]
    ages = [3 * HOUR, 6 * HOUR - 1, 6 * HOUR, 9 * HOUR, 20 * HOUR]
    now_s = AUTUMN_S + 6 * HOUR
    table = of_times(db, pa.timestamp(unit_name, tz=zone), [(now_s - a) * per_s for a in ages])
    if indexed:
        table.create_index("at", config=lancedb.index.BTree())
    assert hot_ids(table, now_s) == {"d0", "d1"}


@pytest.mark.parametrize("zone", [None, "America/New_York"])
@pytest.mark.parametrize("unit_name", UNITS_PER_SECOND)
@pytest.mark.parametrize("now_s", [AUTUMN_S + 0.25, AUTUMN_S + 0.7654321, -AUTUMN_S - 0.25])
def test_between_two_values_of_the_column(db, unit_name, zone, now_s):
    """Nothing falls between the SQL and the labels, on either side of 1970."""
    per_s = UNITS_PER_SECOND[unit_name]
    least = math.floor((now_s - 6 * HOUR) * 1e6) * per_s // 10**6
    table = of_times(db, pa.timestamp(unit_name, tz=zone), [least + i for i in range(-2, 3)])
    assert hot_ids(table, now_s) == {"d3", "d4"}


def test_nanoseconds_that_are_no_microseconds(db):
    now = time.time_ns() // 1000 * 1000 + 7
    table = of_times(db, pa.timestamp("ns"), [now - 9 * HOUR * 10**9, now])
    table.create_index("text", config=FTS())
    assert hot_ids(table, now / 1e9) == {"d1"}
    with Searcher(table, embedder=unit) as searcher:
        options = ft.SearchOptions(tiers=TIERS)
        found = searcher.search("document", mode="fts", options=options)
    tiers = dict(zip(found["id"].to_pylist(), found["_tier"].to_pylist(), strict=True))
    assert tiers == {"d0": "core", "d1": "hot"}


@pytest.mark.parametrize("zone", ZONES[1:])
def test_status_counts_what_the_search_calls_hot(db, zone):
    now = time.time()
    counts = [int((now - age) * 1e6) for age in (3 * HOUR, 9 * HOUR, 100 * HOUR)]
    table = of_times(db, pa.timestamp("us", tz=zone), counts)
    table.create_index("text", config=FTS())
    with Searcher(table, embedder=unit) as searcher:
        options = ft.SearchOptions(tiers=TIERS)
        found = searcher.search("document", mode="fts", options=options)
    hot = [row["id"] for row in found.to_pylist() if row["_tier"] == "hot"]
    assert hot == ["d0"]
    assert index_status(table, tiers=TIERS, measure=False).n_hot == 1


@pytest.mark.parametrize("zone", ["UTC", "America/New_York", "Asia/Kolkata"])
def test_settle_embeds_what_the_search_calls_quiet(db, tmp_path, zone):
    now = time.time()

    def rows(text, *ages):
        return pa.table(
            {
                "id": [f"d{i}" for i in range(len(ages))],
                "text": [f"{text} number {i}" for i in range(len(ages))],
                "at": pa.array([int((now - age) * 1e6) for age in ages], pa.int64()).cast(
                    pa.timestamp("us", tz=zone)
                ),
            }
        )

    stable = {"new_table_enable_stable_row_ids": "true"}
    table = db.create_table("t", rows("zebra", *[100 * HOUR] * 5), storage_options=stable)
    store = ft.ModelStore(tmp_path / "models")
    store.save(tiny_model(tmp_path / "tiny", dims=16), name="tiny")
    ft.reindex(table, "tiny@1", force=True, store=store.uri)
    table = db.open_table("t")
    ft.write(table, rows("giraffe", 3 * HOUR, 9 * HOUR).to_pylist())
    report = ft.settle(table, TIERS, store=store.uri)
    assert (report.n_settled, report.n_hot) == (1, 1)
    later = ft.settle(table, TIERS, now_s=now + 4 * HOUR, store=store.uri)
    assert (later.n_settled, later.n_hot) == (1, 0)


@pytest.mark.parametrize("kind", [pa.date32(), pa.date64()])
def test_days_begin_in_utc(db, kind):
    days = np.array(["2025-11-01", "2025-11-02", "2025-11-03"], "datetime64[D]").astype(int)
    table = db.create_table(
        "t",
        pa.table(
            {"id": ["d0", "d1", "d2"], "at": pa.array(days, pa.int32()).cast("date32").cast(kind)}
        ),
    )
    midnight_s = AUTUMN_S - 6.5 * HOUR  # of the second
    assert hot_ids(table, midnight_s + 6 * HOUR - 0.001) == {"d1", "d2"}
    assert hot_ids(table, midnight_s + 6 * HOUR) == {"d2"}


def test_a_column_without_times_is_told_beside_those_with(db):
    table = of_times(db, pa.timestamp("us"), [0])
    with pytest.raises(ColumnNotFoundError) as caught:
        ft.Tiers(updated_at="text").hot(table.to_lance(), table="t")
    told = str(caught.value)
    assert "'text' of table 't' cannot be used" in told
    assert "found string" in told
    assert "times are in 'at'" in told
    assert "columns are none" not in told
