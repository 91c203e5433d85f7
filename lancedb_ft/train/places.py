"""Where a training keeps its checkpoints and its version, and whether it was run before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lancedb_ft.errors import InputError, StoreError, StoreNotFoundError
from lancedb_ft.store import ModelStore, default_store_uri
from lancedb_ft.store.reference import parse_reference
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.store.resolve import STORE_VARIABLE
from lancedb_ft.types import ModelVersion

__all__ = [
    "check_name",
    "check_store",
    "make_folder",
    "runs_folder",
    "store_uri",
    "trained_before",
]

_RUNS = ".runs"


def trained_before(models: ModelStore, name: str, run_id: str) -> ModelVersion | None:
    """Return the version that this very run saved: trained again, it would be the same model.

    So a loop that was killed after its training goes on behind it.
    """
    try:
        versions = models.list(name)
    except StoreNotFoundError:
        return None
    return next((v for v in reversed(versions) if v.manifest.get("run") == run_id), None)


def check_name(name: str) -> None:
    """Refuse the name of a version where that of a model is meant."""
    if not isinstance(name, str):
        raise InputError(
            f"name is {name!r}; it must be the name of a model in the store, such as 'support'."
        )
    parsed, number = parse_reference(name)
    if number is not None:
        raise InputError(f"name is {name!r}; the store counts the versions itself: {parsed!r}.")


def store_uri(store: str | None, source: Mapping[str, Any]) -> str:
    """Return the store that is named, or that of the database the data is from.

    Raises
    ------
    StoreNotFoundError
        Nothing names one.
    StoreError
        Nothing can be saved there, see `check_store`.
    """
    found = _named_store(store, source)
    check_store(found)
    return found


def check_store(uri: str) -> None:
    """Refuse a store in which nothing can be saved, before the work and not after it.

    Nothing is written, so a call that ends early leaves no folder. An object store is asked when
    the version is saved.

    Raises
    ------
    StoreError
        It is a file, or this user may not write there.
    """
    if "://" in uri and not uri.startswith("file://"):
        return
    path = Path(ModelStore(uri).uri)
    there = next((each for each in (path, *path.parents) if os.path.lexists(each)), path)
    if there.exists() and not there.is_dir():
        raise StoreError(
            f"The store {str(path)!r} must be a folder, and {str(there)!r} is a file. Name another."
        )
    if not os.access(there, os.W_OK | os.X_OK):
        raise StoreError(
            f"Nothing can be saved in the store {str(path)!r}: {str(there)!r} cannot be written to "
            "by this user. Name another store, or have the folder opened for writing."
        )


def make_folder(path: Path) -> None:
    """Make a private folder to work in, with those above it.

    Raises
    ------
    StoreError
        The system refuses it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise StoreError(
            f"The folder {str(path)!r} cannot be made ({error.strerror}). Name another store or "
            "folder, or have the one above it opened for writing."
        ) from error


def _named_store(store: str | None, source: Mapping[str, Any]) -> str:
    if store is not None and not isinstance(store, (str, Path)):
        raise InputError(f"store is a {type(store).__name__}; it must be a folder or a URI.")
    if store:
        return str(store)
    if database := source.get("database"):
        return default_store_uri(str(database))
    from lancedb.embeddings import get_registry

    try:
        return str(get_registry().get_var(STORE_VARIABLE))
    except KeyError:
        pass
    if named := os.environ.get("LANCEDB_FT_STORE"):
        return named
    raise StoreNotFoundError(None, reference="what the training saves")


def runs_folder(models: ModelStore) -> Path:
    """Return where the checkpoints of running trainings are: in the store, if that is local."""
    return cache_folder() / "runs" if "://" in models.uri else Path(models.uri) / _RUNS
