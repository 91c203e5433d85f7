"""Which words of a query must stand in a row, and how near."""

import pyarrow as pa
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from lancedb_ft.search import search


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
