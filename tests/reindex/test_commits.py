"""Commits that others get in between of: started over, and nobody's change is lost."""

from datetime import timedelta
from importlib import import_module

import lance
import lancedb
import pyarrow as pa
import pytest
from lance import LanceOperation
from lancedb.index import IvfFlat

from lancedb_ft.errors import ReindexError
from lancedb_ft.generation import parked_metadata
from lancedb_ft.reindex.commits import drop_columns, lost_a_race, retrying
from lancedb_ft.reindex.indexes.vector_index import build_like, describe_index
from tests.fake_encoder import FakeEncoder
from tests.reindex.test_backfill import DIMS, assert_right, fill, rows, stage

commits = import_module("lancedb_ft.reindex.commits")


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    """Back off for no time at all: nothing else runs here."""
    monkeypatch.setattr(commits.random, "uniform", lambda a, b: 0.0)


@pytest.fixture
def table(db):
    table = db.create_table("docs", rows(0, 300))
    table.add(rows(300, 600))
    return table


def again(table):
    return lancedb.connect(table._conn.uri).open_table("docs")


def interrupted(monkeypatch, act):
    """Let ``act`` happen once, right after the next reading of the newest version."""
    real, done = commits.dataset, []

    def dataset(table):
        ds = real(table)
        if not done:
            done.append(True)
            act()
        return ds

    monkeypatch.setattr(commits, "dataset", dataset)


def test_metadata_that_others_write_while_columns_are_dropped_stays(table, monkeypatch):
    stage(table)

    def write():
        ds = lance.dataset(table.uri)
        field = next(f.id() for f in ds.lance_schema.fields() if f.name() == "vector")
        lance.LanceDataset.commit(
            ds,
            LanceOperation.UpdateConfig(
                schema_metadata_updates=LanceOperation.UpdateMap({"theirs": "kept"}),
                field_metadata_updates={field: LanceOperation.UpdateMap(parked_metadata(DIMS))},
            ),
            read_version=ds.version,
        )

    state = lance.dataset(table.uri).schema.metadata[b"lancedb_ft"]
    interrupted(monkeypatch, write)
    drop_columns(table, {"vector__g2", "vector__g2_hash"})
    ds = lance.dataset(table.uri)
    assert ds.schema.names == ["id", "text", "vector"]
    assert ds.schema.metadata == {b"theirs": b"kept", b"lancedb_ft": state}
    assert isinstance(ds.schema.field("vector").type, pa.FixedShapeTensorType)


def test_a_column_that_others_add_while_columns_are_dropped_stays(table, monkeypatch):
    stage(table)
    interrupted(
        monkeypatch, lambda: lance.dataset(table.uri).add_columns(pa.field("more", pa.int64()))
    )
    drop_columns(table, {"vector__g2", "vector__g2_hash"})
    assert lance.dataset(table.uri).schema.names == ["id", "text", "vector", "more"]


def test_rows_that_others_append_while_columns_are_dropped_stay(table, monkeypatch):
    stage(table)
    interrupted(monkeypatch, lambda: again(table).add(rows(600, 610)))
    drop_columns(table, {"vector__g2", "vector__g2_hash"})
    assert lance.dataset(table.uri).count_rows() == 610


def test_an_index_build_that_compaction_beats_starts_over(table, tmp_path, monkeypatch):
    table.create_index("vector", config=IvfFlat(num_partitions=1))
    fill(table, stage(table), tmp_path)
    like = describe_index(again(table), "vector")
    late, real, done = again(table), type(table).create_index, []

    def create_index(handle, *args, **kwargs):
        if not done:
            done.append(True)
            again(table).optimize()
        return real(handle, *args, **kwargs)

    monkeypatch.setattr(type(table), "create_index", create_index)
    assert build_like(late, "vector__g2", DIMS, like) == "vector__g2_idx"
    assert again(table).index_stats("vector__g2_idx").num_indexed_rows == 600


@pytest.mark.filterwarnings("ignore:optimize:UserWarning")
def test_a_file_that_a_cleanup_took_before_its_commit_is_written_again(
    table, tmp_path, monkeypatch
):
    """``optimize(cleanup_older_than=0, delete_unverified=True)`` in the worst of moments."""
    generation, real, done = stage(table), lance.LanceDataset.commit, []

    def commit(*args, **kwargs):
        if not done:
            done.append(True)
            again(table).optimize(cleanup_older_than=timedelta(0), delete_unverified=True)
        return real(*args, **kwargs)

    monkeypatch.setattr(lance.LanceDataset, "commit", staticmethod(commit))
    encoder = FakeEncoder()
    fill(table, generation, tmp_path, encoder)
    assert done
    assert_right(table)
    assert len(encoder.encoded) == 600  # what was encoded for the lost file was kept


def test_what_is_and_is_not_a_lost_race():
    assert lost_a_race(OSError("Retryable commit conflict for version 4: ..."))
    assert lost_a_race(RuntimeError("lance error: Commit conflict for version 3"))
    assert lost_a_race(OSError("LanceError: Too many concurrent writers. ..."))
    assert lost_a_race(OSError("Invalid user input: Fragment being replaced not found in existing"))
    assert not lost_a_race(OSError("No space left on device (os error 28)"))
    assert not lost_a_race(ValueError("commit conflict"))


def test_other_errors_are_raised_as_they_are_and_at_once():
    calls = []

    def attempt():
        calls.append(1)
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space"):
        retrying(attempt, what="test")
    assert len(calls) == 1


def test_a_file_that_is_truly_missing_is_not_waited_for_long():
    calls = []

    def attempt():
        calls.append(1)
        raise OSError("Not found: data/x.lance")

    with pytest.raises(OSError, match="Not found"):
        retrying(attempt, what="test")
    assert len(calls) == 6


def test_a_table_that_never_stands_still_is_given_up():
    def attempt():
        raise RuntimeError("lance error: Retryable commit conflict for version 9")

    with pytest.raises(ReindexError, match="Gave up to test after 60 attempts"):
        retrying(attempt, what="test")
