"""Input that cannot be meant: refused by name, with what was found, before any work is done."""

import json

import lance
import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import BTree

import lancedb_ft as ft
from lancedb_ft.errors import InputError, QueryError
from lancedb_ft.reranking.base import Reading, TextReranker
from lancedb_ft.search.calibration import Calibration
from lancedb_ft.search.fusion import Fusion
from lancedb_ft.types import Pairs
from tests.search.words import words_table

PAIRS = Pairs.of([(f"q{i}", f"document {i}", f"d{i}", f"document number {i}") for i in range(12)])


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return words_table(lancedb.connect(str(tmp_path_factory.mktemp("bad"))), n_rows=40)


# --- searching -----------------------------------------------------------------------------


@pytest.mark.parametrize("version", [-1, 0, True, 1.5, "1", 2**64])
def test_a_version_is_a_count(docs, version):
    with pytest.raises(QueryError, match=r"version is .*it must be a whole number, from 1"):
        ft.Searcher(docs, version=version)


def test_a_version_of_numpy(docs):
    with ft.Searcher(docs, version=np.int64(docs.version)) as searcher:
        assert searcher.search("document", k=3).num_rows == 3


class FirstFirst(TextReranker):
    def __init__(self, column):
        super().__init__(column=column, guard=ft.RerankGuard())

    def read(self, query, texts, deadline):
        keys = np.arange(len(texts), 0, -1.0)
        return Reading(keys, (keys / len(texts)).astype(np.float32))


@pytest.mark.parametrize("mode", ["hybrid", "vector", "fts"])
def test_a_reranker_reads_no_vectors(docs, mode):
    with pytest.raises(QueryError, match=r"'vector' holds fixed_size_list.*FirstFirst reads text"):
        ft.search(docs, "document", mode=mode, reranker=FirstFirst("vector"))
    assert ft.search(docs, "document", mode=mode, reranker=FirstFirst("group")).num_rows == 10


def test_a_reranker_reads_no_bytes():
    rows = pa.table({"raw": pa.array([b"\xff"])})
    with pytest.raises(QueryError, match="'raw' holds binary"):
        FirstFirst("raw").rerank_fts("q", rows)


# --- learning ------------------------------------------------------------------------------


@pytest.mark.parametrize("fit", [ft.fit_fusion, ft.fit_auto])
@pytest.mark.parametrize(
    ("named", "told"),
    [
        ({"to": 3}, "to is 3; it must be the path"),
        ({"seed": "x"}, "seed is 'x'; it must be a whole number, 0 or more"),
        ({"seed": -1}, "seed is -1"),
        ({"seed": None}, "seed is None"),
        ({"pairs": None}, "pairs is a NoneType; it must be Pairs"),
        ({"pairs": {"q": "d"}}, "pairs is a dict"),
    ],
)
def test_what_cannot_be_learned_with(docs, tmp_path, fit, named, told):
    named = {"pairs": PAIRS, "to": tmp_path / "learned.json", **named}
    with pytest.raises(InputError, match=told):
        fit(docs, **named)


@pytest.mark.parametrize("candidates", ["x", None, 0, 2.5, True])
def test_candidates_are_a_count(docs, tmp_path, candidates):
    with pytest.raises(InputError, match=r"candidates is .*it must be a whole number, 1 or more"):
        ft.fit_fusion(docs, PAIRS, candidates=candidates, to=tmp_path / "learned.json")


# --- what is kept --------------------------------------------------------------------------


def calibration_of(ranks, source=None):
    return json.dumps({"vector_ranks": ranks, "source": source or {}})


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"vector_ranks": [[1e400]], "source": {}}',
        calibration_of([[-5]]),
        calibration_of([[2**31]]),
        calibration_of([[10**30]]),
        calibration_of([[1.5]]),
        calibration_of([["1"]]),
        calibration_of([[None]]),
        calibration_of([[True]]),
        calibration_of([[1], [1, 2]]),
        calibration_of([1, 2]),
        calibration_of([[1]], "somewhere"),
        "null",
        "3",
    ],
    ids=lambda text: text[:50],
)
def test_what_is_no_calibration(text):
    with pytest.raises(InputError):
        Calibration.from_json(text)


def test_what_a_calibration_must_hold_is_said():
    with pytest.raises(InputError, match="int64 from -5 to 3; it must hold whole numbers from -1"):
        Calibration.from_json(calibration_of([[-5, 3]]))
    again = Calibration.from_json(calibration_of([[-1, 0, 2**31 - 1]]))
    assert again.vector_ranks.tolist() == [[-1, 0, 2**31 - 1]]


INFO = ft.SearchInfo(version=3, degraded=("fts: late",)).to_dict()


@pytest.mark.parametrize(
    "told",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 100_000,
        b"null",
        b"[]",
        b"{}",
        json.dumps({**INFO, "facets": [1]}).encode(),
        json.dumps({**INFO, "facets": {"a": {"values": [[1]], "n_other": 0}}}).encode(),
        json.dumps({**INFO, "degraded": None}).encode(),
    ],
    ids=lambda told: repr(told[:40]),
)
def test_damaged_metadata(told):
    found = pa.table({"id": ["a"]}).replace_schema_metadata({b"lancedb_ft.search": told})
    with pytest.raises(InputError, match="is damaged"):
        ft.SearchInfo.of(found)


@pytest.mark.parametrize(
    "weights", [(1e308,) * 4, (1e308, 1e308, 0, 0), (1e300, 0, 0, 0), (3e38, 0, 0, 1e38)]
)
def test_weights_whose_scores_would_be_infinite(weights):
    with pytest.raises(InputError, match="their sum must be finite"):
        Fusion(*weights)
    with pytest.raises(InputError, match=r"must be finite numbers|sum must be finite"):
        Fusion(10**400, *weights[1:])


def test_the_heaviest_weights_give_finite_scores(docs):
    options = ft.SearchOptions(fusion=Fusion(*[8.5e37] * 4))
    scores = ft.search(docs, "document number 7", options=options)["_relevance_score"].to_pylist()
    assert np.isfinite(scores).all()
    assert scores == sorted(scores, reverse=True)


# --- writing -------------------------------------------------------------------------------


@pytest.mark.parametrize("index", [False, True])
def test_the_least_and_the_greatest_id(db, index):
    ids = [-(2**63), -1, 0, 2**63 - 1]
    table = db.create_table(
        "t", pa.table({"id": pa.array(ids, pa.int64()), "text": ["old words"] * 4})
    )
    if index:
        table.create_index("id", config=BTree())
    report = ft.write(table, [{"id": i, "text": f"new {i}"} for i in ids[::3]], id_column="id")
    assert (report.n_updated, report.n_inserted) == (2, 0)
    stored = {row["id"]: row["text"] for row in lance.dataset(table.uri).to_table().to_pylist()}
    assert stored == {**dict.fromkeys(ids, "old words"), **{i: f"new {i}" for i in ids[::3]}}
    report = ft.write(table, [], delete=ids[:2], id_column="id")
    assert report.n_deleted == 2
    assert lance.dataset(table.uri).count_rows() == 2


def test_a_column_of_nulls_is_written_as_nulls(db):
    kept = {"id": ["a", "b"], "text": ["one", "two"], "none": pa.nulls(2)}
    table = db.create_table("t", pa.table(kept))
    rows = pa.table({"id": ["a", "c"], "text": ["changed", "new"], "none": pa.nulls(2)})
    report = ft.write(table, rows)
    assert (report.n_updated, report.n_inserted) == (1, 1)
    assert ft.write(table, rows).n_unchanged == 2
    assert lance.dataset(table.uri).to_table()["none"].to_pylist() == [None] * 3
    with pytest.raises(InputError, match="'none'"):
        ft.write(table, [{"id": "a", "none": 1}])
