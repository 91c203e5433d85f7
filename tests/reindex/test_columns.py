"""Whose a column is: the application's own ones stay; those of ours that are gone are named."""

from pathlib import Path

import lance
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import InputError
from tests.reindex.marked import encoded, make_models, new_table, reopened, rows, state

LEGACY = {"new_table_data_storage_version": "legacy"}


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("columns"))


# --- columns of the application ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["vector__g2", "vector__g2_hash"])
def test_a_column_of_the_same_name_is_not_ours(db, store, name):
    table = db.create_table("docs", rows(0, 20).append_column(name, rows(0, 20)["id"]))
    report = ft.reindex(table, "tiny@2", force=True, store=store.uri)
    assert (report.generation, report.column) == (3, "vector__g3")
    ft.reindex(reopened(table), "tiny@3", force=True, store=store.uri)
    ft.finish(reopened(table), grace_s=0)
    assert reopened(table).to_arrow()[name].to_pylist() == [str(n) for n in range(20)]


def test_a_vector_column_of_the_same_name_is_not_ours(db, store):
    theirs = encoded(store, "tiny@1", rows(0, 20)["text"])
    vectors = ft.get_encoder("tiny@1", store=store.uri).encode(rows(0, 20)["text"])
    both = rows(0, 20).append_column("vector", vectors).append_column("vector__g2", vectors)
    table = db.create_table("docs", both)
    ft.reindex(table, "tiny@2", force=True, store=store.uri, vector_column="vector")
    assert state(table).active.column == "vector__g3"
    found = reopened(table).to_arrow()["vector__g2"].to_pylist()
    assert found == theirs.tolist()


def test_the_legacy_format_is_refused_before_anything_is_written(db, store):
    old = db.create_table("docs", rows(0, 20), storage_options=LEGACY)
    version = old.version
    with pytest.raises(InputError, match=r"legacy file format \(0.1\)"):
        ft.reindex(old, "tiny@2", force=True, store=store.uri)
    assert reopened(old).version == version
    cured = [
        db.create_table("docs_new", old.to_arrow()),
        db.create_table("streamed", old.to_lance().to_batches(), schema=old.schema),
    ]
    for table in cured:
        assert ft.reindex(table, "tiny@2", force=True, store=store.uri).switched


def test_a_handle_on_a_branch_is_refused(db, store):
    table = new_table(db, store, 20)
    branch = table.branches.create("exp")
    branch.add(rows(20, 25))
    before = {p: p.stat().st_mtime_ns for p in _files(table)}
    for verb in (
        lambda: ft.reindex(branch, "tiny@2", force=True, store=store.uri),
        lambda: ft.plan_reindex(branch, "tiny@2", store=store.uri),
        lambda: ft.sweep(branch, store=store.uri),
        lambda: ft.reindex_status(branch),
        lambda: ft.search(branch, "how do I cancel"),
    ):
        with pytest.raises(InputError, match=r"on branch 'exp'.*main only"):
            verb()
    assert {p: p.stat().st_mtime_ns for p in _files(table)} == before
    copy = db.create_table("copy", branch.to_arrow())
    ft.reindex(copy, "tiny@2", force=True, store=store.uri)
    assert lance.dataset(copy.uri).count_rows() == 25


def _files(table):
    return sorted(Path(table.uri).rglob("*.*"))
