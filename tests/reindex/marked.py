"""Tables whose vectors real tiny models made, and what a test asks of them."""

import lance
import lancedb
import numpy as np
import pyarrow as pa
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

import lancedb_ft as ft
from lancedb_ft.generation import read_state
from tests.tiny import tiny_model

DIMS = 16
STABLE = {"new_table_enable_stable_row_ids": "true"}


def make_models(home):
    """tiny@1, tiny@2, tiny@3: three random models of the same shape."""
    store = ft.ModelStore(home / "store")
    for seed in (1, 2, 3):
        store.save(tiny_model(home / f"m{seed}", seed=seed), name="tiny", manifest={})
    return store


def texts(start, stop, tag="doc"):
    return [f"{tag} number {i} how do I cancel my order {i * 7 % 13}" for i in range(start, stop)]


def rows(start, stop, tag="doc"):
    return pa.table({"id": [str(i) for i in range(start, stop)], "text": texts(start, stop, tag)})


def new_table(db, store, n_rows=120, *, stable=True, model="tiny@1", name="docs"):
    """A table that plain LanceDB filled with our function."""
    function = get_registry().get("ft-embed").create(name=model, store=store.uri)
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    table = db.create_table(
        name,
        schema=rows(0, 1).schema.append(pa.field("vector", pa.list_(pa.float32(), DIMS))),
        embedding_functions=[config],
        storage_options=STABLE if stable else None,
    )
    table.add(rows(0, n_rows))
    return table


def reindexed(db, store, n_rows=120, *, stable=True):
    """The same, searched with tiny@2 and with tiny@1 kept; both with marks if asked twice."""
    table = new_table(db, store, n_rows, stable=stable)
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    return reopened(table)


def reopened(table):
    return lancedb.connect(table._conn.uri).open_table(table.name)


def state(table):
    return read_state(lance.dataset(table.uri).schema, table=table.name)


def matrix(vectors, dims=DIMS):
    vectors = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
    storage = getattr(vectors, "storage", vectors)
    return storage.flatten().to_numpy().reshape(-1, dims)


def encoded(store, ref, given):
    return matrix(ft.get_encoder(ref, store=store.uri).encode(given))


def assert_all_of(table, store, column, ref):
    """Every row's vector in that column is what that model makes of its present text."""
    found = lance.dataset(table.uri).to_table(columns=["id", "text", column])
    assert found[column].null_count == 0
    made = encoded(store, ref, found["text"].to_pylist())
    stored = matrix(found[column])
    cosine = (made * stored).sum(1) / np.linalg.norm(stored, axis=1) / np.linalg.norm(made, axis=1)
    wrong = [found["id"][int(n)].as_py() for n in np.flatnonzero(cosine < 0.999)]
    assert wrong == []
