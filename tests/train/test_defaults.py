"""What is chosen where nothing was said, the warm-up, and the measure of scored pairs."""

import json
from importlib import import_module

import numpy as np
import pyarrow as pa
import pytest
import torch
from typer.testing import CliRunner

from lancedb_ft.cli.app import build_app
from lancedb_ft.data import write_training_file
from lancedb_ft.errors import InputError
from lancedb_ft.store import ModelStore
from lancedb_ft.train import explain_training, train
from lancedb_ft.train.compute import Compute
from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.defaults import (
    Facts,
    Network,
    choose,
    device_memory,
    read_network,
)
from lancedb_ft.train.scored_dev import make_scored_dev_set, spearman
from lancedb_ft.train.token_limits import read_token_limit
from lancedb_ft.train.warmup import Warmup, oscillates
from lancedb_ft.training_sets import TrainingSet
from tests.train.toy import toy_model, toy_pairs

MINILM = Network(layers=6, hidden=384, heads=12)


def facts(**changes):
    usual = {
        "n_rows": 3_000,
        "losses": ["mnrl"],
        "dims": 384,
        "network": MINILM,
        "texts_per_row": 2,
        "tokens": 128,
        "memory_bytes": 24 << 30,
        "compute": Compute("cpu", "float32", None),
        "metric": "ndcg@10",
    }
    return Facts(**{**usual, **changes})


def chosen(asked=None, **changes):
    return choose(asked or {}, facts(**changes))[0]


@pytest.mark.parametrize(
    ("n_rows", "epochs", "batch_size"),
    [
        (100, 1, 32),
        (1_999, 1, 32),
        (2_000, 1, 64),
        (4_999, 1, 64),
        (5_000, 2, 64),
        (20_000, 2, 128),
        (100_000, 1, 128),
    ],
)
def test_epochs_and_batch_follow_from_the_number_of_rows(n_rows, epochs, batch_size):
    config = chosen(n_rows=n_rows)
    assert (config.epochs, config.batch_size) == (epochs, batch_size)
    assert config.early_stopping == (3 if epochs > 1 else None)


def test_a_batch_that_does_not_fit_is_halved_and_one_that_is_asked_for_is_cached():
    small = {"n_rows": 20_000, "memory_bytes": 8 << 30}
    config = chosen(**small)
    assert config.batch_size in (32, 64)
    assert config.cached is False
    config = chosen({"batch_size": 1_024}, **small)
    assert (config.batch_size, config.cached) == (1_024, True)
    config = chosen({"batch_size": 1_024}, **small, losses=["cosent"])
    assert config.cached is False
    assert chosen(n_rows=20_000, memory_bytes=1 << 30).batch_size == 32


def test_no_limit_of_tokens_is_a_limit_that_was_given(tmp_path):
    """128 is the default; None is the model's own limit, and leaves nothing to be chosen."""
    assert chosen().max_tokens == 128
    assert chosen({"max_tokens": None}).max_tokens is None
    base = toy_model(tmp_path / "m", max_tokens=200)
    assert read_token_limit(base) == 200
    (tmp_path / "empty").mkdir()
    assert read_token_limit(tmp_path / "empty") == 512
    version = train(
        base,
        toy_pairs(32),
        dev=toy_pairs(30, seed=1, prefix="dev"),
        name="toy",
        store=str(tmp_path / "store"),
        max_tokens=None,
        batch_size=16,
        learning_rate=5e-3,
        epochs=3,
        device="cpu",
    )
    assert version.manifest["training"]["max_tokens"] is None


def test_the_longest_text_of_a_step_is_what_the_model_reads(tmp_path, monkeypatch):
    base, seen = toy_model(tmp_path / "m", max_tokens=96), []
    monkeypatch.setattr(
        import_module("lancedb_ft.train.preparation"),
        "choose",
        lambda given, facts: seen.append(facts) or choose(given, facts),
    )
    for most in (None, 32, 4_000):
        explain_training(base, toy_pairs(8), asked={"max_tokens": most}, device="cpu")
    assert [facts.tokens for facts in seen] == [96, 32, 96]


def test_the_metric_that_is_explained_is_that_of_dev(tmp_path):
    base = toy_model(tmp_path / "m")
    scored = TrainingSet(
        "scored", pa.table({"sentence1": ["a", "b"], "sentence2": ["c", "d"], "score": [0.1, 0.9]})
    )

    def metric(data, dev):
        told = explain_training(base, data, dev=dev, device="cpu")
        return next(c.value for c in told if c.argument == "metric")

    assert metric(scored, None) == metric(toy_pairs(8), scored) == "spearman"
    assert metric(scored, toy_pairs(8)) == metric(toy_pairs(8), None) == "ndcg@10"


def test_what_is_given_stays_and_says_so():
    asked = {"epochs": 7, "learning_rate": 3e-4, "warmup": 0.2, "loss": "gist", "seed": 5}
    config, choices = choose(asked, facts())
    assert (config.epochs, config.learning_rate, config.warmup) == (7, 3e-4, 0.2)
    assert (config.loss, config.seed, config.raise_warmup) == ("gist", 5, False)
    assert config.early_stopping == 3
    reasons = {choice.argument: choice.why for choice in choices}
    assert reasons["epochs"] == reasons["learning_rate"] == "given"
    assert reasons["batch_size"] != "given"
    assert all(choice.why for choice in choices)


def test_a_warm_up_that_is_not_given_may_be_raised():
    assert chosen().raise_warmup is True
    assert TrainingConfig().raise_warmup is False


def test_adapters_learn_ten_times_as_fast():
    assert chosen({"lora_rank": 8}).learning_rate == pytest.approx(10 * chosen().learning_rate)
    assert chosen(dims=768).learning_rate == 2e-5
    assert chosen(losses=["cosent"]).learning_rate == 5e-5
    assert chosen(losses=["cosent", "mnrl"]).learning_rate == 1e-4


def test_longer_texts_more_of_them_and_float32_take_more_memory():
    def size(tokens, precision="float32"):
        return MINILM.activation_bytes(tokens, precision=precision)

    assert size(256) > 2 * size(128) > 0
    assert size(128) == 2 * size(128, "bfloat16")
    assert Network().activation_bytes(128, precision="float32") == 0


def test_the_size_of_a_model_is_read_from_its_folder(tmp_path, minilm):
    assert read_network(toy_model(tmp_path / "toy")) == Network(1, 16, 2)
    assert read_network(minilm) == MINILM
    assert read_network(tmp_path) == Network()


def test_the_memory_of_this_machine_is_the_same_each_time():
    assert device_memory("cpu") == device_memory("cpu") > 1 << 28


def test_what_is_explained_is_what_train_uses(tmp_path):
    base = toy_model(tmp_path / "toy")
    pairs = toy_pairs(200)
    dev = toy_pairs(30, seed=1, prefix="dev")
    asked = {"learning_rate": 5e-3, "epochs": 3}
    told = {c.argument: c.value for c in explain_training(base, pairs, asked=asked, device="cpu")}
    version = train(
        base, pairs, dev=dev, name="toy", store=str(tmp_path / "s"), device="cpu", **asked
    )
    training = version.manifest["training"]
    for argument in ("loss", "epochs", "batch_size", "learning_rate", "warmup", "metric"):
        assert training[argument] == told[argument], argument
    assert {c["argument"]: c["value"] for c in version.manifest["choices"]} == told


def test_the_command_line_explains_and_trains_nothing(tmp_path):
    base = toy_model(tmp_path / "toy")
    file = tmp_path / "pairs.jsonl"
    write_training_file(TrainingSet.of_pairs(toy_pairs(50)), file)
    store = tmp_path / "store"
    command = ["train", "--data", str(file), "--name", "x", "--base", base, "--store", str(store)]
    done = CliRunner().invoke(build_app(), [*command, "--epochs", "4", "--explain", "--json"])
    assert done.exit_code == 0, done.output
    choices = {c["argument"]: c for c in json.loads(done.stdout)["choices"]}
    assert choices["epochs"] == {"argument": "epochs", "value": 4, "why": "given"}
    assert choices["batch_size"]["value"] == 32
    assert not store.exists()
    shown = CliRunner().invoke(build_app(), [*command, "--explain"])
    assert "learning_rate" in shown.stdout
    bad = CliRunner().invoke(build_app(), [*command, "--name", "a/b", "--explain"])
    assert isinstance(bad.exception, InputError)


def test_no_limit_of_tokens_on_the_command_line(tmp_path):
    base = toy_model(tmp_path / "toy")
    for name, seed in (("train", 0), ("dev", 1)):
        pairs = TrainingSet.of_pairs(toy_pairs(32, seed=seed, prefix=name))
        write_training_file(pairs, tmp_path / f"{name}.jsonl")
    command = ["train", "--name", "x", "--base", base, "--store", str(tmp_path / "store")]
    command += ["--data", str(tmp_path / "train.jsonl"), "--dev", str(tmp_path / "dev.jsonl")]
    command += ["--epochs", "3", "--batch-size", "16", "--learning-rate", "5e-3", "--json"]
    command += ["--max-tokens"]
    done = CliRunner().invoke(build_app(), [*command, "7"])
    assert "max_tokens is 7; it must be a whole number, 8 or more" in str(done.exception)
    done = CliRunner().invoke(build_app(), [*command, "0"])
    assert done.exit_code == 0, done.output
    version = ModelStore(str(tmp_path / "store")).load("x")
    assert version.manifest["training"]["max_tokens"] is None


def test_the_command_line_needs_either_tables_or_files(tmp_path):
    command = ["train", "--name", "x", "--store", str(tmp_path)]
    for options in ([], ["--data", "x.jsonl", "--queries-table", "q", "--qrels-table", "r"]):
        done = CliRunner().invoke(build_app(), [*command, *options])
        assert isinstance(done.exception, InputError)
        assert "either" in str(done.exception)


# --- warm-up -------------------------------------------------------------------------------

FALLING = [3.0 - 0.05 * i + 0.3 * (-1) ** i for i in range(30)]
SWINGING = [2.0 + 1.6 * (-1) ** i for i in range(60)]
RISING = [1.0 + 0.1 * i for i in range(60)]


def test_noise_on_a_falling_loss_is_no_oscillation_swings_and_rises_are():
    assert not oscillates(FALLING)
    assert oscillates(SWINGING)
    assert oscillates(RISING)
    assert oscillates([*FALLING, float("nan")])
    assert not oscillates(SWINGING[:4])
    assert not oscillates([0.001, 0.02] * 10)


def schedule_of(losses, n_steps=100, adaptive=True):
    warmup = Warmup(0.1, n_steps, adaptive=adaptive)
    factors = []
    for step, loss in enumerate(losses):
        factors.append(warmup(step))
        warmup.observe(loss)
    return warmup, factors


def test_a_quiet_loss_leaves_the_warm_up_at_a_tenth():
    warmup, factors = schedule_of(FALLING)
    assert warmup.to_dict() == {"steps": 10, "raised_at": []}
    assert factors[:11] == [step / 10 for step in range(11)]
    assert warmup(100) == 0.0


def test_an_oscillating_loss_doubles_the_warm_up_up_to_its_limit():
    warmup, factors = schedule_of(SWINGING)
    assert warmup.to_dict() == {"steps": 30, "raised_at": [10, 20]}
    assert factors[9] == 0.9
    assert factors[10] == 0.5  # half as high at once
    assert factors[20] == pytest.approx(20 / 30)
    assert factors[30] == 1.0
    assert schedule_of(SWINGING, adaptive=False)[0].steps == 10
    assert schedule_of(SWINGING, n_steps=12)[0].to_dict() == {"steps": 2, "raised_at": []}


def test_the_schedulers_state_brings_a_raised_warm_up_back():
    def scheduler():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        warmup = Warmup(0.1, 100, adaptive=True)
        return torch.optim.lr_scheduler.LambdaLR(optimizer, warmup), warmup

    first, before = scheduler()
    for loss in SWINGING[:15]:
        before.observe(loss)
    second, after = scheduler()
    second.load_state_dict(first.state_dict())
    assert vars(after) == vars(before)
    assert after.steps == 20


# --- scored pairs --------------------------------------------------------------------------


def test_the_rank_correlation_is_that_of_the_textbook():
    assert spearman([1, 2, 3, 4], [1, 2, 3, 4]) == 1.0
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1.0
    # Ties share their mean rank: ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4; 1 - 6 * 0.5 / 60 corrected.
    assert spearman([1, 2, 2, 3], [1, 3, 2, 4]) == pytest.approx(0.9486833)
    assert spearman([1, 1, 1], [1, 2, 3]) == 0.0


def test_scored_pairs_are_measured_by_their_order_with_an_interval():
    class Known:
        """Vectors at the angle that stands in the text."""

        def encode(self, texts, *, kind="document", progress=None):
            angles = np.radians([float(text) for text in texts])
            rows = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
            return pa.array(list(rows), pa.list_(pa.float32(), 2))

    angles = list(range(0, 90, 3))
    table = pa.table(
        {
            "sentence1": ["0"] * len(angles),
            "sentence2": [str(angle) for angle in angles],
            "score": [1 - angle / 90 for angle in angles],
        }
    )
    devset = make_scored_dev_set(TrainingSet("scored", table), seed=0)
    found = devset.measure(Known(), "spearman").metrics["spearman"]
    assert found.mean == pytest.approx(1.0)
    assert found.n == len(angles)
    mixed = table.set_column(2, "score", pa.array([(7 * i % 30) / 30 for i in range(30)]))
    found = make_scored_dev_set(TrainingSet("scored", mixed), seed=0).measure(Known(), "spearman")
    low, high = found.metrics["spearman"].ci95
    assert low < found.metrics["spearman"].mean < high
    with pytest.raises(InputError, match="'ndcg@10'; scored pairs"):
        devset.measure(Known(), "ndcg@10")
    with pytest.raises(InputError, match="1 different scores"):
        make_scored_dev_set(TrainingSet("scored", table.slice(0, 1)), seed=0)
