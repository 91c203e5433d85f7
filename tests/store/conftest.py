"""A tiny model made once, and copies of it to spoil."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny import tiny_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A tiny model as sentence-transformers 6 saves it. Never written to."""
    return Path(tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def folder(tiny, tmp_path):
    """A copy of it, to spoil."""
    return Path(shutil.copytree(tiny, tmp_path / "copy"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LANCEDB_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LANCEDB_FT_STORE", raising=False)


def change(folder, name, **keys):
    """Set keys of a JSON file of a folder; a list is changed in its last element."""
    file = Path(folder) / name
    document = json.loads(file.read_text()) if file.exists() else {}
    target = document[-1] if isinstance(document, list) else document
    target.update(keys)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(document))
