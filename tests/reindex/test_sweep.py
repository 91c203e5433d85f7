"""Rows whose vectors no longer belong to their texts are found and made again, cheaply."""

import lance
import pytest

import lancedb_ft as ft
from tests.reindex.marked import (
    assert_all_of,
    make_models,
    reindexed,
    reopened,
    rows,
)


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("sweep"))


def active_of(report):
    return next(g for g in report.generations if g.phase == "active")


@pytest.mark.parametrize("stable", [True, False])
def test_updates_nulls_and_rows_without_marks_are_mended(db, store, stable):
    table = reindexed(db, store, stable=stable)
    ft.sweep(table, store=store.uri)
    table = reopened(table)
    table.update(where="id in ('3', '40')", values={"text": "edited by a plain update"})
    table.update(where="id = '5'", values_sql={"vector__g2": "NULL"})
    table.add(rows(200, 203, "appended"))
    table.delete("id = '7'")
    report = ft.sweep(table, store=store.uri)
    active = active_of(report)
    assert (active.stale, active.unmarked, active.missing, active.encoded) == (2, 3, 1, 6)
    assert report.complete
    assert_all_of(table, store, "vector__g2", "tiny@2")
    assert reopened(table).count_rows() == 122
    again = ft.sweep(table, store=store.uri)
    assert (again.mended, again.encoded) == (0, 0)


def test_with_stable_row_ids_only_what_changed_is_read(db, store):
    table = reindexed(db, store, 2000)
    ft.sweep(table, store=store.uri)
    table = reopened(table)
    for n_changed in (2, 20):
        ids = ", ".join(f"'{n}'" for n in range(100, 100 + n_changed))
        table.update(where=f"id in ({ids})", values={"text": f"edited {n_changed}"})
        report = ft.sweep(table, store=store.uri)
        assert active_of(report).how == "row versions"
        assert active_of(report).encoded == n_changed
        # Read once as changed, and once more as mended, in the pass that finds nothing.
        assert active_of(report).read == 2 * n_changed
    idle = ft.sweep(table, store=store.uri)
    # What the last pass of the sweep before had mended itself.
    assert active_of(idle).read <= 20
    assert lance.dataset(table.uri).version == report.version


def test_without_stable_row_ids_all_rows_are_read(db, store):
    table = reindexed(db, store, 300, stable=False)
    table.update(where="id = '8'", values={"text": "edited"})
    report = ft.sweep(table, store=store.uri)
    assert active_of(report).how == "scan"
    assert active_of(report).read == 600
    assert active_of(report).encoded == 1
