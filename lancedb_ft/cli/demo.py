"""``lancedb-ft demo``: the whole loop on the API docs of one's own Python environment."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import pyarrow as pa
import typer

from lancedb_ft.cli.improve import shown_report
from lancedb_ft.cli.output import Output, jsonable, rows_table
from lancedb_ft.data import api_docs_split, read_api_docs
from lancedb_ft.evaluate import evaluate
from lancedb_ft.pipeline import DEFAULT_BASE, improve, require_text_index
from lancedb_ft.search import Searcher

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.cli import options as opt
    from lancedb_ft.types import Pairs, Progress
else:
    from lancedb_ft.cli import options as opt

EXAMPLE = "Example: lancedb-ft demo --limit 6000"

#: Rows a write: one progress step, one fragment.
_ROWS_A_WRITE = 1000
_N_SHOWN_QUERIES = 5


def demo_command(
    folder: Annotated[
        Path, typer.Option("--dir", help="Where the database and report.json go.")
    ] = Path("demo"),
    limit: Annotated[int, typer.Option("--limit", min=500, help="Documents at most.")] = 6000,
    full: Annotated[bool, typer.Option("--full", help="All documents there are.")] = False,
    epochs: Annotated[int, typer.Option("--epochs", min=1)] = 1,
    batch_size: Annotated[int, typer.Option("--batch-size", min=2)] = 64,
    seed: opt.Seed = 0,
    as_json: opt.Json = False,
) -> None:
    """Search the API docs of this Python environment, before and after fine-tuning.

    Documents are the docstrings of the standard library and of the installed packages, without
    their summary lines; queries are the summary lines. The test queries come from packages that
    training never saw. Needs no network; starts afresh each time.
    """
    started = time.perf_counter()
    out = Output(as_json)
    with out.progress("reading API docs") as progress:
        docs = read_api_docs(limit=None if full else limit, seed=seed, progress=progress)
    split = api_docs_split(docs, seed=seed)
    out.note(
        f"{len(docs):,} documents; {len(split.train):,} pairs to train on, {len(split.dev):,} dev, "
        f"{len(split.test):,} test from packages of their own"
    )
    shutil.rmtree(folder / "db", ignore_errors=True)
    with out.progress("embedding with the base model") as progress:
        table = _base_table(folder / "db", docs.corpus, progress)
    require_text_index(table, "text")
    queries = _some_queries(split.test)
    with Searcher(table) as searcher:
        before = _answers(searcher, queries)
        hybrid_base = evaluate(
            searcher.retriever(mode="hybrid", id_column="id"), split.test, name="hybrid, base"
        )
    report = improve(
        table,
        split,
        name="api-docs",
        base=DEFAULT_BASE,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        bar=_told(out),
    )
    with Searcher(table) as searcher:
        after = _answers(searcher, queries)
    seconds = time.perf_counter() - started
    examples = [
        {"query": query, "right": sorted(right), "before": before[i], "after": after[i]}
        for i, (query, right) in enumerate(queries)
    ]
    value = {
        **report.to_dict(),
        "hybrid_base": hybrid_base.to_dict(),
        "examples": examples,
        "seconds": round(seconds, 1),
    }
    target = folder / "report.json"
    target.write_text(json.dumps(jsonable(value), indent=2, ensure_ascii=False), encoding="utf-8")
    out.result(
        value,
        *shown_report(report),
        _side_by_side(examples),
        f"Done in {seconds:,.0f} s. Figures: {target}. Go on: lancedb-ft search --db "
        f'{folder / "db"} --table api_docs "..."',
    )


def _base_table(place: Path, corpus: pa.Table, progress: Progress) -> Table:
    """Make the table as an application would: LanceDB embeds what is added."""
    import lancedb
    from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

    function = get_registry().get("ft-embed").create(name=DEFAULT_BASE)
    schema = corpus.schema.append(pa.field("vector", pa.list_(pa.float32(), function.ndims())))
    table = lancedb.connect(str(place)).create_table(
        "api_docs",
        schema=schema,
        embedding_functions=[
            EmbeddingFunctionConfig(vector_column="vector", source_column="text", function=function)
        ],
        storage_options={"new_table_enable_stable_row_ids": "true"},
    )
    for start in range(0, corpus.num_rows, _ROWS_A_WRITE):
        progress(start, corpus.num_rows)
        table.add(corpus.slice(start, _ROWS_A_WRITE))
    progress(corpus.num_rows, corpus.num_rows)
    return table


def _some_queries(test: Pairs) -> list[tuple[str, set[str]]]:
    """Take queries evenly over the test part: not the best ones, and the same ones each time."""
    queries, qrels = test.queries, test.qrels
    ids = sorted(queries)
    step = max(1, len(ids) // _N_SHOWN_QUERIES)
    return [(queries[i], set(qrels[i])) for i in ids[::step][:_N_SHOWN_QUERIES]]


def _answers(searcher: Searcher, queries: list[tuple[str, set[str]]]) -> list[dict[str, Any]]:
    """Return the first hit of each query, and the rank of the right document among ten."""
    found = []
    for query, right in queries:
        ids = searcher.search(query, k=10, mode="hybrid", select=["id"])["id"].to_pylist()
        rank = next((n for n, i in enumerate(ids, 1) if i in right), None)
        found.append({"first": ids[0] if ids else None, "rank": rank})
    return found


def _side_by_side(examples: list[dict[str, Any]]) -> Any:
    def told(answer: dict[str, Any]) -> str:
        rank = f"rank {answer['rank']}" if answer["rank"] else "not in 10"
        return f"{rank}: {answer['first']}"

    rows = [(e["query"], told(e["before"]), told(e["after"])) for e in examples]
    title = "Hybrid search: where the right document came, and what came first"
    return rows_table(title, ("query", "before", "after"), rows)


def _told(out: Output) -> Callable[[str], Any]:
    def bar(stage: str) -> Any:
        out.note(f"{stage} ...")
        return out.progress(stage)

    return bar
