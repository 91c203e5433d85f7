"""The way from a model back to the one that everything began with."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

__all__ = ["walk"]

_OF_A_STORE = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]*@[1-9][0-9]{0,8}$")
_TOLD = (
    *("fingerprint", "dims", "parent", "base", "table", "table_version", "database", "data"),
    *("split", "training", "seed", "dev", "metrics", "packages", "created_at"),
)


def walk(
    reference: str,
    recall: Callable[[str], tuple[Mapping[str, Any] | None, str | None]],
) -> Iterator[dict[str, Any]]:
    """Yield one step a model, from ``reference`` to the base model.

    Parameters
    ----------
    reference
        ``name@version``.
    recall
        Returns the manifest of a version, or None, and when it was deleted, or None.
    """
    seen: set[str] = set()
    base: dict[str, Any] | None = None
    current: str | None = reference
    while current is not None and current not in seen:
        seen.add(current)
        manifest, deleted_at = recall(current)
        if manifest is None:
            yield {"ref": current, "missing": True}
            break
        yield _step(current, manifest, deleted_at)
        current = _parent_of(manifest)
        own = _base_of(manifest)
        if own is not None and current is None:
            yield own  # not of this store, even if a version here has the same name
            return
        base = own or base
    if base is not None and base["ref"] not in seen:
        yield base


def _step(reference: str, manifest: Mapping[str, Any], deleted_at: str | None) -> dict[str, Any]:
    step: dict[str, Any] = {"ref": reference}
    step.update((key, manifest[key]) for key in _TOLD if key in manifest)
    if deleted_at is not None:
        step["deleted_at"] = deleted_at
    return step


def _base_of(manifest: Mapping[str, Any]) -> dict[str, Any] | None:
    base = manifest.get("base")
    if isinstance(base, Mapping) and base.get("ref"):
        return dict(base)
    if isinstance(base, str):
        return {"ref": base, "fingerprint": manifest.get("base_fingerprint")}
    return None


def _parent_of(manifest: Mapping[str, Any]) -> str | None:
    """Return the version of this store that it was trained from.

    Where ``parent`` is given, that alone counts: a base ``support@2`` with no parent is of another
    store, and this one's ``support@2`` is another model.
    """
    base = _base_of(manifest) or {}
    candidate = manifest["parent"] if "parent" in manifest else base.get("ref")
    known = isinstance(candidate, str) and _OF_A_STORE.fullmatch(candidate)
    return str(candidate) if known else None
