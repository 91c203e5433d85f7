"""``lancedb-ft mine``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.table import Table as RichTable

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import (
    read_data_option,
    read_data_split,
    read_split,
    refuse_options_of_judged,
)
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.data import write_training_file, write_training_table
from lancedb_ft.data.mine import (
    MineReport,
    TableDocuments,
    cross_encoder_teacher,
    mine_negatives,
)
from lancedb_ft.data.training.files import check_target
from lancedb_ft.data.training.replacing import refuse_losing_source
from lancedb_ft.data.training.tables import check_target_table
from lancedb_ft.errors import InputError
from lancedb_ft.mining import table_candidates
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, id_column_of, open_table, require_column, scan

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.training_sets import TrainingSet
    from lancedb_ft.types import Pairs

EXAMPLE = (
    "Example: lancedb-ft mine --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --mode hybrid --out negatives.jsonl"
)

#: What is written, by the end of the name.
_FORMATS = {".jsonl": "bge", ".parquet": "parquet"}
#: Characters of a text in the sample that is shown.
_SHOWN = 100


def mine_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.QueriesTable = None,
    qrels_table: opt.QrelsTable = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Queries with positives: FILE[:kind] or table:NAME[:kind]."),
    ] = None,
    mode: Annotated[
        Literal["vector", "fts", "hybrid", "bm25"],
        typer.Option("--mode", help="Where candidates come from; bm25 is an index in memory."),
    ] = "vector",
    n_negatives: Annotated[
        int, typer.Option("--n-negatives", min=1, help="Negatives for each pair.")
    ] = 5,
    strategy: Annotated[
        Literal["retrieval", "partial_match", "domain_confusion"],
        typer.Option("--strategy", help="Which of the candidates are wanted."),
    ] = "retrieval",
    margin: Annotated[
        float,
        typer.Option(
            "--margin", help="A negative scores below this share of the positive; 0: no limit."
        ),
    ] = 0.95,
    range_min: Annotated[int, typer.Option("--range-min", min=0, help="Skip so many ranks.")] = 0,
    range_max: Annotated[int, typer.Option("--range-max", min=1, help="Look so deep.")] = 100,
    sampling: Annotated[
        Literal["top", "random"], typer.Option("--sampling", help="The hardest, or any.")
    ] = "top",
    when_few: Annotated[
        Literal["fill", "keep", "drop"],
        typer.Option("--when-few", help="Pairs with too few: fill at random, keep, or drop."),
    ] = "fill",
    teacher: Annotated[
        str | None,
        typer.Option("--teacher", help="A cross-encoder that judges: name@version or a folder."),
    ] = None,
    group_column: Annotated[
        str | None, typer.Option("--group-column", help="Topic, for domain_confusion.")
    ] = None,
    split_column: opt.SplitColumn = None,
    max_pairs: opt.MaxPairs = None,
    out_file: Annotated[
        Path | None, typer.Option("--out", help="Write to a file: .jsonl (BGE) or .parquet.")
    ] = None,
    out_table: Annotated[
        str | None, typer.Option("--out-table", help="Write to a new table of the database.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the file or table.")
    ] = False,
    sample: Annotated[int, typer.Option("--sample", min=0, help="Rows to show.")] = 5,
    id_column: opt.IdColumn = None,
    text_column: opt.TextColumn = None,
    vector_column: opt.VectorColumn = None,
    store: opt.Store = None,
    device: opt.Device = None,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Find hard negatives for the training queries in the table as it is served.

    Of --data in parts (a column split, a folder) the train part is mined for. What dev and test
    queries ask for is not taken. Shows how many candidates each rule removed,
    and rows to read: look at them before training.
    """
    out = Output(as_json)
    file_format = _format_of(out_file, overwrite)
    connection = connect(db)
    if out_table is not None:
        check_target_table(connection, out_table, overwrite=overwrite)
    docs = open_table(connection, table)
    pairs, held_out = _pairs(
        db,
        docs,
        data,
        queries_table,
        qrels_table,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )
    if out_file is not None:
        refuse_losing_source(pairs, out_file)
    judge = None
    if teacher is not None:
        judge = cross_encoder_teacher(teacher, store=store or default_store_uri(db), device=device)
    candidates = table_candidates(
        docs, mode, column=vector_column, id_column=id_column, text_column=text_column
    )
    with out.progress(f"mining {table}") as progress:
        mined = mine_negatives(
            pairs,
            candidates,
            corpus=TableDocuments(docs, id_column=id_column, text_column=text_column),
            n_negatives=n_negatives,
            strategy=strategy,
            sampling=sampling,
            margin=margin or None,
            range_min=range_min,
            range_max=range_max,
            teacher=judge,
            held_out=held_out,
            groups=None if group_column is None else _groups(docs, id_column, group_column),
            when_few=when_few,
            sample=sample,
            seed=seed,
            progress=progress,
        )
    if out_file is not None:
        write_training_file(mined.training_set, out_file, format=file_format, overwrite=overwrite)
    if out_table is not None:
        mode_of_table: Literal["overwrite", "create"] = "overwrite" if overwrite else "create"
        write_training_table(mined.training_set, connection, out_table, mode=mode_of_table)
    value = {"mode": mode, "out": out_file, "out_table": out_table, **mined.report.to_dict()}
    out.result(value, *shown_report(mined.report))


def shown_report(report: MineReport) -> list[RichTable | str]:
    """Return what a person sees: what was removed, and rows to read."""
    removed = rows_table(
        f"{report.n_candidates:,} candidates of {report.n_queries:,} queries",
        ("removed by", "candidates"),
        [*report.removed.items(), ("passed", report.n_passed)],
    )
    shown: list[RichTable | str] = [removed, str(report).splitlines()[0]]
    shown += str(report).splitlines()[2:]
    for row in report.sample:
        lines = [("positive", row["positive_score"], None, _cut(row["positive"]))]
        lines += [("negative", n["score"], n["rank"], _cut(n["text"])) for n in row["negatives"]]
        shown.append(rows_table(_cut(row["query"]), ("", "score", "rank", "text"), lines))
    return shown


def _groups(docs: Table, id_column: str | None, column: str) -> dict[str, str]:
    """Return ``{doc_id: group}``; rows without a group are left out."""
    require_column(docs.schema, column, table=docs.name)
    key = id_column_of(docs.schema, id_column, table=docs.name)
    groups: dict[str, str] = {}
    for batch in scan(docs, [key, column]):
        for doc_id, group in zip(batch[key].to_pylist(), batch[column].to_pylist(), strict=True):
            if group is not None:
                groups[str(doc_id)] = str(group)
    return groups


def _pairs(
    db: str,
    docs: Table,
    data: str | None,
    queries_table: str | None,
    qrels_table: str | None,
    *,
    split_column: str | None,
    max_pairs: int | None,
    seed: int,
    id_column: str | None,
    text_column: str | None,
) -> tuple[Pairs | TrainingSet, Sequence[Pairs | TrainingSet]]:
    """Return what to mine for, and what is held out."""
    if data is not None and (queries_table is not None or qrels_table is not None):
        raise InputError("Give --data, or --queries-table and --qrels-table, not both.")
    if data is not None:
        refuse_options_of_judged(split_column, max_pairs)
        parts = read_data_split(data, db=db)
        if parts is None or not len(parts.train):
            return read_data_option(data, db=db, split="train"), []
        return parts.train, [parts.dev, parts.test]
    if queries_table is None or qrels_table is None:
        raise InputError("Give --queries-table and --qrels-table, or --data FILE.")
    split = read_split(
        connect(db),
        docs,
        queries_table,
        qrels_table,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )
    return split.train, [split.dev, split.test]


def _format_of(path: Path | None, overwrite: bool) -> str | None:
    """Return the format of the file to write; asked before the work, not after it."""
    if path is None:
        return None
    if path.suffix not in _FORMATS:
        raise InputError(f"--out is {str(path)!r}; it must end in one of {sorted(_FORMATS)}.")
    check_target(path, format=_FORMATS[path.suffix], overwrite=overwrite)
    return _FORMATS[path.suffix]


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
