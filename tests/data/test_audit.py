"""The audit finds what is planted, and what `drop_leaks` removes is gone."""

import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lancedb_ft.data import audit, drop_leaks, split_pairs
from lancedb_ft.errors import LeakError
from lancedb_ft.types import Pairs, Split


def row(i, query=None, document=None, query_id=None, doc_id=None):
    words = " ".join(f"w{i}x{k}" for k in range(12))
    texts = (query or f"ask {words[:40]}{i}", document or words)
    return (query_id or f"q{i}", texts[0], doc_id or f"d{i}", texts[1])


def clean_split(train=(), dev=(), test=()):
    return Split(
        Pairs.of([*map(row, range(20)), *train]),
        Pairs.of([*map(row, range(20, 25)), *dev]),
        Pairs.of([*map(row, range(25, 30)), *test]),
    )


LONG = " ".join(f"term{k}" for k in range(40))


def planted(part, left, other, right):
    return clean_split(**{part: [row(50, **left)], other: [row(51, **right)]})


PLANTED = [
    ("query id", planted("train", {"query_id": "same"}, "test", {"query_id": "same"})),
    ("document id", planted("train", {"doc_id": "same"}, "dev", {"doc_id": "same"})),
    ("query text", planted("train", {"query": "How to pay?"}, "test", {"query": " how  TO pay?"})),
    ("document text", planted("dev", {"document": "One Text."}, "test", {"document": "one text."})),
    (
        "query near",
        planted("train", {"query": "pay how to now"}, "dev", {"query": "How to pay, now?"}),
    ),
    ("document near", planted("train", {"document": f"{LONG} end"}, "test", {"document": LONG})),
]


@pytest.mark.parametrize(("sort", "split"), PLANTED)
def test_a_planted_leak_is_found_told_and_removed(sort, split):
    report = audit(split)
    assert dict(report.n_leaks) == {sort: 1}
    assert not report.ok
    with pytest.raises(LeakError, match=f"1 x {sort}") as caught:
        report.check()
    assert caught.value.n_leaks == 1
    assert pickle.loads(pickle.dumps(caught.value)).examples == caught.value.examples
    mended = drop_leaks(split)
    assert audit(mended).check().ok
    assert len(mended.test) == len(split.test)
    assert sum(mended.info["dropped"].values()) == 1


def test_a_clean_split_passes_with_its_figures():
    split = clean_split(train=[row(60, "hi", "one two", doc_id="a"), row(61, "ho", "One  two")])
    report = audit(split).check()
    train = report.to_dict()["parts"]["train"]
    assert (train["kind"], train["n_rows"]) == ("pairs", 22)
    query, document = train["sides"]["query"], train["sides"]["document"]
    assert (document["n_texts"], document["n_distinct"]) == (22, 21)
    assert (query["n_short"], document["n_short"]) == (2, 2)
    assert document["words"]["quantiles"] == {"p5": 2, "p50": 12, "p95": 12, "max": 12}
    assert document["words"]["histogram"] == ((2, 3, 2), (4, 7, 0), (8, 15, 20))


def test_the_threshold_is_that_of_the_split():
    stems = [" ".join(f"a{group}k{k}" for k in range(9)) for group in range(50)]
    queries = [f"{stem} end{i}" for stem in stems for i in (0, 1)]
    pairs = Pairs.of([(f"q{i}", q, f"d{i}", f"doc{i} alone{i}") for i, q in enumerate(queries)])
    split = split_pairs(pairs, threshold=0.9, seed=1)
    assert audit(split).ok
    assert audit(split).threshold == 0.9
    assert audit(split, threshold=0.8).n_leaks["query near"] > 0
    assert split_pairs(pairs, threshold=0.8).info["n_groups"] == 50
    blind = split_pairs(pairs, near_duplicates=False, seed=1)
    assert audit(blind).ok
    assert not audit(blind).near_duplicates
    assert not audit(blind, near_duplicates=True).ok


def test_a_dev_query_that_loses_an_answer_goes_whole():
    split = clean_split(
        dev=[row(50, "two answers here", query_id="two"), row(51, "two answers here", LONG, "two")],
        test=[row(52, None, LONG)],
    )
    mended = drop_leaks(split)
    assert "two" not in mended.dev.queries
    assert mended.info["dropped"] == {"train": 0, "dev": 2}


WORDS = st.sampled_from([f"w{i}" for i in range(12)])
TEXT = st.lists(WORDS, min_size=1, max_size=8).map(" ".join)
PART = st.lists(st.tuples(st.integers(0, 30), TEXT, st.integers(0, 30), TEXT), max_size=12)


@settings(max_examples=60, deadline=None)
@given(PART, PART, PART)
def test_any_split_is_clean_after_drop_leaks(train, dev, test):
    parts = [
        Pairs.of([(f"q{q}", text, f"d{d}", doc) for q, text, d, doc in part])
        for part in (train, dev, test)
    ]
    split = Split(*parts)
    mended = drop_leaks(split, threshold=0.7)
    assert audit(mended).ok
    assert mended.test is split.test
    if audit(split, threshold=0.7).ok:
        assert (len(mended.train), len(mended.dev)) == (len(train), len(dev))
