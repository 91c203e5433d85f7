"""The versions of a table that are searched: what is found in one, what is kept of them all."""

import pytest
from lancedb.index import IvfFlat

from lancedb_ft.search import Searcher, followed
from tests.search.words import rows, words_table


@pytest.mark.parametrize("where", [None, "id != 'd7'"])
def test_partitions_that_are_not_probed_first_are_searched_when_rows_are_missing(db, where):
    table = words_table(db, n_rows=200)
    table.create_index("vector", config=IvfFlat(num_partitions=20))
    with Searcher(table, nprobes=1) as few, Searcher(table, nprobes=20) as all_of_them:
        for number in (3, 7, 150):
            query = f"document number {number}"
            for k in (1, 100, 200):
                found, right = (
                    s.search(query, k=k, mode="vector", where=where) for s in (few, all_of_them)
                )
                assert len(found) == len(right) == min(k, 200 if where is None else 199)
                if k >= 199:
                    assert found["id"].to_pylist() == right["id"].to_pylist()
            if where is None or number != 7:
                first = few.search(query, k=1, mode="vector", where=where)
                assert first["id"].to_pylist() == [f"d{number}"]


def test_what_is_kept_of_the_versions_that_were_followed_is_bounded(db, monkeypatch):
    table = words_table(db)
    with Searcher(table) as by_default:
        monkeypatch.setattr(followed, "_METADATA_CACHE_BYTES", 100_000)
        with Searcher(table) as bounded:
            for n in range(200, 280):
                table.add(rows(n, n + 1))
                for searcher in (by_default, bounded):
                    found = searcher.search(f"document number {n}", k=1, mode="fts")
                    assert found["id"].to_pylist() == [f"d{n}"]
            kept, most = (
                s._table.current().ds.session().size_bytes() for s in (bounded, by_default)
            )
    assert most > 2_000_000  # it is what grows
    assert kept < 500_000
