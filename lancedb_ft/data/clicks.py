"""Click logs: from rows of a query and a clicked document to queries and judgements in tables."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.arguments import check_whole, is_number
from lancedb_ft.data.formats import Row, read_rows, refuse_cut_off
from lancedb_ft.data.load_report import LoadReport, RowCounter
from lancedb_ft.data.load_target import LoadMode, LoadTarget
from lancedb_ft.data.reader import TableReader, read_ids
from lancedb_ft.data.records import text_reason
from lancedb_ft.data.scan_files import Meter
from lancedb_ft.data.texts import key_of, normalise, query_id_of
from lancedb_ft.data.training.columns import looked_at
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.table import open_table

if TYPE_CHECKING:
    import lancedb
    from lancedb.table import Table

    from lancedb_ft.types import Progress

__all__ = ["CLICK_NAMES", "load_clicks"]

#: Names under which logs keep each column, best first.
CLICK_NAMES: Mapping[str, tuple[str, ...]] = {
    "query": ("query", "search_query", "query_text", "question", "q", "search_term"),
    "doc_id": ("doc_id", "document_id", "clicked_doc_id", "clicked_id", "item_id", "corpus-id"),
    "clicks": ("clicks", "n_clicks", "click_count", "count", "clicked", "is_clicked"),
}
_WORDS = {"true": 1, "yes": 1, "false": 0, "no": 0}


def load_clicks(
    db: lancedb.DBConnection,
    log: str | Path | Table,
    *,
    table: str = "docs",
    query: str | None = None,
    doc_id: str | None = None,
    clicks: str | None = None,
    min_clicks: int = 1,
    min_share: float = 0.0,
    id_column: str | None = None,
    max_rejected: float = 0.1,
    mode: LoadMode = "create",
    progress: Progress | None = None,
) -> LoadReport:
    """Make judged queries of a click log: what was clicked for a query answers it.

    ``<table>_queries`` gets ``id``, ``text`` and ``clicks``, one row a query; ``<table>_qrels``
    gets ``query_id``, ``doc_id``, ``score`` (always 1) and ``clicks``: the tables that
    `load_files` writes, from which `read_qrels_split` reads pairs to train and to test with.
    Queries that differ in case or white space alone are one, in its most frequent spelling. A log
    is read row by row; in memory are its distinct pairs.

    Parameters
    ----------
    db
        The database, with the table of documents.
    log
        A file (JSONL, CSV, TSV, each plain or ``.gz``, or Parquet) or a table. One row is a
        click, or, where there is a column of clicks, a query and a document that were shown.
    table
        Name of the table of documents.
    query, doc_id, clicks
        Names of the columns, where they are none of the usual ones (`CLICK_NAMES`). A row has as
        many clicks as its column says, a whole number, or yes or no; 1 without such a column.
    min_clicks
        Pairs with fewer clicks are left out, 1 or more: single clicks are often mistakes.
    min_share
        Pairs with a smaller share of the clicks of their query are left out, 0 to 1.
    id_column
        Key of the documents.
    max_rejected
        Share of bad rows, 0 to 1, to put up with: no query, no document of that id.
    mode
        ``create`` refuses tables that exist, ``overwrite`` replaces them.
    progress
        Called with bytes read and bytes to read, of a file.

    Returns
    -------
    LoadReport
        Rows written, how many were rejected and why, and how many pairs were ``left_out``.

    Raises
    ------
    BadRowsError
        More rows than allowed are bad. Nothing was written.
    ColumnNotFoundError, InputError
        The log has no query or no document id, or cannot be read; no pair is left; or the tables
        exist.
    TableNotFoundError
        There is no table of documents.
    """
    started = time.perf_counter()
    check_whole("min_clicks", min_clicks, least=1)
    for name, share in (("min_share", min_share), ("max_rejected", max_rejected)):
        if not is_number(share) or not 0 <= share <= 1:
            raise InputError(f"{name} is {share!r}; it is a share, 0 to 1.")
    source = _log_of(log, {"query": query, "doc_id": doc_id, "clicks": clicks})
    options = [source.mark, table, query, doc_id, clicks, min_clicks, min_share, id_column]
    target = LoadTarget(db, mode, hashlib.sha256(json.dumps(options).encode()).hexdigest())
    names = [f"{table}_qrels", f"{table}_queries"]
    if source.reader is not None and source.reader.name in names:
        raise InputError(
            f"The log is the table {source.reader.name!r}, which the judged queries of {table!r} "
            "are to stand in. Give the log another name."
        )
    target.check_replaceable(names)
    todo = target.todo(names)
    counted = _Clicks(read_ids(open_table(db, table), id_column), RowCounter(source.name, "clicks"))
    counted.read(source.rows(progress))
    counted.counter.check(max_rejected)
    pairs = counted.kept(min_clicks, min_share)
    for name, made in zip(names, _tables(pairs, counted.spellings), strict=True):
        if name in todo:
            target.create(name, made.schema, iter(made.to_batches()))
    return LoadReport(
        database=str(db.uri),
        tables={name: target.count(name) for name in names},
        resumed=tuple(name for name in names if name not in todo),
        files=(counted.counter.report(left_out=counted.left_out),),
        seconds=time.perf_counter() - started,
    )


# --- the log -------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Log:
    """A file or a table of clicks; ``given`` are the names of its columns that were said."""

    name: str
    mark: list[Any]
    given: Mapping[str, str | None]
    path: Path | None = None
    reader: TableReader | None = None

    def rows(self, progress: Progress | None) -> Iterator[Row]:
        """Stream rows of ``{role: value}``."""
        return self._table_rows() if self.path is None else self._file_rows(self.path, progress)

    def _file_rows(self, path: Path, progress: Progress | None) -> Iterator[Row]:
        meter = Meter.over([path], progress)
        first, rows = looked_at(read_rows(path, tick=meter.tick()))
        # Each object of JSON lines may have other fields.
        names = dict.fromkeys(name for row in first for name in row.values or {})
        roles = _roles(list(names), self.given, self.name) if names else {}
        for row in rows:
            refuse_cut_off(row, self.name)
            if row.values is None:
                yield row
            else:
                _refuse_late_clicks(row, roles, self.name)
                values = {role: row.values.get(column) for role, column in roles.items()}
                yield Row(row.line, values)
        meter.skip(path)

    def _table_rows(self) -> Iterator[Row]:
        assert self.reader is not None
        roles = _roles(self.reader.schema.names, self.given, self.name)
        for number, values in enumerate(self.reader.rows(roles), 1):
            yield Row(number, values)


def _log_of(log: Any, given: Mapping[str, str | None]) -> _Log:
    if isinstance(log, (str, Path)):
        path = Path(log)
        if not path.is_file():
            raise InputError(f"The file {str(path)!r} does not exist.")
        stat = path.stat()
        mark = [str(path.resolve()), stat.st_size, stat.st_mtime_ns]
        return _Log(f"The log {str(path)!r}", mark, given, path=path)
    reader = TableReader.of(log)
    mark = [reader.database, reader.name, reader.version]
    return _Log(f"The log in table {reader.name!r}", mark, given, reader=reader)


def _roles(names: list[str], given: Mapping[str, str | None], source: str) -> dict[str, str]:
    """Return ``{role: column}``; without a column of clicks each row is one."""
    found: dict[str, str] = {}
    for role, candidates in CLICK_NAMES.items():
        said = given[role]
        if said is not None and said not in names:
            raise ColumnNotFoundError(said, table=source, available=names)
        column = said or next((name for name in candidates if name in names), None)
        if column is not None:
            found[role] = column
        elif role != "clicks":
            raise InputError(
                f"{source} has the columns {', '.join(map(repr, names))}, and none of them is "
                f"known for the {role}: {', '.join(candidates)}. Name it with {role}= "
                f"(--{role.replace('_', '-')}-column)."
            )
    return found


def _refuse_late_clicks(row: Row, roles: Mapping[str, str], source: str) -> None:
    """Refuse a column of clicks that only later rows have: each row before was taken for one."""
    if "clicks" in roles or row.values is None:
        return
    late = next((name for name in CLICK_NAMES["clicks"] if name in row.values), None)
    if late is not None:
        raise InputError(
            f"{source} has a column {late!r} from line {row.line} on, and none before. Give all "
            "rows one, or leave it out of all."
        )


# --- what is counted -----------------------------------------------------------------------


@dataclass
class _Clicks:
    """Clicks by query and document."""

    doc_ids: set[str]
    counter: RowCounter
    #: Clicks by ``(query id, document id)``.
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    #: By query id how often each spelling came.
    spellings: dict[str, Counter[str]] = field(default_factory=dict)
    left_out: Counter[str] = field(default_factory=Counter)
    #: Ids of the queries by their normal form: a log repeats them.
    _query_ids: dict[str, str] = field(default_factory=dict)

    def read(self, rows: Iterable[Row]) -> None:
        """Take all rows."""
        for row in rows:
            self.counter.n_rows += 1
            reason = row.reason if row.values is None else self._take(row.values)
            if reason:
                self.counter.reject(reason, row.line)

    def _take(self, values: Mapping[str, Any]) -> str:
        """Count a row; return why it cannot be, or nothing."""
        text, doc_id = values["query"], key_of(values["doc_id"])
        clicks = _number_of(values["clicks"]) if "clicks" in values else 1
        if not isinstance(text, str) or not normalise(text):
            return "no query"
        if reason := text_reason(text):
            return f"query {reason}"
        if "\n" in text.strip() or "\r" in text.strip():
            return "query of several lines (a stray quote before it?)"
        if not doc_id:
            return "no document id"
        if doc_id not in self.doc_ids:
            return "no document of this id"
        if clicks is None:
            return "clicks are no whole number of 0 or more, nor yes or no"
        if not clicks:
            self.left_out["shown, not clicked"] += 1
            return ""
        normal = normalise(text)
        query_id = self._query_ids.setdefault(normal, query_id_of(normal))
        self.pairs[query_id, doc_id] += clicks
        self.spellings.setdefault(query_id, Counter())[" ".join(text.split())] += clicks
        return ""

    def kept(self, min_clicks: int, min_share: float) -> dict[tuple[str, str], int]:
        """Return the pairs that were clicked often enough, with their clicks.

        Raises
        ------
        InputError
            None was.
        """
        kept: dict[tuple[str, str], int] = {}
        for (query_id, doc_id), clicks in self.pairs.items():
            if clicks < min_clicks:
                self.left_out[f"pairs of fewer than {min_clicks} clicks"] += 1
            elif clicks / self.spellings[query_id].total() < min_share:
                self.left_out[f"pairs of less than {min_share:g} of their query's clicks"] += 1
            else:
                kept[query_id, doc_id] = clicks
        if not kept:
            told = "; ".join(f"{n} x {reason}" for reason, n in self.left_out.items())
            raise InputError(
                f"{self.counter.path}: no pair is left ({told}). Lower min_clicks (--min-clicks) "
                "or min_share (--min-share), or take a longer log."
            )
        return kept


def _number_of(value: Any) -> int | None:
    """Return how many clicks a value means; None if it means none."""
    if isinstance(value, str):
        value = _WORDS.get(value.strip().casefold(), value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return int(number) if number.is_integer() and 0 <= number < 2**53 else None


def _tables(
    pairs: Mapping[tuple[str, str], int], spellings: Mapping[str, Counter[str]]
) -> tuple[pa.Table, pa.Table]:
    """Return the judgements and the queries, in the order in which the log first had them."""
    totals: Counter[str] = Counter()
    for (query_id, _), clicks in pairs.items():
        totals[query_id] += clicks
    query_ids, doc_ids = zip(*pairs, strict=True)
    judgements = {
        "query_id": pa.array(query_ids, pa.string()),
        "doc_id": pa.array(doc_ids, pa.string()),
        "score": pa.array([1] * len(pairs), pa.int32()),
        "clicks": pa.array(pairs.values(), pa.int64()),
    }
    queries = {
        "id": pa.array(totals, pa.string()),
        "text": pa.array([spellings[q].most_common(1)[0][0] for q in totals], pa.string()),
        "clicks": pa.array(totals.values(), pa.int64()),
    }
    return pa.table(judgements), pa.table(queries)
