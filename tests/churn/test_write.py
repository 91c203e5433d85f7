"""Rows written by id: found at once, embedded when asked to, whatever stands in the table."""

import threading
from datetime import datetime
from importlib import import_module

import lance
import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.search import Searcher
from tests.reindex.marked import assert_all_of, new_table, reopened

VECTOR = "vector__g2"
NOW = datetime(2026, 1, 1)


def stored(table):
    found = lance.dataset(table.uri).to_table()
    return {row["id"]: row for row in found.to_pylist()}


def found_by(table, words, k=5):
    with Searcher(table) as searcher:
        return searcher.search(words, mode="fts", k=k)["id"].to_pylist()


def test_a_deferred_row_is_found_by_its_words_at_once_and_never_by_those_of_before(docs):
    ft.write(docs, [{"id": "5", "text": "zebra crossing"}, {"id": "new", "text": "giraffe"}])
    assert found_by(docs, "zebra") == ["5"]
    assert found_by(docs, "giraffe") == ["new"]
    ft.write(docs, [{"id": "5", "text": "okapi in the forest"}])
    quick = ft.Maintenance(min_rows=0, max_unindexed=0.0, quiet_s=0)
    for step in (None, ft.maintain, ft.maintain):
        if step is not None:
            step(docs, quick)
        assert found_by(docs, "okapi") == ["5"]
        assert found_by(docs, "zebra") == []
    assert ft.index_status(docs).indexes[0].n_unindexed == 0


def test_what_it_reports(docs):
    rows = [{"id": "3", "text": "new words"}, {"id": "a", "text": "more"}, {"id": "b", "text": " "}]
    report = ft.write(docs, rows, delete=["7", "8", "none"])
    told = (report.n_inserted, report.n_updated, report.n_deleted, report.n_deferred)
    assert told == (2, 1, 2, 2)
    assert report.version == lance.dataset(docs.uri).version
    assert len(stored(docs)) == 120
    again = ft.write(docs, rows, delete=["7"])
    assert (again.n_unchanged, again.n_deleted, again.version) == (3, 0, report.version)


def test_columns_left_out_stay_and_are_null_in_new_rows(docs):
    ft.write(docs, pa.table({"id": ["4", "x"], "updated_at": [NOW, NOW]}))
    rows = stored(docs)
    assert (rows["4"]["views"], rows["4"]["updated_at"]) == (4, NOW)
    assert rows["4"]["text"].startswith("doc number 4 ")
    assert (rows["x"]["views"], rows["x"]["text"]) == (None, None)


def test_a_text_that_did_not_change_keeps_its_vector_and_is_not_embedded(docs, store):
    before = stored(docs)["4"]
    report = ft.write(
        docs, [{"id": "4", "text": before["text"], "views": 9}], embed="now", store=store.uri
    )
    after = stored(docs)["4"]
    assert (report.n_updated, report.n_encoded, after["views"]) == (1, 0, 9)
    assert (after[VECTOR], after[VECTOR + "_hash"]) == (before[VECTOR], before[VECTOR + "_hash"])


def test_embedded_now_every_vector_is_that_of_its_text(docs, store):
    rows = [{"id": str(i), "text": f"other words {i}"} for i in (1, 2, 200, 201)]
    assert ft.write(docs, rows, embed="now", store=store.uri).n_encoded == 4
    assert_all_of(docs, store, VECTOR, "tiny@2")
    ft.write(docs, [{"id": "1", "text": "deferred"}])
    later = ft.write(docs, [{"id": "1", "text": "deferred"}], embed="now", store=store.uri)
    assert (later.n_updated, later.n_encoded) == (1, 1)
    assert_all_of(docs, store, VECTOR, "tiny@2")


def test_a_deferred_row_keeps_the_vector_of_a_text_that_is_much_the_same(docs):
    text = stored(docs)["4"]["text"]
    ft.write(docs, [{"id": "4", "text": text + " today"}, {"id": "5", "text": "zebra"}])
    rows = stored(docs)
    assert rows["4"][VECTOR] is not None
    assert rows["5"][VECTOR] is None
    assert rows["4"][VECTOR + "_hash"] is rows["5"][VECTOR + "_hash"] is None


def test_a_table_that_was_never_reindexed(db, store):
    table = new_table(db, store, 30)
    text = stored(table)["4"]["text"]
    ft.write(table, [{"id": "4", "text": text}, {"id": "5", "text": text + " today"}])
    rows = stored(table)
    assert rows["4"]["vector"] is not None
    assert rows["5"]["vector"] is None  # nothing would say that it is of an earlier text
    report = ft.write(reopened(table), [{"id": "5", "text": "x"}], embed="now", store=store.uri)
    assert report.n_encoded == 1
    assert_all_of(table, store, "vector", "tiny@1")


def test_writers_of_the_same_new_ids_make_each_row_once(docs):
    def writes(number):
        for start in range(0, 12, 3):
            rows = [{"id": f"n{i}", "text": f"by {number}"} for i in range(start, start + 3)]
            ft.write(reopened(docs), rows)

    threads = [threading.Thread(target=writes, args=(n,)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ids = lance.dataset(docs.uri).to_table(columns=["id"])["id"].to_pylist()
    assert len(ids) == len(set(ids)) == 132


def test_what_others_write_meanwhile_is_not_lost(docs, monkeypatch):
    module = import_module("lancedb_ft.churn.write")
    commit, n_calls = module._commit, 0

    def raced(*arguments):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            reopened(docs).update(where="id = '4'", values={"views": 1000})
        return commit(*arguments)

    monkeypatch.setattr(module, "_commit", raced)
    ft.write(docs, [{"id": "4", "text": "zebra"}])
    assert n_calls == 2
    row = stored(docs)["4"]
    assert (row["text"], row["views"]) == ("zebra", 1000)


def test_ids_that_look_like_sql(docs):
    ids = ["o'brien", "x' OR '1'='1", '"q"', "ключ", "a\nb", ""]
    ft.write(docs, [{"id": name, "text": "hello"} for name in ids])
    report = ft.write(docs, [{"id": name, "text": "again"} for name in ids])
    assert report.n_updated == len(ids)
    assert ft.write(docs, [], delete=ids).n_deleted == len(ids)
    assert len(stored(docs)) == 120


@pytest.mark.parametrize(
    ("rows", "options", "error"),
    [
        ([{"text": "no id"}], {}, ColumnNotFoundError),
        ([{"id": None, "text": "x"}], {}, InputError),
        ([{"id": "1"}, {"id": "1"}], {}, InputError),
        ([{"id": "1", "nope": 3}], {}, ColumnNotFoundError),
        ([{"id": "1", "text": 7}], {}, InputError),
        ([{"id": "1", "text": "\ud800"}], {}, InputError),
        ([{"id": "1", "views": "many"}], {}, InputError),
        ([{"id": "1", "views": 2**70}], {}, InputError),
        ([{"id": "1", VECTOR: [0.0] * 16}], {}, InputError),
        ([{"id": "1", "text": "x"}, {"id": "2"}], {}, InputError),
        (["1"], {}, InputError),
        ("1", {}, InputError),
        ({"id": "1"}, {}, InputError),
        ([{"id": "1"}], {"embed": "later"}, InputError),
        ([{"id": "1"}], {"delete": ["1"]}, InputError),
        ([{"id": "1"}], {"delete": "1"}, InputError),
        ([{"id": "1"}], {"delete": [None]}, InputError),
        ([{"id": "1"}], {"delete": [3.5]}, InputError),
        ([{"id": "1"}], {"id_column": "nope"}, ColumnNotFoundError),
        (pa.table({"id": [1.5]}), {}, InputError),
    ],
)
def test_what_cannot_be_written_is_refused_by_name(templates, rows, options, error):
    import lancedb

    table = lancedb.connect(str(templates / "True")).open_table("docs")
    before = lance.dataset(table.uri).version
    with pytest.raises(error):
        ft.write(table, rows, **options)
    assert lance.dataset(table.uri).version == before
