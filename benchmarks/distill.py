"""What students keep of a teacher, and how much faster they are: a static one and half the layers.

On tldr (description -> command line, 30,746 documents; programs of the test part are in no other):
both students learn from the texts of the corpus and the training queries and pairs, and are
compared with the teacher on all test queries, by exact search in the whole corpus. Rates are taken
in one run, in turns, on documents, through `Encoder`.

The teacher is ``--teacher``, or a fine-tune of ``--base`` on ``--pairs`` training pairs, or, with
``--plain``, the base model as it is.

Run: python benchmarks/distill.py [--teacher REF | --plain] [--data FOLDER] [--docs N] [--only KIND]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pyarrow as pa
import pyarrow.parquet as pq
from _common import aim, progress, report

import lancedb_ft as ft
from lancedb_ft.train.distillation.figures import share_kept

METRIC = "ndcg@10"
BASE = "all-MiniLM-L6-v2"
#: What is aimed at: share of the teacher's nDCG@10, and times its rate.
AIMS = {"static": (0.85, 100.0), "layers:3": (0.97, None)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--teacher", help="reference or folder of the teacher")
    parser.add_argument("--plain", action="store_true", help="the base model is the teacher")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--pairs", type=int, default=6_000, help="to fine-tune the teacher on")
    parser.add_argument("--data", type=Path, default=Path(__file__).parents[2] / "shared/data/tldr")
    parser.add_argument("--docs", type=int, help="a part of the corpus, to try it out")
    parser.add_argument("--only", choices=list(AIMS), help="one student")
    arguments = parser.parse_args()
    if not arguments.data.is_dir():
        raise SystemExit(f"There is no data set at {arguments.data}: name one with --data.")
    corpus, parts = read(arguments.data, arguments.docs)
    with tempfile.TemporaryDirectory() as folder:
        teacher = teacher_of(arguments, parts, folder)
        wanted = [arguments.only] if arguments.only else list(AIMS)
        measure(teacher, corpus, parts, wanted, folder)


def read(folder: Path, n_docs: int | None) -> tuple[dict[str, str], dict[str, ft.Pairs]]:
    """Return the corpus, and the pairs of each part whose document is in it."""
    corpus_table, queries, qrels = (
        pq.read_table(folder / f"{name}.parquet") for name in ("corpus", "queries", "qrels")
    )
    judged = qrels.to_pylist()
    texts = dict(zip(corpus_table["id"].to_pylist(), corpus_table["text"].to_pylist(), strict=True))
    if n_docs is not None:
        step = max(1, len(judged) // n_docs)
        kept = {row["doc_id"] for row in judged[::step]}
        texts = {doc_id: texts[doc_id] for doc_id in sorted(kept)}
    asked = {row["id"]: row for row in queries.to_pylist()}
    rows: dict[str, list[tuple[str, str, str, str]]] = {"train": [], "dev": [], "test": []}
    for row in judged:
        if row["doc_id"] in texts:
            query = asked[row["query_id"]]
            found = (query["id"], query["text"], row["doc_id"], texts[row["doc_id"]])
            rows[query["split"]].append(found)
    return texts, {part: ft.Pairs.of(found) for part, found in rows.items()}


def teacher_of(arguments: argparse.Namespace, parts: dict[str, ft.Pairs], folder: str) -> str:
    """Return a reference, or the path of a fine-tune made here."""
    if arguments.teacher or arguments.plain:
        return str(arguments.teacher or arguments.base)
    progress(f"fine-tuning {arguments.base} on {arguments.pairs} pairs")
    pairs = parts["train"]
    step = max(1, len(pairs) // arguments.pairs)
    chosen = pairs.take(pa.array(range(0, len(pairs), step)))
    made = ft.train(arguments.base, chosen, dev=parts["dev"], name="teacher", store=folder)
    return made.path


def measure(
    teacher: str,
    corpus: dict[str, str],
    parts: dict[str, ft.Pairs],
    students: list[str],
    folder: str,
) -> None:
    base = evaluation(teacher, corpus, parts["test"])
    figures: dict[str, Any] = {}
    aims = []
    for kind in students:
        progress(f"distilling {kind}")
        started = time.perf_counter()
        version = ft.distill(
            teacher,
            [parts["train"], corpus],
            student=kind,
            name=kind.replace(":", "-"),
            dev=parts["dev"],
            store=folder,
        )
        seconds = time.perf_counter() - started
        found = evaluation(version.path, corpus, parts["test"])
        kept = share_kept(base, found, METRIC)
        told = version.manifest["distillation"]
        figures[kind] = {
            METRIC: found.metrics[METRIC].to_dict(),
            "share_kept": kept.to_dict(),
            "share_kept_on_dev": told["share_kept"],
            "texts_per_s": told["texts_per_s"],
            "history_on_dev": version.manifest["dev"]["history"],
            "seconds": round(seconds, 1),
        }
        share, ratio = AIMS[kind]
        aims.append(aim(f"{kind}: share of the teacher's {METRIC} on test", kept.mean, ">=", share))
        if ratio is not None:
            rate = told["texts_per_s"]["ratio"]
            aims.append(aim(f"{kind}: documents/s over the teacher's", rate, ">=", ratio))
    report(
        "distill",
        aims,
        n_test=base.n,
        documents=len(corpus),
        teacher={"ref": teacher, METRIC: base.metrics[METRIC].to_dict()},
        precision=ft.get_encoder(teacher).precision,
        students=figures,
    )


def evaluation(model: str, corpus: dict[str, str], test: ft.Pairs) -> ft.Evaluation:
    progress(f"measuring {model} on {len(test.queries)} test queries")
    return ft.evaluate(ft.exact_retriever(ft.get_encoder(model), corpus), test, metrics=METRIC)


if __name__ == "__main__":
    main()
