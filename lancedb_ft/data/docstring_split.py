"""Split API documentation by top-level module: the test asks for modules never trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from lancedb_ft.data.docstrings import ApiDocs
from lancedb_ft.data.leaks import drop_leaks
from lancedb_ft.data.qrels import sample_queries
from lancedb_ft.data.split import assign_groups, check_shares
from lancedb_ft.data.texts import stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.types import Pairs, Split

__all__ = ["api_docs_split"]

#: A module that holds more than this share of its part would make the part about that module.
_MAX_MODULE_SHARE = 0.25


def api_docs_split(
    docs: ApiDocs,
    *,
    seed: int = 0,
    shares: Sequence[float] = (0.75, 0.10, 0.15),
    max_dev: int | None = 500,
    max_test: int | None = 1000,
    threshold: float = 0.8,
) -> Split:
    """Deal whole top-level modules out to train, dev and test, then remove copies.

    Near-duplicates stand in many packages, so joining them into groups would join the packages.
    Instead dev loses what resembles test, and train what resembles either (`drop_leaks`). Very
    large modules stand in train, so that test is made of many.

    Parameters
    ----------
    docs
        What `read_api_docs` returned.
    seed
        Chooses the modules, and the queries where there are more than enough.
    shares
        Share of the pairs in train, dev and test, together 1.
    max_dev, max_test
        Pairs at most; None: no limit.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1.

    Raises
    ------
    InputError
        There are too few modules for three parts.
    """
    shares = check_shares(shares)
    modules = docs.modules
    doc_ids = docs.pairs.table["doc_id"].to_pylist()
    sizes = Counter(modules[doc_id] for doc_id in doc_ids)
    part_of = _deal(sizes, shares, seed)
    # Documents that share a query stay with the part of it that is held out most strictly: else
    # a test query would be marked wrong for finding its answer in a module of train.
    of_query: dict[str, int] = {}
    query_ids = docs.pairs.table["query_id"].to_pylist()
    for query_id, doc_id in zip(query_ids, doc_ids, strict=True):
        part = part_of[modules[doc_id]]
        of_query[query_id] = max(part, of_query.get(query_id, 0))
    parts = [of_query[query_id] for query_id in query_ids]
    train, dev, test = (
        docs.pairs.take(pa.array([part == wanted for part in parts], pa.bool_()))
        for wanted in range(3)
    )
    info = {
        "method": "top-level modules",
        "seed": seed,
        "shares": list(shares),
        "n_modules": len(sizes),
        "dev_modules": sorted(module for module, part in part_of.items() if part == 1),
        "test_modules": sorted(module for module, part in part_of.items() if part == 2),
    }
    split = Split(train, _at_most(dev, max_dev, seed), _at_most(test, max_test, seed), info)
    return drop_leaks(split, threshold=threshold)


def _deal(sizes: Counter[str], shares: tuple[float, float, float], seed: int) -> dict[str, int]:
    order = sorted(sizes, key=lambda module: stable_key(seed, module))
    n_all = sum(sizes.values())
    largest = [_MAX_MODULE_SHARE * share * n_all for share in shares]
    small = [module for module in order if sizes[module] <= max(largest[1:])]
    # With few modules there is no choice; with many, the large ones are dealt to train beforehand.
    large = [module for module in order if module not in small] if len(small) >= 8 else []
    dealt = [module for module in order if module not in set(large)]
    n_large = sum(sizes[module] for module in large)
    # The shares are of all pairs; what is dealt is without the large modules.
    rest = (max(shares[0] * n_all - n_large, 0.0), shares[1] * n_all, shares[2] * n_all)
    scaled = [share / sum(rest) for share in rest]
    parts = assign_groups([sizes[module] for module in dealt], (scaled[0], scaled[1], scaled[2]))
    if parts is None:
        raise InputError(
            f"{len(sizes)} top-level modules cannot be divided into train, dev and test: "
            f"{dict(sizes.most_common(10))}. Read more documents (limit=)."
        )
    return {**dict.fromkeys(large, 0), **dict(zip(dealt, parts, strict=True))}


def _at_most(pairs: Pairs, n: int | None, seed: int) -> Pairs:
    return pairs if n is None else sample_queries(pairs, n, seed=seed)
