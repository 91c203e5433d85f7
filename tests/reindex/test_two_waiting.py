"""A generation that a rollback hid stands in the way of no other one, and is not lost to it."""

import pytest

import lancedb_ft as ft
from lancedb_ft.errors import ReindexStateError
from tests.reindex.marked import assert_all_of, make_models, reopened, rows, state

QUIET = {"precision": "float32"}


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("two_waiting"))


@pytest.fixture
def table(db, store):
    """Searched with tiny@2 (generation 3); tiny@1 is kept (generation 2)."""
    made = db.create_table("docs", rows(0, 40))
    for model in ("tiny@1", "tiny@2"):
        ft.reindex(made, model, store=store.uri, force=True, **QUIET)
    return reopened(made)


def phases(table):
    return {g.number: g.phase for g in state(table).generations if g.column}


def killed(done, total):
    raise KeyboardInterrupt


def interrupt(table, store):
    with pytest.raises(KeyboardInterrupt):
        ft.reindex(table, "tiny@3", store=store.uri, progress=killed, **QUIET)


def test_an_interrupted_re_index_goes_on_after_a_rollback(table, store):
    interrupt(table, store)
    ft.rollback(table)
    assert phases(table) == {2: "active", 3: "ready", 4: "staging"}
    assert "A re-index to tiny@3 was interrupted" in ft.reindex_status(table).advice
    assert ft.plan_reindex(table, "tiny@3", store=store.uri).column == "vector__g4"
    report = ft.reindex(table, "tiny@3", store=store.uri, force=True, **QUIET)
    assert (report.generation, report.switched) == (4, True)
    assert phases(table) == {2: "previous", 3: "ready", 4: "active"}
    assert_all_of(table, store, "vector__g4", "tiny@3")


def test_another_model_is_staged_beside_what_was_rolled_back(table, store):
    ft.rollback(table)
    ft.reindex(table, "tiny@3", store=store.uri, **QUIET)
    assert phases(table) == {2: "active", 3: "ready", 4: "ready"}
    # What waits to be shown for the first time is meant; that which was rolled back by its model.
    assert ft.switch(table, force=True).active.model == "tiny@3"
    assert ft.reindex(table, "tiny@2", store=store.uri, force=True).fill.encoded == 0
    assert phases(table) == {2: "previous", 3: "active", 4: "previous"}


def test_a_switch_goes_forward_again_while_another_one_is_staged(table, store):
    ft.rollback(table)
    interrupt(table, store)
    assert ft.switch(table, force=True).active.model == "tiny@2"
    assert phases(table) == {2: "previous", 3: "active", 4: "staging"}


def test_abandon_takes_what_is_on_its_way_and_then_what_was_rolled_back(table, store):
    ft.rollback(table)
    interrupt(table, store)
    assert [g.number for g in ft.finish(table, abandon=True)] == [4]
    assert phases(table) == {2: "active", 3: "ready"}
    assert [g.number for g in ft.finish(table, abandon=True)] == [3]
    assert phases(table) == {2: "active"}


def test_a_second_one_on_its_way_is_refused_as_before(table, store):
    ft.finish(table)
    interrupt(table, store)
    with pytest.raises(ReindexStateError, match="already being re-indexed to tiny@3"):
        ft.reindex(table, "tiny@1", store=store.uri, force=True, **QUIET)


def test_finish_names_abandon_where_that_is_meant(table, store):
    ft.finish(table)
    ft.reindex(table, "tiny@3", store=store.uri, **QUIET)
    with pytest.raises(ReindexStateError, match=r"generation 4 \(tiny@3\).* finish --abandon"):
        ft.finish(table)
