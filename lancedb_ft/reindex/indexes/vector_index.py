"""Build for the new column the kind of vector index that the old one has, and keep it current."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lancedb_ft.leftovers import has_leftovers
from lancedb_ft.reindex.commits import retrying
from lancedb_ft.table import STREAMED, dataset, storage_options, vector_columns

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = [
    "build_like",
    "config_of",
    "count_vectors",
    "describe_index",
    "index_notes",
    "index_settings",
    "refresh_index",
]

#: What `describe_index` calls each of Lance's index types, and LanceDB's class to build it with.
_TYPES = {
    "IVF_FLAT": ("IvfFlat", "IvfFlat"),
    "IVF_SQ": ("IvfSq", "IvfSq"),
    "IVF_PQ": ("IvfPq", "IvfPq"),
    "IVF_RQ": ("IvfRq", "IvfRq"),
    "IVF_HNSW_FLAT": ("IvfHnswFlat", "HnswFlat"),
    "IVF_HNSW_SQ": ("IvfHnswSq", "HnswSq"),
    "IVF_HNSW_PQ": ("IvfHnswPq", "HnswPq"),
}
_CONFIGS = dict(_TYPES.values())

#: What each type takes besides the metric, the partitions and how they are trained.
_SETTINGS = {
    "IvfPq": ("num_bits",),
    "IvfRq": ("num_bits",),
    "IvfHnswPq": ("num_bits", "m", "ef_construction"),
    "IvfHnswSq": ("m", "ef_construction"),
    "IvfHnswFlat": ("m", "ef_construction"),
}
_PRODUCT_QUANTIZED = ("IvfPq", "IvfHnswPq")

#: More partitions than Lance's own rule ever makes are kept only where the old index has them.
_MAX_PARTITIONS = 4096

#: Rows that may stay out of the index. Each query compares them all: with 8,000 x 384 vectors in an
#: IVF_PQ index, 0 / 1,000 / 4,000 / 15,000 more outside it took 2.5 / 5.3 / 13.9 / 37 ms.
_FEW_ROWS = 256


def describe_index(table: Table, column: str) -> dict[str, Any] | None:
    """Return type and parameters of the vector index on a column, or None if it has none.

    Returns
    -------
    dict or None
        ``{"name", "type", "distance_type", "num_rows", "num_unindexed_rows", "num_bytes", ...}``;
        with ``num_partitions``, ``num_bits``, ``num_sub_vectors``, ``m``, ``ef_construction``,
        ``max_iterations``, ``sample_rate`` and ``target_partition_size`` where the index has or
        remembers them. An index that has too few rows to be trained has no ``num_partitions``.
    """
    ds = dataset(table)
    for found in ds.describe_indices():
        if found.index_type in _TYPES and list(found.field_names) == [column]:
            return _described(ds, found, column)
    return None


def _described(ds: lance.LanceDataset, index: Any, column: str) -> dict[str, Any]:
    statistics = ds.stats.index_stats(index.name)
    trained: dict[str, Any] = next((part for part in statistics["indices"] if part), {})
    sub = trained.get("sub_index", {})
    # Written by recent versions of Lance only; older indexes tell the same in their statistics.
    details = index.details or {}
    compression, hnsw = details.get("compression", {}), details.get("hnsw", {})
    hints = details.get("runtime_hints", {})
    params = sub.get("params", {})
    metric = details.get("metric_type") or trained.get("metric_type") or "l2"
    quantized = index.index_type.endswith(("PQ", "RQ"))
    found = {
        "name": index.name,
        "type": _TYPES[index.index_type][0],
        "distance_type": str(metric).lower(),
        "num_partitions": trained.get("num_partitions"),
        "num_rows": statistics.get("num_indexed_rows", 0),
        "num_unindexed_rows": statistics.get("num_unindexed_rows", 0),
        "num_bytes": index.total_size_bytes,
        "dims": vector_columns(ds.schema)[column],
        "num_bits": _first(compression, sub, ("num_bits", "nbits")) if quantized else None,
        "num_sub_vectors": _first(compression, sub, ("num_sub_vectors",)),
        "m": hnsw.get("max_connections") or params.get("m"),
        "ef_construction": hnsw.get("construction_ef") or params.get("ef_construction"),
        "max_iterations": _number(hints.get("lance.ivf.max_iters")),
        "sample_rate": _number(hints.get("lance.ivf.sample_rate")),
        "target_partition_size": details.get("target_partition_size"),
    }
    return {key: value for key, value in found.items() if value is not None}


def _first(one: Mapping[str, Any], other: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    values = (source.get(name) for source in (one, other) for name in names)
    return next((int(value) for value in values if value is not None), None)


def _number(text: str | None) -> int | None:
    return int(text) if text is not None else None


def build_like(table: Table, column: str, dims: int, like: dict[str, Any] | None) -> str | None:
    """Build an index on ``column`` of the kind that ``like`` describes, see `index_settings`.

    Returns
    -------
    str or None
        The name of the index; None when the old column has none, or when there are too few rows
        to train it (searches are exact then).
    """
    if like is None:
        return None
    existing = describe_index(table, column)
    if existing is not None:
        return str(existing["name"])
    n_rows = count_vectors(dataset(table), column)
    kind, settings = index_settings(like, dims, n_rows)
    if n_rows < _rows_to_train(kind, settings):
        return None
    import lancedb.index

    name = f"{column}_idx"
    config = getattr(lancedb.index, _CONFIGS[kind])(**settings)

    def attempt() -> None:
        table.checkout_latest()  # compaction moved the rows: from the old version it loses forever
        table.create_index(column, config=config, name=name, replace=True)

    retrying(attempt, what="build the vector index")
    return name


def config_of(kind: str, settings: Mapping[str, Any]) -> Any:
    """Return LanceDB's configuration of an index, from what `index_settings` gives."""
    import lancedb.index

    return getattr(lancedb.index, _CONFIGS[kind])(**settings)


def _rows_to_train(kind: str, settings: Mapping[str, Any]) -> int:
    """Return how many vectors the type needs.

    Product quantization finds 256 (with 4 bits 16) centroids a sub-vector. With fewer vectors
    LanceDB makes an index without content, and ``table.optimize()`` then raises "Not enough rows
    to train PQ" until there are enough.
    """
    return 1 << settings.get("num_bits", 8) if kind in _PRODUCT_QUANTIZED else 1


def index_settings(like: Mapping[str, Any], dims: int, n_rows: int) -> tuple[str, dict[str, Any]]:
    """Return type and arguments of an index like the old one, for other dims and rows.

    Partitions hold as many rows as those of the old index, or as many as it was told to hold
    (``target_partition_size``). A sub-vector of product quantization keeps its number of
    dimensions. Everything else is the same.

    Parameters
    ----------
    like
        From `describe_index`.
    dims
        Length of the new vectors.
    n_rows
        How many there are.

    Examples
    --------
    >>> old = {"type": "IvfPq", "distance_type": "cosine", "num_partitions": 10, "num_rows": 5000,
    ...        "dims": 384, "num_sub_vectors": 24, "num_bits": 8}
    >>> index_settings(old, 768, 10000)[1]["num_sub_vectors"]
    48
    >>> index_settings(old, 768, 10000)[1]["num_partitions"]
    20
    """
    kind = str(like["type"])
    settings: dict[str, Any] = {"distance_type": like["distance_type"]}
    wanted = (*_SETTINGS.get(kind, ()), "max_iterations", "sample_rate")
    settings.update({name: like[name] for name in wanted if name in like})
    if kind == "IvfRq" and dims % 8:
        kind = "IvfSq"
        settings.pop("num_bits", None)
    if kind in _PRODUCT_QUANTIZED and "num_sub_vectors" in like:
        settings["num_sub_vectors"] = _sub_vectors(like, dims)
    if "target_partition_size" in like:
        settings["target_partition_size"] = like["target_partition_size"]
    elif like.get("num_partitions") and like.get("num_rows"):
        old = int(like["num_partitions"])
        as_full = round(old * n_rows / like["num_rows"])
        settings["num_partitions"] = min(max(1, as_full), max(old, _MAX_PARTITIONS), n_rows)
    return kind, settings


def _sub_vectors(like: Mapping[str, Any], dims: int) -> int:
    """Return how many sub-vectors of about the old width the new vectors have.

    The number must divide the dimensions, and be even where two of 4 bits share a byte. Widths
    that are a multiple of 8 are computed fastest (Lance's own default is 16, else 8).
    """
    width = max(1, int(like.get("dims", dims)) // int(like["num_sub_vectors"]))
    step = 2 if like.get("num_bits") == 4 else 1
    fitting = [w for w in range(1, width + 1) if dims % w == 0 and (dims // w) % step == 0]
    return dims // max(fitting, key=lambda w: (w % 8 == 0, w), default=1)


def index_notes(like: Mapping[str, Any] | None, dims: int, n_rows: int) -> tuple[str, ...]:
    """Say in what the new index cannot be like the old one, or what it will lack at first."""
    if like is None:
        return ()
    notes = []
    kind, settings = index_settings(like, dims, n_rows)
    if kind != like["type"]:
        notes.append(
            f"{like['type']} needs a multiple of 8 dimensions and the new model has {dims}: the "
            f"new index is an {kind} (four times its size, and more exact)."
        )
    needed = _rows_to_train(kind, settings)
    if n_rows < needed:
        notes.append(
            f"{n_rows} vectors are too few to train an {kind} index (it takes {needed}), so the "
            "new column has none and is searched exactly. Build it when there are more rows: "
            "table.create_index(...)."
        )
    return tuple(notes)


def count_vectors(ds: lance.LanceDataset, column: str) -> int:
    """Return how many rows have a vector; the memory it takes is bounded."""
    return int(ds.scanner(columns=[], filter=f"`{column}` is not null", **STREAMED).count_rows())


def refresh_index(table: Table, column: str) -> int:
    """Put rows that came after the index was built into it, where they are not few.

    Only this index is touched, by one small delta, and no row is read of what it has already;
    unless it holds rows that were replaced since (see `has_leftovers`): then it is merged into one.

    Returns
    -------
    int
        Rows that were put into the index; 0 where there were few, or where there is no index.
    """
    index = describe_index(table, column)
    if index is None:
        return 0
    name, missing = index["name"], int(index["num_unindexed_rows"])
    merged = "num_partitions" in index and has_leftovers(
        dataset(table), name, storage_options(table)
    )
    if not merged and missing <= _FEW_ROWS:
        return 0

    def attempt() -> None:
        ds = dataset(table)
        n_segments = sum(len(i.segments) for i in ds.describe_indices() if i.name == name)
        ds.optimize.optimize_indices(
            index_names=[name], num_indices_to_merge=n_segments if merged else 0
        )

    retrying(attempt, what="bring the vector index up to date")
    return missing
