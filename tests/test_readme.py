"""Every code block of README.md and docs/ is run, in order, in one folder with a user's files."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import lancedb
import pytest

from tests.jargon import sentences, write_files

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(language):
    return [
        text for kind, text in BLOCK.findall((ROOT / "README.md").read_text()) if kind == language
    ]


def test_every_block_is_of_a_kind_that_is_run_here():
    kinds = {kind for kind, _ in BLOCK.findall((ROOT / "README.md").read_text())}
    assert kinds == {"sh", "python", "text"}


@pytest.mark.timeout(600)
def test_the_python_blocks_run(tmp_path, monkeypatch, minilm):
    monkeypatch.chdir(tmp_path)
    made = sentences(300)
    db = lancedb.connect("data/kb")
    db.create_table("docs", [{"id": f"d{i}", "text": text} for i, (_, text) in enumerate(made)])
    clicks = [{"query": query, "doc_id": f"d{i}"} for i, (query, _) in enumerate(made)]
    db.create_table("clicks", clicks)
    code = "\n".join(blocks("python"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'id': 'd" in done.stdout
    assert done.stdout.strip().endswith("384")


def commands():
    found = []
    for block in blocks("sh"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words:
                found.append(words)
    return found


@pytest.mark.timeout(600)
def test_the_commands_run(tmp_path, minilm, run, monkeypatch):
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    lancedb.connect("kb").create_table("articles", [{"id": "a1", "text": "Press it."}])
    Path("clicks.csv").write_text("query,doc_id,clicks\nhow do I cancel?,a1,3\n")
    ran = 0
    for words in commands():
        if words[0] != "lancedb-ft":
            continue
        code, out, err = run(*words[1:])
        assert code == 0, f"{shlex.join(words)}\n{out}{err}"
        ran += 1
    assert ran >= 11
    assert lancedb.connect(str(tmp_path / "kb")).open_table("docs").count_rows() == 300


def test_the_tool_is_installed():
    tool = Path(sys.executable).parent / "lancedb-ft"
    subprocess.run([tool, "--help"], check=True, capture_output=True)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
def test_the_make_targets_exist():
    targets = [words[1] for words in commands() if words[0] == "make"]
    assert targets == ["demo", "test"]
    for target in targets:
        subprocess.run(["make", "-n", target], cwd=ROOT, check=True, capture_output=True)


def test_the_extras_exist():
    declared = (ROOT / "pyproject.toml").read_text()
    for words in commands():
        if words[0] == "pip":
            for extra in re.search(r"\[(.*)\]", words[-1]).group(1).split(","):
                assert re.search(rf"^{extra} = \[", declared, re.MULTILINE), extra


def test_links_inside_the_project_lead_somewhere():
    for document in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_the_main_job_has_ten_lines():
    first = blocks("python")[0]
    assert len([line for line in first.splitlines() if line and "import" not in line]) <= 10
