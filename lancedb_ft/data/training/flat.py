"""Files with one example a row: JSON lines, CSV, TSV and Parquet."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from lancedb_ft.data.formats import (
    Row,
    opened,
    opened_text,
    parquet_schema,
    read_rows,
    refuse_cut_off,
)
from lancedb_ft.data.training.columns import (
    LOOKED_AT,
    LateColumns,
    columns_of_rows,
    columns_of_schema,
    looked_at,
)
from lancedb_ft.data.training.formats import Format, Sniffed, Wanted
from lancedb_ft.data.training.json_stream import JsonStream
from lancedb_ft.data.training.kinds import as_kind
from lancedb_ft.data.training.roles import Columns, find_roles, unread_columns
from lancedb_ft.data.training.rows import SPLIT_COLUMN, PartFilter, RowCollector
from lancedb_ft.errors import BadRowsError, InputError
from lancedb_ft.training_sets import KINDS, TrainingSet

__all__ = [
    "FLAT_FORMATS",
    "LOOKED_AT",
    "batches_of",
    "collect_rows",
    "columns_of_rows",
    "columns_of_schema",
    "json_rows",
    "looked_at",
    "parts_in",
    "row_reader",
    "rows_of",
    "write_json_rows",
    "writing",
]

_BATCH_ROWS = 4096
_PARQUET_MAGIC = b"PAR1"
_ARROW_MAGIC = b"ARROW1"
#: An Arrow stream begins with this mark, and the length of its schema.
_STREAM_MAGIC = b"\xff\xff\xff\xff"


# --- reading -------------------------------------------------------------------------------


def collect_rows(
    rows: Iterable[Row],
    columns: Columns,
    wanted: Wanted,
    source: Mapping[str, Any],
    *,
    name: str,
) -> TrainingSet:
    """Make a training set of rows; bad ones are counted.

    Raises
    ------
    InputError
        The file ends in the middle of a row, or later rows have columns that would make other
        data of it.
    BadRowsError, ColumnNotFoundError
        Too many rows are bad; a column is missing.
    """
    kind, roles = find_roles(columns, wanted.kind, wanted.columns, source=name)
    collector = RowCollector(kind, list(roles), wanted.score_range)
    parts = PartFilter(wanted.split, columns.names)
    late = LateColumns(columns, wanted, name, kind, roles)
    for row in rows:
        late.check(row)
        if row.values is None:
            refuse_cut_off(row, name)
            collector.reject(row.reason)
        elif parts.keeps(row.values.get(SPLIT_COLUMN)):
            collector.add({role: row.values.get(column) for role, column in roles.items()})
    told = {**parts.told(collector.n_rows, name), **late.told()}
    if unread := unread_columns(columns, roles):
        told["unread_columns"] = unread
    found = {**source, "kind": kind, "columns": roles, **told}
    made = collector.training_set(found, name=name, max_rejected=wanted.max_rejected)
    return made if wanted.kind is None else as_kind(made, wanted.kind)


def parts_in(rows: Iterable[Row], *, same_columns: bool = False) -> list[str]:
    """List what stands in the column ``split``; nothing if no row has one.

    With ``same_columns`` the first row tells; objects of JSON may each have other columns.
    """
    found: dict[str, None] = {}
    has_column = False
    for row in rows:
        if row.values is None:
            continue
        if SPLIT_COLUMN in row.values:
            has_column = True
        elif same_columns:
            return []
        found[str(row.values.get(SPLIT_COLUMN))] = None
    return list(found) if has_column else []


def json_rows(path: Path) -> Iterator[Row]:
    """Stream rows of JSON lines, or the objects of one JSON array."""
    with opened(path) as (_, binary):
        is_array = binary.read(64).lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"[")
    if not is_array:
        yield from read_rows(path, kind="jsonl")
        return
    name = f"The file {str(path)!r}"
    try:
        with opened_text(path) as text:
            stream = JsonStream(text)
            for number, value in enumerate(stream.each_value(), 1):
                is_object = isinstance(value, dict)
                yield Row(number, value if is_object else None, "" if is_object else _NO_OBJECT)
            rest = stream.peek()
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InputError(f"The archive {str(path)!r} is torn: {error}") from error
    except ValueError as error:
        raise InputError(f"{name} is torn or no JSON: {error}") from error
    if rest:
        raise InputError(
            f"{name} goes on with {rest!r} after the end of its JSON array. Make one array of all "
            "rows, or write one object a line (JSON lines)."
        )


_NO_OBJECT = "not a JSON object"


def row_reader(
    name: str, rows_in: Callable[[Path], Iterator[Row]], *, lists_as_json: bool = False
) -> Callable[..., TrainingSet]:
    """Return a reader of files with one example a row; some have their lists as texts of JSON."""

    def read(path: Path, wanted: Wanted) -> TrainingSet:
        told = f"File {str(path)!r}"
        first, rows = looked_at(rows_in(path))
        _require_rows(first, told)
        source = {"file": str(path), "format": name}
        columns = columns_of_rows(first, lists_as_json=lists_as_json)
        return collect_rows(rows, columns, wanted, source, name=told)

    return read


def _require_rows(first: Iterable[Row], name: str) -> None:
    """Refuse what has no row, before it is said to have none of the right columns."""
    reasons: Counter[str] = Counter()
    for row in first:
        if row.values is not None:
            return
        refuse_cut_off(row, name)
        reasons[row.reason] += 1
    if not reasons:
        raise InputError(
            f"{name} is empty: there is no row in it. It should have one example a row."
        )
    raise BadRowsError(name, n_rows=reasons.total(), reasons=reasons)


def _read_parquet(path: Path, wanted: Wanted) -> TrainingSet:
    source = {"file": str(path), "format": "parquet"}
    first, rows = looked_at(read_rows(path, kind="parquet", nested=True))
    columns = columns_of_schema(parquet_schema(path), first)
    return collect_rows(rows, columns, wanted, source, name=f"File {str(path)!r}")


def _read_arrow(path: Path, wanted: Wanted) -> TrainingSet:
    with _arrow(path) as reader:
        first, rows = looked_at(_arrow_rows(reader))
        columns = columns_of_schema(reader.schema, first)
        source = {"file": str(path), "format": "arrow"}
        return collect_rows(rows, columns, wanted, source, name=f"File {str(path)!r}")


def _arrow_parts(path: Path) -> list[str]:
    with _arrow(path) as reader:
        return parts_in(_arrow_rows(reader), same_columns=True)


@contextmanager
def _arrow(path: Path) -> Iterator[Any]:
    """Open an Arrow IPC file, or a stream as Hugging Face keeps it in its cache."""
    try:
        with pa.memory_map(str(path)) as mapped:
            opened_as = pa.ipc.open_file if _magic(path) == _ARROW_MAGIC else pa.ipc.open_stream
            yield opened_as(mapped)
    except (pa.ArrowException, OSError) as error:
        told = f"File {str(path)!r} is torn or no Arrow file: {error}"
        raise InputError(told) from error


def _arrow_rows(reader: Any) -> Iterator[Row]:
    """Yield the rows of a file, whose batches are numbered, or of a stream, whose are not."""
    if hasattr(reader, "num_record_batches"):
        batches: Iterator[Any] = map(reader.get_batch, range(reader.num_record_batches))
    else:
        batches = iter(reader)
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH_ROWS):
            for values in batch.slice(start, _BATCH_ROWS).to_pylist():
                number += 1
                yield Row(number, values)


def _magic(path: Path) -> bytes:
    with path.open("rb") as raw:
        return raw.read(len(_ARROW_MAGIC))


def _text_rows(kind: str) -> Callable[[Path], Iterator[Row]]:
    return lambda path: read_rows(path, kind=kind)


# --- writing -------------------------------------------------------------------------------


@contextmanager
def writing(path: Path) -> Iterator[IO[str]]:
    """Open a text file to be written; packed if its name ends in .gz."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix.lower() == ".gz":
        # No time stamp and no name: the same rows give the same file.
        with (
            path.open("wb") as raw,
            gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as packed,
            io.TextIOWrapper(packed, "utf-8", newline="") as text,
        ):
            yield text
    else:
        with path.open("w", encoding="utf-8", newline="") as text:
            yield text


def batches_of(training_set: TrainingSet) -> Iterator[pa.RecordBatch]:
    """Return the rows a few thousand at a time."""
    yield from training_set.table.to_batches(max_chunksize=_BATCH_ROWS)


def rows_of(training_set: TrainingSet) -> Iterator[dict[str, Any]]:
    """Return the rows one by one."""
    for batch in batches_of(training_set):
        yield from batch.to_pylist()


def write_json_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write JSON lines."""
    with writing(path) as text:
        for row in rows:
            text.write(json.dumps(row, ensure_ascii=False) + "\n")


def _write_jsonl(training_set: TrainingSet, path: Path) -> dict[str, int]:
    write_json_rows(path, rows_of(training_set))
    return {}


def _delimited_writer(delimiter: str) -> Callable[[TrainingSet, Path], dict[str, int]]:
    def write(training_set: TrainingSet, path: Path) -> dict[str, int]:
        names = training_set.table.column_names
        with writing(path) as text:
            # As RFC 4180 has it; with "\n" alone, Python leaves a lone "\r" in a text unquoted.
            rows = csv.writer(text, delimiter=delimiter, lineterminator="\r\n")
            rows.writerow(names)
            for row in rows_of(training_set):
                rows.writerow([_field(row[name]) for name in names])
        return {}

    return write


def _field(value: Any) -> Any:
    """Return a list as JSON: such files have no lists."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list) else value


def _write_parquet(training_set: TrainingSet, path: Path) -> dict[str, int]:
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(training_set.table, path)
    return {}


def _write_arrow(training_set: TrainingSet, path: Path) -> dict[str, int]:
    with pa.ipc.new_file(str(path), training_set.table.schema) as file:
        for batch in batches_of(training_set):
            file.write_batch(batch)
    return {}


# --- the formats ---------------------------------------------------------------------------


def _header(found: Sniffed) -> str:
    is_text = not found.is_folder and found.magic[:4] != _PARQUET_MAGIC and found.top_key is None
    header = found.head.lstrip("\r\n").split("\n", 1)[0]
    # Of a text further down it is a character like any other.
    return header if is_text and "\0" not in header else ""


def _is_csv(found: Sniffed) -> bool:
    return "," in _header(found) and "\t" not in _header(found)


FLAT_FORMATS = (
    Format(
        "parquet",
        "Parquet, one example a row",
        _read_parquet,
        _write_parquet,
        lambda found: found.magic[:4] == _PARQUET_MAGIC,
        tuple(KINDS),
        parts=lambda path: parts_in(read_rows(path, kind="parquet"), same_columns=True),
    ),
    Format(
        "arrow",
        "an Arrow file or stream, one example a row",
        _read_arrow,
        _write_arrow,
        lambda found: found.magic.startswith((_ARROW_MAGIC, _STREAM_MAGIC)),
        tuple(KINDS),
        parts=_arrow_parts,
    ),
    Format(
        "jsonl",
        "JSON lines (or one JSON array), one example an object",
        row_reader("jsonl", json_rows),
        _write_jsonl,
        lambda found: found.first is not None,
        tuple(KINDS),
        parts=lambda path: parts_in(json_rows(path)),
    ),
    Format(
        "tsv",
        "tab-separated values with a header; lists as JSON",
        row_reader("tsv", _text_rows("tsv"), lists_as_json=True),
        _delimited_writer("\t"),
        lambda found: "\t" in _header(found),
        tuple(KINDS),
        parts=lambda path: parts_in(read_rows(path, kind="tsv"), same_columns=True),
    ),
    Format(
        "csv",
        "comma-separated values with a header; lists as JSON",
        row_reader("csv", _text_rows("csv"), lists_as_json=True),
        _delimited_writer(","),
        _is_csv,
        tuple(KINDS),
        parts=lambda path: parts_in(read_rows(path, kind="csv"), same_columns=True),
    ),
)
