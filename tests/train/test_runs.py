"""The folder of a run: what a kill may leave, and whose checkpoints are gone on with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import InputError, TrainingError
from lancedb_ft.train.runs import Best, identity_hash, open_run
from tests.train.toy import toy_model

ROOT = Path(__file__).parents[2]
RUN = {"name": "toy", "training": {"seed": 0, "learning_rate": 5e-5}}


def write_checkpoint(run, step):
    folder = run.checkpoint_path(step)
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights" * step)
    (folder / "optimizer.pt").write_bytes(b"state")
    return folder


def test_only_a_sealed_checkpoint_counts_and_a_torn_one_goes(tmp_path):
    with open_run(tmp_path / "run", RUN) as run:
        assert run.last_checkpoint() is None
        write_checkpoint(run, 5)
        run.seal(5)
        write_checkpoint(run, 10)  # killed before it was sealed
        assert run.last_checkpoint() == 5
    with open_run(tmp_path / "run", RUN) as run:
        assert run.last_checkpoint() == 5
        assert not run.checkpoint_path(10).exists()


@pytest.mark.parametrize("damage", ["truncate", "remove", "seal"])
def test_a_sealed_checkpoint_that_lost_something_since_is_no_checkpoint(tmp_path, damage):
    with open_run(tmp_path / "run", RUN) as run:
        folder = write_checkpoint(run, 5)
        run.seal(5)
    if damage == "truncate":
        (folder / "model.safetensors").write_bytes(b"wei")
    elif damage == "remove":
        (folder / "optimizer.pt").unlink()
    else:
        (folder / "sealed.json").write_text('{"model.saf')
    with open_run(tmp_path / "run", RUN) as run:
        assert run.last_checkpoint() is None
        assert not folder.exists()


def test_sealing_removes_the_earlier_ones(tmp_path):
    with open_run(tmp_path / "run", RUN) as run:
        for step in (5, 10, 100):
            write_checkpoint(run, step)
            run.seal(step)
        assert [p.name for p in run.path.glob("checkpoint-*")] == ["checkpoint-100"]


def test_the_best_weights_and_their_figure_are_one_file(tmp_path):
    model = load_sentence_transformer(toy_model(tmp_path / "a"), device="cpu")
    other = load_sentence_transformer(toy_model(tmp_path / "b", seed=1), device="cpu")
    with open_run(tmp_path / "run", RUN) as run:
        assert run.best() is None
        run.keep_best(model, Best(3, 0.1 + 0.2))
        run.load_best(other)
    with open_run(tmp_path / "run", RUN) as run:
        assert run.best() == Best(3, 0.1 + 0.2)
    state = other.state_dict()
    assert all(state[key].equal(value) for key, value in model.state_dict().items())


@pytest.mark.parametrize("limit", [10, 4096])
def test_a_full_disk_is_told_in_words(tmp_path, limit):
    code = f"""
import resource, signal
from pathlib import Path
from lancedb_ft.encoder import load_sentence_transformer
from lancedb_ft.errors import StoreError
from lancedb_ft.train.distillation.layers import _save_optimizer
from lancedb_ft.train.runs import Best, open_run, save_weights
import torch
model = load_sentence_transformer({toy_model(tmp_path / "m")!r}, device="cpu")
with open_run(Path({str(tmp_path / "run")!r}), {RUN!r}) as run:
    folder = run.checkpoint_path(5)
    folder.mkdir()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
    optimizer = torch.optim.AdamW(model.parameters())
    model(model.preprocess(["a text"]))["sentence_embedding"].sum().backward()
    optimizer.step()
    figures = {{n: {{"ndcg@10": {{"mean": 0.5}}}} for n in range(1000)}}
    for write in (
        lambda: run.keep_best(model, Best(5, 0.5)),
        lambda: save_weights(model, folder / "model.safetensors"),
        lambda: run.write_figures(figures),
        lambda: _save_optimizer(optimizer, folder),
    ):
        try:
            write()
        except StoreError as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    told = done.stdout.splitlines()
    assert len(told) == 4, done.stderr
    for line in told:
        assert "could not be written" in line
        assert "it goes on from its last checkpoint" in line
    with open_run(tmp_path / "run", RUN) as run:  # nothing torn is gone on with
        assert (run.last_checkpoint(), run.best(), run.read_figures()) == (None, None, {})


def test_weights_of_another_shape_are_never_loaded_in_part(tmp_path):
    model = load_sentence_transformer(toy_model(tmp_path / "a"), device="cpu")
    smaller = load_sentence_transformer(toy_model(tmp_path / "b", dims=8), device="cpu")
    with open_run(tmp_path / "run", RUN) as run:
        run.keep_best(smaller, Best(1, 0.5))
        with pytest.raises(RuntimeError, match="size mismatch"):
            run.load_best(model)


def test_dev_figures_are_read_back_by_step(tmp_path):
    figures = {0: {"ndcg@10": {"mean": 0.25, "ci95": [0.1, 0.4]}}, 12: {"ndcg@10": {"mean": 0.5}}}
    with open_run(tmp_path / "run", RUN) as run:
        run.write_figures(figures)
    with open_run(tmp_path / "run", RUN) as run:
        assert run.read_figures() == figures


def test_a_folder_with_other_files_is_refused_and_left_as_it_is(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with (
        pytest.raises(InputError, match=r"removed when the training is over"),
        open_run(tmp_path, RUN),
    ):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_the_folder_of_another_run_is_refused_and_the_difference_named(tmp_path):
    with open_run(tmp_path / "run", RUN):
        pass
    other = {**RUN, "training": {**RUN["training"], "seed": 1}}
    with (
        pytest.raises(InputError, match=r"different are: training\."),
        open_run(tmp_path / "run", other),
    ):
        pass
    assert identity_hash(other) != identity_hash(RUN) == identity_hash(json.loads(json.dumps(RUN)))


@pytest.mark.skipif(os.name == "nt", reason="POSIX modes")
def test_checkpoints_that_others_can_write_are_not_loaded(tmp_path):
    with open_run(tmp_path / "run", RUN) as run:
        assert run.path.stat().st_mode & 0o077 == 0
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(TrainingError, match="another user"), open_run(tmp_path / "run", RUN):
        pass


def test_a_run_is_trained_by_one_process_at_a_time(tmp_path):
    with (
        open_run(tmp_path / "run", RUN),
        pytest.raises(TrainingError, match=f"Process {os.getpid()}"),
        open_run(tmp_path / "run", RUN),
    ):
        pass
    with open_run(tmp_path / "run", RUN):
        pass
