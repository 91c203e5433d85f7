"""``lancedb-ft mine``."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import pyarrow.parquet as pq
import typer
from rich.table import Table as RichTable

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.data import read_split
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.data.mine import (
    MineReport,
    TableDocuments,
    cross_encoder_teacher,
    mine_negatives,
)
from lancedb_ft.errors import InputError
from lancedb_ft.mining import table_candidates
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, id_column_of, open_table, require_column, scan

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.training_sets import TrainingSet

EXAMPLE = (
    "Example: lancedb-ft mine --db kb --table docs --queries-table docs_queries "
    "--qrels-table docs_qrels --mode hybrid --out negatives.jsonl"
)

#: Characters of a text in the sample that is shown.
_SHOWN = 100


def mine_command(
    db: opt.Database,
    table: opt.TableName,
    queries_table: opt.RequiredQueries,
    qrels_table: opt.RequiredQrels,
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

    Shows how many candidates each rule removed, and rows to read: look at them before training.
    """
    out = Output(as_json)
    write = _writer(out_file)
    connection = connect(db)
    docs = open_table(connection, table)
    split = read_split(
        connection,
        docs,
        queries_table,
        qrels_table,
        split_column=split_column,
        max_pairs=max_pairs,
        seed=seed,
        id_column=id_column,
        text_column=text_column,
    )
    judge = None
    if teacher is not None:
        judge = cross_encoder_teacher(teacher, store=store or default_store_uri(db), device=device)
    candidates = table_candidates(
        docs, mode, column=vector_column, id_column=id_column, text_column=text_column
    )
    with out.progress(f"mining {table}") as progress:
        mined = mine_negatives(
            split.train,
            candidates,
            corpus=TableDocuments(docs, id_column=id_column, text_column=text_column),
            n_negatives=n_negatives,
            strategy=strategy,
            sampling=sampling,
            margin=margin or None,
            range_min=range_min,
            range_max=range_max,
            teacher=judge,
            groups=None if group_column is None else _groups(docs, id_column, group_column),
            when_few=when_few,
            sample=sample,
            seed=seed,
            progress=progress,
        )
    written = None
    if write is not None and out_file is not None:
        write(mined.training_set, out_file)
        written = str(out_file)
    if out_table is not None:
        connection.create_table(out_table, mined.training_set.table)
    value = {"mode": mode, "out": written, "out_table": out_table, **mined.report.to_dict()}
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


def _writer(path: Path | None) -> Callable[[TrainingSet, Path], None] | None:
    """Return what writes this kind of file.

    Raises
    ------
    InputError
        The ending says nothing; asked before the work, not after it.
    """
    if path is None:
        return None
    if path.suffix not in _WRITERS:
        raise InputError(f"--out is {str(path)!r}; it must end in one of {sorted(_WRITERS)}.")
    if not path.parent.is_dir():
        raise InputError(f"There is no folder {str(path.parent)!r} to write {path.name!r} to.")
    return _WRITERS[path.suffix]


def _write_bge(training_set: TrainingSet, path: Path) -> None:
    """Write JSON lines as FlagEmbedding reads them: query, pos, neg, pos_scores, neg_scores."""
    with path.open("w", encoding="utf-8") as lines:
        for batch in training_set.table.to_batches():
            for row in batch.to_pylist():
                line = {
                    "query": row["query"],
                    "pos": [row["positive"]],
                    "neg": row["negatives"],
                    "neg_id": row["negative_ids"],
                }
                if "doc_id" in row:
                    line["pos_id"] = [row["doc_id"]]
                if "positive_score" in row:
                    line["pos_scores"] = [row["positive_score"]]
                    line["neg_scores"] = row["negative_scores"]
                lines.write(json.dumps(line, ensure_ascii=False) + "\n")


def _write_parquet(training_set: TrainingSet, path: Path) -> None:
    pq.write_table(training_set.table, path)


_WRITERS: Mapping[str, Callable[[TrainingSet, Path], None]] = {
    ".jsonl": _write_bge,
    ".parquet": _write_parquet,
}


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
