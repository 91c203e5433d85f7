"""Whose a column is: the application's own ones stay; those of ours that are gone are named."""

import ast
import re
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import IvfFlat

import lancedb_ft as ft
from lancedb_ft.errors import InputError, ReindexStateError
from tests.reindex.marked import (
    DIMS,
    assert_all_of,
    encoded,
    make_models,
    matrix,
    new_table,
    reindexed,
    reopened,
    rows,
    state,
)

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
    with pytest.raises(InputError, match=r"legacy file format \(0.1\)"):
        ft.plan_reindex(old, "tiny@2", store=store.uri)
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


# --- several vector or text columns ---------------------------------------------------------------


@pytest.fixture
def two(db, store):
    """Titles and bodies, each with vectors of its own that our function makes."""
    function = get_registry().get("ft-embed").create(name="tiny@1", store=store.uri)
    plain = pa.schema([pa.field(name, pa.string()) for name in ("id", "title", "body")])
    vectors = [pa.field(name, pa.list_(pa.float32(), DIMS)) for name in ("title_vec", "body_vec")]
    configs = [
        EmbeddingFunctionConfig(vector_column=f"{name}_vec", source_column=name, function=function)
        for name in ("title", "body")
    ]
    table = db.create_table(
        "docs", schema=pa.schema([*plain, *vectors]), embedding_functions=configs
    )
    given = {"id": rows(0, 20)["id"], "title": [f"title {n}" for n in range(20)]}
    table.add(pa.table({**given, "body": rows(0, 20)["text"]}))
    return table


def test_the_text_is_that_of_the_vectors_named(two, store):
    assert ft.plan_reindex(
        two, "tiny@2", store=store.uri, vector_column="body_vec"
    ).text_column == ("body")
    ft.reindex(two, "tiny@2", store=store.uri, vector_column="body_vec")
    # Without the name the next call means the same columns.
    report = ft.reindex(two, "tiny@2", force=True, store=store.uri)
    assert (report.column, state(two).active.source_column) == ("body_vec__g2", "body")
    made = encoded(store, "tiny@2", rows(0, 20)["text"])
    np.testing.assert_allclose(matrix(reopened(two).to_arrow()["body_vec__g2"]), made, atol=1e-5)
    assert ft.plan_reindex(reopened(two), "tiny@3", store=store.uri).text_column == "body"


def test_without_a_re_index_there_is_nothing_to_show_or_to_remove(two):
    for verb in (
        lambda: ft.switch(two, force=True),
        lambda: ft.rollback(two),
        lambda: ft.finish(two),
    ):
        with pytest.raises(
            ReindexStateError, match=r"never re-indexed.*\['body_vec', 'title_vec'\]"
        ):
            verb()


def test_the_other_vectors_of_a_re_indexed_table_are_refused(two, store):
    ft.reindex(two, "tiny@2", force=True, store=store.uri, vector_column="body_vec")
    before = reopened(two).version
    for name in ("title_vec", "body"):
        for verb in (ft.reindex, ft.plan_reindex):
            with pytest.raises(InputError, match=r"those are \['body_vec', 'body_vec__g2'\]"):
                verb(reopened(two), "tiny@3", store=store.uri, vector_column=name)
        with pytest.raises(InputError, match=r"those are \['body_vec', 'body_vec__g2'\]"):
            ft.reindex_status(two, vector_column=name)
    assert reopened(two).version == before
    again = ft.reindex(two, "tiny@2", force=True, store=store.uri, vector_column="body_vec")
    assert again.note.startswith("the table already searches")
    hit = reopened(two).search("title 7", vector_column_name="title_vec").limit(1).to_list()[0]
    assert hit["id"] == "7"


def test_the_same_model_on_another_text_is_another_generation(two, store):
    for name in ("body", "title"):
        report = ft.reindex(
            reopened(two),
            "tiny@2",
            force=True,
            store=store.uri,
            text_column=name,
            vector_column="body_vec",
        )
        assert report.fill.encoded == 20
    made = encoded(store, "tiny@2", [f"title {n}" for n in range(20)])
    np.testing.assert_allclose(matrix(reopened(two).to_arrow()[report.column]), made, atol=1e-5)


def test_a_staged_text_column_is_not_mixed_with_another(two, store):
    column = {"store": store.uri, "vector_column": "body_vec"}
    ft.reindex(two, "tiny@2", text_column="body", **column)
    with pytest.raises(ReindexStateError, match="of column 'body'"):
        ft.reindex(two, "tiny@2", text_column="title", **column)
    planned = ft.plan_reindex(two, "tiny@2", text_column="title", **column)
    assert (planned.column, planned.rows_to_encode) == ("", 20)


# --- columns of ours that are gone ----------------------------------------------------------------


def finished(db, store):
    """A table of 20 rows that searches with tiny@2 and keeps nothing else."""
    table = reindexed(db, store, 20)
    ft.finish(table, grace_s=0)
    return reopened(table)


def gone(verb, column):
    """Return what the error says to do."""
    with pytest.raises(ReindexStateError, match=rf"column '{column}'.*was renamed or dropped") as e:
        verb()
    return str(e.value)


def right(table):
    status = ft.reindex_status(reopened(table), stale=True)
    return status.searches_right, status.advice


@pytest.mark.parametrize("column", ["vector__g2", "vector__g2_hash", "text"])
def test_a_renamed_column_is_renamed_back(db, store, column):
    table = finished(db, store)
    table.alter_columns({"path": column, "rename": "other"})
    version = reopened(table).version
    status = ft.reindex_status(reopened(table))
    assert status.searches_right is not True
    assert (status.searches_right is False) == (column == "vector__g2")
    verbs = [
        lambda: ft.reindex(reopened(table), "tiny@2", force=True, store=store.uri),
        lambda: ft.reindex(reopened(table), "tiny@3", force=True, store=store.uri),
        lambda: ft.plan_reindex(reopened(table), "tiny@2", store=store.uri),
        lambda: ft.sweep(reopened(table), store=store.uri),
    ]
    advice = [gone(verb, column) for verb in verbs]
    assert all(told.endswith(status.advice.partition(". ")[2]) for told in advice)
    assert reopened(table).version == version
    told = re.search(r"table.alter_columns\((.*?)\), or", status.advice).group(1)
    reopened(table).alter_columns(ast.literal_eval(told.replace("NEW_NAME", "'other'")))
    assert right(table) == (True, "Nothing to do.")
    for verb in verbs:
        verb()


@pytest.mark.parametrize("column", ["vector__g2", "vector__g2_hash"])
def test_a_dropped_column_is_made_again_when_asked_to(db, store, column):
    table = reindexed(db, store, 300)
    table.create_index("vector__g2", config=IvfFlat(num_partitions=2))
    ft.finish(table, grace_s=0)
    reopened(table).drop_columns([column])
    advice = gone(lambda: ft.sweep(reopened(table), store=store.uri), column)
    assert advice.endswith("lancedb-ft reindex run --model tiny@2 --re-embed --force.")
    again = {"store": store.uri, "re_embed": True}
    assert ft.plan_reindex(reopened(table), "tiny@2", **again).rows_to_encode == 300
    report = ft.reindex(reopened(table), "tiny@2", force=True, **again)
    assert (report.column, report.fill.encoded) == ("vector__g3", 300)
    ft.finish(reopened(table), grace_s=0)
    assert right(table) == (True, "Nothing to do.")
    assert_all_of(table, store, "vector__g3", "tiny@2")


def test_where_the_shown_column_was_dropped_a_rollback_is_the_way(db, store):
    table = reindexed(db, store, 20)
    table.drop_columns(["vector__g2"])
    assert "lancedb-ft reindex rollback" in ft.reindex_status(reopened(table)).advice
    ft.rollback(reopened(table))
    assert "reindex finish --abandon" in ft.reindex_status(reopened(table)).advice
    advice = gone(lambda: ft.switch(reopened(table), force=True, store=store.uri), "vector__g2")
    assert "reindex finish --abandon" in advice
    ft.finish(reopened(table), abandon=True, grace_s=0)
    assert right(table)[1] == "Nothing to do."
    hit = reopened(table).search(rows(7, 8)["text"][0].as_py()).limit(1).to_list()[0]
    assert hit["id"] == "7"


def test_where_the_earlier_column_was_dropped_there_is_no_rollback(db, store):
    table = reindexed(db, store, 20)
    table.drop_columns(["vector"])
    assert "reindex finish." in ft.reindex_status(reopened(table)).advice
    assert "reindex finish." in gone(lambda: ft.rollback(reopened(table)), "vector")
    assert ft.sweep(reopened(table), store=store.uri).complete
    assert [g.number for g in ft.finish(reopened(table), grace_s=0)] == [1]
    assert right(table) == (True, "Nothing to do.")


def test_another_text_column_takes_the_place_of_one_that_is_gone(db, store):
    table = finished(db, store)
    table.alter_columns({"path": "text", "rename": "body"})
    assert "--text-column NAME" in ft.reindex_status(reopened(table)).advice
    ft.reindex(reopened(table), "tiny@2", force=True, store=store.uri, text_column="body")
    ft.finish(reopened(table), grace_s=0)
    reopened(table).add([{"id": "new", "body": "written afterwards"}])
    hit = reopened(table).search("written afterwards").limit(1).to_list()[0]
    assert hit["id"] == "new"
    assert right(table) == (True, "Nothing to do.")
