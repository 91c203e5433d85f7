"""That a column holds one model only is proved on a sample; what is foreign is located."""

import json

import lance
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import BTree

import lancedb_ft as ft
from lancedb_ft.errors import InputError
from lancedb_ft.reindex.checks.audit import _drawn, audit_size, detection
from tests.reindex.marked import (
    assert_all_of,
    make_models,
    new_table,
    reindexed,
    reopened,
    rows,
)
from tests.reindex.test_sweep import plant, row_addresses, row_ids, with_function


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("audit"))


@pytest.mark.parametrize("n_rows", [1, 64, 100, 999, 1000, 5000, 30_746, 68_800, 10**6, 10**8])
def test_the_default_sample_is_large_enough_and_no_larger(n_rows):
    n = audit_size(n_rows)
    assert n <= min(n_rows, 688)
    assert detection(n_rows, n) > 0.999
    assert n == 0 or detection(n_rows, n - 1) <= 0.999


@pytest.mark.parametrize("planted", ["spread", "scattered", "together"])
def test_the_arithmetic_of_detection_holds_where_rows_are_drawn(planted):
    """10 of 1,000 foreign rows, 4,000 draws: found as often as said, or more often."""
    n_rows, n_foreign, n_draws = 1000, 10, 4000
    rng = np.random.default_rng(0)
    n = audit_size(n_rows) // 4  # fewer rows, so that missing them all can be seen at all
    missed = 0
    for seed in range(n_draws):
        foreign = {
            "spread": np.arange(50, n_rows, n_rows // n_foreign),
            "scattered": rng.choice(n_rows, n_foreign, replace=False),
            "together": 500 + np.arange(n_foreign),
        }[planted]
        missed += not np.isin(_drawn(n_rows, n, seed), foreign).any()
    expected = 1 - detection(n_rows, n)
    assert missed / n_draws <= expected + 3 * (expected * (1 - expected) / n_draws) ** 0.5


def test_planted_vectors_are_found_and_located_and_mended(db, store):
    table = reindexed(db, store, 1000)
    foreign = [str(n) for n in np.random.default_rng(1).choice(1000, 10, replace=False)]
    plant(table, store, foreign)
    ids, addresses = row_ids(table), row_addresses(table)
    audit = ft.verify(table, store=store.uri, models=["tiny@3"])
    assert not audit.passed
    column = audit.columns[-1]
    assert (column.column, column.verdict, column.n_stale) == ("vector__g2", "mixed", 0)
    assert column.detection > 0.999
    places = {ids[key]: addresses[key] for key in foreign}
    for row in column.rows:
        assert places[row.id] == row.address
        assert row.fragment == row.address >> 32
        assert (row.made_by, row.cosine < 0.999) == ("tiny@3", True)
    whole = ft.verify(table, n="all", store=store.uri, models=["tiny@3"]).columns[-1]
    assert {row.id for row in whole.rows} == {ids[key] for key in foreign}
    assert (whole.n_checked, whole.n_foreign, whole.detection) == (1000, 10, 1.0)
    assert whole.made_by == {"tiny@3": 10}
    assert audit.columns[0].verdict == "one model"
    assert "--re-encode" in audit.advice
    ft.sweep(table, re_encode=list(whole.fragments), store=store.uri)
    assert ft.verify(table, n="all", store=store.uri).passed
    assert_all_of(table, store, "vector__g2", "tiny@2")


@pytest.mark.parametrize("seed", range(5))
def test_one_percent_is_found_by_the_default_sample_whatever_the_seed(db, store, seed):
    table = reindexed(db, store, 300)
    foreign = [str(n) for n in np.random.default_rng(seed).choice(300, 3, replace=False)]
    plant(table, store, foreign)
    assert ft.verify(table, store=store.uri, seed=seed).columns[-1].n_foreign >= 1


def test_overwritten_vectors_are_all_found_by_their_marks(db, store):
    """A writer of another model, in place: the marks tell every one, sampled or not."""
    table = reopened(reindexed(db, store, 400))
    table.create_index("id", config=BTree())
    foreign = ["8", "80", "81"]
    texts = table.search().where("id in ('8', '80', '81')").limit(3).to_arrow()
    vectors = ft.get_encoder("tiny@1", store=store.uri).encode(texts["text"].combine_chunks())
    given = pa.table({"id": texts["id"], "vector__g2": vectors})
    lance.dataset(table.uri).merge_insert("id").when_matched_update_all().execute(given)
    column = ft.verify(table, n=1, store=store.uri).columns[-1]
    assert {row.id for row in column.rows} == {row_ids(table)[key] for key in foreign}
    # tiny@1 is the model of the generation before, so it is known without being named.
    assert column.made_by == {"tiny@1": 3}
    assert ft.sweep(table, store=store.uri).mended == 3
    assert ft.verify(table, n="all", store=store.uri).passed


def test_a_foreign_function_is_asked_itself(db, store):
    table = with_function(db)
    audit = ft.verify(table, store=store.uri)
    assert audit.passed
    assert audit.columns[0].n_checked == 50
    table.update(where="id = '7'", values={"text": "edited by a plain update"})
    column = ft.verify(table, store=store.uri).columns[0]
    assert (column.verdict, column.n_foreign, column.n_stale) == ("mixed", 1, None)
    assert "stale" in column.note


def test_a_raw_column_needs_its_model_named(db, store):
    vectors = ft.get_encoder("tiny@1", store=store.uri).encode(rows(0, 40)["text"])
    table = db.create_table("docs", rows(0, 40).append_column("vector", vectors))
    audit = ft.verify(table, store=store.uri)
    assert not audit.passed
    assert "Not all could be checked" in audit.advice
    assert ft.verify(table, store=store.uri, base_model="tiny@1").passed
    assert ft.verify(table, store=store.uri, base_model="tiny@2").columns[0].n_foreign == 40


def test_rows_without_text_or_vector_do_not_thin_the_sample(db, store):
    table = new_table(db, store, 200)
    table.update(where="id like '%1%'", values_sql={"vector": "NULL"})
    audit = ft.verify(table, store=store.uri).columns[0]
    n_left = reopened(table).count_rows("vector is not null")
    assert audit.n_checked == n_left
    assert audit.detection > 0.999


def test_a_few_vectors_in_a_large_table_are_found(db, store):
    """No row of a sample of the whole table has one of these fifteen."""
    vectors = ft.get_encoder("tiny@3", store=store.uri).encode(rows(0, 5000)["text"])
    table = db.create_table("docs", rows(0, 5000).append_column("vector", vectors))
    table.update(where="cast(id as int) >= 15", values_sql={"vector": "NULL"})
    column = ft.verify(table, store=store.uri, base_model="tiny@1", seed=3).columns[0]
    assert (column.verdict, column.n_checked, column.n_foreign) == ("mixed", 15, 15)
    assert column.detection == 1.0
    assert ft.verify(table, store=store.uri, base_model="tiny@3", n=4).columns[0].n_checked == 4


def test_nothing_compared_is_not_called_one_model(db, store):
    table = reindexed(db, store, 30)
    table.update(where="true", values={"text": "every text was edited"})
    column = ft.verify(table, store=store.uri).columns[-1]
    assert (column.verdict, column.n_checked, column.n_stale) == ("unknown", 0, 30)
    assert "sweep" in column.note


def test_a_column_that_is_gone_does_not_pass(db, store):
    table = reindexed(db, store, 30)
    ft.finish(table, grace_s=0)
    table = reopened(table)
    table.alter_columns({"path": "vector__g2", "rename": "embedding"})
    audit = ft.verify(reopened(table), store=store.uri)
    assert not audit.passed
    assert "vector__g2: the table has no such column" in audit.advice


def test_a_table_without_rows_or_vectors_has_nothing_foreign(db, store):
    assert ft.verify(new_table(db, store, 0), store=store.uri).passed
    audit = ft.verify(db.create_table("plain", rows(0, 5)), store=store.uri)
    assert audit.passed
    assert "no vector column" in audit.advice


@pytest.mark.parametrize("n", [0, -3, "ALL", 2.5])
def test_a_sample_that_cannot_be_drawn_is_refused(db, store, n):
    with pytest.raises(InputError, match="1 or more, or 'all'"):
        ft.verify(new_table(db, store, 5), n=n, store=store.uri)


def test_the_command_exits_with_3(db, store, run):
    table = reindexed(db, store, 60)
    plant(table, store, ["8"])
    words = ["reindex", "verify", "--db", db.uri, "--table", "docs", "--store", store.uri]
    code, out, _ = run(*words, "--all", "--json")
    told = json.loads(out)
    assert (code, told["passed"]) == (3, False)
    assert told["columns"][1]["fragments"] == {"0": 1} or told["columns"][1]["n_foreign"] == 1
