"""Hard negatives from a table, read before they are trained on. Run: python 02_hard_negatives.py.

The documents are the API docs of this Python environment, the queries their summaries. The table
has no vectors and no index yet, so candidates come from BM25 in memory; for a table that serves,
write ft.table_candidates(docs, "hybrid"). `lancedb-ft mine` does the same from the command line.
"""

import tempfile
from pathlib import Path

import lancedb

import lancedb_ft as ft
from lancedb_ft.errors import NoGainError


def main(folder: Path, base: str = "all-MiniLM-L6-v2") -> None:
    """Mine, read a sample, train with the negatives."""
    found = ft.read_api_docs(limit=300)
    db = lancedb.connect(str(folder / "kb"))
    docs = db.create_table("docs", found.corpus, mode="overwrite")
    split = ft.split_pairs(found.pairs, seed=0)

    mined = ft.mine_negatives(
        split.train.take(list(range(64))),
        ft.table_candidates(docs, "bm25"),
        corpus=docs,
        n_negatives=2,
        held_out=[split.dev, split.test],
    )
    print(mined.report)
    row = mined.report.sample[0]
    print(f"\n{row['query']}\n  + {row['positive_score']:.1f}  {row['positive'][:70]!r}")
    for negative in row["negatives"]:
        print(f"  - {negative['score']:.1f}  {negative['text'][:70]!r}")

    try:
        model = ft.train(
            base,
            mined.training_set,
            dev=split.dev,
            name="api",
            store=str(folder / "models"),
            max_tokens=32,  # so small, and so few pairs, only to be quick
        )
        print(f"\ntrained {model.ref} on {len(mined.training_set)} rows")
    except NoGainError as error:
        print(f"\nnothing kept: {error}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        main(Path(scratch))
