"""Backfill against everything that can happen to a table meanwhile."""

from importlib import import_module

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS, BTree, IvfFlat

from lancedb_ft.errors import ReindexStateError, VerifyError
from lancedb_ft.generation import Generation, TableState, read_state
from lancedb_ft.reindex.checks.verify import verify
from lancedb_ft.reindex.commits import Change, transition
from lancedb_ft.reindex.filling.backfill import Backfill
from lancedb_ft.reindex.filling.fragments import vectors_and_mismatches
from lancedb_ft.reindex.filling.spill import Spill
from lancedb_ft.reindex.indexes.vector_index import build_like, describe_index
from lancedb_ft.reindex.stage import _add_columns
from lancedb_ft.reindex.switch import abandon, finish, rollback, show
from tests.fake_encoder import FakeEncoder, vector_of

DIMS = 8
VECTORS = pa.list_(pa.float32(), DIMS)


def rows(start, stop, tag="doc"):
    texts = [f"{tag} number {i}" for i in range(start, stop)]
    vectors = np.stack([vector_of(text, "old") for text in texts])
    return pa.table(
        {
            "id": [str(i) for i in range(start, stop)],
            "text": texts,
            "vector": pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), DIMS),
        }
    )


@pytest.fixture(params=["plain", "stable_row_ids"])
def table(db, request):
    options = (
        {"new_table_enable_stable_row_ids": "true"} if request.param == "stable_row_ids" else None
    )
    table = db.create_table("docs", rows(0, 300), storage_options=options)
    table.add(rows(300, 600))
    return table


def stage(table):
    """Stage generation 2 as `stage` does, for an encoder that no store has."""
    generation = Generation(
        number=2,
        column="vector__g2",
        dims=DIMS,
        phase="staging",
        source_column="text",
        function=None,
        hash_column="vector__g2_hash",
    )
    transition(table, lambda state, ds: Change(state.put(generation)), what="stage")
    _add_columns(table, generation)
    return generation


def fill(table, generation, tmp_path, encoder=None):
    encoder = encoder or FakeEncoder()
    return Backfill(table, generation, encoder, Spill(tmp_path / "spill", DIMS)).run()


def assert_right(table, salt="new", column="vector__g2"):
    """Every row has the vector of its present text by the model."""
    found = lance.dataset(table.uri).to_table(columns=["text", column]).to_pylist()
    assert found
    for row in found:
        if row["text"] is None or not row["text"].strip():
            assert row[column] is None
        else:
            vector = row[column]
            np.testing.assert_allclose(vector, vector_of(row["text"], salt), rtol=1e-6)


def make_ready(table, generation):
    transition(
        table,
        lambda state, ds: Change(state.put(state.of(2).with_(phase="ready"))),
        what="mark ready",
    )


def test_fills_every_row_once(table, tmp_path):
    encoder = FakeEncoder()
    report = fill(table, stage(table), tmp_path, encoder)
    assert report.rows == report.encoded == len(encoder.encoded) == 600
    assert report.fragments == 2
    assert_right(table)


def test_a_second_run_encodes_nothing(table, tmp_path):
    generation = stage(table)
    fill(table, generation, tmp_path)
    encoder = FakeEncoder()
    version = lance.dataset(table.uri).version
    assert fill(table, generation, tmp_path, encoder).encoded == 0
    assert encoder.encoded == []
    assert lance.dataset(table.uri).version == version


def test_blank_and_null_texts_have_no_vector(table, tmp_path):
    table.add(
        pa.table(
            {
                "id": ["b", "n"],
                "text": ["  ", None],
                "vector": pa.array([[0.0] * DIMS] * 2, pa.list_(pa.float32(), DIMS)),
            }
        )
    )
    generation = stage(table)
    fill(table, generation, tmp_path)
    assert_right(table)
    check = verify(table, generation, FakeEncoder())
    assert (check.n_stale, check.n_rows) == (0, 602)


def test_deleted_rows_keep_their_place(table, tmp_path):
    table.delete("id in ('0', '5', '299', '599')")
    generation = stage(table)
    fill(table, generation, tmp_path)
    table.delete("id = '7'")
    assert_right(table)
    assert table.count_rows() == 595


def test_rows_appended_while_encoding_are_filled(table, tmp_path):
    generation = stage(table)
    encoder = FakeEncoder()
    writer = lancedb.connect(table._conn.uri).open_table("docs")

    def append(_texts):
        if len(encoder.encoded) < 900:
            writer.add(rows(1000 + len(encoder.encoded), 1100 + len(encoder.encoded), "late"))

    encoder.before_encode = append
    fill(table, generation, tmp_path, encoder)
    assert table.count_rows() > 700 or lance.dataset(table.uri).count_rows() > 700
    assert_right(table)


def test_a_row_updated_while_encoding_gets_its_new_text(table, tmp_path):
    generation = stage(table)
    encoder = FakeEncoder()
    writer = lancedb.connect(table._conn.uri).open_table("docs")
    done = []

    def update(_texts):
        if not done:
            done.append(True)
            writer.update(where="id = '17'", values={"text": "changed in between"})

    encoder.before_encode = update
    fill(table, generation, tmp_path, encoder)
    assert_right(table)
    assert "changed in between" in encoder.encoded


def test_compaction_while_encoding_is_planned_again(table, tmp_path):
    generation = stage(table)
    encoder = FakeEncoder()
    done = []

    def compact(_texts):
        if not done:
            done.append(True)
            lancedb.connect(table._conn.uri).open_table("docs").optimize()

    encoder.before_encode = compact
    report = fill(table, generation, tmp_path, encoder)
    assert_right(table)
    # What was encoded for the fragments that compaction removed is reused, not encoded again.
    assert report.reused == 600
    assert len(encoder.encoded) == 600


def test_a_partial_upsert_under_a_btree_is_mended(table, tmp_path):
    """The one write that a replacement from an older version overwrites without a conflict."""
    table.create_index("id", config=BTree())
    generation = stage(table)
    encoder = FakeEncoder()
    done = []

    def upsert(_texts):
        if not done:
            done.append(True)
            writer = lancedb.connect(table._conn.uri).open_table("docs")
            news = pa.table({"id": ["3", "400"], "text": ["three anew", "four hundred anew"]})
            writer.merge_insert("id").when_matched_update_all().execute(news)

    encoder.before_encode = upsert
    fill(table, generation, tmp_path, encoder)
    assert_right(table)
    assert "three anew" in encoder.encoded


def test_a_text_set_back_does_not_keep_the_vector_of_the_one_between(table, tmp_path):
    """A writer with the function writes text and vector, and leaves the hash: then A, B, A."""
    generation = stage(table)
    fill(table, generation, tmp_path)
    writer = lancedb.connect(table._conn.uri).open_table("docs")
    between = vector_of("between", "new")
    row = {"id": ["3"], "text": ["between"], "vector__g2": pa.array([between], VECTORS)}
    writer.merge_insert("id").when_matched_update_all().execute(pa.table(row))
    writer.update(where="id = '3'", values={"text": "doc number 3"})
    assert vectors_and_mismatches(lance.dataset(table.uri), generation)[0] == 1
    assert fill(table, generation, tmp_path).encoded == 1
    assert_right(table)


def test_a_vector_that_somebody_else_wrote_is_found_and_made_again(table, tmp_path):
    generation = stage(table)
    fill(table, generation, tmp_path)
    foreign = pa.array([vector_of("doc number 3", "old")], VECTORS)
    table.checkout_latest()
    row = pa.table({"id": ["3"], "vector__g2": foreign})
    table.merge_insert("id").when_matched_update_all().execute(row)
    with pytest.raises(VerifyError, match="1 of 600 rows"):
        verify(table, generation, FakeEncoder())
    assert fill(table, generation, tmp_path).encoded == 1
    assert_right(table)


def test_a_killed_run_goes_on_from_what_was_spilled(table, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module("lancedb_ft.reindex.filling.fragments"), "WINDOW_ROWS", 100)
    generation = stage(table)
    encoder = FakeEncoder()

    def die(_texts):
        if len(encoder.encoded) >= 400:
            raise KeyboardInterrupt

    encoder.before_encode = die
    with pytest.raises(KeyboardInterrupt):
        fill(table, generation, tmp_path, encoder)
    again = FakeEncoder()
    report = fill(table, generation, tmp_path, again)
    assert_right(table)
    assert report.reused == 100
    assert len(again.encoded) == 200


def test_a_torn_spill_file_is_encoded_again(table, tmp_path):
    folder = tmp_path / "spill"
    folder.mkdir()
    (folder / "torn.arrow").write_bytes(b"ARROW1\0\0half")
    fill(table, stage(table), tmp_path)
    assert_right(table)


def test_verify_finds_a_foreign_vector_and_a_stale_row(table, tmp_path):
    generation = stage(table)
    fill(table, generation, tmp_path)
    with pytest.raises(VerifyError, match="another model") as caught:
        verify(table, generation, FakeEncoder("other"))
    assert caught.value.report["min_cosine"] < 0.999
    table.checkout_latest()
    table.update(where="id = '9'", values={"text": "not what was embedded"})
    with pytest.raises(VerifyError, match="1 of 600 rows"):
        verify(table, generation, FakeEncoder())


def test_switch_rollback_finish(table, tmp_path):
    generation = stage(table)
    fill(table, generation, tmp_path)
    with pytest.raises(ReindexStateError, match="staging"):
        show(table, 2)
    make_ready(table, generation)
    state = show(table, 2)
    assert state.active.column == "vector__g2"
    fresh = lancedb.connect(table._conn.uri).open_table("docs")
    query = vector_of("doc number 7", "new")
    assert fresh.search(query).limit(1).to_list()[0]["id"] == "7"
    state = rollback(table)
    assert state.active.column == "vector"
    fresh = lancedb.connect(table._conn.uri).open_table("docs")
    assert fresh.search(vector_of("doc number 7", "old")).limit(1).to_list()[0]["id"] == "7"
    with pytest.raises(ReindexStateError, match="none was shown before"):
        rollback(table)
    show(table, 2)
    assert [g.number for g in finish(table)] == [1]
    fresh = lancedb.connect(table._conn.uri).open_table("docs")
    assert fresh.schema.names == ["id", "text", "vector__g2", "vector__g2_hash"]
    assert fresh.search(query).limit(1).to_list()[0]["id"] == "7"
    with pytest.raises(ReindexStateError, match="nothing to finish"):
        finish(table)


def test_abandon_leaves_the_table_as_it_was(table, tmp_path):
    before = lance.dataset(table.uri).schema
    fill(table, stage(table), tmp_path)
    abandon(table)
    after = lance.dataset(table.uri)
    assert after.schema.names == before.names
    state = read_state(after.schema, table="docs")
    assert [g.number for g in state.generations] == [1]
    assert state.next_number == 3  # a number, and so a column name, is never used twice


def test_a_finish_that_was_killed_goes_on(table, tmp_path, monkeypatch):
    fill(table, stage(table), tmp_path)

    def die(_table, _columns):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(import_module("lancedb_ft.reindex.switch"), "drop_columns", die)
        with pytest.raises(KeyboardInterrupt):
            abandon(table)
    abandon(table)
    assert "vector__g2" not in lance.dataset(table.uri).schema.names


def test_a_lost_race_is_decided_again(table):
    seen = []

    def decide(state, ds):
        if not seen:  # another process commits between our read and our commit
            other = state.record(event="other", generation=9)
            transition(table, lambda s, d: Change(other), what="interfere")
        seen.append(len(state.history))
        return Change(state.record(event="mine", generation=1))

    transition(table, decide, what="test")
    events = [e["event"] for e in read_state(lance.dataset(table.uri).schema, table="d").history]
    assert seen == [0, 1]
    assert events == ["other", "mine"]


def test_state_survives_json():
    state = TableState((Generation(1, "vector", 8, "active"),)).record(event="x", generation=1)
    schema = pa.schema([("a", pa.int64())], metadata={"lancedb_ft": state.to_json()})
    assert read_state(schema, table="t") == state


@pytest.mark.parametrize("distance", ["l2", "cosine", "dot"])
def test_the_index_is_rebuilt_in_kind(table, tmp_path, distance):
    table.create_index("vector", config=IvfFlat(num_partitions=3, distance_type=distance))
    table.create_index("text", config=FTS())
    generation = stage(table)
    fill(table, generation, tmp_path)
    table.checkout_latest()
    like = describe_index(table, "vector")
    assert build_like(table, "vector__g2", DIMS, like) == "vector__g2_idx"
    built = describe_index(table, "vector__g2")
    assert (built["type"], built["distance_type"], built["num_partitions"]) == (
        "IvfFlat",
        distance,
        3,
    )
    assert table.index_stats("text_idx").num_unindexed_rows == 0
