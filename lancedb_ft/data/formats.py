"""Stream the rows of files: JSONL, CSV and TSV (plain or .gz), Parquet, TREC qrels."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import pyarrow as pa

from lancedb_ft.errors import InputError

__all__ = ["CUT_OFF", "Row", "format_of", "opened", "opened_text", "parquet_schema", "read_rows"]

_SUFFIXES = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "jsonl",
    ".csv": "csv",
    ".tsv": "tsv",
    ".txt": "tsv",
    ".qrels": "tsv",
    ".qrel": "tsv",
    ".trec": "tsv",
    ".parquet": "parquet",
    ".pq": "parquet",
}
_GZIP = b"\x1f\x8b"
_PARQUET_ROWS = 4096
_TICK_ROWS = 2048
_QRELS_NAMES = ["query_id", "iteration", "doc_id", "score"]

#: Why the last line of a file that was not written or downloaded to its end is no row.
CUT_OFF = "cut off in the middle"

#: Called with the bytes of the file that are read so far.
Tick = Callable[[int], None]


class Row(NamedTuple):
    """One row of a file: its values, or the reason why it has none.

    ``line`` is the line it ends on, from 1 (for Parquet, the row).
    """

    line: int
    values: dict[str, Any] | None
    reason: str = ""


def format_of(path: Path) -> str:
    """Return ``jsonl``, ``csv``, ``tsv`` or ``parquet`` by the name of the file.

    Raises
    ------
    InputError
        There is no such file, or its name tells no format.
    """
    if not path.is_file():
        found = "is a folder" if path.is_dir() else "does not exist"
        raise InputError(f"The file {str(path)!r} {found}.")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if suffixes and suffixes[-1] == ".gz":
        suffixes.pop()
    kind = _SUFFIXES.get(suffixes[-1]) if suffixes else None
    if kind is None:
        raise InputError(
            f"Cannot tell the format of {str(path)!r} by its name; it must end in one of "
            f"{', '.join(_SUFFIXES)}, and all but Parquet may have .gz after it."
        )
    return kind


def read_rows(
    path: Path,
    *,
    tick: Tick | None = None,
    qrels: bool = False,
    kind: str | None = None,
    nested: bool = False,
) -> Iterator[Row]:
    """Stream the rows of a file.

    Blank lines are no rows. What is not JSON, not UTF-8, or has other columns than the header is a
    `Row` without values. With ``qrels`` a file without header is understood: TREC's four columns
    (query, iteration, document, grade, by white space) or three, by tab. ``kind`` is the format
    (see `format_of`) where the name of the file does not tell it; ``nested`` reads the columns of
    a Parquet file that hold lists, too.

    Raises
    ------
    InputError
        The file cannot be read at all: no such file, a torn archive, an empty CSV.
    """
    kind = kind or format_of(path)
    try:
        if kind == "parquet":
            yield from _parquet_rows(path, tick, nested)
            return
        with opened(path) as (raw, stream):
            yield from _text_rows(kind, path, stream, _Ticker(raw, tick), qrels)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"The archive {str(path)!r} is torn: {error}") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"The file {str(path)!r} cannot be read as {kind}: {error}") from error


def parquet_schema(path: Path) -> pa.Schema:
    """Return the schema of a Parquet file."""
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"The file {str(path)!r} cannot be read as parquet: {error}") from error


class _Ticker:
    """Reports the position in the file on disk every few thousand rows."""

    def __init__(self, raw: IO[bytes], tick: Tick | None) -> None:
        self._raw = raw
        self._tick = tick
        self._n_rows = 0

    def __call__(self) -> None:
        self._n_rows += 1
        if self._tick is not None and self._n_rows % _TICK_ROWS == 0:
            self._tick(self._raw.tell())


@contextmanager
def opened(path: Path) -> Iterator[tuple[IO[bytes], IO[bytes]]]:
    """Open a file: the file on disk, and what it holds, which differ where it is a .gz."""
    with path.open("rb") as raw:
        if path.suffix.lower() == ".gz" or raw.peek(2)[:2] == _GZIP:
            with gzip.GzipFile(fileobj=raw) as stream:
                yield raw, stream  # type: ignore[misc]
        else:
            yield raw, raw


@contextmanager
def opened_text(path: Path, errors: str = "strict") -> Iterator[IO[str]]:
    """Open a file of text, packed or not; line ends stay as they are."""
    with opened(path) as (_, stream):
        text = io.TextIOWrapper(stream, "utf-8-sig", errors=errors, newline="")
        try:
            yield text
        finally:
            text.detach()  # or it would close a file that is not its own


def _text_rows(
    kind: str, path: Path, stream: IO[bytes], step: _Ticker, qrels: bool
) -> Iterator[Row]:
    if kind == "jsonl":
        yield from _json_rows(stream, step)
        return
    # Undecodable bytes become lone surrogates, so that one bad row does not end the file.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        head = text.readline()
        while head and not head.strip():
            head = text.readline()
        if not head:
            raise InputError(f"The file {str(path)!r} is empty.")
        names = _qrels_names(head) if qrels else None
        if names is None:
            yield from _csv_rows(path, head, text, "," if kind == "csv" else "\t", step)
        else:
            yield from _headless_rows(head, text, names, step)
    finally:
        text.detach()  # or it would close a file that is not its own


def _json_rows(stream: IO[bytes], step: _Ticker) -> Iterator[Row]:
    for number, line in enumerate(stream, 1):
        step()
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line.strip():
            continue
        try:
            values = json.loads(line.decode())
        except UnicodeDecodeError:
            yield Row(number, None, "not UTF-8")
        except (ValueError, RecursionError):
            yield Row(number, None, "not JSON" if line.endswith(b"\n") else CUT_OFF)
        else:
            if isinstance(values, dict):
                yield Row(number, values)
            else:
                yield Row(number, None, "not a JSON object")


@contextmanager
def _large_fields() -> Iterator[None]:
    # The limit is the process's, and 128 KiB by default: a long document is no error.
    before = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(before)


def _csv_rows(path: Path, head: str, text: IO[str], delimiter: str, step: _Ticker) -> Iterator[Row]:
    def lines() -> Iterator[str]:
        yield head
        yield from text

    # Strict, so that a stray quote is an error and does not swallow the rows up to the next one.
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    names: list[str] | None = None
    while True:
        step()
        try:
            with _large_fields():
                fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if names is None:
                raise InputError(
                    f"The header of {str(path)!r} is not valid CSV: {error}"
                ) from error
            yield Row(reader.line_num, None, f"not valid CSV: {error}")
            continue
        if names is None:
            names = [name.strip() for name in fields]
        elif fields:
            yield _named(reader.line_num, fields, names)


def _named(line: int, fields: list[str], names: list[str]) -> Row:
    if len(fields) != len(names):
        return Row(line, None, "not as many fields as the header")
    if any(not field.isascii() and _has_surrogates(field) for field in fields):
        return Row(line, None, "not UTF-8")
    return Row(line, dict(zip(names, fields, strict=True)))


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _qrels_names(head: str) -> list[str] | None:
    """Return the column names of a headless qrels file, None if the line is a header."""
    fields = head.split()
    if len(fields) in (3, 4) and fields[-1].lstrip("+-").isdigit():
        return _QRELS_NAMES if len(fields) == 4 else ["query_id", "doc_id", "score"]
    return None


def _headless_rows(head: str, text: IO[str], names: list[str], step: _Ticker) -> Iterator[Row]:
    number, line = 1, head
    while line:
        step()
        fields = line.split()
        if fields:
            yield _named(number, fields, names)
        line = text.readline()
        number += 1


def _parquet_rows(path: Path, tick: Tick | None, nested: bool) -> Iterator[Row]:
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        n_all, n_bytes, number = file.metadata.num_rows, path.stat().st_size, 0
        flat = [field.name for field in file.schema_arrow if not pa.types.is_nested(field.type)]
        chosen = None if nested else flat
        for batch in file.iter_batches(batch_size=_PARQUET_ROWS, columns=chosen):
            for values in _microseconds(batch).to_pylist():
                number += 1
                yield Row(number, values)
            if tick is not None and n_all:
                tick(n_bytes * number // n_all)


def _microseconds(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Python's datetime has no nanoseconds: cut them, instead of failing where there are some."""
    for position, field in enumerate(batch.schema):
        if pa.types.is_timestamp(field.type) and field.type.unit == "ns":
            column = batch.column(position).cast(pa.timestamp("us", field.type.tz), safe=False)
            batch = batch.set_column(position, field.name, column)
    return batch
