"""The gate: both columns on the real path, with the reranker that will serve."""

import time

import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import FTS, IvfFlat
from lancedb.rerankers import RRFReranker
from lancedb.rerankers.base import Reranker

import lancedb_ft as ft
from lancedb_ft.cli.reindex import gate_table
from lancedb_ft.cli.status import _shown as status_lines
from lancedb_ft.errors import GateError, InputError, ModelNotFoundError, NoTextIndexError
from lancedb_ft.evaluate import latency_estimates, retriever, time_queries
from lancedb_ft.generation import read_state
from lancedb_ft.reranking import new_cross_encoder
from lancedb_ft.table import dataset
from tests.tiny import tiny_model

TOPICS = 8
WORDS = [f"{kind}{i}" for i in range(TOPICS) for kind in "qrnd"]


def static_model(path, vector_of_word, dims=2 * TOPICS):
    """Write a real static model of given word vectors: its rankings can be reasoned about."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, StaticEmbedding
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(["[UNK]", *WORDS])}, "[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    weights = np.zeros((len(WORDS) + 1, dims), np.float32)
    for place, word in enumerate(WORDS, 1):
        weights[place] = vector_of_word(word)
    static = StaticEmbedding(tokenizer, embedding_weights=torch.from_numpy(weights))
    SentenceTransformer(modules=[static, Normalize()], device="cpu").save_pretrained(
        str(path), create_model_card=False
    )
    return str(path)


def axis(i, scale=1.0):
    vector = np.zeros(2 * TOPICS, np.float32)
    vector[i] = scale
    return vector


def of_base(word):
    """Put the neutral document first, the right one second; the lure is far off."""
    kind, i = word[0], int(word[1:])
    return {
        "q": axis(i),
        "n": axis(i),
        "r": axis(TOPICS + i),
        "d": axis(i, -3.0),
    }[kind]


def of_better(word):
    """Put the right document first; the lure comes second."""
    kind, i = word[0], int(word[1:])
    return {
        "q": axis(i),
        "r": axis(i),
        "n": axis((i + 1) % TOPICS, -1.0),
        "d": axis(TOPICS + i),
    }[kind]


class WordOverlap(Reranker):
    """Counts how often the words of the query stand in the text: a lure fools it."""

    def __init__(self):
        super().__init__("relevance")

    def _ranked(self, query, rows):
        words = query.split()
        counts = [sum(text.split().count(w) for w in words) for text in rows["text"].to_pylist()]
        rows = rows.append_column("_relevance_score", pa.array(counts, pa.float32()))
        return self._keep_relevance_score(rows.sort_by([("_relevance_score", "descending")]))

    def rerank_vector(self, query, vector_results):
        return self._ranked(query, vector_results)

    def rerank_fts(self, query, fts_results):
        return self._ranked(query, fts_results)

    def rerank_hybrid(self, query, vector_results, fts_results):
        return self._ranked(query, self.merge_results(vector_results, fts_results))


TEXTS = {
    f"{kind}{i}": text
    for i in range(TOPICS)
    for kind, text in {"right": f"r{i} q{i}", "neutral": f"n{i}", "lure": f"q{i} q{i} d{i}"}.items()
}
PAIRS = ft.Pairs.of([(f"query{i}", f"q{i}", f"right{i}", f"r{i} q{i}") for i in range(TOPICS)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    store = ft.ModelStore(str(root / "store"))
    for name, vectors in (("base", of_base), ("better", of_better)):
        store.save(static_model(root / name, vectors), name=name, manifest={})
    return store


@pytest.fixture
def table(db, models):
    function = get_registry().get("ft-embed").create(name="base@1", store=models.uri)
    schema = pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), function.ndims())),
        ]
    )
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    table = db.create_table("docs", schema=schema, embedding_functions=[config])
    table.add(pa.table({"id": list(TEXTS), "text": list(TEXTS.values())}))
    table.create_index("vector", config=IvfFlat(num_partitions=1, distance_type="cosine"))
    return table


def test_a_better_embedder_can_make_the_reranked_pipeline_worse(table, models):
    """Alone the new model wins; with the reranker that serves it loses, and the gate says so."""
    plain = ft.Gate(PAIRS, require="ndcg@10 > base + 0.3", k=10)
    ready = ft.reindex(table, "better@1", store=models.uri)
    assert not ready.switched
    with_reranker = ft.Gate(PAIRS, require="ndcg@3 >= base", reranker=WordOverlap(), k=3)
    with pytest.raises(GateError, match=r"ndcg@3 is 0\.631.*base 1\.000") as caught:
        ft.switch(table, gate=with_reranker, store=models.uri)
    report = caught.value.report
    assert report["reranker"] == "WordOverlap"
    assert report["verdicts"][0]["value"]["mean"] == pytest.approx(1 / np.log2(3))
    assert read_state(dataset(table).schema, table="docs").active.model == "base@1"
    assert ft.switch(table, gate=plain, store=models.uri).active.model == "better@1"


def test_a_forced_switch_leaves_its_mark(table, models):
    gate = ft.Gate(PAIRS, require="ndcg@3 >= base", reranker=WordOverlap(), k=3)
    report = ft.reindex(table, "better@1", gate=gate, force=True, store=models.uri)
    assert report.switched
    assert not report.gate.passed
    status = ft.reindex_status(table)
    event = status.history[-1]
    assert (event["event"], event["forced"]) == ("switch", True)
    assert event["gate"]["passed"] is False
    assert event["gate"]["figures"] == {"ndcg@3": [1.0, 0.6309]}
    assert event["gate"]["reranker"] == "WordOverlap"
    active = read_state(dataset(table).schema, table="docs").active
    assert active.details["forced"] is True
    told = " ".join(str(line) for line in status_lines(status))
    assert "better@1 (forced, though not: ndcg@3 >= base)" in told
    ft.rollback(table)
    ft.switch(table, force=True, store=models.uri)
    told = " ".join(str(line) for line in status_lines(ft.reindex_status(table)))
    assert "better@1 (forced, without a gate)" in told


def test_a_reranker_of_the_store_is_found_before_the_work(table, models):
    before = dataset(table).version
    with pytest.raises(ModelNotFoundError):
        ft.reindex(table, "better@1", gate=ft.Gate(PAIRS, reranker="no@1"), store=models.uri)
    with pytest.raises(InputError, match=r"expected a lancedb\.rerankers\.Reranker"):
        ft.reindex(table, "better@1", gate=ft.Gate(PAIRS, reranker=len), store=models.uri)
    with pytest.raises(NoTextIndexError):
        ft.reindex(table, "better@1", gate=ft.Gate(PAIRS, mode="hybrid"), store=models.uri)
    assert dataset(table).version == before


def test_a_reranker_that_does_not_fit_is_found_before_a_first_column_is_filled(db, models):
    table = db.create_table("first", pa.table({"id": ["a", "b"], "text": ["q0 r0", "q1 r1"]}))
    before = dataset(table).version
    gate = ft.Gate(PAIRS, require="ndcg@3 >= 0.1", reranker=len)
    with pytest.raises(InputError, match=r"expected a lancedb\.rerankers\.Reranker"):
        ft.reindex(table, "better@1", gate=gate, store=models.uri)
    assert dataset(table).version == before


def test_a_reranker_of_the_store_serves_by_its_name(table, models, tmp_path):
    cross = new_cross_encoder(tiny_model(tmp_path / "tiny"), seed=1, device="cpu")
    cross.save(tmp_path / "cross")
    models.save(tmp_path / "cross", name="judge")
    gate = ft.Gate(PAIRS, require="hit@5 >= base - 1", reranker="judge@1", k=5)
    plan = ft.plan_reindex(table, "better@1", gate=gate, store=models.uri)
    assert plan.stages["gate"] > 0
    report = ft.reindex(table, "better@1", gate=gate, store=models.uri)
    assert report.switched
    assert report.gate.reranker == "FineTunedReranker(judge@1)"
    assert ft.reindex_status(table).history[-1]["gate"]["reranker"] == report.gate.reranker


@pytest.mark.parametrize("mode", ["vector", "hybrid", "fts"])
def test_all_modes_with_a_reranker(table, models, mode):
    table.create_index("text", config=FTS())
    gate = ft.Gate(
        ft.Split(train=PAIRS, dev=PAIRS, test=PAIRS),
        require=["ndcg@10 >= 0.5", "hit@5 >= base - 1"],
        mode=mode,
        reranker=RRFReranker() if mode == "hybrid" else WordOverlap(),
    )
    report = ft.reindex(table, "better@1", gate=gate, store=models.uri)
    assert report.switched
    assert (report.gate.mode, report.gate.depth) == (mode, 10)
    assert [v.holds for v in report.gate.verdicts] == [True, True]
    assert report.gate.comparison.n == TOPICS


def test_latency_is_measured_on_both_columns(table, models):
    gate = ft.Gate(
        PAIRS,
        require=["latency_p95 <= 50 * base", "latency_p50 <= 10000", "latency_p99 > 0"],
    )
    report = ft.reindex(table, "better@1", gate=gate, store=models.uri)
    assert report.switched
    found = report.gate.to_dict()["latency_ms"]
    assert set(found) == {"base", "tuned"}
    for figures in found.values():
        assert figures["latency_p95"]["n"] == 200
        assert 0 < figures["latency_p50"]["mean"] <= figures["latency_p95"]["mean"]
        low, high = figures["latency_p95"]["ci95"]
        assert low <= figures["latency_p95"]["mean"] <= high
    # The test queries were also asked of both indexes, against exact search.
    recalls = report.to_dict()["gate"]["index_recall"]
    assert {k: r["queries"]["mean"] for k, r in recalls.items()} == {"old": 1.0, "new": 1.0}
    assert "latency_p95 <= 50 * base" in [v.requirement for v in report.gate.verdicts]


def test_a_latency_that_is_asked_too_much_is_refused(table, models):
    gate = ft.Gate(PAIRS, require="latency_p50 <= 0.0001")
    with pytest.raises(GateError, match=r"latency_p50 is .* \(n = 200\)"):
        ft.reindex(table, "better@1", gate=gate, store=models.uri)


def test_turns_are_taken_query_by_query():
    """A slow neighbour slows both, and the slower retriever is seen as slower."""
    asked = []

    def answering(name, seconds):
        def retrieve(queries, k):
            asked.append((name, *queries.values(), k))
            time.sleep(seconds)
            return {}

        return retrieve

    slow, fast = answering("slow", 0.004), answering("fast", 0.001)
    found = time_queries({"slow": slow, "fast": fast}, ["a", "b", "c"], k=7, n=20)
    assert {name: len(values) for name, values in found.items()} == {"slow": 20, "fast": 20}
    assert (found["slow"] > 4.0).all()
    assert np.median(found["slow"]) > 2 * np.median(found["fast"])
    timed = asked[16:]  # after the warm-up
    for first, second in zip(timed[::2], timed[1::2], strict=True):
        assert {first[0], second[0]} == {"slow", "fast"}
        assert first[1:] == second[1:]
    assert {turn[0] for turn in timed[::2]} == {"slow", "fast"}  # neither is always first


def test_timing_stops_in_time_and_needs_queries():
    found = time_queries({"a": lambda q, k: {}}, ["x"], limit_s=0.0)
    assert len(found["a"]) == 50
    with pytest.raises(InputError, match="there must be queries"):
        time_queries({"a": lambda q, k: {}}, [])


def test_percentiles_have_intervals_around_them():
    values = np.random.default_rng(0).exponential(10.0, size=400)
    found = latency_estimates(values)
    for name, q in (("latency_p50", 50), ("latency_p95", 95), ("latency_p99", 99)):
        assert found[name].mean == pytest.approx(np.percentile(values, q))
        assert found[name].ci95[0] < found[name].mean < found[name].ci95[1]
        assert found[name].n == 400


def test_the_time_of_figures_is_not_known(table, models):
    base = ft.evaluate(retriever(table), PAIRS)
    gate = ft.Gate(PAIRS, require="latency_p95 <= 1.2 * base")
    with pytest.raises(InputError, match="Say the milliseconds"):
        ft.reindex(table, "better@1", gate=gate, base=base, store=models.uri)


def test_a_person_sees_each_requirement(table, models, capsys):
    from rich.console import Console

    gate = ft.Gate(PAIRS, require=["ndcg@10 >= base", "hit@5 >= 0.5"])
    report = ft.reindex(table, "better@1", gate=gate, store=models.uri)
    Console(width=120).print(gate_table(report.gate.to_dict()))
    shown = capsys.readouterr().out
    assert "ndcg@10 >= base" in shown
    assert "1.000 [1.000, 1.000]" in shown
    assert "0.631 [0.631, 0.631]" in shown
    assert shown.count("yes") == 2
