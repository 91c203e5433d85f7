"""A fusion is learned where there is something to learn, and refused where there is not."""

import numpy as np
import pytest

from lancedb_ft.errors import InputError, NotBetterError
from lancedb_ft.evaluate import evaluate
from lancedb_ft.search.fit_fusion import _list_net, _newton, fit_fusion_of_runs, fused_run
from lancedb_ft.search.fusion import Fusion
from tests.search.judged import equal_legs, good_and_bad_legs, pairs_of, right_of


@pytest.fixture(scope="module")
def fitted():
    vector, text, pairs = good_and_bad_legs(n=100)
    return fit_fusion_of_runs(vector, text, pairs), vector, text, pairs


def test_a_better_leg_gets_more_weight_and_wins(fitted):
    fit = fitted[0].check()
    assert fit.wins
    weights = fit.fusion.weights
    assert weights[0] + weights[2] > weights[1] + weights[3]
    assert fit.comparison.n == 100
    assert set(fit.kinds) == {"weighted", "relative", "learned"}


def test_the_evidence_is_what_is_served(fitted):
    """The base is reciprocal rank fusion of ten rows a leg, as a search without options does it."""
    fit, vector, text, pairs = fitted
    served = evaluate(fused_run(Fusion.rrf(), vector, text, k=10), pairs, metrics="ndcg@10")
    assert fit.comparison.base.metrics == served.metrics
    tuned = evaluate(fused_run(fit.fusion, vector, text, k=10), pairs, metrics="ndcg@10")
    assert tuned.metrics["ndcg@10"].mean > served.metrics["ndcg@10"].mean
    # Fitted without the query, it can only lose against what was fitted on it.
    out_of_fold = fit.comparison.tuned.metrics["ndcg@10"].mean
    assert out_of_fold <= tuned.metrics["ndcg@10"].mean + 0.01


def test_evidence_in_plain_types(fitted):
    told = fitted[0].to_dict()
    assert told["wins"] is True
    assert told["n"] == 100
    assert told["delta"]["ndcg@10"]["ci95"][0] > 0
    assert set(told["weights"]) == {"vector_rank", "text_rank", "vector_score", "text_score"}


@pytest.mark.parametrize("seed", range(2))
def test_where_there_is_nothing_to_learn_it_is_refused(seed):
    vector, text, pairs = equal_legs(n=100, seed=seed)
    fit = fit_fusion_of_runs(vector, text, pairs)
    with pytest.raises(NotBetterError, match="Nothing was saved") as caught:
        fit.check()
    assert caught.value.evidence["n"] == 100
    assert caught.value.exit_code == 3


def test_the_regression_finds_the_minimum():
    rng = np.random.default_rng(0)
    features = rng.random((40, 12, 4))
    present = rng.random((40, 12)) < 0.9
    present[:, 0] = True
    target = np.zeros((40, 12))
    scores = np.where(present, features @ [3.0, 0.5, 2.0, 1.0] + rng.gumbel(size=(40, 12)), -99)
    target[np.arange(40), scores.argmax(axis=1)] = 1.0

    def loss(weights):
        logits = np.where(present, features @ weights, -np.inf)
        top = logits.max(axis=1)
        normaliser = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
        hit = (target * np.where(present, features @ weights, 0)).sum(axis=1)
        return (normaliser - hit).mean() + 0.5e-3 * weights @ weights

    found = _newton(features, present, target)
    for _ in range(50):
        assert loss(found) <= loss(found + rng.normal(scale=0.05, size=4))


def test_no_weight_is_negative():
    rng = np.random.default_rng(1)
    features = rng.random((60, 10, 4))
    target = np.zeros((60, 10))
    # The right candidate is high in the first feature and low in the second.
    target[np.arange(60), (features[:, :, 0] - features[:, :, 1]).argmax(axis=1)] = 1.0
    weights = _list_net(features, np.ones((60, 10), bool), target)
    assert weights[0] > 0
    assert (weights >= 0).all()
    assert weights[1] == 0


def test_legs_that_never_find_anything_can_still_be_fitted():
    vector, text, _ = equal_legs(n=20)
    pairs = pairs_of([f"query number {i}" for i in range(20)])
    nothing, other = (
        {q: {d: s for d, s in hits.items() if d != right_of(q)} for q, hits in run.items()}
        for run in (vector, text)
    )
    fit = fit_fusion_of_runs(nothing, other, pairs)
    assert not fit.wins
    assert fit.comparison.tuned.metrics["ndcg@10"].mean == 0


def test_a_leg_may_have_no_answer_to_a_query():
    vector, text, pairs = good_and_bad_legs(n=30)
    del vector["q3"], text["q4"]
    text["q5"] = {}
    assert fit_fusion_of_runs(vector, text, pairs).comparison.n == 30


def test_too_few_queries_and_a_metric_without_depth_are_refused():
    vector, text, pairs = equal_legs(n=9)
    with pytest.raises(InputError, match="9 judged queries"):
        fit_fusion_of_runs(vector, text, pairs)
    with pytest.raises(InputError, match="no cutoff"):
        fit_fusion_of_runs(vector, text, pairs, metric="ndcg")
