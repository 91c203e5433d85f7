"""``lancedb-ft search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from lancedb_ft.cli import options as opt
from lancedb_ft.cli.output import Output, rows_table
from lancedb_ft.cli.tiers import HotWhere, RowVersions, Settle, UpdatedAt, given_tiers
from lancedb_ft.errors import QueryError
from lancedb_ft.reranking import get_reranker
from lancedb_ft.search import (
    Highlight,
    LearnedRanking,
    SearchInfo,
    SearchOptions,
    TextMatch,
    explain,
)
from lancedb_ft.search.query import Mode
from lancedb_ft.store import default_store_uri
from lancedb_ft.table import connect, open_table

EXAMPLE = (
    'Example: lancedb-ft search --db kb --table docs "how do I cancel?" -k 5   '
    'lancedb-ft search --db kb --table docs "cancel order" --match phrase --explain'
)

#: Characters of a text shown in a terminal.
_SHOWN = 160


def search_command(
    query: Annotated[str, typer.Argument(help="The query, in plain words.")],
    db: opt.Database,
    table: opt.TableName,
    k: Annotated[int, typer.Option("-k", "--k", help="How many results.")] = 10,
    mode: Annotated[Mode, typer.Option("--mode", help="What to search.")] = "hybrid",
    where: Annotated[str | None, typer.Option("--where", help="SQL filter over columns.")] = None,
    select: Annotated[
        str | None, typer.Option("--select", help="Columns to return, separated by commas.")
    ] = None,
    reranker: Annotated[
        str | None,
        typer.Option(
            "--reranker",
            help="name@version, cohere:MODEL, llm:MODEL, or a chain.",
        ),
    ] = None,
    candidates: Annotated[
        int | None,
        typer.Option("--candidates", min=1, help="Rows each search fetches for the reranker."),
    ] = None,
    words: Annotated[
        Literal["any", "all", "phrase"],
        typer.Option("--match", help="Which of the words a text must have."),
    ] = "any",
    slop: Annotated[int, typer.Option("--slop", help="Other words inside a phrase.")] = 0,
    fuzzy: Annotated[
        Literal["0", "1", "2", "auto"],
        typer.Option("--fuzzy", help="Letters of a word that may differ."),
    ] = "0",
    boost: Annotated[
        list[str] | None,
        typer.Option("--boost", help="Text column to search and its weight, NAME=2; repeatable."),
    ] = None,
    min_score: Annotated[
        float | None, typer.Option("--min-score", help="Leave out rows with a lower score.")
    ] = None,
    max_distance: Annotated[
        float | None, typer.Option("--max-distance", help="Leave out vectors farther away.")
    ] = None,
    facets: Annotated[
        str | None,
        typer.Option("--facets", help="Columns whose values are counted, separated by commas."),
    ] = None,
    highlight: Annotated[
        bool, typer.Option("--highlight", help="Show the words of the query in the texts.")
    ] = False,
    page: Annotated[
        str | None,
        typer.Option("--page", help="'first', or the token of the next page that was printed."),
    ] = None,
    fusion: Annotated[
        str | None,
        typer.Option("--fusion", help="rrf, weighted, relative, learned, or a file of fusion fit."),
    ] = None,
    updated_at: UpdatedAt = None,
    hot_where: HotWhere = None,
    row_versions: RowVersions = False,
    quiet: Settle = "7d",
    calibration: Annotated[
        Path | None, typer.Option("--calibration", help="JSON file of 'calibrate'.")
    ] = None,
    budget_ms: Annotated[
        float | None, typer.Option("--budget-ms", help="Answer with what is there by then.")
    ] = None,
    explained: Annotated[
        bool, typer.Option("--explain", help="Say how the answer came about.")
    ] = False,
    text_column: opt.TextColumn = None,
    store: opt.Store = None,
    as_json: opt.Json = False,
) -> None:
    """Search a table: full text and vectors at once, fused by rank or ordered by a reranker."""
    out = Output(as_json)
    model = None
    if reranker is not None:
        place = store or default_store_uri(db)
        model = get_reranker(reranker, store=place, column=text_column or "text")
    fuzziness: int | Literal["auto"] = "auto" if fuzzy == "auto" else int(fuzzy)
    match = TextMatch(words=words, slop=slop, fuzziness=fuzziness)
    told = explain(
        open_table(connect(db), table),
        query,
        k=k,
        mode=mode,
        where=where,
        select=_names(select),
        reranker=model,
        candidates=candidates,
        text_columns=_boosts(boost),
        options=SearchOptions(
            match=None if match == TextMatch() else match,
            min_score=min_score,
            max_distance=max_distance,
            facets=_names(facets),
            highlight=_marks(as_json) if highlight else None,
            page=page,
            budget_ms=budget_ms,
            fusion=_fusion(fusion),
            tiers=given_tiers(updated_at, hot_where, row_versions, quiet, calibration),
        ),
    )
    rows, names, info = told.results.to_pylist(), told.results.column_names, told.info
    shown = [[_cut(row[name]) for name in names] for row in rows]
    result = {"query": query, "mode": mode, "n": len(rows), "results": rows}
    if info != SearchInfo():
        result["info"] = info
    if explained:
        result["explain"] = told
    out.result(
        result,
        rows_table(f"{query!r}: {len(rows)} results", names, shown) if rows else "Nothing found.",
        *(
            rows_table(f"{name} of {info.n_matching} matching rows", [name, "rows"], facet.values)
            for name, facet in info.facets.items()
        ),
    )
    for reason in info.degraded:
        out.note(f"Degraded: {reason}.")
    if as_json:
        return
    if explained:
        out.note(str(told))
    if info.next_page:
        out.note(f"Next page: --page {info.next_page}")


def _marks(as_json: bool) -> Highlight:
    return Highlight() if as_json else Highlight(before="**", after="**", escape=False)


def _names(names: str | None) -> list[str] | None:
    return [name.strip() for name in names.split(",")] if names else None


def _fusion(given: str | None) -> str | LearnedRanking | None:
    if given is not None and given.endswith(".json"):
        return LearnedRanking.load(given)
    return given


def _boosts(given: list[str] | None) -> dict[str, float] | None:
    """Return ``{column: weight}`` of NAME=WEIGHT.

    Raises
    ------
    QueryError
        One is not of that form.
    """
    if not given:
        return None
    boosts = {}
    for text in given:
        name, _, weight = text.rpartition("=")
        try:
            boosts[name] = float(weight)
        except ValueError as error:
            raise QueryError(f"--boost is {text!r}; it must be NAME=WEIGHT: title=2.") from error
    return boosts


def _cut(value: object) -> object:
    if isinstance(value, str):
        line = " ".join(value.split())
        return line if len(line) <= _SHOWN else line[: _SHOWN - 1] + "…"
    return value
