"""The opt-in hook: an application that never imports lancedb-ft, in an environment of its own."""

import os
import shutil
import site
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import lancedb
import pytest
from lancedb.embeddings import get_registry
from lancedb.pydantic import LanceModel, Vector

import lancedb_ft  # noqa: F401  registers "ft-embed"
from lancedb_ft import autoload
from lancedb_ft.errors import InputError
from lancedb_ft.store import ModelStore
from tests.tiny import tiny_model

ROOT = Path(__file__).parents[1]
FILES = {"_lancedb_ft_autoload.py", "lancedb_ft_autoload.pth"}

#: What an application that knows LanceDB only does: open, search, add, search asynchronously.
APPLICATION = """
import asyncio, sys
import lancedb
uri = sys.argv[1]
assert "lancedb_ft" not in sys.modules
table = lancedb.connect(uri).open_table("docs")
assert table.count_rows() == 2
assert "lancedb_ft" not in sys.modules
print(table.search("the quick brown fox").limit(1).to_list()[0]["id"])
table.add([{"id": 3, "text": "the lazy dog"}])

async def search():
    table = await (await lancedb.connect_async(uri)).open_table("docs")
    return (await (await table.search("the lazy dog")).limit(1).to_list())[0]["id"]

print(asyncio.run(search()))
print(sys.modules["lancedb_ft"].__file__)
"""


def pip(*arguments):
    """Run pip of this environment, without a network."""
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


class Environment:
    """A virtual environment that sees the packages of this one, but not this checkout."""

    def __init__(self, home):
        venv.create(home, with_pip=False, symlinks=True)
        self.python = Path(home, "bin" if os.name != "nt" else "Scripts", "python")
        self.site = Path(
            sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)})
        )
        # Plain lines of a .pth file add folders only; the .pth files there are not read, and so
        # an editable install of this checkout stays out of sight.
        (self.site / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")

    def run(self, code, *arguments, check=True):
        """Run a program outside the checkout; return what it did."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            [self.python, "-W", "error", "-c", code, *arguments],
            capture_output=True,
            text=True,
            cwd=self.site,
            env=environment,
            timeout=120,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
            assert done.stderr == ""
        return done

    def install(self, wheel):
        """Install a wheel without its dependencies, which are there."""
        options = ["--no-deps", "--no-index", "--force-reinstall"]
        pip("--python", self.python, "install", *options, wheel)

    def uninstall(self):
        """Take lancedb-ft away as a user would."""
        pip("--python", self.python, "uninstall", "--yes", "lancedb-ft")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of this checkout, built from a copy: the build leaves files behind."""
    source = tmp_path_factory.mktemp("source")
    ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
    for name in ("lancedb_ft", "integrations"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, source / name)
    out = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-build-isolation", "--no-index"]
    pip("wheel", *options, "--wheel-dir", out, source)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(tmp_path_factory, wheel):
    made = Environment(tmp_path_factory.mktemp("environment") / "venv")
    made.install(wheel)
    return made


@pytest.fixture
def database(db, tmp_path):
    """A table that searches with ``support@1`` of the store beside it."""
    store = ModelStore(str(tmp_path / "db" / "ft_models"))
    store.save(tiny_model(tmp_path / "tiny"), name="support", manifest={})
    function = get_registry().get("ft-embed").create(name="support@1", store=store.uri)

    class Doc(LanceModel):
        id: int
        text: str = function.SourceField()
        vector: Vector(function.ndims()) = function.VectorField()

    table = lancedb.connect(str(db.uri)).create_table("docs", schema=Doc)
    table.add([{"id": 1, "text": "open the settings"}, {"id": 2, "text": "the quick brown fox"}])
    return str(db.uri)


def test_an_application_that_never_imports_the_plugin(environment, database):
    environment.run("from lancedb_ft.autoload import remove; remove()")
    without = environment.run(APPLICATION, database, check=False)
    assert without.stderr.strip().splitlines()[-1] == "KeyError: 'ft-embed'"

    installing = "from lancedb_ft.autoload import install; print(install().installed)"
    assert environment.run(installing).stdout.split() == ["True"]
    assert {file.name for file in environment.site.iterdir()} >= FILES
    found = environment.run(APPLICATION, database).stdout.split()
    assert found[:2] == ["2", "3"]
    assert Path(found[2]).is_relative_to(environment.site)  # the wheel, not this checkout

    removing = "from lancedb_ft.autoload import remove; print(remove().installed)"
    assert environment.run(removing).stdout.split() == ["False"]
    assert not FILES & {file.name for file in environment.site.iterdir()}


def test_start_of_python_stays_cheap_and_clean(environment):
    environment.run("from lancedb_ft.autoload import install; install()")
    code = "import sys; print(sorted(m for m in sys.modules if 'lancedb' in m or 'typing' in m))"
    assert environment.run(code).stdout.strip() == "['_lancedb_ft_autoload']"
    code = (
        "import sys, lancedb, lancedb.embeddings\n"
        "print('lancedb_ft' in sys.modules, [f for f in sys.meta_path if 'Registry' in str(f)])\n"
        "registry = lancedb.embeddings.get_registry()\n"
        "print(registry.get('openai').__name__)\n"
        "try:\n registry.get('nothing')\nexcept KeyError as error:\n print(error)\n"
        "print('lancedb_ft' in sys.modules)"
    )
    told = environment.run(code).stdout.split("\n")
    assert told[:4] == ["False []", "OpenAIEmbeddings", "'nothing'", "False"]


def test_nothing_breaks_when_packages_go_away(tmp_path, wheel):
    environment = Environment(tmp_path / "venv")
    environment.install(wheel)
    environment.run("from lancedb_ft.autoload import install; install()")
    environment.uninstall()
    assert {file.name for file in environment.site.iterdir()} >= FILES
    told = environment.run(
        "from lancedb.embeddings import get_registry\n"
        "try:\n get_registry().get('ft-embed')\nexcept KeyError as error:\n print(error)"
    )
    assert "pip install" in told.stdout
    (environment.site / "packages.pth").unlink()  # now lancedb is gone, too
    assert environment.run("print('fine')").stdout.split() == ["fine"]
    (environment.site / "_lancedb_ft_autoload.py").unlink()  # and half of the hook
    assert environment.run("print('fine')").stdout.split() == ["fine"]


def test_install_status_remove(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    before = autoload.status(tmp_path)
    assert (before.installed, before.outdated, before.files) == (False, False, ())
    assert autoload.remove(tmp_path) == before

    after = autoload.install(tmp_path)
    assert (after.installed, after.outdated, after.read_at_start) == (True, False, True)
    assert {Path(file).name for file in after.files} == FILES
    assert {file.name for file in tmp_path.iterdir()} == FILES
    assert autoload.install(tmp_path) == after
    assert len((tmp_path / "lancedb_ft_autoload.pth").read_text().splitlines()) == 1

    (tmp_path / "_lancedb_ft_autoload.py").write_text("# of another version\n")
    stale = autoload.status(tmp_path)
    assert (stale.installed, stale.outdated) == (False, True)
    assert autoload.install(tmp_path) == after
    assert autoload.remove(tmp_path) == before
    assert list(tmp_path.iterdir()) == []


def test_install_where_python_does_not_look(tmp_path):
    with pytest.raises(InputError, match=r"does not read \.pth"):
        autoload.install(tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        autoload.install(tmp_path / "none")
    assert list(tmp_path.iterdir()) == []


def test_install_where_writing_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(site, "getsitepackages", lambda: [str(tmp_path)])
    (tmp_path / "lancedb_ft_autoload.pth").mkdir()  # fails for root, too
    with pytest.raises(InputError, match="Cannot write"):
        autoload.install(tmp_path)
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(".")]


def test_default_place_is_this_environment():
    status = autoload.status()
    assert status.site_dir == sysconfig.get_path("purelib")
    assert status.read_at_start


def test_the_hook_costs_little(tmp_path):
    """Loading the hook takes less than five milliseconds (measured: 0.2)."""
    hook = ROOT / "lancedb_ft" / "_autoload_hook.py"
    shutil.copy(hook, tmp_path / "_lancedb_ft_autoload.py")
    code = (
        "import sys, time; sys.path.insert(0, sys.argv[1]); start = time.perf_counter()\n"
        "import _lancedb_ft_autoload\n"
        "print(time.perf_counter() - start)"
    )
    times = []
    for _ in range(5):
        done = subprocess.run(
            [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
        )
        times.append(float(done.stdout))
    assert min(times) < 0.005


def test_many_threads_ask_first_at_once(environment):
    environment.run("from lancedb_ft.autoload import install; install()")
    code = (
        "import threading\n"
        "from lancedb.embeddings import get_registry\n"
        "start, found = threading.Barrier(8), []\n"
        "def ask():\n"
        " start.wait()\n"
        " found.append(get_registry().get('ft-embed').__name__)\n"
        "threads = [threading.Thread(target=ask) for _ in range(8)]\n"
        "[t.start() for t in threads]; [t.join() for t in threads]\n"
        "print(len(found), set(found))"
    )
    assert environment.run(code).stdout.strip() == "8 {'FineTunedEmbeddings'}"
