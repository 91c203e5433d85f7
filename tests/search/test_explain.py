"""What a query did, told row by row; and the command line."""

import json
import logging

import pytest
from lancedb.index import IvfFlat

from lancedb_ft.search import Searcher, SearchOptions, explain, search
from lancedb_ft.search.tiers import Tiers
from lancedb_ft.search.trace import Trace, listen
from tests.search.test_options import books_table
from tests.search.test_rerank import ShortestFirst
from tests.search.words import Switch, rows, unit, words_table


@pytest.fixture
def docs(db):
    table = words_table(db)
    table.create_index("vector", config=IvfFlat(num_partitions=2))
    table.add(rows(60, 64))  # in no index
    return table


def test_a_hybrid_query_row_by_row(docs):
    query = "document number 7"
    told = explain(docs, query, k=5)
    assert told.results.equals(search(docs, query, k=5))
    trace = told.trace
    assert (trace.table, trace.version, trace.mode, trace.k) == ("docs", docs.version, "hybrid", 5)
    assert (trace.column, trace.model, trace.fusion) == ("vector", "search-words", "rrf")
    assert {stage.name for stage in trace.stages} == {"embed", "vector", "fts", "fuse", "take"}
    assert all(0 <= stage.ms <= trace.ms for stage in trace.stages)
    first = told.rows[0]
    assert (first.rank, first.fused_rank) == (1, 1)
    assert first.legs["vector"] == (1, pytest.approx(0, abs=1e-6))
    assert first.legs["fts"][0] == 1
    assert first.score == pytest.approx(2 / 61)
    by_rank = [sum(1 / (60 + rank) for rank, _ in row.legs.values()) for row in told.rows]
    assert by_rank == pytest.approx([row.score for row in told.rows])


def test_the_indexes_and_the_rows_that_are_in_none(docs):
    used = {index.leg: index for index in explain(docs, "document number 62").trace.indexes}
    assert (used["fts"].name, used["fts"].n_indexed, used["fts"].n_unindexed) == ("text_idx", 60, 4)
    assert (used["vector"].kind, used["vector"].n_unindexed) == ("IVF_FLAT", 4)
    docs.drop_index("vector_idx")
    scanned = explain(docs, "document", mode="vector").trace.indexes[0]
    assert (scanned.name, scanned.n_indexed, scanned.n_unindexed) == (None, 0, 64)


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_a_reranker_and_where_the_fusion_had_the_rows(docs, mode):
    told = explain(
        docs, "document number 7", mode=mode, k=4, candidates=20, reranker=ShortestFirst()
    )
    assert "rerank" in {stage.name for stage in told.trace.stages}
    assert "ShortestFirst" in told.trace.reranker
    assert [row.score for row in told.rows] == told.results["_relevance_score"].to_pylist()
    assert len(told.rows) == 4
    assert (mode == "hybrid") == all(row.fused_rank is not None for row in told.rows)
    assert max(rank for row in told.rows for rank, _ in row.legs.values()) > 4


def test_the_model_is_that_of_the_version(docs):
    steps = Switch(docs)
    with Searcher(docs) as searcher:
        steps.stage()
        assert searcher.explain("document number 7").trace.column == "vector"
        steps.switch()
        assert searcher.explain("document number 7").trace.column == "vector__g2"
    assert explain(docs, "document", mode="fts").trace.column is None


def test_what_is_late_is_told(docs):
    class Failing(ShortestFirst):
        def _rerank(self, query, rows):
            found = super()._rerank(query, rows)
            return found.replace_schema_metadata({b"lancedb_ft.degraded": b"HTTP 500"})

    told = explain(docs, "document number 7", reranker=Failing())
    assert told.trace.degraded == ["rerank: HTTP 500"]
    assert "DEGRADED rerank: HTTP 500" in str(told)
    assert told.info.degraded == ("rerank: HTTP 500",)


def test_it_prints_and_is_json(docs):
    told = explain(docs, "document number 7", k=3)
    text = str(told)
    assert f"table    docs at version {docs.version}, mode hybrid, k 3" in text
    assert "index text_idx (Inverted) of 60 rows, 4 unindexed rows scanned" in text
    assert text.splitlines()[-3].endswith("d7")
    document = json.loads(json.dumps(told.to_dict()))
    assert document["rows"][0]["key"] == "d7"
    assert document["rows"][0]["legs"]["fts"]["rank"] == 1
    assert document["n_found"] == {"vector": 3, "fts": 3}
    assert "document number" not in json.dumps(document)


def test_the_second_page_says_that_its_ranking_was_kept(docs):
    first = explain(docs, "document", k=3, mode="fts", options=SearchOptions(page="first"))
    page = SearchOptions(page=first.info.next_page)
    second = explain(docs, "document", k=3, mode="fts", options=page)
    assert second.trace.notes == {"ranking": "kept from the page before"}
    assert len(second.rows) == 3
    assert second.rows[0].legs == {}


def test_listeners_hear_of_every_query_also_of_those_that_fail(docs):
    seen = []
    stop = listen(seen.append)
    try:
        search(docs, "document")
        explain(docs, "document")
        with pytest.raises(RuntimeError):
            search(docs, "never seen before", embedder=failing)
    finally:
        stop()
    search(docs, "document")
    assert [trace.error for trace in seen] == [None, None, "RuntimeError"]
    assert all(isinstance(trace, Trace) and trace.ms > 0 for trace in seen)


def failing(text):
    raise RuntimeError("no")


# --- the command line ----------------------------------------------------------------------


def test_the_command_says_how_its_answer_came_about(run, db):
    books_table(db)
    words = ("search", "big red", "--db", db.uri, "--table", "books", "--mode", "fts", "--json")
    code, out, _ = run(*words, "--match", "phrase", "--explain", "--facets", "tags", "-k", 1)
    assert code == 0
    told = json.loads(out)
    assert told["n"] == 1
    assert told["info"]["facets"]["tags"]["values"] == [["zoo", 2]]
    assert told["explain"]["rows"][0]["key"] == told["results"][0]["id"]
    assert told["explain"]["indexes"][0]["n_unindexed"] == 1
    code, out, err = run(*words[:-1], "--explain", "--highlight", "--page", "first", "-k", 2)
    assert code == 0
    assert "**big**" in out
    assert "unindexed rows scanned" in err
    token = err.rsplit("--page ", 1)[1].strip()
    code, out, _ = run(*words, "--page", token, "-k", 2)
    assert (code, json.loads(out)["n"]) == (0, 1)


def test_the_command_takes_boosts_bounds_and_fuzzy_words(run, db):
    books_table(db)
    words = ("search", "shipz", "--db", db.uri, "--table", "books", "--mode", "fts", "--json")
    asked = ("--fuzzy", "1", "--boost", "title=10", "--boost", "text=1", "--min-score", "0.1")
    code, out, _ = run(*words, *asked, "--budget-ms", 60_000)
    assert [row["id"] for row in json.loads(out)["results"]] == ["b", "a"]
    code, out, _ = run(*words, "--boost", "title")
    assert code == 2
    assert json.loads(out)["error"] == "QueryError"


def test_no_text_of_a_query_is_logged(docs, caplog):
    with caplog.at_level(logging.DEBUG, "lancedb_ft"):
        explain(docs, "a secret query", vector=unit("x"))
    assert "secret" not in caplog.text


def test_each_row_says_its_tier(docs):
    options = SearchOptions(tiers=Tiers(where="`group` = 1"))
    told = explain(docs, "document number 7", k=6, options=options)
    tiers = {row.row_id: row.facts["tier"] for row in told.rows}
    assert list(tiers.values()) == told.results["_tier"].to_pylist()
    groups = told.results["group"].to_pylist()
    assert [tier == "hot" for tier in tiers.values()] == [group == 1 for group in groups]
    assert set(tiers.values()) == {"hot", "core"}
    assert str(told).splitlines()[-1].count("core") + str(told).splitlines()[-1].count("hot") == 1
