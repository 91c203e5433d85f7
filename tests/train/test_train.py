"""train() with a tiny model: what is saved, what is refused, and that it repeats itself."""

import contextlib
import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import (
    InputError,
    LeakError,
    MissingExtraError,
    ModelNotFoundError,
    NoGainError,
    StoreNotFoundError,
    TrainingError,
)
from lancedb_ft.evaluate import evaluate, exact_retriever
from lancedb_ft.store import ModelStore, resolve_model
from lancedb_ft.train import train
from lancedb_ft.train.compute import Compute
from lancedb_ft.train.course import Course
from lancedb_ft.train.devset import make_dev_set
from lancedb_ft.train.runs import open_run
from lancedb_ft.types import Pairs
from tests.train.toy import FAST, toy_model, toy_pairs

course_module = import_module("lancedb_ft.train.course")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def dev():
    return toy_pairs(30, seed=1, prefix="dev")


@pytest.fixture(scope="module")
def trained(base, dev, tmp_path_factory):
    """One ordinary run: the version, the steps told, and the store."""
    store = tmp_path_factory.mktemp("store")
    steps = []
    version = train(
        base,
        toy_pairs(database="ignored, since a store is named"),
        dev=dev,
        name="toy",
        store=str(store),
        epochs=2,
        split_info={"method": "by hand"},
        progress=lambda done, total: steps.append((done, total)),
        **FAST,
    )
    return version, steps, store


def runs_of(store):
    folder = Path(store) / ".runs"
    return list(folder.iterdir()) if folder.exists() else []


# --- a run that gains ----------------------------------------------------------------------


def test_the_saved_model_is_the_best_step_and_better_on_dev(trained, base, dev):
    version, _, store = trained
    assert version.ref == "toy@1"
    assert [v.ref for v in ModelStore(store).list()] == ["toy@1"]
    history = {int(s): v for s, v in version.manifest["dev"]["history"].items()}
    assert max(history.values()) > history[0]
    best = version.manifest["training"]["best_step"]
    assert best >= max(history, key=history.get)  # see test_best_step
    assert max(history.values()) - history[best] < 0.03
    # What the manifest claims, measured again from the files.
    devset = make_dev_set(dev, toy_pairs(), seed=0)
    for path, told in ((base, "base"), (version.path, "tuned")):
        encoder = load_encoder(path)
        found = evaluate(exact_retriever(encoder, devset.corpus), dev).metrics["ndcg@10"].mean
        claimed = version.manifest["metrics"]["dev"][told]["ndcg@10"]["mean"]
        assert found == pytest.approx(claimed, abs=0.03)


def load_encoder(path):
    from lancedb_ft.encoder import Encoder

    return Encoder.of(load_sentence_transformer(path, device="cpu"))


def test_the_manifest_says_what_is_needed_to_do_it_again(trained, base):
    manifest = trained[0].manifest
    found = resolve_model(base)
    assert manifest["base"] == {"ref": found.ref, "fingerprint": found.fingerprint}
    assert manifest["parent"] is None
    assert manifest["data"]["fingerprint"] == toy_pairs().fingerprint
    assert manifest["data"]["n_pairs"] == 160
    assert manifest["split"] == {"method": "by hand"}
    assert manifest["seed"] == 0
    expected = {"loss": "mnrl", "epochs": 2, "batch_size": 16, "learning_rate": 5e-3}
    expected |= {"warmup": 0.1, "max_tokens": 128, "metric": "ndcg@10", "steps": 20}
    expected |= {"torch_threads": torch.get_num_threads(), "device": "cpu"}
    assert expected.items() <= manifest["training"].items()
    assert manifest["packages"]["sentence-transformers"].startswith("6.")
    dev = manifest["metrics"]["dev"]
    assert dev["n"] == 30
    for which in ("base", "tuned", "final"):
        low, high = dev[which]["ndcg@10"]["ci95"]
        assert 0 <= low <= dev[which]["ndcg@10"]["mean"] <= high <= 1
    json.dumps(dict(manifest), allow_nan=False)


def test_progress_counts_steps_to_the_end_and_evaluations_come_four_times_an_epoch(trained):
    version, steps, _ = trained
    assert steps == [(n, 20) for n in range(21)]
    assert sorted(map(int, version.manifest["dev"]["history"])) == [0, 3, 6, 9, 12, 15, 18, 20]


def test_no_run_folder_and_no_training_text_is_left(trained):
    version, _, store = trained
    assert runs_of(store) == []
    texts = [t.encode() for t in toy_pairs().table["query"].to_pylist()[:20]]
    for file in Path(store).rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert not any(text in content for text in texts), file
    assert version.path.startswith(str(store))


def test_training_keeps_the_models_own_token_limit(trained, base, dev, tmp_path):
    own = load_sentence_transformer(base, device="cpu").max_seq_length
    version = train(
        base,
        toy_pairs(48),
        dev=dev,
        name="short",
        store=str(tmp_path),
        max_tokens=16,
        eval_steps=100,
        **{**FAST, "learning_rate": 2e-2},
    )
    assert load_sentence_transformer(version.path, device="cpu").max_seq_length == own == 64
    # Nor does the tokenizer remember to what it was cut and padded in training.
    saved, before = (
        json.loads((Path(path) / "tokenizer.json").read_text()) for path in (version.path, base)
    )
    assert saved == before


def test_a_version_trained_from_a_version_names_its_parent(trained, dev):
    version, _, store = trained
    second = train(
        "toy@1",
        toy_pairs(96, seed=2, prefix="more"),
        dev=dev,
        name="toy",
        store=str(store),
        epochs=2,
        **FAST,
    )
    assert second.ref == "toy@2"
    assert second.manifest["parent"] == "toy@1"
    assert second.manifest["base"]["fingerprint"] == version.fingerprint
    steps = [step["ref"] for step in ModelStore(store).lineage("toy@2")]
    assert steps[:2] == ["toy@2", "toy@1"]


# --- the same again ------------------------------------------------------------------------


def test_the_same_seed_gives_the_same_model_and_another_seed_another(trained, base, dev, tmp_path):
    def again(seed):
        return train(
            base, toy_pairs(), dev=dev, name="toy", store=str(tmp_path), epochs=2, seed=seed, **FAST
        )

    state = torch.random.get_rng_state()
    assert again(0).fingerprint == trained[0].fingerprint
    assert torch.equal(torch.random.get_rng_state(), state)
    assert again(1).fingerprint != trained[0].fingerprint


def test_an_interrupted_run_goes_on_from_its_checkpoint_to_the_same_model(
    trained, base, dev, tmp_path
):
    def run(progress):
        return train(
            base,
            toy_pairs(),
            dev=dev,
            name="toy",
            store=str(tmp_path),
            epochs=2,
            progress=progress,
            **FAST,
        )

    def interrupt(done, total):
        if done == 11:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(interrupt)
    (folder,) = runs_of(tmp_path)
    assert [p.name for p in folder.glob("checkpoint-*")] == ["checkpoint-9"]
    assert_no_training_text(folder)
    steps = []
    version = run(lambda done, total: steps.append(done))
    assert steps == list(range(9, 21))
    assert version.fingerprint == trained[0].fingerprint
    told, expected = version.manifest["dev"], trained[0].manifest["dev"]
    assert told["history"] == expected["history"]
    assert runs_of(tmp_path) == []


def assert_no_training_text(folder):
    texts = [t.encode() for t in toy_pairs().table["document"].to_pylist()]
    for file in folder.rglob("*"):
        if file.is_file():
            assert not any(text in file.read_bytes() for text in texts), file


@pytest.mark.slow  # ten seconds of clock
def test_checkpoints_also_come_by_the_clock(trained, base, dev, tmp_path, monkeypatch):
    monkeypatch.setattr(course_module, "CHECKPOINT_EVERY_S", 0.0)

    def interrupt(done, total):
        if done == 11:
            raise KeyboardInterrupt

    arguments = {"dev": dev, "name": "toy", "store": str(tmp_path), "epochs": 2, **FAST}
    with pytest.raises(KeyboardInterrupt):
        train(base, toy_pairs(), progress=interrupt, **arguments)
    steps = []
    version = train(base, toy_pairs(), progress=lambda done, total: steps.append(done), **arguments)
    assert steps[0] == 10
    assert version.fingerprint == trained[0].fingerprint


def test_a_save_that_failed_is_made_up_for_without_training_again(
    trained, base, dev, tmp_path, monkeypatch
):
    arguments = {"dev": dev, "name": "toy", "store": str(tmp_path), "epochs": 2, **FAST}

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(ModelStore, "save", disk_full)
        with pytest.raises(OSError, match="No space"):
            train(base, toy_pairs(), **arguments)
    steps = []
    version = train(base, toy_pairs(), progress=lambda done, total: steps.append(done), **arguments)
    assert steps == [20]
    assert version.fingerprint == trained[0].fingerprint


def test_a_run_without_the_base_figures_begins_anew(trained, base, dev, tmp_path):
    arguments = {"dev": dev, "name": "toy", "store": str(tmp_path), "epochs": 2, **FAST}

    def interrupt(done, total):
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(base, toy_pairs(), progress=interrupt, **arguments)
    (folder,) = runs_of(tmp_path)
    (folder / "dev.json").write_text('{"0": {"nd')
    steps = []
    version = train(base, toy_pairs(), progress=lambda done, total: steps.append(done), **arguments)
    assert steps[0] == 0
    told, expected = version.manifest["dev"], trained[0].manifest["dev"]
    assert told["history"] == expected["history"]


def test_run_dir_is_where_it_was_asked_to_be(base, dev, tmp_path):
    def stop(done, total):
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(
            base,
            toy_pairs(),
            dev=dev,
            name="toy",
            store=str(tmp_path / "store"),
            run_dir=tmp_path / "here",
            progress=stop,
            **FAST,
        )
    assert (tmp_path / "here" / "checkpoint-6" / "sealed.json").exists()
    assert runs_of(tmp_path / "store") == []
    with pytest.raises(InputError, match="of another run; different are: dev, training"):
        train(
            base,
            toy_pairs(),
            dev=dev,
            name="toy",
            store=str(tmp_path / "store"),
            run_dir=tmp_path / "here",
            seed=5,
            **FAST,
        )


# --- pairs of other shapes -----------------------------------------------------------------


def test_without_a_dev_set_a_tenth_is_held_out_and_recorded(base, tmp_path):
    version = train(base, toy_pairs(200), name="toy", store=str(tmp_path), epochs=2, **FAST)
    assert version.manifest["split"]["dev"]["held_out_of_train"] is True
    assert version.manifest["data"]["n_pairs"] == 180
    assert version.manifest["metrics"]["dev"]["n"] == 20


def test_triplets_and_a_batch_larger_than_the_data(base, dev, tmp_path):
    import pyarrow as pa

    table = toy_pairs(40).table
    documents = table["document"].to_pylist()
    triplets = Pairs(table.append_column("negative", pa.array(documents[1:] + documents[:1])))
    settings = {**FAST, "batch_size": 500, "learning_rate": 2e-2}
    version = train(base, triplets, dev=dev, name="toy", store=str(tmp_path), epochs=8, **settings)
    assert version.manifest["data"]["has_negatives"] is True
    assert version.manifest["training"]["batch_size_used"] == 40
    assert version.manifest["training"]["steps"] == 8


def test_questions_with_few_answers_are_all_trained_on(base, dev, tmp_path):
    """64 questions with 8 answers fill batches of 8: 8 steps, not one."""
    words = toy_pairs(8).table["document"].to_pylist()
    faq = Pairs.of(
        [(f"q{i}", f"{words[i % 8]} q {i}", f"d{i % 8}", words[i % 8]) for i in range(64)]
    )
    steps = []
    with contextlib.suppress(NoGainError):  # whether this helps on dev is not the question here
        train(
            base,
            faq,
            dev=dev,
            name="toy",
            store=str(tmp_path),
            progress=lambda done, total: steps.append(total),
            **{**FAST, "batch_size": 64},
        )
    assert set(steps) == {8}


# --- refusals ------------------------------------------------------------------------------


def test_no_gain_saves_nothing_and_tells_the_figures(base, dev, tmp_path):
    with pytest.raises(NoGainError) as caught:
        train(
            base,
            toy_pairs(48),
            dev=dev,
            name="toy",
            store=str(tmp_path),
            **{**FAST, "learning_rate": 1e-12},
        )
    error = caught.value
    assert (error.metric, error.n_queries, error.exit_code) == ("ndcg@10", 30, 3)
    assert error.best <= error.base
    assert 0 < error.base < 1
    assert [p.name for p in tmp_path.iterdir()] == [".runs"]
    assert runs_of(tmp_path) == []


def test_dev_pairs_that_are_trained_on_are_refused(base, tmp_path):
    with pytest.raises(LeakError, match="drop_leaks"):
        train(base, toy_pairs(), dev=toy_pairs(10), name="toy", store=str(tmp_path), **FAST)


@pytest.mark.parametrize(
    ("changes", "error", "told"),
    [
        ({"loss": "hinge"}, InputError, "There is no loss 'hinge'"),
        ({"loss": "cosent"}, InputError, "Losses that fit it: mnrl, cached_mnrl, gist"),
        ({"guide": "all-MiniLM-L6-v2"}, InputError, "asks no guide"),
        ({"report_to": ("blackboard",)}, InputError, "'blackboard'; the trainer knows .*wandb"),
        ({"matryoshka_dims": [8, 17]}, InputError, "matryoshka_dims has 17"),
        ({"metric": "spearman"}, InputError, "spearman"),
        ({"batch_size": 1}, InputError, "batch_size is 1"),
        ({"name": "toy@3"}, InputError, "the store counts the versions itself"),
        ({"name": "../toy"}, InputError, "not a model name"),
        ({"base": "nobody@1"}, ModelNotFoundError, "nobody@1"),
        ({"device": "abacus"}, InputError, "abacus"),
        ({"pairs": Pairs.of([])}, InputError, "no pairs"),
        ({"dev": Pairs.of([])}, InputError, "dev set is empty"),
        ({"pairs": toy_pairs(5), "dev": None, "batch_size": 1}, InputError, "batch_size"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_any_work(
    changes, error, told, base, dev, tmp_path
):
    (tmp_path / "store").mkdir()
    arguments = {"base": base, "pairs": toy_pairs(20), "dev": dev, "name": "toy"}
    arguments |= {"store": str(tmp_path / "store"), **FAST, **changes}
    with pytest.raises(error, match=told):
        train(arguments.pop("base"), arguments.pop("pairs"), **arguments)
    assert list((tmp_path / "store").iterdir()) == []


def test_the_store_follows_from_the_database_of_the_pairs(base, dev, db, monkeypatch):
    version = train(
        base, toy_pairs(96, database=str(db.uri)), dev=dev, name="toy", epochs=2, **FAST
    )
    assert Path(version.store) == Path(db.uri) / "ft_models"
    monkeypatch.delenv("LANCEDB_FT_STORE", raising=False)
    with pytest.raises(StoreNotFoundError, match="LANCEDB_FT_STORE"):
        train(base, toy_pairs(20), dev=dev, name="toy", **FAST)


def test_a_missing_package_names_the_extra(base, dev, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r'pip install "lancedb-ft\[train\]"'):
        train(base, toy_pairs(20), dev=dev, name="toy", store=str(tmp_path), **FAST)


def test_a_model_that_diverged_is_told_as_such(base, dev, tmp_path):
    model = load_sentence_transformer(base, device="cpu")
    devset = make_dev_set(dev, toy_pairs(20), seed=0)
    compute = Compute("cpu", "float32", None)
    with open_run(tmp_path / "run", {"name": "toy"}) as run:
        course = Course(model, devset, metric="ndcg@10", interval=5, run=run, compute=compute)
        course.begin(0, 10)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.fill_(float("nan"))
        assert course.after_step(4, 10) is False
        with pytest.raises(TrainingError, match="lower learning rate"):
            course.after_step(5, 10)
