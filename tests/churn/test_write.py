"""Rows written by id: found at once, embedded when asked to, whatever stands in the table."""

import threading
from datetime import datetime
from importlib import import_module

import lance
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from lancedb_ft.errors import ColumnNotFoundError, InputError, StoreError
from lancedb_ft.search import Searcher
from tests.reindex.marked import assert_all_of, new_table, reopened
from tests.search.words import DIMS as WORDS_DIMS
from tests.search.words import Words, raw_table, unit, words_table

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


@pytest.mark.parametrize("texts", [("the same", "zebra"), ("zebra", "the same")])
def test_an_id_that_stands_twice_is_made_one_by_its_next_write(db, texts):
    table = db.create_table("kb", [{"id": "a", "text": texts[0]}, {"id": "b", "text": "okapi"}])
    table.add([{"id": "a", "text": texts[1]}])
    table.create_index("text", config=FTS())
    same = [{"id": "a", "text": "the same"}, {"id": "b", "text": "okapi"}]
    report = ft.write(table, same)
    assert (report.n_updated, report.n_unchanged) == (1, 1)
    rows = lance.dataset(table.uri).to_table().sort_by("id").to_pylist()
    assert rows == same
    assert found_by(table, "zebra") == []
    assert ft.write(table, same).n_unchanged == 2


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


def test_many_small_edits_do_not_lead_to_the_vector_of_another_text(docs):
    words = stored(docs)["4"]["text"].split()
    kept = []
    for n in range(len(words)):
        words[n] = f"zz{n}"
        ft.write(docs, [{"id": "4", "text": " ".join(words)}])
        kept.append(stored(docs)["4"][VECTOR] is not None)
    assert kept[0]
    assert not any(kept[1:])


def test_a_deferred_row_whose_text_stays_keeps_what_it_has(docs):
    text = stored(docs)["4"]["text"]
    ft.write(docs, [{"id": "4", "text": text + " today"}])
    report = ft.write(docs, [{"id": "4", "views": 7}])
    row = stored(docs)["4"]
    assert (report.n_deferred, row["views"], row[VECTOR + "_hash"]) == (1, 7, None)
    assert row[VECTOR] is not None


def test_a_vector_that_a_plain_update_left_behind_is_not_kept(docs):
    reopened(docs).update(where="id = '4'", values={"text": "zebra crossing"})
    ft.write(docs, [{"id": "4", "text": "zebra crossings"}])
    assert stored(docs)["4"][VECTOR] is None
    reopened(docs).update(where="id = '5'", values={"text": "okapi"})
    ft.write(docs, [{"id": "5", "views": 8}])
    assert stored(docs)["5"][VECTOR] is None


def test_vectors_of_an_unknown_model_are_the_callers(db):
    table = raw_table(db)
    before = lance.dataset(table.uri).version
    new, changed = {"id": "n1", "text": "brand new"}, {"id": "d1", "text": "other text"}
    for rows, embed in (([new], "now"), ([changed], "now"), ([changed], "defer")):
        with pytest.raises(InputError, match="which model made column 'vector'"):
            ft.write(table, rows, embed=embed)
    assert lance.dataset(table.uri).version == before
    assert ft.write(table, [new]).n_deferred == 1
    mine = list(map(float, unit("other text")))
    assert ft.write(table, [changed | {"vector": mine}], embed="now").n_updated == 1
    assert ft.write(table, [{"id": "d2", "text": "more", "vector": None}]).n_deferred == 1
    assert ft.write(table, [{"id": "d3", "text": stored(table)["d3"]["text"]}]).n_unchanged == 1
    rows = stored(table)
    assert rows["d1"]["vector"] == mine
    assert rows["n1"]["vector"] is rows["d2"]["vector"] is None
    report = ft.settle(table, ft.Tiers(where="false"))
    assert (report.n_read, "re-indexed with a model" in report.notes[0]) == (0, True)


@pytest.mark.parametrize(
    "made",
    [[np.nan] * WORDS_DIMS, [0.5] * 3, None, 0.5, [1e300] * WORDS_DIMS],
    ids=["NaN", "short", "none", "number", "too large"],
)
def test_what_is_no_vector_is_not_written(db, monkeypatch, made):
    table = words_table(db, n_rows=5)
    ft.write(table, [{"id": "d2", "text": "waits"}])
    before = lance.dataset(table.uri).version
    monkeypatch.setattr(Words, "generate_embeddings", lambda self, texts: [made for _ in texts])
    with pytest.raises(StoreError, match="finite numbers"):
        ft.write(table, [{"id": "d1", "text": "nanny"}], embed="now")
    with pytest.raises(StoreError, match="finite numbers"):
        ft.settle(table, ft.Tiers(where="false"))
    assert lance.dataset(table.uri).version == before


@pytest.mark.parametrize(
    "kind", [pa.float16(), pa.float32(), pa.float64(), pa.list_(pa.float32())], ids=str
)
def test_nan_is_the_same_as_before(db, kind):
    nan = float("nan")
    value = [nan, 1.0] if pa.types.is_nested(kind) else nan
    rows = pa.table({"id": ["a"], "f": pa.array([value], kind)})
    table = db.create_table("t", rows)
    assert ft.write(table, rows).n_unchanged == 1
    other = rows.set_column(1, "f", pa.array([None], kind))
    assert (ft.write(table, other).n_updated, ft.write(table, rows).n_updated) == (1, 1)


def test_frames_with_categories_and_views(db):
    import pandas as pd

    table = words_table(db, n_rows=3, fts=False)
    frame = pd.DataFrame({"id": pd.Categorical(["d1", "x"]), "text": ["new", "newer"]})
    assert ft.write(table, frame).n_inserted == 1
    views = pa.table({"id": pa.array(["d2"], pa.string_view()), "text": ["newest"]})
    assert ft.write(table, views).n_updated == 1
    assert {row["text"] for row in stored(table).values()} == {
        "document number 0", "new", "newer", "newest",
    }  # fmt: skip


def test_many_rows_are_several_commits_and_the_same_call_goes_on(docs, monkeypatch):
    module = import_module("lancedb_ft.churn.write")
    monkeypatch.setattr(module, "_WINDOW", 2)
    commit, n_calls = module._commit, 0

    def full(*arguments):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 2:
            raise OSError("disk full")
        return commit(*arguments)

    rows = [{"id": f"x{i}", "text": "t"} for i in range(5)]
    with monkeypatch.context() as patch:
        patch.setattr(module, "_commit", full)
        with pytest.raises(OSError, match="disk full"):
            ft.write(docs, rows, delete=["0"])
    assert len(stored(docs)) == 121
    report = ft.write(docs, rows, delete=["0"])
    assert (report.n_inserted, report.n_unchanged, report.n_deleted) == (3, 2, 0)


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
