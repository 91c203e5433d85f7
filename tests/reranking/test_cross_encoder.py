"""`FineTunedReranker` with LanceDB's own queries and with our Searcher."""

import threading

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from lancedb_ft.errors import (
    ColumnNotFoundError,
    InputError,
    ModelKindError,
    QueryError,
    StoreError,
    UnsafeModelError,
)
from lancedb_ft.reranking import clear_scorers, get_scorer, load_cross_encoder, new_cross_encoder
from lancedb_ft.store import ModelStore
from tests.tiny import TEXTS, tiny_model

QUERY = "cancel my order"
WORDS = " ".join(TEXTS).split()


@pytest.fixture(scope="session")
def version(tmp_path_factory):
    """A tiny cross-encoder, its head random but large enough to tell texts apart."""
    place = tmp_path_factory.mktemp("reranker")
    model = new_cross_encoder(tiny_model(place), seed=1, device="cpu")
    model.network.classifier.weight.data *= 5
    model.save(place / "cross")
    return ModelStore(place / "store").save(place / "cross", name="reranker")


@pytest.fixture(scope="session")
def docs(tmp_path_factory):
    """60 rows with vectors and a full-text index; one has no text."""
    dice = np.random.default_rng(0)
    texts = [" ".join(dice.choice(WORDS, 3 + n % 9)) + f" cancel {n}" for n in range(60)]
    texts[7] = None
    table = pa.table(
        {
            "id": [f"d{n}" for n in range(60)],
            "text": pa.array(texts, pa.string()),
            "vector": pa.FixedSizeListArray.from_arrays(
                pa.array(dice.standard_normal(60 * 8).astype(np.float32)), 8
            ),
        }
    )
    made = lancedb.connect(str(tmp_path_factory.mktemp("docs"))).create_table("docs", table)
    made.create_index("text", config=FTS())
    return made


def reranker(version, **settings):
    return ft.FineTunedReranker(version, device="cpu", precision="float32", **settings)


def expected(version, query, texts):
    """Score as sentence-transformers does."""
    from sentence_transformers import CrossEncoder

    model = CrossEncoder(version.path, device="cpu", local_files_only=True)
    return model.predict([(query, text) for text in texts])


def check_sorted(found, version):
    scores = found["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    with_text = [text is not None for text in found["text"].to_pylist()]
    wanted = expected(version, QUERY, [t or "" for t in found["text"].to_pylist()])
    for score, same, has_text in zip(scores, wanted, with_text, strict=True):
        assert score == pytest.approx(float(same) if has_text else 0.0, abs=1e-5)
    assert found["_relevance_score"].type == pa.float32()


# --- scores --------------------------------------------------------------------------------


def test_scores_are_those_of_sentence_transformers_whatever_the_length(version):
    texts = [" ".join(WORDS[:n]) for n in (1, 40, 3, 25, 60, 2)]
    logits = get_scorer(version, device="cpu", precision="float32").score(
        [(QUERY, text) for text in texts]
    )
    found = 1 / (1 + np.exp(-logits))
    np.testing.assert_allclose(found, expected(version, QUERY, texts), atol=1e-5)
    assert np.std(found) > 0.05


def test_one_scorer_serves_all_threads(version):
    clear_scorers()
    found, pairs = [], [(QUERY, text) for text in TEXTS] * 5
    gate = threading.Barrier(4)

    def ask():
        gate.wait()
        scorer = get_scorer(version, device="cpu", precision="float32")
        found.append((scorer, scorer.score(pairs).tolist()))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(scorer) for scorer, _ in found}) == 1
    assert all(scores == found[0][1] for _, scores in found)


def test_precisions_are_kept_apart_and_auto_is_one_of_them(version):
    exact = get_scorer(version, device="cpu", precision="float32")
    rounded = get_scorer(version, device="cpu", precision="bfloat16")
    assert (exact.precision, rounded.precision) == ("float32", "bfloat16")
    auto = get_scorer(version, device="cpu")
    assert auto is get_scorer(version, device="cpu")
    assert auto.precision in ("float32", "bfloat16")
    pairs = [(QUERY, text) for text in TEXTS]
    np.testing.assert_allclose(rounded.score(pairs), exact.score(pairs), atol=0.5)


def test_missing_weights_are_refused_and_not_made_up(version, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(version.path, tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    weights.pop("classifier.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnsafeModelError, match=r"classifier\.weight"):
        load_cross_encoder(folder, device="cpu")


def test_weights_that_give_no_numbers_are_an_error(version, tmp_path):
    model = load_cross_encoder(version.path, device="cpu")
    model.network.classifier.bias.data[:] = float("nan")
    model.save(tmp_path / "nan")
    with pytest.raises(StoreError, match="NaN"):
        get_scorer(str(tmp_path / "nan"), device="cpu", precision="float32").score([("a", "b")])


# --- LanceDB -------------------------------------------------------------------------------


@pytest.mark.parametrize("score", ["relevance", "all"])
@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_sync_queries(docs, version, mode, score):
    ours = reranker(version, return_score=score)
    vector = [0.1] * 8
    asked = {
        "hybrid": lambda: docs.search(query_type="hybrid").vector(vector).text(QUERY).rerank(ours),
        "vector": lambda: docs.search(vector).rerank(ours, query_string=QUERY),
        "fts": lambda: docs.search(QUERY, query_type="fts").rerank(ours),
    }[mode]
    found = asked().limit(60 if mode == "vector" else 20).to_arrow()
    check_sorted(found, version)
    assert found.num_rows >= 20
    shown = {"_distance", "_score"} & set(found.column_names)
    own = {"hybrid": {"_distance", "_score"}, "vector": {"_distance"}, "fts": {"_score"}}[mode]
    assert shown == (own if score == "all" else set())
    assert len(set(found["id"].to_pylist())) == found.num_rows
    if mode == "vector":
        assert found["id"].to_pylist()[-1] == "d7"
        assert found["_relevance_score"].to_pylist()[-1] == 0


def test_all_scores_of_both_legs_are_the_search_s_own(docs, version):
    ours = reranker(version, return_score="all")
    both = docs.search(query_type="hybrid").vector([0.1] * 8).text(QUERY).rerank(ours).limit(60)
    text = docs.search(QUERY, query_type="fts").limit(60).to_list()
    near = docs.search([0.1] * 8).limit(60).to_list()
    scores, distances = (
        {r["id"]: r["_score"] for r in text},
        {r["id"]: r["_distance"] for r in near},
    )
    found = both.to_list()
    assert len(found) == 60
    for row in found:
        assert row["_score"] == pytest.approx(scores.get(row["id"]))
        assert row["_distance"] == pytest.approx(distances[row["id"]])


async def test_async_queries(docs, version):
    table = await (await lancedb.connect_async(docs._conn.uri)).open_table("docs")
    ours = reranker(version)
    hybrid = table.query().nearest_to([0.1] * 8).nearest_to_text(QUERY).rerank(ours).limit(20)
    check_sorted(await hybrid.to_arrow(), version)
    text = table.query().nearest_to_text(QUERY).rerank(ours).limit(20)
    check_sorted(await text.to_arrow(), version)
    vector = table.query().nearest_to([0.1] * 8).rerank(ours, query_string=QUERY).limit(20)
    check_sorted(await vector.to_arrow(), version)


def test_our_search_takes_it(docs, version):
    found = ft.search(docs, QUERY, vector=[0.1] * 8, k=5, candidates=30, reranker=reranker(version))
    check_sorted(found, version)
    assert found.num_rows == 5
    everything = ft.search(docs, QUERY, mode="fts", k=60, reranker=reranker(version))
    best = everything["id"].to_pylist()[0]
    assert ft.search(docs, QUERY, mode="fts", k=1, candidates=60, reranker=reranker(version))[
        "id"
    ].to_pylist() == [best]


# --- order ---------------------------------------------------------------------------------


def rows_of(*texts):
    return pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))})


def test_ties_keep_their_order_and_rows_without_text_are_last(version):
    same = TEXTS[0]
    found = reranker(version).rerank_vector(QUERY, rows_of(None, same, " ", same, same))
    assert found["n"].to_pylist() == [1, 3, 4, 0, 2]
    scores = found["_relevance_score"].to_pylist()
    assert scores[0] == scores[2] > 0
    assert scores[3:] == [0, 0]


def test_top_k_reads_only_the_best_of_the_search(version):
    rows = rows_of(*(" ".join(WORDS[n : n + 5]) for n in range(12)))
    all_rows = reranker(version).rerank_fts(QUERY, rows)
    some = reranker(version, top_k=4).rerank_fts(QUERY, rows)
    read = [n for n in all_rows["n"].to_pylist() if n < 4]
    assert some["n"].to_pylist() == [*read, *range(4, 12)]
    assert some["_relevance_score"].to_pylist()[4:] == [0.0] * 8


def test_hybrid_ties_are_in_the_order_of_reciprocal_rank_fusion(version):
    legs = [
        pa.table({"text": ["same"] * 3, "_rowid": pa.array(ids, pa.uint64()), column: [0.1] * 3})
        for ids, column in (([1, 2, 3], "_distance"), ([4, 3, 5], "_score"))
    ]
    found = reranker(version).rerank_hybrid(QUERY, *legs)
    assert found["_rowid"].to_pylist() == [3, 1, 4, 2, 5]


@pytest.mark.parametrize("score", ["relevance", "all"])
def test_nothing_to_rerank(docs, version, score):
    ours = reranker(version, return_score=score)
    empty = rows_of()
    assert ours.rerank_vector(QUERY, empty).schema.field("_relevance_score").type == pa.float32()
    query = docs.search(query_type="hybrid").vector([0.1] * 8).text(QUERY).rerank(ours)
    assert query.where("id = 'nobody'").limit(5).to_arrow().num_rows == 0
    one_leg = docs.search(query_type="hybrid").vector([0.1] * 8).text("zebra").rerank(ours)
    found = one_leg.limit(5).to_arrow()
    assert found.num_rows == 5
    assert found["_relevance_score"].null_count == 0


def test_max_tokens_cuts_what_is_read(version):
    long = [" ".join(WORDS[:20]), " ".join(WORDS[:20]) + " and something else"]
    cut = reranker(version, max_tokens=12).rerank_fts("fox", rows_of(*long))
    assert len(set(cut["_relevance_score"].to_pylist())) == 1
    whole = reranker(version).rerank_fts("fox", rows_of(*long))
    assert len(set(whole["_relevance_score"].to_pylist())) == 2


def test_a_reference_and_a_text_query_object(version):
    from lancedb.query import MatchQuery

    ours = ft.FineTunedReranker("reranker@1", store=version.store, device="cpu")
    assert str(ours) == "FineTunedReranker(reranker@1)"
    rows = rows_of(*TEXTS)
    asked = [ours.rerank_fts(query, rows) for query in (QUERY, MatchQuery(QUERY, "text"))]
    assert asked[0].equals(asked[1])


def test_mistakes(docs, version, tmp_path):
    for settings in (
        {"top_k": 0},
        {"top_k": True},
        {"max_tokens": "x"},
        {"precision": "int8"},
        {"return_score": "some"},
    ):
        with pytest.raises(InputError, match=next(iter(settings))):
            ft.FineTunedReranker(version, **settings)
    with pytest.raises(ColumnNotFoundError, match="'body'"):
        reranker(version, column="body").rerank_fts(QUERY, rows_of("a"))
    for query in (None, " ", 3):
        with pytest.raises(QueryError, match="words of the query"):
            reranker(version).rerank_vector(query, rows_of("a"))
    with pytest.raises(InputError, match="max_tokens"):
        reranker(version, max_tokens=2).rerank_fts(QUERY, rows_of("a"))
    embedder = ModelStore(tmp_path).save(tiny_model(tmp_path / "tiny"), name="support")
    with pytest.raises(ModelKindError, match="scores no pairs"):
        ft.FineTunedReranker(embedder)
