"""Stream the rows of files: JSONL, CSV and TSV (plain or .gz), Parquet, TREC qrels."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pyarrow as pa

from lancedb_ft.data.delimited import (
    CUT_OFF,
    Lines,
    Row,
    csv_rows,
    headless_rows,
    refuse_cut_off,
)
from lancedb_ft.errors import InputError

__all__ = [
    "CUT_OFF",
    "Row",
    "beir_qrels",
    "format_of",
    "opened",
    "opened_text",
    "parquet_schema",
    "plain_or_packed",
    "read_rows",
    "refuse_cut_off",
]

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

#: Called with the bytes of the file that are read so far.
Tick = Callable[[int], None]


def plain_or_packed(path: Path) -> Path:
    """Return the path, or the same with ``.gz`` if only that file is there."""
    zipped = path.with_name(f"{path.name}.gz")
    return zipped if zipped.is_file() and not path.is_file() else path


def beir_qrels(folder: Path) -> dict[str, Path]:
    """Return the files of judgements in the folder ``qrels`` of BEIR, by their names: ``train``."""
    names = sorted(found.name.removesuffix(".gz") for found in folder.glob("*.tsv*"))
    # What begins with a dot an editor or a file server has left there.
    kept = [name for name in names if name.endswith(".tsv") and not name.startswith(".")]
    return {name.removesuffix(".tsv"): plain_or_packed(folder / name) for name in kept}


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
            _let_go(text)


def _let_go(text: io.TextIOWrapper) -> None:
    """Detach from a file that another has opened, or the wrapper would close it.

    It is closed already where Python cleans up after an error in no particular order.
    """
    if not text.closed:
        text.detach()


def _text_rows(
    kind: str, path: Path, stream: IO[bytes], step: _Ticker, qrels: bool
) -> Iterator[Row]:
    if kind == "jsonl":
        yield from _json_rows(stream, step)
        return
    # Undecodable bytes become lone surrogates, so that one bad row does not end the file.
    text = io.TextIOWrapper(stream, "utf-8-sig", errors="surrogateescape", newline="")
    try:
        lines = Lines(text)
        head = next((line for line in lines if line.strip()), None)
        if head is None:
            raise InputError(f"The file {str(path)!r} is empty.")
        lines.give_back([head])
        names = _qrels_names(head) if qrels else None
        if names is None:
            yield from csv_rows(path, lines, "," if kind == "csv" else "\t", step)
        else:
            yield from headless_rows(lines, names, step)
    finally:
        _let_go(text)


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


def _qrels_names(head: str) -> list[str] | None:
    """Return the column names of a headless qrels file, None if the line is a header."""
    fields = head.split()
    # Some write 1.0; a grade such as 0.5 is no header either, but a bad row.
    if len(fields) in (3, 4) and fields[-1].lstrip("+-").replace(".", "", 1).isdigit():
        return _QRELS_NAMES if len(fields) == 4 else ["query_id", "doc_id", "score"]
    return None


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
