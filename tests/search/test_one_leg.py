"""What is asked for holds in the modes of one leg, and where `auto` picks one."""

import pyarrow as pa
import pytest
from lancedb.rerankers import Reranker

import lancedb_ft as ft
from lancedb_ft.search import Searcher, search
from lancedb_ft.search.auto import AutoMode
from tests.search.words import words_table

ALWAYS_VECTOR = ft.LearnedRanking(auto=AutoMode("vector", {}))
ALWAYS_FTS = ft.LearnedRanking(auto=AutoMode("fts", {}))


class Backwards(Reranker):
    """Turns around what it reads, and counts it."""

    n_read = 0

    def rerank_fts(self, query, fts_results):
        self.n_read += fts_results.num_rows
        scores = pa.array([float(n) for n in range(fts_results.num_rows)], pa.float32())
        found = fts_results.append_column("_relevance_score", scores)
        return found.sort_by([("_relevance_score", "descending")])

    def rerank_vector(self, query, vector_results):
        return self.rerank_fts(query, vector_results)

    def rerank_hybrid(self, query, vector_results, fts_results):
        return self.rerank_fts(query, fts_results)


@pytest.mark.parametrize("mode", ["vector", "fts", "hybrid"])
def test_a_reranker_leaves_core_rows_where_they_are(db, mode):
    table = words_table(db, n_rows=60)
    plain = search(table, "document number 7", mode=mode, k=8)
    for where, n_hot in (("id = 'none'", 0), ("id = 'd7'", 1)):
        reranker = Backwards()
        options = ft.SearchOptions(tiers=ft.Tiers(where=where))
        with Searcher(table) as searcher:
            found = searcher.search(
                "document number 7", mode=mode, k=8, options=options, reranker=reranker
            )
        assert found["_tier"].to_pylist().count("hot") <= n_hot
        core = [row["id"] for row in found.to_pylist() if row["_tier"] == "core"]
        expected = [i for i in plain["id"].to_pylist() if i in core]
        assert core[: len(expected)] == expected
        assert bool(reranker.n_read) == bool(n_hot)
        scores = found["_relevance_score"].to_pylist()
        assert scores == sorted(scores, reverse=True)


def test_auto_drops_nothing_that_was_asked_for(db):
    table = words_table(db, n_rows=60)
    match = ft.SearchOptions(fusion=ALWAYS_VECTOR, match=ft.TextMatch("all"))
    found = search(table, "number 7", mode="auto", k=3, options=match)
    assert "_relevance_score" in found.column_names
    near = ft.SearchOptions(fusion=ALWAYS_FTS, max_distance=0.1)
    found = search(table, "number 7", mode="auto", k=30, options=near)
    assert "_relevance_score" in found.column_names
    plain = ft.SearchOptions(fusion=ALWAYS_FTS)
    assert "_score" in search(table, "number 7", mode="auto", k=3, options=plain).column_names
