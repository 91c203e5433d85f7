import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS, IvfFlat

from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import ColumnNotFoundError, LancedbFtError, NoTextIndexError, SearchError
from lancedb_ft.search import Searcher, search
from lancedb_ft.types import Retriever
from tests.search.words import DIMS, Switch, embedded, raw_table, rows, unit, words_table
from tests.tiny import tiny_model

MODES = ("hybrid", "vector", "fts")


@pytest.fixture
def docs(db):
    return words_table(db)


@pytest.fixture
def searcher(docs):
    with Searcher(docs) as searcher:
        yield searcher


def top(found):
    return found["id"].to_pylist()[0]


# --- right answers -------------------------------------------------------------------------


def test_the_readme_line(docs):
    frame = search(docs, "document number 7", k=5).to_pandas()
    assert list(frame.columns) == ["id", "text", "group", "_relevance_score"]
    assert frame.iloc[0]["id"] == "d7"
    assert frame["_relevance_score"].is_monotonic_decreasing
    assert frame.iloc[0]["_relevance_score"] == pytest.approx(2 / 61)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("indexed", [True, False])
def test_same_rows_as_lancedb(db, mode, indexed):
    table = words_table(db, n_rows=300)
    if indexed:
        table.create_index("vector", config=IvfFlat(num_partitions=4, distance_type="cosine"))
        table.add(rows(300, 310))  # not in the indexes
    for number in (7, 150, 305 if indexed else 299):
        query = f"document number {number}"
        ours = search(table, query, mode=mode, k=10).to_pydict()
        theirs = table.search(query, query_type=mode).limit(10).to_arrow().to_pydict()
        score = {"hybrid": "_relevance_score", "vector": "_distance", "fts": "_score"}[mode]
        assert ours[score] == pytest.approx(theirs[score])
        assert ours["id"][0] == theirs["id"][0] == f"d{number}"
        if mode == "vector":  # all other texts have the same _score, so each may pick others
            assert ours["id"] == theirs["id"]


def test_the_distance_is_that_of_the_index_also_for_rows_it_does_not_have(db):
    table = raw_table(db, n_rows=300)
    table.create_index("vector", config=IvfFlat(num_partitions=2, distance_type="cosine"))
    twice = 2 * unit("a new one")  # l2 distance 1 to its half, cosine distance 0
    table.add([{"id": "new", "text": "a new one", "vector": twice}])
    found = search(table, None, vector=unit("a new one"), mode="vector", k=2)
    assert top(found) == "new"
    assert found["_distance"].to_pylist()[0] == pytest.approx(0, abs=1e-5)
    found = search(table, None, vector=3 * unit("document number 9"), mode="vector", k=2)
    assert top(found) == "d9"
    assert found["_distance"].to_pylist()[0] == pytest.approx(0, abs=1e-5)


def test_several_text_columns(db):
    table = db.create_table(
        "books",
        pa.table(
            {
                "id": ["a", "b", "c"],
                "title": ["whales", "ships", "sea"],
                "text": ["ships and more ships", "the whales", "nothing"],
                "vector": pa.FixedSizeListArray.from_arrays(
                    pa.array(np.concatenate([unit(t) for t in "abc"])), DIMS
                ),
            }
        ),
    )
    table.create_index("title", config=FTS())
    table.create_index("text", config=FTS())
    ids = {
        columns: set(search(table, "whales", mode="fts", text_columns=columns)["id"].to_pylist())
        for columns in (None, ("title",), ("text",), ("title", "text"))
    }
    assert ids == {
        None: {"a", "b"},
        ("title",): {"a"},
        ("text",): {"b"},
        ("title", "text"): {"a", "b"},
    }
    assert top(search(table, "sea", vector=unit("c"))) == "c"


def test_half_precision_vectors(db):
    vectors = np.stack([unit(f"text {i}") for i in range(20)]).astype(np.float16)
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIMS)
    table = db.create_table("half", pa.table({"id": [str(i) for i in range(20)], "v": column}))
    assert top(search(table, None, vector=unit("text 11"), mode="vector")) == "11"


# --- versions ------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_rows_written_by_another_handle_are_seen_at_once(db, docs, searcher, mode):
    other = lancedb.connect(db.uri).open_table("docs")
    other.add([{"id": "new", "text": "zebra crossing", "group": 9}])
    assert top(searcher.search("zebra crossing", mode=mode, k=1)) == "new"
    other.delete("id = 'new'")
    assert "new" not in searcher.search("zebra crossing", mode=mode)["id"].to_pylist()


def test_a_refresh_interval(docs):
    with Searcher(docs, refresh_interval_s=0.4) as searcher:
        docs.add([{"id": "new", "text": "zebra crossing", "group": 9}])
        assert searcher.search("zebra", mode="fts").num_rows == 0
        time.sleep(0.5)
        assert searcher.search("zebra", mode="fts").num_rows == 1


def test_a_pinned_version(docs):
    version = docs.version
    docs.add([{"id": "new", "text": "zebra crossing", "group": 9}])
    with Searcher(docs, version=version) as searcher:
        assert searcher.search("zebra", mode="fts").num_rows == 0
    with pytest.raises(SearchError, match="cannot be read"):
        Searcher(docs, version=9999)


@pytest.mark.parametrize("stable_row_ids", ["true", "false"])
def test_rows_deleted_updated_and_compacted_keep_their_hits(db, stable_row_ids):
    table = words_table(db, stable_row_ids=stable_row_ids)
    with Searcher(table) as searcher:
        for step in range(4):
            table.add(rows(100 * (step + 1), 100 * (step + 1) + 30))
            table.delete(f"`group` = {step % 3} AND id LIKE 'd{step}%'")
            table.update(where="id = 'd7'", values={"group": 70 + step})
            if step % 2:
                table.optimize()
            for mode in MODES:
                found = searcher.search("document number 7", k=500, mode=mode).to_pydict()
                truth = {r["id"]: r for r in table.search().limit(None).to_list()}
                assert set(found["id"]) == set(truth)
                for doc_id, text, group in zip(
                    found["id"], found["text"], found["group"], strict=True
                ):
                    assert text == f"document number {doc_id[1:]}" == truth[doc_id]["text"]
                    assert group == truth[doc_id]["group"]
                assert found["id"][0] == "d7"


@pytest.mark.parametrize("select", [None, ["id"], ["_rowid"], []])
@pytest.mark.parametrize("mode", MODES)
def test_deleted_rows_do_not_take_the_place_of_live_ones(db, mode, select):
    """The full-text index of pylance 14.0 returns them after a compaction."""
    table = words_table(db, n_rows=300)
    table.delete("`group` = 0")
    table.optimize()
    with Searcher(table) as searcher:
        for k in (10, 200, 1000):
            found = searcher.search("document number", mode=mode, k=k, select=select)
            assert found.num_rows == min(k, 200)
        table.add(rows(300, 301))
        found = searcher.search("document number", mode=mode, k=1000, select=select)
        assert found.num_rows == 201


def test_deleted_rows_do_not_reach_a_reranker(db):
    from lancedb.rerankers import LinearCombinationReranker

    table = words_table(db, n_rows=300)
    table.delete("`group` = 0")
    table.optimize()
    found = search(table, "document number 7", k=1000, reranker=LinearCombinationReranker())
    assert (top(found), found.num_rows) == ("d7", 200)


@pytest.mark.filterwarnings("ignore:optimize.cleanup_older_than")
def test_a_version_that_was_cleaned_up_is_left_for_the_newest(docs):
    with Searcher(docs, refresh_interval_s=3600) as searcher:
        assert top(searcher.search("document number 7", k=1)) == "d7"
        docs.delete("`group` = 0")
        docs.optimize(cleanup_older_than=timedelta(0))
        found = searcher.search("document number 7", k=100)
        assert top(found) == "d7"
        assert found.num_rows == 40


@pytest.mark.parametrize("mode", MODES)
def test_a_table_dropped_and_made_again(db, mode):
    searcher = Searcher(words_table(db))
    assert top(searcher.search("document number 7", mode=mode, k=1)) == "d7"
    db.drop_table("docs")
    with pytest.raises(SearchError, match=r"'docs'.*cannot be read"):
        searcher.search("document number 7", mode=mode)
    # The same steps give the same version number, with other files.
    again = words_table(db, n_rows=30)
    assert again.version == searcher.version
    found = searcher.search("document number 7", mode=mode, k=100)
    assert top(found) == "d7"
    assert found.num_rows == 30


def test_a_table_made_again_with_fewer_versions(db):
    table = words_table(db)
    table.add(rows(60, 70))
    with Searcher(table) as searcher:
        assert searcher.search("document", k=100).num_rows == 70
        db.drop_table("docs")
        words_table(db, n_rows=30, fts=False)
        assert searcher.search("document", k=100, mode="vector").num_rows == 30
        with pytest.raises(NoTextIndexError):
            searcher.search("document")


def test_closed(docs):
    with Searcher(docs) as searcher:
        assert "version=" in repr(searcher)
    assert repr(searcher) == "Searcher('docs', closed)"
    with pytest.raises(SearchError, match="closed"):
        searcher.search("document")


# --- generations ---------------------------------------------------------------------------


def test_a_switch_under_a_long_lived_searcher(docs):
    # Without kept vectors, to see which model embeds each query.
    searcher = Searcher(docs, n_kept_vectors=0)
    docs.create_index("vector", config=IvfFlat(num_partitions=2))

    def check(sign):
        for mode in MODES:
            found = searcher.search("document number 7", mode=mode, k=3)
            assert top(found) == "d7", (sign, mode)
            if mode != "fts":
                assert embedded[-1] == (sign, "document number 7")
            if mode == "vector":
                assert found["_distance"].to_pylist()[0] == pytest.approx(0, abs=1e-5)
            shown = [n for n in found.column_names if not n.startswith("_")]
            assert shown == ["id", "text", "group"]  # neither vectors nor our hash

    steps = Switch(docs)
    check(1)
    steps.stage()
    check(1)
    # The parked column can be searched by name before the switch, with its own model.
    parked = searcher.search("document number 7", column="vector__g2", mode="vector", k=1)
    assert (top(parked), embedded[-1][0]) == ("d7", -1)
    steps.switch()
    check(-1)
    steps.rollback()
    check(1)
    steps.switch()
    steps.finish()
    check(-1)
    with pytest.raises(ColumnNotFoundError):
        searcher.search("document number 7", column="vector")


async def test_a_switch_under_async_readers(db, docs):
    """Readers never see an error, a wrong row or a query of the wrong model."""
    table = await (await lancedb.connect_async(db.uri)).open_table("docs")
    searcher = Searcher(table)
    done = asyncio.Event()

    async def read(number):
        n_read = 0
        while not done.is_set():
            for mode in ("hybrid", "vector"):
                found = await searcher.search_async(f"document number {number}", mode=mode, k=3)
                assert top(found) == f"d{number}"
            n_read += 1
        return n_read

    async def write():
        steps = Switch(docs)
        for step in (steps.stage, steps.switch, steps.rollback, steps.switch, steps.finish):
            await asyncio.to_thread(step)
            await asyncio.sleep(0.05)
        done.set()

    *n_read, _ = await asyncio.gather(*(read(number) for number in range(4)), write())
    assert min(n_read) > 0
    searcher.close()


def test_a_searcher_that_looks_rarely_survives_finish(docs):
    with Searcher(docs, refresh_interval_s=3600) as searcher:
        steps = Switch(docs)
        steps.stage()
        steps.switch()
        steps.finish()
        # Still on the old version, whole: its column, and the model of that column.
        assert top(searcher.search("document number 7", mode="vector")) == "d7"
        assert embedded[-1][0] == 1
        # The new column is named: not in the old version, so it looks for a new one.
        found = searcher.search("document number 7", mode="vector", column="vector__g2")
        assert (top(found), embedded[-1][0]) == ("d7", -1)


def test_a_model_of_ours_also_after_the_registry_was_reset(db, tmp_path):
    from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

    registry = get_registry()
    function = registry.get("ft-embed").create(name=tiny_model(tmp_path))
    config = EmbeddingFunctionConfig(
        vector_column="vector", source_column="text", function=function
    )
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("vector", pa.list_(pa.float32(), function.ndims())),
        ]
    )
    table = db.create_table("ours", schema=schema, embedding_functions=[config])
    texts = ["the quick brown fox", "cancel my order", "choose a new password"]
    table.add([{"id": str(i), "text": text} for i, text in enumerate(texts)])
    table.create_index("text", config=FTS())
    held = registry._functions.pop("ft-embed")
    try:
        found = search(table, texts[1], k=1)
    finally:
        registry._functions["ft-embed"] = held
    assert found["id"].to_pylist() == ["1"]
    assert found["_relevance_score"].to_pylist() == [pytest.approx(2 / 61)]
    found = search(table, texts[2], mode="vector", embedder=get_encoder(str(tmp_path / "model")))
    assert top(found) == "2"


# --- threads, tasks and the kept ones ------------------------------------------------------


def test_many_threads(docs, searcher):
    stop = threading.Event()

    def write():
        for i in range(1000, 1010):
            docs.add(rows(i, i + 1))
        stop.set()

    def read(number):
        n_read = 0
        while not stop.is_set() or n_read < 3:
            assert top(searcher.search(f"document number {number}", k=2)) == f"d{number}"
            n_read += 1
        return n_read

    with ThreadPoolExecutor(9) as pool:
        reads = [pool.submit(read, number) for number in range(8)]
        pool.submit(write).result()
        assert all(future.result() >= 3 for future in reads)


async def test_async_gives_what_sync_gives(searcher):
    for mode in MODES:
        expected = searcher.search("document number 7", mode=mode, where="`group` = 1")
        found = await searcher.search_async("document number 7", mode=mode, where="`group` = 1")
        assert found == expected
    with pytest.raises(LancedbFtError):
        await searcher.search_async("")


async def test_more_tasks_than_threads(searcher):
    queries = [f"document number {i % 60}" for i in range(200)]
    found = await asyncio.gather(*(searcher.search_async(query, k=1) for query in queries))
    assert [top(table) for table in found] == [f"d{i % 60}" for i in range(200)]


async def test_the_event_loop_runs_on_while_a_query_is_embedded(db):
    table = raw_table(db)
    ticks = 0

    def slow(text):
        time.sleep(0.3)
        return unit(text)

    async def tick():
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    with Searcher(table, embedder=slow) as searcher:
        assert top(await searcher.search_async("document number 4", k=1)) == "d4"
    ticker.cancel()
    assert ticks > 10


def test_both_legs_run_at_once(db, monkeypatch):
    table = raw_table(db)
    leg_runs, embedding = threading.Event(), threading.Event()

    def embedder(text):
        embedding.set()
        assert leg_runs.wait(5)
        return unit(text)

    from lancedb_ft.search.snapshot import Snapshot

    text_hits = Snapshot.text_hits

    def waiting(self, *args, **kwargs):
        assert embedding.wait(5)
        leg_runs.set()
        return text_hits(self, *args, **kwargs)

    monkeypatch.setattr(Snapshot, "text_hits", waiting)
    assert top(search(table, "document number 4", embedder=embedder, k=1)) == "d4"


def test_search_keeps_a_searcher_by_handle_and_by_place(db, docs):
    from lancedb_ft.search.kept import _MAX_KEPT, _kept, _searcher_of

    kept = _searcher_of(docs)
    assert _searcher_of(docs) is kept
    assert _searcher_of(lancedb.connect(db.uri).open_table("docs")) is kept
    for i in range(_MAX_KEPT + 2):
        _searcher_of(db.create_table(f"t{i}", [{"id": "a"}]))
    assert len(_kept) == _MAX_KEPT
    assert top(search(docs, "document number 7")) == "d7"


# --- retriever -----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
def test_retriever(searcher, mode):
    retriever = searcher.retriever(mode=mode)
    assert isinstance(retriever, Retriever)
    run = retriever({"q1": "document number 7", "q2": "document number 9"}, 5)
    assert list(run) == ["q1", "q2"]
    for query_id, doc_id in (("q1", "d7"), ("q2", "d9")):
        scores = run[query_id]
        assert len(scores) == 5
        assert max(scores, key=scores.get) == doc_id
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_retriever_ids(db, searcher):
    numbers = searcher.retriever(mode="fts", id_column="group")({"q": "document"}, 60)
    assert set(numbers["q"]) == {"0", "1", "2"}
    with pytest.raises(ColumnNotFoundError):
        searcher.retriever(id_column="nope")
    assert searcher.retriever(mode="fts")({"q": "zebra"}, 5) == {"q": {}}
