"""The blocks of docs/scale.md: commands parse, and what needs no cluster runs."""

import re
import shlex
from pathlib import Path

import pytest
import typer

from lancedb_ft.cli.app import build_app

DOCUMENT = Path(__file__).parents[1] / "docs" / "scale.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
BLOCKS = BLOCK.findall(DOCUMENT.read_text())
LINES = [line for kind, text in BLOCKS if kind == "sh" for line in text.splitlines()]


def test_every_block_is_of_a_kind_that_is_checked_here():
    assert {kind for kind, _ in BLOCKS} == {"python", "sh"}
    assert len(LINES) >= 3


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("lancedb-ft ")])
def test_the_commands_parse(line):
    command = typer.main.get_command(build_app())
    _, *words = shlex.split(line)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    context = command.make_context("lancedb-ft", words)
    assert context.params["db"] == "s3://bucket/kb"


def test_the_python_blocks_compile_and_their_names_are_there():
    for kind, text in BLOCKS:
        if kind == "python":
            compile(text, "scale.md", "exec")
    engine = next(text for _, text in BLOCKS if "RayEngine" in text)
    found: dict = {}
    exec(engine, found)
    assert found["engine"].workers == 8
