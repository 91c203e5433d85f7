"""Several sets at once, prompts, pooling, events, early stopping: with a tiny model."""

import numpy as np
import pyarrow as pa
import pytest

from lancedb_ft.embedding import FineTunedEmbeddings
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError, LeakError
from lancedb_ft.store import ModelStore
from lancedb_ft.train import train
from lancedb_ft.train.dev import hold_out_of_first
from lancedb_ft.train.queries.trainer import _divided
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.train.toy import FAST, WORDS, toy_model, toy_pairs


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def dev():
    return toy_pairs(30, seed=1, prefix="dev")


def pair_set(n=120, **settings):
    table = TrainingSet.of_pairs(toy_pairs(n)).table
    return TrainingSet("pairs", table, **settings)


def scored_set(n=60, seed=3, **settings):
    """A text and its answer (1), or the answer of the other one of two (0)."""
    table = toy_pairs(2 * n, seed=seed, prefix="scored").table
    queries, documents = table["query"].to_pylist(), table["document"].to_pylist()
    wrong = [documents[i ^ 1] for i in range(2 * n)]
    columns = {
        "sentence1": [q for q in queries for _ in range(2)],
        "sentence2": [d for both in zip(documents, wrong, strict=True) for d in both],
        "score": [1.0, 0.0] * (2 * n),
    }
    return TrainingSet("scored", pa.table(columns), **settings)


def two_sets():
    return [
        pair_set(query_prompt="alpha ", document_prompt="bravo ", name="tickets"),
        scored_set(document_prompt="charlie ", loss="angle"),
    ]


@pytest.fixture(scope="module")
def both(base, dev, tmp_path_factory):
    """Two sets in one run: the version, its events, and the store."""
    store = tmp_path_factory.mktemp("store")
    events = []
    version = train(
        base,
        two_sets(),
        dev=dev,
        name="both",
        store=str(store),
        epochs=2,
        on_event=events.append,
        **FAST,
    )
    return version, events, store


# --- several sets --------------------------------------------------------------------------


def test_two_sets_are_trained_together_each_with_its_loss_and_prompts(both):
    manifest = both[0].manifest
    assert manifest["training"]["loss"] == ["mnrl", "angle"]
    assert manifest["training"]["steps"] == 2 * (8 + 15)
    sets = manifest["data"]["sets"]
    assert [(s["kind"], s["loss"], s["n"]) for s in sets] == [
        ("pairs", "mnrl", 120),
        ("scored", "angle", 240),
    ]
    assert [(s["query_prompt"], s["document_prompt"]) for s in sets] == [
        ("alpha ", "bravo "),
        (None, "charlie "),
    ]
    history = manifest["dev"]["history"]
    assert max(history.values()) > history["0"] + 0.05


def test_an_interrupted_run_over_two_sets_goes_on_to_the_same_model(both, base, dev, tmp_path):
    def run(progress):
        arguments = {"dev": dev, "name": "both", "store": str(tmp_path), "epochs": 2, **FAST}
        return train(base, two_sets(), progress=progress, **arguments)

    def interrupt(done, total):
        if done == 32:  # in the second epoch
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    steps = []
    version = run(lambda done, total: steps.append(done))
    assert 23 < steps[0] < 32
    assert version.fingerprint == both[0].fingerprint


def test_a_loss_for_all_must_fit_each_of_them(base, dev, tmp_path):
    with pytest.raises(InputError, match="cosent, angle, cosine"):
        train(base, two_sets(), dev=dev, name="x", store=str(tmp_path), loss="mnrl", **FAST)
    with pytest.raises(InputError, match="list"):
        train(base, [[1]], dev=dev, name="x", store=str(tmp_path), **FAST)


def test_a_dev_text_in_any_of_the_sets_is_a_leak(base, tmp_path):
    table = scored_set().table
    leaked = Pairs.of([("q", "new words", "d", table["sentence2"][5].as_py())])
    with pytest.raises(LeakError):
        train(base, two_sets(), dev=leaked, name="x", store=str(tmp_path), **FAST)


# --- prompts -------------------------------------------------------------------------------


def sharing_sets():
    """Pairs, and mined negatives of the same queries: answers of others among them."""
    rows = toy_pairs(160).table.to_pylist()
    wrong = [[rows[i - 1]["document"], f"no answer {i}"] for i in range(160)]
    mined = {"query": [row["query"] for row in rows], "positive": [r["document"] for r in rows]}
    return [pair_set(160), TrainingSet("negatives", pa.table({**mined, "negatives": wrong}))]


def test_sets_that_share_queries_need_no_dev_set(base, tmp_path):
    version = train(base, sharing_sets(), name="toy", store=str(tmp_path), epochs=2, **FAST)
    how = version.manifest["split"]["dev"]
    n_dev = how["n_rows"]["dev"]
    [left_out] = how["left_out_of_others"]
    assert left_out["rows"] == n_dev
    assert 0 < left_out["negatives"] <= n_dev
    assert [each["n"] for each in version.manifest["data"]["sets"]] == [160 - n_dev] * 2
    assert _divided(sharing_sets(), None, 0, {})[2]["dev"]["left_out_of_others"] == [left_out]


def test_a_set_of_which_nothing_is_left_beside_the_dev_set_is_told(base):
    held = hold_out_of_first(sharing_sets(), seed=0)[1]
    with pytest.raises(InputError, match=r"all \d+ rows of set 2 .*Pass dev="):
        hold_out_of_first([pair_set(160), held], seed=0)


def test_the_prompts_of_the_first_set_are_saved_and_used_by_ft_embed(both):
    version, _, store = both
    assert version.manifest["prompts"] == {"query": "alpha ", "document": "bravo "}
    function = FineTunedEmbeddings.create(name="both@1", store=str(store))
    model = load_sentence_transformer(version.path, device="cpu")
    model.prompts = {}
    text = " ".join(WORDS[7:10])
    for prompt, found in (
        ("alpha ", function.compute_query_embeddings(text)),
        ("bravo ", function.compute_source_embeddings(text)),
    ):
        expected = model.encode([prompt + text])[0]
        assert np.abs(np.asarray(found[0]) - expected).max() < 0.02
        assert np.abs(np.asarray(found[0]) - model.encode([text])[0]).max() > 0.05


def test_prompts_count_in_training_and_are_no_part_of_the_base_figures(both, base, dev, tmp_path):
    plain = train(
        base,
        [pair_set(), scored_set(loss="angle")],
        dev=dev,
        name="both",
        store=str(tmp_path),
        epochs=2,
        **FAST,
    )
    ours, theirs = both[0].manifest["dev"]["history"], plain.manifest["dev"]["history"]
    assert ours["0"] == theirs["0"]
    assert ours["46"] != theirs["46"]
    assert plain.manifest["prompts"] == {}


def test_a_base_with_prompts_is_trained_with_them(base, dev, tmp_path):
    model = load_sentence_transformer(base, device="cpu")
    model.prompts = {"query": "alpha ", "document": "bravo "}
    prompted = ModelStore(tmp_path).save(model, name="prompted")
    version = train(
        "prompted@1", toy_pairs(), dev=dev, name="next", store=str(tmp_path), epochs=2, **FAST
    )
    assert version.manifest["prompts"] == prompted.manifest["prompts"] == model.prompts
    (only,) = version.manifest["data"]["sets"]
    assert (only["query_prompt"], only["document_prompt"]) == ("alpha ", "bravo ")


# --- pooling, Matryoshka -------------------------------------------------------------------


def test_another_pooling_is_trained_and_saved(base, dev, tmp_path):
    version = train(
        base,
        toy_pairs(),
        dev=dev,
        name="cls",
        store=str(tmp_path),
        epochs=6,
        pooling="cls",
        **FAST,
    )
    assert load_sentence_transformer(version.path, device="cpu")[1].pooling_mode == "cls"
    assert load_sentence_transformer(base, device="cpu")[1].pooling_mode == "mean"


def test_matryoshka_dims_are_recorded_and_the_full_length_is_among_them(base, dev, tmp_path):
    version = train(
        base,
        toy_pairs(),
        dev=dev,
        name="short",
        store=str(tmp_path),
        epochs=2,
        matryoshka_dims=[4, 8],
        **FAST,
    )
    assert version.manifest["matryoshka_dims"] == [16, 8, 4]
    function = FineTunedEmbeddings.create(name="short@1", store=str(tmp_path), dims=4)
    assert len(function.compute_query_embeddings("alpha")[0]) == 4


# --- events --------------------------------------------------------------------------------


def test_events_tell_the_whole_run(both):
    version, events, _ = both
    assert events[0] == {"event": "started", "step": 0, "steps": 46, "metric": "ndcg@10"}
    losses = [e for e in events if e["event"] == "loss"]
    assert [e["step"] for e in losses] == list(range(1, 47))
    assert losses[0]["learning_rate"] < max(e["learning_rate"] for e in losses) == 5e-3
    assert all(e["loss"] > 0 for e in losses)
    told = {e["step"]: e["value"] for e in events if e["event"] == "evaluation"}
    assert {str(step): value for step, value in told.items()} == version.manifest["dev"]["history"]
    evaluation = next(e for e in events if e["event"] == "evaluation")
    assert evaluation["dev"]["ndcg@10"]["mean"] == evaluation["value"]
    assert events[-1] == {"event": "saved", "ref": "both@1", "store": version.store}


def test_what_the_handler_raises_ends_the_run_and_leaves_its_checkpoint(base, dev, tmp_path):
    class Pruned(Exception):
        pass

    def prune(event):
        if event["event"] == "evaluation" and event["step"] == 6:
            raise Pruned

    arguments = {"dev": dev, "name": "toy", "store": str(tmp_path), **FAST}
    with pytest.raises(Pruned):
        train(base, toy_pairs(), on_event=prune, **arguments)
    (folder,) = (tmp_path / ".runs").iterdir()
    assert (folder / "checkpoint-3" / "sealed.json").exists()


# --- early stopping ------------------------------------------------------------------------


def test_a_run_without_further_gains_stops_and_keeps_the_best(base, dev, tmp_path, monkeypatch):
    arguments = {"dev": dev, "name": "toy", "store": str(tmp_path), "epochs": 40, **FAST}
    arguments |= {"early_stopping": 2, "eval_steps": 4}

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ModelStore, "save", disk_full)
        with pytest.raises(OSError, match="No space"):
            train(base, toy_pairs(), **arguments)
    steps = []  # nothing is trained again after a stop, even where steps are left
    version = train(base, toy_pairs(), progress=lambda done, _: steps.append(done), **arguments)
    assert steps == []
    training = version.manifest["training"]
    assert training["stopped_early"] is True
    assert training["steps"] < 400
    history = {int(step): value for step, value in version.manifest["dev"]["history"].items()}
    highest = max(history, key=lambda step: (history[step], -step))
    assert training["steps"] - highest == 2 * 4
    assert training["best_step"] >= highest  # see test_best_step
