"""Whose a column is: the application's own ones stay; those of ours that are gone are named."""

from pathlib import Path

import lance
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

import lancedb_ft as ft
from lancedb_ft.errors import InputError, ReindexStateError
from tests.reindex.marked import (
    DIMS,
    encoded,
    make_models,
    matrix,
    new_table,
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
