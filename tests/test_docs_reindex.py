"""The commands of docs/reindex.md, run in their order on a table that is searched meanwhile."""

import re
import shlex
from pathlib import Path

import lancedb

import lancedb_ft as ft
from tests.reindex.marked import new_table, state
from tests.tiny import tiny_model

DOCUMENT = Path(__file__).parents[1] / "docs" / "reindex.md"
BLOCKS = re.findall(r"^```sh\n(.*?)^```", DOCUMENT.read_text(), re.MULTILINE | re.DOTALL)


def test_the_commands_run(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("kb").mkdir()
    store = ft.ModelStore(str(tmp_path / "kb" / "ft_models"))
    for seed in (1, 2):
        store.save(tiny_model(tmp_path / f"m{seed}", seed=seed), name="support", manifest={})
    table = new_table(lancedb.connect("kb"), store, 40, model="support@1")
    commands = [shlex.split(line) for block in BLOCKS for line in block.splitlines()]
    seen = []
    for words in commands:
        code, out, err = run(*words[1:])
        assert code == 0, f"{shlex.join(words)}\n{out}{err}"
        table.checkout_latest()
        seen.append(
            (words[1:3] if words[1] == "reindex" else words[1:2], state(table).active.model)
        )
    assert (["reindex", "run"], "support@1") in seen
    assert (["reindex", "switch"], "support@2") in seen
    assert (["reindex", "rollback"], "support@1") in seen
    assert seen[-1] == (["sweep"], "support@1")
