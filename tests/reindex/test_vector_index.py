"""The new column's index: type, parameters and recall as of the old; other indexes untouched."""

from importlib import import_module

import lance
import lancedb.index
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS, BTree, IvfFlat, IvfPq

import lancedb_ft as ft
from lancedb_ft.reindex.indexes.index_recall import index_recall, recall_note, row_recall
from lancedb_ft.reindex.indexes.vector_index import (
    describe_index,
    index_notes,
    index_settings,
    refresh_index,
)
from lancedb_ft.table import dataset
from lancedb_ft.types import Estimate
from tests.tiny import tiny_model

N_ROWS = 320
DIMS = 16


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model(tmp_path_factory.mktemp("m"), dims=DIMS, seed=2)


def vectors(n=N_ROWS, dims=DIMS, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dims)).astype(np.float32)


def make_table(db, n=N_ROWS, dims=DIMS, name="docs"):
    matrix = vectors(n, dims)
    return db.create_table(
        name,
        pa.table(
            {
                "id": [str(i) for i in range(n)],
                "text": [f"doc number {i} of order {i * 7 % 13}" for i in range(n)],
                "vector": pa.FixedSizeListArray.from_arrays(pa.array(matrix.reshape(-1)), dims),
            }
        ),
    )


TYPES = {
    "IvfFlat": {"num_partitions": 3, "distance_type": "dot"},
    "IvfSq": {"num_partitions": 3, "distance_type": "cosine"},
    "IvfPq": {"num_partitions": 2, "num_sub_vectors": 4, "distance_type": "cosine"},
    "IvfRq": {"num_partitions": 2, "num_bits": 2, "distance_type": "l2"},
    "HnswFlat": {"num_partitions": 1, "m": 8, "ef_construction": 40, "distance_type": "l2"},
    "HnswSq": {"num_partitions": 1, "m": 12, "ef_construction": 50, "distance_type": "cosine"},
    "HnswPq": {
        "num_partitions": 1,
        "m": 12,
        "ef_construction": 60,
        "num_sub_vectors": 8,
        "distance_type": "dot",
    },
}
SAME = (
    "type",
    "distance_type",
    "num_partitions",
    "num_rows",
    "num_bits",
    "num_sub_vectors",
    "m",
    "ef_construction",
    "max_iterations",
    "sample_rate",
)


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_comes_along_with_its_parameters(db, model, kind):
    table = make_table(db)
    config = getattr(lancedb.index, kind)(max_iterations=7, sample_rate=33, **TYPES[kind])
    table.create_index("vector", config=config)
    old = describe_index(table, "vector")
    report = ft.reindex(table, model, force=True)
    new = describe_index(table, "vector__g2")
    assert {k: new.get(k) for k in SAME} == {k: old.get(k) for k in SAME}
    assert {k: new[k] for k in TYPES[kind]} == TYPES[kind]
    assert (new["max_iterations"], new["sample_rate"]) == (7, 33)
    plain = db.open_table("docs")
    stats = [plain.index_stats(name) for name in ("vector_idx", report.index)]
    assert stats[0].index_type == stats[1].index_type
    assert stats[0].distance_type == stats[1].distance_type
    assert [s.num_indexed_rows for s in stats] == [N_ROWS, N_ROWS]


def test_no_index_stays_no_index(db, model):
    table = make_table(db)
    report = ft.reindex(table, model, force=True)
    assert report.index is None
    assert describe_index(table, "vector__g2") is None


OLD = {
    "type": "IvfPq",
    "distance_type": "cosine",
    "num_partitions": 10,
    "num_rows": 5000,
    "dims": 384,
    "num_sub_vectors": 24,
    "num_bits": 8,
}


@pytest.mark.parametrize(
    ("changes", "dims", "n_rows", "expected"),
    [
        ({}, 768, 50_000, {"num_partitions": 100, "num_sub_vectors": 48}),
        ({}, 1000, 5000, {"num_sub_vectors": 125}),  # 16 does not divide 1000, 8 does
        ({}, 257, 5000, {"num_sub_vectors": 257}),
        ({"num_bits": 4}, 48, 5000, {"num_sub_vectors": 6}),  # 3 is not even; 8 is a good width
        ({}, 384, 3, {"num_partitions": 1}),
        ({}, 384, 10**9, {"num_partitions": 4096}),  # as far as Lance's own rule goes
        ({"num_partitions": 9000}, 384, 10**9, {"num_partitions": 9000}),
        ({"target_partition_size": 500}, 384, 9000, {"target_partition_size": 500}),
    ],
)
def test_settings_for_other_dims_and_rows(changes, dims, n_rows, expected):
    kind, settings = index_settings({**OLD, **changes}, dims, n_rows)
    assert kind == "IvfPq"
    assert {k: settings[k] for k in expected} == expected
    assert ("num_partitions" in settings) != ("target_partition_size" in settings)


def test_rq_without_a_multiple_of_eight_becomes_sq(db, tmp_path):
    table = make_table(db)
    table.create_index("vector", config=lancedb.index.IvfRq(num_partitions=1))
    odd = tiny_model(tmp_path / "odd", dims=20)
    report = ft.reindex(table, odd, force=True)
    assert describe_index(table, report.column)["type"] == "IvfSq"
    assert "IvfRq needs a multiple of 8" in " ".join(report.notes)


def test_too_few_rows_for_pq_is_told_and_searched_exactly(db, model):
    table = make_table(db, n=100)
    table.create_index("vector", config=IvfPq(num_sub_vectors=4, distance_type="cosine"))
    report = ft.reindex(table, model, force=True)
    assert report.index is None
    assert describe_index(table, report.column) is None
    assert "too few to train" in " ".join(report.notes)
    plain = db.open_table("docs")
    hit = plain.search("doc number 7 of order 10", query_type="vector").limit(1)
    assert hit.to_list()[0]["id"] == "7"
    assert row_recall(table, report.column) is None


def test_an_untrained_old_index_is_read(db):
    """What LanceDB makes of too few rows has its settings and no content."""
    table = make_table(db, n=100)
    table.create_index("vector", config=IvfPq(num_sub_vectors=4, distance_type="cosine"))
    old = describe_index(table, "vector")
    assert (old["type"], old["num_sub_vectors"], old["distance_type"]) == ("IvfPq", 4, "cosine")
    assert (old["num_rows"], old.get("num_partitions")) == (0, None)
    kind, settings = index_settings(old, DIMS, 5000)
    assert (kind, settings["num_sub_vectors"]) == ("IvfPq", 4)
    assert "num_partitions" not in settings  # LanceDB's own rule


def test_4_bits_take_16_rows():
    assert index_notes({**OLD, "num_bits": 4}, 16, 16) == ()
    assert "too few" in index_notes({**OLD, "num_bits": 4}, 16, 15)[0]
    assert index_notes(None, 16, 0) == ()


def identities(table):
    wanted = ("text_idx", "id_idx")
    return {
        i.name: [(s.uuid, s.index_version, s.fragment_ids) for s in i.segments]
        for i in lance.dataset(table.uri).describe_indices()
        if i.name in wanted
    }


def test_other_indexes_are_not_touched(db, model):
    table = make_table(db)
    table.create_index("text", config=FTS())
    table.create_index("id", config=BTree())
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    before = identities(table)
    assert len(before) == 2
    ft.reindex(table, model)
    assert identities(table) == before
    ft.switch(table, force=True)
    assert identities(table) == before
    ft.rollback(table)
    ft.switch(table, force=True)
    ft.finish(table)
    assert identities(table) == before
    assert describe_index(table, "vector__g2")["num_rows"] == N_ROWS


def test_rows_after_the_build_are_indexed_before_the_switch(db, model):
    table = make_table(db)
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    ft.reindex(table, model)
    before = identities(table)
    late = [{"id": f"late{i}", "text": f"late {i}", "vector": [0.1] * DIMS} for i in range(1200)]
    db.open_table("docs").add(late)
    ft.switch(table, force=True)
    after = describe_index(table, "vector__g2")
    assert (after["num_rows"], after["num_unindexed_rows"]) == (N_ROWS + 1200, 0)
    assert identities(table) == before


def test_few_new_rows_are_left_to_exact_search(db):
    table = make_table(db)
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    table.add(make_table(db, n=50, name="more").to_arrow())
    assert refresh_index(table, "vector") == 0
    assert refresh_index(table, "id") == 0


@pytest.mark.parametrize("distance", ["l2", "cosine", "dot"])
def test_an_exact_index_has_full_recall(db, distance):
    table = make_table(db)
    table.create_index("vector", config=IvfFlat(num_partitions=1, distance_type=distance))
    found = row_recall(table, "vector", n=40)
    assert (found.rows.mean, found.rows.n) == (1.0, 40)
    asked = index_recall(table, "vector", vectors(n=9, seed=5))
    assert (asked.mean, asked.n) == (1.0, 9)


def test_recall_agrees_with_lancedbs_own_exact_search(db):
    """A coarse index misses; LanceDB's own exact search says how much."""
    table = make_table(db)
    table.create_index(
        "vector", config=IvfPq(num_partitions=1, num_sub_vectors=1, distance_type="l2")
    )
    asked = vectors(n=30, seed=7)
    shares = []
    for query in asked:
        fast = table.search(query).limit(10).select(["id", "_distance"]).to_arrow()
        exact = table.search(query).bypass_vector_index().limit(10)
        exact = exact.select(["id", "_distance"]).to_arrow()
        shares.append(len(set(fast["id"].to_pylist()) & set(exact["id"].to_pylist())) / 10)
    found = index_recall(table, "vector", asked)
    assert found.mean == pytest.approx(np.mean(shares))
    assert 0.05 < found.mean < 0.95
    assert found.ci95[0] < found.mean < found.ci95[1]


def test_a_slow_index_is_asked_less(db, monkeypatch):
    module = import_module("lancedb_ft.reindex.indexes.index_recall")
    monkeypatch.setattr(module, "_MAX_SECONDS", 0.0)
    table = make_table(db)
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    assert row_recall(table, "vector").rows.n == 10
    assert index_recall(table, "vector", vectors(n=30)).n == 10


def test_recall_of_no_index_or_no_rows(db):
    table = make_table(db, n=5)
    assert row_recall(table, "vector") is None
    assert index_recall(table, "vector", vectors(n=3)) is None
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    assert row_recall(table, "vector").rows.mean == 1.0  # of the four others each finds all
    assert index_recall(table, "vector", vectors(n=0)) is None


def test_a_worse_index_is_warned_of():
    good, bad = Estimate(0.95, (0.93, 0.97), 200), Estimate(0.80, (0.77, 0.83), 200)
    assert "finds less" in recall_note(good, bad)
    assert recall_note(bad, good) is None
    assert recall_note(good, Estimate(0.94, (0.92, 0.96), 200)) is None
    assert recall_note(None, bad) is None


def test_the_report_shows_the_recall_and_the_table_keeps_it(db, model):
    table = make_table(db)
    table.create_index("vector", config=IvfPq(num_partitions=1, num_sub_vectors=16))
    report = ft.reindex(table, model, force=True)
    told = report.to_dict()["index_recall"]
    assert {name: told[name]["rows"]["n"] for name in ("old", "new")} == {"old": 200, "new": 200}
    assert 0.0 < told["new"]["rows"]["mean"] <= 1.0
    state = ft.reindex_status(table)
    assert state.history[-1]["event"] == "switch"
    kept = dataset(table).schema.metadata[b"lancedb_ft"].decode()
    assert '"index_recall"' in kept
