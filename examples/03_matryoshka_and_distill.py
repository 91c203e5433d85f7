"""Smaller vectors and a faster model. Run: python 03_matryoshka_and_distill.py FOLDER.

The data is what every machine with Python has: the summary line of each function of the standard
library asks for the rest of its documentation. The database is made in FOLDER/kb.
"""

import sys
import sysconfig
from pathlib import Path

import lancedb

import lancedb_ft as ft


def main(folder: Path) -> None:
    """Train at several lengths at once, compare them; then distill into a table of tokens."""
    found = ft.read_api_docs(paths=[sysconfig.get_paths()["stdlib"]], limit=100)
    db = lancedb.connect(str(folder / "kb"))
    docs = db.create_table("docs", found.corpus, mode="overwrite")
    split = ft.split_pairs(found.pairs, seed=0, shares=(0.6, 0.2, 0.2))
    store = str(folder / "models")

    model = ft.train(
        "all-MiniLM-L6-v2",
        split.train,
        dev=split.dev,
        name="nested",
        store=store,
        matryoshka_dims=(384, 128, 64),
        max_tokens=48,
    )
    for dims in (384, 128, 64):
        encoder = ft.get_encoder(model, dims=dims)
        answers = ft.exact_retriever(encoder, split.test.corpus)
        measured = ft.evaluate(answers, split.test, metrics="ndcg@10")
        print(f"{dims:>4} dims: nDCG@10 {measured.metrics['ndcg@10']}, n = {measured.n}")

    student = ft.distill(model, [docs, split.train], name="static", dev=split.dev, store=store)
    told = student.manifest["distillation"]
    rates = told["texts_per_s"]
    print(f"{student}: keeps {told['share_kept']['mean']:.0%} of the teacher on dev")
    print(f"texts/s: {rates['teacher']:,.0f} -> {rates['student']:,.0f} ({rates['ratio']:.0f} x)")

    ft.reindex(docs, student, force=True)
    table = db.open_table("docs")  # an ordinary LanceDB table
    for hit in table.search("read all lines of a file").limit(3).to_list():
        print(f"{hit['text'][:80]!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
