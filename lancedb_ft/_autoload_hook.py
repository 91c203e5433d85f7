"""Loads lancedb-ft when LanceDB is asked for the embedding function "ft-embed".

Put into site-packages by `lancedb-ft autoload install`, taken away by `lancedb-ft autoload remove`.
It runs at the start of every Python of this environment, so it imports nothing but ``sys``, and
it never raises. Whatever happens to lancedb or lancedb-ft later, Python starts as before.
"""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # typing's own would cost every start of Python a millisecond
if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import ModuleType
    from typing import Any

_ALIAS = "ft-embed"
_TARGET = "lancedb.embeddings.registry"
_MISSING = (
    "This table is embedded by lancedb-ft, which cannot be imported here ({error}). Install it: "
    'pip install "lancedb-ft[encode]"'
)


class _RegistryFinder:
    """Waits on ``sys.meta_path`` for LanceDB's registry, and takes itself away when it comes."""

    @classmethod
    def find_spec(cls, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return the spec of LanceDB's registry with a loader that patches it; else None."""
        if name != _TARGET:
            return None
        sys.meta_path.remove(cls)
        from importlib.util import find_spec

        spec = find_spec(name)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                execute(module)
                _patch(module)

            # A loader that takes no attributes leaves LanceDB as it is, without the hook.
            if hasattr(spec.loader, "__dict__"):
                spec.loader.__dict__["exec_module"] = exec_module
        return spec


def _patch(module: ModuleType) -> None:
    """Make the registry's ``get`` import lancedb-ft when the alias is unknown."""
    import threading

    registry = getattr(module, "EmbeddingFunctionRegistry", None)
    if registry is None:
        return
    plain_get = registry.get
    lock = threading.RLock()
    loading: list[bool] = []

    def get(self: Any, name: str) -> Any:
        try:
            return plain_get(self, name)
        except KeyError:
            if name != _ALIAS:
                raise
        with lock:  # other threads wait here until the alias is registered
            if not loading:  # else: lancedb-ft itself asks, to see whether the alias is free
                loading.append(True)
                try:
                    from lancedb_ft.embedding import register

                    register()
                except ImportError as error:
                    raise KeyError(_MISSING.format(error=error)) from error
                finally:
                    loading.clear()
            return plain_get(self, name)

    get.__doc__ = plain_get.__doc__
    registry.get = get


if __name__ == "_lancedb_ft_autoload" and _TARGET not in sys.modules:
    sys.meta_path.insert(0, _RegistryFinder)
