"""Mining a table as it serves; rounds with the model that is being trained."""

import lancedb
import numpy as np
import pytest
from lancedb.index import FTS, IvfFlat

import lancedb_ft as ft
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError, NoTextIndexError
from lancedb_ft.evaluate import retriever, stored_retriever
from lancedb_ft.mining import MINE_MODES
from tests.train.toy import FAST, toy_model, toy_pairs

N = 300


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A table with vectors of a tiny model and a full-text index, and pairs of its documents."""
    folder = tmp_path_factory.mktemp("served")
    encoder = get_encoder(toy_model(folder / "m"), device="cpu", precision="float32")
    pairs = toy_pairs(N)
    texts = list(pairs.corpus.values())
    vectors = encoder.encode(texts)
    rows = [
        {"id": doc_id, "text": text, "vector": vector.as_py()}
        for doc_id, text, vector in zip(pairs.corpus, texts, vectors, strict=True)
    ]
    table = lancedb.connect(folder / "kb").create_table("docs", rows)
    table.create_index("text", config=FTS())
    return table, encoder, pairs


QUERIES = {"q1": "alpha bravo kilo", "q2": "oscar papa 017", "q3": "zulu yankee mike"}


@pytest.mark.parametrize("mode", ["vector", "fts", "hybrid"])
def test_candidates_are_what_the_table_serves(served, mode):
    table, encoder, _ = served
    ours = ft.table_candidates(table, mode, encoder=encoder)(QUERIES, 20)
    theirs = retriever(table, mode=mode, encoder=encoder)(QUERIES, 20)
    for query_id in QUERIES:
        a, b = ours[query_id], theirs[query_id]
        best = sorted(theirs[query_id].values(), reverse=True)
        assert len(set(a) & set(b)) >= 15  # the toy's texts tie, and ties may fall either way
        if mode != "vector":  # there the scores are cosines, and LanceDB's are distances
            assert sorted(a.values(), reverse=True) == pytest.approx(best, rel=1e-6)
        else:
            assert list(a)[:5] == list(b)[:5]


def test_every_mode_is_judged_by_the_stored_vectors(served):
    table, encoder, pairs = served
    documents = {"q1": ["d1", "d2", "nope"], "q2": ["d3"]}
    queries = {q: QUERIES[q] for q in documents}
    matrix = {
        doc_id: np.array(encoder.encode([pairs.corpus[doc_id]])[0].as_py())
        for doc_id in ("d1", "d2", "d3")
    }
    asked = {q: np.array(encoder.encode([QUERIES[q]], kind="query")[0].as_py()) for q in queries}
    for mode in MINE_MODES:
        candidates = ft.table_candidates(table, mode, encoder=encoder)
        scored = candidates.score(queries, documents)
        assert set(scored["q1"]) == {"d1", "d2"}
        for query_id, found in scored.items():
            for doc_id, score in found.items():
                assert score == pytest.approx(float(asked[query_id] @ matrix[doc_id]), abs=1e-5)


def test_no_document_is_encoded_again(served):
    table, encoder, pairs = served

    class Counting:
        kinds = ()

        def encode(self, texts, *, kind="document", progress=None):
            self.kinds += ((kind, len(texts)),)
            return encoder.encode(texts, kind=kind)

    for mode in ("vector", "hybrid"):
        counting = Counting()
        candidates = ft.table_candidates(table, mode, encoder=counting)
        ft.mine_negatives(pairs, candidates, corpus=table)
        assert {kind for kind, _ in counting.kinds} == {"query"}
        per_query = sum(n for _, n in counting.kinds) / N
        # Search and judge share the vectors of a batch; hybrid without an index has two legs.
        assert per_query <= {"vector": 1, "hybrid": 2}[mode]


def test_an_indexed_table_is_asked_by_its_index(served, tmp_path):
    table, encoder, pairs = served
    copy = lancedb.connect(tmp_path).create_table("docs", table.to_arrow())
    copy.create_index(
        "vector", config=IvfFlat(num_partitions=2, distance_type="cosine"), replace=True
    )
    candidates = ft.table_candidates(copy, "vector", encoder=encoder)
    assert candidates.score is candidates.retrieve.score
    mined = ft.mine_negatives(pairs, candidates, corpus=copy)
    exact = ft.mine_negatives(
        pairs, ft.table_candidates(table, "vector", encoder=encoder), corpus=table
    )
    same = [
        len(set(a) & set(b))
        for a, b in zip(
            mined.training_set.table["negative_ids"].to_pylist(),
            exact.training_set.table["negative_ids"].to_pylist(),
            strict=True,
        )
    ]
    # 20 probes search both partitions: the same candidates, judged by the same vectors.
    assert np.mean(same) >= 4.9
    assert mined.report.mean_positive_score == pytest.approx(exact.report.mean_positive_score)


def test_stored_vectors_of_chunks_are_searched_by_the_table(served, tmp_path):
    table, encoder, _ = served
    rows = table.to_arrow().slice(0, 20).to_pylist()
    rows.append({**rows[1], "id": rows[0]["id"]})
    chunks = lancedb.connect(tmp_path).create_table("docs", rows)
    with pytest.raises(InputError, match="more than once"):
        stored_retriever(chunks, encoder=encoder)
    candidates = ft.table_candidates(chunks, "vector", encoder=encoder)
    both = [encoder.encode([row["text"]])[0].as_py() for row in rows[:2]]
    [query] = [v.as_py() for v in encoder.encode(["alpha bravo kilo"], kind="query")]
    best = max(float(np.dot(query, vector)) for vector in both)
    scored = candidates.score({"q1": QUERIES["q1"]}, {"q1": [rows[0]["id"]]})
    assert scored["q1"][rows[0]["id"]] == pytest.approx(best, abs=1e-5)


def test_a_table_without_a_text_index_or_vectors(tmp_path):
    pairs = toy_pairs(40)
    rows = [{"id": i, "text": text} for i, text in pairs.corpus.items()]
    table = lancedb.connect(tmp_path).create_table("docs", rows)
    with pytest.raises(NoTextIndexError):
        ft.table_candidates(table, "fts")
    with pytest.raises(InputError, match="bm25"):
        ft.table_candidates(table, "words")
    candidates = ft.table_candidates(table, "bm25")  # judged by BM25 itself
    mined = ft.mine_negatives(pairs, candidates, corpus=table, n_negatives=2)
    assert len(mined.training_set) == 40


def test_ids_with_quotes_and_numbers_are_found(served, tmp_path):
    _, encoder, _ = served
    db = lancedb.connect(tmp_path)
    vectors = encoder.encode(["alpha", "bravo", "kilo"]).to_pylist()
    for name, ids in (("quoted", ["it's", 'a "b"', "c\\d"]), ("numbers", [-1, 2, 30])):
        rows = [{"id": i, "text": "t", "vector": v} for i, v in zip(ids, vectors, strict=True)]
        table = db.create_table(name, rows)
        names = [str(i) for i in ids]
        score = retriever(table, encoder=encoder).score
        assert set(score({"q": "alpha"}, {"q": [*names, "none"]})["q"]) == set(names)


def test_rounds_mine_with_the_model_of_the_round_before(tmp_path):
    data = toy_pairs(150)
    train, dev = data.take(list(range(120))), data.take(list(range(120, 150)))
    base = toy_model(tmp_path / "base")
    corpus = data.corpus

    def mine(model):
        search = ft.exact_retriever(get_encoder(model, device="cpu"), corpus)
        return ft.mine_negatives(train, search, corpus=corpus, n_negatives=2, held_out=[dev])

    def fit(model, negatives):
        return ft.train(
            model, negatives, dev=dev, name="rounds", store=str(tmp_path / "store"), **FAST
        )

    rounds = ft.mine_rounds(base, 2, mine=mine, train=fit)
    assert [r.model.ref for r in rounds] == ["rounds@1", "rounds@2"]
    assert [r.mined_with for r in rounds] == [base, rounds[0].model.path]
    first, second = (r.mined.training_set.table["negative_ids"].to_pylist() for r in rounds)
    assert first != second
    # Of the tuned model's candidates fewer score as high as the positive.
    too_near = [r.mined.report.removed["margin"] for r in rounds]
    assert too_near[1] < 0.8 * too_near[0]
    with pytest.raises(InputError, match="n_rounds"):
        ft.mine_rounds(base, 0, mine=mine, train=fit)
