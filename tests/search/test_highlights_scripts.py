"""Highlights in scripts and by tokenizers that Python's own idea of a word does not fit."""

import lance
import pyarrow as pa
import pytest
from lancedb.index import FTS

from lancedb_ft.errors import QueryError
from lancedb_ft.search import Highlight, SearchOptions, TextMatch, search
from tests.search.words import words_table


def texts_table(db, texts, **fts):
    table = db.create_table("texts", pa.table({"id": list(texts), "text": list(texts.values())}))
    table.create_index("text", config=FTS(**fts))
    return table


def marked(table, query, *, match=None, **how):
    highlight = Highlight(**{"before": "[", "after": "]", "escape": False, **how})
    options = SearchOptions(highlight=highlight, match=match)
    found = search(table, query, mode="fts", k=20, options=options)
    texts = (row["text"] for row in found["_highlights"].to_pylist())
    return dict(zip(found["id"].to_pylist(), texts, strict=True))


SCRIPTS = {
    "arabic": "كِتَاب",
    "bengali": "বাংলা",
    "burmese": "မြန်မာ",
    "circled": "Ⓐⓑ",
    "hebrew": "שָׁלוֹם",
    "hindi": "हिन्दी",
    "khmer": "ខ្មែរ",
    "tamil": "தமிழ்",
    "telugu": "తెలుగు",
    "thai": "ที่",
    "japanese": "日本語",
    "greek": "ελληνικά",
    "vietnamese": "tiếng",
}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    import lancedb

    db = lancedb.connect(str(tmp_path_factory.mktemp("scripts")))
    return texts_table(db, {name: f"xx {word}, yy" for name, word in SCRIPTS.items()})


@pytest.mark.parametrize("name", SCRIPTS)
def test_words_of_every_script_are_marked_whole(scripts, name):
    word = SCRIPTS[name]
    assert marked(scripts, word)[name] == f"xx [{word}], yy"


def test_words_that_the_index_finds_in_longer_ones_are_marked_alone(db):
    # The index ends a word at an accent that stands alone, and at the Hindi virama.
    texts = {"nfd": "cafe\u0301 cafe\u0301s", "hindi": "हिन्दी", "emoji": "1\ufe0f\u20e3 whale"}
    table = texts_table(db, texts, stem=False)
    assert marked(table, "cafe")["nfd"] == "[cafe\u0301] [cafe\u0301]s"
    assert marked(table, "दी")["hindi"] == "हिन्[दी]"
    assert marked(table, "1")["emoji"] == "[1\ufe0f\u20e3] whale"


def test_a_text_can_have_the_separators_of_words(db):
    texts = {
        "one": "zqxjkv office zqxjkv party zqxjkv lait",
        "folded": "ZQXJKV office \uff5aqxjkv party",
        "all": "zqxjkv qkzxvj xvqzjk office party",
    }
    table = texts_table(db, texts)
    assert marked(table, "office") == {
        "one": "zqxjkv [office] zqxjkv party zqxjkv lait",
        "folded": "ZQXJKV [office] \uff5aqxjkv party",
        "all": "zqxjkv qkzxvj xvqzjk [office] party",
    }
    assert marked(table, "lait") == {"one": "zqxjkv office zqxjkv party zqxjkv [lait]"}
    assert marked(table, "zqxjkv")["all"] == "[zqxjkv] qkzxvj xvqzjk office party"


def test_long_texts_are_read_to_their_end(db):
    words = "word " * 6000
    table = texts_table(db, {"a": f"needle {words}needle tail", "b": f"{words}haystack"})
    [whole] = marked(table, "needle", max_chars=None).values()
    assert whole == f"[needle] {words}[needle] tail"
    [piece] = marked(table, "haystack", max_chars=40).values()
    assert piece.startswith("…")
    assert piece.endswith(" word [haystack]")
    [piece] = marked(table, "needle", max_chars=40).values()
    assert piece.startswith("[needle] word")
    assert piece.endswith("…")


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ("read-csv", "[read-csv] foo.bar e-mail C++ c#"),
        ("c++", "read-csv foo.bar e-mail [C++] c#"),
        ("c# foo.bar", "read-csv [foo.bar] e-mail C++ [c#]"),
    ],
)
def test_words_of_an_index_that_splits_at_blanks(db, query, text):
    texts = {"a": "read-csv foo.bar e-mail C++ c#", "b": "plain words"}
    table = texts_table(db, texts, base_tokenizer="whitespace")
    assert marked(table, query) == {"a": text}


def test_texts_of_an_index_that_does_not_split(db):
    how = {"base_tokenizer": "raw", "stem": False, "remove_stop_words": False}
    table = texts_table(db, {"a": "Error 404", "b": "Error 405", "c": "two\nlines"}, **how)
    assert marked(table, "error 404") == {"a": "[Error 404]"}
    assert marked(table, "two\nlines") == {"c": "[two\nlines]"}


def test_words_of_an_index_by_unicode_rules(db):
    texts = {"en": "he can't foo_bar 3.14, foo", "zh": "全文搜索全文, naïve"}
    table = texts_table(db, texts, base_tokenizer="icu", stem=False)
    assert marked(table, "can't") == {"en": "he [can't] foo_bar 3.14, foo"}
    assert marked(table, "foo_bar 3.14") == {"en": "he can't [foo_bar] [3.14], foo"}
    assert marked(table, "全文") == {"zh": "[全文]搜索[全文], naïve"}


def test_pieces_of_words(db):
    table = texts_table(db, {"a": "(Naïve) c++ banana"}, base_tokenizer="ngram", stem=False)
    assert marked(table, "c++") == {"a": "(Naïve) [c++] banana"}
    assert marked(table, "naive") == {"a": "([Naïve]) c++ banana"}
    assert marked(table, "ana") == {"a": "(Naïve) c++ b[anana]"}


def test_identifiers_and_operators_of_code(db):
    table = texts_table(db, {"a": "max_x(x) -> getHTTPName"})
    lance.dataset(table.uri).create_scalar_index(
        "text",
        "INVERTED",
        name="text_idx",
        replace=True,
        analyzer="code",
        split_identifiers=True,
        index_operators=True,
    )
    table.checkout_latest()
    assert marked(table, "x") == {"a": "max_[x]([x]) -> getHTTPName"}
    assert marked(table, "http") == {"a": "max_x(x) -> get[HTTP]Name"}
    assert marked(table, "->") == {"a": "max_x(x) [->] getHTTPName"}


def test_fuzzy_words_of_other_scripts(scripts):
    near = marked(scripts, "ελληνικο", match=TextMatch(fuzziness=1))
    assert near == {"greek": "xx [ελληνικά], yy"}


def test_a_mark_that_reaches_into_a_piece_is_cut_with_it(db):
    how = {"base_tokenizer": "raw", "stem": False, "max_token_length": None}
    text = "words " * 20
    table = texts_table(db, {"a": text}, **how)
    assert marked(table, text, max_chars=20) == {"a": f"[{text[:20]}]…"}


def test_without_an_indexed_column_there_is_nothing_to_mark(db):
    options = SearchOptions(highlight=Highlight())
    found = search(words_table(db, fts=False), "document", mode="vector", k=2, options=options)
    assert found["_highlights"].to_pylist() == [{}, {}]


@pytest.mark.parametrize("name", ["before", "after"])
def test_marks_are_text_that_a_column_can_hold(name):
    with pytest.raises(QueryError, match=f"{name} is .*; it must be text"):
        Highlight(**{name: "\ud800"})
