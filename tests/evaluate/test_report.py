"""Reports."""

import pytest

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import comparison_table, evaluation_table, to_text
from lancedb_ft.types import Comparison, Delta, Estimate, Evaluation

BASE = Evaluation(
    "base",
    120,
    {
        "ndcg@10": Estimate(0.65, (0.61, 0.69), 120),
        "hit@5": Estimate(0.8, (0.7, 0.9), 120),
        "mrr@10": Estimate(0.5, (0.4, 0.6), 120),
    },
)
TUNED = Evaluation(
    "support@3",
    120,
    {
        "ndcg@10": Estimate(0.74, (0.71, 0.78), 120),
        "hit@5": Estimate(0.81, (0.7, 0.9), 120),
        "mrr@10": Estimate(0.4, (0.3, 0.5), 120),
    },
)
COMPARISON = Comparison(
    BASE,
    TUNED,
    {
        "ndcg@10": Delta(0.09, (0.05, 0.13), 120, p=0.0001),
        "hit@5": Delta(0.01, (-0.02, 0.04), 120, p=0.41),
        "mrr@10": Delta(-0.1, (-0.15, -0.05), 120, p=0.002),
    },
)


def line_of(text, metric):
    return next(line for line in text.splitlines() if metric in line)


def test_a_comparison_says_how_many_how_much_and_how_sure():
    text = to_text(comparison_table(COMPARISON, title="[gate]"))
    assert "n = 120 queries" in text
    assert "[gate]" in text
    assert "support@3" in text
    for part in ("0.650 [0.610, 0.690]", "0.740 [0.710, 0.780]", "+0.090 [+0.050, +0.130]"):
        assert part in line_of(text, "ndcg@10")
    assert "<0.001" in line_of(text, "ndcg@10")
    assert "0.410" in line_of(text, "hit@5")


def test_only_intervals_without_zero_are_marked():
    text = to_text(comparison_table(COMPARISON))
    assert "▲" in line_of(text, "ndcg@10")
    assert "▼" in line_of(text, "mrr@10")
    assert not set("▲▼") & set(line_of(text, "hit@5"))


def test_evaluations_stand_side_by_side():
    small = Evaluation("small", 7, {"ndcg@10": Estimate(0.1, (0.0, 0.2), 7)})
    text = to_text(evaluation_table(BASE, TUNED))
    assert "n = 120 queries" in text
    assert line_of(text, "hit@5").count("[0.700, 0.900]") == 2
    mixed = to_text(evaluation_table(BASE, small))
    assert "small (n = 7)" in mixed
    assert "base (n = 120)" in mixed
    assert line_of(mixed, "hit@5").rstrip("│┃| ").endswith("-")
    with pytest.raises(InputError):
        evaluation_table()


def test_color_is_a_choice():
    assert "\x1b[" not in to_text(comparison_table(COMPARISON))
    assert "\x1b[" in to_text(comparison_table(COMPARISON), color=True)
