"""What a file format of training data is, and how the format of a file is found."""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lancedb_ft.data.formats import opened_text
from lancedb_ft.data.training.json_stream import JsonStream
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet

__all__ = ["Format", "Sniffed", "Wanted", "Written", "sniff"]

_HEAD_CHARACTERS = 1 << 16


@dataclass(frozen=True)
class Wanted:
    """What the caller says about a file.

    Parameters
    ----------
    kind
        What the data are; None to find it out.
    columns
        ``{role: column}``, as far as the names do not tell it.
    score_range
        Lowest and highest score of scored pairs; None to find it out.
    split
        Which part of data that come in several; None for ``train`` of folders, or the only one,
        and for all rows of files.
    max_rejected
        Share of bad rows, 0 to 1, that is put up with.
    """

    kind: str | None = None
    columns: Mapping[str, str] = field(default_factory=dict)
    score_range: tuple[float, float] | None = None
    split: str | None = None
    max_rejected: float = 0.1


@dataclass(frozen=True)
class Written:
    """What `write_training_file` wrote.

    ``left_out`` counts, by what it is, whatever the format has no place for.
    """

    path: str
    format: str
    kind: str
    n_rows: int
    left_out: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "path": self.path,
            "format": self.format,
            "kind": self.kind,
            "n_rows": self.n_rows,
            "left_out": dict(self.left_out),
        }


@dataclass(frozen=True)
class Sniffed:
    """The beginning of a file, or the names in a folder.

    Parameters
    ----------
    path
        The file or folder.
    names
        What is in the folder; empty for a file.
    is_folder
        Whether it is one.
    magic
        The first bytes of the file, as they are on disk.
    head
        The first characters of a text file, unpacked.
    first
        The first JSON object in it, if it holds rows of JSON.
    top_key
        The first key of the JSON document, if it is one object.
    """

    path: Path
    names: Sequence[str] = ()
    is_folder: bool = False
    magic: bytes = b""
    head: str = ""
    first: Mapping[str, Any] | None = None
    top_key: str | None = None


@dataclass(frozen=True)
class Format:
    """One file format of training data.

    Parameters
    ----------
    name
        What users call it.
    description
        One line, for listings and errors.
    read
        Reads a file, of the kind wanted or, if none is wanted, of the one it holds.
    write
        Writes a set; returns what was left out, by what it is.
    detect
        Says by content whether a file is of this format.
    kinds
        What it can hold.
    fixed_columns
        Whether it says what the columns are called.
    parts
        Lists the parts of data that come in several, by their names there; none of what is whole.
    """

    name: str
    description: str
    read: Callable[[Path, Wanted], TrainingSet]
    write: Callable[[TrainingSet, Path], Mapping[str, int]]
    detect: Callable[[Sniffed], bool]
    kinds: Sequence[str]
    fixed_columns: bool = False
    parts: Callable[[Path], Sequence[str]] = lambda path: ()


def sniff(path: Path) -> Sniffed:
    """Look at the beginning of a file, or into a folder.

    Raises
    ------
    InputError
        There is nothing at the path or nothing in the file, or it is an archive that is torn at
        its very beginning.
    """
    if path.is_dir():
        names = sorted(found.name for found in path.iterdir())
        return Sniffed(path, names=names, is_folder=True)
    if not path.is_file():
        raise InputError(f"There is no file or folder {str(path)!r}.")
    with path.open("rb") as raw:
        magic = raw.read(8)
    try:
        with opened_text(path, errors="surrogateescape") as text:
            head = text.read(_HEAD_CHARACTERS)
    except (EOFError, zlib.error, OSError) as error:
        raise InputError(f"The file {str(path)!r} cannot be read: {error}") from error
    if not head.strip("\ufeff \t\r\n[]"):
        raise InputError(
            f"The file {str(path)!r} is empty: there is no row of training data in it."
        )
    first, top_key = _first_object(head)
    return Sniffed(path, magic=magic, head=head, first=first, top_key=top_key)


def _first_object(head: str) -> tuple[Mapping[str, Any] | None, str | None]:
    """Return the first row of JSON, and the first key of the first object."""
    text = head.lstrip()
    if text.startswith("["):
        text = text[1:].lstrip()
    if not text.startswith("{"):
        return None, None
    try:
        top_key = next(JsonStream(io.StringIO(text)).each_key(), None)
    except ValueError:
        return None, None
    line = text.split("\n", 1)[0].rstrip().rstrip(",]")
    for candidate in (line, text):
        try:
            found, _ = json.JSONDecoder().raw_decode(candidate)
        except (ValueError, RecursionError):
            continue
        return found, top_key
    return None, top_key
