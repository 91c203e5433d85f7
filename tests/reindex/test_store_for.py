"""Which model store the verbs read: that named, the variables, the table's own, the database's."""

import shutil

import lancedb
import pytest
from lancedb.embeddings import get_registry

import lancedb_ft as ft
from lancedb_ft.embedding import store_for
from lancedb_ft.errors import StoreNotFoundError
from tests.reindex.marked import assert_all_of, make_models, reopened, rows, state


@pytest.fixture(autouse=True)
def no_variables(monkeypatch):
    monkeypatch.delenv("LANCEDB_FT_STORE", raising=False)
    monkeypatch.setattr(get_registry(), "_variables", {})


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("store_for"))


@pytest.fixture
def table(db, store):
    """Searched with tiny@2; tiny@1 is kept, and tiny@3 ready."""
    made = db.create_table("docs", rows(0, 60))
    for model in ("tiny@1", "tiny@2"):
        ft.reindex(made, model, store=store.uri, force=True, precision="float32")
    ft.reindex(made, "tiny@3", store=store.uri, precision="float32")
    return reopened(made)


def all_verbs(table, store):
    """Ask every verb that needs a model, without a store."""
    table.update(where="id = '5'", values={"text": "another text"})
    assert ft.sweep(table).encoded
    assert ft.write(table, [{"id": "w", "text": "written"}], embed="now").n_encoded
    table.update(where="id = '6'", values={"text": "yet another text"})
    assert ft.settle(table, ft.Tiers(where="false")).n_encoded
    assert "nothing to do" in ft.verify(table).advice
    assert ft.rollback(table).active.model == "tiny@1"
    assert ft.switch(table, force=True).active.model == "tiny@3"
    assert ft.plan_reindex(table, "tiny@2").rows_to_encode == 0
    assert ft.reindex(table, "tiny@2", force=True).switched
    assert state(table).active.model == "tiny@2"
    assert_all_of(table, store, state(table).active.column, "tiny@2")


def test_the_store_that_the_table_names(table, store):
    all_verbs(table, store)


@pytest.mark.parametrize("how", ["registry", "environment"])
def test_the_variables_come_before_it(table, store, how, monkeypatch, tmp_path):
    moved = shutil.copytree(store.uri, tmp_path / "moved")
    if how == "registry":
        get_registry().set_var("ft_store", str(moved))
        monkeypatch.setenv("LANCEDB_FT_STORE", "/no/such/place")
    else:
        monkeypatch.setenv("LANCEDB_FT_STORE", str(moved))
    assert store_for(table, of=state(table).active.function) == str(moved)
    all_verbs(table, store)


def test_a_variable_that_names_no_store_is_told(table, monkeypatch):
    monkeypatch.setenv("LANCEDB_FT_STORE", "/no/such/place")
    for step in (
        lambda: ft.plan_reindex(table, "tiny@1"),
        lambda: ft.reindex(table, "tiny@1", force=True),
        lambda: ft.switch(table, force=True),
    ):
        with pytest.raises(StoreNotFoundError, match="/no/such/place"):
            step()


def test_a_new_model_beside_that_of_the_table(table, store, tmp_path):
    assert ft.plan_reindex(table, "tiny").model == "tiny@3"  # the database has no store
    own = ft.ModelStore(f"{table._conn.uri}/ft_models")
    own.save(tmp_path_model(store), name="tiny", manifest={})
    assert ft.plan_reindex(table, "tiny").model == "tiny@1"  # now it has


def tmp_path_model(store):
    return store.load("tiny@3").path


def test_a_database_that_moved_with_its_models(tmp_path, store):
    old, new = tmp_path / "old", tmp_path / "new"
    shutil.copytree(store.uri, old / "ft_models")
    made = lancedb.connect(str(old)).create_table("docs", rows(0, 30))
    ft.reindex(made, "tiny@1", force=True)
    shutil.move(old, new)
    table = lancedb.connect(str(new)).open_table("docs")
    entry = state(table).active.function
    assert store_for(table, of=entry) == f"{new}/ft_models"
    assert ft.reindex(table, "tiny@2", force=True).switched


def test_what_is_named_comes_first(table, store, monkeypatch):
    monkeypatch.setenv("LANCEDB_FT_STORE", "/no/such/place")
    assert store_for(table, store.uri) == store.uri
    assert ft.plan_reindex(table, "tiny@1", store=store.uri).model == "tiny@1"
