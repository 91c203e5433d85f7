"""From a base model to its query adapter and back: no row encoded, no file written, one commit."""

import asyncio
from datetime import timedelta

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import FTS, IvfFlat

import lancedb_ft as ft
from lancedb_ft.errors import GateError, InputError, ReindexStateError, VerifyError
from lancedb_ft.generation import read_state
from lancedb_ft.reindex.checks.verify import verify
from lancedb_ft.store.query_adapter import QueryAdapter
from lancedb_ft.table import dataset, embedding_entries
from tests.tiny import tiny_model

N_ROWS = 120
TEXTS = [f"doc number {i} how do I cancel my order {i * 7 % 13}" for i in range(N_ROWS)]
DIMS = 16


def adapter(strength, seed=0):
    """Turn queries at random: by nearly nothing, or into any direction."""
    weight = np.random.default_rng(seed).normal(size=(DIMS, DIMS)).astype(np.float32)
    return QueryAdapter("linear", {"weight": strength * weight, "bias": np.zeros(DIMS, np.float32)})


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """tiny@1; it with a strong adapter, tiny@2 and tiny@3; with a faint one, tiny@4; other@1."""
    home = tmp_path_factory.mktemp("models")
    store = ft.ModelStore(home / "store")
    base = store.save(tiny_model(home / "m1", seed=1), name="tiny")
    for strength, seed in ((3.0, 1), (3.0, 3), (1e-4, 0)):
        store.save(base.path, name="tiny", query_adapter=adapter(strength, seed))
    store.save(tiny_model(home / "m2", seed=2), name="other")
    return store


def documents():
    return pa.table({"id": [str(i) for i in range(N_ROWS)], "text": TEXTS})


def filled(db, function, name="docs"):
    field = pa.field("vector", pa.list_(pa.float32(), function.ndims()))
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    table = db.create_table(
        name, schema=documents().schema.append(field), embedding_functions=[config]
    )
    table.add(documents().slice(0, 70))
    table.add(documents().slice(70))
    table.create_index("text", config=FTS())
    return table


@pytest.fixture
def table(db, models):
    """A table that plain LanceDB filled with tiny@1."""
    return filled(db, get_registry().get("ft-embed").create(name="tiny@1", store=models.uri))


@pytest.fixture(params=["never re-indexed", "re-indexed"])
def any_table(request, table, models):
    """The same; and one whose vectors the project itself has made, with hashes."""
    if request.param == "re-indexed":
        ft.reindex(table, "other@1", force=True, store=models.uri)
        ft.finish(table)
        ft.reindex(table, "tiny@1", force=True, store=models.uri)
        ft.finish(table)
    return table


def files(table):
    """Return every file that belongs to the table's data and indexes, with its content's size."""
    fragments = dataset(table).get_fragments()
    data = [(f.path, tuple(f.fields)) for fragment in fragments for f in fragment.data_files()]
    deletions = [fragment.metadata.deletion_file for fragment in fragments]
    indices = sorted(str(index) for index in dataset(table).describe_indices())
    return data, deletions, indices


def reopened(table):
    return lancedb.connect(table._conn.uri).open_table("docs")


def best(models, ref, query):
    """Return the row that a model's query vector is nearest to, by NumPy."""
    encoder = ft.get_encoder(ref, store=models.uri)
    plain = ft.get_encoder("tiny@1", store=models.uri)
    docs = plain.encode(TEXTS).flatten().to_numpy().reshape(N_ROWS, DIMS)
    asked = encoder.encode([query], kind="query").flatten().to_numpy()
    distances = np.square(docs - asked).sum(axis=1)
    return str(int(distances.argmin())), float(distances.min())


def assert_asks_as(table, models, ref):
    """Plain LanceDB, sync and async, embeds queries with that model; documents are the base's."""
    query = TEXTS[5]
    row, distance = best(models, ref, query)

    async def asked():
        connection = await lancedb.connect_async(table._conn.uri)
        docs = await connection.open_table("docs")
        return await (await docs.search(query, query_type="vector")).limit(1).to_list()

    plain = reopened(table)
    ours = ft.search(plain, query, k=1, mode="vector").to_pylist()
    for hits in (plain.search(query).limit(1).to_list(), asyncio.run(asked()), ours):
        assert hits[0]["id"] == row
        assert hits[0]["_distance"] == pytest.approx(distance, abs=1e-4)
    hybrid = plain.search(query, query_type="hybrid").limit(N_ROWS).to_list()
    assert row in [hit["id"] for hit in hybrid]
    assert read_state(plain.schema, table="docs").active.model == ref


def self_pairs():
    return ft.Pairs.of([(f"q{i}", TEXTS[i], str(i), TEXTS[i]) for i in range(0, N_ROWS, 3)])


def test_the_adapters_of_this_test_do_turn_queries(models):
    found = {ref: best(models, ref, TEXTS[5]) for ref in ("tiny@1", "tiny@2", "tiny@3")}
    assert found["tiny@1"] == ("5", pytest.approx(0.0, abs=1e-4))
    assert len({row for row, _ in found.values()}) == 3


def test_base_to_adapter_to_adapter_to_base(any_table, models):
    before, version = files(any_table), dataset(any_table).version
    for number, ref in enumerate(("tiny@2", "tiny@3", "tiny@1"), 1):
        plan = ft.plan_reindex(any_table, ref, store=models.uri)
        assert (plan.rows_to_encode, plan.bytes, plan.query_only) == (0, 0, True)
        report = ft.reindex(any_table, ref, force=True, store=models.uri)
        assert (report.switched, report.query_only, report.fill.encoded) == (True, True, 0)
        assert report.check.min_cosine > 0.999
        assert dataset(any_table).version == version + number
        assert_asks_as(any_table, models, ref)
    assert files(any_table) == before


def test_there_and_back_in_one_commit_each(any_table, models):
    before, schema = files(any_table), dataset(any_table).schema
    ft.reindex(any_table, "tiny@2", force=True, store=models.uri)
    ft.reindex(any_table, "tiny@3", force=True, store=models.uri)
    for back in ("tiny@2", "tiny@1"):
        version = dataset(any_table).version
        assert ft.rollback(any_table).active.model == back
        assert dataset(any_table).version == version + 1
        assert_asks_as(any_table, models, back)
    after = dataset(any_table).schema
    assert after.remove_metadata().equals(schema.remove_metadata(), check_metadata=True)
    assert embedding_entries(after) == embedding_entries(schema)
    ft.switch(any_table, force=True, store=models.uri)
    assert_asks_as(any_table, models, "tiny@2")
    assert files(any_table) == before


def test_without_a_gate_it_waits_and_then_is_switched_to(table, models):
    before, version = files(table), dataset(table).version
    report = ft.reindex(table, "tiny@2", store=models.uri)
    assert (report.switched, dataset(table).version) == (False, version + 1)
    assert_asks_as(table, models, "tiny@1")
    assert ft.reindex(table, "tiny@2", store=models.uri).generation == report.generation
    assert dataset(table).version == version + 1
    assert "reindex switch" in ft.reindex_status(table).advice
    with pytest.raises(ReindexStateError, match="already being re-indexed to tiny@2"):
        ft.reindex(table, "tiny@3", force=True, store=models.uri)
    ft.switch(table, force=True, store=models.uri)
    assert dataset(table).version == version + 2
    assert_asks_as(table, models, "tiny@2")
    assert files(table) == before


def test_what_waits_can_be_given_up(table, models):
    before = files(table)
    ft.reindex(table, "tiny@2", store=models.uri)
    (gone,) = ft.finish(table, abandon=True)
    assert gone.model == "tiny@2"
    assert_asks_as(table, models, "tiny@1")
    ft.reindex(table, "tiny@3", force=True, store=models.uri)
    assert files(table) == before


def test_finish_forgets_the_way_back_and_keeps_the_column(any_table, models):
    before = files(any_table)
    ft.reindex(any_table, "tiny@2", force=True, store=models.uri)
    (gone,) = ft.finish(any_table)
    assert gone.model == "tiny@1"
    assert files(any_table) == before
    assert_asks_as(any_table, models, "tiny@2")
    reopened(any_table).add([{"id": "new", "text": "written after the switch"}])
    column = read_state(dataset(any_table).schema, table="docs").active.column
    stored = dataset(any_table).to_table(filter="id = 'new'", columns=[column])
    encoder = ft.get_encoder("tiny@1", store=models.uri)
    expected = encoder.encode(["written after the switch"]).flatten().to_numpy()
    found = stored[0].combine_chunks().flatten().to_numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_the_gate_is_measured_with_the_new_queries(table, models):
    version = dataset(table).version
    with pytest.raises(GateError) as caught:
        ft.reindex(table, "tiny@2", gate=ft.Gate(self_pairs()), store=models.uri)
    figures = caught.value.report
    assert figures["base"]["ndcg@10"]["mean"] == 1.0
    assert figures["tuned"]["ndcg@10"]["mean"] < 0.9
    assert dataset(table).version == version
    report = ft.reindex(table, "tiny@4", gate=ft.Gate(self_pairs()), store=models.uri)
    assert report.switched
    assert report.gate.comparison.n == N_ROWS // 3
    back = ft.reindex(table, "tiny@1", gate=ft.Gate(self_pairs()), store=models.uri)
    assert back.switched


def test_the_index_stays_and_serves(table, models):
    index = IvfFlat(num_partitions=2, distance_type="cosine")
    table.create_index("vector", config=index)
    before = files(table)
    report = ft.reindex(table, "tiny@2", force=True, store=models.uri)
    assert report.column == "vector"
    assert files(table) == before
    hits = reopened(table).search(TEXTS[5]).nprobes(2).limit(1).to_list()
    assert hits[0]["id"] == best(models, "tiny@2", TEXTS[5])[0]


def test_handles_that_stay_open_follow(table, models):
    every_time = timedelta(0)
    sync = lancedb.connect(table._conn.uri, read_consistency_interval=every_time).open_table("docs")
    searcher = ft.Searcher(table)
    query = TEXTS[5]

    async def through(step):
        connection = await lancedb.connect_async(
            table._conn.uri, read_consistency_interval=every_time
        )
        docs = await connection.open_table("docs")
        found = []
        for _ in range(2):
            found.append((await (await docs.search(query)).limit(1).to_list())[0]["id"])
            found.append(sync.search(query, query_type="vector").limit(1).to_list()[0]["id"])
            found.append(sync.search(query, query_type="hybrid").limit(1).to_list() != [])
            found.append(searcher.search(query, k=1, mode="vector")["id"][0].as_py())
            step()
        return found

    rows = [best(models, ref, query)[0] for ref in ("tiny@1", "tiny@2")]
    found = asyncio.run(through(lambda: ft.reindex(table, "tiny@2", force=True, store=models.uri)))
    assert found == [rows[0], rows[0], True, rows[0], rows[1], rows[1], True, rows[1]]


def test_a_second_call_does_nothing(any_table, models):
    ft.reindex(any_table, "tiny@2", force=True, store=models.uri)
    version = dataset(any_table).version
    again = ft.reindex(any_table, "tiny@2", force=True, store=models.uri)
    assert (again.switched, again.fill.encoded) == (True, 0)
    assert "already" in again.note
    assert dataset(any_table).version == version


def test_other_documents_are_encoded(any_table, models):
    """Between an adapter and another model there is the whole way, in both directions."""
    ft.reindex(any_table, "tiny@2", force=True, store=models.uri)
    report = ft.reindex(any_table, "other@1", force=True, store=models.uri)
    assert (report.query_only, report.fill.encoded) == (False, N_ROWS)
    assert ft.rollback(any_table).active.model == "tiny@2"
    assert_asks_as(any_table, models, "tiny@2")
    ft.switch(any_table, force=True, store=models.uri)
    kept = read_state(reopened(any_table).schema, table="docs").active.column
    ft.finish(any_table)
    vectors = [n for n in reopened(any_table).schema.names if n.startswith("vector")]
    assert set(vectors) == {kept, f"{kept}_hash"}
    back = ft.reindex(any_table, "tiny@2", force=True, store=models.uri)
    assert (back.query_only, back.fill.encoded) == (False, N_ROWS)
    assert_asks_as(any_table, models, "tiny@2")


def test_a_table_staged_to_an_adapter_version_is_switched_to_its_base(table, models):
    ft.reindex(table, "other@1", force=True, store=models.uri)
    ft.finish(table)
    ft.reindex(table, "tiny@2", force=True, store=models.uri)
    status = ft.reindex_status(table, stale=True)
    assert [g.n_stale for g in status.generations if g.phase == "active"] == [0]
    assert ft.reindex(table, "tiny@1", force=True, store=models.uri).fill.encoded == 0
    assert_asks_as(table, models, "tiny@1")


def test_status_and_verify_know_the_shared_column(table, models):
    ft.reindex(table, "other@1", force=True, store=models.uri)
    ft.finish(table)
    ft.reindex(table, "tiny@1", force=True, store=models.uri)
    ft.finish(table)
    ft.reindex(table, "tiny@2", force=True, store=models.uri)
    reopened(table).update(where="id = '3'", values={"text": "edited since"})
    status = ft.reindex_status(table, stale=True)
    told = [(g.model, g.phase, g.column, g.n_stale) for g in status.generations]
    column = read_state(reopened(table).schema, table="docs").active.column
    assert told == [("tiny@1", "previous", column, 1), ("tiny@2", "active", column, 1)]
    active = read_state(reopened(table).schema, table="docs").active
    encoder = ft.get_encoder("tiny@2", store=models.uri)
    with pytest.raises(VerifyError, match="1 of 120 rows"):
        verify(table, active, encoder)
    mended = ft.reindex(table, "tiny@2", force=True, store=models.uri)
    assert mended.fill.encoded == 1
    active = read_state(reopened(table).schema, table="docs").active
    assert verify(table, active, encoder).n_stale == 0


def test_re_embed_encodes_all_the_same(table, models):
    plan = ft.plan_reindex(table, "tiny@2", store=models.uri, re_embed=True)
    assert (plan.rows_to_encode, plan.query_only) == (N_ROWS, False)
    report = ft.reindex(table, "tiny@2", force=True, store=models.uri, re_embed=True)
    assert (report.query_only, report.fill.encoded) == (False, N_ROWS)
    assert_asks_as(table, models, "tiny@2")


def test_vectors_that_the_model_did_not_make_are_not_taken_over(table, models):
    """The metadata says tiny@1, and somebody wrote vectors of his own."""
    noise = np.random.default_rng(0).normal(size=(N_ROWS, DIMS)).astype(np.float32)
    column = pa.FixedSizeListArray.from_arrays(pa.array(noise.reshape(-1)), DIMS)
    rows = documents().append_column("vector", column)
    table.delete("true")
    dataset(table)  # a plain append of ready-made vectors, past the embedding function
    import lance

    lance.write_dataset(rows, str(table.uri), mode="append")
    version = dataset(table).version
    with pytest.raises(VerifyError, match="--re-embed"):
        ft.reindex(table, "tiny@2", force=True, store=models.uri)
    assert dataset(table).version == version
    ft.reindex(table, "tiny@2", force=True, store=models.uri, re_embed=True)
    assert_asks_as(table, models, "tiny@2")


def test_a_raw_column_whose_model_is_named(db, models):
    vectors = ft.get_encoder("tiny@1", store=models.uri).encode(TEXTS)
    table = db.create_table("docs", documents().append_column("vector", vectors))
    table.create_index("text", config=FTS())
    before = files(table)
    unnamed = ft.plan_reindex(table, "tiny@4", store=models.uri)
    assert unnamed.rows_to_encode == N_ROWS
    gate = ft.Gate(self_pairs())
    report = ft.reindex(table, "tiny@4", gate=gate, store=models.uri, base_model="tiny@1")
    assert (report.query_only, report.fill.encoded, report.gate.passed) == (True, 0, True)
    assert files(table) == before
    assert_asks_as(table, models, "tiny@4")
    ft.rollback(table)
    assert b"embedding_functions" not in (dataset(table).schema.metadata or {})


@pytest.mark.parametrize("kind", [np.float16, np.float64])
def test_a_raw_column_of_another_float_type_is_written_to_and_swept(db, models, kind):
    made = ft.get_encoder("tiny@1", store=models.uri).encode(TEXTS).flatten().to_numpy()
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(made.astype(kind)), DIMS)
    table = db.create_table("docs", documents().append_column("vector", vectors))
    report = ft.reindex(table, "tiny@2", force=True, store=models.uri, base_model="tiny@1")
    assert report.query_only
    new = [{"id": "5", "text": "another text"}, {"id": "new", "text": "a new row"}]
    reopened(table).add(new[1:])
    upsert = reopened(table).merge_insert("id").when_matched_update_all()
    upsert.when_not_matched_insert_all().execute(new[:1])
    reopened(table).update(where="id = '7'", values_sql={"vector": "NULL"})
    assert ft.sweep(reopened(table), store=models.uri).mended == 1
    found = dataset(table).to_table()
    assert found.schema.field("vector").type == vectors.type
    stored = np.stack([np.asarray(v, np.float32) for v in found["vector"].to_pylist()])
    again = ft.get_encoder("tiny@1", store=models.uri).encode(found["text"].to_pylist())
    assert np.allclose(stored, again.flatten().to_numpy().reshape(-1, DIMS), atol=2e-3)
    ft.reindex(reopened(table), "other@1", force=True, store=models.uri)
    reopened(table).add([{"id": "last", "text": "both vectors"}])
    assert dataset(table).to_table()["vector"].null_count == 0


def test_a_raw_column_of_another_model_than_named(db, models):
    vectors = ft.get_encoder("other@1", store=models.uri).encode(TEXTS)
    table = db.create_table("docs", documents().append_column("vector", vectors))
    with pytest.raises(VerifyError, match="mean cosine"):
        ft.reindex(table, "tiny@4", force=True, store=models.uri, base_model="tiny@1")


def test_lancedb_s_own_sentence_transformers_function(db, models):
    base = models.load("tiny@1").path
    function = get_registry().get("sentence-transformers").create(name=base, device="cpu")
    table = filled(db, function)
    before = files(table)
    report = ft.reindex(table, "tiny@2", force=True, store=models.uri)
    assert (report.query_only, report.fill.encoded) == (True, 0)
    assert files(table) == before
    assert_asks_as(table, models, "tiny@2")
    ft.rollback(table)
    hit = reopened(table).search(TEXTS[5]).limit(1).to_list()[0]
    assert (hit["id"], round(hit["_distance"], 3)) == ("5", 0.0)


def test_shorter_vectors_keep_their_length(db, models):
    function = get_registry().get("ft-embed").create(name="tiny@1", store=models.uri, dims=8)
    table = filled(db, function)
    before = files(table)
    report = ft.reindex(table, "tiny@2", force=True, store=models.uri)
    assert report.query_only
    assert files(table) == before
    assert ft.reindex(table, "tiny@2", force=True, store=models.uri).fill.encoded == 0
    encoder = ft.get_encoder("tiny@2", store=models.uri, dims=8)
    docs = encoder.encode(TEXTS).flatten().to_numpy().reshape(N_ROWS, 8)
    asked = encoder.encode([TEXTS[5]], kind="query").flatten().to_numpy()
    hit = reopened(table).search(TEXTS[5]).limit(1).to_list()[0]
    assert hit["id"] == str(int(np.square(docs - asked).sum(axis=1).argmin()))


def test_an_empty_table_and_one_without_vectors(db, models):
    empty = filled(
        db, get_registry().get("ft-embed").create(name="tiny@1", store=models.uri), "empty"
    )
    empty.delete("true")
    assert ft.reindex(empty, "tiny@2", force=True, store=models.uri).query_only
    bare = db.create_table("bare", documents())
    assert ft.plan_reindex(bare, "tiny@2", store=models.uri).rows_to_encode == N_ROWS


def test_a_model_that_is_gone_is_encoded_anew(table, models, tmp_path):
    """Without it nobody can tell what the vectors are."""
    other = ft.ModelStore(tmp_path / "elsewhere")
    other.save(tiny_model(tmp_path / "m3", seed=3), name="tiny")
    report = ft.plan_reindex(table, "tiny@1", store=other.uri)
    assert report.rows_to_encode == N_ROWS


def test_wrong_dims_are_refused(table, models):
    with pytest.raises(InputError, match="dims"):
        ft.reindex(table, "tiny@2", force=True, store=models.uri, dims=17)


def test_a_gate_in_a_table_of_several_vector_columns(db, models):
    vectors = ft.get_encoder("tiny@1", store=models.uri).encode(TEXTS)
    rows = documents().append_column("vector", vectors).append_column("other", vectors)
    table = db.create_table("docs", rows)
    named = {"vector_column": "vector", "base_model": "tiny@1", "store": models.uri}
    with pytest.raises(GateError):
        ft.reindex(table, "tiny@2", gate=ft.Gate(self_pairs()), **named)
    report = ft.reindex(table, "tiny@4", gate=ft.Gate(self_pairs()), **named)
    assert report.switched
    assert report.query_only
