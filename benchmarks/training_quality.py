"""What a fine-tune gives by default, against a plain sentence-transformers script, in one run.

Three sets: tldr (vocabulary mismatch), medquad (patients' questions, long answers) and squad_part,
the control: the base model was trained on it, so there is little to gain and something to lose.
For each seed the plain script and ours train on the same pairs, in processes of their own that take
turns; all models are measured on the same test queries in the whole corpus. Without a gain on dev
ours saves no version and the base model stays: its figures then count as ours.

The plain script: MultipleNegativesRankingLoss, one epoch, batch 64, learning rate 5e-5 (the
trainer's default), warm-up 10 %, no duplicates in a batch, float32, the model's own token limit.

Run: python benchmarks/training_quality.py [--sets tldr medquad squad_part] [--pairs N]
     [--seeds 0 1 2] [--max-docs N] [--work FOLDER]
Finished parts are kept in the work folder: the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from _common import aim, progress, report
from _sets import Bed, base_model, compared, cut, in_subprocess, measure, peak_memory_mb, read_bed

import lancedb_ft as ft
from lancedb_ft.errors import NoGainError
from lancedb_ft.evaluate import average
from lancedb_ft.types import Evaluation

SETS = {"tldr": 6_000, "medquad": 5_000, "squad_part": 5_000}


def main() -> None:
    arguments = _parse()
    if arguments.part:
        print(json.dumps(train_part(*arguments.part, pairs=arguments.pairs, work=arguments.work)))
        return
    work = arguments.work or Path(tempfile.mkdtemp(prefix="training_quality-"))
    work.mkdir(parents=True, exist_ok=True)
    progress(f"work folder: {work}")
    figures = {}
    for name in arguments.sets:
        pairs = arguments.pairs or SETS[name]
        figures[name] = run_set(name, pairs, arguments.seeds, work, arguments.max_docs)
    report("training_quality", _aims(figures), seeds=arguments.seeds, sets=figures)


def run_set(
    name: str, pairs: int, seeds: list[int], work: Path, max_docs: int | None
) -> dict[str, Any]:
    """Train with every recipe and seed, measure all on the same queries, compare."""
    bed = read_bed(name, pairs=pairs)
    bed = bed if max_docs is None else cut(bed, max_docs)
    base = measure(base_model(), bed, name="base")
    parts: dict[str, list[dict[str, Any]]] = {"plain": [], "ours": []}
    measured: dict[str, list[Evaluation]] = {"plain": [], "ours": []}
    for seed in seeds:
        for recipe in parts:
            part = _kept_part(name, recipe, seed, pairs, work)
            parts[recipe].append(part)
            progress(f"{name} {recipe} seed {seed}: measuring")
            found = measure(part["path"], bed, name=recipe) if part["path"] else base
            measured[recipe].append(found)
            part["ndcg@10"] = round(found.metrics["ndcg@10"].mean, 4)
            part["over_base"] = compared(base, found)
    plain, ours = (average(measured[recipe], name=recipe) for recipe in ("plain", "ours"))
    return {
        "n_train": len(bed.split.train),
        "n_documents": len(bed.corpus),
        "n_test": base.n,
        "base": base.to_dict(),
        "plain": plain.to_dict(),
        "ours": ours.to_dict(),
        "ours_over_plain": compared(plain, ours),
        "ours_over_base": compared(base, ours),
        "plain_over_base": compared(base, plain),
        "time_ours_over_plain": _over(parts, "seconds"),
        "cpu_ours_over_plain": _over(parts, "cpu_seconds"),
        "parts": parts,
    }


def _over(parts: dict[str, list[dict[str, Any]]], cost: str) -> float:
    """Return what all seeds of ours cost over those of plain; CPU time minds no other process."""
    ours, plain = (sum(part[cost] for part in parts[recipe]) for recipe in ("ours", "plain"))
    return round(ours / plain, 3)


def _kept_part(name: str, recipe: str, seed: int, pairs: int, work: Path) -> dict[str, Any]:
    kept = work / f"{name}-{recipe}-{seed}-{pairs}.json"
    if not kept.exists():
        progress(f"{name} {recipe} seed {seed}: training")
        part = in_subprocess(
            __file__, "--part", name, recipe, seed, "--pairs", pairs, "--work", work
        )
        kept.write_text(json.dumps(part))
    found: dict[str, Any] = json.loads(kept.read_text())
    return found


def train_part(name: str, recipe: str, seed: str, *, pairs: int, work: Path) -> dict[str, Any]:
    """Train once; the time is that of the training, from the pairs to a saved model."""
    bed = read_bed(name, pairs=pairs)
    folder = work / f"{name}-{recipe}-{seed}-{pairs}"
    started, cpu = time.perf_counter(), time.process_time()
    made = {"plain": _plain, "ours": _ours}[recipe](bed, folder, int(seed))
    return {
        "seed": int(seed),
        "seconds": round(time.perf_counter() - started, 1),
        "cpu_seconds": round(time.process_time() - cpu, 1),
        "peak_mb": peak_memory_mb(),
        **made,
    }


def _ours(bed: Bed, folder: Path, seed: int) -> dict[str, Any]:
    try:
        model = ft.train(
            base_model(),
            bed.split.train,
            dev=bed.split.dev,
            name=bed.name.replace("_", "-"),
            store=str(folder),
            seed=seed,
        )
    except NoGainError as error:
        return {"path": None, "told": str(error)}
    return {"path": model.path, "training": model.manifest["training"]}


def _plain(bed: Bed, folder: Path, seed: int) -> dict[str, Any]:
    from datasets import Dataset
    from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import (
        BatchSamplers,
        SentenceTransformerTrainingArguments,
    )

    model = SentenceTransformer(base_model())
    table = bed.split.train.table
    columns = {"anchor": "query", "positive": "document"}
    trainer = SentenceTransformerTrainer(
        model=model,
        args=SentenceTransformerTrainingArguments(
            output_dir=str(folder / "run"),
            num_train_epochs=1,
            per_device_train_batch_size=64,
            warmup_steps=0.1,
            batch_sampler=BatchSamplers.NO_DUPLICATES,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            seed=seed,
        ),
        train_dataset=Dataset.from_dict({c: table[t].to_pylist() for c, t in columns.items()}),
        loss=MultipleNegativesRankingLoss(model),
    )
    trainer.train()
    path = str(folder / "model")
    model.save_pretrained(path)
    return {"path": path}


def _aims(figures: dict[str, Any]) -> list[dict[str, Any]]:
    tldr, control = figures.get("tldr"), figures.get("squad_part")
    lost = None
    if control is not None:
        saved = [part for part in control["parts"]["ours"] if part["path"]]
        lost = sum(part["over_base"]["ci95"][1] < 0 for part in saved)
    return [
        aim(
            "tldr: nDCG@10 of ours less that of plain",
            tldr and tldr["ours_over_plain"]["mean"],
            ">=",
            0.02,
        ),
        aim("tldr: time of ours over plain", tldr and tldr["time_ours_over_plain"], "<=", 1.5),
        aim("squad_part: versions saved that are significantly below base", lost, "<=", 0),
    ]


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--pairs", type=int, help="training pairs [default: 6,000 or 5,000]")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--max-docs", type=int, help="measure in so many documents [default: all]")
    parser.add_argument("--work", type=Path, help="folder for models and finished parts")
    parser.add_argument("--part", nargs=3, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
