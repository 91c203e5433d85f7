"""The API documentation of the Python environment, as documents and queries.

Document = qualified name, signature, and the docstring *without* its summary sentence; query = that
sentence. Whoever finds the document by the query understands what the body says: the words of the
query were taken out of it.
"""

from __future__ import annotations

import gc
import os
import platform
import sysconfig
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.data.docstring_source import Docstring, docstrings_of
from lancedb_ft.data.texts import normalise, query_id_of, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from lancedb_ft.types import Progress

__all__ = ["ApiDocs", "read_api_docs"]

#: Folders that hold no documentation of their own: tests, and copies of other packages.
_SKIPPED_FOLDERS = frozenset(
    [
        *("__pycache__", "site-packages", "dist-packages"),
        *("test", "testing", "tests", "idlelib", "lib2to3", "turtledemo", "ensurepip"),
        *("_distutils", "_vendor", "_vendored", "vendor", "vendored"),
        *("extern", "externals", "third_party"),
    ]
)
_MAX_FILE_BYTES = 2_000_000  # nobody writes those by hand
#: A summary that more documents than this share says nothing about any of them.
_MAX_SHARED = 3


@dataclass(frozen=True)
class ApiDocs:
    """Documentation as a corpus, and the pairs it gives.

    Parameters
    ----------
    corpus
        Arrow table with the string columns ``id`` (qualified name), ``module`` (top level),
        ``kind`` (``function``, ``method``, ``class``) and ``text``: every document, whether it has
        a query or not.
    pairs
        Summary -> document. Two or three documents with one summary all answer it; a summary that
        more share (``Return a copy of this object.``) is no query, and its documents stay in the
        corpus.
    counts
        Files read, files this Python cannot parse, copies left out, generic summaries.
    """

    corpus: pa.Table
    pairs: Pairs
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of documents."""
        return int(self.corpus.num_rows)

    @property
    def modules(self) -> dict[str, str]:
        """``{doc_id: top-level module}``."""
        ids, modules = self.corpus["id"].to_pylist(), self.corpus["module"].to_pylist()
        return dict(zip(ids, modules, strict=True))


def read_api_docs(
    *,
    limit: int | None = None,
    seed: int = 0,
    paths: Sequence[str | Path] | None = None,
    progress: Progress | None = None,
) -> ApiDocs:
    """Read the docstrings of the standard library and of the installed packages.

    The source is parsed, never imported or run. Tests and vendored copies of other packages are
    skipped, and of documents with the same text one is kept.

    Parameters
    ----------
    limit
        Number of documents at most. The files are read in an order drawn by ``seed`` until there
        are enough, so every package keeps about its share, and a small sample is fast.
    seed
        See ``limit``.
    paths
        Folders that hold top-level modules; by default the standard library and site-packages.
    progress
        Called with documents found and ``limit``, or without a limit with files read and files.

    Raises
    ------
    InputError
        A folder does not exist, or there is no documentation.
    """
    if limit is not None and limit < 1:
        raise InputError(f"limit is {limit}; it must be 1 or more.")
    roots = [Path(path) for path in paths] if paths is not None else _default_roots()
    files = sorted(_source_files(roots), key=lambda found: stable_key(seed, found[0]))
    counts: Counter[str] = Counter()
    kept: dict[str, tuple[Docstring, str]] = {}
    texts: set[str] = set()
    with _no_garbage_collection():
        for n_files, (module, path) in enumerate(files, 1):
            for found in _read_file(module, path, counts):
                text = normalise(f"{found.summary}\n{found.body}")
                if text in texts or found.name in kept:
                    counts["copies"] += 1
                else:
                    texts.add(text)
                    kept[found.name] = (found, module.partition(".")[0])
            if progress is not None:
                progress(
                    *((n_files, len(files)) if limit is None else (min(len(kept), limit), limit))
                )
            if limit is not None and len(kept) >= limit:
                break
    if not kept:
        shown = ", ".join(repr(str(root)) for root in roots)
        raise InputError(f"There are no documented functions or classes under {shown}.")
    chosen = sorted(list(kept.values())[:limit], key=lambda entry: entry[0].name)
    return _assembled(chosen, counts, seed)


def _default_roots() -> list[Path]:
    places = sysconfig.get_paths()
    found = dict.fromkeys(Path(places[name]) for name in ("stdlib", "purelib", "platlib"))
    return [path for path in found if path.is_dir()]


def _source_files(roots: Sequence[Path]) -> Iterator[tuple[str, Path]]:
    """Yield ``(dotted module name, file)``, a module once: the first root wins, as in an import."""
    seen: set[str] = set()
    for root in roots:
        if not root.is_dir():
            raise InputError(f"The folder {str(root)!r} does not exist.")
        for folder, folders, names in os.walk(root):
            folders[:] = [n for n in folders if n not in _SKIPPED_FOLDERS and n.isidentifier()]
            for name in names:
                if not name.endswith(".py") or _is_test(name):
                    continue
                path = Path(folder, name)
                parts = path.relative_to(root).with_suffix("").parts
                module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
                # A private top-level module is another one's implementation: _pyio is io.
                if module and module not in seen and not module.startswith("_"):
                    seen.add(module)
                    yield module, path


def _is_test(name: str) -> bool:
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"


def _read_file(module: str, path: Path, counts: Counter[str]) -> list[Docstring]:
    try:
        source = path.read_bytes()
        if len(source) > _MAX_FILE_BYTES or (b'"""' not in source and b"'''" not in source):
            return []
        counts["files"] += 1
        return list(docstrings_of(source, module))
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        counts["unparsable files"] += 1
        return []


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Turn the collector off: parsing makes millions of objects, and no cycles of them."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _assembled(chosen: list[tuple[Docstring, str]], counts: Counter[str], seed: int) -> ApiDocs:
    columns = {
        "id": [found.name for found, _ in chosen],
        "module": [module for _, module in chosen],
        "kind": [found.kind for found, _ in chosen],
        "text": [found.text for found, _ in chosen],
    }
    corpus = pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})
    shared = Counter(normalise(found.summary) for found, _ in chosen)
    counts["generic summaries"] = sum(n > _MAX_SHARED for n in shared.values())
    first: dict[str, str] = {}
    rows = []
    for found, _ in chosen:
        key = normalise(found.summary)
        if shared[key] <= _MAX_SHARED:
            query = first.setdefault(key, found.summary)
            rows.append((query_id_of(query), query, found.name, found.text))
    source: dict[str, Any] = {
        "kind": "api docs",
        "python": platform.python_version(),
        "seed": seed,
        "n_docs": len(chosen),
        "n_modules": len(set(columns["module"])),
    }
    return ApiDocs(corpus, Pairs.of(rows, **source), dict(counts))
