"""Batches of data in which a document stands in very many rows."""

from collections import Counter

import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.train.examples import make_examples, usable_batch_size
from lancedb_ft.train.sampling import capped_sampler, rows_per_epoch
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.train.toy import FAST, toy_model, toy_pairs


def skewed(n=160, n_popular=80):
    """Pairs of which the first rows share one document."""
    table = toy_pairs(n).table
    documents, ids = table["document"].to_pylist(), table["doc_id"].to_pylist()
    documents[:n_popular], ids[:n_popular] = ["the popular one"] * n_popular, ["p"] * n_popular
    columns = {"document": pa.array(documents), "doc_id": pa.array(ids)}
    for name, column in columns.items():
        table = table.set_column(table.column_names.index(name), name, column)
    return Pairs(table)


def batches(data, size=16, epoch=0, **settings):
    (examples,) = make_examples(TrainingSet.of_pairs(data) if isinstance(data, Pairs) else data)
    size = usable_batch_size(examples, size)
    dataset = examples.dataset(with_groups=True)
    given = {"drop_last": False, "seed": 7, **settings}
    sampler = capped_sampler(examples, dataset, size, given)
    sampler.set_epoch(epoch)
    return list(sampler), sampler, examples


def test_a_popular_document_stands_in_each_batch_once_and_no_batch_is_of_it_alone():
    found, sampler, examples = batches(skewed())
    popular = [sum(row < 80 for row in batch) for batch in found]
    assert popular == [1] * len(found) == [1] * len(sampler)
    assert sorted(len(batch) for batch in found) == [14] * 4 + [15] * 2
    rows = [row for batch in found for row in batch]
    assert len(rows) == len(set(rows)) == rows_per_epoch(examples, 16)
    assert {row for row in rows if row >= 80} == set(range(80, 160))


def test_its_rows_take_turns_and_an_epoch_is_the_same_again():
    seen = [
        {row for batch in batches(skewed(), epoch=epoch)[0] for row in batch if row < 80}
        for epoch in range(40)
    ]
    assert len(set().union(*seen)) > 65
    assert batches(skewed(), epoch=3)[0] == batches(skewed(), epoch=3)[0]
    assert batches(skewed(), epoch=3)[0] != batches(skewed(), epoch=3, seed=8)[0]


@pytest.mark.parametrize("n_popular", [1, 5, 10])
def test_where_a_text_is_in_no_more_rows_than_there_are_batches_all_are_seen(n_popular):
    found, sampler, examples = batches(skewed(n_popular=n_popular))
    assert sorted(row for batch in found for row in batch) == list(range(160))
    assert type(sampler).__name__ == "NoDuplicatesBatchSampler"
    assert rows_per_epoch(examples, 16) == 160


def test_no_text_stands_twice_in_a_batch_in_whatever_column():
    pairs = skewed()
    table = pairs.table.append_column(
        "negative", pa.array(pairs.table["document"].to_pylist()[::-1])
    )
    found, _, examples = batches(Pairs(table))
    columns = list(examples.texts.values())
    for batch in found:
        texts = [column[row] for column in columns for row in batch]
        assert len(set(texts)) == len(texts)


def test_labels_that_most_texts_have():
    texts = [f"text number {i}" for i in range(100)]
    labels = ["most"] * 60 + [f"label {i % 20}" for i in range(40)]
    found, sampler, _ = batches(TrainingSet("labelled", pa.table({"text": texts, "label": labels})))
    assert len(found) == len(sampler)
    assert max(Counter(len(batch) for batch in found)) > 8
    assert min(len(batch) for batch in found) > 1


def test_the_steps_are_those_batches_and_the_manifest_says_how_many_rows(tmp_path):
    version = ft.train(
        toy_model(tmp_path),
        skewed(),
        dev=toy_pairs(60, seed=1, prefix="v"),
        name="skewed",
        store=str(tmp_path / "s"),
        epochs=2,
        **FAST,
    )
    told = version.manifest["training"]
    assert (told["rows_per_epoch"], version.manifest["data"]["n_pairs"]) == (86, 160)
    assert told["steps"] == 2 * 6
