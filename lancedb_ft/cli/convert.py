"""``lancedb-ft convert``: training data from one format to another, and in and out of tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import TABLE_PREFIX, connect_or_make
from lancedb_ft.cli.output import Output, figures_table
from lancedb_ft.data import (
    FORMATS,
    as_kind,
    read_ranking,
    read_training_file,
    read_training_set,
    write_training_file,
    write_training_table,
)
from lancedb_ft.data.training.files import check_target, parts_of_file
from lancedb_ft.data.training.tables import (
    check_target_table,
    parts_of_table,
)
from lancedb_ft.errors import InputError
from lancedb_ft.table import check_table_name, connect, open_table
from lancedb_ft.training_sets import KINDS, TrainingSet, require_kind

EXAMPLE = (
    "Example: lancedb-ft convert mined.bge.jsonl table:support_train --db kb\n\n"
    "Example: lancedb-ft convert table:support_train support.jsonl --to bge --db kb"
)


def convert_command(
    source: Annotated[
        str, typer.Argument(metavar="IN", help="File, folder or table:NAME to read.")
    ],
    target: Annotated[
        str, typer.Argument(metavar="OUT", help="File, folder or table:NAME to write.")
    ],
    from_format: Annotated[
        str | None,
        typer.Option("--from", help=f"{', '.join(FORMATS)} [default: by what is in the file]."),
    ] = None,
    to_format: Annotated[
        str | None, typer.Option("--to", help="Likewise [default: by the end of the name].")
    ] = None,
    kind: Annotated[
        str | None,
        typer.Option("--kind", help=f"{', '.join(KINDS)} [default: what the data are]."),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option("--column", help="ROLE=COLUMN, where the names do not tell, repeatable."),
    ] = None,
    score_range: Annotated[
        tuple[float, float] | None,
        typer.Option("--score-range", help="Lowest and highest score of scored pairs."),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", help="Which part, of data that come in several."),
    ] = None,
    db: Annotated[
        str | None,
        typer.Option("--db", help="URI of the database, for tables.", envvar="LANCEDB_FT_DB"),
    ] = None,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a file or table that exists.")
    ] = False,
    max_rejected: Annotated[
        float,
        typer.Option("--max-rejected", min=0, max=1, help="Share of bad rows to put up with."),
    ] = 0.1,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Convert training data: JSONL, BGE, LlamaIndex, OpenAI, BEIR, TREC, HF, Parquet, CSV, tables.

    Bad rows are counted and shown, and so is what OUT or the kind has no place for; above
    --max-rejected nothing is written. What is written has no parts: of data in several (a column
    split, a folder) --split says which. With --queries-table and --qrels-table, IN is a table of
    documents, and the judgements are read.
    """
    out = Output(as_json)
    if kind is not None:
        require_kind(kind)
    columns = _columns(column or [])
    _check_target(target, to_format, db, overwrite)
    if queries_table or qrels_table:
        made = _judged(db, source, queries_table, qrels_table, split, max_rejected)
    elif source.startswith(TABLE_PREFIX):
        table = open_table(connect(_database(db, source)), source.removeprefix(TABLE_PREFIX))
        _refuse_several(source, parts_of_table(table), split)
        made = read_training_set(
            table,
            kind,
            columns=columns,
            score_range=score_range,
            split=split,
            max_rejected=max_rejected,
        )
    else:
        _refuse_several(source, parts_of_file(source, format=from_format), split)
        made = read_training_file(
            source,
            kind=kind,
            format=from_format,
            columns=columns,
            score_range=score_range,
            split=split,
            max_rejected=max_rejected,
        )
    made = made if kind is None else as_kind(made, kind, seed=seed)
    value = _told(made, _write(made, target, to_format, db, overwrite))
    shown = {
        name: ", ".join(found) if isinstance(found, list) else found
        for name, found in value.items()
        if found or not isinstance(found, (dict, list))
    }
    out.result(value, figures_table(f"Converted {source}", shown))


def _told(made: TrainingSet, written: Mapping[str, Any]) -> dict[str, object]:
    """Return what was written, and what of the data that were read is not in it."""
    read = made.source
    # A column that the kind lost is not there to be lost by the format as well.
    left_out = {**read.get("left_out", {}), **written.get("left_out", {})}
    return {
        "kind": made.kind,
        "n_rows": len(made),
        "n_rows_read": read.get("n_rows"),
        "rejected": read.get("rejected", {}),
        "rejected_texts": {k: n for k, n in read.get("rejected_texts", {}).items() if n},
        "incomplete_columns": read.get("incomplete_columns", {}),
        "late_columns": read.get("late_columns", []),
        "unread_columns": read.get("unread_columns", []),
        "examples": read.get("examples", {}),
        "from": read.get("format", "table"),
        **written,
        "left_out": left_out,
    }


def _judged(
    db: str | None,
    source: str,
    queries_table: str | None,
    qrels_table: str | None,
    split: str | None,
    max_rejected: float,
) -> TrainingSet:
    if not queries_table or not qrels_table or not source.startswith(TABLE_PREFIX):
        raise InputError(
            "Judgements need three tables: give table:NAME of the documents, --queries-table and "
            "--qrels-table."
        )
    connection = connect(_database(db, source))
    names = (source.removeprefix(TABLE_PREFIX), queries_table, qrels_table)
    docs, queries, qrels = (open_table(connection, name) for name in names)
    # A query without a part is one that nobody judged.
    _refuse_several(queries_table, [n for n in parts_of_table(queries) if n != "None"], split)
    return read_ranking(docs, queries, qrels, split=split, max_rejected=max_rejected)


def _refuse_several(source: str, parts: Sequence[str], split: str | None) -> None:
    """Refuse to join parts: rows to test with would become rows to train on."""
    if split is None and len(parts) > 1:
        raise InputError(
            f"{source!r} comes in the parts {', '.join(map(repr, parts))}, which what is written "
            "does not tell apart. Name one with --split, and convert each by itself. If the column "
            "split means something else, rename it."
        )


def _check_target(target: str, to_format: str | None, db: str | None, overwrite: bool) -> None:
    """Refuse what cannot be written before it is read: that may take long."""
    if not target.startswith(TABLE_PREFIX):
        check_target(target, format=to_format, overwrite=overwrite)
        return
    uri, name = _database(db, target), target.removeprefix(TABLE_PREFIX)
    if "://" in uri or Path(uri).is_dir():
        check_target_table(connect(uri), name, overwrite=overwrite)
    else:  # a new database, which connecting would make
        check_table_name(name)


def _write(
    made: TrainingSet, target: str, to_format: str | None, db: str | None, overwrite: bool
) -> dict[str, Any]:
    if not target.startswith(TABLE_PREFIX):
        written = write_training_file(made, Path(target), format=to_format, overwrite=overwrite)
        return {"to": written.format, "path": written.path, "left_out": dict(written.left_out)}
    name = target.removeprefix(TABLE_PREFIX)
    uri = _database(db, target)
    table = write_training_table(
        made, connect_or_make(uri), name, mode="overwrite" if overwrite else "create"
    )
    return {"to": "table", "table": name, "table_version": table.version, "database": uri}


def _database(db: str | None, value: str) -> str:
    if db is None:
        raise InputError(f"{value!r} names a table: say of which database with --db.")
    return db


def _columns(given: list[str]) -> dict[str, str]:
    found = {}
    for text in given:
        role, equals, column = text.partition("=")
        if not (role and equals and column):
            raise InputError(f"--column {text!r} is not of the form ROLE=COLUMN.")
        found[role] = column
    return found
