"""The order of dimensions: whole vectors keep their cosines, cut ones keep more of the ranking."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from lancedb_ft.encoder import get_encoder
from lancedb_ft.store import resolve_model
from lancedb_ft.train import train
from lancedb_ft.train.rotation import add_rotation, can_rotate, encoded_sides, learn_rotation
from tests.train.toy import FAST, toy_model, toy_pairs


@pytest.fixture(scope="module")
def sides():
    """Vectors whose meaning stands in four of 32 directions; the others are noise."""
    random = np.random.default_rng(0)
    hidden = random.normal(size=(400, 4))
    turn = np.linalg.qr(random.normal(size=(32, 32)))[0]
    return tuple(
        (np.hstack([hidden, 0.3 * random.normal(size=(400, 28))]) @ turn).astype(np.float32)
        for _ in range(2)
    )


def hit_share(queries, documents, n):
    a, b = (
        side[:, :n] / np.linalg.norm(side[:, :n], axis=1, keepdims=True)
        for side in (queries, documents)
    )
    return float(((a @ b.T).argmax(axis=1) == np.arange(len(a))).mean())


def test_what_tells_apart_moves_to_the_front(sides):
    turn = learn_rotation(*sides, [4], seed=0)
    np.testing.assert_allclose(turn @ turn.T, np.eye(32), atol=1e-4)
    before, after = hit_share(*sides, 4), hit_share(*(side @ turn for side in sides), 4)
    assert after > before + 0.2
    unmatched = learn_rotation(*sides, [4], seed=0, matched=False)
    assert hit_share(*(side @ unmatched for side in sides), 4) > before + 0.2
    np.testing.assert_array_equal(turn, learn_rotation(*sides, [4], seed=0))


def test_a_rotated_model_ranks_as_before_and_survives_saving(tmp_path):
    model = SentenceTransformer(toy_model(tmp_path / "toy"))
    texts = list(toy_pairs(30).corpus.values())
    before, _ = encoded_sides(model, texts, texts[:1])
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0].astype(np.float32)
    assert can_rotate(model)
    for times in (1, 2):
        add_rotation(model, turn)
        found, _ = encoded_sides(model, texts, texts[:1])
        np.testing.assert_allclose(found @ found.T, before @ before.T, atol=1e-5)
        expected = before @ np.linalg.matrix_power(turn, times)
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert [type(m).__name__ for m in model].count("Dense") == 1
    model.save_pretrained(str(tmp_path / "saved"))
    encoder = get_encoder(resolve_model(str(tmp_path / "saved"), store=None), precision="float32")
    again = encoder.encode(texts).flatten().to_numpy().reshape(-1, 16)
    np.testing.assert_allclose(again, found, atol=1e-5)


def test_training_for_shorter_vectors_orders_them_and_says_what_they_keep(tmp_path):
    base = toy_model(tmp_path / "toy")
    version = train(
        base,
        toy_pairs(160),
        dev=toy_pairs(40, seed=1, prefix="dev"),
        name="toy",
        store=str(tmp_path / "s"),
        matryoshka_dims=[8, 4],
        epochs=3,
        **FAST,
    )
    told = version.manifest["matryoshka"]
    assert told["rotated"] is True
    assert list(told["dev"]) == ["16", "8", "4"]
    whole = told["dev"]["16"]["ndcg@10"]["mean"]
    assert whole == pytest.approx(
        version.manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"], abs=0.02
    )
    encoder = get_encoder(resolve_model(version.path, store=None))
    assert encoder.with_dims(4).encode(["alpha bravo"]).type.list_size == 4
