"""Every code block of docs/training.md is run, in order, in one folder with a user's files."""

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import lancedb
import pytest

from tests.jargon import sentences

DOCUMENT = Path(__file__).parents[1] / "docs" / "training.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def test_every_block_is_of_a_kind_that_is_run_here():
    assert {kind for kind, _ in BLOCK.findall(DOCUMENT.read_text())} == {"python", "sh"}


@pytest.mark.slow  # a minute and a half; README's blocks run by default
@pytest.mark.timeout(600)
def test_the_blocks_run(tmp_path, minilm):
    made = sentences(120)
    rows = [{"id": f"d{i}", "text": text} for i, (_, text) in enumerate(made)]
    lancedb.connect(str(tmp_path / "data" / "kb")).create_table("docs", rows)
    lines = [json.dumps({"query": query, "positive": text}) for query, text in made]
    (tmp_path / "clicks.jsonl").write_text("\n".join(lines) + "\n")
    log = [f'"{query}",d{i},2\n' for i, (query, _) in enumerate(made)]
    (tmp_path / "log.csv").write_text("query,doc_id,clicks\n" + "".join(log))
    blocks = BLOCK.findall(DOCUMENT.read_text())
    run(tmp_path, [sys.executable, "-c", "\n".join(t for kind, t in blocks if kind == "python")])
    tool = str(Path(sys.executable).parent / "lancedb-ft")
    lines = "".join(text for kind, text in blocks if kind == "sh").splitlines()
    for line in lines:
        name, *words = shlex.split(line)
        assert name == "lancedb-ft"
        run(tmp_path, [tool, *words])
    assert (tmp_path / "data" / "models" / "support" / "1" / "model" / "training.png").exists()


def run(folder, command):
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, f"{command[-1]}\n{done.stdout}{done.stderr}"
