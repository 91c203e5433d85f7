"""TREC run and judgment files, plain or gzipped.

A run line is ``query_id Q0 doc_id rank score tag``, a judgment line ``query_id 0 doc_id grade``,
separated by blanks.
"""

from __future__ import annotations

import gzip
import io
import math
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from lancedb_ft.errors import InputError
from lancedb_ft.types import Qrels, Run

__all__ = ["check_target", "read_run", "read_trec_qrels", "write_run", "write_trec_qrels"]


def read_run(path: str | os.PathLike[str]) -> dict[str, dict[str, float]]:
    """Read a TREC run file; ``.gz`` is unpacked.

    The score decides the ranking and the rank column is ignored, as in trec_eval.

    Returns
    -------
    dict
        ``{query_id: {doc_id: score}}``, in the order of the file.

    Raises
    ------
    InputError
        The file cannot be read or is empty, a line does not have six columns, a score is no
        number, or a document stands twice under one query. The message names the line.
    """
    run: dict[str, dict[str, float]] = {}
    for place, fields in _lines(path, "query_id Q0 doc_id rank score tag"):
        query_id, _, doc_id, _, raw, _ = fields
        try:
            score = float(raw)
        except ValueError:
            score = math.nan
        if math.isnan(score):
            raise InputError(f"{place}: the score is {raw!r}, expected a number.")
        if doc_id in run.setdefault(query_id, {}):
            raise InputError(f"{place}: document {doc_id!r} is already ranked for {query_id!r}.")
        run[query_id][doc_id] = score
    return run


def write_run(run: Run, path: str | os.PathLike[str], *, tag: str = "lancedb-ft") -> None:
    """Write a TREC run file; ``.gz`` in the name packs it.

    Documents stand by score descending, then id. The file appears whole or not at all. Scores are
    written so that reading gives them back exactly (trec_eval itself reads them in single
    precision). A query without documents has no line.

    Raises
    ------
    InputError
        An id or the tag is empty or holds white space, or a score is NaN: the file could not be
        read back.
    """
    _check_word(tag, "tag")
    lines = []
    for query_id, hits in run.items():
        _check_word(query_id, "query id")
        for doc_id, score in hits.items():
            _check_word(doc_id, "document id")
            if math.isnan(score):
                raise InputError(f"The score of {doc_id!r} for query {query_id!r} is NaN.")
        ranked = sorted(hits.items(), key=lambda hit: (-hit[1], hit[0]))
        lines += [
            f"{query_id} Q0 {doc_id} {rank} {float(score)!r} {tag}\n"
            for rank, (doc_id, score) in enumerate(ranked, 1)
        ]
    _write(path, lines)


def check_target(path: str | os.PathLike[str]) -> None:
    """Refuse a path that no run can be written to; asked before the search, not after it.

    Raises
    ------
    InputError
        It is a folder, or there is no folder that it could stand in.
    """
    target = Path(path)
    if target.is_dir():
        raise InputError(f"{str(target)!r} is a folder; a run is a file. Give the file's name.")
    if not target.parent.is_dir():
        raise InputError(
            f"{str(target)!r} cannot be written: there is no folder {str(target.parent)!r}. Make "
            "it, or give another path."
        )


def read_trec_qrels(path: str | os.PathLike[str]) -> dict[str, dict[str, int]]:
    """Read a TREC judgment file; ``.gz`` is unpacked.

    Returns
    -------
    dict
        ``{query_id: {doc_id: grade}}``; grades of 0 and below are kept, they mean not relevant.

    Raises
    ------
    InputError
        The file cannot be read or is empty, a line does not have four columns, a grade is no
        integer, or a document is judged twice for one query. The message names the line.
    """
    qrels: dict[str, dict[str, int]] = {}
    for place, fields in _lines(path, "query_id 0 doc_id grade"):
        query_id, _, doc_id, raw = fields
        try:
            grade = int(raw)
        except ValueError:
            raise InputError(f"{place}: the grade is {raw!r}, expected an integer.") from None
        if doc_id in qrels.setdefault(query_id, {}):
            raise InputError(f"{place}: document {doc_id!r} is already judged for {query_id!r}.")
        qrels[query_id][doc_id] = grade
    return qrels


def write_trec_qrels(qrels: Qrels, path: str | os.PathLike[str]) -> None:
    """Write a TREC judgment file; ``.gz`` in the name packs it. It appears whole or not at all.

    Raises
    ------
    InputError
        An id is empty or holds white space, or a grade is no integer.
    """
    lines = []
    for query_id, grades in qrels.items():
        _check_word(query_id, "query id")
        for doc_id, grade in grades.items():
            _check_word(doc_id, "document id")
            if int(grade) != grade:
                raise InputError(f"The grade of {doc_id!r} for {query_id!r} is {grade!r}.")
            lines.append(f"{query_id} 0 {doc_id} {int(grade)}\n")
    _write(path, lines)


def _lines(path: str | os.PathLike[str], form: str) -> Iterator[tuple[str, list[str]]]:
    """Yield ``path:line`` and the fields of every line that is not blank."""
    n_fields = len(form.split())
    number = n_read = 0
    try:
        with _open_text(path) as file:
            for number, line in enumerate(file, 1):
                fields = line.split()
                if not fields:
                    continue
                if len(fields) != n_fields:
                    raise InputError(
                        f"{path}:{number}: {len(fields)} columns, expected {n_fields}: {form}"
                    )
                n_read += 1
                yield f"{path}:{number}", fields
    except UnicodeDecodeError as error:
        raise InputError(f"{path}:{number + 1}: not UTF-8 text ({error}).") from error
    except (OSError, EOFError) as error:  # gzip reports damage as either
        raise InputError(f"{path} cannot be read: {error}") from error
    if not n_read:
        raise InputError(f"{path} is empty, expected lines of: {form}")


def _open_text(path: str | os.PathLike[str]) -> io.TextIOBase:
    if str(path).endswith(".gz"):
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return open(path, encoding="utf-8-sig")


def _write(path: str | os.PathLike[str], lines: list[str]) -> None:
    """Write beside the file and rename, so that nobody reads half of it."""
    target = Path(path)
    data = "".join(lines).encode()
    if target.name.endswith(".gz"):
        data = gzip.compress(data, mtime=0)  # without a time: equal runs, equal files
    try:
        _replace(target, data)
    except OSError as error:
        raise InputError(f"{target} cannot be written: {error}") from error


def _replace(target: Path, data: bytes) -> None:
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o666 & ~_umask())  # mkstemp's 0600 is for secrets
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _check_word(text: str, what: str) -> None:
    if not isinstance(text, str) or text.split() != [text]:
        raise InputError(
            f"The {what} {text!r} cannot stand in a TREC file: it must be text without white space."
        )
