"""The manifest: one JSON beside the weights that says what a model is and where it comes from."""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from lancedb_ft._version import __version__
from lancedb_ft.errors import InputError, ManifestError

__all__ = ["FORMAT", "MANIFEST", "complete", "now", "read_manifest", "to_json", "to_plain"]

#: The name of the file.
MANIFEST = "manifest.json"
#: The format written. A manifest of a higher one is not read: it may mean something else.
FORMAT = 1
_PACKAGES = (
    *("lancedb", "pylance", "pyarrow", "numpy"),
    *("torch", "transformers", "sentence-transformers", "tokenizers", "safetensors", "accelerate"),
)
#: What only the store knows.
_OURS = ("format", "name", "version", "fingerprint", "dims")
_REQUIRED: dict[str, type] = {"name": str, "version": int, "fingerprint": str, "dims": int}


def now() -> str:
    """Return the time, UTC, in ISO 8601."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Return the versions of the libraries a model was made with, without importing them."""
    found = {"python": platform.python_version(), "lancedb-ft": __version__}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def to_plain(value: Any, where: str = "manifest") -> Any:
    """Return a value as JSON has it.

    Arrays and numbers of numpy become lists and numbers, data classes and those with ``to_dict``
    objects, paths and times text. NaN and infinities, which JSON does not have, become null: a
    metric that could not be computed must not lose a model that took an hour.

    Raises
    ------
    InputError
        A value of another type; the error says where it stands.
    """
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(part, f"{where}[{key!r}]") for key, part in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        parts = sorted(value, key=str) if isinstance(value, (set, frozenset)) else value
        return [to_plain(part, f"{where}[{n}]") for n, part in enumerate(parts)]
    return to_plain(_unpacked(value, where), where)


def _unpacked(value: Any, where: str) -> Any:
    for method in ("to_dict", "tolist", "isoformat"):
        if callable(getattr(value, method, None)) and not isinstance(value, type):
            return getattr(value, method)()
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise InputError(
        f"{where} is a {type(value).__name__}, which a manifest cannot hold. "
        "Pass texts, numbers, lists and mappings."
    )


def complete(
    given: Mapping[str, Any], *, name: str, fingerprint: str, dims: int, prompts: Mapping[str, str]
) -> dict[str, Any]:
    """Return the manifest of a version, but for its number, from what the caller knows of it.

    Raises
    ------
    InputError
        The caller says something else of the name, fingerprint or dims than what is there.
    """
    ours: dict[str, Any] = {"name": name, "fingerprint": fingerprint, "dims": dims}
    plain = to_plain(given)
    for key, found in ours.items():
        if plain.get(key, found) != found:
            raise InputError(
                f"The manifest given says {key} {plain[key]!r}, and what is saved has {found!r}. "
                f"Leave {key!r} out: the store fills it in."
            )
    facts = {
        "prompts": dict(prompts),
        "packages": package_versions(),
        "created_at": now(),
        "lancedb_ft_version": __version__,
    }
    rest = {key: value for key, value in plain.items() if key not in _OURS}
    return {"format": FORMAT, "name": name, "version": 0, **ours, **facts, **rest}


def to_json(document: Mapping[str, Any]) -> str:
    """Return a JSON object as the text of a file."""
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def read_manifest(raw: bytes, *, where: str) -> dict[str, Any]:
    """Parse and check a manifest. Keys that are not known here are kept.

    Raises
    ------
    ManifestError
        It is torn, of a newer format, or lacks what every manifest has.
    """
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise ManifestError(where, reason=f"it is torn or not JSON ({error}).") from error
    if not isinstance(document, dict) or not isinstance(document.get("format"), int):
        raise ManifestError(where, reason="it is not a manifest of lancedb-ft.")
    if document["format"] > FORMAT:
        raise ManifestError(
            where,
            reason=f"it has format {document['format']}, and lancedb-ft {__version__} reads "
            f"formats up to {FORMAT}. Upgrade lancedb-ft.",
        )
    for key, kind in _REQUIRED.items():
        if not isinstance(document.get(key), kind):
            raise ManifestError(where, reason=f"it has no {key!r}, a {kind.__name__}.")
    return document
