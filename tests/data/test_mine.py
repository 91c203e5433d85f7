"""Mining: which candidates may become negatives, and what the report says of the others."""

import lancedb
import pyarrow as pa
import pytest

from lancedb_ft.data import audit
from lancedb_ft.data.mine import TableDocuments, bm25_retriever, mine_negatives
from lancedb_ft.data.texts import query_id_of
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import run_retriever
from lancedb_ft.training_sets import TrainingSet, TrainingSplit
from lancedb_ft.types import Pairs

CORPUS = {
    "a1": "cancel an order in the settings page",
    "a2": "Cancel an  order in the Settings page",  # the text of a1, spelled otherwise
    "a3": "cancel an order in the settings page now",  # nearly a1
    "b1": "how do i cancel my order",  # the query itself
    "c1": "track an order in the app",
    "c2": "return an order by mail",
    "c3": "change the password in the settings",
    "c4": "change the  Password in the settings",  # the text of c3
    "d1": "the weather is nice",
    "d2": "   ",
}
PAIRS = Pairs.of([("q1", "How do I cancel my order", "a1", CORPUS["a1"])])
#: Cosine-like scores: c1 is too near to the positive (0.8), c2 just below 95 % of it.
RUN = {
    "q1": {
        "b1": 0.99, "a2": 0.9, "a1": 0.8, "a3": 0.79, "c1": 0.765, "d2": 0.76, "c2": 0.755,
        "c3": 0.5, "c4": 0.49, "d1": 0.1,
    }
}  # fmt: skip


def mine(pairs=PAIRS, run=RUN, corpus=CORPUS, **options):
    options = {"n_negatives": 2, "when_few": "keep", **options}
    return mine_negatives(pairs, run_retriever(run), corpus=corpus, **options)


def ids(mined):
    return mined.training_set.table["negative_ids"].to_pylist()


def test_each_rule_removes_its_candidate_and_is_counted():
    mined = mine()
    assert ids(mined) == [["c2", "c3"]]
    assert mined.report.removed == {
        "the query itself": 1,
        "same text as a positive": 1,
        "known positive": 1,
        "near-duplicate of a positive": 1,
        "margin": 1,
        "no text": 1,
        "same text as a candidate": 1,
    }
    assert mined.report.n_candidates == len(RUN["q1"])
    assert mined.report.n_passed == 3
    row = mined.training_set.table.to_pylist()[0]
    assert (row["query_id"], row["doc_id"], row["positive"]) == ("q1", "a1", CORPUS["a1"])
    assert row["negatives"] == [CORPUS["c2"], CORPUS["c3"]]
    assert "negative_scores" not in row  # only a teacher's scores are kept


def test_the_sample_shows_scores_and_ranks_without_known_positives():
    [row] = mine().report.sample
    assert row["positive_score"] == 0.8
    assert [(n["id"], n["score"], n["rank"]) for n in row["negatives"]] == [
        ("c2", 0.755, 5),
        ("c3", 0.5, 6),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"margin": None}, ["c1", "c2"]),
        ({"margin": 0.9}, ["c3", "d1"]),
        ({"absolute_margin": 0.3}, ["c3", "d1"]),
        ({"range_min": 6}, ["c3", "d1"]),
        ({"range_max": 6}, ["c2"]),
        ({"near_threshold": 1.0, "margin": None}, ["a3", "c1"]),
        ({"known": {"q1": {"c2": 1, "c3": 0}}}, ["c3", "d1"]),
    ],
)
def test_options(options, expected):
    assert ids(mine(**options)) == [expected]


def test_the_margin_of_a_negative_positive_score_lies_below_it():
    run = {"q1": {"a1": -1.0, "c1": -1.02, "c2": -1.06, "c3": -2.0}}
    assert ids(mine(run=run)) == [["c2", "c3"]]


def test_what_answers_a_query_answers_every_query_of_that_text():
    pairs = Pairs.of(
        [
            ("q1", "How do I cancel my order", "a1", CORPUS["a1"]),
            ("q2", "how do I  CANCEL my order", "c2", CORPUS["c2"]),
        ]
    )
    mined = mine(pairs, {**RUN, "q2": RUN["q1"]}, margin=None)
    assert ids(mined) == [["c1", "c3"]] * 2


def test_doubles_of_what_only_known_names_are_known_too():
    mined = mine(known={"q1": {"c3": 1, "c1": 0, "gone": 1}}, margin=None)
    assert ids(mined) == [["c1", "c2"]]
    corpus = {**CORPUS, "c5": CORPUS["c3"] + " now"}
    run = {"q1": {"a1": 0.8, "c3": 0.7, "c4": 0.6, "c5": 0.5, "d1": 0.4}}
    mined = mine(run=run, corpus=corpus, known={"q1": {"c3": 1}}, near_threshold=0.6)
    assert ids(mined) == [["d1"]]
    assert mined.report.removed["same text as a positive"] == 1  # c4
    assert mined.report.removed["near-duplicate of a positive"] == 1  # c5


def test_what_is_held_out_is_not_trained_on():
    dev = Pairs.of([("q9", "how to return?", "x", "RETURN an order by mail")])
    test = Pairs.of([("q8", "Change the password in the settings", "d1", "other text")])
    mined = mine(held_out=(dev, test), when_few="keep", margin=None)
    assert ids(mined) == [["c1"]]
    assert mined.report.removed["held out for dev or test"] == 4  # c2, c3, c4, d1


def test_nearly_what_is_held_out_is_not_trained_on():
    asked = "refunds for a cancelled order are paid within five working days to the card you used"
    dev = Pairs.of([("q9", "when is my money back", "x", asked)])
    corpus = {"n1": f"{asked}.", "n2": f"{asked} today", "n3": "refunds take a while"}
    mined = mine(
        run={"q1": {"n1": 0.5, "n2": 0.4, "n3": 0.3, "a1": 0.8}},
        corpus={**CORPUS, **corpus},
        held_out=(dev,),
    )
    assert ids(mined) == [["n3"]]
    assert mined.report.removed["held out for dev or test"] == 2
    empty = dev.take(pa.array([], pa.int64()))
    split = TrainingSplit(
        mined.training_set, TrainingSet.of_pairs(dev), TrainingSet.of_pairs(empty)
    )
    assert audit(split).n_leaks == {}


def test_only_what_was_looked_at_is_counted():
    mined = mine(run={"q1": {"c1": 0.5, "c2": 0.4, "c3": 0.3, "a1": 0.2}}, range_max=2, margin=None)
    assert (mined.report.n_candidates, mined.report.removed) == (2, {})


def test_random_negatives_of_pairs_that_are_left_out_are_not_counted():
    few = {name: CORPUS[name] for name in ("a1", "c1", "c3")}
    pairs = Pairs.of(
        [("q1", "cancel?", "a1", CORPUS["a1"]), ("q2", "password?", "c3", CORPUS["c3"])]
    )
    with pytest.raises(InputError, match=r"0 of 2 pairs .* 0 negatives are random"):
        mine(pairs, run={"q1": {}, "q2": {}}, corpus=few, n_negatives=3, when_few="fill")


def test_each_positive_of_a_query_has_its_own_margin():
    pairs = Pairs.of([("q1", "cancel?", "a1", CORPUS["a1"]), ("q1", "cancel?", "c3", CORPUS["c3"])])
    assert ids(mine(pairs, n_negatives=1)) == [["c2"], ["d1"]]


def test_a_positive_that_was_not_found_leaves_nothing_to_tell_apart():
    run = {"q1": {"c1": 0.9, "c2": 0.8, "c3": 0.1}}
    with pytest.raises(InputError, match="3 positive without a score"):
        mine(run=run)
    filled = mine(run=run, when_few="fill")
    assert (filled.report.n_short, filled.report.n_filled) == (1, 2)
    assert not {"a1", "a2", "a3", "b1", "d2"} & set(ids(filled)[0])


def test_a_retriever_may_leave_out_what_it_finds_nothing_for():
    one = ("q1", "How do I cancel my order", "a1", CORPUS["a1"])
    pairs = Pairs.of([one, ("q2", "the weather", "d1", CORPUS["d1"])])
    mined = mine_negatives(
        pairs, lambda queries, k: RUN, corpus=CORPUS, n_negatives=2, when_few="keep"
    )
    assert ids(mined) == [["c2", "c3"]]
    assert mined.report.n_queries == 2


class Cosines:
    """A retriever that scores what it did not find."""

    def __init__(self, run, scores):
        self.run, self.scores, self.asked = run_retriever(run), scores, []

    def __call__(self, queries, k):
        return self.run(queries, k)

    def score(self, queries, documents):
        self.asked.append(documents)
        return {
            q: {i: self.scores[i] for i in ids if i in self.scores} for q, ids in documents.items()
        }


def test_a_retriever_that_scores_judges_what_was_not_found_and_what_is_random():
    scores = {"a1": 0.5, "c1": 0.9, "c2": 0.45, "c3": 0.44, "d1": 0.6}
    candidates = Cosines({"q1": {"c1": 3.0, "c2": 2.0}}, scores)
    mined = mine_negatives(PAIRS, candidates, corpus=CORPUS, n_negatives=2, when_few="fill")
    # c1 scores above the positive; of the random ones d1 does, c4 has no score to be near by.
    assert ids(mined)[0][0] == "c2"
    assert ids(mined)[0][1] in {"c3", "c4"}
    assert mined.report.mean_positive_score == 0.5
    assert mined.report.removed["margin"] == 1


def test_several_retrievers_take_turns_and_need_a_judge():
    one, two = run_retriever({"q1": {"c1": 9.0, "c3": 8.0}}), run_retriever({"q1": {"c2": 0.9}})
    mined = mine_negatives(
        PAIRS, [one, two], corpus=CORPUS, n_negatives=3, margin=None, when_few="keep"
    )
    assert sorted(ids(mined)[0]) == ["c1", "c2", "c3"]
    assert [n["rank"] for n in mined.report.sample[0]["negatives"]] == [0, 1, 2]
    with pytest.raises(InputError, match="several scales"):
        mine_negatives(PAIRS, [one, two], corpus=CORPUS)


def test_a_teacher_judges_and_its_scores_are_kept():
    logits = {CORPUS["a1"]: 3.0, CORPUS["c1"]: -1.0, CORPUS["c2"]: 2.9, CORPUS["c3"]: -4.0}

    class Teacher:
        scale = "logit"
        ref = "judge@1"

        def __call__(self, query, documents):
            self.seen = documents
            return [logits.get(document, -9.0) for document in documents]

    teacher = Teacher()
    mined = mine(teacher=teacher)
    row = mined.training_set.table.to_pylist()[0]
    # sigmoid(2.9) = 0.948 is above 95 % of sigmoid(3) = 0.953: c2 goes, the order is the teacher's.
    assert row["negative_ids"] == ["c1", "c3"]
    assert (row["positive_score"], row["negative_scores"]) == (3.0, [-1.0, -4.0])
    assert mined.training_set.source["teacher"] == "judge@1"
    assert CORPUS["b1"] not in teacher.seen  # only what the other rules left is read


@pytest.mark.parametrize("given", [[1.0], [float("nan")] * 99])
def test_a_teacher_gives_one_finite_score_a_document(given):
    with pytest.raises(InputError, match="teacher gave"):
        mine(teacher=lambda query, documents: given[: len(documents)])


def test_partial_match_takes_what_shares_some_words():
    mined = mine(strategy="partial_match", margin=None, n_negatives=5)
    # c1 shares 4 of 7 words with the positive, c2 2 of 7, c3 3 of 7, d1 one of 7: too few.
    assert ids(mined) == [["c1", "c2", "c3"]]
    assert mined.report.removed["no partial match"] == 1


def test_domain_confusion_stays_in_the_group_and_is_filled_from_it():
    groups = {"a1": "orders", "c2": "orders", "c3": "account", "c1": "orders", "d1": "chat"}
    mined = mine(strategy="domain_confusion", groups=groups, when_few="fill", n_negatives=2)
    assert ids(mined) == [["c2", "c1"]]  # c1 is within the margin, and no other is in the group
    assert mined.report.removed["of another group"] == 3
    with pytest.raises(InputError, match="needs groups="):
        mine(strategy="domain_confusion")


def test_contradictions_of_a_premise_are_its_negatives():
    rows = [
        ("a man sleeps", "someone is asleep", 0),
        ("a man sleeps", "a man runs", 2),
        ("a man sleeps", "Someone is  asleep", 2),  # labelled wrong
        ("a man sleeps", "it is night", 1),
        ("a dog barks", "an animal makes a noise", 0),
        ("a dog barks", "the dog is silent", 2),
    ]
    names = ("premise", "hypothesis", "label")
    nli = TrainingSet("nli", pa.table(dict(zip(names, zip(*rows, strict=True), strict=True))))
    mined = mine_negatives(nli, strategy="contradiction", n_negatives=1, when_few="keep")
    assert mined.training_set.table["negatives"].to_pylist() == [
        ["a man runs"],
        ["the dog is silent"],
    ]
    assert mined.report.removed == {"known positive": 1}
    assert mined.report.false_negatives == {"same text": 1}
    with pytest.raises(InputError, match="of the type 'nli'"):
        mine_negatives(PAIRS, strategy="contradiction")


def test_positives_given_as_negatives_are_named():
    rows = {
        "anchor": ["cancel?", "cancel?", "track?"],
        "positive": [CORPUS["a1"], CORPUS["c3"], CORPUS["c1"]],
        "negative_1": [CORPUS["c3"], CORPUS["a3"], CORPUS["d1"]],
    }
    triplets = TrainingSet("triplets", pa.table(rows))
    report = mine_negatives(triplets, bm25_retriever(CORPUS), corpus=CORPUS).report
    assert report.false_negatives == {"same text": 1, "near-duplicate": 1}
    assert [(e.negative, e.why) for e in report.examples] == [
        (CORPUS["c3"], "same text"),
        (CORPUS["a3"], "near-duplicate"),
    ]
    assert "1 negatives of the input are positives" in str(report)


def test_positives_without_ids_are_found_by_their_text():
    rows = {"anchor": ["How do I cancel my order"], "positive": [CORPUS["a1"]]}
    mined = mine(TrainingSet("pairs", pa.table(rows)), {query_id_of(rows["anchor"][0]): RUN["q1"]})
    assert ids(mined) == [["c2", "c3"]]
    assert mined.report.sample[0]["positive_score"] == 0.8
    assert mined.training_set.table["doc_id"].to_pylist() == ["a1"]


def test_an_id_of_two_queries_is_refused():
    pairs = Pairs.of([("s1", "cancel?", "a1", "x"), ("s1", "ship abroad?", "c3", "y")])
    with pytest.raises(InputError, match=r"'s1' stands for two texts, 'cancel\?' and 'ship abroad"):
        mine(pairs)


def test_grades_of_0_are_no_positives():
    rows = {
        "query_id": ["q1", "q1"],
        "query": ["How do I cancel my order"] * 2,
        "doc_id": ["a1", "c2"],
        "document": [CORPUS["a1"], CORPUS["c2"]],
        "grade": [2, 0],
    }
    assert ids(mine(TrainingSet("ranking", pa.table(rows)))) == [["c2", "c3"]]


def test_the_same_seed_gives_the_same_negatives():
    rows = [
        (f"q{i}", f"word{i} and {i % 7}", f"d{i}", f"text of word{i} {i % 7}") for i in range(40)
    ]
    pairs = Pairs.of(rows)
    search = bm25_retriever(pairs.corpus)

    def mined(seed, **options):
        return mine_negatives(pairs, search, sampling="random", seed=seed, margin=None, **options)

    first, second, third = (mined(seed).training_set.fingerprint for seed in (0, 0, 1))
    assert first == second
    assert first != third
    assert mined(0, n_negatives=30).report.n_filled > 0


def test_batches_change_nothing(monkeypatch):
    rows = [(f"q{i}", f"word{i % 9} {i}", f"d{i}", f"text word{i % 9} {i}") for i in range(30)]
    pairs = Pairs.of(rows)
    search = bm25_retriever(pairs.corpus)
    done = []
    whole = mine_negatives(pairs, search, n_negatives=8)
    monkeypatch.setattr("lancedb_ft.data.mine.negatives._BATCH_QUERIES", 7)
    parts = mine_negatives(
        pairs, search, n_negatives=8, progress=lambda n, of: done.append((n, of))
    )
    assert parts.training_set.table.equals(whole.training_set.table)
    assert parts.report.removed == whole.report.removed
    assert done == [(7, 30), (14, 30), (21, 30), (28, 30), (30, 30)]


def test_texts_come_from_a_table_at_one_version(tmp_path):
    db = lancedb.connect(tmp_path)
    rows = [{"key": i, "body": text} for i, text in CORPUS.items()]
    rows.append({"key": "c1", "body": "another text of the same id"})
    table = db.create_table("docs", rows)
    source = TableDocuments(table, id_column="key", text_column="body")
    version = table.version
    table.delete("key = 'c3'")
    mined = mine(corpus=source, margin=None, n_negatives=5)
    assert ids(mined) == [["c2", "c3", "d1"]]  # c1 stands for two texts
    assert mined.training_set.source["docs"] == {
        "database": str(tmp_path),
        "name": "docs",
        "version": version,
    }
    assert mined.report.removed["no text"] == 2


@pytest.mark.parametrize(
    "options",
    [
        {"n_negatives": 0},
        {"n_negatives": 2.5},
        {"n_negatives": "2"},
        {"range_max": 10.0},
        {"margin": 0.0},
        {"margin": 1.5},
        {"absolute_margin": -1},
        {"range_min": 5, "range_max": 5},
        {"range_max": 1},
        {"sampling": "any"},
        {"when_few": "maybe"},
        {"near_threshold": 0},
        {"strategy": "luck"},
        {"corpus": 7},
    ],
)
def test_wrong_options_are_refused(options):
    with pytest.raises(InputError):
        mine(**options)


def test_data_without_positives_are_refused():
    labelled = TrainingSet("labelled", pa.table({"text": ["a"], "label": ["b"]}))
    with pytest.raises(InputError, match="'labelled' has none"):
        mine(labelled)
    with pytest.raises(InputError, match="needs candidates="):
        mine_negatives(PAIRS)
