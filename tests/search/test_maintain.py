"""Indexes stay current while others write, and nothing stands in anybody's way."""

import time
from importlib import import_module

import lance
import pytest
from lancedb.index import BTree, IvfFlat

import lancedb_ft as ft
from lancedb_ft.errors import InputError
from lancedb_ft.search import Searcher
from tests.search.words import rows, words_table

EAGER = ft.Maintenance(min_rows=5, max_unindexed=0.0, quiet_s=3600)
QUIET = ft.Maintenance(min_rows=5, max_unindexed=0.0, quiet_s=0)


@pytest.fixture(params=["true", "false"], ids=["stable ids", "addresses"])
def docs(db, request):
    table = words_table(db, n_rows=200, stable_row_ids=request.param)
    table.create_index("vector", config=IvfFlat(num_partitions=2))
    return table


def unindexed(table):
    return {index.name: index.n_unindexed for index in ft.index_status(table).indexes}


def test_only_what_is_more_than_the_bound_is_put_in(docs):
    docs.add(rows(200, 204))
    assert not ft.maintain(docs, EAGER).did_something
    docs.add(rows(204, 210))
    report = ft.maintain(docs, EAGER)
    assert {(work.name, work.n_unindexed) for work in report.indexes} == {
        ("text_idx", 10),
        ("vector_idx", 10),
    }
    assert unindexed(docs) == {"text_idx": 0, "vector_idx": 0}
    share = ft.Maintenance(min_rows=0, max_unindexed=0.1, quiet_s=3600)
    docs.add(rows(210, 230))
    assert not ft.maintain(docs, share).did_something
    docs.add(rows(230, 240))
    assert len(ft.maintain(docs, share).indexes) == 2


def test_parts_are_merged_when_there_are_many(docs):
    options = ft.Maintenance(min_rows=1, max_unindexed=0.0, max_parts=3, quiet_s=3600)
    parts = []
    for start in range(200, 240, 5):
        docs.add(rows(start, start + 5))
        ft.maintain(docs, options)
        parts.append(max(index.n_parts for index in ft.index_status(docs).indexes))
    assert max(parts) <= 4
    assert set(unindexed(docs).values()) == {0}
    for number in (3, 199, 201, 239):
        for mode in ("fts", "vector"):
            found = ft.search(docs, f"document number {number}", mode=mode, k=3)
            assert found["id"].to_pylist()[0] == f"d{number}"


def test_files_are_compacted_only_while_nobody_writes(docs):
    for start in range(200, 230, 3):
        docs.add(rows(start, start + 3))
    busy = ft.maintain(docs, EAGER)
    assert (busy.quiet, busy.n_compacted_files) == (False, 0)
    quiet = ft.maintain(docs, QUIET)
    assert quiet.quiet
    assert quiet.n_compacted_files > 5
    while ft.maintain(docs, QUIET).did_something:
        pass  # ends: what was tidied is not tidied again
    status = ft.index_status(docs)
    assert status.n_fragments == 1
    assert {index.n_parts for index in status.indexes} == {1}
    assert ft.search(docs, "document number 215", k=1)["id"].to_pylist() == ["d215"]


def test_small_files_are_merged_beside_writers_and_large_ones_stay(docs, monkeypatch):
    monkeypatch.setattr(import_module("lancedb_ft.search.maintain"), "SMALL_FILE_ROWS", 100)
    options = ft.Maintenance(min_rows=1000, max_files=6, quiet_s=3600)
    large = lance.dataset(docs.uri).get_fragments()[0].metadata.id
    docs.delete("id IN ('d3', 'd5')")  # in the large one, which is not rewritten for that
    for number in range(200, 206):
        docs.add(rows(number, number + 1))
    assert not ft.maintain(docs, options).did_something
    docs.add(rows(206, 207))
    report = ft.maintain(docs, options)
    assert (report.n_compacted_files, report.quiet, report.lost) == (7, False, [])
    fragments = lance.dataset(docs.uri).get_fragments()
    assert [f.physical_rows for f in fragments] == [200, 7]
    assert (fragments[0].metadata.id, fragments[0].num_deletions) == (large, 2)
    docs.checkout_latest()
    assert docs.count_rows() == 205
    for number in (2, 4, 201, 206):
        for mode in ("fts", "vector"):
            found = ft.search(docs, f"document number {number}", mode=mode, k=3)
            assert found["id"].to_pylist()[0] == f"d{number}"
    docs.add(rows(207, 208))
    off = ft.Maintenance(min_rows=1000, max_files=1, quiet_s=3600, compact=False)
    assert not ft.maintain(docs, off).did_something


def test_old_versions_go_beside_writers_too_now_and_then(docs, monkeypatch):
    maintain = import_module("lancedb_ft.search.maintain")
    from lancedb_ft.search.place import place_of

    options = ft.Maintenance(min_rows=1000, quiet_s=3600, keep_versions=0.01)
    mine = maintain.Maintainer(place_of(docs), options)
    docs.add(rows(200, 201))
    time.sleep(0.05)
    assert mine.round().n_removed_versions == 0
    monkeypatch.setitem(maintain._CLEAN_EVERY_S, False, 0.0)
    assert mine.round().n_removed_versions > 0
    assert lance.dataset(docs.uri).count_rows() == 201


def test_its_own_commits_are_no_writing(docs):
    maintainer = import_module("lancedb_ft.search.maintain").Maintainer
    from lancedb_ft.search.place import place_of

    mine = maintainer(place_of(docs), ft.Maintenance(min_rows=5, max_unindexed=0.0, quiet_s=0.6))
    docs.add(rows(200, 210))
    first = mine.round()
    assert (len(first.indexes), first.quiet) == (2, False)
    time.sleep(0.7)
    assert mine.round().quiet
    docs.add(rows(210, 211))
    assert not mine.round().quiet


def test_tags_keep_their_versions(docs):
    docs.add(rows(200, 210))
    lance.dataset(docs.uri).tags.create("release", docs.version)
    tagged = docs.version
    docs.add(rows(210, 220))
    time.sleep(0.05)
    options = ft.Maintenance(min_rows=5, quiet_s=0, keep_versions=0.01)
    assert ft.maintain(docs, options).n_removed_versions > 0
    assert lance.dataset(docs.uri, version="release").count_rows() == 210
    assert tagged in {found["version"] for found in lance.dataset(docs.uri).versions()}


def test_a_round_that_loses_says_so_and_the_next_one_does_it(docs, monkeypatch):
    docs.add(rows(200, 210))
    lost = OSError("Retryable commit conflict for version 9: preempted by concurrent transaction")
    optimizer = import_module("lance.dataset").DatasetOptimizer
    with monkeypatch.context() as patch:
        patch.setattr(optimizer, "optimize_indices", lambda *a, **k: (_ for _ in ()).throw(lost))
        assert ft.maintain(docs, EAGER).lost == ["index text_idx", "index vector_idx"]
    assert len(ft.maintain(docs, EAGER).indexes) == 2


def test_scalar_indexes_too(docs):
    docs.create_index("id", config=BTree())
    docs.add(rows(200, 210))
    ft.maintain(docs, EAGER)
    assert unindexed(docs)["id_idx"] == 0


@pytest.mark.parametrize("options", [EAGER, QUIET], ids=["eager", "quiet"])
def test_lancedb_goes_on_using_a_scalar_index(db, docs, options):
    docs.create_index("id", config=BTree(), name="key")
    for start in (200, 300):
        docs.add(rows(start, start + 100))
        ft.maintain(docs, options)
    table = db.open_table(docs.name)
    assert ("key", "BTree") in [(index.name, index.index_type) for index in table.list_indices()]
    assert table.index_stats("key").num_unindexed_rows == 0
    query = table.search().where("id = 'd305'")
    assert "ScalarIndexQuery" in query.explain_plan(True)
    assert query.to_arrow()["id"].to_pylist() == ["d305"]
    assert table.search().where("id = 'd5'").to_arrow().num_rows == 1


def test_a_searcher_maintains_its_table(docs):
    options = ft.Maintenance(min_rows=5, max_unindexed=0.0, quiet_s=3600, every_s=0.02)
    with Searcher(docs, maintenance=options) as searcher:
        docs.add(rows(200, 220))
        until = time.monotonic() + 20
        while any(unindexed(docs).values()) and time.monotonic() < until:
            time.sleep(0.05)
        assert not any(unindexed(docs).values())
        assert searcher.search("document number 219", k=1)["id"].to_pylist() == ["d219"]
        thread = searcher.maintenance
    assert thread.n_failed == 0
    assert not thread._thread.is_alive()


def test_what_unindexed_rows_cost_is_measured(docs):
    cheap = {index.name: index.cost_ms for index in ft.index_status(docs).indexes}
    assert cheap == {"text_idx": 0.0, "vector_idx": 0.0}
    docs.add(rows(200, 6000))
    found = {index.name: index for index in ft.index_status(docs).indexes}
    assert found["text_idx"].n_unindexed == 5800
    assert found["text_idx"].cost_ms > 0.1
    unmeasured = ft.index_status(docs, measure=False)
    assert [index.cost_ms for index in unmeasured.indexes] == [None, None]


@pytest.mark.parametrize(
    "arguments",
    [
        {"max_unindexed": -0.1},
        {"max_unindexed": 2},
        {"max_unindexed": float("nan")},
        {"max_unindexed": "1%"},
        {"min_rows": -1},
        {"max_parts": 1},
        {"max_files": 0},
        {"quiet_s": -1},
        {"every_s": 0},
        {"keep_versions": "long"},
    ],
)
def test_options_that_are_none(arguments):
    with pytest.raises(InputError):
        ft.Maintenance(**arguments)
