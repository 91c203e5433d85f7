"""Writing where something stands already: nothing but the same is replaced, and that at once."""

import os
import subprocess
import sys

import pytest

from lancedb_ft.data import FORMATS, read_training_file, write_training_file
from lancedb_ft.data.training import replacing
from lancedb_ft.data.training.files import check_target
from lancedb_ft.errors import InputError
from tests.data.training_data import small

FOLDERS = ("hf", "beir", "trec")


def names_in(folder):
    return sorted(found.name for found in folder.iterdir())


@pytest.fixture
def dead():
    """Return the number of a process that no longer lives."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_of_other_things_is_never_replaced(name, tmp_path):
    kept = tmp_path / "p" / "sub" / "keep.txt"
    kept.parent.mkdir(parents=True)
    kept.write_text("hi")
    kind = "pairs" if "pairs" in FORMATS[name].kinds else "ranking"
    told = "is no data set" if name in FOLDERS else "which never replaces a folder"
    for ask in (
        lambda p: write_training_file(small(kind), p, format=name, overwrite=True),
        lambda p: check_target(p, format=name, overwrite=True),
    ):
        with pytest.raises(InputError, match=told):
            ask(tmp_path / "p")
    assert kept.read_text() == "hi"
    assert names_in(tmp_path) == ["p"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_of_the_same_format_is_replaced(name, tmp_path):
    path = tmp_path / "p"
    path.mkdir()
    write_training_file(small("pairs"), path, format=name, overwrite=True)  # it was empty
    few = small("pairs").take([0])
    with pytest.raises(InputError, match="exists"):
        write_training_file(few, path, format=name)
    write_training_file(few, path, format=name, overwrite=True)
    assert len(read_training_file(path, kind="pairs")) == 1
    assert names_in(tmp_path) == ["p"]
    (path / "mine").mkdir()
    with pytest.raises(InputError, match="also holds the folders mine"):
        write_training_file(few, path, format=name, overwrite=True)
    assert names_in(tmp_path) == ["p"]
    # A file is no data set of that format either.
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match="is a file, and the format"):
        write_training_file(few, tmp_path / "file", format=name, overwrite=True)
    assert (tmp_path / "file").read_text() == "x"


def test_a_folder_that_the_data_came_from_is_kept(tmp_path):
    write_training_file(small("pairs"), tmp_path / "p", format="hf")
    write_training_file(small("pairs"), tmp_path / "p" / "in.jsonl")
    for source in (tmp_path / "p", tmp_path / "p" / "in.jsonl"):
        made = read_training_file(source)
        with pytest.raises(InputError, match="which lies in the folder"):
            write_training_file(made, tmp_path / "p", format="hf", overwrite=True)
    assert len(read_training_file(tmp_path / "p" / "in.jsonl")) == 3


def test_a_file_that_the_data_came_from_is_kept(tmp_path):
    path = tmp_path / "in.jsonl"
    write_training_file(small("pairs"), path)
    before = path.read_bytes()
    (tmp_path / "link.jsonl").symlink_to(path)
    made = read_training_file(path).take([0])
    for target in (path, tmp_path / "link.jsonl"):
        with pytest.raises(InputError, match=r"were read from .* Write to another name"):
            write_training_file(made, target, overwrite=True)
    assert path.read_bytes() == before
    write_training_file(small("pairs").take([0]), path, overwrite=True)  # of another source
    assert len(read_training_file(path)) == 1


@pytest.mark.parametrize("name", ["jsonl", *FOLDERS])
@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device")])
def test_what_stood_there_survives_what_goes_wrong(name, error, tmp_path, monkeypatch):
    path = tmp_path / "p"
    write_training_file(small("pairs"), path, format=name)
    few = small("pairs").take([0])

    def failing(*_):
        raise error

    def failing_second(self, target):
        if ".writing-" in self.name:
            raise error
        return os.rename(self, target)

    with monkeypatch.context() as patched:
        if name == "jsonl":
            patched.setattr(replacing.os, "replace", failing)
        else:
            patched.setattr(type(path), "rename", failing_second)
        with pytest.raises((KeyboardInterrupt, InputError)) as caught:
            write_training_file(few, path, format=name, overwrite=True)
    if isinstance(error, OSError):
        assert "cannot be written: No space left on device" in str(caught.value)
    assert len(read_training_file(path, kind="pairs")) == 3
    assert names_in(tmp_path) == ["p"]


def test_what_killed_processes_left_is_cleaned_up(tmp_path, dead):
    path = tmp_path / "x.jsonl"
    ours = f".writing-{os.getppid()}-x.jsonl"
    others = [ours, f".writing-{dead}-y.jsonl", f".writing-{dead}-3-x.jsonl", "x.jsonl.old"]
    for name in (*others, f".writing-{dead}-x.jsonl", f".writing-{os.getpid()}-x.jsonl"):
        (tmp_path / name).write_text("half")
    (tmp_path / f".replaced-{dead}-x.jsonl").mkdir()
    path.write_text("old")
    write_training_file(small("pairs"), path, overwrite=True)
    assert names_in(tmp_path) == sorted([*others, "x.jsonl"])


def test_a_folder_that_a_killed_process_moved_aside_is_put_back(tmp_path, dead):
    path = tmp_path / "p"
    write_training_file(small("pairs"), path, format="hf")
    path.rename(tmp_path / f".replaced-{dead}-p")
    with pytest.raises(InputError, match="exists"):
        write_training_file(small("pairs").take([0]), path, format="hf")
    assert len(read_training_file(path)) == 3
    assert names_in(tmp_path) == ["p"]


def test_a_path_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "afile").write_text("x")
    for ask in (lambda p: write_training_file(small("pairs"), p), check_target):
        with pytest.raises(InputError, match=r"'.*afile' is a file, not a folder"):
            ask(tmp_path / "afile" / "deeper" / "out.jsonl")
        if sys.platform != "linux":
            continue
        with pytest.raises(InputError, match=r"'/proc/out.jsonl' cannot be written"):
            ask("/proc/out.jsonl")
    for name in (".", ".."):
        with pytest.raises(InputError, match="names no file or folder"):
            check_target(name, format="hf", overwrite=True)
    check_target(tmp_path / "new" / "folder" / "x.jsonl")
    assert names_in(tmp_path) == ["afile"]


def test_rows_that_would_not_be_read_back_are_not_written(tmp_path, db):
    import pyarrow as pa

    from lancedb_ft.data import write_training_table
    from lancedb_ft.training_sets import TrainingSet

    rows = {"query": ["a", "b"], "positive": ["c", "d"], "negatives": [[], ["x"]]}
    made = TrainingSet("negatives", pa.table(rows))
    for write in (
        lambda: write_training_file(made, tmp_path / "x.jsonl"),
        lambda: write_training_table(made, db, "t"),
    ):
        with pytest.raises(InputError, match="1 of 2 rows have an empty list of negatives"):
            write()
    assert "x.jsonl" not in names_in(tmp_path)
