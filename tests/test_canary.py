"""What re-indexing stands on and LanceDB does not promise, each fact checked by itself.

When an upgrade of lancedb or pylance fails here, the switch protocol has to be proved anew before
the pin in pyproject.toml moves.
"""

import asyncio
import json
from datetime import timedelta
from functools import cached_property
from importlib.metadata import version

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lance import LanceOperation
from lance.commit import CommitConflictError
from lancedb.embeddings import TextEmbeddingFunction, register

from lancedb_ft.generation import parked_metadata
from tests.fake_encoder import vector_of

DIMS = 8


@register("canary")
class Canary(TextEmbeddingFunction):
    """Embeds by a hash of the text."""

    salt: str = "a"
    max_retries: int = 0

    def ndims(self):
        return DIMS

    def generate_embeddings(self, texts):
        return [vector_of(text, self.salt) for text in texts]


def entry(column, salt):
    model = {"salt": salt}
    return {"name": "canary", "model": model, "source_column": "text", "vector_column": column}


@pytest.fixture
def table(db):
    texts = [f"text {i}" for i in range(100)]
    columns = {"id": [str(i) for i in range(100)], "text": texts}
    for column, salt in (("vector", "a"), ("vector__g2", "b")):
        flat = np.stack([vector_of(text, salt) for text in texts]).reshape(-1)
        columns[column] = pa.FixedSizeListArray.from_arrays(pa.array(flat), DIMS)
    data = pa.table(columns)
    table = db.create_table("docs", data.drop_columns(["vector__g2"]))
    ds = lance.dataset(table.uri)
    ds.add_columns(
        pa.field("vector__g2", pa.list_(pa.float32(), DIMS), metadata=parked_metadata(DIMS))
    )
    table.checkout_latest()
    update = data.select(["id", "vector__g2"])
    storage = pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [DIMS]), update["vector__g2"].chunk(0)
    )
    table.merge_insert("id").when_matched_update_all().execute(
        update.set_column(1, "vector__g2", storage)
    )
    commit(table, functions=[entry("vector", "a"), entry("vector__g2", "b")])
    return db.open_table("docs")


def commit(table, functions=None, fields=None, read_version=None):
    ds = lance.dataset(table.uri)
    updates = {"embedding_functions": json.dumps(functions)} if functions else {"note": "x"}
    operation = LanceOperation.UpdateConfig(
        schema_metadata_updates=LanceOperation.UpdateMap(updates),
        field_metadata_updates={
            i: LanceOperation.UpdateMap(metadata) for i, metadata in (fields or {}).items()
        },
    )
    return lance.LanceDataset.commit(
        ds, operation, read_version=read_version or ds.version, max_retries=0
    )


def switch(table, shown, parked):
    ids = {f.name(): f.id() for f in lance.dataset(table.uri).lance_schema.fields()}
    salts = {"vector": "a", "vector__g2": "b"}
    commit(
        table,
        functions=[entry(shown, salts[shown]), entry(parked, salts[parked])],
        fields={
            ids[shown]: dict.fromkeys(parked_metadata(DIMS)),
            ids[parked]: parked_metadata(DIMS),
        },
    )


def test_the_versions_are_the_tested_ones():
    assert version("lancedb").startswith("0.40.")
    assert version("pylance").startswith("14.0.")


def test_a_parked_column_is_passed_by_and_the_switch_is_one_commit(db, table):
    live = lancedb.connect(db.uri, read_consistency_interval=timedelta(0)).open_table("docs")
    assert live.search("text 7").limit(1).to_list()[0]["id"] == "7"
    before = lance.dataset(table.uri).version
    switch(table, "vector__g2", "vector")
    assert lance.dataset(table.uri).version == before + 1
    for handle in (live, db.open_table("docs")):
        hit = handle.search("text 7", query_type="vector").limit(1).to_list()[0]
        assert (hit["id"], hit["_distance"]) == ("7", 0.0)
        assert handle.search(vector_of("text 7", "b")).limit(1).to_list()[0]["id"] == "7"
    switch(table, "vector", "vector__g2")
    hit = live.search("text 7", query_type="vector").limit(1).to_list()[0]
    assert (hit["id"], hit["_distance"]) == ("7", 0.0)


async def test_the_async_handle_follows(db, table):
    connection = await lancedb.connect_async(db.uri, read_consistency_interval=timedelta(0))
    live = await connection.open_table("docs")
    for shown, parked in (("vector__g2", "vector"), ("vector", "vector__g2")):
        await asyncio.to_thread(switch, table, shown, parked)
        found = await (await live.search("text 7", query_type="vector")).limit(1).to_list()
        assert (found[0]["id"], found[0]["_distance"]) == ("7", 0.0)


def test_writes_fill_both_columns(table):
    table.add([{"id": "n", "text": "new"}])
    row = table.search().where("id = 'n'").to_list()[0]
    np.testing.assert_allclose(row["vector"], vector_of("new", "a"))
    np.testing.assert_allclose(row["vector__g2"], vector_of("new", "b"))


def test_two_state_commits_from_one_version_conflict(table):
    version_read = lance.dataset(table.uri).version
    commit(table)
    with pytest.raises(CommitConflictError):
        commit(table, read_version=version_read)


def test_the_cached_property_that_we_replace_is_there():
    """Checked on the class as LanceDB ships it: our import replaced it in this process."""
    import inspect

    from lancedb import table as module

    source = inspect.getsource(module.LanceTable)
    assert "@cached_property\n    def embedding_functions" in source
    assert not isinstance(module.LanceTable.__dict__["embedding_functions"], cached_property)


def test_a_replacement_removes_the_fragment_from_the_index(table):
    """Otherwise a search would find what the vectors were before."""
    import uuid

    from lance.file import LanceFileWriter
    from lance.fragment import DataFile
    from lancedb.index import IvfFlat

    table.create_index("vector__g2", config=IvfFlat(num_partitions=1), name="g2")
    ds = lance.dataset(table.uri)
    fragment = ds.get_fragments()[0]
    schema = pa.schema([("vector__g2", pa.list_(pa.float32(), DIMS))])
    name = f"{uuid.uuid4()}.lance"
    constant = pa.array(np.ones(fragment.physical_rows * DIMS, np.float32))
    with LanceFileWriter(f"{ds.uri}/data/{name}", schema, version=ds.data_storage_version) as w:
        column = pa.FixedSizeListArray.from_arrays(constant, DIMS)
        w.write_batch(pa.record_batch([column], schema=schema))
    like = fragment.data_files()[0]
    ids = {f.name(): f.id() for f in ds.lance_schema.fields()}
    file = DataFile(
        name, [ids["vector__g2"]], [0], like.file_major_version, like.file_minor_version
    )
    group = LanceOperation.DataReplacementGroup(fragment.fragment_id, file)
    lance.LanceDataset.commit(ds, LanceOperation.DataReplacement([group]), read_version=ds.version)
    table.checkout_latest()
    assert table.index_stats("g2").num_unindexed_rows == fragment.count_rows()
    hits = table.search([1.0] * DIMS, vector_column_name="vector__g2").limit(3).to_list()
    assert [hit["_distance"] for hit in hits] == [0.0] * 3
