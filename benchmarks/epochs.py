"""How many epochs: test figures through five of them, and what early stopping picks.

Two trainings a set with the same arguments and seed, so with the same weights at each step. The
first is the user's: five epochs asked for, evaluated on dev, ended by early stopping. The second
runs to the end and is measured on test queries instead (a fifth as many as training pairs, 300 to
1,000, among 2,000 other documents), which tells what each epoch was worth and what the first one's
choice costs.

squad_part is the control (the base model was trained on it), tldr has something to learn.

Run: python benchmarks/epochs.py [--sets squad_part tldr] [--pairs N] [--epochs 5] [--seed S]
Slow: minutes an epoch on a laptop; on a GPU where there is one.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Mapping
from typing import Any

from _common import aim, progress, report
from _sets import Bed, base_model, read_bed

import lancedb_ft as ft
from lancedb_ft.errors import NoGainError
from lancedb_ft.train.defaults import PATIENCE

SHOWN = ("hit@5", "hit@10", "ndcg@10")
#: More evaluations than any run has: never stop.
NEVER = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", nargs="+", default=["squad_part", "tldr"])
    parser.add_argument("--pairs", type=int, default=5_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    figures = {
        name: run_set(name, arguments.pairs, arguments.epochs, arguments.seed)
        for name in arguments.sets
    }
    report(
        "epochs",
        [
            aim(
                f"{name}: best hit@10 of any epoch less that of the pick", found["lost"], "<=", 0.01
            )
            for name, found in figures.items()
        ],
        sets=figures,
    )


def run_set(name: str, pairs: int, epochs: int, seed: int) -> dict[str, Any]:
    """Return the figures by epoch, and what early stopping chose."""
    bed = read_bed(name, pairs=pairs)
    progress(f"{name}: with early stopping")
    chosen, pick = followed(bed, bed.split.dev, epochs, seed, early_stopping=PATIENCE)
    progress(f"{name}: {epochs} epochs on test")
    by_step, _ = followed(
        bed, bed.split.test, epochs, seed, early_stopping=NEVER, distractors=bed.corpus
    )
    n_steps = max(by_step)
    ends = {
        epoch: min(by_step, key=lambda s: abs(s - epoch * n_steps / epochs))
        for epoch in range(epochs + 1)
    }
    best = max(by_step[step]["hit@10"]["mean"] for step in ends.values())
    return {
        "n_train": len(bed.split.train),
        "by_epoch": {
            epoch: {metric: by_step[step][metric] for metric in SHOWN}
            for epoch, step in ends.items()
        },
        "steps_per_epoch": n_steps // epochs,
        "stopped_after_epoch": round(max(chosen) / n_steps * epochs, 2),
        "picked_epoch": round(pick / n_steps * epochs, 2),
        "picked": {metric: by_step[pick][metric] for metric in SHOWN},
        "lost": best - by_step[pick]["hit@10"]["mean"],
    }


def followed(
    bed: Bed,
    measured: ft.Pairs,
    epochs: int,
    seed: int,
    *,
    early_stopping: int,
    distractors: Mapping[str, str] | None = None,
) -> tuple[dict[int, Mapping[str, Any]], int]:
    """Train; return the figures on the measured pairs by step, and the step that was saved.

    Step 0 is the base model, which stays where none is better.
    """
    figures: dict[int, Mapping[str, Any]] = {}
    saved = 0

    def follow(event: Mapping[str, Any]) -> None:
        if event["event"] == "evaluation":
            figures[event["step"]] = event["dev"]

    with tempfile.TemporaryDirectory() as store, contextlib.suppress(NoGainError):
        version = ft.train(
            base_model(),
            bed.split.train,
            dev=measured,
            name="epochs",
            store=store,
            epochs=epochs,
            early_stopping=early_stopping,
            distractors=distractors,
            seed=seed,
            on_event=follow,
        )
        saved = version.manifest["training"]["best_step"]
    return figures, saved


if __name__ == "__main__":
    main()
