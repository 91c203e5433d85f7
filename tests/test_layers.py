"""A module imports only from rooms that stand above it in the design."""

import ast
from pathlib import Path

import pytest

import lancedb_ft

ROOT = Path(lancedb_ft.__file__).parent
ORDER = [
    "_version",
    "errors",
    "arguments",
    "file_lock",
    "flow",
    "memory",
    "races",
    "types",
    "training_sets",
    "storage",
    "torn",
    "table",
    "generation",
    "marks",
    "leftovers",
    "store",
    "encoder",
    "embedding",
    "handles",
    "writes",
    "reranking",
    "data",
    "evaluate",
    "train",
    "reindex",
    "search",
    "telemetry",
    "churn",
    "mining",
    "pipeline",
    "_autoload_hook",
    "autoload",
    "cli",
]
FORBIDDEN = {("search", "reindex"), ("evaluate", "data")}
HEAVY = {"torch", "transformers", "sentence_transformers", "datasets", "accelerate", "pandas"}
FILES = sorted(ROOT.rglob("*.py"))


def room_of(path):
    part = path.relative_to(ROOT).parts[0]
    return part.removesuffix(".py")


def imports(path):
    """Yield ``(module, is_inside_a_function)`` for each import outside TYPE_CHECKING."""
    tree = ast.parse(path.read_text())

    def walk(node, inside):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from walk(other, inside)
                continue
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield alias.name, inside
            elif isinstance(child, ast.ImportFrom):
                yield child.module, inside
            function = isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            yield from walk(child, inside or function)

    yield from walk(tree, False)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_upwards(path):
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    assert room in ORDER, f"{room} has no place in the order; give it one"
    for module, _ in imports(path):
        if not module.startswith("lancedb_ft."):
            continue
        other = module.split(".")[1]
        assert ORDER.index(other) <= ORDER.index(room), f"{path.name} imports {module}"
        assert (room, other) not in FORBIDDEN, f"{room} must not know {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_heavy_packages_are_imported_inside_functions(path):
    for module, inside in imports(path):
        if module.split(".")[0] in HEAVY:
            assert inside, f"{path.name} imports {module} at the top"


def test_the_order_names_every_room():
    rooms = {room_of(path) for path in FILES} - {"__init__", "__main__"}
    assert rooms <= set(ORDER)


def test_a_wheel_has_every_package():
    declared = (ROOT.parent / "pyproject.toml").read_text()
    packages = {str(p.parent.relative_to(ROOT.parent)) for p in ROOT.rglob("__init__.py")}
    for package in packages:
        assert f'"{package.replace("/", ".")}",' in declared, f"{package} would not be installed"
