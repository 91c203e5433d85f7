"""The plan: what a re-index will take, and the report that compares."""

import json

import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
from lancedb.index import IvfFlat, IvfPq

import lancedb_ft as ft
from lancedb_ft.errors import ModelNotFoundError
from lancedb_ft.reindex.lock import job_folder
from lancedb_ft.reindex.plans.estimate import encode_seconds_per_row, folder_bytes, table_bytes
from lancedb_ft.table import dataset
from tests.tiny import tiny_model

N = 1500
DIMS = 16
TEXTS = [f"doc number {i} how do I cancel my order" + " again" * (i % 40) for i in range(N)]
PAIRS = ft.Pairs.of([(f"q{i}", TEXTS[i], str(i), TEXTS[i]) for i in range(0, 60, 3)])


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    root = tmp_path_factory.mktemp("models")
    store = ft.ModelStore(str(root / "store"))
    for seed in (1, 2):
        store.save(tiny_model(root / f"m{seed}", seed=seed, dims=DIMS), name="tiny", manifest={})
    store.save(tiny_model(root / "m3", seed=3, dims=24), name="wide", manifest={})
    return store


@pytest.fixture
def table(db, models):
    vectors = np.random.default_rng(0).normal(size=(N, DIMS)).astype(np.float32)
    function = get_registry().get("ft-embed").create(name="tiny@1", store=models.uri)
    schema = pa.schema(
        [
            pa.field("id", pa.string()),
            pa.field("text", pa.string()),
            pa.field("vector", pa.list_(pa.float32(), DIMS)),
        ]
    )
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    table = db.create_table("docs", schema=schema, embedding_functions=[config])
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMS)
    table.add(pa.table({"id": [str(i) for i in range(N)], "text": TEXTS, "vector": column}))
    return table


def test_the_report_compares_with_the_plan(table, models):
    table.create_index("vector", config=IvfPq(num_partitions=2, num_sub_vectors=4))
    gate = ft.Gate(PAIRS, require=["ndcg@10 >= 0"])
    plan = ft.plan_reindex(table, "tiny@2", store=models.uri, gate=gate)
    assert set(plan.stages) == {"fill", "verify", "index", "gate"}
    assert all(seconds > 0 for seconds in plan.stages.values())
    assert plan.seconds == pytest.approx(sum(plan.stages.values()), abs=0.01)
    assert plan.bytes == N * (4 * DIMS + 8) + plan.index_bytes
    report = ft.reindex(table, "tiny@2", store=models.uri, gate=gate)
    told = json.loads(json.dumps(report.to_dict()))["plan"]
    assert set(told["stages"]) == {"fill", "verify", "index", "gate"}
    assert told["seconds"]["predicted"] == pytest.approx(plan.seconds, abs=0.01)
    assert told["seconds"]["real"] == pytest.approx(
        sum(stage["real"] for stage in told["stages"].values()), abs=0.01
    )
    # Sizes do not depend on what else the machine does; a table this small is half manifests.
    assert told["bytes"]["predicted"] == plan.bytes
    assert 0.5 < told["bytes"]["ratio"] < 1.25
    assert 0.8 < told["peak_disk_bytes"]["ratio"] < 1.25
    assert told["peak_disk_bytes"]["real"] >= table_bytes(table) - 50_000


def test_the_size_of_the_index_is_that_which_it_gets(table, models):
    table.create_index("vector", config=IvfFlat(num_partitions=3))
    plan = ft.plan_reindex(table, "wide@1", store=models.uri)
    report = ft.reindex(table, "wide@1", store=models.uri)
    sizes = {i.name: i.total_size_bytes for i in dataset(table).describe_indices()}
    assert plan.index_bytes == pytest.approx(sizes[report.index], rel=0.1)


def test_without_a_plan_nothing_is_compared_or_sampled(table, models):
    report = ft.reindex(table, "tiny@2", store=models.uri)
    assert report.plan is None
    assert report.to_dict()["plan"] is None


def test_a_plan_for_another_model_or_other_rows_is_not_compared(table, models):
    ft.plan_reindex(table, "wide@1", store=models.uri)
    assert ft.reindex(table, "tiny@2", store=models.uri).plan is None
    ft.finish(table, abandon=True)
    ft.plan_reindex(table, "tiny@2", store=models.uri)
    table.checkout_latest()
    rows = pa.table({"id": [f"x{i}" for i in range(N)], "text": [f"new {i}" for i in range(N)]})
    table.add(rows)
    assert ft.reindex(table, "tiny@2", store=models.uri).plan is None
    assert not (job_folder(table) / "plan.json").exists()  # used up


def test_a_plan_that_cannot_be_kept_is_a_plan_all_the_same(table, models, monkeypatch):
    def refuse(*_args, **_kwargs):
        raise PermissionError("read-only")

    monkeypatch.setattr("pathlib.Path.mkdir", refuse)
    assert ft.plan_reindex(table, "tiny@2", store=models.uri).rows == N


def test_a_plan_finds_a_gate_that_cannot_be(table, models):
    gate = ft.Gate(PAIRS, reranker="nobody@1")
    with pytest.raises(ModelNotFoundError):
        ft.plan_reindex(table, "tiny@2", store=models.uri, gate=gate)


def test_the_note_for_callers_with_vectors_goes_by_their_length(table, models):
    same = " ".join(ft.plan_reindex(table, "tiny@2", store=models.uri).notes)
    assert "must name the column, 'vector' now" in same
    other = " ".join(ft.plan_reindex(table, "wide@1", store=models.uri).notes)
    assert "those with 16 dimensions go on with 'vector'" in other
    assert "must name" not in other


@pytest.mark.parametrize("nullable", [True, False])
def test_a_raw_column_that_may_not_be_null_is_told_of(db, models, nullable):
    field = pa.field("vector", pa.list_(pa.float32(), DIMS), nullable=nullable)
    schema = pa.schema([pa.field("id", pa.string()), pa.field("text", pa.string()), field])
    table = db.create_table("docs", schema=schema)  # with rows, LanceDB would make it nullable
    table.add([{"id": "0", "text": TEXTS[0], "vector": [1.0] * DIMS}])
    told = " ".join(ft.plan_reindex(table, "tiny@1", store=models.uri).notes)
    assert ("Column 'vector' is NOT NULL" in told) is not nullable
    ft.reindex(table, "tiny@1", store=models.uri, force=True)
    table = db.open_table("docs")
    if nullable:
        table.add([{"id": "1", "text": TEXTS[1]}])
        return
    with pytest.raises(Exception, match=r"missing=\[vector\]"):
        table.add([{"id": "1", "text": TEXTS[1]}])
    ft.finish(table)
    db.open_table("docs").add([{"id": "1", "text": TEXTS[1]}])


def test_columns_that_only_lancedb_takes_for_vectors_are_told_of(db, models):
    bits = pa.array([[n % 256] * 16 for n in range(len(TEXTS))], pa.list_(pa.uint8(), 16))
    made = pa.table({"id": [str(n) for n in range(len(TEXTS))], "text": TEXTS, "bits": bits})
    table = db.create_table("docs", made)
    assert table.search([1] * 16).limit(1).to_list()[0]["_distance"] == 0
    told = " ".join(ft.plan_reindex(table, "tiny@1", store=models.uri).notes)
    assert "LanceDB takes 'bits' for vectors, too" in told
    ft.reindex(table, "tiny@1", store=models.uri, force=True)
    with pytest.raises(ValueError, match="more than one vector column"):
        db.open_table("docs").search([1] * 16).limit(1).to_list()
    other = db.create_table("other", made.drop_columns(["bits"]))
    assert "for vectors, too" not in str(ft.plan_reindex(other, "tiny@1", store=models.uri).notes)


async def test_the_core_goes_by_the_length_of_the_vector(table, models):
    """What the two notes promise, asked of the core itself."""
    import lancedb

    before = table.to_arrow()["vector"][7].as_py()

    async def asked():
        opened = await (await lancedb.connect_async(table._conn.uri)).open_table("docs")
        return (await opened.query().nearest_to(before).limit(1).to_list())[0]["id"]

    ft.reindex(table, "wide@1", store=models.uri)
    assert await asked() == "7"
    ft.switch(table, force=True, store=models.uri)
    assert await asked() == "7"
    ft.finish(table)
    with pytest.raises(Exception, match="No vector column found to match"):
        await asked()


async def test_the_core_refuses_to_choose_between_equal_lengths(table, models):
    import lancedb

    ft.reindex(table, "tiny@2", store=models.uri)
    opened = await (await lancedb.connect_async(table._conn.uri)).open_table("docs")
    with pytest.raises(Exception, match="More than one vector columns found"):
        await opened.query().nearest_to([0.0] * DIMS).limit(1).to_list()
    named = opened.query().nearest_to([0.0] * DIMS).column("vector").limit(1)
    assert len(await named.to_list()) == 1


def test_texts_without_tokens_take_no_time(models):
    encoder = ft.get_encoder("tiny@1", store=models.uri)
    assert encode_seconds_per_row(encoder, pa.array(["", None]), np.array([0, 0])) == 0.0


def test_files_are_counted_as_they_are(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"123")
    (tmp_path / "y").write_bytes(b"45")
    assert folder_bytes(tmp_path) == 5
    assert folder_bytes(tmp_path / "nowhere") == 0
