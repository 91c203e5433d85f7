import numpy as np
import pyarrow as pa
import pytest
from lancedb.rerankers import RRFReranker

from lancedb_ft.errors import InputError
from lancedb_ft.search import reciprocal_rank_fusion
from lancedb_ft.search.fusion import FUSIONS, Fusion, LegHits, relative_scores


def test_scores_are_those_of_the_paper():
    fused = dict(reciprocal_rank_fusion([[1, 2], [2, 3]]))
    assert fused == {
        1: pytest.approx(1 / 61),
        2: pytest.approx(1 / 62 + 1 / 61),
        3: pytest.approx(1 / 62),
    }


def test_ties_go_to_the_lower_id_whatever_the_order_of_the_legs():
    assert reciprocal_rank_fusion([[9], [4]]) == reciprocal_rank_fusion([[4], [9]])
    assert [row for row, _ in reciprocal_rank_fusion([[9], [4]])] == [4, 9]


def test_nothing_fused_is_nothing():
    assert reciprocal_rank_fusion([[], []]) == []
    assert reciprocal_rank_fusion([]) == []


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_lancedb(seed):
    rng = np.random.default_rng(seed)
    legs = [rng.permutation(40)[:20].tolist() for _ in range(2)]
    tables = [pa.table({"_rowid": pa.array(leg, pa.uint64())}) for leg in legs]
    theirs = RRFReranker().rerank_hybrid("", *tables).to_pydict()
    expected = dict(zip(theirs["_rowid"], theirs["_relevance_score"], strict=True))
    ours = reciprocal_rank_fusion(legs)
    assert {row: pytest.approx(score) for row, score in ours} == expected
    assert [score for _, score in ours] == sorted((s for _, s in ours), reverse=True)


VECTOR = LegHits([7, 8, 9], [-0.1, -0.2, -0.9])
TEXT = LegHits([9, 7, 5], [12.0, 3.0, 2.0])


def test_rrf_by_weights_is_reciprocal_rank_fusion():
    assert Fusion.rrf().fuse(VECTOR, TEXT) == reciprocal_rank_fusion([VECTOR.ids, TEXT.ids])


def test_weighted_fusion_weighs_the_reciprocal_ranks():
    fused = dict(Fusion.weighted(vector=0.75).fuse(VECTOR, TEXT))
    assert fused[7] == pytest.approx(0.75 / 61 + 0.25 / 62)
    assert fused[5] == pytest.approx(0.25 / 63)


def test_relative_scores_go_from_one_to_zero_in_each_leg():
    fused = dict(Fusion.relative(vector=0.5).fuse(VECTOR, TEXT))
    assert fused == {
        7: pytest.approx(0.5 * 1 + 0.5 * 0.1),
        8: pytest.approx(0.5 * 0.875),
        9: pytest.approx(0.5 * 0 + 0.5 * 1),
        5: pytest.approx(0),
    }


@pytest.mark.parametrize("scores", [[3.0], [2.0, 2.0], [float("inf"), 1.0]])
def test_what_cannot_be_scaled_is_all_one(scores):
    assert relative_scores(scores) == [1.0] * len(scores)


def test_a_leg_without_weight_still_brings_its_rows_last():
    fused = Fusion.weighted(vector=1.0).fuse(VECTOR, TEXT)
    assert [row for row, _ in fused] == [7, 8, 9, 5]
    assert fused[-1] == (5, 0.0)


def test_an_empty_leg_is_no_obstacle():
    for fusion in FUSIONS.values():
        assert [row for row, _ in fusion.fuse(LegHits([], []), TEXT)] == [9, 7, 5]
        assert fusion.fuse(LegHits([], []), LegHits([], [])) == []


@pytest.mark.parametrize(
    "wrong",
    [
        {"vector_rank": -1.0},
        {"text_score": float("nan")},
        {"vector_rank": 0, "text_rank": 0},
        {"rrf_k": 0},
        {"candidates": 0},
        {"candidates": True},
        {"vector_rank": "1"},
    ],
)
def test_weights_that_make_no_ranking_are_refused(wrong):
    with pytest.raises(InputError):
        Fusion(**wrong)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan"), "half"])
def test_a_share_is_from_zero_to_one(share):
    with pytest.raises(InputError, match="from 0 to 1"):
        Fusion.relative(vector=share)
    with pytest.raises(InputError, match="from 0 to 1"):
        Fusion.weighted(vector=share)
