"""``lancedb-ft fusion``: learned, shown, served, and refused with exit code 3."""

import json

import lancedb
import pyarrow as pa
import pytest

import lancedb_ft as ft
from tests.search.words import words_table
from tests.tiny import tiny_model

WORDS = ["fox", "dog", "order", "money", "settings", "password", "number", "page"]
TEXTS = [f"{a} {b}" for a in WORDS for b in WORDS if a != b]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A database whose table ``docs`` searches with ``tiny@1``, and judged queries for it."""
    from lancedb.embeddings import EmbeddingFunctionConfig, get_registry
    from lancedb.index import FTS

    folder = tmp_path_factory.mktemp("fusion")
    uri = str(folder / "db")
    store = ft.ModelStore(f"{uri}/ft_models")
    version = store.save(tiny_model(folder / "tiny", dims=16), name="tiny")
    function = get_registry().get("ft-embed").create(name=version.ref, store=store.uri)
    db = lancedb.connect(uri)
    docs = db.create_table(
        "docs",
        schema=pa.schema(
            [("id", pa.string()), ("text", pa.string()), ("vector", pa.list_(pa.float32(), 16))]
        ),
        embedding_functions=[
            EmbeddingFunctionConfig(vector_column="vector", source_column="text", function=function)
        ],
    )
    docs.add([{"id": f"d{i}", "text": text} for i, text in enumerate(TEXTS)])
    docs.create_index("text", config=FTS())
    # Words that no document has move the vector of the query, and not its full-text search.
    texts = [f"{text}, zebra? {i}" for i, text in enumerate(TEXTS)]
    ids = [f"q{i}" for i in range(len(texts))]
    parts = ["train", "test"] + ["dev"] * (len(ids) - 2)
    db.create_table("queries", pa.table({"id": ids, "text": texts, "split": parts}))
    right = [f"d{i}" for i in range(len(texts))]
    db.create_table("qrels", pa.table({"query_id": ids, "doc_id": right, "score": [1] * len(ids)}))
    return uri


def judged(uri):
    tables = ("--queries-table", "queries", "--qrels-table", "qrels")
    return ("--db", uri, "--table", "docs", *tables, "--json")


def test_fit_show_and_search(place, run):
    code, out, err = run("fusion", "fit", *judged(place), "--candidates", 20)
    assert code == 0, err
    fitted = json.loads(out)
    assert fitted["wins"] is True
    assert fitted["n"] == len(TEXTS) - 2

    code, out, err = run("fusion", "show", "--db", place, "--table", "docs", "--json")
    assert code == 0, err
    shown = json.loads(out)
    assert shown["model"] == "tiny@1"
    assert shown["fusion"].startswith("weights ")
    assert shown["evidence"]["fusion"]["delta"] == fitted["delta"]
    assert shown["auto"] is None

    words = ("--db", place, "--table", "docs", "--json", "--explain")
    code, out, err = run("search", "dog money", *words, "--fusion", "learned")
    assert code == 0, err
    assert json.loads(out)["explain"]["fusion"] == shown["fusion"]
    code, out, err = run("search", "dog money", *words, "--mode", "auto")
    assert code == 0, err
    assert json.loads(out)["explain"]["mode"] == "hybrid"


def test_a_table_a_person_can_read(place, run):
    code, out, err = run("fusion", "show", "--db", place, "--table", "docs")
    assert code == 0, err
    assert "tiny@1" in out
    code, out, err = run("fusion", "fit", *judged(place)[:-1], "--candidates", 20)
    assert code == 0, err
    assert "gain" in out


def test_what_does_not_win_exits_with_3(place, run):
    code, out, err = run("fusion", "auto", *judged(place))
    assert code == 3
    assert json.loads(out)["error"] == "NotBetterError"
    assert "Nothing was saved" in err


def test_a_file_is_written_and_read(place, run, tmp_path):
    path = tmp_path / "ranking.json"
    code, _, err = run("fusion", "fit", *judged(place), "--candidates", 20, "--to", path)
    assert code == 0, err
    code, out, err = run(
        "search", "dog money", "--db", place, "--table", "docs", "--json", "--fusion", path
    )
    assert code == 0, err
    assert json.loads(out)["n"] == 10


def test_a_table_without_a_version_needs_a_file(db, run):
    words_table(db)
    ids, right = ["q1", "q2", "q3"], ["d1", "d2", "d3"]
    texts = [f"where is document {i}?" for i in (1, 2, 3)]
    queries = {"id": ids, "text": texts, "split": ["train", "dev", "test"]}
    db.create_table("queries", pa.table(queries))
    db.create_table("qrels", pa.table({"query_id": ids, "doc_id": right, "score": [1] * 3}))
    code, _, err = run("fusion", "fit", *judged(db.uri))
    assert code == 2
    assert "--to" in err
    code, out, err = run("fusion", "show", "--db", db.uri, "--table", "docs", "--json")
    assert (code, json.loads(out)["model"]) == (0, None)


def test_a_part_that_is_none_is_refused(place, run):
    code, _, err = run("fusion", "fit", *judged(place), "--part", "all")
    assert code == 2
    assert "--part" in err
