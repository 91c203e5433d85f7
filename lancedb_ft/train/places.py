"""Where a training keeps its checkpoints and its version, and whether it was run before."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lancedb_ft.errors import InputError, StoreNotFoundError
from lancedb_ft.store import ModelStore, default_store_uri
from lancedb_ft.store.reference import parse_reference
from lancedb_ft.store.remote import cache_folder
from lancedb_ft.store.resolve import STORE_VARIABLE
from lancedb_ft.types import ModelVersion

__all__ = ["check_name", "runs_folder", "store_uri", "trained_before"]

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
    parsed, number = parse_reference(name)
    if number is not None:
        raise InputError(f"name is {name!r}; the store counts the versions itself: {parsed!r}.")


def store_uri(store: str | None, source: Mapping[str, Any]) -> str:
    """Return the store that is named, or that of the database the data is from.

    Raises
    ------
    StoreNotFoundError
        Nothing names one.
    """
    if store:
        return store
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
