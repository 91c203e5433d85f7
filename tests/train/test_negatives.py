"""Negatives that training mines for itself before its first step."""

import pyarrow as pa
import pytest

from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import InputError
from lancedb_ft.store import resolve_model
from lancedb_ft.train import train
from lancedb_ft.train.negatives import can_mine, mined_sets
from lancedb_ft.training_sets import TrainingSet
from tests.train.test_defaults import chosen, facts
from tests.train.toy import FAST, toy_model, toy_pairs


def test_one_is_mined_for_bare_pairs_that_are_many_enough():
    assert chosen(n_rows=1_000, minable=True).negatives == 1
    assert chosen(n_rows=999, minable=True).negatives == 0
    assert chosen(n_rows=5_000).negatives == 0
    assert chosen({"negatives": 4}, minable=True).negatives == 4
    with pytest.raises(InputError, match="negatives"):
        chosen({"negatives": -1}, minable=True)


def test_negatives_count_in_what_a_batch_needs():
    tight = {"n_rows": 20_000, "memory_bytes": 17 << 30, "minable": True}
    assert (
        chosen({"negatives": 0}, **tight).batch_size > chosen({"negatives": 8}, **tight).batch_size
    )
    assert facts(minable=True).texts_per_row == 2


def test_only_pairs_without_negatives_and_a_loss_that_reads_them_get_some():
    pairs = toy_pairs(20)
    assert can_mine(pairs, None)
    assert can_mine(pairs, "gist")
    rows = {"anchor": ["a"], "positive": ["b"]}
    assert not can_mine(TrainingSet("triplets", pa.table({**rows, "negative_1": ["c"]})), None)
    assert not can_mine(TrainingSet("pairs", pa.table({**rows, "group": ["g"]})), None)
    scored = pa.table({"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]})
    assert not can_mine(TrainingSet("scored", scored), None)


def test_what_is_found_is_trained_on_is_no_answer_and_is_kept(tmp_path):
    base = resolve_model(toy_model(tmp_path / "toy"), store=None)
    pairs = toy_pairs(60)
    asked = {"loss": None, "device": "cpu", "seed": 0, "folder": tmp_path}
    (made,) = mined_sets([pairs], base, 2, **asked)
    assert made.kind == "negatives"
    assert len(made) == 60
    documents = {normalise(text) for text in pairs.corpus.values()}
    for row in made.table.to_pylist():
        assert len(row["negatives"]) == 2
        assert normalise(row["positive"]) not in map(normalise, row["negatives"])
        assert {normalise(text) for text in row["negatives"]} <= documents
    written = (tmp_path / "negatives-0.parquet").stat().st_mtime_ns
    (again,) = mined_sets([pairs], base, 2, **asked)
    assert again.table == made.table
    assert (tmp_path / "negatives-0.parquet").stat().st_mtime_ns == written


def test_prompts_and_loss_of_a_set_stay(tmp_path):
    base = resolve_model(toy_model(tmp_path / "toy"), store=None)
    rows = TrainingSet.of_pairs(toy_pairs(30)).table
    plain = TrainingSet("pairs", rows, loss="gist", query_prompt="q: ", name="clicks")
    (made,) = mined_sets([plain], base, 1, loss=None, device="cpu", seed=0, folder=tmp_path)
    assert (made.loss, made.query_prompt, made.name) == ("gist", "q: ", "clicks")


def test_training_with_negatives_learns_and_says_so(tmp_path):
    base = toy_model(tmp_path / "toy")
    pairs, dev = toy_pairs(160), toy_pairs(40, seed=1, prefix="dev")
    store = str(tmp_path / "s")
    version = train(base, pairs, dev=dev, name="toy", store=store, negatives=2, epochs=3, **FAST)
    dev_figures = version.manifest["metrics"]["dev"]
    assert dev_figures["tuned"]["ndcg@10"]["mean"] > dev_figures["base"]["ndcg@10"]["mean"]
    assert version.manifest["training"]["negatives"] == 2
    assert version.manifest["data"]["has_negatives"] is True
    assert version.manifest["data"]["fingerprint"] == pairs.fingerprint
    again = train(base, pairs, dev=dev, name="toy", store=store, negatives=2, epochs=3, **FAST)
    assert again.ref == version.ref
