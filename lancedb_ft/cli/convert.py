"""``lancedb-ft convert``: training data from one format to another, and in and out of tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import TABLE_PREFIX
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
from lancedb_ft.data.training.files import parts_of_file
from lancedb_ft.data.training.tables import parts_of_table
from lancedb_ft.errors import InputError
from lancedb_ft.table import connect, open_table
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

    Bad rows are counted and shown; above --max-rejected nothing is written. What is written has no
    parts: of data in several (a column split, a folder) --split says which. With --queries-table
    and --qrels-table, IN is a table of documents, and the judgements are read.
    """
    out = Output(as_json)
    if kind is not None:
        require_kind(kind)
    columns = _columns(column or [])
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
    told = _write(made, target, to_format, db, overwrite)
    value = {
        "kind": made.kind,
        "n_rows": len(made),
        "n_rows_read": made.source.get("n_rows"),
        "rejected": made.source.get("rejected", {}),
        "from": made.source.get("format", "table"),
        **told,
    }
    out.result(value, figures_table(f"Converted {source}", value))


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


def _write(
    made: TrainingSet, target: str, to_format: str | None, db: str | None, overwrite: bool
) -> dict[str, object]:
    if not target.startswith(TABLE_PREFIX):
        written = write_training_file(made, Path(target), format=to_format, overwrite=overwrite)
        return {"to": written.format, "path": written.path, "left_out": dict(written.left_out)}
    import lancedb

    name = target.removeprefix(TABLE_PREFIX)
    uri = _database(db, target)
    table = write_training_table(
        made, lancedb.connect(uri), name, mode="overwrite" if overwrite else "create"
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
