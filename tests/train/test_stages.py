"""A curriculum: each epoch has its stage, a run goes on as it would have, and what is none."""

import json

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from lancedb_ft.cli.app import build_app
from lancedb_ft.data.mine import curriculum
from lancedb_ft.errors import InputError
from lancedb_ft.train import explain_training, train
from lancedb_ft.train.compute import choose_compute
from lancedb_ft.train.config import TrainingConfig
from lancedb_ft.train.examples import make_examples
from lancedb_ft.train.fit import Fitting, _batch_sampler
from lancedb_ft.training_sets import TrainingSet
from tests.train.toy import FAST, toy_model, toy_pairs

N = 48


def mined(n=N, **columns):
    """Two negatives a row, hardest first: the answer of another query, and no answer at all."""
    rows = toy_pairs(n).table.to_pylist()
    table = {
        "query": [row["query"] for row in rows],
        "positive": [row["document"] for row in rows],
        "negatives": [[f"hard {rows[i - 1]['document']}", f"easy {i}"] for i in range(n)],
    }
    return TrainingSet("negatives", pa.table({**table, **columns}))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def dev():
    return toy_pairs(30, seed=1, prefix="dev")


@pytest.mark.parametrize(
    ("loss", "columns"),
    [
        ("mnrl", {}),
        ("triplet", {}),
        ("distill_kl", {"positive_score": [1.0] * N, "negative_scores": [[0.9, 0.1]] * N}),
    ],
)
def test_an_epoch_is_trained_on_its_stage_alone(loss, columns):
    [examples] = make_examples(mined(**columns), loss=loss, curriculum=2)
    assert len(examples) == N
    config = TrainingConfig(epochs=4, batch_size=16, curriculum=2)
    dataset = examples.dataset()
    settings = {"drop_last": False, "seed": 0}
    fitting = Fitting([examples], config, choose_compute("cpu"))
    sampler = _batch_sampler(fitting, dataset, 16, settings)
    assert len(sampler) == 3
    seen = []
    for epoch in range(4):
        sampler.set_epoch(epoch)
        rows = [row for batch in sampler for row in batch]
        seen.append({dataset[row]["negative_1"].split()[0] for row in rows})
        assert {dataset[row]["query"] for row in rows} == set(mined().table["query"].to_pylist())
    assert seen == [{"easy"}, {"easy"}, {"hard"}, {"hard"}]


def test_rows_of_unequal_lists_have_equally_many_negatives_in_each_stage():
    lists = [["n1", "n2", "n3", "n4", "n5"]] * (N - 1) + [["m1", "m2"]]
    table = mined().table.set_column(2, "negatives", pa.array(lists))
    [examples] = make_examples(TrainingSet("negatives", table), curriculum=2)
    rows = list(zip(*examples.columns.values(), strict=True))
    assert [rows[place][2:] for place in (0, N)] == [("n5", "n4", "n5"), ("n3", "n2", "n1")]
    assert [rows[place][2:] for place in (N - 1, -1)] == [("m2",) * 3, ("m1",) * 3]


class Stop(Exception):
    pass


def test_a_run_that_was_stopped_in_the_last_stage_ends_as_one_that_was_not(base, dev, tmp_path):
    def call(store, **settings):
        arguments = {"dev": dev, "name": "toy", "store": str(tmp_path / store), **FAST}
        return train(base, mined(), curriculum=2, eval_steps=1, **arguments, **settings)

    whole = call("whole")
    assert whole.manifest["training"]["epochs"] == whole.manifest["training"]["curriculum"] == 2
    assert whole.manifest["training"]["steps"] == 6
    assert whole.manifest["data"]["n_pairs"] == N

    def stop(event):
        if event["event"] == "loss" and event["step"] == 5:
            raise Stop

    with pytest.raises(Stop):
        call("cut", on_event=stop)
    events = []
    cut = call("cut", on_event=events.append)
    assert [event["step"] for event in events if event["event"] == "loss"] == [5, 6]
    assert cut.fingerprint == whole.fingerprint
    mixed = train(
        base, mined(), dev=dev, name="toy", store=str(tmp_path / "mixed"), epochs=2, **FAST
    )
    assert mixed.fingerprint != whole.fingerprint


def test_what_is_no_curriculum_is_refused(base, dev, tmp_path):
    rest = {"name": "toy", "store": str(tmp_path), **FAST}
    with pytest.raises(InputError, match=r"easy and hard at once.*curriculum=3"):
        train(base, curriculum(mined(), 3), **rest)
    with pytest.raises(InputError, match="of the type 'negatives', of which there are none"):
        train(base, toy_pairs(), dev=dev, curriculum=2, **rest)
    with pytest.raises(InputError, match="epochs is 2, and a curriculum of 3"):
        train(base, mined(), dev=dev, curriculum=3, epochs=2, **rest)
    with pytest.raises(InputError, match="negatives is 1"):
        train(base, mined(), dev=dev, curriculum=2, negatives=1, **rest)
    with pytest.raises(InputError, match="curriculum is 1"):
        train(base, mined(), dev=dev, curriculum=1, **rest)
    with pytest.raises(InputError, match="curriculum is for fine-tuning"):
        train(base, mined(), dev=dev, curriculum=2, query_only=True, **rest)


def test_what_a_curriculum_changes_is_explained(base, tmp_path):
    told = {
        choice.argument: choice.value
        for choice in explain_training(base, mined(), asked={"curriculum": 3}, device="cpu")
    }
    assert (told["epochs"], told["early_stopping"]) == (3, None)
    file = tmp_path / "negatives.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in mined().table.to_pylist()))
    command = ["train", "--data", str(file), "--name", "toy", "--store", str(tmp_path / "models")]
    command += ["--base", base, "--curriculum", "4", "--explain", "--json"]
    done = CliRunner().invoke(build_app(), command)
    choices = {each["argument"]: each["value"] for each in json.loads(done.stdout)["choices"]}
    assert choices["epochs"] == 4
