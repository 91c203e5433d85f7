"""A file or folder in the place of another: at once, or not at all."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["beside", "put", "refuse_losing_source", "remove", "tidy", "writable"]


@contextmanager
def writable(path: Path) -> Iterator[None]:
    """Say in plain words what the system refuses."""
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{str(path)!r} cannot be written: {error.strerror or error}. Give a path in a folder "
            "that can be written to and has room."
        ) from error


def refuse_losing_source(data: Pairs | TrainingSet, path: Path) -> None:
    """Refuse to replace what the data were read from: its other parts and columns would be lost.

    Raises
    ------
    InputError
        The path is the file that they were read from, or a folder that it lies in.
    """
    if not path.is_dir():
        _refuse_losing_file(data, path)
        return
    folder = path.resolve()
    for source in _sources(data, "file", "database"):
        if "://" not in source and Path(source).resolve().is_relative_to(folder):
            raise InputError(
                f"The data were read from {source!r}, which lies in the folder {str(path)!r} that "
                "is to be replaced. Write to another name, and remove the old folder yourself."
            )


def _refuse_losing_file(data: Pairs | TrainingSet, path: Path) -> None:
    for source in _sources(data, "file"):
        # Linked names are one file, too.
        if path.is_file() and Path(source).is_file() and os.path.samefile(source, path):
            raise InputError(
                f"The data were read from {str(path)!r}, which is to be replaced: parts, columns "
                "and rows of it that were not read would be lost. Write to another name."
            )


def _sources(data: Pairs | TrainingSet, *keys: str) -> list[str]:
    """Return where data were read from; of mined data, where their pairs were."""
    told = (data.source, data.source.get("pairs") or {})
    return [str(source[key]) for source in told for key in keys if source.get(key)]


def beside(path: Path, what: str) -> Path:
    """Return the hidden name that a file has while this process writes or replaces it."""
    return path.with_name(f".{what}-{os.getpid()}-{path.name}")


def tidy(path: Path) -> None:
    """Remove what killed processes left beside the path; put back what they had moved aside."""
    if not path.parent.is_dir():
        return
    named = re.compile(rf"\.(writing|replaced)-(\d+)-{re.escape(path.name)}")
    with writable(path):
        for left in sorted(path.parent.iterdir()):
            found = named.fullmatch(left.name)
            if found is None or _lives(int(found[2])):
                continue
            if found[1] == "replaced" and not path.exists():
                left.rename(path)
            else:
                remove(left)


def _lives(pid: int) -> bool:
    """Say whether another process has this number; in a container ours is often that of the last.

    Where signal 0 is not one that only asks, nobody is taken to be dead.
    """
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def put(partial: Path, path: Path) -> None:
    """Put what was written in its place; a folder cannot replace one that is not empty."""
    if not partial.is_dir() or not path.exists():
        os.replace(partial, path)
        return
    _refuse_other_folders(partial, path)
    aside = beside(path, "replaced")
    try:
        path.rename(aside)
        partial.rename(path)
    except BaseException:
        if aside.exists() and not path.exists():
            aside.rename(path)
        raise
    remove(aside)


def _refuse_other_folders(partial: Path, path: Path) -> None:
    """Refuse to replace a folder with more in it than a data set of this form."""
    written = {inside.name for inside in partial.iterdir()}
    others = [p.name for p in sorted(path.iterdir()) if p.is_dir() and p.name not in written]
    if others:
        raise InputError(
            f"The folder {str(path)!r} also holds the folders {', '.join(others[:5])}, which what "
            "is written has not: they would be lost. Give another name, or remove it yourself."
        )


def remove(path: Path) -> None:
    """Remove a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
