"""Evaluations and paired comparisons."""

import itertools

import numpy as np
import pytest

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import average, bootstrap_means, compare, evaluate, run_retriever
from lancedb_ft.types import Evaluation, Pairs

PAIRS = Pairs.of(
    [
        ("q1", "red apple", "d1", "a red apple"),
        ("q2", "blue boat", "d2", "a blue boat"),
        ("q3", "pear tree", "d3", "a pear tree"),
    ]
)
RUN = {"q1": {"d1": 0.9, "d2": 0.1}, "q2": {"d1": 0.9, "d2": 0.1}, "q3": {}}


def evaluation_of(values, name=""):
    """An evaluation whose queries have these values of hit@1 (0 or 1)."""
    run = {f"q{i}": {"d": 1.0} if value else {"x": 1.0} for i, value in enumerate(values)}
    qrels = {query_id: {"d": 1} for query_id in run}
    return evaluate(run, qrels=qrels, metrics="hit@1", name=name)


def test_means_intervals_and_per_query_values():
    result = evaluate(RUN, PAIRS, metrics=["mrr@10", "hit@1"], name="base")
    assert (result.name, result.n) == ("base", 3)
    assert result.metrics["mrr@10"].mean == pytest.approx(0.5)
    assert result.per_query["mrr@10"] == {"q1": 1.0, "q2": 0.5, "q3": 0.0}
    # Resamples of (1, 1/2, 0): the mean is 0 or 1 in 1/27 each, more than 2.5 %.
    assert result.metrics["mrr@10"].ci95 == (0.0, 1.0)
    assert result.metrics["mrr@10"].n == 3
    assert result.to_dict()["hit@1"] == {"mean": pytest.approx(1 / 3), "ci95": [0.0, 1.0]}


def test_a_retriever_is_asked_for_the_largest_cutoff():
    asked = []

    def spy(queries, k):
        asked.append((dict(queries), k))
        return run_retriever(RUN)(queries, k)

    from_retriever = evaluate(spy, PAIRS)
    assert asked == [(PAIRS.queries, 100)]
    assert from_retriever.per_query == evaluate(RUN, PAIRS).per_query
    evaluate(spy, PAIRS, metrics=["map", "mrr@10"], k=1000)
    assert asked[-1][1] == 1000
    queries, qrels = PAIRS.queries, PAIRS.qrels
    assert evaluate(spy, queries=queries, qrels=qrels).metrics == from_retriever.metrics


def test_progress_does_not_change_the_result():
    pairs = Pairs.of([(f"q{i}", f"text {i}", f"d{i}", "document") for i in range(150)])
    run = {f"q{i}": {f"d{i % 70}": 1.0} for i in range(150)}
    steps = []
    watched = evaluate(run_retriever(run), pairs, progress=lambda *step: steps.append(step))
    assert steps == [(64, 150), (128, 150), (150, 150)]
    assert watched.metrics == evaluate(run, pairs).metrics


def test_unjudged_queries_are_not_asked_when_they_are_allowed():
    asked = []

    def spy(queries, k):
        asked.extend(queries)
        return {}

    queries = {"q1": "a", "q2": "b", "q3": "c"}
    qrels = {"q1": {"d": 1}, "q2": {"d": 0}}
    with pytest.raises(InputError, match="2 of 3 queries have no relevant document"):
        evaluate(spy, queries=queries, qrels=qrels)
    with pytest.raises(InputError, match="2 of 3 queries have no relevant document"):
        evaluate({}, queries=queries, qrels=qrels)
    result = evaluate(spy, queries=queries, qrels=qrels, allow_unjudged=True)
    assert (asked, result.n, result.metrics["hit@10"].mean) == (["q1"], 1, 0.0)


def test_one_query_says_nothing_about_the_spread():
    result = evaluation_of([1])
    assert (result.metrics["hit@1"].mean, result.metrics["hit@1"].ci95) == (1.0, (0.0, 1.0))
    delta = compare(evaluation_of([0]), result).delta["hit@1"]
    assert (delta.mean, delta.ci95, delta.p, delta.n) == (1.0, (-1.0, 1.0), 1.0, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: evaluate(RUN), "Nothing to measure against"),
        (lambda: evaluate(RUN, PAIRS, qrels=PAIRS.qrels), "not both"),
        (lambda: evaluate(RUN, PAIRS.table), "expected Pairs"),
        (lambda: evaluate(RUN, Pairs.of([])), "no test pairs"),
        (lambda: evaluate(run_retriever(RUN), qrels=PAIRS.qrels), "needs the texts"),
        (lambda: evaluate("docs", PAIRS), "found str"),
        (lambda: evaluate(run_retriever(RUN), PAIRS, k=10), "look at 100 documents"),
        (lambda: evaluate(run_retriever(RUN), PAIRS, metrics="hit@1", k=0), "k is 0"),
        (lambda: evaluate(run_retriever(RUN), PAIRS, metrics="map"), "with k="),
        (lambda: evaluate(lambda queries, k: [], PAIRS), "returned a list"),
        (lambda: evaluate(lambda queries, k: {"q9": {}}, PAIRS), "not asked .'q9'."),
        (
            lambda: evaluate(RUN, queries={"q1": "a"}, qrels={"q1": {"d": 1}, "q2": {"d": 1}}),
            "1 of 2 judged queries have no text",
        ),
        (lambda: evaluate(RUN, PAIRS, n_resamples=0), "n_resamples is 0"),
        (lambda: bootstrap_means(np.zeros((1, 0))), "shape"),
    ],
)
def test_what_cannot_be_measured_says_so(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_a_paired_comparison_by_hand():
    base, tuned = evaluation_of([0, 1]), evaluation_of([1, 1])
    exact = [np.mean(draw) for draw in itertools.product([1.0, 0.0], repeat=2)]  # 1, 1/2, 1/2, 0
    delta = compare(base, tuned, n_resamples=20_000).delta["hit@1"]
    assert delta.mean == np.mean(exact) == 0.5
    assert delta.ci95 == (0.0, 1.0)
    # Moved to mean 0 the resampled means are +-1/2 in half of the cases: p = 1/2.
    assert delta.p == pytest.approx(0.5, abs=0.02)


def test_equal_evaluations_do_not_differ():
    result = evaluation_of([0, 1, 1, 0, 1])
    delta = compare(result, result).delta["hit@1"]
    assert (delta.mean, delta.ci95, delta.p) == (0.0, (0.0, 0.0), 1.0)


def test_p_is_never_zero_and_a_comparison_turns_around():
    rng = np.random.default_rng(3)
    base = evaluation_of(rng.random(200) < 0.3)
    tuned = evaluation_of(rng.random(200) < 0.8)
    there, back = compare(base, tuned, n_resamples=999), compare(tuned, base, n_resamples=999)
    assert there.delta["hit@1"].p == 1 / 1000 == back.delta["hit@1"].p
    low, high = there.delta["hit@1"].ci95
    assert 0 < low < there.delta["hit@1"].mean < high
    assert back.delta["hit@1"].ci95 == pytest.approx((-high, -low))
    assert there.n == 200


def test_pairing_needs_only_the_same_queries_not_their_order():
    run = {"a": {"d": 1.0}, "b": {"x": 1.0}, "c": {"d": 1.0}}
    qrels = {"a": {"d": 1}, "b": {"d": 1}, "c": {"d": 1}}
    forward = evaluate(run, qrels=qrels, metrics="hit@1")
    backward = evaluate(run, qrels=dict(reversed(qrels.items())), metrics="hit@1")
    assert compare(forward, backward).delta["hit@1"].ci95 == (0.0, 0.0)


def test_different_queries_or_metrics_cannot_be_compared():
    base = evaluation_of([0, 1], name="old")
    with pytest.raises(InputError, match=r"1 only in 'new' \('q2'\)"):
        compare(base, evaluation_of([0, 1, 1], name="new"))
    other = evaluate({}, qrels={"q0": {"d": 1}, "q1": {"d": 1}}, metrics="mrr@10")
    with pytest.raises(InputError, match="metrics differ"):
        compare(base, other)
    with pytest.raises(InputError, match="no per-query values"):
        compare(base, Evaluation("report", 2, base.metrics))


def test_seeds_decide():
    values = np.random.default_rng(0).random((2, 50))
    first = bootstrap_means(values, n_resamples=200, seed=1)
    assert np.array_equal(first, bootstrap_means(values, n_resamples=200, seed=1))
    assert not np.array_equal(first, bootstrap_means(values, n_resamples=200, seed=2))


def test_resampled_means_have_the_spread_that_theory_says():
    values = np.random.default_rng(0).random((1, 400))
    values = np.concatenate([values, 1 - values])
    # 40 million draws' worth: many chunks.
    means = bootstrap_means(values, n_resamples=20_000, seed=0)
    assert means.mean(axis=0) == pytest.approx(values.mean(axis=1), abs=1e-3)
    assert means.std(axis=0) == pytest.approx(values.std(axis=1) / 20, rel=0.03)
    # The series share their resamples, so what is opposite stays opposite.
    assert means.sum(axis=1) == pytest.approx(np.ones(20_000))


def test_intervals_cover_and_p_values_are_honest():
    rng = np.random.default_rng(11)
    n_trials, n_queries = 200, 80
    covered = rejected = found = 0
    for trial in range(n_trials):
        base = evaluation_of(rng.random(n_queries) < 0.3)
        same = evaluation_of(rng.random(n_queries) < 0.3)
        better = evaluation_of(rng.random(n_queries) < 0.6)
        low, high = base.metrics["hit@1"].ci95
        covered += low <= 0.3 <= high
        rejected += compare(base, same, n_resamples=400, seed=trial).delta["hit@1"].p < 0.05
        found += compare(base, better, n_resamples=400, seed=trial).delta["hit@1"].p < 0.05
    assert 0.90 <= covered / n_trials <= 0.99
    assert rejected / n_trials <= 0.09
    assert found / n_trials >= 0.9


def test_runs_of_several_seeds_are_averaged_by_query():
    qrels = {"a": {"d": 1}, "b": {"d": 1}}
    hit, miss = {"d": 1.0}, {"e": 1.0}
    runs = [{"a": hit, "b": hit}, {"a": hit, "b": miss}, {"a": hit, "b": miss}]
    each = [evaluate(run, qrels=qrels, metrics="hit@5") for run in runs]
    mean = average(each, name="three seeds")
    assert mean.per_query["hit@5"] == {"a": 1.0, "b": pytest.approx(1 / 3)}
    assert (mean.n, mean.name) == (2, "three seeds")
    assert mean.metrics["hit@5"].mean == pytest.approx(2 / 3)


def test_nothing_and_runs_on_other_queries_cannot_be_averaged():
    with pytest.raises(InputError, match="no evaluations"):
        average([])
    one, other = (
        evaluate({q: {"d": 1.0}}, qrels={q: {"d": 1}}, metrics="hit@5") for q in ("a", "b")
    )
    with pytest.raises(InputError, match="queries"):
        average([one, other])
