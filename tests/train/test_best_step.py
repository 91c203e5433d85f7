"""Which step of a run is kept: the latest that cannot be told from the best on dev."""

import numpy as np
import pytest

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.train.compute import choose_compute
from lancedb_ft.train.course import Course
from lancedb_ft.train.runs import open_run
from lancedb_ft.types import Estimate, Evaluation
from tests.train.toy import toy_model

METRIC = "ndcg@10"
N = 100


class Told:
    """A dev set whose figures are given: one list of values by query for each measurement."""

    metric, n_queries, n_documents, fingerprint = METRIC, N, N, "told"

    def __init__(self, *measurements):
        self._left = iter(measurements)

    def measure(self, encoder, metric, *, name=""):
        values = next(self._left)
        mean = float(np.mean(values))
        by_query = {f"q{i}": float(value) for i, value in enumerate(values)}
        return Evaluation(name, N, {metric: Estimate(mean, (mean, mean), N)}, {metric: by_query})


BASE = np.full(N, 0.5)
BEST = np.linspace(0.5, 0.9, N)
#: A little lower in the mean, and by so much up and down from query to query that it says nothing.
NOISE = BEST - 0.002 + np.tile([0.1, -0.1], N // 2)
#: Lower by as little on every query alike: that is no noise.
LOWER = BEST - 0.002


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return load_sentence_transformer(toy_model(tmp_path_factory.mktemp("toy")), device="cpu")


def kept(model, folder, *measurements, again=()):
    """Return the step that is kept, each measured after one step; `again` in a second process."""
    with open_run(folder / "run", {"name": "toy"}) as run:
        for told, first in ((measurements, 1), (again, len(measurements) - 1)):
            course = Course(
                model,
                Told(*told),
                metric=METRIC,
                interval=1,
                run=run,
                compute=choose_compute("cpu"),
            )
            if first == 1:
                course.begin(0, 3)
            for step in range(first, first + len(told) - (first == 1)):
                course.after_step(step, 3)
        return run.best().step


def test_the_later_of_steps_that_differ_by_noise(model, tmp_path):
    assert kept(model, tmp_path, BASE, BEST, NOISE) == 2
    assert kept(model, tmp_path / "x", BASE, NOISE, BEST) == 2


def test_a_step_that_is_worse_beyond_noise_is_not_kept(model, tmp_path):
    assert kept(model, tmp_path, BASE, BEST, LOWER) == 1
    # It is the best that a step is held against, not the one that was kept last.
    assert kept(model, tmp_path / "x", BASE, BEST, NOISE, LOWER) == 2
    slow = [BEST - step * 0.006 + np.tile([0.1, -0.1], N // 2) for step in (1, 2)]
    assert kept(model, tmp_path / "y", BASE, BEST, *slow) == 2


def test_no_step_that_is_below_the_base_model(model, tmp_path):
    barely, below = BASE + 0.001, BASE - 0.001 + np.tile([0.1, -0.1], N // 2)
    assert kept(model, tmp_path, BASE, barely, below) == 1


def test_a_run_that_was_killed_ends_with_the_same_step(model, tmp_path):
    # Step 2 is measured once more by the second process, and then step 3.
    assert kept(model, tmp_path, BASE, BEST, NOISE, again=(NOISE, LOWER)) == 2
    assert kept(model, tmp_path / "x", BASE, NOISE, BEST, again=(BEST, NOISE)) == 3
