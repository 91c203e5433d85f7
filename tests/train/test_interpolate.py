"""Weights between two models: how they are mixed, which are tried, and which wins."""

from pathlib import Path

import pytest
import torch

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import InputError, NoGainError, RegressionError
from lancedb_ft.evaluate import evaluate, exact_retriever
from lancedb_ft.store import ModelStore
from lancedb_ft.train import interpolate_models, train
from lancedb_ft.train.interpolate import Trial, best_trial, interpolate, try_alphas, weights_of
from lancedb_ft.train.probe import Probe, Watch
from tests.tiny import tiny_model
from tests.train.toy import FAST, toy_model, toy_pairs


def test_both_ends_are_the_models_themselves_and_the_middle_lies_between():
    base = {"w": torch.tensor([0.1, -3.0]), "ids": torch.tensor([1, 2])}
    tuned = {"w": torch.tensor([0.7, 5.0]), "ids": torch.tensor([1, 2])}
    for alpha, end in ((0.0, base), (1.0, tuned)):
        found = interpolate(base, tuned, alpha)
        assert all(torch.equal(found[key], end[key]) for key in base)
    assert interpolate(base, tuned, 0.25)["w"].tolist() == pytest.approx([0.25, -1.0])
    assert interpolate(base, tuned, 0.25)["ids"].dtype == torch.int64


def test_a_real_model_takes_mixed_weights(tmp_path):
    first, second = (
        load_sentence_transformer(toy_model(tmp_path / str(seed), seed=seed), device="cpu")
        for seed in (0, 1)
    )
    base, tuned = weights_of(first), weights_of(second)
    first.load_state_dict(interpolate(base, tuned, 1.0))
    assert torch.equal(
        first.encode(["alpha bravo"], convert_to_tensor=True),
        second.encode(["alpha bravo"], convert_to_tensor=True),
    )
    assert not torch.equal(next(iter(base.values())), next(iter(weights_of(first).values())))


def test_models_of_another_kind_and_odd_alphas_are_refused():
    with pytest.raises(InputError, match=r"nothing between .* 'w'"):
        interpolate({"w": torch.zeros(2)}, {"w": torch.zeros(3)}, 0.5)
    with pytest.raises(InputError, match="1 such weights"):
        interpolate({"w": torch.zeros(2)}, {"w": torch.zeros(2), "b": torch.zeros(1)}, 0.5)
    for alpha in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="alphas"):
            interpolate({}, {}, alpha)
    with pytest.raises(InputError, match="alphas"):
        try_alphas(trial, alphas=[])


def trial(alpha, value=None, allowed=True, lost=0.0):
    value = 0.5 - (alpha - 0.6) ** 2 if value is None else value
    return Trial(alpha, value, {}, {"faq": figure(0.9 - lost)}, allowed)


def figure(mean):
    return {"n": 1, "mean": mean, "ci95": [0, 1], "values": [mean]}


def test_a_coarse_grid_then_an_eighth_around_the_best():
    asked = []

    def measure(alpha):
        asked.append(alpha)
        return trial(alpha)

    trials = try_alphas(measure, known=[trial(0.0), trial(1.0)])
    assert asked == [0.25, 0.5, 0.75, 0.375, 0.625]
    assert [t.alpha for t in trials] == [0.0, 0.25, 0.375, 0.5, 0.625, 0.75, 1.0]
    assert best_trial(trials, watch(), metric="ndcg@10", n_queries=9).alpha == 0.625


def test_the_search_goes_on_around_what_is_allowed():
    def measure(alpha):
        return trial(alpha, value=alpha, allowed=alpha <= 0.4)

    trials = try_alphas(measure)
    assert 0.375 in [t.alpha for t in trials]
    assert best_trial(trials, watch(), metric="ndcg@10", n_queries=9).alpha == 0.375


def test_given_alphas_are_the_only_ones_tried():
    assert [t.alpha for t in try_alphas(trial, alphas=[0.9, 0.1])] == [0.1, 0.9]


def watch():
    return Watch([Probe("faq", toy_pairs(1))], 0.02, {0: {"faq": figure(0.9)}})


def test_the_tuned_model_itself_may_win_and_the_base_may_not():
    ends = [trial(0.0, 0.4), trial(0.5, 0.5), trial(1.0, 0.6)]
    assert best_trial(ends, watch(), metric="ndcg@10", n_queries=9).alpha == 1.0
    with pytest.raises(NoGainError) as caught:
        best_trial([trial(0.0, 0.4), trial(1.0, 0.4)], watch(), metric="mrr@10", n_queries=9)
    assert (caught.value.metric, caught.value.base, caught.value.best) == ("mrr@10", 0.4, 0.4)


def test_if_all_that_gain_forget_too_much_the_error_says_what_and_what_to_do():
    trials = [
        trial(0.0, 0.4),
        trial(0.5, 0.5, allowed=False, lost=0.05),
        trial(1.0, 0.6, allowed=False, lost=0.2),
    ]
    with pytest.raises(RegressionError, match="--interpolate") as caught:
        best_trial(trials, watch(), metric="ndcg@10", n_queries=9)
    error = caught.value
    assert (error.probe, error.base, error.n_queries) == ("faq", 0.9, 1)
    assert error.tuned == pytest.approx(0.7)
    assert (error.dev_base, error.dev_tuned, error.max_regression) == (0.4, 0.6, 0.02)
    assert error.exit_code == 3


def test_what_the_manifest_says_of_a_trial_holds_no_values_of_queries():
    told = trial(0.5).to_dict()
    assert told["probe"] == {"faq": {"mean": 0.9, "ci95": [0, 1]}}
    assert told["alpha"] == 0.5


# --- of models that are there already ------------------------------------------------------


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    """A base model and toy@1, trained from it."""
    base = toy_model(tmp_path_factory.mktemp("toy"))
    store = str(tmp_path_factory.mktemp("store"))
    dev = toy_pairs(30, seed=1, prefix="dev")
    return base, train(base, toy_pairs(), dev=dev, name="toy", store=store, epochs=2, **FAST)


def test_a_version_between_two_models_has_the_figures_of_every_alpha(tuned):
    base, version = tuned
    dev = toy_pairs(40, seed=2, prefix="other")
    told = []
    made = interpolate_models(
        base,
        version,
        dev=dev,
        name="between",
        probe=toy_pairs(20, seed=3, prefix="faq"),
        max_regression=None,
        alphas=[0.5, 1],
        device="cpu",
        progress=lambda done, total: told.append(done),
    )
    assert (made.ref, made.store, told) == ("between@1", version.store, [2, 3])
    # The base that is named is the one that the figures of that name are of.
    assert made.manifest["base"]["ref"] == base
    found = made.manifest["interpolation"]
    assert made.manifest["metrics"]["dev"]["base"] == found["trials"][0]["dev"]
    assert made.manifest["training"]["alpha"] == found["alpha"]
    card = (Path(made.path) / "README.md").read_text("utf-8")
    assert f"| alpha | {found['alpha']} |" in card
    assert "| tuned_model | toy@1 |" in card
    assert "- base: model\n- parent: toy@1" in card
    assert [trial["alpha"] for trial in found["trials"]] == [0.0, 0.5, 1.0]
    figures = {t["alpha"]: t["dev"]["ndcg@10"]["mean"] for t in found["trials"]}
    assert found["alpha"] == max(figures, key=figures.get)
    assert made.manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"] == figures[found["alpha"]]
    assert made.manifest["metrics"]["probe"]["probe"]["n"] == 20
    assert made.manifest["parent"] == "toy@1"
    store = ModelStore(made.store)
    assert store.rows("between@1") == store.rows("toy@1")
    assert [s["ref"] for s in store.lineage("between@1")] == ["between@1", "toy@1", base]
    # The files have the weights that were measured.
    encoder = Encoder.of(load_sentence_transformer(made.path, device="cpu"))
    measured = evaluate(exact_retriever(encoder, dev.corpus), dev, metrics="ndcg@10")
    assert measured.metrics["ndcg@10"].mean == pytest.approx(figures[found["alpha"]], abs=0.03)


def test_the_tuned_model_is_measured_where_it_is_not_asked_for_and_is_not_chosen(tuned):
    base, version = tuned
    given = {"dev": toy_pairs(40, seed=2, prefix="other"), "name": "half", "device": "cpu"}
    made = interpolate_models(base, version, alphas=[0.5], **given)
    found = made.manifest["interpolation"]
    assert [trial["alpha"] for trial in found["trials"]] == [0.0, 0.5, 1.0]
    assert found["alpha"] == 0.5
    assert interpolate_models(base, version, alphas=[0.5], **given).ref == made.ref == "half@1"
    other = interpolate_models(base, version, alphas=[0.625], **given)
    assert other.ref == "half@2"


def test_an_interpolated_version_is_a_base_like_any_other(tuned):
    base, version = tuned
    dev = toy_pairs(40, seed=2, prefix="other")
    made = interpolate_models(base, version, dev=dev, name="mid", alphas=[0.5], device="cpu")
    more = train(
        made,
        toy_pairs(64, seed=7, prefix="new"),
        dev=toy_pairs(30, seed=8, prefix="newdev"),
        name="mid",
        replay=0.2,
        replay_data=toy_pairs(),
        replay_dev=toy_pairs(30, seed=1, prefix="dev"),
        max_regression=None,
        interpolate=True,
        **FAST,
        store=made.store,
    )
    assert more.manifest["training"]["alpha"] == more.manifest["interpolation"]["alpha"]
    assert more.manifest["base"]["ref"] == "mid@1"
    refs = [step["ref"] for step in ModelStore(made.store).lineage(more.ref)]
    assert refs == ["mid@2", "mid@1", "toy@1", base]
    ModelStore(made.store).delete("mid@2")


def test_a_version_for_shorter_vectors_is_mixed_with_its_base(tuned):
    base, version = tuned
    dev = toy_pairs(40, seed=2, prefix="other")
    given = {"dev": toy_pairs(30, seed=1, prefix="dev"), "name": "short", "store": version.store}
    short = train(base, toy_pairs(), matryoshka_dims=(8,), **given, **FAST)
    made = interpolate_models(base, short, dev=dev, name="mixed", alphas=[0.5], device="cpu")
    found = {
        t["alpha"]: t["dev"]["ndcg@10"]["mean"] for t in made.manifest["interpolation"]["trials"]
    }
    # The rotation behind the base changes no cosine.
    plain = Encoder.of(load_sentence_transformer(base, device="cpu"))
    measured = evaluate(exact_retriever(plain, dev.corpus), dev, metrics="ndcg@10")
    assert found[0.0] == pytest.approx(measured.metrics["ndcg@10"].mean, abs=0.03)
    names = [type(m).__name__ for m in load_sentence_transformer(made.path, device="cpu")]
    assert names == ["Transformer", "Pooling", "Dense", "Normalize"]


def test_the_tuned_model_as_it_is_may_be_saved_and_the_base_may_not(tuned):
    base, version = tuned
    arguments = {"dev": toy_pairs(40, seed=2, prefix="other"), "name": "end", "device": "cpu"}
    same = interpolate_models(base, version, alphas=[1.0], **arguments)
    assert same.fingerprint == version.fingerprint
    with pytest.raises(NoGainError):
        interpolate_models(base, version, alphas=[0.0], **arguments)
    with pytest.raises(InputError, match="counts the versions"):
        interpolate_models(base, version, **{**arguments, "name": "end@3"})


def test_models_of_other_shapes_or_vocabularies_are_refused(tuned, tmp_path):
    _, version = tuned
    arguments = {"dev": toy_pairs(20, seed=2, prefix="other"), "name": "odd", "device": "cpu"}
    with pytest.raises(InputError, match="one architecture"):
        interpolate_models(toy_model(tmp_path / "wide", dims=32), version, **arguments)
    with pytest.raises(InputError, match="other vocabularies"):
        interpolate_models(tiny_model(tmp_path / "tiny"), version, **arguments)
