"""Labels, entailments and grades as examples: nothing false, nothing lost without a count."""

from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lancedb_ft.data import (
    as_kind,
    labelled_pairs,
    labelled_queries,
    nli_triplets,
    ranking_pairs,
)
from lancedb_ft.data.texts import normalise
from lancedb_ft.data.training.kinds import left_out_between
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet
from tests.data.test_read import SETS
from tests.data.training_data import small

TEXTS = st.text("ab cd", min_size=1, max_size=4).filter(lambda text: text.strip())


def labelled(rows):
    texts, labels = zip(*rows, strict=True)
    return TrainingSet("labelled", pa.table({"text": texts, "label": labels}))


def ranking(rows):
    names = ["query_id", "query", "doc_id", "document", "grade"]
    return TrainingSet("ranking", pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))))


def nli(rows):
    names = ["premise", "hypothesis", "label"]
    return TrainingSet("nli", pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))))


# --- labels --------------------------------------------------------------------------------


@given(
    rows=st.lists(st.tuples(TEXTS, st.sampled_from("xyz")), min_size=1, max_size=30),
    per_text=st.integers(1, 3),
    negatives=st.integers(0, 2),
    seed=st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_partners_are_other_texts_of_the_label_and_negatives_of_others(
    rows, per_text, negatives, seed
):
    labels = {}
    for text, label in rows:
        labels.setdefault(normalise(text), set()).add(label)
    try:
        made = labelled_pairs(labelled(rows), seed=seed, per_text=per_text, negatives=negatives)
    except InputError as error:
        assert "two different texts" in str(error) or "negatives are wanted" in str(error)  # noqa: PT017
        return
    for row in made.table.to_pylist():
        anchor, positive = normalise(row["anchor"]), normalise(row["positive"])
        assert anchor != positive
        assert labels[anchor] == labels[positive] == {row["group"]}
        for name in made.negative_columns:
            assert labels[normalise(row[name])].isdisjoint({row["group"]})
    of_anchor = Counter(normalise(text) for text in made.table["anchor"].to_pylist())
    for anchor, n_rows in of_anchor.items():
        alike = sum(found == labels[anchor] for found in labels.values())
        assert n_rows == min(per_text, alike - 1)


def test_what_is_left_out_of_labels_is_counted():
    rows = [("a", "x"), ("A ", "x"), ("b", "x"), ("c", "y"), ("d", "z"), ("D", "x")]
    made = labelled_pairs(labelled(rows), seed=1)
    assert {made.table["anchor"][0].as_py(), made.table["positive"][0].as_py()} == {"a", "b"}
    told = made.source["examples"]
    assert len(made) == 2
    assert (told["repeated_texts"], told["texts_of_several_labels"]) == (1, 2)
    assert (told["n_labels"], told["labels_left_out"]) == (1, 2)


def test_the_same_seed_gives_the_same_pairs():
    rows = [(f"text {i}", f"label {i % 5}") for i in range(100)]
    one, same, other = (
        labelled_pairs(labelled(rows), seed=seed, negatives=2) for seed in (1, 1, 2)
    )
    assert one.fingerprint == same.fingerprint != other.fingerprint
    assert one.kind == "triplets"


def test_a_text_is_to_find_those_of_its_label():
    held = labelled([("a", "x"), ("b", "y"), ("c", "nowhere")])
    corpus = labelled([("d", "x"), ("e", "x"), ("f", "y"), ("A", "x"), ("g", "z")])
    pairs, documents = labelled_queries(held, corpus)
    found = {
        pairs.queries[query]: {documents[doc] for doc in judged}
        for query, judged in pairs.qrels.items()
    }
    assert found == {"a": {"d", "e"}, "b": {"f"}}
    assert set(documents.values()) == {"d", "e", "f", "g"}
    told = pairs.source["examples"]
    assert (told["queries_without_answer"], told["corpus_texts_that_are_queries"]) == (1, 1)
    few, _ = labelled_queries(held, corpus, max_queries=1, per_label=1)
    assert len(few) == 1
    with pytest.raises(InputError, match="nothing to measure"):
        labelled_queries(labelled([("a", "x")]), labelled([("b", "y")]))


def test_without_a_corpus_a_part_of_the_texts_is_it():
    held = labelled([(f"text {i}", f"label {i % 4}") for i in range(40)] + [("alone", "one")])
    pairs, corpus = labelled_queries(held, query_share=0.3)
    assert len(pairs.queries) == 12
    assert set(pairs.queries.values()).isdisjoint(corpus.values())
    assert len(corpus) == 29
    assert all(len(judged) == 7 for judged in pairs.qrels.values())
    with pytest.raises(InputError, match="query_share is 1"):
        labelled_queries(held, query_share=1)


def test_banking77_as_pairs_and_as_queries():
    path = SETS / "banking77" / "data.parquet"
    if not path.is_file():
        pytest.skip("needs shared/data/banking77")
    table = pq.read_table(path)
    parts = {
        name: TrainingSet("labelled", table.filter(pa.compute.equal(table["split"], name)))
        for name in ("train", "test")
    }
    made = labelled_pairs(parts["train"], seed=0, negatives=1)
    told = made.source["examples"]
    assert len(made) == len(parts["train"]) - told["texts_of_several_labels"]
    assert told["n_labels"] == 77
    pairs, corpus = labelled_queries(parts["test"], parts["train"], max_queries=200, per_label=10)
    assert (len(pairs.queries), len(corpus)) == (200, 770)
    assert len(pairs) == 2000


# --- entailments ---------------------------------------------------------------------------


def test_contradictions_are_hard_negatives_and_others_are_borrowed():
    rows = [
        ("p", "entailed", 0),
        ("P", "also entailed", 0),
        ("p", "contradicted", 2),
        ("p", "neutral", 1),
        ("r", "follows", 0),
        ("s", "nothing follows", 2),
        ("s", "and this neither", 2),
    ]
    made = nli_triplets(nli(rows), seed=0)
    found = {row["positive"]: row for row in made.table.to_pylist()}
    assert made.kind == "triplets"
    assert {row["anchor"] for row in found.values()} == {"p", "r"}
    assert found["entailed"]["negative_1"] == found["also entailed"]["negative_1"] == "contradicted"
    assert found["follows"]["negative_1"] in {"contradicted", "nothing follows", "and this neither"}
    told = made.source["examples"]
    assert (told["neutral"], told["borrowed_negatives"], told["unused_contradictions"]) == (1, 1, 2)


def test_entailments_alone_are_pairs_and_none_is_an_error():
    assert nli_triplets(nli([("p", "e", 0), ("p", "n", 1)])).kind == "pairs"
    with pytest.raises(InputError, match="no positives"):
        nli_triplets(nli([("p", "n", 1), ("p", "c", 2)]))
    with pytest.raises(InputError, match="takes 'nli' data, and got 'pairs'"):
        nli_triplets(small("pairs"))


def test_what_is_entailed_is_no_negative_even_where_it_is_contradicted_too():
    rows = [("dogs run", "animals move", 0), ("dogs run", "Animals  move", 2)]
    with pytest.raises(InputError, match=r"None of the 1 entailments has a negative"):
        nli_triplets(nli(rows))
    with pytest.raises(InputError, match=r"None of the 1 entailments has a negative"):
        as_kind(nli(rows), "triplets")
    # Pairs need none.
    pairs = as_kind(nli(rows), "pairs")
    assert pairs.table["positive"].to_pylist() == ["animals move"]
    assert pairs.source["left_out"] == {"contradictions": 1}
    more = [*rows, ("dogs run", "cats sleep", 2), ("a cat", "a pet", 0), ("a cat", "a pet", 0)]
    made = nli_triplets(nli(more))
    found = {row["positive"]: row["negative_1"] for row in made.table.to_pylist()}
    assert found["animals move"] == "cats sleep"
    told = made.source["examples"]
    assert (told["borrowed_negatives"], told["entailments_without_negative"]) == (1, 0)
    assert (told["repeated_entailments"], told["unused_contradictions"]) == (1, 1)


def test_an_entailment_for_which_no_contradiction_is_left_is_counted():
    rows = [("p", "x", 0), ("p", "y", 0), ("r", "z", 0), ("r", "x", 2), ("r", "Y", 2)]
    made = nli_triplets(nli(rows))
    assert {row["anchor"] for row in made.table.to_pylist()} == {"r"}
    told = made.source["examples"]
    assert (told["entailments_without_negative"], told["borrowed_negatives"]) == (2, 0)
    assert len(as_kind(nli(rows), "pairs")) == 3


@given(
    rows=st.lists(st.tuples(TEXTS, TEXTS, st.integers(0, 2)), min_size=1, max_size=20),
    seed=st.integers(0, 5),
)
@settings(max_examples=80, deadline=None)
def test_every_entailment_is_a_row_or_counted_and_none_is_contradicted(rows, seed):
    entailed = {}
    for premise, hypothesis, label in rows:
        if label == 0:
            entailed.setdefault(normalise(premise), set()).add(normalise(hypothesis))
    try:
        made = nli_triplets(nli(rows), seed=seed)
    except InputError as error:
        assert "no positives" in str(error) or "has a negative" in str(error)  # noqa: PT017
        return
    for row in made.table.to_pylist():
        own = entailed[normalise(row["anchor"])]
        assert normalise(row["positive"]) in own
        assert normalise(row.get("negative_1", "\0")) not in own
    told = made.source["examples"]
    dropped = told["repeated_entailments"] + told["entailments_without_negative"]
    assert len(made) + dropped == sum(label == 0 for *_, label in rows)


# --- grades --------------------------------------------------------------------------------


def test_equal_grades_give_each_document_once():
    rows = [("q", "question", f"d{i}", f"text {i}", 2) for i in range(9)]
    made = ranking_pairs(ranking(rows), seed=3)
    assert made.kind == "pairs"
    assert made.table["doc_id"].to_pylist() == [f"d{i}" for i in range(9)]


def test_higher_grades_are_drawn_in_proportion():
    rows = [("q", "question", "low", "low text", 1), ("q", "question", "high", "high text", 3)]
    drawn = Counter()
    for seed in range(400):
        made = ranking_pairs(ranking(rows), seed=seed)
        assert len(made) == 2
        drawn.update(made.table["doc_id"].to_pylist())
    # Expected: 1.5 of 2 rows. By systematic sampling 0, 1 of 400 * 2 rows are low, never 2.
    assert drawn["high"] / 800 == pytest.approx(0.75, abs=0.04)


def test_judged_misses_are_hard_negatives_and_never_what_is_relevant():
    rows = [
        ("q1", "one", "d1", "relevant to one", 1),
        ("q1", "one", "d2", "miss of one", 0),
        ("q2", "two", "d2", "miss of one", 1),
        ("q2", "two", "d3", "relevant to two", 2),
        ("q3", "three", "d4", "miss of three", 0),
    ]
    for seed in range(20):
        made = ranking_pairs(ranking(rows), seed=seed)
        assert made.kind == "triplets"
        negative = {row["query_id"]: row["negative_1"] for row in made.table.to_pylist()}
        assert negative == {"q1": "miss of one", "q2": "miss of three"}
        told = made.source["examples"]
        assert (told["borrowed_negatives"], told["queries_without_relevant"]) == (2, 1)
    with pytest.raises(InputError, match="no positives"):
        ranking_pairs(ranking(rows[-1:]))


def test_rows_without_a_judged_miss_are_counted_and_the_error_says_why():
    rows = [
        ("a", "one", "d1", "relevant to a", 1),
        ("a", "one", "d2", "miss of a", 0),
        ("b", "two", "d2", "Miss of a", 1),
    ]
    told = (made := ranking_pairs(ranking(rows))).source["examples"]
    assert made.table["query_id"].to_pylist() == ["a"]
    assert (told["rows_without_negatives"], told["borrowed_negatives"]) == (1, 0)
    with pytest.raises(InputError, match=r"None of the 2 rows has 2 negatives: of the 1 texts of"):
        ranking_pairs(ranking(rows), negatives=2)
    single = [("b", "two", "d2", "text", 1), ("b", "two", "d3", "Text", 0)]
    with pytest.raises(InputError, match=r"too few are not relevant to the same query"):
        as_kind(ranking(single), "triplets")
    assert len(as_kind(ranking(single), "pairs")) == 1


# --- kinds ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("triplets", "pairs"),
        ("triplets", "negatives"),
        ("negatives", "pairs"),
        ("negatives", "triplets"),
        ("pairs", "ranking"),
        ("ranking", "pairs"),
        ("ranking", "triplets"),
        ("ranking", "negatives"),
        ("nli", "triplets"),
        ("nli", "pairs"),
    ],
)
def test_one_kind_as_another(before, after):
    made = as_kind(small(before), after)
    assert (made.kind, made.source["made_from"]) == (after, before)
    assert len(made) >= 1


def test_what_cannot_be_made_says_what_can():
    with pytest.raises(InputError, match="'scored' data cannot become 'pairs'; they stay"):
        as_kind(small("scored"), "pairs")
    with pytest.raises(InputError, match="they can become 'pairs', 'negatives'"):
        as_kind(small("triplets"), "labelled")


NEGATIVES = {
    "query": ["a", "b"],
    "positive": ["c", "d"],
    "negatives": [["x", "y"], []],
    "query_id": ["1", "2"],
    "negative_ids": [["7", "8"], []],
    "positive_score": [1.0, 2.0],
    "negative_scores": [[0.5, 0.25], []],
}


def test_what_another_kind_has_no_place_for_is_counted():
    made = TrainingSet("negatives", pa.table(NEGATIVES))
    scores = {"negative_ids": 2, "positive_score": 2, "negative_scores": 2}
    triplets = as_kind(made, "triplets")
    assert triplets.table["query_id"].to_pylist() == ["1", "1"]
    assert triplets.source["left_out"] == {**scores, "rows without negatives": 1}
    assert as_kind(made, "pairs").source["left_out"] == {**scores, "negatives": 2}
    # What is left out later is added.
    pairs = as_kind(triplets, "pairs")
    assert pairs.source["left_out"] == {**triplets.source["left_out"], "negative_1": 2}
    assert left_out_between(triplets, pairs) == {"negative_1": 2}
    grouped = TrainingSet("triplets", triplets.table.append_column("group", pa.array(["g", "h"])))
    assert as_kind(grouped, "negatives").source["left_out"] == {"group": 2}
    assert "left_out" not in as_kind(small("triplets"), "negatives").source
    with pytest.raises(InputError, match="None of the 1 rows has a negative"):
        as_kind(made.take([1]), "triplets")


def test_a_made_id_stands_for_the_first_spelling():
    columns = {"anchor": ["How?", "how? ", "why"], "positive": ["So.", "SO.", "so."]}
    made = as_kind(TrainingSet("pairs", pa.table(columns)), "ranking")
    found = [(row["query"], row["document"]) for row in made.table.to_pylist()]
    assert found == [("How?", "So."), ("why", "So.")]
    assert made.source["left_out"] == {"other spellings of a text": 3}
    # An id that was given is not ours to say of which text it is.
    given = TrainingSet("pairs", pa.table(columns | {"query_id": ["1", "1", "2"]}))
    assert as_kind(given, "ranking").table["query"].to_pylist() == ["How?", "why"]
