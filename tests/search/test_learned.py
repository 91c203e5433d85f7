"""What was learned stands with the model version, and serves queries from there."""

import logging

import lancedb
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import InputError, NotBetterError, QueryError
from lancedb_ft.search.auto import FEATURES, AutoMode
from lancedb_ft.search.fit import fit_auto, fit_fusion
from lancedb_ft.search.fusion import Fusion
from lancedb_ft.search.learned import LearnedRanking
from lancedb_ft.search.options import SearchOptions
from lancedb_ft.search.searcher import Searcher
from lancedb_ft.search.served_ranking import keep_ranking, ranking_of
from lancedb_ft.table import dataset, embedding_entries
from lancedb_ft.types import Pairs
from tests.search.words import raw_table
from tests.tiny import tiny_model

#: Two words each: full text finds the document; the untrained model sees the other words too.
WORDS = ["fox", "dog", "order", "money", "settings", "password", "number", "page", "quick", "lazy"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]
BY_WORDS = LearnedRanking(Fusion.weighted(vector=0.0), evidence={"fusion": {"n": 90}})


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    """A table embedded with ``tiny@1`` of the database's own store."""
    from lancedb.embeddings import get_registry
    from lancedb.index import FTS
    from lancedb.pydantic import LanceModel, Vector

    folder = tmp_path_factory.mktemp("learned")
    store = ft.ModelStore(folder / "db" / "ft_models")
    version = store.save(tiny_model(folder / "tiny", dims=16), name="tiny")
    function = get_registry().get("ft-embed").create(name=version.ref, store=store.uri)

    class Doc(LanceModel):
        id: str
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(folder / "db").create_table("docs", schema=Doc)
    table.add([{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)])
    table.create_index("text", config=FTS())
    return table


@pytest.fixture(scope="module")
def pairs():
    rows = [(f"q{i}", f"{text}, zebra? {i}", f"d{i}", text) for i, text in enumerate(TEXTS)]
    return Pairs.of(rows[:60])


def entry_of(table):
    return embedding_entries(dataset(table).schema)[0]


def test_json_keeps_everything(tmp_path):
    rule = AutoMode("hybrid", {"fts": (0.5, *[0.0] * len(FEATURES))})
    ranking = LearnedRanking(Fusion(0.1, 0.2, 0.3, 0.4, candidates=50), rule, {"auto": {"n": 9}})
    ranking.save(tmp_path / "ranking.json")
    found = LearnedRanking.load(tmp_path / "ranking.json")
    assert found.fusion == ranking.fusion
    assert found.auto.choose("anything") == "fts"
    assert found.evidence == {"auto": {"n": 9}}


@pytest.mark.parametrize(
    "text",
    [
        *["", "{", "[]", "null", '{"format": 2}', '{"format": 1}', "[" * 100_000],
        *[BY_WORDS.to_json().replace(*change) for change in (("0.0", "-1.0"), ("rrf_k", "k"))],
    ],
)
def test_what_is_no_ranking_is_refused(text):
    with pytest.raises(InputError):
        LearnedRanking.from_json(text)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        LearnedRanking.load(tmp_path / "no.json")


def test_nothing_learned_is_the_default_and_says_so_once(docs, caplog):
    plain = ft.search(docs, "quick fox", k=5)
    with caplog.at_level(logging.WARNING, "lancedb_ft.search"):
        for _ in range(2):
            learned = ft.search(docs, "quick fox", k=5, options=SearchOptions(fusion="learned"))
            auto = ft.search(docs, "quick fox", k=5, mode="auto")
    assert learned.equals(plain)
    assert auto.equals(plain)
    assert sum("nothing was learned" in record.message for record in caplog.records) <= 1


def test_a_fusion_is_fitted_kept_with_the_version_and_served(docs, pairs):
    fit = fit_fusion(docs, pairs, candidates=20)
    assert fit.wins
    # Only its words find a text here, so all of the weight goes there.
    assert sum(fit.fusion.weights[1::2]) > sum(fit.fusion.weights[::2])
    kept = ranking_of(entry_of(docs), table="docs")
    assert kept.fusion == fit.fusion
    evidence = kept.evidence["fusion"]
    assert evidence["model"] == "tiny@1"
    assert evidence["n"] == 60
    assert evidence["delta"]["ndcg@10"]["ci95"][0] > 0
    options = SearchOptions(fusion="learned")
    found = ft.search(docs, "dog money", k=3, options=options)
    expected = ft.search(docs, "dog money", k=3, options=SearchOptions(fusion=fit.fusion))
    assert found.equals(expected)
    assert found["text"][0].as_py() in ("dog money", "money dog")
    with Searcher(docs) as searcher:
        explained = searcher.explain("dog money", k=3, options=options)
    assert explained.trace.fusion == str(fit.fusion)
    run = Searcher(docs).retriever(options=options)({"q": "dog money"}, 3)
    assert list(run["q"]) == found["id"].to_pylist()


def test_auto_is_refused_where_one_mode_is_best_for_all(docs, pairs):
    with pytest.raises(NotBetterError) as caught:
        fit_auto(docs, pairs)
    assert caught.value.evidence["best_mode"] in ("fts", "hybrid")
    assert ranking_of(entry_of(docs), table="docs").auto is None


def test_auto_picks_the_mode_of_each_query(docs):
    rule = AutoMode("vector", {"fts": (-0.5, *[0.0] * 7, 1.0)})
    keep_ranking(entry_of(docs), LearnedRanking(auto=rule), table="docs")
    with Searcher(docs) as searcher:
        quoted = searcher.explain('"dog money"', k=3, mode="auto")
        plain = searcher.explain("dog money", k=3, mode="auto")
    assert (quoted.trace.mode, plain.trace.mode) == ("fts", "vector")
    assert "_score" in quoted.results.column_names
    assert "_distance" in plain.results.column_names
    assert plain.trace.notes["auto"] == "vector, learned"
    assert quoted.results.equals(ft.search(docs, '"dog money"', k=3, mode="fts"))


def test_auto_in_pages_stays_with_its_mode(docs):
    rule = LearnedRanking(auto=AutoMode("fts", {}))
    options = SearchOptions(fusion=rule, page="first")
    first = ft.search(docs, "dog money", k=3, mode="auto", options=options)
    token = ft.SearchInfo.of(first).next_page
    options = SearchOptions(fusion=rule, page=token)
    second = ft.search(docs, "dog money", k=3, mode="auto", options=options)
    assert not set(first["id"].to_pylist()) & set(second["id"].to_pylist())


def test_what_is_torn_is_told_and_counts_as_nothing(docs, caplog):
    plain = ft.search(docs, "quick fox", k=5)
    entry = entry_of(docs)
    keep_ranking(entry, BY_WORDS, table="docs")
    ft.ModelStore(str(docs._conn.uri) + "/ft_models").keep_ranking("tiny@1", "docs", "{ torn")
    with caplog.at_level(logging.WARNING, "lancedb_ft.search"):
        found = ft.search(docs, "quick fox", k=5, options=SearchOptions(fusion="learned"))
    assert found.equals(plain)
    assert "cannot be read" in caplog.text
    keep_ranking(entry, BY_WORDS, table="docs")


def test_deleting_a_version_deletes_what_was_learned(tmp_path):
    store = ft.ModelStore(tmp_path / "store")
    store.save(tiny_model(tmp_path / "tiny"), name="tiny")
    store.keep_ranking("tiny@1", "docs", BY_WORDS.to_json())
    assert LearnedRanking.from_json(store.ranking("tiny@1", "docs")) == BY_WORDS
    assert store.ranking("tiny@1", "faq") is None
    fingerprint = store.load("tiny@1").fingerprint
    with pytest.raises(InputError, match="not the name of a table"):
        store.keep_ranking("tiny@1", "../docs", "{}")
    store.delete("tiny@1", force=True)
    assert not list((tmp_path / "store").rglob("ranking*"))
    assert fingerprint


def test_without_a_version_a_file_must_be_named(db, tmp_path, pairs):
    table = raw_table(db)
    with pytest.raises(InputError, match="to="):
        fit_fusion(table, pairs)
    with pytest.raises(InputError, match="to="):
        fit_auto(table, pairs)


def test_a_file_serves_too(docs, pairs, tmp_path):
    fit = fit_fusion(docs, pairs, candidates=20, to=tmp_path / "ranking.json")
    learned = LearnedRanking.load(tmp_path / "ranking.json")
    assert learned.fusion == fit.fusion
    found = ft.search(docs, "dog money", k=3, options=SearchOptions(fusion=learned))
    assert found.equals(ft.search(docs, "dog money", k=3, options=SearchOptions(fusion=fit.fusion)))


@pytest.mark.parametrize("fusion", ["RRF", "", 3, ["rrf"], b"rrf", True])
def test_a_fusion_that_is_none_is_refused(fusion):
    with pytest.raises(QueryError, match="fusion is"):
        SearchOptions(fusion=fusion)
