"""Arguments, losses, training columns and the dev set: what needs no model."""

import random

import numpy as np
import pyarrow as pa
import pytest

from lancedb_ft.errors import InputError, LeakError
from lancedb_ft.train import TrainingConfig
from lancedb_ft.train.config import default_learning_rate
from lancedb_ft.train.devset import MIN_QUERIES, check_leaks, hold_out, make_dev_set
from lancedb_ft.train.examples import as_training_set, check_contrast, make_examples
from lancedb_ft.train.examples import usable_batch_size as usable
from lancedb_ft.types import Pairs
from tests.train.toy import toy_pairs


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"loss": "hinge"}, "'mnrl'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"epochs": 1.5}, "epochs is 1.5"),
        ({"batch_size": -1}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"warmup": 1.0}, "warmup"),
        ({"seed": 2**32}, "seed"),
        ({"max_tokens": 2}, "max_tokens"),
        ({"eval_steps": 0}, "eval_steps"),
        ({"metric": "accuracy"}, "accuracy"),
        ({"temperature": 0.0}, "temperature is 0"),
        ({"early_stopping": 0}, "early_stopping"),
        ({"lora_rank": -4}, "lora_rank"),
        ({"pooling": "max"}, "mean, cls"),
        ({"matryoshka_dims": (8, 0)}, "matryoshka_dims"),
    ],
)
def test_an_argument_that_cannot_be_used_is_told_at_once(given, told):
    with pytest.raises(InputError, match=told):
        TrainingConfig(**given)


def test_the_usual_learning_rate_follows_from_the_size_of_the_model():
    assert default_learning_rate(384) == 1e-4
    assert default_learning_rate(768) == 2e-5


def test_four_evaluations_an_epoch_unless_said_otherwise():
    assert TrainingConfig().interval(64) == 16
    assert TrainingConfig().interval(2) == 1
    assert TrainingConfig(eval_steps=7).interval(64) == 7


# --- columns -------------------------------------------------------------------------------


def pairs_with_negatives():
    table = toy_pairs(4).table
    return Pairs(table.append_column("negative", pa.array(["n0", "n1", "n2", "n3"])))


def examples_of(data):
    (made,) = make_examples(as_training_set(data))
    return made


def test_columns_stand_in_the_order_the_loss_reads_them_and_no_other_is_there():
    made = examples_of(pairs_with_negatives())
    assert made.dataset().column_names == ["anchor", "positive", "negative_1"]
    assert made.columns["anchor"] == pairs_with_negatives().table["query"].to_pylist()
    assert made.columns["positive"] == pairs_with_negatives().table["document"].to_pylist()
    assert examples_of(toy_pairs(3)).dataset().column_names == ["anchor", "positive"]


def test_texts_that_differ_in_case_and_space_only_are_spelled_alike_and_keep_their_lines():
    pairs = Pairs.of(
        [
            ("q1", "How to\nCancel? ", "d1", "Open  settings."),
            ("q2", " how to cancel?", "d2", "open settings."),
        ]
    )
    columns = examples_of(pairs).columns
    assert columns["anchor"] == ["How to\nCancel?"] * 2
    assert columns["positive"] == ["Open  settings."] * 2


def test_a_batch_is_no_larger_than_the_texts_can_fill():
    faq = Pairs.of([(f"q{i}", f"question {i}", f"d{i % 4}", f"answer {i % 4}") for i in range(40)])
    assert usable(examples_of(faq), 64) == 4
    assert usable(examples_of(toy_pairs(100)), 64) == 64
    assert usable(examples_of(toy_pairs(100)), 64, n_processes=2) == 50


@pytest.mark.parametrize(
    ("pairs", "batch_size", "told"),
    [
        (Pairs.of([]), 64, "no pairs"),
        (toy_pairs(10), 1, "batch_size is 1"),
        (toy_pairs(1), 64, "nothing to tell apart"),
        (Pairs.of([("q1", "a", "d", "same"), ("q2", "b", "d", "Same ")]), 64, "1 distinct doc"),
    ],
)
def test_pairs_that_teach_nothing_are_refused(pairs, batch_size, told):
    with pytest.raises(InputError, match=told):
        check_contrast(examples_of(pairs), batch_size)


def test_negatives_of_their_own_make_a_batch_of_one_useful():
    check_contrast(examples_of(pairs_with_negatives()), 1)


# --- dev -----------------------------------------------------------------------------------


def test_the_held_out_part_is_a_tenth_and_shares_nothing():
    train, dev, info = hold_out(toy_pairs(200), seed=3)
    assert (len(train), len(dev)) == (180, 20)
    assert info["seed"] == 3
    check_leaks(train, dev)


def test_too_few_pairs_to_hold_any_out_say_so():
    with pytest.raises(InputError, match=r"Pass dev="):
        hold_out(toy_pairs(1), seed=0)


@pytest.mark.parametrize("column", ["query", "document"])
def test_a_text_in_train_and_dev_is_a_leak_whatever_its_ids_and_case(column):
    train, dev = toy_pairs(20), toy_pairs(5, seed=1, prefix="x")
    check_leaks(train, dev)
    leaked = train.table[column][7].as_py().upper().replace(" ", "  ")
    texts = [leaked, *dev.table[column].to_pylist()[1:]]
    at = dev.table.schema.get_field_index(column)
    dev = Pairs(dev.table.set_column(at, column, pa.array(texts)))
    with pytest.raises(LeakError) as caught:
        check_leaks(train, dev)
    assert caught.value.n_leaks == 1
    assert caught.value.examples == [leaked]


def test_distractors_are_training_documents_and_never_a_relevant_one():
    train, dev = toy_pairs(60), toy_pairs(10, seed=1, prefix="dev")
    devset = make_dev_set(dev, train, seed=0)
    assert len(devset.corpus) == 70
    assert set(dev.corpus) <= set(devset.corpus)
    relevant = next(iter(dev.corpus.values()))
    given = {"dev0": "other text, same id", "copy": relevant.upper(), "blank": " ", "ok": "fine"}
    devset = make_dev_set(dev, train, seed=0, distractors=given)
    assert set(devset.corpus) - set(dev.corpus) == {"dev0", "ok"}
    assert devset.corpus["devd0"] == relevant


def test_distractors_are_capped_and_chosen_by_the_seed_alone():
    train, dev = toy_pairs(3000), toy_pairs(10, seed=1, prefix="dev")
    rows = np.arange(3000)
    random.Random(5).shuffle(rows)
    first = make_dev_set(dev, train, seed=0)
    assert len(first.corpus) == 3000 // 5
    assert len(make_dev_set(dev, train.take(rows[:300]), seed=0).corpus) == 10 + 250
    assert make_dev_set(dev, train.take(rows), seed=0).corpus == first.corpus
    assert make_dev_set(dev, train, seed=1).corpus != first.corpus


def test_a_large_dev_set_is_sampled_by_query_with_all_documents_of_a_query():
    rows = [(f"q{i // 2}", f"query {i // 2}", f"d{i}", f"doc {i}") for i in range(5_000)]
    train = toy_pairs(2_000, prefix="train")
    devset = make_dev_set(Pairs.of(rows), train, seed=0)
    assert devset.n_queries == 400
    assert all(len(documents) == 2 for documents in devset.pairs.qrels.values())
    assert len(devset.corpus) == 800 + 250
    few = make_dev_set(Pairs.of(rows), toy_pairs(20, prefix="train"), seed=0)
    assert few.n_queries == MIN_QUERIES


def test_documents_of_dev_queries_that_were_not_chosen_are_no_distractors():
    rows = [(f"q{i}", f"query {i}", f"d{i}", f"doc {i}") for i in range(400)]
    given = {f"other{i}": f"doc {i}" for i in range(400)} | {"other": "none of these"}
    devset = make_dev_set(Pairs.of(rows), toy_pairs(20), seed=0, distractors=given)
    assert len(devset.corpus) == MIN_QUERIES + 1


def test_an_empty_dev_set_is_refused():
    with pytest.raises(InputError, match="empty"):
        make_dev_set(Pairs.of([]), toy_pairs(4), seed=0)
