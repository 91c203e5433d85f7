"""Build for the new column the kind of vector index that the old one has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lancedb_ft.reindex.commits import retrying
from lancedb_ft.table import dataset

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["build_like", "describe_index"]

#: LanceDB's configuration class of each index type that `list_indices` reports.
_CONFIGS = {
    "IvfFlat": "IvfFlat",
    "IvfSq": "IvfSq",
    "IvfPq": "IvfPq",
    "IvfRq": "IvfRq",
    "IvfHnswPq": "HnswPq",
    "IvfHnswSq": "HnswSq",
    "IvfHnswFlat": "HnswFlat",
}


def describe_index(table: Table, column: str) -> dict[str, Any] | None:
    """Return type and parameters of the vector index on a column, or None if it has none.

    Returns
    -------
    dict or None
        ``{"name", "type", "distance_type", "num_partitions", "num_rows", ...}``; with
        ``num_bits``, ``num_sub_vectors``, ``m`` and ``ef_construction`` where the type has them.
    """
    for config in table.list_indices():
        if list(config.columns) == [column] and config.index_type in _CONFIGS:
            break
    else:
        return None
    statistics = dataset(table).stats.index_stats(config.name)
    details = statistics["indices"][0]
    sub_index = details.get("sub_index", {})
    found = {
        "name": config.name,
        "type": config.index_type,
        "distance_type": details.get("metric_type", "l2"),
        "num_partitions": details.get("num_partitions"),
        "num_rows": statistics.get("num_indexed_rows", 0),
        "dims": sub_index.get("dimension") or sub_index.get("dim") or sub_index.get("code_dim"),
        "num_bits": sub_index.get("nbits") or sub_index.get("num_bits"),
        "num_sub_vectors": sub_index.get("num_sub_vectors"),
        **{k: v for k, v in sub_index.get("params", {}).items() if k in ("m", "ef_construction")},
    }
    return {key: value for key, value in found.items() if value is not None}


def build_like(table: Table, column: str, dims: int, like: dict[str, Any] | None) -> str | None:
    """Build an index on ``column`` of the kind that ``like`` describes.

    Partitions are recomputed for the present number of rows, by the ratio of the old index when
    that one was built for about as many rows, otherwise by LanceDB's own rule.

    Returns
    -------
    str or None
        The name of the index; None when the old column has none (searches are exact then).
    """
    if like is None:
        return None
    existing = describe_index(table, column)
    if existing is not None:
        return str(existing["name"])
    n_rows = table.count_rows(f"{column} is not null")
    if n_rows == 0:
        return None
    import lancedb.index

    name = f"{column}_idx"
    config = getattr(lancedb.index, _CONFIGS[like["type"]])(**_parameters(like, dims, n_rows))
    retrying(
        lambda: table.create_index(column, config=config, name=name, replace=True),
        what="build the vector index",
    )
    return name


def _parameters(like: dict[str, Any], dims: int, n_rows: int) -> dict[str, Any]:
    parameters: dict[str, Any] = {"distance_type": like["distance_type"]}
    kept = {
        "IvfPq": ("num_bits",),
        "IvfRq": ("num_bits",),
        "IvfHnswPq": ("num_bits", "m", "ef_construction"),
        "IvfHnswSq": ("m", "ef_construction"),
        "IvfHnswFlat": ("m", "ef_construction"),
    }
    parameters.update({k: like[k] for k in kept.get(like["type"], ()) if k in like})
    # Sub-vectors are a number of dimensions each: keep that width, not the count, for other dims.
    if "num_sub_vectors" in like and like.get("dims"):
        width = max(1, like["dims"] // like["num_sub_vectors"])
        if dims % width == 0:
            parameters["num_sub_vectors"] = dims // width
    old_rows = like.get("num_rows") or 0
    if like.get("num_partitions") and 0.5 <= n_rows / max(1, old_rows) <= 2.0:
        parameters["num_partitions"] = like["num_partitions"]
    return parameters
