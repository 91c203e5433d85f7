import numpy as np
import pyarrow as pa
import pytest
from lancedb.rerankers import RRFReranker

from lancedb_ft.search import reciprocal_rank_fusion


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
