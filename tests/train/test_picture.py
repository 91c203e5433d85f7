"""training.png is a real picture of what it is given."""

import io
import sys

import numpy as np
import pytest
from PIL import Image

from lancedb_ft.errors import MissingExtraError
from lancedb_ft.train.picture import training_picture

DEV = {step: (0.4 + step / 1000, (0.35 + step / 1000, 0.45 + step / 1000)) for step in (0, 25, 50)}
DRAWN = {"title": "support", "metric": "ndcg@10", "best_step": 50, "dev": DEV}


def pixels(**changes):
    losses = {step: 3.0 / (1 + step) for step in range(1, 51)}
    image = Image.open(io.BytesIO(training_picture(**{"losses": losses, **DRAWN, **changes})))
    image.verify()
    again = training_picture(**{"losses": losses, **DRAWN, **changes})
    return np.asarray(Image.open(io.BytesIO(again)).convert("RGB"))


def test_it_is_a_png_of_a_size_and_shows_what_it_is_given():
    plain = pixels()
    assert plain.shape == (660, 880, 3)
    blue = np.all(plain == (0x00, 0x72, 0xB2), axis=-1)
    orange = (0xE6, 0x9F, 0x00)
    assert blue.sum() > 50
    assert not np.all(plain == orange, axis=-1).any()
    probed = pixels(probes={"support@2 dev": {0: 0.7, 25: 0.69, 50: 0.65}})
    assert np.all(probed == orange, axis=-1).sum() > 50
    assert not np.array_equal(plain, pixels(best_step=25))


def test_without_losses_dev_has_the_room_and_a_level_is_a_line():
    grey = (0x99, 0x99, 0x99)
    alone = pixels(losses={})
    assert alone.shape == (660, 880, 3)
    blue = [np.all(each == (0x00, 0x72, 0xB2), axis=-1) for each in (alone, pixels())]
    heights = [np.ptp(np.flatnonzero(each.any(axis=1))) for each in blue]
    assert heights[0] > 1.4 * heights[1]
    led = pixels(losses={}, levels={"teacher": 0.47})
    drawn = [np.all(each == grey, axis=-1).sum() for each in (alone, led)]
    assert drawn[1] > drawn[0] + 200  # letters have grey edges


def test_the_same_training_gives_the_same_file_and_few_losses_will_do():
    assert training_picture(losses={}, **DRAWN) == training_picture(losses={}, **DRAWN)
    assert pixels(losses={1: 2.0, 2: 1.0}).shape == (660, 880, 3)


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"lancedb-ft\[train\]"):
        training_picture(losses={}, **DRAWN)
