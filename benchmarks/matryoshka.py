"""Shorter vectors: what 256, 128 and 64 of 384 dimensions keep, with and without Matryoshka.

Two models are trained on the same pairs of tldr with the same arguments, one with
matryoshka_dims=[384, 256, 128, 64]; both are measured at each length on the test queries in the
whole corpus (30,746 documents). "Kept" is the figure at that length over the same model's at full
length, with a paired bootstrap interval over queries.

Run: python benchmarks/matryoshka.py [--pairs N] [--seed S] [--plain MODEL]
With --plain, the model without Matryoshka is one that was trained before on the same pairs.
"""

from __future__ import annotations

import argparse
import tempfile
from typing import Any

import numpy as np
from _common import aim, progress, report
from _sets import Bed, base_model, compared, measure_dims, read_bed

import lancedb_ft as ft
from lancedb_ft.evaluate import bootstrap_means
from lancedb_ft.types import Evaluation

DIMS = [384, 256, 128, 64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--plain", help="the model without, where it is there already")
    arguments = parser.parse_args()
    bed = read_bed("tldr", pairs=arguments.pairs)
    figures: dict[str, Any] = {}
    full: dict[str, Evaluation] = {}
    with tempfile.TemporaryDirectory() as store:
        for name, dims in (("plain", []), ("matryoshka", DIMS)):
            progress(f"training {name}")
            path = None if dims else arguments.plain
            path = path or train(bed, store, name, dims, arguments.seed).path
            progress(f"measuring {name}")
            at = measure_dims(path, bed, DIMS)
            full[name] = at[DIMS[0]]
            figures[name] = {
                "dims": {
                    str(n): {**at[n].to_dict(), "kept": kept(at[n], full[name])} for n in DIMS
                },
            }
    shares = {n: figures["matryoshka"]["dims"][str(n)]["kept"]["share"] for n in (128, 64)}
    report(
        "matryoshka",
        [
            aim("tldr: nDCG@10 kept by 128 of 384 dimensions", shares[128], ">=", 0.98),
            aim("tldr: nDCG@10 kept by 64 of 384 dimensions", shares[64], ">=", 0.95),
        ],
        n_train=len(bed.split.train),
        n_documents=len(bed.corpus),
        n_test=full["plain"].n,
        matryoshka_over_plain_at_full_length=compared(full["plain"], full["matryoshka"]),
        models=figures,
    )


def train(bed: Bed, store: str, name: str, dims: list[int], seed: int) -> ft.ModelVersion:
    """Train with everything else alike."""
    return ft.train(
        base_model(),
        bed.split.train,
        dev=bed.split.dev,
        name=name,
        store=store,
        seed=seed,
        matryoshka_dims=dims,
    )


def kept(short: Evaluation, full: Evaluation, metric: str = "ndcg@10") -> dict[str, Any]:
    """Return the ratio of two means on the same queries, with its 95 % interval."""
    pair = (short.per_query[metric], full.per_query[metric])
    values = np.array([[side[q] for q in pair[1]] for side in pair])
    resampled = bootstrap_means(values)  # the same draws of queries for both
    low, high = np.percentile(resampled[:, 0] / resampled[:, 1], [2.5, 97.5])
    share = values[0].mean() / values[1].mean()
    return {"share": round(float(share), 4), "ci95": [round(float(low), 4), round(float(high), 4)]}


if __name__ == "__main__":
    main()
