"""Every example runs."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.jargon import write_files

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.timeout(300)
def test_01_improve(tmp_path, minilm):
    write_files(tmp_path, n=200)
    done = subprocess.run(
        [sys.executable, EXAMPLES / "01_improve.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "switched: True, model: support@1" in done.stdout


@pytest.mark.timeout(300)
def test_03_matryoshka_and_distill(tmp_path, minilm):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "03_matryoshka_and_distill.py", tmp_path],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "static@1: keeps" in done.stdout


@pytest.mark.timeout(300)
def test_02_hard_negatives(minilm):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "02_hard_negatives.py"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "64 of 64 pairs" in done.stdout
    assert "trained api@1" in done.stdout or "nothing kept" in done.stdout


@pytest.mark.timeout(300)
def test_05_high_churn(tmp_path, minilm):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "05_high_churn.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "written: 1 new, 1 edited" in done.stdout
    assert "'giraffe parcels' -> p3 (hot, by" in done.stdout
    assert "'pause my subscription' -> p100 (hot, by fts)" in done.stdout
    assert "settled: 2 rows, 2 texts embedded" in done.stdout


@pytest.mark.timeout(300)
def test_06_langchain(tmp_path, minilm):
    pytest.importorskip("langchain_core")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "06_langchain.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cancel: ['billing-1'," in done.stdout
    assert "in German: ['login-2']" in done.stdout
    assert "best: billing-2 ['_relevance_score', 'id', 'lang']" in done.stdout


@pytest.mark.timeout(300)
def test_07_llamaindex(tmp_path, minilm):
    pytest.importorskip("llama_index.core")
    done = subprocess.run(
        [sys.executable, EXAMPLES / "07_llamaindex.py", tmp_path], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "n2 (2024), score " in done.stdout
    assert "dims: 384" in done.stdout


def test_every_example_has_a_test():
    tests = Path(__file__).read_text()
    for path in EXAMPLES.glob("*.py"):
        assert f"test_{path.stem}" in tests
