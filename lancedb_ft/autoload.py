"""For applications that cannot add ``import lancedb_ft``: load it on first use of the alias.

LanceDB has no entry points, so a process that did not import the plugin raises a bare
``KeyError: 'ft-embed'`` at its first text search. `install` writes two small files into the
environment's site-packages, which make LanceDB's registry import lancedb-ft when it is asked for
``ft-embed``, and not before. It is opt-in, and `remove` takes both away.
"""

from __future__ import annotations

import os
import site
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from lancedb_ft.errors import InputError

__all__ = ["AutoloadStatus", "install", "remove", "status"]

_MODULE = "_lancedb_ft_autoload"

#: Python runs this line at its start; without the module (half removed) it does nothing.
_LINE = (
    "import sys; exec('try:\\n import "
    + _MODULE
    + "\\nexcept Exception:\\n pass')  # lancedb-ft autoload\n"
)


@dataclass(frozen=True)
class AutoloadStatus:
    """Whether the hook is installed.

    Attributes
    ----------
    installed
        Both files are there and are those of this version.
    outdated
        Files are there that another version wrote, or one of the two is missing.
    site_dir
        The folder looked at.
    files
        The files found there.
    read_at_start
        This Python runs the ``.pth`` files of that folder when it starts.
    """

    installed: bool
    outdated: bool
    site_dir: str
    files: tuple[str, ...]
    read_at_start: bool


def install(site_dir: str | Path | None = None) -> AutoloadStatus:
    """Write the hook. It works in Pythons started from now on.

    Parameters
    ----------
    site_dir
        The site-packages folder to write to; by default that of this environment.

    Raises
    ------
    InputError
        The folder is not there, cannot be written, or is not one Python reads ``.pth`` files of.
    """
    folder = _folder(site_dir)
    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is not a folder; pass the site-packages to write to.")
    if not _read_at_start(folder):
        raise InputError(
            f"This Python does not read .pth files in {str(folder)!r}; it reads them in "
            f"{sorted(map(str, _site_folders()))}."
        )
    try:
        # The module first: the line that imports it must not come before it.
        for file, text in _files(folder).items():
            _write(file, text)
    except OSError as error:
        raise InputError(
            f"Cannot write to {str(folder)!r}: {error}. Use a virtual environment, or "
            f"--site-dir {site.getusersitepackages()} for this user alone."
        ) from error
    return status(site_dir)


def remove(site_dir: str | Path | None = None) -> AutoloadStatus:
    """Take the hook away; nothing happens if it is not there.

    Raises
    ------
    InputError
        The files cannot be removed.
    """
    folder = _folder(site_dir)
    try:
        for file in reversed(_files(folder)):
            file.unlink(missing_ok=True)
    except OSError as error:
        raise InputError(f"Cannot remove the hook from {str(folder)!r}: {error}") from error
    return status(site_dir)


def status(site_dir: str | Path | None = None) -> AutoloadStatus:
    """Say whether the hook is installed."""
    folder = _folder(site_dir)
    wanted = _files(folder)
    found = tuple(str(file) for file in wanted if file.is_file())
    current = all(file.is_file() and file.read_text("utf-8") == t for file, t in wanted.items())
    return AutoloadStatus(
        installed=current,
        outdated=bool(found) and not current,
        site_dir=str(folder),
        files=found,
        read_at_start=_read_at_start(folder),
    )


def _folder(site_dir: str | Path | None) -> Path:
    return Path(site_dir if site_dir is not None else sysconfig.get_path("purelib")).absolute()


def _files(folder: Path) -> dict[Path, str]:
    hook = resources.files("lancedb_ft").joinpath("_autoload_hook.py").read_text("utf-8")
    return {folder / f"{_MODULE}.py": hook, folder / "lancedb_ft_autoload.pth": _LINE}


def _site_folders() -> set[Path]:
    folders = set(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.add(site.getusersitepackages())
    return {Path(folder).resolve() for folder in folders}


def _read_at_start(folder: Path) -> bool:
    return not sys.flags.no_site and folder.resolve() in _site_folders()


def _write(file: Path, text: str) -> None:
    """Write a file whole or not at all: Pythons start while this runs."""
    handle, temporary = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(text)
        os.chmod(temporary, 0o644)
        os.replace(temporary, file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
