"""The first pass over files: check every row, remember the bad ones, find the columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from lancedb_ft.data.formats import Tick, read_rows, refuse_cut_off
from lancedb_ft.data.load_report import RowCounter
from lancedb_ft.data.records import (
    ColumnTypes,
    Fields,
    choose_fields,
    choose_qrels_fields,
    clean_item,
    clean_judgement,
)

if TYPE_CHECKING:
    from lancedb_ft.types import Progress

__all__ = ["ItemScan", "Meter", "QrelsScan", "scan_items", "scan_qrels"]


@dataclass
class Meter:
    """Adds up the bytes read of all files."""

    n_bytes: int
    progress: Progress | None
    done: int = 0

    @classmethod
    def over(cls, passes: Sequence[Path], progress: Progress | None) -> Meter:
        """Start at zero of the size of all files to be read."""
        return cls(sum(path.stat().st_size for path in passes), progress)

    def tick(self) -> Tick | None:
        """Return what a reader calls with the bytes of its file read so far."""
        progress, before = self.progress, self.done
        if progress is None:
            return None
        return lambda n_bytes: progress(before + n_bytes, self.n_bytes)

    def skip(self, path: Path) -> None:
        """Count a file as read."""
        self.done += path.stat().st_size
        if self.progress is not None:
            self.progress(self.done, self.n_bytes)


@dataclass
class ItemScan:
    """A file of documents or queries after its first pass."""

    path: Path
    fields: Fields
    types: ColumnTypes
    counter: RowCounter
    join_title: bool = False
    ids: set[str] = field(default_factory=set)
    bad: set[int] = field(default_factory=set)
    has_title: bool = False
    has_split: bool = False

    @property
    def n_good(self) -> int:
        """Rows that are to be written."""
        return len(self.ids)

    def schema(self, *, with_split: bool) -> pa.Schema:
        """Return the schema of the table to write."""
        columns = {"id": pa.string()}
        if self.has_title:
            columns["title"] = pa.string()
        columns["text"] = pa.string()
        if with_split:
            columns["split"] = pa.string()
        columns.update(self.types.columns)
        return pa.schema([pa.field(name, kind) for name, kind in columns.items()])

    def rows(
        self, meter: Meter, *, parts: Mapping[str, str], split: str | None
    ) -> Iterator[dict[str, Any]]:
        """Read the good rows again, with the part of each query filled in."""
        for ordinal, row in enumerate(read_rows(self.path, tick=meter.tick())):
            if ordinal in self.bad or row.values is None:
                continue
            reason, item = clean_item(row.values, self.fields, join_title=self.join_title)
            if reason:  # the file has changed; the number of rows will tell
                continue
            item["split"] = parts.get(item["id"]) or item.get("split") or split
            yield {**row.values, **item}
        meter.skip(self.path)


def scan_items(
    kind: Literal["corpus", "queries"],
    path: Path,
    *,
    meter: Meter,
    max_rejected: float,
    id_field: str | None = None,
    text_field: str | None = None,
    join_title: bool = False,
) -> ItemScan:
    """Check every row of a file of documents or queries.

    Raises
    ------
    BadRowsError
        More than ``max_rejected`` of the rows are bad.
    InputError
        The file cannot be read or ends in the middle of a row, or has no field for the id or the
        text.
    """
    counter = RowCounter(str(path), kind)
    scan: ItemScan | None = None
    for ordinal, row in enumerate(read_rows(path, tick=meter.tick())):
        counter.n_rows += 1
        refuse_cut_off(row, f"The file {str(path)!r}")
        if scan is None and row.values is not None:
            names = [str(name) for name in row.values]
            fields = choose_fields(kind, names, path=path, id_field=id_field, text_field=text_field)
            scan = ItemScan(path, fields, ColumnTypes.of(path, fields), counter, join_title)
            scan.bad.update(range(ordinal))
        if scan is None:
            counter.reject(row.reason, row.line)
        elif reason := _take(scan, row.values, row.reason):
            counter.reject(reason, row.line)
            scan.bad.add(ordinal)
    counter.check(max_rejected)
    meter.skip(path)
    if scan is None:  # no row has values, so the check above has raised
        raise RuntimeError(f"{path} has no rows and passed its check")
    return scan


def _take(scan: ItemScan, values: dict[str, Any] | None, reason: str) -> str:
    if values is None:
        return reason
    reason, item = clean_item(values, scan.fields, join_title=scan.join_title)
    if reason:
        return reason
    if item["id"] in scan.ids:
        return "repeated id"
    scan.ids.add(item["id"])
    scan.has_title |= bool(item.get("title", "").strip())
    scan.has_split |= bool(item.get("split"))
    scan.types.see(values)
    return ""


@dataclass
class QrelsScan:
    """All judgements, and the part each judged query belongs to."""

    scores: dict[tuple[str, str], int] = field(default_factory=dict)
    parts: dict[str, str] = field(default_factory=dict)
    counters: list[RowCounter] = field(default_factory=list)


def scan_qrels(
    paths: Mapping[str, Path],
    query_ids: set[str],
    doc_ids: set[str],
    meter: Meter,
    max_rejected: float,
) -> QrelsScan:
    """Read and check every judgement of all files.

    Raises
    ------
    BadRowsError
        More than ``max_rejected`` of the rows of a file are bad.
    InputError
        A file cannot be read or ends in the middle of a row, or has no field for one of the ids.
    """
    scan = QrelsScan()
    for part, path in paths.items():
        counter = RowCounter(str(path), "qrels")
        scan.counters.append(counter)
        fields: dict[str, str | None] | None = None
        for row in read_rows(path, tick=meter.tick(), qrels=True):
            counter.n_rows += 1
            refuse_cut_off(row, f"The file {str(path)!r}")
            reason = row.reason
            if row.values is not None:
                fields = fields or choose_qrels_fields(list(row.values), path=path)
                reason, judgement = clean_judgement(row.values, fields)
                if judgement is not None:
                    reason = _judge(scan, judgement, part, query_ids, doc_ids)
            if reason:
                counter.reject(reason, row.line)
        counter.check(max_rejected)
        meter.skip(path)
    return scan


def _judge(
    scan: QrelsScan,
    judgement: tuple[str, str, int],
    part: str,
    query_ids: set[str],
    doc_ids: set[str],
) -> str:
    query_id, doc_id, score = judgement
    if query_id not in query_ids:
        return "no query of this id"
    if doc_id not in doc_ids:
        return "no document of this id"
    if part and scan.parts.setdefault(query_id, part) != part:
        return f"query is in {scan.parts[query_id]} already"
    if (query_id, doc_id) in scan.scores:
        return "repeated judgement"
    scan.scores[query_id, doc_id] = score
    return ""
