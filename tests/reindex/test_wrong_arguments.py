"""Arguments of a wrong kind are refused in plain words, before anything is staged."""

import numpy as np
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import InputError
from lancedb_ft.table import dataset
from tests.reindex.marked import make_models, reindexed, rows


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("wrong"))


@pytest.fixture
def plain(db):
    return db.create_table("docs", rows(0, 20))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"cache": 5}, "cache is 5; it must be the name of a table"),
        ({"cache": "my cache"}, "letters, digits"),
        ({"engine": None}, "engine is None; it must be 'local' or 'ray'"),
        ({"engine": 3}, "engine is 3"),
        ({"engine": "spark"}, "There is no engine 'spark'"),
        ({"progress": 5}, "progress is 5; it must be a function"),
        ({"gate": "ndcg@10 >= base"}, "gate is 'ndcg@10 >= base'; it must be a Gate"),
    ],
)
def test_a_re_index_stages_nothing(plain, store, changes, told):
    before = dataset(plain).version
    with pytest.raises(InputError, match=told):
        ft.reindex(plain, "tiny@1", store=store.uri, force=True, precision="float32", **changes)
    assert dataset(plain).version == before


def test_a_table_that_is_no_cache_stages_nothing(plain, store):
    before = dataset(plain).version
    with pytest.raises(InputError, match="is no cache of vectors"):
        ft.reindex(plain, "tiny@1", store=store.uri, force=True, cache="docs")
    assert dataset(plain).version == before


@pytest.mark.parametrize("verb", [ft.rollback, ft.finish, ft.sweep])
def test_a_name_is_no_table(verb):
    with pytest.raises(InputError, match=r"table is a str.*open_table"):
        verb("docs")


def test_a_re_index_and_a_switch_of_no_table():
    with pytest.raises(InputError, match="table is a str"):
        ft.reindex("docs", "tiny@1")
    with pytest.raises(InputError, match="table is a NoneType"):
        ft.reindex(model="tiny@1")
    with pytest.raises(InputError, match="table is a str"):
        ft.switch("docs", force=True)


def test_a_requirement_is_no_gate(plain, store):
    for verb in (ft.switch, lambda table, gate: ft.plan_reindex(table, "tiny@1", gate=gate)):
        with pytest.raises(InputError, match="must be a Gate"):
            verb(plain, gate="ndcg@10 >= base")


@pytest.mark.parametrize("grace_s", ["5", True, -1, float("nan"), [1]])
def test_the_grace_is_a_number(plain, grace_s):
    with pytest.raises(InputError, match=r"grace_s is .*must be a number of seconds"):
        ft.finish(plain, grace_s=grace_s)


@pytest.mark.parametrize("asked", [None, 5, "al", [None], ["0"], [0.5], [True], b"0"])
def test_fragments_are_named_by_their_numbers(plain, asked):
    with pytest.raises(InputError, match=r"re_encode is .*numbers of fragments"):
        ft.sweep(plain, re_encode=asked)


def test_fragments_as_numbers_of_any_kind(db, store):
    table = reindexed(db, store, 20)
    for asked in ([0], np.array([0]), {0}, "all", []):
        assert ft.sweep(table, re_encode=asked, store=store.uri).complete
