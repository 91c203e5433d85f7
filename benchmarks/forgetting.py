"""What a fine-tune forgets elsewhere, and what weights between base and tuned model give back.

all-MiniLM-L6-v2 is trained on tldr. The base, the tuned model and models between them answer the
test queries of tldr, and those of scifact and squad_part, which nothing was trained on. Then
`interpolate_models` chooses alpha as a user would: on tldr's dev queries, held to a probe made of
documents of the other two sets, without looking at a test query.

Run: python benchmarks/forgetting.py [--pairs 6000] [--max-docs 5000] [--tuned MODEL]
With --tuned, the model trained on tldr is one that is there already, of a store.
Minutes on a laptop; --max-docs bounds the documents a test set is looked up in.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from typing import Any

from _common import aim, progress, report
from _sets import Bed, base_model, compared, cut, read_bed

import lancedb_ft as ft
from lancedb_ft.data.texts import stable_key
from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import NoGainError, RegressionError
from lancedb_ft.evaluate import evaluate, exact_retriever
from lancedb_ft.train.compute import choose_compute
from lancedb_ft.train.interpolate import interpolate, weights_of
from lancedb_ft.types import Evaluation, ModelVersion

LEARNED, KEPT = "tldr", ("scifact", "squad_part")
METRIC = "ndcg@10"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=6_000)
    parser.add_argument("--max-docs", type=int, default=5_000)
    parser.add_argument("--probe-docs", type=int, default=1_000, help="of each other set")
    parser.add_argument("--alphas", type=float, nargs="+", default=[0.0, 0.25, 0.5, 0.75, 1.0])
    parser.add_argument("--tuned", help="folder of a model that was trained on tldr's pairs")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    beds = {name: read_bed(name, pairs=arguments.pairs) for name in (LEARNED, *KEPT)}
    probe = {name: sample(beds[name], arguments.probe_docs) for name in KEPT}
    small = {name: cut(bed, arguments.max_docs) for name, bed in beds.items()}
    with tempfile.TemporaryDirectory() as store:
        split = beds[LEARNED].split
        tuned = arguments.tuned or trained(beds[LEARNED], store, arguments.seed)
        progress("choosing alpha on dev, held to the probe")
        chosen = choose(tuned, beds[LEARNED], probe, arguments.seed, store)
        alpha = None if chosen is None else chosen.manifest["interpolation"]["alpha"]
        wanted = sorted({0.0, 1.0, *arguments.alphas, *([] if alpha is None else [alpha])})
        found = {a: figures for a, figures in measured(tuned, wanted, small)}
    report(
        "forgetting",
        aims(found, alpha),
        n_train=len(split.train),
        n_documents={name: len(bed.corpus) for name, bed in small.items()},
        chosen_alpha=alpha,
        trials=None if chosen is None else chosen.manifest["interpolation"]["trials"],
        by_alpha={
            a: {
                name: {
                    **evaluation.metrics[METRIC].to_dict(),
                    "n": evaluation.n,
                    "to_base": compared(found[0.0][name], evaluation, METRIC),
                }
                for name, evaluation in figures.items()
            }
            for a, figures in found.items()
        },
    )


def sample(bed: Bed, n: int) -> dict[str, str]:
    """Return documents, none of which answers a test query: those measure, and do not choose."""
    free = [doc_id for doc_id in bed.corpus if doc_id not in bed.split.test.corpus]
    free.sort(key=lambda doc_id: stable_key(1, doc_id))
    return {doc_id: bed.corpus[doc_id] for doc_id in free[:n]}


def trained(bed: Bed, store: str, seed: int) -> str:
    """Train by default, as a user would."""
    progress("training")
    split = bed.split
    return ft.train(
        base_model(), split.train, dev=split.dev, name="tuned", store=store, seed=seed
    ).path


def choose(
    tuned: str, bed: Bed, probe: dict[str, dict[str, str]], seed: int, store: str
) -> ModelVersion | None:
    """Choose alpha without a test query; None where nothing that gains is allowed."""
    with contextlib.suppress(NoGainError, RegressionError):
        return ft.interpolate_models(
            base_model(),
            tuned,
            dev=bed.split.dev,
            probe=probe,
            name="between",
            seed=seed,
            store=store,
        )
    return None


def measured(
    path: str, alphas: Sequence[float], beds: dict[str, Bed]
) -> Iterator[tuple[float, dict[str, Evaluation]]]:
    """Yield the test figures of models between base and tuned."""
    compute = choose_compute()
    first, model = (
        load_sentence_transformer(each, device=compute.device).float()
        for each in (base_model(), path)
    )
    ends = weights_of(first), weights_of(model)
    for alpha in alphas:
        model.load_state_dict(interpolate(*ends, alpha))
        figures = {}
        for name, bed in beds.items():
            progress(f"alpha {alpha:g}: {name}")
            with compute.autocast():
                search = exact_retriever(Encoder.of(model), bed.corpus)
                figures[name] = evaluate(search, bed.split.test, name=f"alpha {alpha:g}")
        yield alpha, figures


def aims(found: dict[float, dict[str, Evaluation]], alpha: float | None) -> list[dict[str, Any]]:
    """Judge the chosen alpha by the test sets."""

    def value(a: float, name: str) -> float:
        return found[a][name].metrics[METRIC].mean

    gain = value(1.0, LEARNED) - value(0.0, LEARNED)
    kept = None if alpha is None else (value(alpha, LEARNED) - value(0.0, LEARNED)) / gain
    lines = [aim(f"{LEARNED}: share of the tuned model's gain that is kept", kept, ">=", 0.8)]
    for name in KEPT:
        lost = None if alpha is None else value(0.0, name) - value(alpha, name)
        lines.append(aim(f"{name}: {METRIC} lost to the base", lost, "<=", 0.02))
    return lines


if __name__ == "__main__":
    main()
