"""Bring files into LanceDB tables: documents, queries, judgements."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.data.formats import beir_qrels, plain_or_packed
from lancedb_ft.data.load_report import FileReport, LoadReport
from lancedb_ft.data.load_target import LoadMode, LoadTarget
from lancedb_ft.data.qrels import value_of_part
from lancedb_ft.data.reader import read_ids
from lancedb_ft.data.records import as_column
from lancedb_ft.data.scan_files import ItemScan, Meter, QrelsScan, scan_items, scan_qrels
from lancedb_ft.errors import InputError
from lancedb_ft.table import open_table

if TYPE_CHECKING:
    import lancedb

    from lancedb_ft.types import Progress

__all__ = ["load_files"]

_BATCH_ROWS = 2048
_PARTS = ("test", "dev", "train")  # test first: a query in two parts belongs to test

PathLike = str | Path
QrelsPaths = PathLike | Mapping[str, PathLike]


def load_files(
    db: lancedb.DBConnection,
    *,
    table: str = "docs",
    corpus: PathLike | None = None,
    queries: PathLike | None = None,
    qrels: QrelsPaths | None = None,
    beir: PathLike | None = None,
    id_field: str | None = None,
    text_field: str | None = None,
    query_id_field: str | None = None,
    query_text_field: str | None = None,
    split: str | None = None,
    join_title: bool = False,
    max_rejected: float = 0.1,
    mode: LoadMode = "create",
    progress: Progress | None = None,
) -> LoadReport:
    """Load documents, queries and judgements from files into three tables.

    ``<table>`` gets ``id``, ``text``, ``title`` (if any document has one) and the other scalar
    fields; ``<table>_queries`` gets ``id``, ``text``, ``split`` (if known) and the other scalar
    fields; ``<table>_qrels`` gets ``query_id``, ``doc_id``, ``score``. The files are read twice:
    the first time to check every row, the second time to write the good ones in batches, so
    nothing is written when too many are bad, and a file may be larger than the memory. Run again
    after it was killed, the same call goes on.

    Parameters
    ----------
    db
        The database.
    table
        Name of the table of documents.
    corpus, queries
        Files with the documents and the queries: JSONL, CSV, TSV (each plain or ``.gz``) or
        Parquet. Without ``corpus``, the table of documents must exist.
    qrels
        File with the judgements: in those formats, or TREC's four columns; or a BEIR folder of
        ``train.tsv``, ``dev.tsv`` (also called ``validation.tsv``), ``test.tsv`` and any others,
        each plain or ``.gz``; or ``{part: file}``. A query gets the part of the file it is judged
        in.
    beir
        Folder with ``corpus.jsonl``, ``queries.jsonl`` (or ``.gz``) and ``qrels/``, in place of the
        three above.
    id_field, text_field, query_id_field, query_text_field
        Names of fields, where they are none of the usual ones (``_id``, ``id``, ``doc_id``,
        ``query_id``; ``text``, ``contents``, ``body``, ``query``).
    split
        Part of all queries that the files give no part.
    join_title
        Put the title before the text, with a space, as BEIR's own baselines do.
    max_rejected
        Share of bad rows, 0 to 1, that each file may have.
    mode
        ``create`` refuses tables that exist, ``overwrite`` replaces them.
    progress
        Called with bytes read and bytes to read.

    Returns
    -------
    LoadReport
        Rows written, and for each file how many were rejected, why, and in which lines.

    Raises
    ------
    BadRowsError
        A file has more bad rows than allowed. Nothing was written.
    InputError
        A file cannot be read or ends in the middle of a row, a field is missing, two files are
        of one part, or a table exists.
    TableNotFoundError
        Without ``corpus`` or ``queries``, the table that stands for it does not exist.
    """
    started = time.perf_counter()
    if not 0 <= max_rejected <= 1:
        raise InputError(f"max_rejected is {max_rejected}; it is a share, 0 to 1.")
    sources = _Sources.of(corpus, queries, qrels, beir)
    options = [id_field, text_field, query_id_field, query_text_field, split, join_title]
    target = LoadTarget(db, mode, sources.mark(options))
    todo = target.todo(sources.tables(table))
    meter = Meter.over(sources.passes(), progress)
    read = partial(scan_items, meter=meter, max_rejected=max_rejected)
    docs = found = judged = None
    if sources.corpus:
        docs = read(
            "corpus",
            sources.corpus,
            id_field=id_field,
            text_field=text_field,
            join_title=join_title,
        )
    if sources.queries:
        found = read(
            "queries", sources.queries, id_field=query_id_field, text_field=query_text_field
        )
    if sources.qrels:
        doc_ids = docs.ids if docs else read_ids(open_table(db, table))
        query_ids = found.ids if found else read_ids(open_table(db, f"{table}_queries"))
        judged = scan_qrels(sources.qrels, query_ids, doc_ids, meter, max_rejected)
    _write(target, table, todo, docs, found, judged, meter, split)
    return LoadReport(
        database=str(db.uri),
        tables={name: target.count(name) for name in sources.tables(table)},
        resumed=tuple(name for name in sources.tables(table) if name not in todo),
        files=tuple(_reports(docs, found, judged)),
        seconds=time.perf_counter() - started,
    )


def check_sources(
    corpus: PathLike | None = None,
    queries: PathLike | None = None,
    qrels: QrelsPaths | None = None,
    beir: PathLike | None = None,
) -> None:
    """Refuse files that `load_files` cannot read, before there is a database to read them into.

    Raises
    ------
    InputError
        There is none, one does not exist, or it is a folder.
    """
    _Sources.of(corpus, queries, qrels, beir).mark([])


@dataclass(frozen=True)
class _Sources:
    """The files to load."""

    corpus: Path | None
    queries: Path | None
    qrels: Mapping[str, Path]

    @classmethod
    def of(
        cls,
        corpus: PathLike | None,
        queries: PathLike | None,
        qrels: QrelsPaths | None,
        beir: PathLike | None,
    ) -> _Sources:
        if beir is not None:
            if corpus or queries or qrels:
                raise InputError("Give either beir= or corpus=, queries= and qrels=, not both.")
            folder = Path(beir)
            if not folder.is_dir():
                raise InputError(f"The BEIR folder {str(folder)!r} does not exist.")
            corpus, queries = (
                plain_or_packed(folder / name) for name in ("corpus.jsonl", "queries.jsonl")
            )
            qrels = folder / "qrels" if (folder / "qrels").is_dir() else None
        if corpus is None and queries is None and qrels is None:
            raise InputError("There is nothing to load: give corpus=, queries=, qrels= or beir=.")
        paths = _qrels_paths(qrels)
        return cls(Path(corpus) if corpus else None, Path(queries) if queries else None, paths)

    def tables(self, table: str) -> list[str]:
        names = [(self.corpus, table), (self.queries, f"{table}_queries")]
        names.append((Path() if self.qrels else None, f"{table}_qrels"))
        return [name for path, name in names if path is not None]

    def files(self) -> list[Path]:
        found = [path for path in (self.corpus, self.queries) if path is not None]
        return [*found, *self.qrels.values()]

    def passes(self) -> list[Path]:
        """Return the files in the order they are read, those that are read twice twice."""
        again = [path for path in (self.corpus, self.queries) if path is not None]
        return [*self.files(), *again]

    def mark(self, options: list[Any]) -> str:
        """Return a key of the files as they are now and of the options."""
        for path in self.files():
            if not path.is_file():
                found = "is a folder" if path.is_dir() else "does not exist"
                raise InputError(f"The file {str(path)!r} {found}.")
        stats = [(str(path.resolve()), path.stat()) for path in self.files()]
        parts = [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats]
        text = json.dumps([parts, list(self.qrels), options])
        return hashlib.sha256(text.encode()).hexdigest()


def _qrels_paths(qrels: QrelsPaths | None) -> dict[str, Path]:
    """Return ``{part: file}``; the part is empty where one file is for all queries."""
    if qrels is None:
        return {}
    if isinstance(qrels, Mapping):
        return _in_order({str(part): Path(path) for part, path in qrels.items()})
    path = Path(qrels)
    return _in_order(_parts_of_folder(path)) if path.is_dir() else {"": path}


def _in_order(found: Mapping[str, Path]) -> dict[str, Path]:
    order = [*(part for part in _PARTS if part in found), *found]
    return {part: found[part] for part in dict.fromkeys(order)}


def _parts_of_folder(folder: Path) -> dict[str, Path]:
    """Return the judgements by part; ``validation.tsv`` is of the part ``dev``."""
    found: dict[str, Path] = {}
    for name, path in beir_qrels(folder).items():
        part = next((part for part in _PARTS if value_of_part(part, [name])), name)
        if part in found:
            raise InputError(
                f"The folder {str(folder)!r} has two files of the part {part!r}: "
                f"{found[part].name!r} and {path.name!r}. Make them one, or move one away."
            )
        found[part] = path
    if not found:
        raise InputError(f"The folder {str(folder)!r} has no train.tsv, dev.tsv or test.tsv.")
    return found


def _reports(
    docs: ItemScan | None, found: ItemScan | None, judged: QrelsScan | None
) -> Iterator[FileReport]:
    for items in (docs, found):
        if items is not None:
            yield items.counter.report(items.types.ignored)
    if judged is not None:
        for counter in judged.counters:
            yield counter.report()


# --- writing -------------------------------------------------------------------------------


def _write(
    target: LoadTarget,
    table: str,
    todo: list[str],
    docs: ItemScan | None,
    found: ItemScan | None,
    judged: QrelsScan | None,
    meter: Meter,
    split: str | None,
) -> None:
    """Write the judgements first: a table of documents then means that all is there."""
    if judged is not None and f"{table}_qrels" in todo:
        target.create(f"{table}_qrels", *_judgement_batches(judged))
    parts = judged.parts if judged else {}
    for name, items in ((f"{table}_queries", found), (table, docs)):
        if items is None:
            continue
        if name not in todo:
            meter.skip(items.path)
            continue
        is_queries = items is found
        with_split = is_queries and bool(parts or split or items.has_split)
        schema = items.schema(with_split=with_split)
        rows = items.rows(meter, parts=parts if is_queries else {}, split=split)
        expected = items.n_good, items.path
        target.create(name, schema, _item_batches(rows, schema), expected=expected)


def _item_batches(rows: Iterator[dict[str, Any]], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    held: list[dict[str, Any]] = []

    def batch() -> pa.RecordBatch:
        columns = [as_column([row.get(f.name) for row in held], f.type) for f in schema]
        return pa.record_batch(columns, schema=schema)

    for row in rows:
        held.append(row)
        if len(held) == _BATCH_ROWS:
            yield batch()
            held.clear()
    if held:
        yield batch()


def _judgement_batches(judged: QrelsScan) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    types = {"query_id": pa.string(), "doc_id": pa.string(), "score": pa.int32()}
    schema = pa.schema([pa.field(name, kind) for name, kind in types.items()])

    def batches() -> Iterator[pa.RecordBatch]:
        rows = [(*pair, score) for pair, score in judged.scores.items()]
        for start in range(0, len(rows), _BATCH_ROWS):
            columns = zip(*rows[start : start + _BATCH_ROWS], strict=True)
            arrays = [pa.array(c, t) for c, t in zip(columns, types.values(), strict=True)]
            yield pa.record_batch(arrays, schema=schema)

    return schema, batches()
