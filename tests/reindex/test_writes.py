"""What plain LanceDB, with the plugin imported, writes to a table that is, or was, re-indexed."""

import asyncio
from importlib import import_module

import lance
import lancedb
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import BTree, IvfFlat

import lancedb_ft as ft
from lancedb_ft.leftovers import has_leftovers
from lancedb_ft.marks import row_marks, text_hashes
from lancedb_ft.table import dataset
from tests.reindex.marked import DIMS, make_models, new_table, reindexed, reopened, rows

NEW = [{"id": "5", "text": "another text"}, {"id": "new-1", "text": "a new row"}]


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("writes"))


@pytest.fixture
def table(db, store):
    """A table that was switched, its old vectors kept: two generations, both with functions."""
    table = reindexed(db, store)
    table.create_index("id", config=BTree())
    return reopened(table)


def written(table, ids):
    found = ", ".join(f"'{name}'" for name in ids)
    return lance.dataset(table.uri).to_table(filter=f"id in ({found})")


def hash_columns(table):
    return [name for name in lance.dataset(table.uri).schema.names if name.endswith("_hash")]


def assert_marked(rows, columns):
    for name in columns:
        vectors = rows[name.removesuffix("_hash")].combine_chunks()
        hashes = text_hashes(rows["text"].combine_chunks())
        assert rows[name].combine_chunks().equals(row_marks(hashes, vectors))
        assert rows[name].null_count == 0


def merge(table, rows):
    builder = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    return builder.execute(rows)


def test_rows_are_marked_when_they_are_written(table):
    table.add([{"id": "new-0", "text": "appended"}])
    merge(table, NEW)
    assert hash_columns(table)
    assert_marked(written(table, ["new-0", "new-1", "5"]), hash_columns(table))
    report = ft.sweep(table)
    assert (report.mended, report.encoded) == (0, 0)


def test_so_they_are_through_the_asynchronous_interface(table):
    async def write():
        connection = await lancedb.connect_async(table._conn.uri)
        docs = await connection.open_table("docs")
        await docs.add([{"id": "new-0", "text": "appended"}])
        await merge(docs, NEW)

    asyncio.run(write())
    assert_marked(written(table, ["new-0", "new-1", "5"]), hash_columns(table))


def add_a_column(table, monkeypatch):
    """Make every upsert of texts one of some columns."""
    lance.dataset(table.uri).add_columns(pa.field("price", pa.int64()))
    lance.dataset(table.uri).update({"price": "7"}, where="id = '5'")


def begin_to_finish(table, monkeypatch):
    """Leave it between the function and the column, as during the grace of a finish."""
    steps = import_module("lancedb_ft.reindex.switch")
    with monkeypatch.context() as patched:
        patched.setattr(steps, "drop_columns", _interrupted)
        with pytest.raises(KeyboardInterrupt):
            ft.finish(table, grace_s=0)
    assert {g.phase for g in ft.reindex_status(table).generations} == {"active", "removing"}


def _interrupted(*_):
    raise KeyboardInterrupt


@pytest.mark.parametrize("first", [None, add_a_column, begin_to_finish])
def test_an_upsert_writes_rows_anew_and_not_columns_in_place(table, first, monkeypatch):
    """In place, the vector index keeps what it had of the fragment."""
    if first is not None:
        first(table, monkeypatch)
        table = reopened(table)
    table.create_index("vector__g2", config=IvfFlat(num_partitions=1))
    name = next(i.name for i in table.list_indices() if i.columns == ["vector__g2"])
    before = {f.fragment_id: [d.path for d in f.data_files()] for f in fragments(table)}
    merge(table, NEW)
    after = {f.fragment_id: [d.path for d in f.data_files()] for f in fragments(table)}
    assert all(after.get(number, files) == files for number, files in before.items())
    assert not has_leftovers(dataset(reopened(table)), name, None)
    rows = written(table, ["5"])
    assert rows["text"].to_pylist() == [next(r["text"] for r in NEW if r["id"] == "5")]
    if first is add_a_column:
        assert rows["price"].to_pylist() == [7]


def test_the_callers_builder_is_not_changed(table):
    lance.dataset(table.uri).add_columns({"price": "cast(7 as bigint)"})
    table = reopened(table)
    builder = table.merge_insert("id").when_matched_update_all()
    builder.execute([{"id": "5", "text": "changed"}])
    assert builder._use_index


def fragments(table):
    return lance.dataset(table.uri).get_fragments()


def test_vectors_that_somebody_gives_are_not_believed(table, store):
    dims = table.schema.field("vector__g2").type.list_size
    table.add([{"id": "new-0", "text": "with a vector of one's own", "vector__g2": [0.5] * dims}])
    row = written(table, ["new-0"])
    assert row["vector__g2_hash"].null_count == 1
    assert ft.sweep(table, store=store.uri).mended >= 1
    assert_marked(written(table, ["new-0"]), ["vector__g2_hash"])


def test_pydantic_rows_whose_vector_is_empty_are_marked(table):
    schema = pa.schema([f for f in table.schema if not f.name.endswith("_hash")])
    shown = [f for f in schema if not isinstance(f.type, pa.BaseExtensionType)]
    row = {f.name: None for f in shown} | {"id": "new-0", "text": "a row of a model"}
    table.add(pa.Table.from_pylist([row], schema=pa.schema(shown)))
    assert_marked(written(table, ["new-0"]), hash_columns(table))


def test_a_write_of_some_columns_stays_one(table):
    lance.dataset(table.uri).add_columns({"price": "cast(7 as bigint)"})
    before = written(table, ["5"])
    table = reopened(table)
    table.merge_insert("id").when_matched_update_all().execute([{"id": "5", "text": "changed"}])
    row = written(table, ["5"])
    assert (row["price"].to_pylist(), row["text"].to_pylist()) == ([7], ["changed"])
    assert row["vector__g2_hash"].equals(before["vector__g2_hash"])  # for the sweep to see


def test_a_write_without_the_text_is_as_right_as_before(db, store):
    """Raw vectors have no function, which would ask for the text it is made from."""
    given = rows(0, 60).append_column("views", pa.array([0] * 60, pa.int64()))
    vectors = ft.get_encoder("tiny@1", store=store.uri).encode(given["text"].combine_chunks())
    table = db.create_table("docs", given.append_column("vector", vectors))
    table.create_index("id", config=BTree())
    ft.reindex(table, "tiny@2", force=True, store=store.uri)
    table = reopened(table)
    before = written(table, ["7"]).to_pylist()
    builder = table.merge_insert("id").when_matched_update_all()
    builder.execute([{"id": "7", "views": 5}])
    assert written(table, ["7"]).to_pylist() == [{**before[0], "views": 5}]
    checked = ft.verify(table, store=store.uri, base_model="tiny@1")
    assert checked.advice == "One model a column; nothing to do."
    found = table.search(before[0]["text"], query_type="vector").limit(1).to_list()
    assert (found[0]["id"], found[0]["views"]) == ("7", 5)


def test_a_table_that_was_never_reindexed_is_left_alone(db):
    table = db.create_table("plain", [{"id": "a", "vector": [0.0, 1.0]}])
    table.add([{"id": "b", "vector": [1.0, 0.0]}])
    assert table.schema.names == ["id", "vector"]


def test_while_a_generation_is_filled_a_write_leaves_its_vector_empty(db, store):
    """The staged model may not be known to every writer: its column is for the fill."""
    table = new_table(db, store)
    table.create_index("id", config=BTree())
    ft.reindex(table, "tiny@2", store=store.uri)
    table = reopened(table)
    merge(table, NEW)
    ft.switch(table, force=True, store=store.uri)
    assert_marked(written(table, ["new-1", "5"]), ["vector__g2_hash"])


def test_a_float16_column_is_filled_by_our_function(db, store):
    function = get_registry().get("ft-embed").create(name="tiny@1", store=store.uri)
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    half = pa.field("vector", pa.list_(pa.float16(), DIMS))
    table = db.create_table(
        "half", schema=rows(0, 1).schema.append(half), embedding_functions=[config]
    )
    table.add(rows(0, 20))
    merge(table, NEW)
    found = reopened(table).to_arrow()
    assert found.schema.field("vector").type == half.type
    assert (len(found), found["vector"].null_count) == (21, 0)
    asked = found["text"][3].as_py()
    assert reopened(table).search(asked).limit(1).to_list()[0]["text"] == asked
