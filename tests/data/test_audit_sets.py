"""What comparing texts finds in a set of any type, and that clean data is left in peace."""

import json
import pickle

import numpy as np
import pyarrow as pa
import pytest

import lancedb_ft as ft
from lancedb_ft.cli.output import jsonable
from lancedb_ft.data import audit
from lancedb_ft.data.audits.figures import LabelFigures
from lancedb_ft.data.training.split import split_training_set
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import BadDataError, InputError, LeakError
from lancedb_ft.training_sets import KINDS, TrainingSet
from lancedb_ft.types import Pairs
from tests.data import bad_data
from tests.tiny import tiny_model


def text(i, n=40):
    """A text of its own: none resembles another."""
    return " ".join(f"w{i}x{k}" for k in range(n))


def pairs(n=60):
    return Pairs.of([(f"q{i}", f"what is {text(i, 4)}", f"d{i}", text(i)) for i in range(n)])


def made(kind, **columns):
    return TrainingSet(kind, pa.table(columns))


def named(report):
    return {found.name: found for found in report.problems}


CLEAN = {
    "pairs": TrainingSet.of_pairs(pairs()),
    "triplets": bad_data.triplets_of(pairs()),
    "scored": made(
        "scored",
        sentence1=[text(i) for i in range(20)],
        sentence2=[text(i + 100) for i in range(20)],
        score=[i / 20 for i in range(20)],
    ),
    "nli": made(
        "nli",
        premise=[text(i) for i in range(21)],
        hypothesis=[text(i + 100) for i in range(21)],
        label=[i % 3 for i in range(21)],
    ),
    "ranking": made(
        "ranking",
        query_id=[f"q{i // 2}" for i in range(20)],
        doc_id=[f"d{i}" for i in range(20)],
        query=[f"what is {text(i // 2, 4)}" for i in range(20)],
        document=[text(i) for i in range(20)],
        grade=[i % 2 * 2 for i in range(20)],
    ),
    "negatives": made(
        "negatives",
        query=[f"what is {text(i, 4)}" for i in range(20)],
        positive=[text(i) for i in range(20)],
        negatives=[[text(i + 100), text(i + 200)] if i else [] for i in range(20)],
    ),
    "labelled": made(
        "labelled", text=[text(i) for i in range(20)], label=[f"l{i % 4}" for i in range(20)]
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_wrong_with_clean_data_of_any_type(kind):
    report = audit(CLEAN[kind]).check()
    assert report.problems == ()
    figures = report.parts[kind]
    assert (figures.kind, figures.n_rows) == (kind, len(CLEAN[kind]))
    assert json.loads(json.dumps(jsonable(report)))["ok"]
    empty = audit(CLEAN[kind].take(pa.array([], pa.int64())))
    assert [(found.name, found.severity) for found in empty.problems] == [("no rows", "error")]


def test_every_side_of_every_type_is_measured():
    sides = {kind: list(audit(CLEAN[kind]).parts[kind].sides) for kind in KINDS}
    assert sides == {
        "pairs": ["query", "document"],
        "triplets": ["query", "document", "negative"],
        "scored": ["sentence1", "sentence2"],
        "nli": ["premise", "hypothesis"],
        "ranking": ["query", "document"],
        "negatives": ["query", "document", "negative"],
        "labelled": ["text"],
    }
    assert audit(CLEAN["negatives"]).parts["negatives"].sides["negative"].n_texts == 38


def test_positives_that_stand_as_negatives_are_named_with_their_rows():
    bad, rows = bad_data.with_positives_as_negatives(CLEAN["triplets"])
    report = audit(bad)
    found = named(report)["positives as negatives"]
    assert (found.severity, found.n, found.rows) == ("error", 10, tuple(rows))
    assert found.share == 10 / 60
    assert "5 of 60 negatives are the same text" in found.told
    with pytest.raises(BadDataError, match="positives as negatives in triplets") as caught:
        report.check()
    assert caught.value.exit_code == 3
    assert pickle.loads(pickle.dumps(caught.value)).problems == caught.value.problems
    blind = named(audit(bad, near_duplicates=False))["positives as negatives"]
    assert blind.rows == tuple(rows[:5])


def test_a_positive_of_the_query_in_another_row_is_no_negative():
    lists = made(
        "negatives",
        query=["How to pay?", "how to  PAY?", "what else is there"],
        positive=[text(1), text(2), text(3)],
        negatives=[[text(9), text(2)], [text(9)], [text(9)]],
    )
    assert named(audit(lists))["positives as negatives"].rows == (0,)
    grades = made(
        "ranking",
        query_id=["a", "a", "b"],
        doc_id=["1", "2", "1"],
        query=["how to pay", "how to pay", "what else is there"],
        document=[text(1), text(1).upper(), text(1)],
        grade=[1, 0, 0],
    )
    found = named(audit(grades))
    assert found["positives as negatives"].rows == (1,)
    assert found["contradictory rows"].rows == (0, 1)


def test_a_negative_that_answers_a_related_query_is_doubtful_only():
    lists = made(
        "negatives",
        query=[
            "how to pay",
            "paying a bill",
            "paying a bill",
            *(f"ask {text(i, 3)}" for i in "ab"),
        ],
        positive=[text(1), text(1), text(2), text(3), text(4)],
        negatives=[[text(2)], [text(8)], [text(8)], [text(8)], [text(8)]],
    )
    found = named(audit(lists))
    assert "positives as negatives" not in found
    assert found["doubtful negatives"].rows == (0,)
    assert audit(lists).ok


@pytest.mark.parametrize(
    ("data", "rows"),
    [
        (
            made(
                "labelled", text=["a b c", "A  b c", text(1), text(2)], label=["x", "y", "x", "y"]
            ),
            (0, 1),
        ),
        (
            made(
                "scored",
                sentence1=["a b c", "d e f", "a b c"],
                sentence2=["d e f", "a b c", text(2)],
                score=[0.9, 0.1, 0.5],
            ),
            (0, 1),
        ),
        (
            made("nli", premise=["a b c"] * 2, hypothesis=["d e f"] * 2, label=[0, 2]),
            (0, 1),
        ),
    ],
    ids=["labelled", "scored", "nli"],
)
def test_rows_that_contradict_each_other(data, rows):
    found = named(audit(data))["contradictory rows"]
    assert (found.rows, found.severity) == (rows, "error")


def test_duplicates_and_near_duplicates_within_a_set():
    table = pairs(20).table.to_pylist()
    table += [table[3], {**table[4], "document": f"{table[4]['document']} more", "doc_id": "n"}]
    found = named(audit(Pairs(pa.Table.from_pylist(table))))
    assert found["duplicate rows"].rows == (20,)
    assert found["near-duplicate texts"].rows == (21,)
    assert "near-duplicate texts" not in named(
        audit(Pairs(pa.Table.from_pylist(table)), near_duplicates=False)
    )


def test_a_positive_that_is_the_query_teaches_nothing():
    same = made("pairs", anchor=["one two three", text(1)], positive=["One two  three", text(2)])
    assert named(audit(same))["both sides equal"].rows == (0,)


def test_the_balance_of_labels_and_the_spread_of_scores():
    labels = ["much"] * 90 + [f"rare{i}" for i in range(10)]
    skewed = made("labelled", text=[text(i) for i in range(100)], label=labels)
    report = audit(skewed)
    figures = report.parts["labelled"].labels
    assert (figures.largest_share, figures.n_single) == (0.9, 10)
    assert figures.n_effective == pytest.approx(
        np.exp(-0.9 * np.log(0.9) - 0.1 * np.log(0.01)), 1e-2
    )
    assert {"one label dominates", "labels of one row"} <= set(named(report))
    assert report.ok
    flat = CLEAN["scored"].table.set_column(2, "score", pa.array([0.04] * 20))
    found = audit(TrainingSet("scored", flat))
    assert named(found)["scores all alike"].severity == "warning"
    assert found.parts["scored"].scores.histogram == (20, *[0] * 9)
    assert LabelFigures.of([]).n_effective == 0.0


def test_texts_longer_than_the_model_reads_are_counted(tmp_path):
    encoder = get_encoder(tiny_model(tmp_path, max_tokens=16), device="cpu", precision="float32")
    texts = ["the quick brown fox", "the lazy dog", " ".join(["the"] * 14), " ".join(["dog"] * 15)]
    data = made("labelled", text=texts, label=["a", "a", "b", "b"])
    side = audit(data, encoder=encoder).parts["labelled"].sides["text"]
    assert side.tokens.quantiles["max"] == 16  # with [CLS] and [SEP]; at the limit counts as cut
    assert side.n_cut == 2
    report = audit(data, encoder=encoder, max_tokens=5)
    assert report.parts["labelled"].sides["text"].cut_share == 0.75
    assert named(report)["cut texts"].severity == "warning"
    assert report.model == encoder.ref
    with pytest.raises(InputError, match="max_tokens needs a model"):
        audit(data, max_tokens=5)
    with pytest.raises(InputError, match="sample_rows is 0"):
        audit(data, encoder=encoder, sample_rows=0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_split_of_any_type_is_proved_clean_and_a_leak_is_named(kind):
    split = split_training_set(CLEAN[kind], shares=(0.6, 0.2, 0.2), seed=1)
    assert audit(split).check().ok
    train = pa.concat_tables([split.train.table, split.test.table.slice(0, 1)])
    leaky = type(split)(TrainingSet(kind, train), split.dev, split.test, split.info)
    report = audit(leaky)
    assert named(report)["leak"].severity == "error"
    assert report.examples[0].parts == ("train", "test")
    with pytest.raises(LeakError):
        report.check()


def test_a_leaky_split_is_named_first():
    split = ft.split_pairs(pairs(), seed=0)
    assert "leak" not in named(audit(split))
    report = audit(bad_data.leaky_split(split))
    assert report.problems[0].name == "leak"
    assert report.problems[0].n == 3
    assert dict(report.n_leaks) == {"document near": 3}
    assert not report.ok
