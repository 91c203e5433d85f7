"""Near-duplicates: our exact join against MinHash LSH (datasketch), on the same token sets.

Both look for all pairs of documents with Jaccard similarity >= 0.8 over three-word runs, and what
LSH proposes is verified exactly, so the only difference is what it misses. Two settings of LSH for
64 permutations: its own choice of bands, and 16 bands of 4, which miss little.

Run: python benchmarks/near_duplicates.py [--rows N]
"""

from __future__ import annotations

import argparse
import re
import time

from _common import aim, progress, report
from datasketch import MinHash, MinHashLSH

import lancedb_ft as ft
from lancedb_ft.data.near import near_duplicate_pairs
from lancedb_ft.data.texts import normalise

THRESHOLD = 0.8
N_PERMUTATIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=12_000)
    arguments = parser.parse_args()
    texts = ft.read_api_docs(limit=arguments.rows).corpus["text"].to_pylist()
    progress("exact join")
    started = time.perf_counter()
    exact = {(i, j) for i, j, _ in near_duplicate_pairs(texts, THRESHOLD)}
    ours_s = time.perf_counter() - started
    figures = {}
    for name, params in (("own_bands", None), ("16_bands_of_4", (16, 4))):
        progress(f"MinHash LSH, {name}")
        started = time.perf_counter()
        found = minhash_pairs(texts, params)
        seconds = time.perf_counter() - started
        figures[name] = {
            "found": len(found & exact),
            "missed_share": round(1 - len(found & exact) / max(1, len(exact)), 4),
            "only_lsh": len(found - exact),
            "seconds": round(seconds, 2),
            "seconds_over_ours": round(seconds / ours_s, 2),
        }
    report(
        "near_duplicates",
        [aim("pairs LSH found and the join did not", figures["own_bands"]["only_lsh"], "<=", 0)],
        rows=len(texts),
        threshold=THRESHOLD,
        ours={"found": len(exact), "seconds": round(ours_s, 2)},
        minhash=figures,
    )


def minhash_pairs(texts: list[str], params: tuple[int, int] | None) -> set[tuple[int, int]]:
    """Return the pairs LSH proposes whose exact similarity reaches the threshold."""
    lsh = MinHashLSH(threshold=THRESHOLD, num_perm=N_PERMUTATIONS, params=params)
    sets, sketches = [], []
    for i, text in enumerate(texts):
        words = re.findall(r"\w+", normalise(text))
        runs = {" ".join(words[k : k + 3]) for k in range(max(1, len(words) - 2))}
        sketch = MinHash(num_perm=N_PERMUTATIONS)
        sketch.update_batch([run.encode() for run in runs])
        lsh.insert(i, sketch)
        sets.append(runs)
        sketches.append(sketch)
    proposed = {
        (min(i, j), max(i, j))
        for i, sketch in enumerate(sketches)
        for j in lsh.query(sketch)
        if i != j
    }
    return {
        (i, j)
        for i, j in proposed
        if len(sets[i] & sets[j]) >= THRESHOLD * len(sets[i] | sets[j]) - 1e-9
    }


if __name__ == "__main__":
    main()
