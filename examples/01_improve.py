"""From files to a tuned, switched table. Run: python 01_improve.py FOLDER.

FOLDER holds corpus.jsonl, queries.jsonl and qrels.tsv (BEIR's layout); the database is made in
FOLDER/kb. `lancedb-ft improve` does the same from the command line.
"""

import sys
from pathlib import Path

import lancedb

import lancedb_ft as ft


def main(folder: Path) -> None:
    """Load, split, train, compare, switch; then search the way any LanceDB application does."""
    db = lancedb.connect(str(folder / "kb"))
    loaded = ft.load_files(
        db,
        corpus=folder / "corpus.jsonl",
        queries=folder / "queries.jsonl",
        qrels=folder / "qrels.tsv",
        mode="overwrite",
    )
    print(loaded)

    docs = db.open_table("docs")
    split = ft.read_qrels_split(docs, db.open_table("docs_queries"), db.open_table("docs_qrels"))
    report = ft.improve(docs, split, name="support", base="all-MiniLM-L6-v2")

    for metric, delta in report.comparison.delta.items():
        print(f"{metric:<11} {report.comparison.base.metrics[metric]}  ->  {delta}")
    print(f"n = {report.comparison.n}, switched: {report.switched}, model: {report.model}")

    for mode, found in report.on_dev.items():
        print(f"on dev, {mode:<6} {found.metrics['ndcg@10'].mean:.4f}")
    print(f"search with mode={report.mode!r}")

    query = next(iter(split.test.queries.values()))
    table = db.open_table("docs")  # an ordinary LanceDB table
    for hit in table.search(query, query_type="hybrid").limit(3).to_list():
        print(f"{hit['id']:<8} {hit['text'][:80]}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
