"""Training data in files: read and written in the formats that the field uses."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from lancedb_ft.data.training.flat import FLAT_FORMATS
from lancedb_ft.data.training.folders import FOLDER_FORMATS
from lancedb_ft.data.training.formats import Format, Wanted, Written, sniff
from lancedb_ft.data.training.kinds import refuse_unreadable
from lancedb_ft.data.training.named import NAMED_FORMATS
from lancedb_ft.data.training.replacing import (
    beside,
    put,
    refuse_losing_source,
    remove,
    tidy,
    writable,
)
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet, require_kind, require_score_range

__all__ = [
    "FORMATS",
    "check_target",
    "detect_format",
    "parts_of_file",
    "read_training_file",
    "write_training_file",
]

#: Every file format of training data, by name; the particular ones before the general.
FORMATS: Mapping[str, Format] = {
    found.name: found for found in (*FOLDER_FORMATS, *NAMED_FORMATS, *FLAT_FORMATS)
}
_BY_SUFFIX = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
    ".arrow": "arrow",
}


def read_training_file(
    path: str | Path,
    *,
    kind: str | None = None,
    format: str | None = None,
    columns: Mapping[str, str] | None = None,
    score_range: tuple[float, float] | None = None,
    split: str | None = None,
    max_rejected: float = 0.1,
) -> TrainingSet:
    """Read training data of any kind from a file or a folder, row by row.

    Parameters
    ----------
    path
        JSON lines, CSV, TSV (each plain or packed with gzip) or Parquet with one example a row,
        or a file or folder in the format of another project: see `FORMATS`.
    kind
        A key of `lancedb_ft.training_sets.KINDS`; by default the one that the columns are of.
    format
        A key of `FORMATS`; by default it is found by what is in the file.
    columns
        ``{role: column}`` where the columns have none of the usual names, such as
        ``{"anchor": "subject", "positive": "reply"}``; not for formats that say what the names
        are (BGE, LlamaIndex, BEIR, TREC).
    score_range
        Lowest and highest score of scored pairs, which are mapped to 0..1. By default 0 to 1 or
        0 to 5, whichever the scores are of.
    split
        Part of a BEIR, TREC or Hugging Face folder with several, by default ``train``; of other
        files, the rows that have it in a column ``split``, if there is one, by default all.
    max_rejected
        Share of bad rows, 0 to 1, to put up with: a missing or blank text, a wrong type, a score
        out of its range, a row that cannot be read.

    Returns
    -------
    TrainingSet
        ``source`` holds the file, its format, ``n_rows`` read, how many were ``rejected`` by
        reason and, of scored pairs, the ``score_range``.

    Raises
    ------
    BadRowsError
        More rows than allowed are bad, or none is good.
    ColumnNotFoundError
        A column that the kind needs is not there.
    InputError
        The file is torn, of no known format, or its columns are of no known kind, or of one of
        several: a label or a score is not guessed at.
    """
    path = Path(path)
    if kind is not None:
        require_kind(kind)
    require_score_range(score_range)
    found = _format_of(path, format)
    if columns and found.fixed_columns:
        raise InputError(
            f"{str(path)!r} is read as {found.name!r}, whose columns have names of their own: "
            "leave columns= (--column) out, or name another format= (--from)."
        )
    wanted = Wanted(kind, dict(columns or {}), score_range, split, max_rejected)
    return found.read(path, wanted)


def parts_of_file(path: str | Path, *, format: str | None = None) -> list[str]:
    """List the parts of data that come in several, by their names there; none of what is whole.

    That is what stands in the column ``split``, or the parts of a folder.
    """
    path = Path(path)
    return list(_format_of(path, format).parts(path))


def write_training_file(
    training_set: TrainingSet,
    path: str | Path,
    *,
    format: str | None = None,
    overwrite: bool = False,
) -> Written:
    """Write training data to a file or, of some formats, a folder.

    It is written under another name and then renamed: a torn file never stands at ``path``, and
    what stood there is gone only when the new one is in its place.

    Parameters
    ----------
    training_set
        What to write.
    path
        Where to; with ``.gz`` at the end a text file is packed.
    format
        A key of `FORMATS`; by default by the end of the name.
    overwrite
        Replace what is there: a file by a file, or a folder that is a data set of the same format.

    Returns
    -------
    Written
        How many rows, and what of them the format has no place for.

    Raises
    ------
    InputError
        There is no such format, it cannot hold this kind of data, the path exists or must not be
        replaced (see `check_target`), it cannot be written to, or some rows would not be read
        back.
    """
    path = Path(path)
    found = _target_format(path, format)
    if training_set.kind not in found.kinds:
        able = [f.name for f in FORMATS.values() if training_set.kind in f.kinds]
        raise InputError(
            f"The format {found.name!r} cannot hold {training_set.kind!r} data, only "
            f"{', '.join(found.kinds)}. Formats that can: {', '.join(able)}."
        )
    refuse_unreadable(training_set)
    tidy(path)
    check_target(path, format=format, overwrite=overwrite)
    refuse_losing_source(training_set, path)
    partial = beside(path, "writing")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            left_out = dict(found.write(training_set, partial))
            put(partial, path)
        finally:
            remove(partial)
    prompts = {"query_prompt": training_set.query_prompt} if found.name != "bge" else {}
    prompts |= {"document_prompt": training_set.document_prompt, "loss": training_set.loss}
    left_out |= {name: 1 for name, value in prompts.items() if value}
    return Written(str(path), found.name, training_set.kind, len(training_set), left_out)


def check_target(path: str | Path, *, format: str | None = None, overwrite: bool = False) -> None:
    """Refuse a path that training data cannot be written to; asked before the work, not after it.

    Raises
    ------
    InputError
        The format is not known; the path exists and is not to be overwritten; it is a folder and
        the format writes a file, or the other way; it is a folder that is no data set of that
        format; or nothing can be written there.
    """
    path = Path(path)
    found = _target_format(path, format)
    if path.name in ("", ".."):
        raise InputError(f"{str(path)!r} names no file or folder to write; give its name.")
    with writable(path):
        _refuse_replacing(path, found, overwrite)
        above = next(parent for parent in path.parents if parent.exists())
        if not above.is_dir():
            raise InputError(
                f"{str(path)!r} cannot be written: {str(above)!r} is a file, not a folder. Give "
                "another path."
            )
        with tempfile.TemporaryFile(dir=above):
            pass


def _refuse_replacing(path: Path, found: Format, overwrite: bool) -> None:
    if not path.exists():
        return
    if not overwrite:
        raise InputError(
            f"{str(path)!r} exists. Pass overwrite=True (--overwrite) to replace it, or give "
            "another name."
        )
    is_folder, writes_folder = path.is_dir(), found in FOLDER_FORMATS
    if is_folder != writes_folder:
        names = {True: "a folder", False: "a file"}
        raise InputError(
            f"{str(path)!r} is {names[is_folder]}, and the format {found.name!r} writes "
            f"{names[writes_folder]}, which never replaces {names[is_folder]}. Give another name."
        )
    if is_folder and any(path.iterdir()) and not found.detect(sniff(path)):
        held = ", ".join(sorted(inside.name for inside in path.iterdir())[:5])
        raise InputError(
            f"The folder {str(path)!r} is no data set of the format {found.name!r} (it holds "
            f"{held}), so it is not replaced. Give another name, or remove it yourself."
        )


def detect_format(path: str | Path) -> Format:
    """Find the format of a file or folder by what is in it.

    Raises
    ------
    InputError
        It is none of those known; the error lists them.
    """
    looked_at = sniff(Path(path))
    for found in FORMATS.values():
        is_folder = found in FOLDER_FORMATS
        if is_folder == looked_at.is_folder and found.detect(looked_at):
            return found
    inside = f" It holds {', '.join(looked_at.names[:10]) or 'nothing'}." * looked_at.is_folder
    raise InputError(
        f"{str(path)!r} is of no format that is known here.{inside} Known are: {_listed()}"
    )


def require_format(name: str) -> Format:
    """Return the format of that name.

    Raises
    ------
    InputError
        There is none; the error lists those there are.
    """
    if name not in FORMATS:
        raise InputError(f"There is no format {name!r}. Known are: {_listed()}")
    return FORMATS[name]


def _format_of(path: Path, name: str | None) -> Format:
    """Return the format that is named, or else found; a folder is no file."""
    if name is None:
        return detect_format(path)
    found = require_format(name)
    if sniff(path).is_folder != (found in FOLDER_FORMATS):
        it_is, expected = (
            ("a file", "a folder") if found in FOLDER_FORMATS else ("a folder", "a file")
        )
        raise InputError(
            f"{str(path)!r} is {it_is}, and data of the format {name!r} are {expected}: give that, "
            "or leave format= (--from) out, and it is found."
        )
    return found


def _listed() -> str:
    return "; ".join(f"{found.name} ({found.description})" for found in FORMATS.values()) + "."


def _format_by_name(path: Path) -> Format:
    suffixes = [s.lower() for s in path.suffixes if s.lower() != ".gz"]
    name = _BY_SUFFIX.get(suffixes[-1]) if suffixes else None
    if name is None:
        raise InputError(
            f"Cannot tell by the name {path.name!r} what format to write; pass format= (--to). "
            f"Known are: {_listed()}"
        )
    return FORMATS[name]


def _target_format(path: Path, name: str | None) -> Format:
    return _format_by_name(path) if name is None else require_format(name)
