"""A table and a tiny model, for all adapters."""

import os

import lancedb
import pytest
from lancedb.embeddings import get_registry
from lancedb.index import FTS
from lancedb.pydantic import LanceModel, Vector

import lancedb_ft as ft
from tests.search.words import DIMS
from tests.tiny import tiny_model

# Haystack would send usage statistics; llama-index would look for nltk's data.
os.environ.setdefault("HAYSTACK_TELEMETRY_ENABLED", "False")

ROWS = [
    {"id": "d0", "text": "how do I cancel my order", "lang": "en", "year": 2024},
    {"id": "d1", "text": "get the money back", "lang": "en", "year": 2023},
    {"id": "d2", "text": "choose a new password", "lang": "en", "year": 2022},
    {"id": "d3", "text": "die Bestellung: order it's open", "lang": "de", "year": 2024},
    {"id": "d4", "text": "the quick brown fox", "lang": None, "year": 2021},
]


@pytest.fixture(scope="session")
def kb(tmp_path_factory):
    """The table ``docs``, whose vectors need no model: the same text is at distance 0."""
    function = get_registry().get("search-words").create(sign=1, max_retries=0)

    class Doc(LanceModel):
        id: str
        text: str = function.SourceField()
        lang: str | None
        year: int
        vector: Vector(DIMS) = function.VectorField()

    table = lancedb.connect(tmp_path_factory.mktemp("kb")).create_table("docs", schema=Doc)
    table.add(ROWS)
    table.create_index("text", config=FTS())
    return table


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    """A model store with ``tiny@1``."""
    folder = tmp_path_factory.mktemp("models")
    store = ft.ModelStore(folder / "store")
    store.save(tiny_model(folder / "tiny", dims=16), name="tiny")
    return store.uri


@pytest.fixture(scope="session")
def encoder(store):
    return ft.get_encoder("tiny@1", store=store)
