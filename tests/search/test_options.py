"""What a query can ask for beyond its rows."""

import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS

from lancedb_ft.errors import (
    ColumnNotFoundError,
    InputError,
    NoPositionsError,
    NoTextIndexError,
    QueryError,
)
from lancedb_ft.search import (
    Facet,
    Fusion,
    Highlight,
    LearnedRanking,
    SearchInfo,
    SearchOptions,
    TextMatch,
    Tiers,
    explain,
    search,
)
from tests.search.words import DIMS, unit, words_table

BOOKS = [
    ("a", "whales", "ships and more ships", ["sea"]),
    ("b", "ships", "the whales swim quickly", ["sea", "zoo"]),
    ("c", "dogs", "a big red dog ran home", ["zoo"]),
    ("d", "cats", "a red and big dog", None),
    ("e", "running", "He runs <b>& jumps</b>", ["sport"]),
]


def books_table(db, name="books", *, with_position=True, n_fresh=1):
    vectors = np.concatenate([unit(text) for _, _, text, _ in BOOKS])
    names = ("id", "title", "text", "tags")
    columns = {n: list(values) for n, values in zip(names, zip(*BOOKS, strict=True), strict=True)}
    columns["vector"] = pa.FixedSizeListArray.from_arrays(pa.array(vectors), DIMS)
    table = db.create_table(name, pa.table(columns))
    for column in ("title", "text"):
        table.create_index(column, config=FTS(with_position=with_position))
    fresh = {"id": "f", "title": "fresh", "text": "one big red dog more", "tags": ["zoo"]}
    if n_fresh:
        table.add([{**fresh, "vector": unit(fresh["text"])}])
    return table


@pytest.fixture(scope="module")
def books(tmp_path_factory):
    import lancedb

    return books_table(lancedb.connect(str(tmp_path_factory.mktemp("books"))))


def ids(table, query, **asked):
    asked.setdefault("mode", "fts")
    return search(table, query, **asked)["id"].to_pylist()


def matching(words="any", **asked):
    return SearchOptions(match=TextMatch(words, **asked))


# --- words, phrases, fuzzy -----------------------------------------------------------------


def test_all_words_must_stand_in_one_column(books):
    assert set(ids(books, "big dog swim")) == {"b", "c", "d", "f"}
    assert set(ids(books, "big dog", options=matching("all"))) == {"c", "d", "f"}
    assert ids(books, "ships swim", options=matching("all")) == []
    assert ids(books, "whales swim", options=matching("all"), text_columns=["text"]) == ["b"]


def test_a_phrase_is_in_order_also_in_rows_that_no_index_has(books):
    assert set(ids(books, "big red", options=matching("phrase"))) == {"c", "f"}
    assert ids(books, "red big", options=matching("phrase")) == []
    assert ids(books, "red big", options=matching("phrase", slop=1)) == ["d"]
    hybrid = search(books, "big red", options=matching("phrase"), vector=unit("x"), k=6)
    assert hybrid.num_rows == 6  # the vector leg brings the others
    assert set(hybrid["id"].to_pylist()[:2]) == {"c", "f"}


def test_a_phrase_in_several_columns_has_the_score_of_its_best_one(books):
    phrase = matching("phrase")
    one = search(books, "whales", mode="fts", text_columns={"title": 1.0}, options=phrase)
    both = search(books, "whales", mode="fts", options=phrase)
    weighted = search(
        books, "whales", mode="fts", text_columns={"title": 0.5, "text": 4}, options=phrase
    )
    assert one["id"].to_pylist() == ["a"]
    assert set(both["id"].to_pylist()) == {"a", "b"}
    assert weighted["id"].to_pylist() == ["b", "a"]
    scores = dict(zip(weighted["id"].to_pylist(), weighted["_score"].to_pylist(), strict=True))
    assert scores["a"] == pytest.approx(one["_score"][0].as_py() / 2)


def test_a_phrase_needs_positions(db):
    table = books_table(db, with_position=False, n_fresh=0)
    with pytest.raises(NoPositionsError, match="with_position=True") as caught:
        ids(table, "big red", options=matching("phrase"))
    assert caught.value.column in ("title", "text")
    assert ids(table, "big red", options=matching("all"))


def test_fuzzy_words(books):
    assert ids(books, "whsle") == []
    assert set(ids(books, "whsle", options=matching(fuzziness=1))) == {"a", "b"}
    assert set(ids(books, "whsla", options=matching(fuzziness=2))) == {"a", "b"}
    assert set(ids(books, "whsle", options=matching(fuzziness="auto"))) == {"a", "b"}
    mixed = matching("all", fuzziness="auto")
    assert ids(books, "teh whsles swom", text_columns=["text"], options=mixed) == []
    assert ids(books, "whsles swom", text_columns=["text"], options=mixed) == ["b"]
    either = matching(fuzziness="auto")
    assert set(ids(books, "whsles dag", text_columns=["text"], options=either)) == {"b", "c", "d"}
    assert ids(books, "whsle", options=matching(fuzziness=1, prefix_length=3)) == []
    assert set(ids(books, "bxg dag", options=matching("all", fuzziness=1))) == {"c", "d"}


def test_boosts_decide_between_columns(books):
    assert ids(books, "ships", text_columns={"title": 10, "text": 1}) == ["b", "a"]
    assert ids(books, "ships", text_columns={"title": 0.01, "text": 1}) == ["a", "b"]
    assert ids(books, "ships", text_columns={"title": 1}) == ["b"]


@pytest.mark.parametrize("boost", [0, -1, float("nan"), float("inf"), "2", None, True, 10**400])
def test_a_boost_is_a_positive_number(books, boost):
    with pytest.raises(QueryError, match="boost of 'title'"):
        ids(books, "ships", text_columns={"title": boost})


# --- bounds --------------------------------------------------------------------------------


def test_min_score(books):
    found = search(books, "big dog swim", mode="fts")
    scores = found["_score"].to_pylist()
    kept = search(books, "big dog swim", mode="fts", options=SearchOptions(min_score=scores[1]))
    assert kept["_score"].to_pylist() == [s for s in scores if s >= scores[1]]
    assert search(books, "dog", mode="fts", options=SearchOptions(min_score=1e6)).num_rows == 0
    fused = search(books, "dog", vector=unit("x"), options=SearchOptions(min_score=1 / 62))
    assert all(score >= 1 / 62 - 1e-9 for score in fused["_relevance_score"].to_pylist())
    with pytest.raises(QueryError, match="max_distance"):
        search(books, None, vector=unit("x"), mode="vector", options=SearchOptions(min_score=0.5))


def test_max_distance(books):
    near = SearchOptions(max_distance=0.01)
    query = BOOKS[2][2]
    vector = unit(query)
    assert ids(books, None, vector=vector, mode="vector", options=near) == ["c"]
    assert ids(books, "swim", vector=vector, mode="hybrid", options=near) in (
        ["b", "c"],
        ["c", "b"],
    )
    with pytest.raises(QueryError, match="no distances"):
        ids(books, "swim", options=near)


# --- facets --------------------------------------------------------------------------------


def test_facets_count_all_rows_that_match(books):
    asked = SearchOptions(facets=["tags", "title"], n_facet_values=2)
    found = search(books, "big dog swim", mode="fts", k=1, options=asked)
    info = SearchInfo.of(found)
    assert found.num_rows == 1
    assert info.n_matching == 4
    assert info.facets["tags"] == Facet((("zoo", 3), ("sea", 1)))
    assert info.facets["title"].n_other == 2
    assert info.version == books.version
    filtered = search(books, "big dog swim", mode="fts", where="id <> 'c'", options=asked)
    assert SearchInfo.of(filtered).facets["tags"] == Facet((("zoo", 2), ("sea", 1)))


def test_facets_of_a_hybrid_query_count_what_either_leg_brought_once(books):
    asked = SearchOptions(facets=["tags"])
    vector = unit(BOOKS[4][2])
    found = search(books, "swim", vector=vector, k=1, options=asked)
    assert SearchInfo.of(found).n_matching == 2
    assert dict(SearchInfo.of(found).facets["tags"].values) == {"sea": 1, "zoo": 1, "sport": 1}
    nearest = search(books, None, vector=vector, mode="vector", k=1, options=asked)
    assert SearchInfo.of(nearest).facets["tags"] == Facet((("sport", 1),))
    phrase = SearchOptions(facets=["title"], match=TextMatch("phrase"))
    several = search(books, "whales", mode="fts", options=phrase)
    assert SearchInfo.of(several).n_matching == 2


def test_facets_do_not_count_deleted_rows(db):
    table = words_table(db, n_rows=90)
    table.delete("`group` = 1")
    table.optimize()
    table.delete("id = 'd3'")
    found = search(table, "document", mode="fts", options=SearchOptions(facets=["group"]))
    assert dict(SearchInfo.of(found).facets["group"].values) == {0: 29, 2: 30}


def test_facets_must_be_countable(books):
    with pytest.raises(QueryError, match="cannot be counted"):
        search(books, "x", mode="fts", options=SearchOptions(facets=["vector"]))
    with pytest.raises(ColumnNotFoundError):
        search(books, "x", mode="fts", options=SearchOptions(facets=["nope"]))


# --- highlights ----------------------------------------------------------------------------


def marked(table, query, *, mode="fts", match=None, **how):
    options = SearchOptions(highlight=Highlight(**how), match=match)
    found = search(table, query, mode=mode, options=options, k=6, vector=None)
    return dict(zip(found["id"].to_pylist(), found["_highlights"].to_pylist(), strict=True))


def test_highlights_read_words_as_the_index_does(books):
    told = marked(books, "running WHALE the")
    assert told["b"] == {"title": None, "text": "the <mark>whales</mark> swim quickly"}
    assert told["a"] == {"title": "<mark>whales</mark>", "text": None}
    assert told["e"]["title"] == "<mark>running</mark>"
    assert told["e"]["text"] == "He <mark>runs</mark> &lt;b&gt;&amp; jumps&lt;/b&gt;"


def test_highlights_are_as_asked(books):
    plain = marked(books, "jump", columns=["text"], before="[", after="]", escape=False)
    assert plain == {"e": {"text": "He runs <b>& [jumps]</b>"}}
    fuzzy = marked(books, "whsle", columns=["title"], match=TextMatch(fuzziness=1))
    assert fuzzy["a"] == {"title": "<mark>whales</mark>"}


def test_a_long_text_is_cut_to_where_its_words_are(db):
    text = "nothing here " * 50 + "a zebra and another zebra " + "nothing more " * 50
    table = db.create_table("long", [{"id": "x", "text": text, "title": "t"}])
    table.create_index("text", config=FTS())
    [cut] = marked(table, "zebra", max_chars=60).values()
    assert cut["text"].count("<mark>zebra</mark>") == 2
    assert cut["text"].startswith("…")
    assert cut["text"].endswith("…")
    assert len(cut["text"].replace("<mark>", "").replace("</mark>", "")) <= 62
    [whole] = marked(table, "zebra", max_chars=None).values()
    assert whole["text"].replace("<mark>", "").replace("</mark>", "") == text


def test_highlights_in_other_scripts_and_tokenizers(db):
    rows = [
        {"id": "ngram", "text": "the backgrounds"},
        {"id": "accent", "text": "Déjà_vu naïve"},
        {"id": "blank", "text": ""},
        {"id": "null", "text": None},
    ]
    table = db.create_table("odd", rows)
    table.create_index("text", config=FTS(base_tokenizer="ngram"))
    assert "<mark>" in marked(table, "ground")["ngram"]["text"]
    table.create_index("text", config=FTS(ascii_folding=True), replace=True)
    assert marked(table, "deja")["accent"]["text"] == "<mark>Déjà</mark>_vu naïve"


def test_what_cannot_be_highlighted(books):
    with pytest.raises(ColumnNotFoundError, match="text"):
        marked(books, "dog", columns=["tags"])
    with pytest.raises(ColumnNotFoundError):
        marked(books, "dog", columns=["nope"])


# --- the values ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "make",
    [
        lambda: TextMatch(words="some"),
        lambda: TextMatch(words=None),
        lambda: TextMatch(words=["any"]),
        lambda: TextMatch(fuzziness=3),
        lambda: TextMatch(fuzziness=-1),
        lambda: TextMatch(fuzziness=True),
        lambda: TextMatch(fuzziness="1"),
        lambda: TextMatch(words="phrase", fuzziness=1),
        lambda: TextMatch(words="phrase", slop=-1),
        lambda: TextMatch(words="phrase", slop=10**30),
        lambda: TextMatch(slop=1),
        lambda: TextMatch(prefix_length=2.5),
        lambda: Highlight(columns="text"),
        lambda: Highlight(columns=[]),
        lambda: Highlight(before=None),
        lambda: Highlight(max_chars=0),
        lambda: SearchOptions(match="phrase"),
        lambda: SearchOptions(highlight=True),
        lambda: SearchOptions(page=1),
        lambda: SearchOptions(min_score=float("nan")),
        lambda: SearchOptions(min_score="0.5"),
        lambda: SearchOptions(max_distance=float("inf")),
        lambda: SearchOptions(max_distance=10**400),
        lambda: SearchOptions(facets="tags"),
        lambda: SearchOptions(facets=[]),
        lambda: SearchOptions(facets=[1]),
        lambda: SearchOptions(facets=7),
        lambda: SearchOptions(n_facet_values=0),
        lambda: SearchOptions(budget_ms=0),
        lambda: SearchOptions(budget_ms=-5),
        lambda: SearchOptions(budget_ms=1e12),
    ],
)
def test_values_are_checked(make):
    with pytest.raises(QueryError):
        make()


def test_options_that_do_not_fit_the_mode(books):
    with pytest.raises(QueryError, match="SearchOptions"):
        search(books, "x", options={"min_score": 1})
    with pytest.raises(QueryError, match="matches no words"):
        search(books, "x", mode="vector", vector=unit("x"), options=matching("all"))
    with pytest.raises(NoTextIndexError):
        ids(books, "x", text_columns={"id": 2.0})
    with pytest.raises(InputError, match="Arrow table"):
        SearchInfo.of("nothing")


def test_what_is_not_asked_for_is_not_there(books):
    found = search(books, "dog", mode="fts")
    assert found.schema.metadata is None
    assert found.column_names == ["id", "title", "text", "tags", "_score"]
    assert SearchInfo.of(found) == SearchInfo()


def test_tiers_are_merged_by_reciprocal_rank_alone(books):
    tiers, by_rank = Tiers(where="false"), Fusion.rrf().with_candidates(50)
    for fusion in (None, "rrf", by_rank, LearnedRanking(), LearnedRanking(fusion=by_rank)):
        asked = SearchOptions(tiers=tiers, fusion=fusion)
        assert "order    rrf\n" in str(explain(books, "ships", embedder=unit, options=asked))
    other = Fusion.relative()
    for fusion in ("relative", "weighted", "learned", other, LearnedRanking(fusion=other)):
        with pytest.raises(QueryError, match="merged by reciprocal rank"):
            SearchOptions(tiers=tiers, fusion=fusion)
