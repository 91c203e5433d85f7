"""The blocks of docs/search.md, run in their order on a small table."""

import re
import shlex
from datetime import datetime
from pathlib import Path

import lancedb
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from tests.tiny import tiny_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "search.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TOPICS = {"orders": "cancel an order", "accounts": "reset a password", "old": "send a telegram"}


@pytest.fixture
def kb(tmp_path, monkeypatch):
    """A database with a re-indexed table, and the working directory beside it."""
    monkeypatch.chdir(tmp_path)
    db = lancedb.connect("kb")
    rows = [
        {
            "id": f"p{i}",
            "text": f"How to {list(TOPICS.values())[i % 3]}, part {i}",
            "topic": list(TOPICS)[i % 3],
            "updated_at": datetime(2020, 1, 1),
        }
        for i in range(90)
    ]
    options = {"new_table_enable_stable_row_ids": "true"}
    docs = db.create_table("docs", rows, storage_options=options)
    store = ft.ModelStore(str(tmp_path / "kb" / "ft_models"))
    store.save(tiny_model(tmp_path / "m", seed=1), name="support", manifest={})
    ft.reindex(docs, "support@1", force=True)
    db.open_table("docs").create_index("text", config=FTS(with_position=True))


def test_the_blocks_run(kb, run, capsys):
    blocks = BLOCK.findall(DOCUMENT.read_text())
    assert {kind for kind, _ in blocks} == {"python", "sh"}
    place = {}
    for kind, text in blocks:
        if kind == "python":
            exec(compile(text, str(DOCUMENT), "exec"), place)
    told = capsys.readouterr().out
    assert "1 0 1" in told  # one row changed, nothing embedded, one waits
    assert "'id': 'p3', '_tier': 'hot'" in told
    for line in "".join(text for kind, text in blocks if kind == "sh").splitlines():
        code, out, err = run(*shlex.split(line)[1:])
        assert code == 0, f"{line}\n{out}{err}"
