"""Hard negatives: ours from the table as served, against sentence-transformers, in one run.

Both look for five negatives of each training query of tldr among 30,746 documents, with the same
base model, 95 % of the positive's score as the limit, and the first 100 ranks; neither sees the
documents that dev and test ask for. Each runs in a process of its own, model loading included.

Ours reads the vectors that stand in the table, as an application's table has them. What embedding
the table took is measured, too, and shown beside it. Then a model is trained on each result with
the same arguments, and measured on the test queries in the whole corpus.

Run: python benchmarks/mining.py [--docs N] [--pairs N] [--train-pairs N] [--no-train] [--work DIR]
Finished parts are kept in the work folder: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import lancedb
import pyarrow as pa
import pyarrow.parquet as pq
from _common import aim, progress, report
from _sets import Bed, base_model, compared, in_subprocess, measure, peak_memory_mb, read_bed

import lancedb_ft as ft
from lancedb_ft.errors import NoGainError
from lancedb_ft.table import read_corpus
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs, Split

N_NEGATIVES, RANGE_MAX, MARGIN = 5, 100, 0.95
LAST_STEP_ONLY = 100_000


def main() -> None:
    arguments = _parse()
    if arguments.part:
        print(json.dumps(PARTS[arguments.part](arguments)))
        return
    work = arguments.work or Path(tempfile.mkdtemp(prefix="mining-"))
    work.mkdir(parents=True, exist_ok=True)
    progress(f"work folder: {work}")
    table = _kept_part("table", work, arguments)
    ours, theirs = (_kept_part(name, work, arguments) for name in ("ours", "theirs"))
    trained = {} if arguments.no_train else _train_both(work, arguments)
    delta = trained.get("ours_over_theirs")
    report(
        "mining",
        [
            aim("time of theirs over ours", theirs["seconds"] / ours["seconds"], ">=", 3.0),
            aim("peak memory of ours over theirs", ours["peak_mb"] / theirs["peak_mb"], "<=", 0.5),
            aim("test nDCG@10 after training: ours less theirs", delta and delta["mean"], ">=", 0),
        ],
        n_negatives=N_NEGATIVES,
        range_max=RANGE_MAX,
        margin=MARGIN,
        table=table,
        ours=ours,
        theirs=theirs,
        time_of_theirs_over_ours_with_embedding_the_table=round(
            theirs["seconds"] / (ours["seconds"] + table["embedding_seconds"]), 3
        ),
        trained=trained,
    )


def make_table(arguments: argparse.Namespace) -> dict[str, Any]:
    """Make the table that an application would have: documents with vectors of the base model."""
    bed = _read(arguments)
    arguments.work.mkdir(parents=True, exist_ok=True)
    for name, pairs in bed.split.parts().items():
        pq.write_table(pairs.table, arguments.work / f"{name}.parquet")
    from lancedb.embeddings import EmbeddingFunctionConfig, get_registry

    function = get_registry().get("ft-embed").create(name=base_model())
    encoder = ft.get_encoder(base_model())
    encoder.encode(["warm up"])
    started = time.perf_counter()
    vectors = encoder.encode(list(bed.corpus.values()))
    seconds = time.perf_counter() - started
    rows = pa.table({"id": list(bed.corpus), "text": list(bed.corpus.values()), "vector": vectors})
    config = EmbeddingFunctionConfig(
        source_column="text", vector_column="vector", function=function
    )
    db = lancedb.connect(str(arguments.work / "kb"))
    db.create_table("docs", rows, embedding_functions=[config], mode="overwrite")
    return {
        "documents": len(bed.corpus),
        "pairs": len(bed.split.train),
        "embedding_seconds": round(seconds, 1),
        "precision": encoder.precision,
    }


def mine_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mine from the table; nothing but the queries is encoded."""
    train, dev, test = (_pairs(name, arguments) for name in ("train", "dev", "test"))
    before_mb = peak_memory_mb()
    docs = lancedb.connect(str(arguments.work / "kb")).open_table("docs")
    started = time.perf_counter()
    candidates = ft.table_candidates(docs, "vector")
    mined = ft.mine_negatives(
        train,
        candidates,
        corpus=docs,
        n_negatives=N_NEGATIVES,
        margin=MARGIN,
        range_max=RANGE_MAX,
        held_out=(dev, test),
    )
    seconds = time.perf_counter() - started
    pq.write_table(mined.training_set.table, arguments.work / "ours.parquet")
    counts = mined.report.to_dict()
    told = {k: v for k, v in counts.items() if k not in ("sample", "examples", "seconds")}
    return {"rows": len(mined.training_set), **_cost(seconds, before_mb), "report": told}


def mine_theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Mine with sentence-transformers, from the texts, as its documentation advises."""
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import mine_hard_negatives

    train, dev, test = (_pairs(name, arguments) for name in ("train", "dev", "test"))
    docs = lancedb.connect(str(arguments.work / "kb")).open_table("docs")
    held_out = {*dev.corpus.values(), *test.corpus.values()}
    texts = read_corpus(docs, "id", "text").values()
    corpus = [text for text in texts if text not in held_out]
    table = train.table
    data = {"query": table["query"].to_pylist(), "positive": table["document"].to_pylist()}
    before_mb = peak_memory_mb()
    started = time.perf_counter()
    mined = mine_hard_negatives(
        Dataset.from_dict(data),
        SentenceTransformer(base_model()),
        corpus=corpus,
        relative_margin=1 - MARGIN,
        range_max=RANGE_MAX,
        num_negatives=N_NEGATIVES,
        output_format="n-tuple",
        verbose=False,
    )
    seconds = time.perf_counter() - started
    names = [f"negative_{i}" for i in range(1, N_NEGATIVES + 1)]
    rows = {
        "query": mined["query"][:],
        "positive": mined["positive"][:],
        "negatives": [list(row) for row in zip(*(mined[n][:] for n in names), strict=True)],
    }
    pq.write_table(pa.table(rows), arguments.work / "theirs.parquet")
    return {"rows": len(mined), **_cost(seconds, before_mb)}


def train_ours(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on what ours mined."""
    return _train("ours", arguments)


def train_theirs(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train on what theirs mined."""
    return _train("theirs", arguments)


PARTS = {
    "table": make_table,
    "ours": mine_ours,
    "theirs": mine_theirs,
    "train-ours": train_ours,
    "train-theirs": train_theirs,
}


def _train(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Train once, on the rows of the same queries in both; those without negatives are missing."""
    train, dev = (_pairs(name, arguments) for name in ("train", "dev"))
    rows = pq.read_table(arguments.work / f"{name}.parquet")
    if arguments.train_pairs:
        wanted = set(list(train.queries.values())[: arguments.train_pairs])
        rows = rows.filter(pa.array([q in wanted for q in rows["query"].to_pylist()]))
    started = time.perf_counter()
    told: dict[str, Any] = {"rows": rows.num_rows}
    try:
        model = ft.train(
            base_model(),
            TrainingSet("negatives", rows),
            dev=dev,
            name=f"tldr-{name}",
            store=str(arguments.work / "models"),
            epochs=1,
            loss="mnrl",
            # Both alike, whatever their numbers of rows: what their defaults and dev sets would
            # choose differs, and so would steps and the checkpoint that is kept.
            batch_size=32,
            eval_steps=LAST_STEP_ONLY,
        )
        told["path"] = model.path
    except NoGainError as error:
        told |= {"path": None, "told": str(error)}
    return {**told, "seconds": round(time.perf_counter() - started, 1)}


def _train_both(work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    bed = _read(arguments)
    base = measure(base_model(), bed, name="base")
    found = {}
    figures: dict[str, Any] = {"n_test": base.n, "base": base.to_dict()}
    for name in ("ours", "theirs"):
        part = _kept_part(f"train-{name}", work, arguments)
        found[name] = measure(part["path"], bed, name=name) if part["path"] else base
        figures[name] = {
            **part,
            **found[name].to_dict(),
            "over_base": compared(base, found[name]),
        }
    figures["ours_over_theirs"] = compared(found["theirs"], found["ours"])
    return figures


def _kept_part(name: str, work: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    kept = work / f"{name}-{arguments.docs}-{arguments.pairs}-{arguments.train_pairs}.json"
    if not kept.exists():
        progress(name)
        options = ["--docs", arguments.docs, "--pairs", arguments.pairs]
        if arguments.train_pairs:
            options += ["--train-pairs", arguments.train_pairs]
        part = in_subprocess(__file__, "--part", name, "--work", work, *options)
        kept.write_text(json.dumps(part))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def _pairs(part: str, arguments: argparse.Namespace) -> Pairs:
    """Return what `make_table` wrote: so reading the set costs neither side time or memory."""
    return Pairs(pq.read_table(arguments.work / f"{part}.parquet"))


def _read(arguments: argparse.Namespace) -> Bed:
    """Read tldr; of fewer documents only the queries whose answers are among them."""
    bed = read_bed("tldr", pairs=None)
    kept = dict(list(bed.corpus.items())[: arguments.docs])
    parts = {}
    for name, pairs in bed.split.parts().items():
        mask = pa.array([doc_id in kept for doc_id in pairs.table["doc_id"].to_pylist()])
        parts[name] = pairs.take(mask)
    train = parts["train"].take(list(range(min(arguments.pairs, len(parts["train"])))))
    return Bed(bed.name, kept, Split(train, parts["dev"], parts["test"], bed.split.info))


def _cost(seconds: float, before_mb: float) -> dict[str, float]:
    return {
        "seconds": round(seconds, 2),
        "peak_mb": peak_memory_mb(),
        "peak_mb_before": before_mb,
    }


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--docs", type=int, default=30_746)
    parser.add_argument("--pairs", type=int, default=6_000, help="queries to mine for")
    parser.add_argument("--train-pairs", type=int, help="train on so many of them [all]")
    parser.add_argument("--no-train", action="store_true", help="only time and memory")
    parser.add_argument("--work", type=Path, help="folder for the table, models, finished parts")
    parser.add_argument("--part", choices=list(PARTS), help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
