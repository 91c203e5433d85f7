"""``lancedb-ft load``, and how other commands read judged queries and training data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import pyarrow as pa
import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output
from lancedb_ft.data import (
    load_files,
    read_qrels_split,
    read_training_file,
    read_training_set,
)
from lancedb_ft.data.load import check_sources
from lancedb_ft.data.qrels import value_of_part
from lancedb_ft.data.split import PARTS
from lancedb_ft.data.training.files import parts_of_file
from lancedb_ft.data.training.tables import parts_of_table
from lancedb_ft.errors import InputError
from lancedb_ft.storage import storage_options_for
from lancedb_ft.table import connect, open_table
from lancedb_ft.training_sets import KINDS, TrainingSet, TrainingSplit
from lancedb_ft.types import Gate, Mode

if TYPE_CHECKING:
    from lancedb import DBConnection
    from lancedb.table import Table

    from lancedb_ft.types import Split

LOAD_EXAMPLE = "Example: lancedb-ft load --db kb --table docs --beir scifact/"


def load_command(
    db: opt.Database,
    table: opt.TableName = "docs",
    corpus: Annotated[
        Path | None, typer.Option("--corpus", help="Documents: JSONL, CSV, TSV or Parquet.")
    ] = None,
    queries: Annotated[Path | None, typer.Option("--queries", help="Queries, likewise.")] = None,
    qrels: Annotated[
        Path | None, typer.Option("--qrels", help="Judgements: TSV, TREC, JSONL or Parquet.")
    ] = None,
    beir: Annotated[
        Path | None,
        typer.Option("--beir", help="Folder with corpus.jsonl, queries.jsonl, qrels/*.tsv."),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace tables that exist.")
    ] = False,
    max_rejected: Annotated[
        float,
        typer.Option("--max-rejected", min=0, max=1, help="Share of bad rows to put up with."),
    ] = 0.1,
    as_json: opt.Json = False,
) -> None:
    """Bring documents, queries and judgements from files into tables.

    Makes TABLE (id, title?, text, ...), TABLE_queries (id, text, split?) and TABLE_qrels
    (query_id, doc_id, score). Bad rows are counted and shown; above --max-rejected nothing is
    written.
    """
    out = Output(as_json)
    # First: connecting makes the folder of a database, of one whose name is a slip, too.
    check_sources(corpus, queries, qrels, beir)
    with out.progress(f"loading {table}") as progress:
        report = load_files(
            connect_or_make(db),
            table=table,
            corpus=corpus,
            queries=queries,
            qrels=qrels,
            beir=beir,
            mode="overwrite" if overwrite else "create",
            max_rejected=max_rejected,
            progress=progress,
        )
    out.result(report, str(report))


def connect_or_make(uri: str) -> DBConnection:
    """Connect to a database; a new one is made.

    Raises
    ------
    InputError
        None can be made there.
    """
    import lancedb

    try:
        return lancedb.connect(uri, storage_options=storage_options_for(uri))
    except OSError as error:
        raise InputError(
            f"There is no LanceDB database at {uri!r}, and none can be made there: "
            f"{error.strerror or error}. Name a folder with --db."
        ) from error


def refuse_options_of_judged(split_column: str | None, max_pairs: int | None = None) -> None:
    """Refuse options that are heeded where judged queries are read, and data are named.

    Raises
    ------
    InputError
        One of them is given.
    """
    given = {"--split-column": split_column, "--max-pairs": max_pairs}
    for option, value in given.items():
        if value is not None:
            raise InputError(
                f"{option} is for judged queries (--queries-table, --qrels-table), and what was "
                "named is --data, which is read as it is. Leave the option out."
            )


def read_split(
    connection: DBConnection,
    docs: Table,
    queries_table: str,
    qrels_table: str,
    *,
    split_column: str | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
    text_column: str | None = None,
) -> Split:
    """Read train, dev and test pairs from the tables that `load_command` makes."""
    return read_qrels_split(
        docs,
        open_table(connection, queries_table),
        open_table(connection, qrels_table),
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )


def read_gate(
    connection: DBConnection,
    docs: Table,
    queries_table: str | None,
    qrels_table: str | None,
    split_column: str | None,
    require: list[str] | None,
    mode: Mode,
    id_column: str | None,
    reranker: str | None = None,
    k: int | None = None,
) -> Gate | None:
    """Return the gate that the options describe, on the test part; None if they describe none.

    Raises
    ------
    InputError
        Only a part of a gate is described.
    """
    if queries_table is None and qrels_table is None and not require:
        return None
    if queries_table is None or qrels_table is None:
        raise InputError("A gate needs test queries: give both --queries-table and --qrels-table.")
    split = read_split(
        connection,
        docs,
        queries_table,
        qrels_table,
        split_column=split_column,
        id_column=id_column,
    )
    require = require or ["ndcg@10 >= base"]
    return Gate(split.test, require=require, mode=mode, reranker=reranker, k=k)


#: How a table is written where a file could stand as well: ``table:NAME``.
TABLE_PREFIX = "table:"


def read_data_option(value: str, *, db: str | None = None, split: str | None = None) -> TrainingSet:
    """Read what ``--data`` names: ``FILE[:kind]``, or ``table:NAME[:kind]`` of the database.

    Parameters
    ----------
    value
        As typed. A kind is a key of `lancedb_ft.training_sets.KINDS`.
    db
        URI of the database, for tables.
    split
        Part of a folder that has several, or of rows that have a column ``split``.

    Raises
    ------
    InputError
        There is no such file, no such kind, or no database for a table.
    """
    place, kind = _place_of(value, db)
    if isinstance(place, Path):
        return read_training_file(place, kind=kind, split=split)
    return read_training_set(place, kind, split=split)


def read_data_split(value: str, *, db: str | None = None) -> TrainingSplit | None:
    """Read the parts of what ``--data`` names; None where it does not come in several.

    Parameters are those of `read_data_option`. A part that is not there is empty.

    Raises
    ------
    InputError
        As there, or one of the parts is none of train, dev and test.
    """
    place, _ = _place_of(value, db)
    names = parts_of_file(place) if isinstance(place, Path) else parts_of_table(place)
    others = [name for name in names if not any(value_of_part(part, [name]) for part in PARTS)]
    if len(names) < 2 or others == names:
        return None
    if others:
        raise InputError(
            f"{value!r} comes in the parts {', '.join(map(repr, names))}, and {others[0]!r} is "
            "none of train, dev and test. Rename it, or write each part to a file of its own with "
            "lancedb-ft convert IN OUT --split PART."
        )
    if isinstance(place, Path) and place.is_dir():  # in a column both names are read as one part
        _refuse_twins(value, names)
    found = {
        part: read_data_option(value, db=db, split=part)
        for part in PARTS
        if value_of_part(part, names) is not None
    }
    nothing = next(iter(found.values())).take(pa.array([], pa.int64()))
    train, dev, test = (found.get(part, nothing) for part in PARTS)
    return TrainingSplit(train, dev, test)


def _refuse_twins(value: str, names: Sequence[str]) -> None:
    """Refuse two names of one part, of which only the first would be read."""
    for part in PARTS:
        twins = [name for name in names if value_of_part(part, [name])]
        if len(twins) > 1:
            raise InputError(
                f"{value!r} has the parts {' and '.join(map(repr, twins))}, which both mean "
                f"{part}. Make them one, or move one away."
            )


def _place_of(value: str, db: str | None) -> tuple[Path | Table, str | None]:
    """Return the file, folder or table that ``--data`` names, and the kind of data."""
    place, colon, kind = value.rpartition(":")
    if not colon or kind not in KINDS:
        place, kind = value, ""
    if place.startswith(TABLE_PREFIX):
        if db is None:
            raise InputError(f"{value!r} names a table: say of which database with --db.")
        return open_table(connect(db), place.removeprefix(TABLE_PREFIX)), kind or None
    if not Path(place).exists():
        cure = f" After the file may stand one of {', '.join(KINDS)}." if ":" in place else ""
        raise InputError(f"There is no file or folder {place!r}.{cure}")
    return Path(place), kind or None
