"""The join finds every near-duplicate: checked against all pairs, one by one."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lancedb_ft.data.near import DisjointSets, near_duplicate_groups, near_duplicate_pairs
from lancedb_ft.data.texts import normalise, query_id_of
from lancedb_ft.errors import InputError

WORDS = ["a", "b", "c", "d", "e", "f", "g", "h"]
TEXTS = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=9).map(" ".join), max_size=25
)


def tokens(text, shingle):
    words = text.split()
    width = min(shingle, len(words))
    return {tuple(words[i : i + width]) for i in range(len(words) - width + 1)}


def all_pairs(texts, threshold, shingle):
    found = {}
    for (i, left), (j, right) in itertools.combinations(enumerate(texts), 2):
        a, b = tokens(left, shingle), tokens(right, shingle)
        similarity = len(a & b) / len(a | b)
        if similarity >= threshold - 1e-9:
            found[i, j] = similarity
    return found


@given(TEXTS, st.sampled_from([0.5, 0.6, 0.8, 0.9, 1.0]), st.sampled_from([1, 2, 3]))
def test_finds_exactly_the_pairs_that_comparing_all_finds(texts, threshold, shingle):
    found = near_duplicate_pairs(texts, threshold, shingle=shingle)
    assert {(i, j): pytest.approx(s) for i, j, s in found} == all_pairs(texts, threshold, shingle)
    assert found == sorted(found)


@given(TEXTS, st.sampled_from([0.5, 0.8]), st.sampled_from([1, 3]))
def test_groups_are_the_connected_components_of_the_pairs(texts, threshold, shingle):
    forest = DisjointSets(len(texts))
    for i, j in all_pairs(texts, threshold, shingle):
        forest.join(i, j)
    expected = [group for group in forest.groups() if len(group) > 1]
    assert near_duplicate_groups(texts, threshold, shingle=shingle) == expected


@given(TEXTS, st.data())
def test_parts_leave_out_pairs_within_one_part(texts, data):
    masks = data.draw(st.lists(st.integers(1, 7), min_size=len(texts), max_size=len(texts)))
    found = near_duplicate_pairs(texts, 0.6, shingle=1, parts=masks)
    crossings = list(itertools.permutations(range(3), 2))
    expected = {
        (i, j)
        for i, j in all_pairs(texts, 0.6, 1)
        if any(masks[i] >> a & 1 and masks[j] >> b & 1 for a, b in crossings)
    }
    assert {(i, j) for i, j, _ in found} == expected


def test_finds_all_that_minhash_finds():
    datasketch = pytest.importorskip("datasketch")
    base = [" ".join(f"w{(i * 7 + k * k) % 211}" for k in range(60)) for i in range(150)]
    texts = [*base, *(text.replace(" ", "  ", 3).rsplit(" ", 4)[0] for text in base)]
    lsh = datasketch.MinHashLSH(threshold=0.7, num_perm=64)
    sketches = []
    for i, text in enumerate(texts):
        sketch = datasketch.MinHash(num_perm=64)
        sketch.update_batch([" ".join(token).encode() for token in tokens(text, 3)])
        lsh.insert(i, sketch)
        sketches.append(sketch)
    ours = {(i, j) for i, j, _ in near_duplicate_pairs(texts, 0.7)}
    theirs = {(i, j) for i, sketch in enumerate(sketches) for j in lsh.query(sketch) if i < j}
    verified = theirs & set(all_pairs(texts, 0.7, 3))
    assert len(verified) >= 100
    assert verified <= ours


def test_a_boilerplate_text_many_times_is_one_group_at_once():
    texts = ["the same long text of one page after another"] * 20_000
    (group,) = near_duplicate_groups(texts)
    assert len(group) == 20_000


def test_texts_without_words_only_resemble_their_equals():
    assert near_duplicate_groups(["!!", "??", "!!", ""], shingle=1) == [[0, 2]]


def test_a_short_text_is_no_part_of_a_longer_one():
    assert near_duplicate_pairs(["git log", "git log oneline", "git"]) == []


def test_chinese_is_compared_by_characters():
    found = near_duplicate_pairs(["如何取消我的订单呢", "如何取消我的订单"], shingle=1)
    assert [(i, j) for i, j, _ in found] == [(0, 1)]


@pytest.mark.parametrize("threshold", [0.49, 1.01, float("nan")])
def test_a_senseless_threshold_is_refused(threshold):
    with pytest.raises(InputError, match="between"):
        near_duplicate_pairs(["a"], threshold)


def test_normalise_keeps_punctuation_and_joins_white_space():
    assert normalise("  Sudo\u3000 \n!! ") == "sudo !!"
    assert normalise("\uff4c\uff53") == "ls"
    assert query_id_of("Straße") == query_id_of("STRASSE")
