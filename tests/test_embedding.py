"""``ft-embed`` in LanceDB: what the table keeps, what reads and writes it, what goes wrong how."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

import lancedb_ft  # noqa: F401  registers "ft-embed"
from lancedb_ft.embedding import ALIAS, FineTunedEmbeddings, function_entry, register
from lancedb_ft.encoder import clear_encoders, get_encoder, load_sentence_transformer
from lancedb_ft.errors import (
    AliasTakenError,
    FingerprintError,
    InputError,
    ModelNotFoundError,
    QueryError,
    StoreNotFoundError,
)
from lancedb_ft.store import ModelStore, resolve_model
from lancedb_ft.table import embedding_entries
from tests.store.hub_server import Hub
from tests.tiny import tiny_model

DIMS = 16
ROWS = [
    {"id": 1, "text": "how do I cancel my order"},
    {"id": 2, "text": "open the settings page"},
    {"id": 3, "text": "the quick brown fox"},
]
#: Long enough for a slow machine, far too short for any retry of LanceDB's.
AT_ONCE_S = 5.0


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three models with the same dims and different weights."""
    home = tmp_path_factory.mktemp("models")
    return [tiny_model(home / str(seed), dims=DIMS, seed=seed) for seed in range(3)]


@pytest.fixture(scope="module")
def saved(folders, tmp_path_factory):
    """A store with ``support@1`` to ``support@3``."""
    store = ModelStore(str(tmp_path_factory.mktemp("store") / "ft_models"))
    for folder in folders:
        store.save(folder, name="support", manifest={})
    return store


@pytest.fixture(autouse=True)
def _nothing_named(monkeypatch):
    """No store is named anywhere, and no model is loaded."""
    monkeypatch.delenv("LANCEDB_FT_STORE", raising=False)
    variables = dict(get_registry()._variables)
    clear_encoders()
    yield
    get_registry()._variables.clear()
    get_registry()._variables.update(variables)


@pytest.fixture
def function(saved):
    # float32, so that vectors can be compared closely; "auto" is this machine's choice.
    create = get_registry().get(ALIAS).create
    return create(name="support@3", store=saved.uri, precision="float32")


def docs_table(db, function, rows=ROWS, name="docs"):
    """A table as an application makes it: the schema from a LanceModel, rows without vectors."""

    class Doc(LanceModel):
        id: int
        text: str | None = function.SourceField()
        vector: Vector(function.ndims(), nullable=True) | None = function.VectorField(default=None)

    table = db.create_table(name, schema=Doc)
    if rows:
        table.add(rows)
    return table


def vectors_of(table):
    column = table.to_arrow().sort_by("id")["vector"].combine_chunks()
    return np.asarray(column.drop_null().flatten(), np.float32).reshape(-1, DIMS)


def expected_vectors(folder, texts):
    model = load_sentence_transformer(folder, device="cpu")
    return model.encode(texts, show_progress_bar=False)


# --- making one --------------------------------------------------------------------------------


def test_create_by_version_is_pinned(saved, folders):
    made = get_registry().get("ft-embed").create(name="support@2", store=saved.uri)
    assert made.safe_model_dump() == {
        "name": "support@2",
        "store": f"$var:ft_store:{saved.uri}",
        "fingerprint": resolve_model(folders[1]).fingerprint,
        "dims": DIMS,
        "max_retries": 0,
    }
    assert made.store == saved.uri
    assert made.ndims() == DIMS


def test_create_by_name_alone_takes_the_latest_version_for_good(saved):
    get_registry().set_var("ft_store", saved.uri)
    made = get_registry().get("ft-embed").create(name="support")
    assert made.safe_model_dump()["name"] == "support@3"
    assert made.safe_model_dump()["store"] == f"$var:ft_store:{saved.uri}"


def test_create_by_version_with_the_store_from_the_environment(saved, monkeypatch):
    monkeypatch.setenv("LANCEDB_FT_STORE", saved.uri)
    made = get_registry().get("ft-embed").create(name="support@3")
    assert made.store == saved.uri
    assert made.safe_model_dump()["store"] == f"$var:ft_store:{saved.uri}"


def test_create_by_relative_path_is_made_absolute(folders, monkeypatch):
    monkeypatch.chdir(Path(folders[0]).parent)
    made = get_registry().get("ft-embed").create(name="./model")
    assert made.name == str(Path(folders[0]))
    assert "store" not in made.safe_model_dump()
    assert made.compute_source_embeddings(["fox"])[0].shape == (DIMS,)


def test_create_with_the_options_that_matter(saved):
    made = FineTunedEmbeddings.create(
        name="support@1", store=saved.uri, dims=4, precision="float32", device="cpu"
    )
    dump = made.safe_model_dump()
    assert (dump["dims"], dump["precision"], dump["device"]) == (4, "float32", "cpu")
    (vector,) = made.compute_source_embeddings(["fox"])
    assert vector.shape == (4,)
    assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)


def test_everything_persisted_is_a_scalar(function):
    assert all(isinstance(v, (str, int)) for v in function.safe_model_dump().values())
    json.dumps(function.safe_model_dump())


@pytest.mark.parametrize("bad", [{"dims": 0}, {"dims": DIMS + 1}, {"precision": "int8"}])
def test_create_with_impossible_options(saved, bad):
    with pytest.raises(InputError):
        FineTunedEmbeddings.create(name="support@1", store=saved.uri, **bad)


def test_create_without_any_store_says_how_to_name_one():
    with pytest.raises(StoreNotFoundError, match="LANCEDB_FT_STORE"):
        FineTunedEmbeddings.create(name="support@3")


def test_from_metadata_nothing_is_looked_up(function, monkeypatch):
    monkeypatch.setattr("lancedb_ft.embedding.resolve_model", None)  # calling it would raise
    again = FineTunedEmbeddings.create(**function.safe_model_dump())
    assert again == function
    assert again.ndims() == DIMS


def test_ndims_without_torch(saved):
    code = (
        "import sys, lancedb_ft; from lancedb.embeddings import get_registry\n"
        f"f = get_registry().get('ft-embed').create(name='support@3', store={saved.uri!r})\n"
        "print(f.ndims(), 'torch' in sys.modules, 'sentence_transformers' in sys.modules)"
    )
    assert run_python(code).split() == [str(DIMS), "False", "False"]


def files_of(folder):
    """``{relative path: bytes}``, as the Hub has it."""
    files = [file for file in Path(folder).rglob("*") if file.is_file()]
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


@pytest.mark.slow
def test_hub_reference_is_pinned_to_its_commit(folders, tmp_path):
    code = (
        "import json, sys, lancedb_ft; from lancedb.embeddings import get_registry\n"
        "made = get_registry().get('ft-embed').create(**json.loads(sys.stdin.read()))\n"
        "(vector,) = made.compute_source_embeddings(['the quick brown fox'])\n"
        "print(json.dumps([made.safe_model_dump(), vector.tolist()]))"
    )
    repo = "acme/support-minilm"
    with Hub({repo: files_of(folders[1])}) as hub:
        commit = hub.commits[repo]
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HOME": str(tmp_path / "hf"),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        asked = {"name": f"hf://{repo}@v1", "precision": "float32"}
        dump, vector = json.loads(run_python(code, stdin=json.dumps(asked), **environment))
        assert dump["name"] == f"hf://{repo}@{commit}"
        assert dump["fingerprint"] == resolve_model(folders[1]).fingerprint
        expected = expected_vectors(folders[1], ["the quick brown fox"])[0]
        np.testing.assert_allclose(vector, expected, atol=2e-6)

        # The tag moves on to another model: what a table has pinned stays, without a request.
        hub.repos[repo], hub.commits[repo] = files_of(folders[2]), "f" * 40
        hub.requests.clear()
        again, vector = json.loads(run_python(code, stdin=json.dumps(dump), **environment))
        assert again == dump
        np.testing.assert_allclose(vector, expected, atol=2e-6)
        assert hub.requests == []


# --- in a table --------------------------------------------------------------------------------


def test_lance_model_add_and_search(db, function, folders):
    table = docs_table(db, function)
    texts = [row["text"] for row in ROWS]
    np.testing.assert_allclose(vectors_of(table), expected_vectors(folders[2], texts), atol=2e-6)
    (entry,) = embedding_entries(table.schema)
    assert entry["name"] == "ft-embed"
    assert entry["model"] == function.safe_model_dump()
    for row in ROWS:
        assert table.search(row["text"]).limit(1).to_list()[0]["id"] == row["id"]
    found = table.search(ROWS[0]["text"], query_type="vector").limit(1).to_list()
    assert found[0]["_distance"] == pytest.approx(0, abs=1e-5)


async def test_async_add_and_search_load_the_model_once(db, saved, monkeypatch):
    loads = count_loads(monkeypatch)
    docs_table(db, FineTunedEmbeddings.create(name="support@3", store=saved.uri))
    assert len(loads) == 1
    connection = await lancedb.connect_async(str(db.uri))
    table = await connection.open_table("docs")
    await table.add([{"id": 4, "text": "doc number four"}])
    for row in [*ROWS, {"id": 4, "text": "doc number four"}]:
        for _ in range(3):
            found = await (await table.search(row["text"])).limit(1).to_list()
            assert found[0]["id"] == row["id"]
    # LanceDB's own function loads its model again at each of these searches.
    assert len(loads) == 1


def test_hybrid_search(db, function):
    table = docs_table(db, function)
    from lancedb.index import FTS

    table.create_index("text", config=FTS())
    found = table.search("quick fox", query_type="hybrid").limit(3).to_list()
    assert found[0]["id"] == 3


def test_merge_insert_embeds_new_rows_and_changed_ones(db, function, folders):
    table = docs_table(db, function)
    new = [{"id": 2, "text": "choose a new password"}, {"id": 4, "text": "the lazy dog"}]
    (table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all().execute(new))
    texts = [ROWS[0]["text"], new[0]["text"], ROWS[2]["text"], new[1]["text"]]
    np.testing.assert_allclose(vectors_of(table), expected_vectors(folders[2], texts), atol=2e-6)


def test_rows_without_text_are_stored_with_null_vectors_on_request(db, function):
    table = docs_table(db, function)
    blank = [{"id": 7, "text": None}, {"id": 8, "text": "  "}, {"id": 9, "text": "lazy dog"}]
    # LanceDB takes a null vector for a bad one; by default it refuses the rows.
    with pytest.raises(RuntimeError, match="on_bad_vectors='null'"):
        table.add(blank)
    assert table.count_rows() == 3
    table.add(blank, on_bad_vectors="null")
    rows = {row["id"]: row["vector"] for row in table.to_arrow().to_pylist()}
    assert rows[7] is rows[8] is None
    assert len(rows[9]) == DIMS
    assert {r["id"] for r in table.search("lazy dog").limit(9).to_list()} == {1, 2, 3, 9}


def test_adding_no_rows(db, function):
    table = docs_table(db, function)
    empty = pa.table({"id": pa.array([], pa.int64()), "text": pa.array([], pa.string())})
    table.add(empty)
    assert table.count_rows() == 3


def test_add_from_arrow_in_large_batches(db, function):
    table = docs_table(db, function, rows=[])
    data = pa.table({"id": range(5000), "text": [f"doc number {i % 70}" for i in range(5000)]})
    table.add(data)
    assert table.count_rows("vector is null") == 0
    rows = table.to_arrow()
    assert rows["vector"][0].as_py() == rows["vector"][70].as_py()


def test_queries_and_documents_get_their_prompts(db, folders, tmp_path):
    folder = shutil.copytree(folders[0], tmp_path / "prompted")
    config = folder / "config_sentence_transformers.json"
    prompts = {"query": "how do I ", "document": "open the page "}
    config.write_text(json.dumps({**json.loads(config.read_text()), "prompts": prompts}))
    made = FineTunedEmbeddings.create(name=str(folder), precision="float32")
    model = load_sentence_transformer(folder, device="cpu")
    (document,) = made.compute_source_embeddings(pa.array(["cancel"]))
    (query,) = made.compute_query_embeddings("cancel")
    np.testing.assert_allclose(document, model.encode_document("cancel"), atol=2e-6)
    np.testing.assert_allclose(query, model.encode_query("cancel"), atol=2e-6)
    table = docs_table(db, made)
    np.testing.assert_allclose(
        vectors_of(table), model.encode_document([r["text"] for r in ROWS]), atol=2e-6
    )


@pytest.mark.parametrize("query", ["", "   ", "\n\t"])
def test_a_blank_query_is_a_clear_error(db, function, query):
    table = docs_table(db, function)
    with pytest.raises(QueryError, match="no text"):
        table.search(query, query_type="vector").limit(1).to_list()


async def test_a_blank_query_is_a_clear_error_in_async(db, function):
    docs_table(db, function)
    table = await (await lancedb.connect_async(str(db.uri))).open_table("docs")
    with pytest.raises(QueryError, match="no text"):
        await table.search("")


@pytest.mark.parametrize("query", ["?!...", "🎉", "x" * 100_000, "SELECT 'a' -- \"b\"", "\u200b"])
def test_odd_queries_are_answered(db, function, query):
    table = docs_table(db, function)
    assert len(table.search(query, query_type="vector").limit(3).to_list()) == 3


# --- other processes, other places -------------------------------------------------------------


def run_python(code, stdin="", **environment):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, **environment},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_second_process_that_imports_the_plugin(db, function, tmp_path):
    docs_table(db, function)
    pickled = tmp_path / "function"
    pickled.write_bytes(pickle.dumps(function))
    code = (
        "import lancedb, lancedb_ft, pathlib, pickle\n"
        f"table = lancedb.connect({str(db.uri)!r}).open_table('docs')\n"
        "table.add([{'id': 4, 'text': 'the lazy dog'}])\n"
        "print(table.search('the lazy dog').limit(1).to_list()[0]['id'])\n"
        f"made = pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes())\n"
        "(vector,) = made.compute_query_embeddings('fox')\n"
        "print(made.name, len(vector), len(made.safe_model_dump()))"
    )
    assert run_python(code).split() == ["4", "support@3", str(DIMS), "6"]


def test_second_process_without_the_plugin_gets_a_key_error(db, function):
    docs_table(db, function)
    code = (
        "import lancedb\n"
        f"table = lancedb.connect({str(db.uri)!r}).open_table('docs')\n"
        "try:\n table.search('fox').limit(1).to_list()\n"
        "except KeyError as error:\n print(error)"
    )
    assert "ft-embed" in run_python(code)


@pytest.mark.parametrize("how", ["set_var", "environment"])
def test_moved_database_is_repointed(tmp_path, folders, how, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "new"
    ModelStore(str(old / "ft_models")).save(folders[0], name="support", manifest={})
    function = FineTunedEmbeddings.create(name="support@1", store=str(old / "ft_models"))
    docs_table(lancedb.connect(str(old)), function)
    shutil.move(old, new)
    clear_encoders()
    table = lancedb.connect(str(new)).open_table("docs")
    with pytest.raises(StoreNotFoundError, match="LANCEDB_FT_STORE"):
        table.search("the quick brown fox").limit(1).to_list()
    if how == "set_var":
        get_registry().set_var("ft_store", str(new / "ft_models"))
    else:
        monkeypatch.setenv("LANCEDB_FT_STORE", str(new / "ft_models"))
    table = lancedb.connect(str(new)).open_table("docs")
    assert table.search("the quick brown fox").limit(1).to_list()[0]["id"] == 3
    table.add([{"id": 4, "text": "the lazy dog"}])
    assert table.search("the lazy dog").limit(1).to_list()[0]["id"] == 4


def test_set_var_comes_before_the_environment_and_both_before_the_table(saved, monkeypatch):
    persisted = {
        "name": "support@3",
        "fingerprint": "f" * 64,
        "dims": DIMS,
        "store": "$var:ft_store:/in/the/table",
    }
    assert FineTunedEmbeddings.create(**persisted).store == "/in/the/table"
    monkeypatch.setenv("LANCEDB_FT_STORE", "/in/the/environment")
    assert FineTunedEmbeddings.create(**persisted).store == "/in/the/environment"
    get_registry().set_var("ft_store", "/in/the/registry")
    made = FineTunedEmbeddings.create(**persisted)
    assert made.store == "/in/the/registry"
    assert made.safe_model_dump()["store"] == "$var:ft_store:/in/the/table"


def test_a_variable_of_the_users_own(saved):
    get_registry().set_var("our_models", saved.uri)
    made = FineTunedEmbeddings.create(name="support@1", store="$var:our_models:/nowhere")
    assert made.store == saved.uri
    assert made.safe_model_dump()["store"] == "$var:our_models:/nowhere"


def test_pickle_and_copy(function):
    for again in (
        pickle.loads(pickle.dumps(function)),
        copy.copy(function),
        copy.deepcopy(function),
    ):
        assert again == function
        assert hash(again) == hash(function)
        assert again.safe_model_dump() == function.safe_model_dump()
        np.testing.assert_array_equal(
            again.compute_query_embeddings("fox")[0], function.compute_query_embeddings("fox")[0]
        )
    other = FineTunedEmbeddings.create(name="support@1", store=function.store)
    assert other != function


# --- what goes wrong, goes wrong at once -------------------------------------------------------


def tampered(db, **changes):
    """The table "docs" with other arguments in its metadata, as a stale or moved one has."""
    table = db.open_table("docs")
    entries = embedding_entries(table.schema)
    entries[0]["model"].update(changes)
    import lance

    dataset = lance.dataset(str(table.uri))
    dataset.update_schema_metadata({"embedding_functions": json.dumps(entries)})
    clear_encoders()
    return db.open_table("docs")


@pytest.mark.parametrize(
    ("changes", "error", "cure"),
    [
        ({"fingerprint": "0" * 64}, FingerprintError, "reindex run"),
        ({"name": "support@9"}, ModelNotFoundError, "support@3"),
        ({"store": "$var:ft_store:/no/such/place"}, StoreNotFoundError, "set_var"),
        ({"name": "/no/such/folder"}, ModelNotFoundError, "folder"),
    ],
)
def test_errors_are_raised_at_once_and_name_the_cure(db, function, changes, error, cure):
    docs_table(db, function)
    table = tampered(db, **changes)
    start = time.monotonic()
    with pytest.raises(error, match=cure):
        table.search("fox").limit(1).to_list()
    # LanceDB passes what is raised while rows are written through Rust, which keeps the text only.
    with pytest.raises(RuntimeError, match=f"(?s){error.__name__}.*{cure}"):
        table.add([{"id": 4, "text": "the lazy dog"}])
    assert time.monotonic() - start < AT_ONCE_S
    assert table.count_rows() == 3


async def test_errors_are_raised_at_once_in_async(db, function):
    docs_table(db, function)
    tampered(db, fingerprint="0" * 64)
    table = await (await lancedb.connect_async(str(db.uri))).open_table("docs")
    start = time.monotonic()
    with pytest.raises(FingerprintError):
        await table.search("fox")
    assert time.monotonic() - start < AT_ONCE_S


def test_vectors_can_be_searched_when_the_model_is_gone(db, function):
    docs_table(db, function)
    table = tampered(db, store="$var:ft_store:/no/such/place")
    assert len(table.search(np.ones(DIMS, np.float32)).limit(3).to_list()) == 3
    assert table.search("fox", query_type="fts") is not None


def test_retries_are_never_made(folders, tmp_path):
    made = FineTunedEmbeddings.create(name=folders[0], max_retries=7)
    made.name = str(tmp_path / "gone")
    start = time.monotonic()
    with pytest.raises(ModelNotFoundError):
        made.compute_query_embeddings_with_retry("fox")
    assert time.monotonic() - start < AT_ONCE_S


# --- the registry ------------------------------------------------------------------------------


def test_register_twice_changes_nothing():
    register()
    register()
    assert get_registry().get("ft-embed") is FineTunedEmbeddings


def test_register_replaces_the_class_of_before_a_reload():
    code = (
        "import importlib, lancedb_ft, lancedb_ft.embedding\n"
        "from lancedb.embeddings import get_registry\n"
        "before = get_registry().get('ft-embed')\n"
        "again = importlib.reload(importlib.import_module('lancedb_ft.embedding'))\n"
        "again.register()\n"
        "now = get_registry().get('ft-embed')\n"
        "print(now is again.FineTunedEmbeddings, now is before)"
    )
    assert run_python(code).split() == ["True", "False"]


def test_an_alias_that_is_taken(tmp_path):
    (tmp_path / "theirs.py").write_text(
        "from lancedb.embeddings import TextEmbeddingFunction, register\n"
        "@register('ft-embed')\n"
        "class TheirEmbeddings(TextEmbeddingFunction):\n"
        "    def ndims(self): return 2\n"
        "    def generate_embeddings(self, texts): return [[0.0, 1.0] for _ in texts]\n"
    )
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "import theirs\n"
        "from lancedb.embeddings import get_registry\n"
        "from lancedb_ft.errors import AliasTakenError\n"
    )
    attempt = (
        "try:\n import lancedb_ft\nexcept Exception as error:\n"
        " print(type(error).__name__, error)\n"
        "print(get_registry().get('ft-embed').__name__)"
    )
    told = run_python(code.rsplit("from lancedb_ft", 1)[0] + attempt)
    assert AliasTakenError.__name__ in told
    assert "theirs.TheirEmbeddings" in told
    assert told.split()[-1] == "TheirEmbeddings"


# --- function_entry ----------------------------------------------------------------------------


def test_function_entry_is_what_lancedb_writes(db, saved, folders):
    columns = {"source_column": "text", "vector_column": "vector"}
    function = FineTunedEmbeddings.create(name="support@2", store=saved.uri)
    (written,) = embedding_entries(docs_table(db, function).schema)
    version = saved.load("support@2")
    resolved = resolve_model("support@2", store=saved.uri)
    assert function_entry("support@2", store=saved.uri, **columns) == written
    assert function_entry(version, **columns) == written
    assert function_entry(resolved, **columns) == written
    folder_entry = function_entry(resolve_model(folders[0]), **columns)
    assert folder_entry["model"]["name"] == folders[0]
    assert "store" not in folder_entry["model"]


def test_function_entry_options(saved):
    version = saved.load("support@1")
    entry = function_entry(
        version,
        source_column="body",
        vector_column="vector_2",
        store="s3://bucket/ft_models",
        dims=8,
        precision="bfloat16",
    )
    assert (entry["source_column"], entry["vector_column"]) == ("body", "vector_2")
    assert entry["model"]["store"] == "$var:ft_store:s3://bucket/ft_models"
    assert (entry["model"]["dims"], entry["model"]["precision"]) == (8, "bfloat16")
    with pytest.raises(InputError, match="dims"):
        function_entry(version, source_column="a", vector_column="b", dims=99)


# --- concurrency -------------------------------------------------------------------------------


def count_loads(monkeypatch):
    """The paths of the models that are loaded from now on."""
    loads = []

    def counting(path, *, device=None):
        loads.append(path)
        return load_sentence_transformer(path, device=device)

    monkeypatch.setattr("lancedb_ft.encoder.cache.load_sentence_transformer", counting)
    return loads


def test_eight_threads_search_first_at_once(db, function, monkeypatch):
    docs_table(db, function)
    clear_encoders()
    loads = count_loads(monkeypatch)
    start = threading.Barrier(8)
    found, errors = [], []

    def search(number):
        row = ROWS[number % 3]
        try:
            table = lancedb.connect(str(db.uri)).open_table("docs")
            start.wait()
            found.append((row["id"], table.search(row["text"]).limit(1).to_list()[0]["id"]))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=search, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert len(found) == 8
    assert all(expected == got for expected, got in found)
    assert len(loads) == 1


def test_function_and_encoder_share_the_model(function, saved, monkeypatch):
    loads = count_loads(monkeypatch)
    function.compute_query_embeddings("fox")
    get_encoder("support@3", store=saved.uri, fingerprint=function.fingerprint, precision="float32")
    get_encoder(saved.load("support@3"), precision="float32")
    assert len(loads) == 1
