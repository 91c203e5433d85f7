"""Metrics: by hand, against ranx, and what must hold for any run."""

import math
import random
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.metrics import METRICS, Metric, parse_metric, per_query
from lancedb_ft.types import DEFAULT_METRICS

# Ranked d1 (not judged), d2 (grade 2), d3 (grade 0), d4 (grade 1); d9 (grade 3) is not found.
RUN = {"q": {"d3": 0.3, "d1": 0.9, "d4": 0.1, "d2": 0.5}}
QRELS = {"q": {"d2": 2, "d3": 0, "d4": 1, "d9": 3}}
IDEAL = 3 / math.log2(2) + 2 / math.log2(3) + 1 / math.log2(4)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ("ndcg@4", (2 / math.log2(3) + 1 / math.log2(5)) / IDEAL),
        ("ndcg@2", (2 / math.log2(3)) / (3 + 2 / math.log2(3))),
        ("ndcg@1", 0.0),
        ("ndcg", (2 / math.log2(3) + 1 / math.log2(5)) / IDEAL),
        ("mrr@10", 1 / 2),
        ("mrr@1", 0.0),
        ("map@10", (1 / 2 + 2 / 4) / 3),
        ("map@3", (1 / 2) / 3),
        ("map", (1 / 2 + 2 / 4) / 3),
        ("recall@2", 1 / 3),
        ("recall@100", 2 / 3),
        ("precision@2", 1 / 2),
        ("precision@100", 2 / 100),
        ("precision", 2 / 4),
        ("f1@2", 2 * (1 / 2) * (1 / 3) / (1 / 2 + 1 / 3)),
        ("f1@1", 0.0),
        ("hit@1", 0.0),
        ("hit@2", 1.0),
    ],
)
def test_by_hand(metric, expected):
    assert per_query(RUN, QRELS, metric) == {metric: {"q": pytest.approx(expected, abs=1e-12)}}


def test_several_queries_do_not_mix():
    run = {"b": {"d1": 1.0}, "a": {"x": 3.0, "d2": 2.0, "y": 1.0}}
    qrels = {"a": {"d2": 1}, "b": {"d1": 1}}
    assert per_query(run, qrels, ["mrr", "recall@1"]) == {
        "mrr": {"a": 0.5, "b": 1.0},
        "recall@1": {"a": 0.0, "b": 1.0},
    }


def test_equal_scores_are_ordered_by_id_whatever_the_order_of_the_run():
    for docs in (["d2", "d10", "d1"], ["d1", "d2", "d10"], ["d10", "d1", "d2"]):
        run = {"q": dict.fromkeys(docs, 0.5)}
        assert per_query(run, {"q": {"d10": 1}}, "mrr")["mrr"]["q"] == 1 / 2


def test_infinite_scores_rank():
    run = {"q": {"a": -math.inf, "b": math.inf, "c": 0.0}}
    assert per_query(run, {"q": {"a": 1}}, "mrr")["mrr"]["q"] == 1 / 3


@pytest.mark.parametrize("answered", [{}, {"q2": {}}])
def test_a_query_without_an_answer_counts_zero(answered):
    qrels = {"q1": {"d1": 1}, "q2": {"d2": 1}}
    values = per_query({"q1": {"d1": 1.0}, **answered}, qrels, METRICS)
    assert all(series == {"q1": 1.0, "q2": 0.0} for series in values.values())


@pytest.mark.parametrize(
    ("run", "qrels", "named"),
    [
        ({"q1": {"d1": 1.0}}, {"q1": {"d1": 1}, "q2": {"d2": 0}}, "'q2'"),
        ({"q1": {"d1": 1.0}}, {"q1": {"d1": 1}, "q2": {}}, "'q2'"),
        ({"q1": {"d1": 1.0}, "q3": {"d1": 1.0}}, {"q1": {"d1": 1}}, "'q3'"),
    ],
)
def test_queries_without_a_relevant_document_are_an_error_unless_allowed(run, qrels, named):
    with pytest.raises(InputError, match=f"1 of 2 queries have no relevant document.*{named}"):
        per_query(run, qrels, "mrr")
    assert per_query(run, qrels, "mrr", allow_unjudged=True) == {"mrr": {"q1": 1.0}}


def test_nothing_relevant_at_all_is_an_error_even_if_allowed():
    with pytest.raises(InputError, match="No query has a relevant document"):
        per_query({"q": {"d": 1.0}}, {"q": {"d": 0}}, allow_unjudged=True)


@pytest.mark.parametrize(
    ("run", "qrels", "message"),
    [
        ({"q": {"a": 1.0, "b": math.nan}}, {"q": {"a": 1}}, "NaN.*query 'q', document 'b'"),
        ({"q": {"a": None}}, {"q": {"a": 1}}, "NaN"),
        ({"q": {"a": "high"}}, {"q": {"a": 1}}, "score must be a number"),
        ({"q": {"a": [1.0]}}, {"q": {"a": 1}}, "score must be one number"),
        ({"q": {1: 1.0}}, {"q": {"a": 1}}, "ids must be text"),
        ({"q": {"a": 1.0}}, {"q": {"a": "high"}}, "judgments must be"),
        ({"q": {"a": 1.0}}, {"q": ["a"]}, "judgments must be"),
    ],
)
def test_what_cannot_be_ranked_says_so(run, qrels, message):
    with pytest.raises(InputError, match=message):
        per_query(run, qrels, "mrr")


@pytest.mark.parametrize("name", ["ndgc@10", "ndcg@0", "ndcg@", "ndcg@-1", "NDCG@10", "", 10])
def test_an_unknown_metric_lists_the_known(name):
    with pytest.raises(InputError, match="Known are ndcg, mrr, map, recall, precision, f1, hit"):
        parse_metric(name)


def test_no_metric_is_an_error_and_names_parse():
    with pytest.raises(InputError, match="No metric"):
        per_query(RUN, QRELS, [])
    assert parse_metric("recall@100") == Metric("recall", 100)
    assert [str(parse_metric(name)) for name in (*DEFAULT_METRICS, "map")] == [
        *DEFAULT_METRICS,
        "map",
    ]


def _random_run(seed, n_queries=60, n_docs=80):
    rng = random.Random(seed)
    docs = [f"d{i}" for i in range(n_docs)]
    run, qrels = {}, {}
    for i in range(n_queries):
        found = rng.sample(docs, rng.randint(1, n_docs))
        run[f"q{i}"] = {doc: rng.random() for doc in found}  # no ties: ranx breaks them otherwise
        judged = rng.sample(docs, rng.randint(1, 30))
        qrels[f"q{i}"] = {doc: rng.randint(0, 3) for doc in judged}
        qrels[f"q{i}"][judged[0]] = rng.randint(1, 3)
    return run, qrels


def test_agrees_with_ranx(monkeypatch):
    # Interpreted, ranx needs a second here; compiling it with numba first takes a minute.
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    metrics = [f"{kind}{cut}" for kind in METRICS for cut in ("", "@1", "@5", "@10", "@100")]
    theirs_names = [metric.replace("hit", "hit_rate") for metric in metrics]
    run, qrels = _random_run(seed=7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numba and ranx warn of things that are not ours
        import ranx

        theirs = ranx.evaluate(
            ranx.Qrels(qrels), ranx.Run(run), theirs_names, return_mean=False, threads=1
        )
    ours = per_query(run, qrels, metrics)
    for metric, name in zip(metrics, theirs_names, strict=True):
        expected = dict(zip(sorted(run), theirs[name].tolist(), strict=True))  # ranx sorts ids
        assert ours[metric] == pytest.approx(expected, abs=1e-9), metric


_DOCS = st.sampled_from([f"d{i}" for i in range(8)])
_RUNS = st.dictionaries(
    st.sampled_from(["q1", "q2", "q3"]),
    st.dictionaries(_DOCS, st.integers(-3, 3).map(float), max_size=8),  # with many ties
)
_QRELS = st.fixed_dictionaries(
    {
        q: st.dictionaries(_DOCS, st.integers(-1, 3), min_size=1).filter(
            lambda grades: max(grades.values()) > 0
        )
        for q in ("q1", "q2", "q3")
    }
)
_ALL = [f"{kind}{cut}" for kind in METRICS for cut in ("", "@1", "@3", "@20")]


@given(_RUNS, _QRELS, st.randoms(use_true_random=False))
def test_invariants(run, qrels, rng):
    values = per_query(run, qrels, _ALL)
    assert all(0.0 <= v <= 1.0 for series in values.values() for v in series.values())

    def shuffled(items):
        items = list(items)
        rng.shuffle(items)
        return items

    # The order of dicts, and scores moved or stretched, change no ranking.
    again = {
        q: dict(shuffled((doc, 2 * score + 1) for doc, score in hits.items()))
        for q, hits in shuffled(run.items())
    }
    mixed = {q: dict(shuffled(grades.items())) for q, grades in shuffled(qrels.items())}
    assert per_query(again, mixed, _ALL) == {m: pytest.approx(s) for m, s in values.items()}

    for kind in ("recall", "hit", "map", "mrr"):  # a deeper look never finds less
        for q in qrels:
            at = [values[f"{kind}{cut}"][q] for cut in ("@1", "@3", "@20")]
            assert at == sorted(at)


@given(_QRELS)
def test_the_best_order_is_perfect(qrels):
    values = per_query(qrels, qrels, ["ndcg", "ndcg@3", "mrr", "map", "recall", "hit@1"])
    assert all(v == pytest.approx(1.0) for series in values.values() for v in series.values())
