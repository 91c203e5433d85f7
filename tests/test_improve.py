"""The whole loop on tiny models: what it refuses early, and that it goes on when run again."""

from importlib import import_module

import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.errors import GateError, ReindexStateError
from lancedb_ft.generation import read_state
from lancedb_ft.table import dataset
from tests.train.toy import FAST, toy_model, toy_pairs

FAST = {**FAST, "epochs": 3, "precision": "float32"}


@pytest.fixture(autouse=True)
def no_variable(monkeypatch):
    monkeypatch.delenv("LANCEDB_FT_STORE", raising=False)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("base"))


@pytest.fixture
def pairs():
    return toy_pairs(200)


@pytest.fixture
def split(pairs):
    return ft.split_pairs(pairs, seed=0)


def documents(pairs):
    return pa.table({"id": list(pairs.corpus), "text": list(pairs.corpus.values())})


@pytest.fixture(params=["no vectors", "raw vectors"])
def table(request, db, base, pairs):
    rows = documents(pairs)
    if request.param == "raw vectors":
        rows = rows.append_column("vector", ft.get_encoder(base).encode(rows["text"]))
    return db.create_table("docs", rows)


@pytest.fixture
def trainings(monkeypatch):
    """Count the steps that are trained."""
    pipeline = import_module("lancedb_ft.pipeline")
    steps = []

    def counted(*args, **kwargs):
        kwargs.pop("progress", None)
        return train(*args, progress=lambda done, total: steps.append(done), **kwargs)

    train = pipeline.train
    monkeypatch.setattr(pipeline, "train", counted)
    return steps


def improve(table, split, **changes):
    return ft.improve(table._conn.open_table("docs"), split, name="support", **FAST, **changes)


def figures(report):
    """The gate's encoder is asked for float32; what serves, when run again, may be in bfloat16."""
    found = report.comparison.to_dict()
    means = [found[side]["ndcg@10"]["mean"] for side in ("base", "tuned")]
    return means


def test_run_again_after_its_switch_it_says_the_same(table, split, base, trainings):
    first = improve(table, split, base=base)
    assert first.switched
    trained = len(trainings)
    again = improve(table, split, base=base)
    assert (again.model, again.switched) == ("support@1", True)
    assert len(trainings) == trained
    assert figures(again) == pytest.approx(figures(first), abs=0.02)
    ft.finish(table._conn.open_table("docs"))
    assert figures(improve(table, split, base=base)) == pytest.approx(figures(first), abs=0.02)


def test_without_a_base_nothing_is_trained_twice(db, split, base, pairs, trainings, monkeypatch):
    monkeypatch.setattr(import_module("lancedb_ft.pipeline"), "DEFAULT_BASE", base)
    table = db.create_table("docs", documents(pairs))
    first = improve(table, split)
    trained = len(trainings)
    again = improve(table, split)
    assert (first.model, again.model) == ("support@1", "support@1")
    assert len(trainings) == trained
    assert figures(again) == pytest.approx(figures(first), abs=0.02)
    # Other data begin with the table's model, as ever.
    other = ft.split_pairs(pairs, seed=1)
    with pytest.raises(GateError):
        improve(table, other, require="ndcg@10 >= 1.5")
    made = ft.ModelStore(f"{db.uri}/ft_models").load("support@2")
    assert made.manifest["base"]["ref"] == "support@1"


def test_a_table_on_its_way_is_refused_before_the_training(db, split, base, pairs, trainings):
    table = db.create_table("docs", documents(pairs))
    with pytest.raises(GateError):
        improve(table, split, base=base, require="ndcg@10 >= 1.5")
    trained = len(trainings)
    with pytest.raises(GateError):  # the very same call asks its gate again
        improve(table, split, base=base, require="ndcg@10 >= 1.5")
    with pytest.raises(ReindexStateError, match=r"already being re-indexed to support@1 .*ready"):
        improve(table, ft.split_pairs(pairs, seed=1), base=base)
    assert len(trainings) == trained
    assert read_state(dataset(table).schema, table="docs").coming.model == "support@1"


def test_what_was_rolled_back_is_not_in_the_way(db, split, base, pairs):
    table = db.create_table("docs", documents(pairs))
    ft.reindex(table, base, force=True, precision="float32")
    first = improve(table, split, base=base)
    ft.rollback(db.open_table("docs"))
    other = improve(table, ft.split_pairs(pairs, seed=1), base=base, require="ndcg@10 >= 0.01")
    assert (first.model, other.model) == ("support@1", "support@2")
    assert other.switched
