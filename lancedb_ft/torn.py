"""Find the newest version of a local table that was written in part only.

Lance writes a manifest to a temporary file and renames it; without a sync in between, a machine
that loses its power can come back with the new name and half of the bytes. Whoever opens the table
then reads "file size is too small". Nothing but that last commit is lost, and this module says
which file stands in the way.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from lancedb_ft.errors import LancedbFtError, TornManifestError

__all__ = ["torn_manifest_told"]

#: Last bytes of every whole manifest.
_MAGIC = b"LANC"
#: Manifests are named after the version, or (naming scheme V2) after this number less the version.
_LAST = 2**64 - 1


@contextlib.contextmanager
def torn_manifest_told(table: str, uri: str) -> Iterator[None]:
    """Where opening fails, look whether a torn manifest is why.

    Raises
    ------
    TornManifestError
        It is. Any other error is raised as it came.
    """
    try:
        yield
    except LancedbFtError:
        raise
    except (OSError, RuntimeError, ValueError) as error:
        found = _torn(uri)
        if found is None:
            raise
        version, path, n_bytes = found
        raise TornManifestError(table, path=str(path), n_bytes=n_bytes, version=version) from error


def _torn(uri: str) -> tuple[int, Path, int] | None:
    """Return version, file and length of the newest manifest, if it is not whole."""
    if "://" in uri:  # an object store shows an object whole or not at all
        return None
    found = {
        _version(path): path
        for path in Path(uri, "_versions").glob("*.manifest")
        if path.stem.isdecimal()
    }
    if not found:
        return None
    version = max(found)
    content = found[version].read_bytes()
    if content.endswith(_MAGIC) and len(content) >= 16 and _position(content) < len(content):
        return None
    return version, found[version], len(content)


def _version(path: Path) -> int:
    number = int(path.stem)
    return number if number < _LAST // 2 else _LAST - number


def _position(content: bytes) -> int:
    """Return where the footer says that the manifest starts."""
    return int.from_bytes(content[-16:-8], "little")
