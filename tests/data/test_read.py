"""Pairs from LanceDB tables: joined, counted, traceable."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lancedb_ft.data import (
    audit,
    pairs_from_columns,
    read_pairs,
    read_qrels,
    read_qrels_split,
    read_training_set,
    sample_queries,
)
from lancedb_ft.data.texts import query_id_of
from lancedb_ft.errors import BadRowsError, ColumnNotFoundError, FilterError, InputError

SETS = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture
def docs(db):
    rows = [{"id": f"d{i}", "title": f"Title {i}", "text": f"Body number {i}."} for i in range(20)]
    rows += [{"id": "blank", "title": "Blank", "text": "  "}]
    rows += [{"id": "twice", "title": "T", "text": t} for t in ("one", "two")]
    return db.create_table("docs", rows)


def clicks(db, **columns):
    return db.create_table("clicks", pa.table(columns))


def test_clicks_become_pairs_and_say_where_they_come_from(db, docs):
    table = clicks(db, query=["How to pay?", "how to PAY?", "cancel"], doc_id=["d1", "d2", "d3"])
    table.delete("query = 'nothing'")
    docs.add([{"id": "d99", "title": "x", "text": "y"}])
    pairs = read_pairs(table, docs)
    assert pairs.table["document"].to_pylist() == [f"Body number {i}." for i in (1, 2, 3)]
    assert len(pairs.queries) == 2, "the same text is the same query"
    assert set(pairs.queries.values()) == {"How to pay?", "cancel"}
    assert pairs.source["tables"]["docs"] == {"name": "docs", "version": 2}
    assert pairs.source["database"] == str(db.uri)
    assert (pairs.source["n_rows"], pairs.source["rejected"]) == (3, {})


def test_what_cannot_be_a_pair_is_counted_by_reason(db, docs):
    table = clicks(
        db,
        query=["a", None, " ", "b", "c", "d", "e", "Body number 7."],
        doc_id=["d1", "d2", "d3", "nowhere", None, "blank", "twice", "d7"],
    )
    pairs = read_pairs(table, docs, max_rejected=0.9)
    assert pairs.source["rejected"] == {
        "no query": 2,
        "no document of this id": 1,
        "no document id": 1,
        "document without text": 1,
        "document id stands for several texts": 1,
        "query and document are the same text": 1,
    }
    with pytest.raises(BadRowsError, match="7 of 8 rows rejected: 2 x no query"):
        read_pairs(table, docs)


def test_no_pair_left_is_an_error_not_an_empty_result(db, docs):
    table = clicks(db, query=["a"], doc_id=["d1"], grade=[0])
    with pytest.raises(BadRowsError, match="grade 0"):
        read_pairs(table, docs, grade="grade", max_rejected=1)
    with pytest.raises(BadRowsError, match="no rows"):
        read_pairs(table, docs, where="query = 'zzz'")


def test_grades_query_ids_negatives_and_whole_number_ids(db):
    docs = db.create_table("n", [{"id": i, "body": f"text {i}"} for i in range(5)])
    table = clicks(
        db,
        q=["a", "a", "a", "b", "c"],
        qid=[7, 7, 7, 8, 8],
        d=[1, 1, 2, 3, 3],
        g=[1, 3, 0, 1, 1],
        n=[4, 4, 4, 3, 4],
    )
    columns = {"query": "q", "doc_id": "d", "query_id": "qid", "grade": "g"}
    pairs = read_pairs(table, docs, **columns, text_column="body", max_rejected=1)
    assert pairs.qrels == {"7": {"1": 3}, "8": {"3": 1}}
    assert pairs.source["skipped"] == {
        "repeated pair (the highest grade kept)": 1,
        "grade 0 (judged as no answer)": 1,
    }
    assert pairs.source["rejected"] == {"query id with two texts": 1}
    pairs = read_pairs(table, docs, **columns, text_column="body", negative_id="n", max_rejected=1)
    assert pairs.table["negative"].to_pylist() == ["text 4", "text 4"]
    assert pairs.source["rejected"]["negative: is the document itself"] == 1


def test_where_limit_and_their_mistakes(db, docs):
    table = clicks(db, query=[f"q {i}" for i in range(10)], doc_id=[f"d{i}" for i in range(10)])
    assert len(read_pairs(table, docs, where="doc_id IN ('d1', 'd2')")) == 2
    assert len(read_pairs(table, docs, limit=3)) == 3
    with pytest.raises(FilterError, match="doc_id == "):
        read_pairs(table, docs, where="doc_id == ")
    with pytest.raises(FilterError, match="nowhere"):
        read_pairs(table, docs, where="nowhere = 1")
    with pytest.raises(ColumnNotFoundError, match="no column 'frage'"):
        read_pairs(table, docs, query="frage")
    with pytest.raises(ColumnNotFoundError, match="'text_id'"):
        read_pairs(table, docs, id_column="text_id")
    for limit in (0, 2.5, "a"):
        with pytest.raises(InputError, match="limit"):
            read_pairs(table, docs, limit=limit)


@pytest.mark.parametrize("version", [-1, 99, 2**70, "x"])
def test_a_version_that_is_none(docs, version):
    with pytest.raises(InputError, match="has no version"):
        read_training_set(docs, columns={"anchor": "title", "positive": "text"}, version=version)


def test_a_grade_beyond_any_scale_is_counted(db, docs):
    table = clicks(db, query=["a", "b"], doc_id=["d1", "d2"], grade=[2**31, 2])
    pairs = read_pairs(table, docs, grade="grade", max_rejected=0.5)
    assert pairs.qrels == {query_id_of("b"): {"d2": 2}}
    assert pairs.source["rejected"] == {"grade is not a whole number of 0 or more": 1}


def test_deleted_documents_are_gone(db, docs):
    table = clicks(db, query=["a", "b"], doc_id=["d1", "d2"])
    docs.delete("id = 'd1'")
    assert read_pairs(table, docs, max_rejected=0.5).corpus == {"d2": "Body number 2."}


def test_title_and_body_as_pairs(docs):
    pairs = pairs_from_columns(docs, where="id LIKE 'd%'", limit=5)
    assert len(pairs) == 5
    assert pairs.table["query"][0].as_py() == "Title 0"
    assert pairs.source["columns"] == ["title", "text"]
    pairs = pairs_from_columns(docs, max_rejected=0.2)
    assert pairs.source["rejected"] == {
        "document without text": 1,
        "document id stands for several texts": 2,
    }
    with pytest.raises(BadRowsError, match="same text"):
        pairs_from_columns(docs, query="text")


# --- qrels ---------------------------------------------------------------------------------


@pytest.fixture
def judged(db, docs):
    """20 queries, of which the last six are test, each with one document of grade 1 to 3."""
    part = ["train"] * 10 + ["validation"] * 4 + ["test"] * 6
    names = [f"zero{i} one{i} two{i}" for i in range(20)]
    queries = pa.table({"id": [f"q{i}" for i in range(20)], "text": names, "split": part})
    scores = [i % 4 for i in range(20)]
    qrels = pa.table(
        {
            "query_id": [*queries["id"].to_pylist(), "unknown"],
            "doc_id": [*(f"d{i}" for i in range(20)), "d1"],
            "score": [*scores, 1],
        }
    )
    texts = [f"body{i} of{i} document{i} number{i}" for i in range(20)]
    docs = db.create_table("own", pa.table({"id": [f"d{i}" for i in range(20)], "text": texts}))
    return docs, db.create_table("queries", queries), db.create_table("qrels", qrels)


def test_only_positive_scores_of_the_wanted_part(judged):
    everything = read_qrels(*judged)
    assert len(everything) == 15
    assert everything.source["skipped"] == {"grade 0 (judged as no answer)": 5}
    assert everything.source["rejected"] == {"no query": 1}
    assert everything.qrels["q3"] == {"d3": 3}
    test = read_qrels(*judged, split="test", max_rejected=0.2)
    assert set(test.qrels) == {"q14", "q15", "q17", "q18", "q19"}
    dev = read_qrels(*judged, split="dev", max_rejected=0.3)
    assert set(dev.qrels) == {"q10", "q11", "q13"}
    with pytest.raises(InputError, match=r"No query.*split = 'extra'.*validation"):
        read_qrels(*judged, split="extra")


def test_an_id_of_two_queries_is_none(db, judged):
    docs, queries, qrels = judged
    queries.add([{"id": "q3", "text": "another text", "split": "train"}])
    pairs = read_qrels(docs, queries, qrels, max_rejected=0.2)
    assert "q3" not in pairs.queries
    assert pairs.source["rejected"] == {"query id with two texts": 1, "no query": 1}


def test_parts_may_be_numbers(db, judged):
    docs, queries, qrels = judged
    fold = pa.array([i % 2 for i in range(20)], pa.int64())
    folds = db.create_table(
        "folds", queries.to_arrow().drop_columns(["split"]).append_column("fold", fold)
    )
    pairs = read_qrels(docs, folds, qrels, split="1", split_column="fold", max_rejected=0.5)
    assert set(pairs.qrels) == {f"q{i}" for i in range(1, 20, 2)}


def test_sampling_takes_whole_queries_and_grows_with_the_limit(judged):
    pairs = read_qrels(*judged)
    five, eight = (read_qrels(*judged, max_pairs=n, seed=4) for n in (5, 8))
    assert (len(five), len(eight)) == (5, 8)
    assert set(five.qrels) < set(eight.qrels)
    assert set(sample_queries(pairs, 5, seed=5).qrels) != set(five.qrels)
    assert sample_queries(pairs, 5, seed=4).fingerprint == five.fingerprint
    assert sample_queries(pairs, 99) is pairs
    with pytest.raises(InputError, match="1 or more"):
        sample_queries(pairs, 0)


def test_the_published_split_is_used_and_cleaned(judged):
    docs, queries, qrels = judged
    split = read_qrels_split(docs, queries, qrels, max_rejected=0.3)
    assert [len(part) for part in split.parts().values()] == [7, 3, 5]
    qrels.add([{"query_id": "q1", "doc_id": "d14", "score": 1}])
    qrels.add([{"query_id": "q11", "doc_id": "d14", "score": 1}])
    split = read_qrels_split(docs, queries, qrels, max_pairs=4, max_rejected=0.3)
    assert split.info["dropped"] == {"train": 1, "dev": 2}
    assert split.info["max_pairs"] == len(split.train) == 4
    assert audit(split).ok


def test_a_missing_dev_part_is_carved_out_of_train(judged):
    docs, queries, qrels = judged
    queries.update(where="split = 'validation'", values={"split": "train"})
    split = read_qrels_split(docs, queries, qrels, dev_share=0.3, max_rejected=0.3)
    assert [len(part) for part in split.parts().values()] == [7, 3, 5]
    assert set(split.test.qrels) == {"q14", "q15", "q17", "q18", "q19"}
    queries.update(where="split = 'test'", values={"split": "extra"})
    with pytest.raises(InputError, match="no part 'test'"):
        read_qrels_split(docs, queries, qrels)


def test_without_a_split_column_the_split_is_made(judged):
    docs, queries, qrels = judged
    queries.drop_columns(["split"])
    split = read_qrels_split(docs, queries, qrels)
    assert sum(len(part) for part in split.parts().values()) == 15
    assert split.info["method"] == "split_pairs"
    with pytest.raises(ColumnNotFoundError, match="'part'"):
        read_qrels_split(docs, queries, qrels, split_column="part")


@pytest.mark.data
@pytest.mark.parametrize("name", ["scifact", "squad_part"])
def test_published_splits_are_clean_after_reading(db, name):
    if not (SETS / name).is_dir():
        pytest.skip("needs the shared data sets")
    tables = [
        db.create_table(table, pq.read_table(SETS / name / f"{table}.parquet"))
        for table in ("corpus", "queries", "qrels")
    ]
    split = read_qrels_split(*tables)
    assert audit(split).check().ok
    assert min(len(part) for part in split.parts().values()) > 50
