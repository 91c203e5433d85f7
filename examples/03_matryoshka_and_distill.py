"""Smaller vectors and a faster model. Run: python 03_matryoshka_and_distill.py FOLDER.

The data is what every machine with Python has: the summary line of each function of the standard
library asks for the rest of its documentation. The database is made in FOLDER/kb.
"""

import sys
import sysconfig
from pathlib import Path

import lancedb
import pyarrow as pa

import lancedb_ft as ft


def main(folder: Path) -> None:
    """Train at several lengths at once, compare them; then distill into a table of tokens."""
    found = ft.read_api_docs(paths=[sysconfig.get_paths()["stdlib"]], limit=1500)
    docs = lancedb.connect(str(folder / "kb")).create_table("docs", found.corpus, mode="overwrite")
    split = ft.split_pairs(found.pairs, seed=0, shares=(0.6, 0.2, 0.2))
    train = split.train.take(pa.array(range(min(len(split.train), 320))))
    dev, test = (part.take(pa.array(range(100))) for part in (split.dev, split.test))
    store = str(folder / "models")

    model = ft.train(
        "all-MiniLM-L6-v2",
        train,
        dev=dev,
        name="nested",
        store=store,
        matryoshka_dims=(384, 128, 64),
        max_tokens=48,
    )
    corpus = {doc_id: text[:200] for doc_id, text in test.corpus.items()}
    for dims in (384, 128, 64):
        encoder = ft.get_encoder(model, dims=dims)
        print(f"{dims:>4} dims", ft.evaluate(ft.exact_retriever(encoder, corpus), test))

    student = ft.distill(model, [docs, split.train], name="static", dev=dev, store=store)
    told = student.manifest["distillation"]
    rates = told["texts_per_s"]
    print(f"{student}: keeps {told['share_kept']['mean']:.0%} of the teacher on dev")
    print(f"texts/s: {rates['teacher']:,.0f} -> {rates['student']:,.0f} ({rates['ratio']:.0f} x)")

    ft.reindex(docs, student, force=True)
    for hit in docs.search("read all lines of a file").limit(3).to_list():
        print(f"{hit['text'][:80]!r}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
