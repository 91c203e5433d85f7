"""Every example runs."""

import re
import runpy
import sys
from pathlib import Path

import pytest

from tests.jargon import write_files

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def told(tmp_path, monkeypatch, capsys, minilm):
    """Run an example with a folder, and return what it printed."""

    def run(name):
        monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
        runpy.run_path(str(EXAMPLES / name), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.mark.timeout(300)
def test_01_improve(told, tmp_path):
    write_files(tmp_path, n=200)
    out = told("01_improve.py")
    assert "switched: True, model: support@1" in out
    on_dev = dict(re.findall(r"on dev, (\w+) +(\S+)", out))
    best = max(on_dev, key=lambda mode: float(on_dev[mode]))
    assert set(on_dev) == {"hybrid", "vector"}
    assert f"search with mode='{best}'" in out


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_03_matryoshka_and_distill(told):
    out = told("03_matryoshka_and_distill.py")
    assert "static@1: keeps" in out


@pytest.mark.timeout(300)
def test_02_hard_negatives(told):
    out = told("02_hard_negatives.py")
    assert "64 of 64 pairs" in out
    assert "trained api@1" in out or "nothing kept" in out


@pytest.mark.timeout(300)
def test_04_hybrid_rerank(told):
    out = told("04_hybrid_rerank.py")
    assert "no reranker kept" in out or "test queries: " in out
    assert "3 rows, degraded: ('rerank: " in out


@pytest.mark.timeout(300)
def test_05_high_churn(told):
    out = told("05_high_churn.py")
    assert "written: 1 new, 1 edited" in out
    assert "'giraffe parcels' -> p3 (hot, by" in out
    assert "'pause my subscription' -> p100 (hot, by fts)" in out
    assert "settled: 2 rows, 2 texts embedded" in out


@pytest.mark.timeout(300)
def test_06_langchain(told):
    pytest.importorskip("langchain_core")
    out = told("06_langchain.py")
    assert "cancel: ['billing-1'," in out
    assert "in German: ['login-2']" in out
    assert "best: billing-2 ['_relevance_score', 'id', 'lang']" in out


@pytest.mark.timeout(300)
def test_07_llamaindex(told):
    pytest.importorskip("llama_index.core")
    out = told("07_llamaindex.py")
    assert "n2 (2024), score " in out
    assert "dims: 384" in out


def test_every_example_has_a_test():
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"test_{path.stem}" in tests
