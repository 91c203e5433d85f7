import shutil

import lancedb
import pyarrow as pa
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from tests.reindex.marked import STABLE, make_models, rows


@pytest.fixture(scope="session")
def store(tmp_path_factory):
    return make_models(tmp_path_factory.mktemp("churn"))


@pytest.fixture(scope="session")
def templates(tmp_path_factory, store):
    """Databases whose table was re-indexed once, with and without stable row ids."""
    home = tmp_path_factory.mktemp("templates")
    for stable in (True, False):
        db = lancedb.connect(str(home / str(stable)))
        first = rows(0, 120).append_column("updated_at", pa.array([0] * 120, pa.timestamp("us")))
        first = first.append_column("views", pa.array(range(120), pa.int64()))
        table = db.create_table("docs", first, storage_options=STABLE if stable else None)
        ft.reindex(table, "tiny@2", force=True, store=store.uri, precision="float32")
        db.open_table("docs").create_index("text", config=FTS())
    return home


@pytest.fixture(params=[True, False], ids=["stable ids", "addresses"])
def docs(request, templates, tmp_path):
    """A table that tiny@2 filled, with marks and a full-text index."""
    shutil.copytree(templates / str(request.param), tmp_path / "kb")
    return lancedb.connect(str(tmp_path / "kb")).open_table("docs")
