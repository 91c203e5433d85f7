"""Where a store lies: what every place can do, and the local folder.

::

    <store>/<name>/<number>/manifest.json    seen by readers as soon as it stands there
                            rows.json        which rows it was trained on, if the save told
                            ranking.T.json   what was learned about searching table T with it
                            model/...        the sentence-transformers folder
                            deleted.json     instead of both, once the version was deleted
    <store>/.incoming-<uuid>/                a save that is not finished

A number is used once. A deleted version leaves ``deleted.json`` with its manifest in it, so that
``support@3`` in a table, a log or a lineage never comes to mean another model.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from lancedb_ft.errors import StoreError
from lancedb_ft.store.manifest import MANIFEST

__all__ = [
    "MODEL",
    "RANKING",
    "ROWS",
    "STALE_AFTER_S",
    "TOMBSTONE",
    "LocalPlace",
    "Place",
    "refusals",
    "writing",
]

MODEL = "model"
ROWS = "rows.json"
#: How the names of notes begin: the only files of a version that are written after its save.
RANKING = "ranking."
TOMBSTONE = "deleted.json"
#: An unfinished save older than this belongs to a process that is gone.
STALE_AFTER_S = 24 * 3600
_INCOMING = ".incoming-"

#: Called with the number just before the version is published: writes the manifest.
Seal = Callable[[int], None]


def refusals() -> tuple[type[Exception], ...]:
    """Return the errors that say that the system refuses to write.

    Of safetensors that is one of its own; where it is not loaded, it has written nothing.
    """
    loaded = sys.modules.get("safetensors")
    return (OSError,) if loaded is None else (OSError, getattr(loaded, "SafetensorError", OSError))


@contextmanager
def writing(what: str, uri: str) -> Iterator[None]:
    """Say in plain words what the system refuses while a store is written.

    Raises
    ------
    StoreError
        The system refused: no room, no permission, something in the way.
    """
    try:
        yield
    except refusals() as error:
        raise StoreError(
            f"{what} could not be written to the store {uri!r}: {error}. What was there is as it "
            "was. Mend the cause and run the same command again."
        ) from error


class Place(Protocol):
    """A folder or bucket with model versions in it."""

    uri: str

    def exists(self) -> bool:
        """Say whether anything was ever saved here."""
        ...

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        ...

    def numbers(self, name: str) -> list[int]:
        """Return every number in use, sorted: saved, being saved, or deleted."""
        ...

    def manifest(self, name: str, number: int) -> bytes | None:
        """Return the manifest of a version, or None where there is no version to be seen."""
        ...

    def tombstone(self, name: str, number: int) -> bytes | None:
        """Return what a deleted version left behind, or None."""
        ...

    def rows(self, name: str, number: int) -> bytes | None:
        """Return which rows a version was trained on, or None where that was not kept."""
        ...

    def note(self, name: str, number: int, file: str) -> bytes | None:
        """Return a note that stands beside a version, or None."""
        ...

    def put_note(self, name: str, number: int, file: str, data: bytes) -> None:
        """Put a note beside a version, in place of the one of that name."""
        ...

    def where(self, name: str, number: int, file: str = "") -> str:
        """Return the place of a version, for messages."""
        ...

    def folder(self, name: str, number: int, fingerprint: str) -> Path:
        """Return the local model folder; for an object store it may not have been fetched yet."""
        ...

    def fetch(self, name: str, number: int, fingerprint: str) -> Path:
        """Return the local model folder, after fetching it where need be."""
        ...

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give an empty local folder to build a version in; what is left of it is removed."""
        ...

    def publish(self, stage: Path, name: str, seal: Seal) -> int:
        """Make the version in ``stage`` visible under the next free number; return that."""
        ...

    def bury(self, name: str, number: int, tombstone: str) -> None:
        """Delete a version; its number stays taken."""
        ...


class LocalPlace:
    """A folder of this machine, or of one it mounts."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def exists(self) -> bool:
        """Say whether the folder is there."""
        return self.root.is_dir()

    def names(self) -> list[str]:
        """Return the names of all models, sorted."""
        entries = (e for e in self.root.iterdir() if not e.name.startswith("."))
        return sorted(e.name for e in entries if e.is_dir())

    def numbers(self, name: str) -> list[int]:
        """Return every number in use, sorted."""
        try:
            entries = list((self.root / name).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            return []
        return sorted(int(e.name) for e in entries if e.name.isdecimal())

    def _version(self, name: str, number: int) -> Path:
        return self.root / name / str(number)

    def where(self, name: str, number: int, file: str = "") -> str:
        """Return the path."""
        return str(self._version(name, number) / file)

    def manifest(self, name: str, number: int) -> bytes | None:
        """Read the manifest."""
        version = self._version(name, number)
        if (version / TOMBSTONE).exists():
            return None
        return _read(version / MANIFEST)

    def tombstone(self, name: str, number: int) -> bytes | None:
        """Read what a deleted version left behind."""
        return _read(self._version(name, number) / TOMBSTONE)

    def rows(self, name: str, number: int) -> bytes | None:
        """Read which rows it was trained on."""
        return _read(self._version(name, number) / ROWS)

    def note(self, name: str, number: int, file: str) -> bytes | None:
        """Read a note."""
        return _read(self._version(name, number) / file)

    def put_note(self, name: str, number: int, file: str, data: bytes) -> None:
        """Write a note; readers see the old one or the new one, whole."""
        version = self._version(name, number)
        writing = version / f".{file}-{uuid.uuid4().hex}"
        writing.write_bytes(data)
        _sync(writing)
        os.replace(writing, version / file)
        _sync(version)

    def folder(self, name: str, number: int, fingerprint: str) -> Path:
        """Return the model folder."""
        return self._version(name, number) / MODEL

    def fetch(self, name: str, number: int, fingerprint: str) -> Path:
        """Return the model folder: nothing needs fetching."""
        return self.folder(name, number, fingerprint)

    @contextmanager
    def staging(self) -> Iterator[Path]:
        """Give a hidden folder beside the versions: a rename moves it where it belongs."""
        self.root.mkdir(parents=True, exist_ok=True)
        self._sweep()
        stage = self.root / f"{_INCOMING}{uuid.uuid4().hex}"
        stage.mkdir()
        try:
            yield stage
        finally:
            shutil.rmtree(stage, ignore_errors=True)  # published: it is not there any more

    def _sweep(self) -> None:
        for left in self.root.glob(f"{_INCOMING}*"):
            try:
                old = time.time() - left.stat().st_mtime > STALE_AFTER_S
            except FileNotFoundError:
                continue  # another process published or swept it
            if old:
                shutil.rmtree(left, ignore_errors=True)

    def publish(self, stage: Path, name: str, seal: Seal) -> int:
        """Rename the finished folder to the next free number.

        A rename onto a folder that holds anything fails, so of two processes that want one number
        one gets it and the other goes on to the next.
        """
        home = self.root / name
        home.mkdir(exist_ok=True)
        _sync_tree(stage)
        number = max(self.numbers(name), default=0) + 1
        while True:
            seal(number)
            _sync_tree(stage, below=False)
            try:
                os.rename(stage, home / str(number))
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR, errno.EACCES):
                    raise
                if not (home / str(number)).exists():
                    raise
                number += 1
                continue
            _sync(home)
            _sync(self.root)
            return number

    def bury(self, name: str, number: int, tombstone: str) -> None:
        """Put ``deleted.json`` in place, which ends the version, then remove its files."""
        version = self._version(name, number)
        writing = version / f".{TOMBSTONE}-{uuid.uuid4().hex}"
        writing.write_text(tombstone, encoding="utf-8")
        _sync(writing)
        os.replace(writing, version / TOMBSTONE)
        _sync(version)
        for file in (version / MANIFEST, version / ROWS, *version.glob(f"{RANKING}*")):
            file.unlink(missing_ok=True)
        shutil.rmtree(version / MODEL, ignore_errors=True)


def _read(file: Path) -> bytes | None:
    try:
        return file.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None


def _sync(path: Path) -> None:
    """Have the disk hold a file or folder before the next step relies on it."""
    if os.name == "nt" and path.is_dir():
        return  # Windows cannot open a folder
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(root: Path, *, below: bool = True) -> None:
    for place, folders, files in os.walk(root, topdown=True):
        for name in files:
            _sync(Path(place) / name)
        if not below:
            folders.clear()
        _sync(Path(place))
