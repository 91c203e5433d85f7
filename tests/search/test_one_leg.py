"""What is asked for holds in the modes of one leg, and where `auto` picks one."""

import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.rerankers import Reranker

import lancedb_ft as ft
from lancedb_ft.errors import QueryError
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


def test_a_page_of_another_table_is_refused(db):
    options = ft.SearchOptions(page="first")
    first, other = words_table(db, n_rows=40), words_table(db, name="other", n_rows=40)
    token = ft.SearchInfo.of(search(first, "document", k=5, options=options)).next_page
    again = ft.SearchOptions(page=token)
    assert len(search(first, "document", k=5, options=again)) == 5
    with pytest.raises(QueryError, match="same table"):
        search(other, "document", k=5, options=again)


@pytest.fixture
def whales(db):
    texts = ["whale songs", "songs of birds", "the quiet sea"]
    table = db.create_table("sea", pa.table({"id": ["a", "b", "c"], "title": texts}))
    table.create_index("title", config=FTS())
    return table


@pytest.mark.parametrize("fuzziness", [0, 1, 2, "auto"])
def test_stop_words_are_none_of_all_the_words(whales, fuzziness):
    match = ft.SearchOptions(match=ft.TextMatch("all", fuzziness=fuzziness))
    for query in ("whale songs", "the whale songs", "how do whale songs"):
        found = search(whales, query, mode="fts", options=match)
        assert found["id"].to_pylist() == ["a"], query
    assert search(whales, "whale birds", mode="fts", options=match).num_rows == 0
    assert search(whales, "the of", mode="fts", options=match).num_rows == 0


def test_fuzzy_words_beside_stop_words(whales):
    match = ft.SearchOptions(match=ft.TextMatch("all", fuzziness="auto"))
    found = search(whales, "how do the whalle songz", mode="fts", options=match)
    assert found["id"].to_pylist() == ["a"]


@pytest.mark.parametrize("word", ["w" * 300, "x" * 41, "鯨" * 500, "-".join(["aquarium"] * 50)])
@pytest.mark.parametrize("words", ["any", "all"])
def test_a_very_long_word_is_asked_for_as_it_is(whales, word, words):
    def found(fuzziness):
        match = ft.SearchOptions(match=ft.TextMatch(words, fuzziness=fuzziness))
        return search(whales, f"{word} whale", mode="fts", options=match)["id"].to_pylist()

    assert found(2) == found(0)
    assert words == "all" or found(2) == ["a"]
