"""No document, query or group of the caller ever crosses a split."""

import time
import warnings
from random import Random

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lancedb_ft.data import audit, drop_leaks, split_pairs
from lancedb_ft.data.split import assign_groups
from lancedb_ft.errors import InputError
from lancedb_ft.types import Pairs, Split

PAIR = st.tuples(st.integers(0, 40), st.integers(0, 40))


def distinct_pairs(edges):
    """Pairs whose texts share no word unless their ids are equal."""
    return Pairs.of([(f"q{q}", f"query{q} asks{q}", f"d{d}", f"doc{d} tells{d}") for q, d in edges])


def disjoint(sets):
    return sum(map(len, sets)) == len(set().union(*sets))


def rows(pairs):
    return {(row["query_id"], row["doc_id"]) for row in pairs.table.to_pylist()}


def many(n, group=1):
    return distinct_pairs([(i, i // group) for i in range(n)])


@settings(max_examples=60, deadline=None)
@given(st.lists(PAIR, min_size=1, max_size=60, unique=True), st.integers(0, 5), st.randoms())
def test_nothing_crosses_and_the_order_does_not_matter(edges, seed, random):
    pairs = distinct_pairs(edges)
    groups = {f"d{d}": d % 7 for d in range(0, 41, 2)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            split = split_pairs(pairs, seed=seed, groups=groups)
        except InputError as error:
            assert "cannot be divided" in str(error)  # noqa: PT017
            return
    assert sum(len(part) for part in split.parts().values()) == len(pairs)
    for column in ("doc_id", "query_id"):
        seen = [set(part.table[column].to_pylist()) for part in split.parts().values()]
        assert disjoint(seen)
    of_part = [
        {groups[d] for d in part.table["doc_id"].to_pylist() if d in groups}
        for part in split.parts().values()
    ]
    assert disjoint(of_part)
    assert audit(split).ok
    shuffled = list(edges)
    random.shuffle(shuffled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        again = split_pairs(distinct_pairs(shuffled), seed=seed, groups=groups)
    assert {k: rows(v) for k, v in again.parts().items()} == {
        k: rows(v) for k, v in split.parts().items()
    }


def test_shares_are_met_and_another_seed_is_another_split():
    pairs = many(1000, group=3)
    split = split_pairs(pairs, seed=1)
    assert [len(part) for part in split.parts().values()] == [801, 99, 100]
    other = split_pairs(pairs, seed=2)
    assert rows(other.test) != rows(split.test)
    assert len(rows(other.test) & rows(split.test)) < 30
    assert split.info["n_groups"] == 334
    assert split.info["n_pairs"] == {"train": 801, "dev": 99, "test": 100}


def test_equal_and_nearly_equal_texts_stay_together():
    texts = [f"alpha{i} beta{i} gamma{i} delta{i} epsilon{i} zeta{i}" for i in range(60)]
    table = [(f"a{i}", t, f"x{i}", f"doc{i} says {t}") for i, t in enumerate(texts)]
    # The same query with other white space, and the same document with one word more.
    table += [(f"b{i}", f"  {t.upper()} ", f"y{i}", f"other{i}") for i, t in enumerate(texts)]
    longer = [
        f"doc{i} says {t} and goes on with{i} ten{i} more{i} words{i} so that it is long"
        for i, t in enumerate(texts)
    ]
    table += [(f"c{i}", f"unrelated{i}", f"z{i}", t) for i, t in enumerate(longer)]
    table += [(f"e{i}", f"nothing{i}", f"w{i}", f"{t} yes") for i, t in enumerate(longer)]
    split = split_pairs(Pairs.of(table), seed=3)
    for part in split.parts().values():
        ids = set(part.table["query_id"].to_pylist())
        assert {i[1:] for i in ids if i[0] == "a"} == {i[1:] for i in ids if i[0] == "b"}
        assert {i[1:] for i in ids if i[0] == "c"} == {i[1:] for i in ids if i[0] == "e"}
    loose = split_pairs(Pairs.of(table), seed=3, near_duplicates=False)
    crossing = [
        {i[1:] for i in part.table["query_id"].to_pylist() if i[0] == "c"}
        != {i[1:] for i in part.table["query_id"].to_pylist() if i[0] == "e"}
        for part in loose.parts().values()
    ]
    assert any(crossing)


def test_train_has_no_negative_that_another_part_asks_for():
    texts = [f"how w{i} x{i} y{i} of z{i} is done with v{i} and u{i}" for i in range(100)]
    table = {
        "query_id": [f"q{i}" for i in range(100)],
        "query": [f"question{i} about{i}" for i in range(100)],
        "doc_id": [f"d{i}" for i in range(100)],
        "document": texts,
        "negative": [f"{text}!" for text in texts[1:] + texts[:1]],
    }
    split = split_pairs(Pairs(pa.table(table)), seed=0)
    assert audit(split).ok
    assert 0 < 80 - len(split.train) <= 20
    assert split.info["n_pairs"]["train"] == len(split.train)
    train = Pairs(pa.table({name: column[:50] for name, column in table.items()}))
    test = Pairs(pa.table({name: column[50:] for name, column in table.items()}))
    bare = Split(train, train.take(pa.array([], pa.int64())), test)
    report = audit(bare)
    assert (report.ok, report.n_leaks) == (False, {"document near": 1})
    assert len(drop_leaks(bare).train) == 49


def test_a_giant_group_stands_in_train_and_is_told():
    edges = [(i, 0) for i in range(60)] + [(i, i) for i in range(60, 100)]
    with pytest.warns(UserWarning, match=r"60% of the pairs are one group.*'d0' with 60"):
        split = split_pairs(distinct_pairs(edges))
    assert len(split.train) == 80
    assert "d0" in split.train.corpus


@pytest.mark.parametrize(
    ("pairs", "groups", "told"),
    [
        (distinct_pairs([(i, 0) for i in range(50)]), None, r"100% by ids.*leave those out"),
        (many(50), ["all"] * 50, r"100% by groups.*give finer ones"),
        (
            Pairs.of([(f"q{i}", f"q{i}", f"d{i}", f"{'x y z w ' * 9} {i}") for i in range(50)]),
            None,
            r"by near-duplicates.*raise threshold",
        ),
    ],
)
def test_pairs_that_cannot_be_parted_say_what_joins_them(pairs, groups, told):
    with pytest.raises(InputError, match=told):
        split_pairs(pairs, groups=groups, threshold=0.6)


def test_groups_as_a_column():
    pairs = many(100)
    groups = pa.chunked_array([[f"g{i % 20}" for i in range(100)]])
    split = split_pairs(pairs, groups=groups)
    parts = [
        {int(i[1:]) % 20 for i in part.table["doc_id"].to_pylist()}
        for part in split.parts().values()
    ]
    assert sum(map(len, parts)) == 20
    with pytest.raises(InputError, match="3 values for 100 pairs"):
        split_pairs(pairs, groups=[1, 2, 3])


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.9, 0.2, 0.1), (0, 0.5, 0.5), (1.2, -0.1, -0.1)])
def test_senseless_shares_are_refused(shares):
    with pytest.raises(InputError, match="three numbers"):
        split_pairs(many(10), shares=shares)


def test_no_pairs_and_a_part_without_a_share():
    with pytest.raises(InputError, match="no pairs"):
        split_pairs(Pairs.of([]))
    split = split_pairs(many(10), shares=(0.9, 0.1, 0))
    assert [len(part) for part in split.parts().values()] == [9, 1, 0]
    assert [len(part) for part in split_pairs(many(3)).parts().values()] == [1, 1, 1]


@given(st.lists(st.integers(1, 30), min_size=3, max_size=60))
def test_every_part_gets_its_share_as_far_as_groups_allow(sizes):
    parts = assign_groups(sizes, (0.8, 0.1, 0.1))
    if parts is None:
        return
    held = [sum(s for s, p in zip(sizes, parts, strict=True) if p == part) for part in range(3)]
    assert all(held)
    for part in (1, 2):
        assert held[part] <= max(0.15 * sum(sizes) + 1, max(sizes))


@pytest.mark.slow
def test_20_000_pairs_take_seconds():
    random = Random(0)
    vocabulary = [f"word{i}" for i in range(3000)]
    texts = [" ".join(random.choices(vocabulary, k=80)) for _ in range(10_000)]
    table = [
        (f"q{i}", " ".join(random.choices(vocabulary, k=10)), f"d{i // 2}", texts[i // 2])
        for i in range(20_000)
    ]
    started = time.perf_counter()
    split = split_pairs(Pairs.of(table))
    assert time.perf_counter() - started < 40
    assert split.info["n_groups"] == 10_000
