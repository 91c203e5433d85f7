"""What status says: counted, or unknown with the reason; never a zero that was not counted."""

from importlib import import_module

import lance
import pytest

import lancedb_ft as ft
from tests.reindex.marked import make_models, new_table, reindexed, reopened, rows
from tests.reindex.test_sweep import edit


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("status"))


@pytest.fixture
def large(monkeypatch):
    """Every table counts as a large one."""
    status = import_module("lancedb_ft.reindex.status")
    monkeypatch.setattr(status, "_CHEAP_ROWS", 10)
    monkeypatch.setattr(status, "_CHEAP_BYTES", 10)


def active_of(status):
    return next(g for g in status.generations if g.phase == "active")


def test_a_large_table_without_stable_row_ids_is_not_called_right(db, store, large):
    table = edit(reindexed(db, store, stable=False), ["8"])
    status = ft.reindex_status(table)
    assert (active_of(status).n_stale, active_of(status).n_null) == (None, None)
    assert status.searches_right is None
    assert "without stable row ids only a scan" in active_of(status).unknown
    assert "lancedb-ft sweep --table docs" in status.headline
    scanned = ft.reindex_status(table, stale=True)
    assert (active_of(scanned).n_stale, scanned.searches_right) == (1, False)


def test_with_stable_row_ids_only_what_changed_is_counted(db, store, large):
    table = reindexed(db, store)
    assert ft.reindex_status(table).searches_right is not None
    edit(table, ["8"])
    status = ft.reindex_status(table)
    assert (active_of(status).n_stale, active_of(status).n_null) == (1, 0)
    assert "1 may be found by an earlier text: run lancedb-ft sweep" in status.headline
    edit(table, [str(n) for n in range(30, 60)])
    many = ft.reindex_status(table)
    assert active_of(many).n_stale is None
    assert "31 rows changed since the last sweep" in active_of(many).unknown
    ft.sweep(table, store=store.uri)
    assert ft.reindex_status(table, stale=True).searches_right is True


def test_without_marks_stale_is_unknown_even_after_a_scan(db, store, large):
    table = new_table(db, store, 50)
    reopened(table).update(where="id = '3'", values_sql={"vector": "NULL"})
    status = ft.reindex_status(table)
    assert (active_of(status).n_stale, active_of(status).n_null) == (None, None)
    scanned = active_of(ft.reindex_status(table, stale=True))
    assert (scanned.n_stale, scanned.n_null) == (None, 1)
    assert "re-index once" in scanned.unknown


def test_no_sweep_is_advised_where_none_can_help(db, store):
    """Back at raw vectors, rows written meanwhile have none."""
    vectors = ft.get_encoder("tiny@1", store=store.uri).encode(rows(0, 20)["text"])
    table = db.create_table("docs", rows(0, 20).append_column("vector", vectors))
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    reopened(table).add([{"id": "new", "text": "written with tiny@2"}])
    ft.rollback(table)
    status = ft.reindex_status(table)
    assert status.searches_right is False
    assert "1 cannot be found: no sweep can" in status.headline
    assert "lancedb-ft sweep" not in status.headline


def test_rows_that_others_wrote_are_not_called_stale(db, store):
    table = reopened(reindexed(db, store))
    vector = [1.0] * table.schema.field("vector__g2").type.list_size
    table.add([{"id": "new", "text": "with a vector of theirs", "vector__g2": vector}])
    status = ft.reindex_status(table)
    assert (active_of(status).n_stale, active_of(status).n_unmarked) == (0, 1)
    assert status.searches_right is None


def test_a_lost_function_is_said_first(db, store):
    table = reindexed(db, store)
    lance.dataset(table.uri).update_schema_metadata({"embedding_functions": None})
    status = ft.reindex_status(table)
    assert status.searches_right is False
    assert status.headline.startswith("SEARCHES ARE BROKEN: the metadata lost")
