"""Each loss reads its shape and moves the weights; chunks, caches and Matryoshka change nothing."""

import pytest
import torch

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError
from lancedb_ft.train.compute import Compute, in_chunks
from lancedb_ft.train.losses import (
    CACHED_FORMS,
    LOSSES,
    SHAPES,
    TRAINED_WITH,
    LossSettings,
    build_loss,
    check_matryoshka_dims,
    check_shape,
    require_loss,
)
from tests.train.toy import toy_model, toy_pairs

N = 12
COMPUTE = Compute("cpu", "float32", 60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def guide(tmp_path_factory):
    other = toy_model(tmp_path_factory.mktemp("guide"), seed=5)
    model = load_sentence_transformer(other, device="cpu").requires_grad_(False)
    return in_chunks(model, COMPUTE)


def columns_of(shape):
    """Columns of texts, and the labels beside them."""
    pairs = toy_pairs(3 * N).table
    queries, documents = pairs["query"].to_pylist()[:N], pairs["document"].to_pylist()
    negatives = [documents[N : 2 * N], documents[2 * N :]]
    dice = torch.Generator().manual_seed(0)
    return {
        "pairs": ([queries, documents[:N]], None),
        "triplets": ([queries, documents[:N], negatives[0]], None),
        "tuples": ([queries, documents[:N], *negatives], None),
        "scored": ([queries, documents[:N]], torch.rand(N, generator=dice)),
        "teacher": (
            [queries, documents[:N], *negatives],
            torch.randn(N, 3, generator=dice),
        ),
        "vectors": ([queries], torch.randn(N, 16, generator=dice)),
    }[shape]


def gradient(folder, name, shape, guide, *, dims=(), compute=COMPUTE, **settings):
    """Return the loss and all gradients as one vector."""
    model = load_sentence_transformer(folder, device="cpu")
    found = LossSettings(guide=guide, mini_batch_size=5, **settings)
    loss = build_loss(LOSSES[name], in_chunks(model, compute), found, matryoshka_dims=dims)
    texts, labels = columns_of(shape)
    value = loss([model.preprocess(column) for column in texts], labels)
    value.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return float(value.detach()), torch.cat(grads)


CASES = [(loss.name, shape) for loss in LOSSES.values() for shape in loss.shapes]


@pytest.mark.parametrize(("name", "shape"), CASES)
def test_each_loss_reads_each_of_its_shapes_in_chunks_as_in_one_pass(folder, guide, name, shape):
    found = [
        gradient(folder, name, shape, guide, compute=compute)
        for compute in (COMPUTE, Compute("cpu", "float32", None))
    ]
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-4)
    assert found[0][1].abs().max() > 0
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("name", "cached"), CACHED_FORMS.items())
def test_the_cached_form_has_the_gradients_of_the_other(folder, guide, name, cached):
    value, grads = gradient(folder, name, "triplets", guide)
    again, same = gradient(folder, cached, "triplets", guide)
    assert again == pytest.approx(value, rel=1e-4)
    torch.testing.assert_close(same, grads, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("mnrl", "triplets"),
        ("cached_mnrl", "triplets"),
        ("gist", "pairs"),
        ("cached_gist", "pairs"),
        ("triplet", "triplets"),
        ("cosent", "scored"),
        ("distill_kl", "teacher"),
        ("margin_mse", "teacher"),
    ],
)
def test_matryoshka_trains_the_short_vectors_too(folder, guide, name, shape):
    """Its gradient is that of the full length and that of the first dimensions by themselves."""
    _, both = gradient(folder, name, shape, guide, dims=(16, 4))
    _, full = gradient(folder, name, shape, guide, dims=(16,))
    _, short = gradient(folder, name, shape, guide, dims=(4,))
    assert short.abs().max() > 0
    assert not torch.allclose(short, full, rtol=1e-2)
    torch.testing.assert_close(both, full + short, rtol=1e-3, atol=1e-5)


def test_the_temperature_divides_the_similarities(folder, guide):
    usual = gradient(folder, "mnrl", "pairs", guide)
    same = gradient(folder, "mnrl", "pairs", guide, temperature=LOSSES["mnrl"].temperature)
    hot = gradient(folder, "mnrl", "pairs", guide, temperature=1.0)
    assert usual[0] == same[0]
    assert hot[0] != pytest.approx(usual[0], rel=1e-2)


def test_a_guide_takes_no_part_in_the_gradient_and_finds_false_negatives(folder, guide):
    """The second half repeats the first: without a guide each text is its copy's negative."""
    model = load_sentence_transformer(folder, device="cpu")
    texts, _ = columns_of("pairs")
    half = [column[: N // 2] for column in texts]
    features = [model.preprocess(column + [f"{text}." for text in column]) for column in half]
    values = {}
    for name in ("mnrl", "gist"):
        loss = build_loss(LOSSES[name], in_chunks(model, COMPUTE), LossSettings(guide=guide))
        values[name] = float(loss([dict(each) for each in features], None).detach())
    assert all(not parameter.requires_grad for parameter in guide.parameters())
    assert values["gist"] < values["mnrl"]


def test_a_loss_that_cannot_read_the_data_names_those_that_can():
    assert check_shape(LOSSES["mnrl"], ["triplets", "tuples"], kind="triplets") == "tuples"
    with pytest.raises(InputError, match="fit it: cosent, angle, cosine"):
        check_shape(LOSSES["mnrl"], ["scored"], kind="scored")
    with pytest.raises(InputError, match="There is no loss 'hinge'"):
        require_loss("hinge")


def test_the_loss_that_no_training_data_can_be_read_with_is_distills():
    assert [name for name in LOSSES if name not in TRAINED_WITH] == ["mse"]
    with pytest.raises(
        InputError, match=r"'mse' reads .* vector .*: distill\(\) .* train\(\) are: mnrl"
    ):
        check_shape(LOSSES["mse"], ["pairs"], kind="pairs")


def test_every_shape_is_read_by_a_loss_and_every_loss_says_what_it_is():
    assert {shape for _, shape in CASES} == set(SHAPES)
    assert all(loss.description and loss.name == name for name, loss in LOSSES.items())


def test_the_full_length_is_always_trained_and_longer_ones_are_refused():
    assert check_matryoshka_dims([64, 256, 128], 384) == [384, 256, 128, 64]
    for wrong in ([400], [0], [True], [64.0]):
        with pytest.raises(InputError, match="matryoshka_dims has"):
            check_matryoshka_dims(wrong, 384)
