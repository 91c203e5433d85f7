"""Options that several commands share, spelled once."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "BaseModel",
    "Data",
    "Database",
    "Device",
    "Dims",
    "Force",
    "IdColumn",
    "Json",
    "MaxPairs",
    "MaxTokens",
    "OptionalDatabase",
    "OptionalTable",
    "Precision",
    "QrelsTable",
    "QueriesTable",
    "RequiredQrels",
    "RequiredQueries",
    "Seed",
    "SplitColumn",
    "Store",
    "TableName",
    "TextColumn",
    "VectorColumn",
]

Database = Annotated[
    str, typer.Option("--db", help="URI of the LanceDB database.", envvar="LANCEDB_FT_DB")
]
OptionalDatabase = Annotated[
    str | None, typer.Option("--db", help="URI of the LanceDB database.", envvar="LANCEDB_FT_DB")
]
TableName = Annotated[str, typer.Option("--table", help="Name of the table.")]
OptionalTable = Annotated[str | None, typer.Option("--table", help="Name of the table.")]
IdColumn = Annotated[
    str | None, typer.Option("--id-column", help="Key of the documents [default: id].")
]
TextColumn = Annotated[
    str | None, typer.Option("--text-column", help="Text that is embedded [default: text].")
]
VectorColumn = Annotated[
    str | None,
    typer.Option("--vector-column", help="Which vector column, where a table has several."),
]
Store = Annotated[
    str | None,
    typer.Option("--store", help="URI of the model store [default: ft_models in the database]."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")]
QueriesTable = Annotated[
    str | None, typer.Option("--queries-table", help="Queries: id, text, split?")
]
QrelsTable = Annotated[
    str | None, typer.Option("--qrels-table", help="Judgements: query_id, doc_id, score.")
]
RequiredQueries = Annotated[str, typer.Option("--queries-table", help="Queries: id, text, split?")]
RequiredQrels = Annotated[
    str, typer.Option("--qrels-table", help="Judgements: query_id, doc_id, score.")
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        "--split-column",
        help="Column of the queries with train, dev, test [default: split, if there is one].",
    ),
]
MaxPairs = Annotated[
    int | None, typer.Option("--max-pairs", min=1, help="Use at most so many training pairs.")
]
MaxTokens = Annotated[
    int,
    typer.Option("--max-tokens", help="Cut texts in training; 0: where the model itself does."),
]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Device = Annotated[
    str | None, typer.Option("--device", help="cpu, cuda or mps [default: the fastest there is].")
]
Precision = Annotated[str, typer.Option("--precision", help="auto, float32 or bfloat16.")]
Dims = Annotated[
    int | None, typer.Option("--dims", min=1, help="Keep the first so many dimensions.")
]
BaseModel = Annotated[
    str | None,
    typer.Option("--base-model", help="The model of a raw vector column, for the gate."),
]
Force = Annotated[
    bool, typer.Option("--force", help="Go on whatever the gate says; noted in the history.")
]
Data = Annotated[
    list[str] | None,
    typer.Option(
        "--data",
        help="Training data: FILE[:kind] or table:NAME[:kind]; may be given several times.",
    ),
]
