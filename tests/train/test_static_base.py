"""A static model is trained, interpolated and searched like any other, as far as it can be."""

import pytest

import lancedb_ft as ft
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError
from lancedb_ft.train.static_base import is_static_folder
from lancedb_ft.train.token_limits import limit_tokens
from lancedb_ft.train.tuning.space import default_space
from tests.train.toy import FAST, toy_model, toy_pairs

DEV = toy_pairs(60, seed=1, prefix="dev")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def static(base, store):
    given = {"dev": DEV, "store": store, "device": "cpu"}
    return ft.distill(base, toy_pairs(), student="static", name="static", epochs=1, **given)


@pytest.fixture(scope="module")
def tuned(static, store):
    return ft.train(static, toy_pairs(), dev=DEV, name="tuned", store=store, epochs=2, **FAST)


def test_a_static_model_is_fine_tuned(tuned):
    dev = tuned.manifest["metrics"]["dev"]
    assert dev["tuned"]["ndcg@10"]["mean"] > dev["base"]["ndcg@10"]["mean"]
    assert is_static_folder(tuned.path)


def test_and_lies_on_a_line_with_its_base(static, tuned, store):
    made = ft.interpolate_models(
        static, tuned, dev=DEV, name="line", store=store, alphas=[1.0], device="cpu"
    )
    assert made.fingerprint == tuned.fingerprint


def test_and_is_searched_around(static, store):
    assert default_space([toy_pairs(8)], static.path, 16).loss == ("mnrl",)
    limits = {"epochs": (1,), "learning_rate": (5e-3, 5e-3), "batch_size": (16,)}
    given = {"dev": DEV, "name": "searched", "store": store, "device": "cpu"}
    report = ft.tune(static, toy_pairs(), n_trials=1, limits=limits, **given)
    assert [trial.state for trial in report.trials] == ["complete"]
    with pytest.raises(InputError, match="may choose loss 'gist'"):
        ft.tune(static, toy_pairs(), n_trials=1, limits={"loss": ("mnrl", "gist")}, **given)


def test_losses_that_need_a_transformer_are_refused_by_name(base, static, store):
    given = {"dev": DEV, "name": "no", "store": store, **FAST}
    for loss in ("cached_mnrl", "gist"):
        with pytest.raises(InputError, match=f"Loss '{loss}' needs .* table of token vectors"):
            ft.train(static, toy_pairs(), loss=loss, **given)
    with pytest.raises(InputError, match=r"'static@1' is a table of token vectors\. Name"):
        ft.train(base, toy_pairs(), loss="gist", guide=static.ref, **given)


def test_a_limit_is_only_ever_lowered(base, static):
    model = load_sentence_transformer(base, device="cpu")
    for most, left in ((None, 64), (100, 64), (float("inf"), 64), (32, 32), (48, 32)):
        limit_tokens(model, most)
        assert model.max_seq_length == left
    table = load_sentence_transformer(static.path, device="cpu")
    limit_tokens(table, 32)
    assert table.max_seq_length == float("inf")
