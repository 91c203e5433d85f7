"""Several generations at once, the ways back, and what others keep of earlier versions."""

import subprocess
import sys
import time
from datetime import timedelta
from importlib import import_module

import lance
import lancedb
import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.query import LanceHybridQueryBuilder
from lancedb.rerankers import RRFReranker

import lancedb_ft as ft
from lancedb_ft.errors import ReindexStateError
from lancedb_ft.generation import STATE_KEY, read_state
from lancedb_ft.reindex import stage as staging
from lancedb_ft.reindex.target import make_target
from tests.reindex.marked import (
    assert_all_of,
    make_models,
    new_table,
    reindexed,
    reopened,
    rows,
    state,
)
from tests.reindex.test_sweep import folder_size


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("generations"))


def phases(table):
    return {g.number: g.phase for g in state(table).generations}


def test_a_hybrid_query_whose_legs_saw_two_versions(db, store):
    """LanceDB asks the legs one by one; a switch, or rollback, between them changes their types."""
    table = reindexed(db, store)
    table.create_index("text", config=FTS())
    version, text = table.version, rows(5, 6)["text"][0].as_py()
    ft.rollback(table)

    def legs(at):
        table.checkout(at)
        words = table.search(text, query_type="fts").limit(3).with_row_id(True).to_arrow()
        near = table.search(text, query_type="vector").limit(3).with_row_id(True).to_arrow()
        return words, near

    before, after = legs(version), legs(reopened(table).version)
    assert before[0].schema != after[0].schema
    for words, near in ((before[0], after[1]), (after[0], before[1])):
        found = LanceHybridQueryBuilder._combine_hybrid_results(
            fts_results=words,
            vector_results=near,
            norm="score",
            fts_query=text,
            reranker=RRFReranker(),
            limit=3,
            with_row_ids=True,
        )
        assert found["id"][0].as_py() == "5"
        assert not any(isinstance(f.type, pa.BaseExtensionType) for f in found.schema)


def searched_with(table, store, ref):
    """Say whether plain LanceDB finds a row by its own text, at distance zero, by that model."""
    plain = reopened(table)
    text = rows(5, 6)["text"][0].as_py()
    hit = plain.search(text, query_type="vector").limit(1).to_list()[0]
    return (hit["id"], round(hit["_distance"], 3), state(table).active.model) == ("5", 0.0, ref)


def test_three_generations_and_every_way_between_them(db, store):
    table = reindexed(db, store)
    ft.reindex(table, "tiny@3", store=store.uri)
    assert phases(table) == {1: "previous", 2: "active", 3: "ready"}
    assert searched_with(table, store, "tiny@2")
    ft.switch(table, force=True, store=store.uri)
    assert phases(table) == {1: "previous", 2: "previous", 3: "active"}
    assert searched_with(table, store, "tiny@3")
    ft.rollback(table)
    assert searched_with(table, store, "tiny@2")
    ft.rollback(table)
    assert phases(table) == {1: "active", 2: "ready", 3: "ready"}
    assert searched_with(table, store, "tiny@1")
    ft.switch(table, force=True, store=store.uri)
    ft.switch(table, force=True, store=store.uri)
    assert phases(table) == {1: "previous", 2: "previous", 3: "active"}
    with pytest.raises(ReindexStateError, match=r"does not keep generation 4.*1 \(tiny@1\), 2"):
        ft.rollback(table, 4)
    with pytest.raises(ReindexStateError, match=r"searches with generation 3 \(tiny@3\)"):
        ft.switch(table, force=True, store=store.uri)
    for _ in range(2):  # the same command again: nothing more happens
        ft.rollback(table, 1)
    assert searched_with(table, store, "tiny@1")
    ft.switch(table, force=True, store=store.uri)
    removed = ft.finish(table)
    assert [g.number for g in removed] == [1, 2]
    assert searched_with(table, store, "tiny@3")
    assert sorted(reopened(table).schema.names) == ["id", "text", "vector__g3", "vector__g3_hash"]
    with pytest.raises(ReindexStateError, match="no earlier generation"):
        ft.rollback(table)


def test_a_rollback_and_a_switch_are_one_commit_each(db, store):
    table = reindexed(db, store)
    before = lance.dataset(table.uri).version
    ft.rollback(table)
    assert lance.dataset(table.uri).version == before + 1


def run(db, store, *words):
    command = [sys.executable, "-m", "lancedb_ft", "reindex", *words]
    command += ["--db", db.uri, "--table", "docs"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_another_process_is_refused_and_told_what_is_going_on(db, store):
    table = new_table(db, store, 20)
    ft.reindex(table, "tiny@2", store=store.uri)
    other = run(db, store, "run", "--model", "tiny@3", "--store", store.uri)
    assert other.returncode == 2
    assert "already being re-indexed to tiny@2 (generation 2, ready)" in other.stderr


def test_an_abandoned_generation_is_listed_and_removed(db, store):
    table = new_table(db, store, 20)
    target, _ = make_target(
        table,
        "tiny@2",
        text_column=None,
        vector_column=None,
        store=store.uri,
        dims=None,
        device=None,
        precision="auto",
    )
    staging.stage(table, target)
    status = ft.reindex_status(table)
    assert [(g.number, g.phase, g.model) for g in status.generations][1:] == [
        (2, "staging", "tiny@2")
    ]
    assert status.generations[1].n_stale is None
    assert "interrupted" in status.advice
    assert "--abandon" in status.advice
    assert [g.number for g in ft.finish(table, abandon=True)] == [2]
    assert phases(table) == {1: "active"}
    assert sorted(reopened(table).schema.names) == ["id", "text", "vector"]
    assert searched_with(table, store, "tiny@1")


def test_a_finish_after_a_killed_abandon_keeps_the_way_back(db, store, monkeypatch):
    table = reindexed(db, store, 20)
    ft.reindex(table, "tiny@3", store=store.uri)

    def die(_table, _columns):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module("lancedb_ft.reindex.switch"), "drop_columns", die)
        with pytest.raises(KeyboardInterrupt):
            ft.finish(table, abandon=True, grace_s=0)
    assert phases(table) == {1: "previous", 2: "active", 3: "removing"}
    assert "Run 'lancedb-ft reindex finish --abandon' again" in ft.reindex_status(table).advice
    assert [g.number for g in ft.finish(table, grace_s=0)] == [3]
    assert state(table).history[-1]["event"] == "abandon"
    ft.rollback(table)
    assert searched_with(table, store, "tiny@1")


def test_tags_and_pinned_readers_keep_what_they_had(db, store):
    table = new_table(db, store)
    lance.dataset(table.uri).tags.create("before", lance.dataset(table.uri).version)
    pinned = reopened(table)
    pinned.checkout(pinned.version)
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    ft.finish(table)
    text = rows(5, 6)["text"][0].as_py()
    assert pinned.search(text, query_type="vector").limit(1).to_list()[0]["id"] == "5"
    tagged = reopened(table)
    tagged.checkout("before")
    assert tagged.search(text, query_type="vector").limit(1).to_list()[0]["id"] == "5"
    assert "vector" in tagged.schema.names
    assert searched_with(table, store, "tiny@2")


def test_a_tag_older_than_the_cleanup_stops_nothing_of_ours(db, store):
    table = new_table(db, store)
    lance.dataset(table.uri).tags.create("before", lance.dataset(table.uri).version)
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    ft.finish(table)
    time.sleep(0.01)
    with pytest.raises((ValueError, RuntimeError, OSError), match="tag"):
        reopened(table).optimize(cleanup_older_than=timedelta(milliseconds=1))
    ds = lance.dataset(table.uri)
    ds.cleanup_old_versions(timedelta(0), error_if_tagged_old_versions=False)
    ft.reindex(table, "tiny@3", force=True, store=store.uri)
    ft.finish(table)
    ft.sweep(table, store=store.uri)
    assert searched_with(table, store, "tiny@3")
    tagged = reopened(table)
    tagged.checkout("before")
    assert tagged.count_rows() == 120


def test_what_finish_removed_is_reclaimed_by_a_cleanup(db, store):
    """Of a column that a re-index filled. One that LanceDB wrote stands in the texts' own file."""
    table = reindexed(db, store, 3000)
    ft.reindex(table, "tiny@3", force=True, store=store.uri)
    lance.dataset(table.uri).cleanup_old_versions(timedelta(0), delete_unverified=True)
    before = folder_size(table)
    ft.finish(table)
    lance.dataset(table.uri).cleanup_old_versions(timedelta(0), delete_unverified=True)
    assert before - folder_size(table) > 0.9 * 3000 * 16 * 4


def test_a_branch_goes_its_own_way(db, store):
    table = new_table(db, store)
    branch = lance.dataset(table.uri).create_branch("experiment")
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    ft.finish(table)
    assert branch.count_rows() == 120
    assert sorted(branch.schema.names) == ["id", "text", "vector"]
    branch.delete("id = '5'")
    again = lance.dataset(table.uri).checkout_version(("experiment", None))
    assert again.count_rows() == 119
    assert reopened(table).count_rows() == 120
    assert_all_of(table, store, "vector__g2", "tiny@2")


def test_a_long_lived_reader_follows_all_of_it(db, store):
    table = reindexed(db, store)
    reader = lancedb.connect(db.uri, read_consistency_interval=timedelta(0)).open_table("docs")
    text = rows(5, 6)["text"][0].as_py()
    steps = [
        lambda: ft.reindex(table, "tiny@3", force=True, store=store.uri),
        lambda: ft.rollback(table),
        lambda: ft.rollback(table),
        lambda: ft.switch(table, force=True, store=store.uri),
        lambda: ft.finish(table),
    ]
    for step in steps:
        step()
        hit = reader.search(text, query_type="vector").limit(1).to_list()[0]
        assert (hit["id"], round(hit["_distance"], 3)) == ("5", 0.0)


# --- which one was shown before --------------------------------------------------------------


def switched_to(db, store, refs):
    table = new_table(db, store)
    for ref in refs:
        ft.reindex(reopened(table), ref, force=True, store=store.uri)
    return reopened(table)


def test_the_way_back_is_to_what_was_shown_before_not_to_the_highest_number(db, store):
    table = switched_to(db, store, ["tiny@2", "tiny@3", "tiny@2"])
    assert state(table).active.model == "tiny@2"
    assert ft.rollback(table).active.model == "tiny@3"
    assert ft.rollback(reopened(table)).active.number == 1


def test_after_a_rollback_by_number_the_way_back_leads_no_further_forward(db, store):
    table = switched_to(db, store, ["tiny@2", "tiny@3"])
    ft.rollback(table, to=1)
    with pytest.raises(ReindexStateError, match=r"It keeps 2 \(tiny@2\): name one with to="):
        ft.rollback(reopened(table))
    assert ft.rollback(reopened(table), to=2).active.model == "tiny@2"


def test_there_is_no_way_back_to_having_no_vectors(db, store):
    table = db.create_table("docs", rows(0, 60))
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    with pytest.raises(ReindexStateError, match="no earlier generation"):
        ft.rollback(reopened(table))
    found = reopened(table).search(rows(5, 6)["text"][0].as_py(), query_type="vector").limit(1)
    assert found.to_list()[0]["id"] == "5"


@pytest.mark.parametrize(
    "raw", ["", "{", "[]", '{"format": 1}', '{"format": 1, "generations": [{}]}']
)
def test_a_state_that_cannot_be_read_is_named(raw):
    schema = pa.schema([pa.field("id", pa.string())], metadata={STATE_KEY: raw})
    with pytest.raises(ReindexStateError, match=r"The state of table 't'.* restore a version"):
        read_state(schema, table="t")


def test_a_column_of_data_is_not_finished_off(db, store):
    """The only list of numbers of a fixed length was taken for the vectors."""
    boxes = pa.array([[0.0, 1.0, 2.0, 3.0]] * 30, pa.list_(pa.float32(), 4))
    table = db.create_table("docs", rows(0, 30).append_column("bbox", boxes))
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    with pytest.raises(ReindexStateError, match=r"delete the column 'bbox'.*drop=\['bbox'\]"):
        ft.finish(reopened(table))
    assert "bbox" in reopened(table).schema.names
    assert [g.number for g in ft.finish(reopened(table), drop=["bbox"])] == [1]
    assert "bbox" not in reopened(table).schema.names
