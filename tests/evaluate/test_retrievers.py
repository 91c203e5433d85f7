"""The real table path: vector, full-text and hybrid search of LanceDB tables."""

import json

import lance
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceOperation
from lancedb.embeddings import (
    EmbeddingFunctionConfig,
    TextEmbeddingFunction,
    get_registry,
    register,
)
from lancedb.index import FTS, IvfFlat
from lancedb.rerankers import Reranker, RRFReranker

from lancedb_ft.errors import (
    ColumnNotFoundError,
    FilterError,
    InputError,
    NoEmbedderError,
    NoTextIndexError,
    QueryError,
    RerankError,
    SearchError,
)
from lancedb_ft.evaluate import evaluate, exact_retriever, retriever, run_retriever
from lancedb_ft.generation import STATE_KEY, Generation, TableState, parked_metadata
from lancedb_ft.reranking import RerankGuard, TextReranker
from lancedb_ft.types import Pairs, Retriever

TEXTS = {
    "d1": "red apple",
    "d2": "green apple tree",
    "d3": "blue boat",
    "d4": "red car",
    "d5": 'the "red" boat\'s car: a pear (really)',
    "d6": "green pear tree",
}
QUERIES = {"q1": "red apple", "q2": "blue boat", "q3": "pear tree"}
DIMS = 8


def make_table(db, encoder, *, texts=TEXTS, text_index=True, name="docs"):
    """A table with raw vectors and no embedding function."""
    data = pa.table(
        {
            "id": list(texts),
            "text": list(texts.values()),
            "vector": encoder.encode(list(texts.values())),
        }
    )
    table = db.create_table(name, data, on_bad_vectors="null")
    if text_index:
        table.create_index("text", config=FTS())
    return table


def park(table, column, vectors, **metadata):
    """Add a filled column that plain LanceDB does not see."""
    ds = lance.dataset(table.uri)
    batch = pa.record_batch([vectors], names=[column])
    ds.add_columns(pa.RecordBatchReader.from_batches(batch.schema, [batch]))
    ids = {f.name(): f.id() for f in lance.dataset(table.uri).lance_schema.fields()}
    ds = lance.dataset(table.uri)
    change = LanceOperation.UpdateConfig(
        schema_metadata_updates=LanceOperation.UpdateMap(metadata),
        field_metadata_updates={ids[column]: LanceOperation.UpdateMap(parked_metadata(DIMS))},
    )
    lance.LanceDataset.commit(ds, change, read_version=ds.version)
    table.checkout_latest()


# --- vector --------------------------------------------------------------------------------


def test_vector_search_with_an_encoder_finds_what_brute_force_finds(db, encoder):
    table = make_table(db, encoder, text_index=False)
    search = retriever(table, encoder=encoder)
    assert isinstance(search, Retriever)
    run, exact = search(QUERIES, 6), exact_retriever(encoder, TEXTS)(QUERIES, 6)
    for query_id in QUERIES:
        assert next(iter(run[query_id])) == next(iter(exact[query_id]))
        # Unit vectors: the squared distance is 2 - 2 cosine.
        expected = {doc: -(2 - 2 * cosine) for doc, cosine in exact[query_id].items()}
        assert run[query_id] == pytest.approx(expected, abs=1e-6)
    assert [len(hits) for hits in search(QUERIES, 2).values()] == [2, 2, 2]
    assert encoder.calls[-1] == ("query", list(QUERIES.values()))


def test_vector_search_embeds_with_the_function_of_the_table(db, encoder, words_function):
    schema = pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), DIMS))]
    )
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=words_function
    )
    table = db.create_table("docs", schema=schema, embedding_functions=[config])
    table.add([{"id": i, "text": text} for i, text in enumerate(TEXTS.values())])
    run = retriever(table)({"q1": "red apple", "q2": "  ", "q3": "unknown"}, 1)
    assert run == {"q1": {"0": pytest.approx(0.0, abs=1e-6)}, "q2": {}, "q3": {}}


def test_a_function_with_a_query_prompt_of_its_own_gets_one_query_at_a_time(db, encoder):
    @register("test-evaluate-prompted")
    class Prompted(TextEmbeddingFunction):
        max_retries: int = 0

        def ndims(self):
            return DIMS

        def generate_embeddings(self, texts):
            return encoder.encode(texts).to_pylist()

        def compute_query_embeddings(self, query, *args, **kwargs):
            return self.generate_embeddings([query.removeprefix("find: ")])

    table = make_table(db, encoder)
    function = [
        {
            "name": "test-evaluate-prompted",
            "model": {},
            "source_column": "text",
            "vector_column": "vector",
        }
    ]
    ds = lance.dataset(table.uri)
    ds.update_schema_metadata({"embedding_functions": json.dumps(function)})
    table.checkout_latest()
    run = retriever(table)({"q": "find: red car", "p": "find: blue boat"}, 1)
    assert [next(iter(hits)) for hits in run.values()] == ["d4", "d3"]


def test_an_index_decides_the_metric_and_another_one_is_refused(db, encoder):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(600, DIMS)) * rng.uniform(0.1, 9, (600, 1))  # not normalised
    table = db.create_table(
        "docs",
        pa.table(
            {
                "id": [str(i) for i in range(600)],
                "vector": pa.array(
                    vectors.astype(np.float32).tolist(), pa.list_(pa.float32(), DIMS)
                ),
            }
        ),
    )
    query = encoder.encode(["red apple"]).to_pylist()[0]
    by_cosine = str(np.argmax(vectors @ query / np.linalg.norm(vectors, axis=1)))
    by_l2 = str(np.argmin(np.linalg.norm(vectors - query, axis=1)))
    assert by_cosine != by_l2

    def first(**options):
        run = retriever(table, encoder=encoder, **options)({"q": "red apple"}, 1)
        return next(iter(run["q"]))

    assert first() == by_l2
    assert first(distance_type="cosine") == by_cosine
    table.create_index("vector", config=IvfFlat(distance_type="cosine", num_partitions=2))
    assert first(nprobes=2, refine_factor=2) == by_cosine
    assert first(distance_type="cosine", nprobes=2) == by_cosine
    with pytest.raises(InputError, match="built for 'cosine', and distance_type is 'l2'"):
        first(distance_type="l2")
    with pytest.raises(InputError, match="distance_type is 'euclid'"):
        first(distance_type="euclid")


def test_rows_of_one_document_count_once(db, encoder):
    texts = ["red", "red apple", "blue boat", "blue"]
    table = db.create_table(
        "chunks",
        pa.table({"doc_id": ["a", "a", "b", "b"], "text": texts, "vector": encoder.encode(texts)}),
    )
    run = retriever(table, encoder=encoder)({"q": "red apple"}, 3)
    assert list(run["q"]) == ["a", "b"]
    assert run["q"]["a"] == pytest.approx(0.0, abs=1e-6)


def test_where_and_deleted_rows(db, encoder):
    table = make_table(db, encoder)
    table.delete("id = 'd1'")
    for mode in ("vector", "fts", "hybrid"):
        search = retriever(table, mode=mode, encoder=encoder, where="id <> 'd4'")
        found = set(search({"q": "red apple car"}, 10)["q"])
        assert "d5" in found
        assert not {"d1", "d4"} & found


def test_the_real_thing_finds_by_meaning_in_one_batch_of_queries(db, minilm):
    function = get_registry().get("ft-embed").create(name=minilm)
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    schema = pa.schema(
        [("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), 384))]
    )
    table = db.create_table("docs", schema=schema, embedding_functions=[config])
    texts = {"cat": "Kittens sleep most of the day.", "car": "The engine needs new oil."}
    table.add([{"id": doc_id, "text": text} for doc_id, text in texts.items()])
    queries = {"q1": "motor maintenance", "q2": "pets at rest", "q3": " "}
    run = retriever(table)(queries, 1)
    assert [list(hits) for hits in run.values()] == [["car"], ["cat"], []]
    alone = retriever(table)({"q": "motor maintenance"}, 1)["q"]
    assert alone == pytest.approx(run["q1"], abs=1e-3)


# --- a parked column -----------------------------------------------------------------------


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize("mode", ["vector", "hybrid"])
def test_a_parked_column_is_searched_by_name(db, encoder, other_encoder, mode, indexed):
    texts = {f"d{i}": f"{a} {b}" for i, (a, b) in enumerate(_word_pairs())}
    table = make_table(db, encoder, texts=texts)
    parked = other_encoder.encode(list(texts.values()))
    park(table, "vector__g2", parked)
    if indexed:
        config = IvfFlat(distance_type="cosine", num_partitions=2)
        table.create_index("vector__g2", config=config, name="g2")
    queries = {"q1": "red apple", "q2": "blue boat"}
    before = retriever(table, mode=mode, encoder=encoder)(queries, 5)
    options = {"mode": mode, "column": "vector__g2", "nprobes": 2}
    after = retriever(table, encoder=other_encoder, **options)(queries, 5)
    for query_id, text in queries.items():
        assert texts[next(iter(before[query_id]))] == texts[next(iter(after[query_id]))] == text
    # The other model's vectors point the other way: with the wrong encoder nothing fits.
    wrong = retriever(table, encoder=encoder, **options)(queries, 5)
    assert wrong["q1"] != after["q1"]


def _word_pairs():
    from itertools import product

    colors, things = ("red", "green", "blue"), ("apple", "pear", "car", "boat", "tree")
    return list(product(colors, things)) * 20


def test_the_function_of_a_parked_column_may_stand_in_our_state_only(
    db, encoder, other_encoder, words_function
):
    table = make_table(db, encoder)
    function = {
        "name": "test-evaluate-words",
        "model": {"sign": -1, "max_retries": 0},
        "source_column": "text",
        "vector_column": "vector__g2",
    }
    state = TableState(
        (
            Generation(1, "vector", DIMS, "active"),
            Generation(2, "vector__g2", DIMS, "ready", "text", function),
        )
    )
    parked = other_encoder.encode(list(TEXTS.values()))
    park(table, "vector__g2", parked, **{STATE_KEY: state.to_json()})
    run = retriever(table, column="vector__g2")({"q": "red apple"}, 1)
    assert run == {"q": {"d1": pytest.approx(0.0, abs=1e-6)}}
    assert next(iter(retriever(table, encoder=encoder)({"q": "red apple"}, 1)["q"])) == "d1"
    with pytest.raises(NoEmbedderError):
        retriever(table)


# --- full-text -----------------------------------------------------------------------------

HOSTILE = [
    "",
    "   ",
    "!!! ???",
    '"red apple"',
    '"',
    "'; drop table docs; --",
    "text:red^2 AND (NOT ~apple) OR *",
    "\\",
    "\x00",
    "😀",
    "日本語",
    "the",
    "red " * 25_000,
    "x" * 100_000,
]


@pytest.mark.parametrize("mode", ["fts", "hybrid"])
def test_no_query_breaks_the_text_leg(db, encoder, mode):
    table = make_table(db, encoder)
    queries = {f"q{i}": text for i, text in enumerate(HOSTILE)}
    run = retriever(table, mode=mode, encoder=encoder)(queries, 3)
    assert list(run) == list(queries)
    # In quotes it is the same words: no phrase query, which would need an index with positions.
    assert "d1" in run["q3"]
    assert set(run["q6"]) >= {"d1", "d4"}
    if mode == "fts":
        assert run["q0"] == run["q2"] == run["q9"] == {}


def test_full_text_scores_are_bm25_and_need_no_vectors(db):
    table = db.create_table("docs", pa.table({"_id": list(TEXTS), "body": list(TEXTS.values())}))
    table.create_index("body", config=FTS())
    run = retriever(table, mode="fts", text_column="body")(QUERIES, 10)
    assert next(iter(run["q1"])) == "d1"
    assert set(run["q1"]) == {"d1", "d2", "d4", "d5"}
    assert all(score > 0 for hits in run.values() for score in hits.values())


def test_full_text_search_needs_its_index(db, encoder):
    table = make_table(db, encoder, text_index=False)
    for mode in ("fts", "hybrid"):
        with pytest.raises(NoTextIndexError, match="'text'"):
            retriever(table, mode=mode, encoder=encoder)


# --- hybrid and rerankers ------------------------------------------------------------------


def test_hybrid_is_what_plain_lancedb_serves(db, encoder):
    rng = np.random.default_rng(5)
    words = ["red", "green", "blue", "apple", "pear", "car", "boat", "tree", "old", "new", "big"]
    # Different lengths: BM25 scores without ties, whose order LanceDB leaves open.
    texts = {f"d{i:03}": " ".join(rng.choice(words, size=3 + i)) for i in range(60)}
    table = make_table(db, encoder, texts=texts)
    queries = {f"q{i}": " ".join(rng.choice(words, size=3)) for i in range(10)}
    run = retriever(table, mode="hybrid", encoder=encoder)(queries, 8)
    assert any(run.values())
    for query_id, text in queries.items():
        vector = encoder.encode([text]).to_pylist()[0]
        if vector is None:
            continue
        plain = (
            table.search(query_type="hybrid", vector_column_name="vector", fts_columns="text")
            .vector(vector)
            .text(text)
            .rerank(RRFReranker(K=60))
            .limit(8)
            .to_arrow()
        )
        hits = run[query_id]
        served = sorted(hits, key=lambda doc: (-hits[doc], doc))
        assert served == plain["id"].to_pylist()
        assert list(hits.values()) == pytest.approx(plain["_relevance_score"].to_pylist())


def test_equal_relevances_keep_the_order_served(db, encoder):
    # Each leg has another first document (the vectors know no zebra), so RRF ties them; LanceDB
    # serves the vector leg's first, and an order by id would turn that around.
    table = make_table(db, encoder, texts={"d9": "red", "d1": "zebra zebra"})
    search = retriever(table, mode="hybrid", encoder=encoder, where="id <> 'none'")
    hits = search({"q": "zebra blue"}, 1)["q"]
    assert list(hits) == ["d9"]
    hits = search({"q": "zebra blue"}, 2)["q"]
    assert list(hits) == ["d9", "d1"]
    assert hits["d9"] == pytest.approx(1 / 61)
    assert hits["d9"] > hits["d1"] == pytest.approx(hits["d9"])


class ById(Reranker):
    """Prefers high ids, and reads what it gets."""

    column = "text"

    def __init__(self):
        super().__init__()
        self.seen = []

    def _rerank(self, query, results):
        self.seen.append((query, results["text"].to_pylist()))
        ranks = [float(doc[1:]) for doc in results["id"].to_pylist()]
        results = results.append_column("_relevance_score", pa.array(ranks, pa.float32()))
        return results.sort_by([("_relevance_score", "descending")])

    def rerank_vector(self, query, vector_results):
        return self._rerank(query, vector_results)

    def rerank_fts(self, query, fts_results):
        return self._rerank(query, fts_results)

    def rerank_hybrid(self, query, vector_results, fts_results):
        return self._rerank(query, self.merge_results(vector_results, fts_results))


@pytest.mark.parametrize("mode", ["vector", "fts", "hybrid"])
def test_a_reranker_orders_the_candidates_and_gets_the_plain_query(db, encoder, mode):
    table = make_table(db, encoder)
    reranker = ById()
    search = retriever(table, mode=mode, encoder=encoder, reranker=reranker)
    hits = search({"q": "red apple", "nothing": ""}, 4)
    assert hits["nothing"] == {}
    assert list(hits["q"]) == sorted(hits["q"], reverse=True)
    assert len(hits["q"]) == 4
    (seen,) = reranker.seen
    assert seen[0] == "red apple"
    assert "red apple" in seen[1]


def test_an_empty_leg_is_no_obstacle(db, encoder):
    table = make_table(db, encoder)
    run = retriever(table, mode="hybrid", encoder=encoder)(
        {"no words": "tree?", "no vector": "really", "neither": "zebra"}, 2
    )
    assert next(iter(run["no vector"])) == "d5"
    assert run["neither"] == {}
    nothing = retriever(table, mode="hybrid", encoder=encoder, where="id = 'none'")
    assert nothing(QUERIES, 3) == {"q1": {}, "q2": {}, "q3": {}}


# --- evaluating, and what is refused -------------------------------------------------------


def test_the_whole_way_from_a_table_to_figures(db, encoder):
    table = make_table(db, encoder)
    pairs = Pairs.of(
        [
            ("q1", "red apple", "d1", TEXTS["d1"]),
            ("q2", "blue boat", "d3", TEXTS["d3"]),
            ("q3", "pear tree", "d6", TEXTS["d6"]),
        ]
    )
    for mode in ("vector", "fts", "hybrid"):
        result = evaluate(retriever(table, mode=mode, encoder=encoder), pairs, name=mode)
        assert result.metrics["mrr@10"].mean == 1.0, mode
        assert result.seconds > 0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"mode": "bm25"}, InputError, "'vector', 'fts' or 'hybrid'"),
        ({"column": "text"}, InputError, r"not a vector column.*\['vector'\]"),
        ({"id_column": "key"}, ColumnNotFoundError, "'key'"),
        ({"mode": "fts", "text_column": "body"}, ColumnNotFoundError, "'body'"),
        ({"where": "bogus = 3"}, FilterError, "bogus"),
        ({"where": "id = 'x"}, FilterError, "Unterminated"),
        ({"where": "id; drop"}, FilterError, "boolean"),
        ({"reranker": "rrf"}, InputError, "lancedb.rerankers.Reranker"),
        ({"reranker": RRFReranker()}, QueryError, "cannot rerank in mode 'vector'"),
    ],
)
def test_what_cannot_work_is_refused_before_any_search(db, encoder, options, error, message):
    table = make_table(db, encoder)
    with pytest.raises(error, match=message):
        retriever(table, encoder=encoder, **options)


@pytest.mark.parametrize("mode", ["vector", "fts", "hybrid"])
def test_a_degraded_answer_is_not_measured(db, encoder, mode):
    class Late(TextReranker):
        def read(self, query, texts, deadline):
            raise RerankError("late", reason="no answer in time")

    late = Late(guard=RerankGuard())
    search = retriever(make_table(db, encoder), mode=mode, encoder=encoder, reranker=late)
    with pytest.raises(RerankError, match="no answer in time, while it was measured"):
        search({"q": "red apple"}, 3)


@pytest.mark.parametrize("mode", ["vector", "fts", "hybrid"])
@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (RuntimeError("with the key sk-1"), "Foreign gave no order: it raised RuntimeError"),
        ("no table", "answered with a str, no Arrow table"),
        (pa.table({"id": ["d1"]}), "must have one column _rowid"),
    ],
)
def test_an_answer_of_a_broken_reranker_is_not_measured(db, encoder, mode, answer, told):
    class Foreign(ById):
        def _rerank(self, query, results):
            if isinstance(answer, Exception):
                raise answer
            return answer

    search = retriever(make_table(db, encoder), mode=mode, encoder=encoder, reranker=Foreign())
    with pytest.raises(RerankError, match=told) as failed:
        search({"q": "red apple"}, 3)
    assert "sk-1" not in str(failed.value)


def test_a_reranker_must_find_its_column(db, encoder):
    table = make_table(db, encoder)
    reranker = ById()
    reranker.column = "body"
    with pytest.raises(InputError, match="reads the column 'body'"):
        retriever(table, encoder=encoder, reranker=reranker)


def test_without_a_function_queries_cannot_be_embedded(db, encoder):
    table = make_table(db, encoder)
    with pytest.raises(NoEmbedderError, match="'vector'"):
        retriever(table)
    plain = db.create_table("plain", pa.table({"id": ["a"], "text": ["b"]}))
    with pytest.raises(NoEmbedderError):
        retriever(plain, encoder=encoder)
    vectors = encoder.encode(["red"])
    two = db.create_table("two", pa.table({"id": ["a"], "one": vectors, "other": vectors}))
    with pytest.raises(InputError, match=r"Name one with column="):
        retriever(two, encoder=encoder)


def test_a_function_that_nobody_registered_is_named(db, encoder):
    table = make_table(db, encoder)
    entry = {"name": "nobody", "model": {}, "source_column": "text", "vector_column": "vector"}
    lance.dataset(table.uri).update_schema_metadata({"embedding_functions": json.dumps([entry])})
    table.checkout_latest()
    with pytest.raises(SearchError, match="'nobody'"):
        retriever(table)


class Broken:
    """An encoder whose vectors are these."""

    def __init__(self, vectors):
        self.vectors = vectors

    def encode(self, texts, *, kind="document", progress=None):
        return self.vectors


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (np.ones((1, 5), np.float32), "5 dims and column 'vector' of table 'docs' has 8"),
        (np.ones((2, DIMS), np.float32), "1 queries and 2 vectors"),
        (np.full((1, DIMS), np.nan, np.float32), "NaN"),
        ([None, None], "1 queries and 2 vectors"),
        ([[1.0] * 5], "5 dims"),
    ],
)
def test_vectors_of_another_model_are_refused(db, encoder, vectors, message):
    search = retriever(make_table(db, encoder), encoder=Broken(vectors))
    with pytest.raises(InputError, match=message):
        search({"q": "red"}, 1)


def test_vectors_of_different_lengths_are_refused(db, encoder):
    search = retriever(make_table(db, encoder), encoder=Broken([[1.0] * 8, [1.0]]))
    with pytest.raises(InputError, match="differ in length"):
        search({"q": "red", "p": "blue"}, 1)


def test_bad_queries_are_refused(db, encoder):
    search = retriever(make_table(db, encoder), mode="hybrid", encoder=encoder)
    with pytest.raises(QueryError, match="k is 0"):
        search(QUERIES, 0)
    with pytest.raises(QueryError, match="surrogate"):
        search({"q": "cut \ud83d"}, 1)
    assert search({}, 5) == {}


def test_a_row_without_an_id_is_refused(db, encoder):
    table = db.create_table(
        "docs", pa.table({"id": [None, "b"], "vector": encoder.encode(["red", "blue"])})
    )
    with pytest.raises(InputError, match="has no 'id'"):
        retriever(table, encoder=encoder)({"q": "red"}, 2)


def test_a_finished_run_is_a_retriever():
    search = run_retriever({"q1": {"b": 1.0, "a": 1.0, "c": 2.0}})
    assert isinstance(search, Retriever)
    run = search({"q1": "any", "q2": "any"}, 2)
    assert list(run["q1"]) == ["c", "a"]
    assert run["q2"] == {}
    with pytest.raises(QueryError):
        search({"q1": "any"}, 0)
