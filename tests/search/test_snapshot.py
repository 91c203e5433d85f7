"""What the vector leg of one version finds, however few partitions are probed first."""

import pytest
from lancedb.index import IvfFlat

from lancedb_ft.search import Searcher
from tests.search.words import words_table


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
