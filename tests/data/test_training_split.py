"""Splits of training sets: what is judged in one part stands in no part trained before it."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lancedb_ft.data import check_disjoint, find_shared_texts, split_training_set
from lancedb_ft.data.shared_texts import JUDGED, not_shared
from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import InputError, LeakError
from lancedb_ft.training_sets import KINDS, TrainingSet
from lancedb_ft.types import Pairs
from tests.data.test_read import SETS
from tests.data.training_data import small

WORDS = ["red", "green", "blue", "one", "two", "three", "cat", "dog", "bird", "sun", "rain", "sea"]
SENTENCES = st.lists(st.sampled_from(WORDS), min_size=1, max_size=6).map(" ".join)


def many(kind, n, word="w"):
    """Return rows that have nothing in common, a text being a number."""

    def texts(column):
        return [f"{word}{column}{i} is {word}{column}{i}x" for i in range(n)]

    columns = {
        name: texts(name) for name, t in KINDS[kind].columns.items() if pa.types.is_string(t)
    }
    columns |= {"query_id": [f"q{i}" for i in range(n)]} if "query_id" in columns else {}
    columns |= {"doc_id": [f"d{i}" for i in range(n)]} if "doc_id" in columns else {}
    columns |= {"score": [0.5] * n} if kind == "scored" else {}
    columns |= {"label": [i % 3 for i in range(n)]} if kind == "nli" else {}
    columns |= {"label": [f"label {i % 4}" for i in range(n)]} if kind == "labelled" else {}
    columns |= {"grade": [1] * n} if kind == "ranking" else {}
    columns |= {"negatives": [[f"miss {i}"] for i in range(n)]} if kind == "negatives" else {}
    return TrainingSet(kind, pa.table(columns))


def judged_texts(training_set):
    columns = JUDGED[training_set.kind]
    return {normalise(t) for name in columns for t in training_set.table[name].to_pylist()}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_split_by_the_shares_whatever_the_order_of_its_rows(kind):
    made = many(kind, 200)
    split = split_training_set(made, seed=3)
    sizes = {name: len(part) for name, part in split.parts().items()}
    assert sizes == {"train": 160, "dev": 20, "test": 20}
    assert sizes == split.info["n_rows"]
    turned = made.take(pa.array(range(199, -1, -1)))
    again = split_training_set(turned, seed=3)
    assert judged_texts(again.test) == judged_texts(split.test)
    assert judged_texts(split_training_set(made, seed=4).test) != judged_texts(split.test)
    check_disjoint(split.train, split.test, near_duplicates=True)


@given(
    rows=st.lists(st.tuples(SENTENCES, SENTENCES), min_size=12, max_size=40), seed=st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
@pytest.mark.filterwarnings("ignore:.*of the rows are one group")
def test_no_text_of_one_part_is_in_another(rows, seed):
    anchors, positives = zip(*rows, strict=True)
    made = TrainingSet("pairs", pa.table({"anchor": anchors, "positive": positives}))
    try:
        split = split_training_set(made, seed=seed, shares=(0.6, 0.2, 0.2))
    except InputError as error:
        assert "cannot be divided" in str(error)  # noqa: PT017
        return
    assert sum(map(len, split.parts().values())) == len(rows)
    parts = list(split.parts().values())
    for left in parts:
        for right in parts:
            if left is not right:
                assert list(find_shared_texts(left, right, near_duplicates=True)) == []


def test_a_text_joins_rows_across_columns_and_case():
    columns = {"anchor": ["a b", "x y", *"klmnopqr"], "positive": ["X  Y", "z", *"KLMNOPQR"]}
    columns["positive"][2:] = [f"{letter}1" for letter in "klmnopqr"]
    made = TrainingSet("pairs", pa.table(columns))
    for seed in range(5):
        split = split_training_set(made, seed=seed, shares=(0.5, 0.3, 0.2))
        holding = [name for name, part in split.parts().items() if "a b" in judged_texts(part)]
        assert [name for name, p in split.parts().items() if "z" in judged_texts(p)] == holding


def with_negatives(kind, n):
    """Each row has the positives of the next two as its negatives: all hang together by them."""
    anchors = [f"question {i} q{i}" for i in range(n)]
    positives = [f"answer {i} a{i} b{i} c{i}" for i in range(n)]
    following = [[positives[(i + 1) % n], positives[(i + 2) % n]] for i in range(n)]
    if kind == "negatives":
        columns = {"query": anchors, "positive": positives, "negatives": following}
        columns["negative_scores"] = [[0.5, 0.25]] * n
    elif kind == "triplets":
        columns = {"anchor": anchors, "positive": positives}
        columns |= {f"negative_{k + 1}": [row[k] for row in following] for k in range(2)}
    else:
        rows = [
            (f"q{i}", anchors[i], f"d{j % n}", positives[j % n], int(i == j))
            for i in range(n)
            for j in range(i, i + 3)
        ]
        names = ["query_id", "query", "doc_id", "document", "grade"]
        columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    return TrainingSet(kind, pa.table(columns))


@pytest.mark.parametrize("kind", ["negatives", "triplets", "ranking"])
def test_negatives_join_nothing_and_held_out_texts_are_no_negatives_in_train(kind):
    made = with_negatives(kind, 100)
    split = split_training_set(made, seed=1)
    dropped = split.info["dropped"]["train"]
    assert split.info["n_groups"] == 100
    assert dropped["negatives"] > 0
    assert list(find_shared_texts(split.train, split.dev)) == []
    assert list(find_shared_texts(split.train, split.test)) == []
    assert list(find_shared_texts(split.dev, split.test)) == []
    if kind == "negatives":
        lengths = split.train.table["negatives"].to_pylist()
        scores = split.train.table["negative_scores"].to_pylist()
        assert [len(row) for row in lengths] == [len(row) for row in scores]
        assert len(split.train) == 80 - dropped["rows"]
        assert min(map(len, lengths)) == 1


def test_near_duplicates_of_held_out_texts_are_no_negatives_either():
    held = TrainingSet("pairs", pa.table({"anchor": ["q"], "positive": ["a b c d e f g h i j"]}))
    near, other = "A b c d e f g h i j!", "z y x w v u"
    columns = {"anchor": ["r", "s"], "positive": ["t", "u"], "negative_1": [near, other]}
    made = TrainingSet("triplets", pa.table(columns))
    kept, dropped = not_shared(made, [held])
    assert kept.table["negative_1"].to_pylist() == [other]
    assert dropped == {"negatives": 1, "rows": 1}
    assert len(not_shared(made, [held], threshold=None)[0]) == 2


def test_an_exact_copy_of_a_held_out_text_does_not_hide_what_is_nearly_it():
    asked = "a b c d e f g h i j"
    held = TrainingSet("pairs", pa.table({"anchor": ["q"], "positive": [asked]}))
    columns = {"anchor": ["r", "s"], "positive": ["t", "u"], "negative_1": [asked, f"{asked}!"]}
    kept, dropped = not_shared(TrainingSet("triplets", pa.table(columns)), [held])
    assert len(kept) == 0
    assert dropped == {"negatives": 2, "rows": 2}


def test_labels_are_divided_each_and_near_duplicates_stay_together():
    texts = [f"{topic} number {i} word{i}" for topic in ("card", "loan") for i in range(50)]
    texts += ["How do I cancel my card today?", "how do i cancel my card TODAY"]
    labels = ["card"] * 50 + ["loan"] * 50 + ["card", "loan"]
    made = TrainingSet("labelled", pa.table({"text": texts, "label": labels}))
    split = split_training_set(made, seed=0)
    for part, least, most in ((split.train, 39, 43), (split.dev, 4, 6), (split.test, 4, 6)):
        counts = part.table["label"].to_pylist()
        assert least <= counts.count("card") <= most
        assert least <= counts.count("loan") <= most
    homes = [
        n
        for n, p in split.parts().items()
        for t in p.table["text"].to_pylist()
        if "today" in t.lower()
    ]
    assert len(set(homes)) == 1
    with pytest.raises(InputError, match="too few texts a label"):
        split_training_set(
            TrainingSet("labelled", pa.table({"text": ["a", "b"], "label": ["x", "y"]}))
        )


def test_rows_that_hang_together_are_refused_or_warned_of():
    one = TrainingSet(
        "pairs", pa.table({"anchor": ["same"] * 20, "positive": [f"p{i}" for i in range(20)]})
    )
    with pytest.raises(InputError, match=r"1 group not to be parted.*boilerplate.*'same' with 20"):
        split_training_set(one)
    columns = {
        "anchor": ["same"] * 20 + [f"a{i}" for i in range(10)],
        "positive": [f"p{i}" for i in range(30)],
    }
    with pytest.warns(UserWarning, match="67% of the rows are one group"):
        split = split_training_set(TrainingSet("pairs", pa.table(columns)))
    assert split.train.table["anchor"].to_pylist().count("same") == 20
    with pytest.raises(InputError, match="no rows"):
        split_training_set(small("pairs").take(pa.array([], pa.int64())))


def test_shared_texts_are_found_between_data_of_any_two_kinds():
    pairs = Pairs.of([("q1", "how to cancel?", "d1", "In the settings.")])
    labelled = TrainingSet(
        "labelled", pa.table({"text": ["HOW to cancel?", "another"], "label": ["a", "b"]})
    )
    with pytest.raises(LeakError, match=r"1 texts .* 'how to cancel\?'") as caught:
        check_disjoint(pairs, labelled)
    assert caught.value.n_leaks == 1
    assert caught.value.examples[0]["how"] == "text"
    mined = TrainingSet(
        "negatives",
        pa.table({"query": ["x"], "positive": ["y"], "negatives": [["in the  settings."]]}),
    )
    assert [leak.right for leak in find_shared_texts(mined, pairs)] == ["in the settings."]
    assert list(find_shared_texts(pairs, mined)) == [], "a held-out negative may be trained on"
    near = TrainingSet("labelled", pa.table({"text": ["cancel, how to"], "label": ["a"]}))
    assert list(find_shared_texts(pairs, near)) == []
    found = list(find_shared_texts(pairs, near, near_duplicates=True))
    assert [(leak.how, leak.similarity) for leak in found] == [("near", 1.0)]


def test_banking77_is_split_by_intent():
    path = SETS / "banking77" / "data.parquet"
    if not path.is_file():
        pytest.skip("needs shared/data/banking77")
    made = TrainingSet("labelled", pq.read_table(path, columns=["text", "label"]))
    split = split_training_set(made, seed=0)
    assert sum(split.info["n_rows"].values()) == len(made)
    labels = {name: set(part.table["label"].to_pylist()) for name, part in split.parts().items()}
    assert labels["train"] == labels["dev"] == labels["test"]
    assert len(labels["test"]) == 77
    assert len(split.test) == pytest.approx(0.1 * len(made), rel=0.1)
    check_disjoint(split.train, split.test, near_duplicates=True)
