"""What a re-index will take: measured on a sample, here and now, and scaled to all rows."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.encoder.tokens import token_batches
from lancedb_ft.evaluate import retriever
from lancedb_ft.marks import text_hashes
from lancedb_ft.reindex.filling.spill import KEPT_BYTES
from lancedb_ft.reindex.indexes.index_recall import N_QUERIES
from lancedb_ft.reindex.indexes.vector_index import config_of, describe_index, index_settings
from lancedb_ft.table import database_uri, dataset

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.types import Gate, Retriever

__all__ = [
    "HASH_BYTES",
    "encode_seconds_per_row",
    "gate_seconds",
    "index_cost",
    "overhead_seconds_per_row",
    "spill_bytes",
    "table_bytes",
]

_Floats: TypeAlias = npt.NDArray[np.float32]

#: The hash beside each vector.
HASH_BYTES = 8

#: About how long the encoder is timed, and the fewest batches.
_TIMED_S = 1.5
_LEAST_BATCHES = 8
#: Vectors that a sample of the index is built of, and searches that are timed.
_INDEXED = 2048
_SEARCHED = 8
#: Bytes a second of reading vectors, and multiplications a second of comparing them all.
_READ_PER_S, _MULTIPLIED_PER_S = 1e9, 2e10


def encode_seconds_per_row(encoder: Encoder, texts: pa.Array, tokens: npt.NDArray[Any]) -> float:
    """Time the encoder on whole batches of the shapes that it will meet.

    The encoder sorts a window of texts by length and cuts it into batches of about as many tokens,
    and the rate of a batch depends on its shape. So the sample is sorted and cut as a window is,
    every n-th batch is taken, and those are encoded in one call, after one that warms up.

    Parameters
    ----------
    encoder
        The new model.
    texts, tokens
        A random sample of rows and their numbers of tokens; those without tokens cost nothing.
    """
    filled = np.flatnonzero(tokens)
    if not len(filled):
        return 0.0
    limit = encoder.batch_limit
    batches = [filled[batch] for batch in token_batches(tokens[filled], limit)]
    middle = batches[len(batches) // 2]
    warm = texts.take(pa.array(middle))
    encoder.encode(warm, kind="document")
    started = time.perf_counter()
    encoder.encode(warm, kind="document")
    one = max(1e-6, time.perf_counter() - started)
    wanted = min(len(batches), max(_LEAST_BATCHES, int(_TIMED_S / one)))
    chosen = np.unique(np.linspace(0, len(batches) - 1, wanted).round().astype(int))
    rows = np.concatenate([batches[i] for i in chosen])
    timed = texts.take(pa.array(rows))
    started = time.perf_counter()
    encoder.encode(timed, kind="document")
    per_token = (time.perf_counter() - started) / float(tokens[rows].sum())
    return per_token * float(tokens.mean())


def overhead_seconds_per_row(texts: pa.Array, dims: int) -> float:
    """Time what a row takes besides encoding: hashing its text, and writing its vector twice."""
    n = len(texts)
    if not n:
        return 0.0
    from lance.file import LanceFileWriter

    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(n * dims, np.float32)), dims)
    schema = pa.schema([("vector", vectors.type), ("hash", pa.int64())])
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        hashes = text_hashes(texts)
        with LanceFileWriter(f"{folder}/sample.lance", schema) as writer:
            writer.write_batch(pa.record_batch([vectors, hashes], schema=schema))
        with pa.OSFile(f"{folder}/sample.arrow", "wb") as sink:
            batch = pa.table({"hash": hashes, "vector": vectors})
            with pa.ipc.new_file(sink, batch.schema) as file:
                file.write_table(batch)
        return (time.perf_counter() - started) / n


def index_cost(
    table: Table, active: Generation, dims: int, n_rows: int, *, seed: int = 0
) -> tuple[float, int]:
    """Return seconds and bytes of an index like the present one on so many vectors.

    Built for 2,048 of the present vectors (cut or repeated to ``dims``) in a scratch table, and
    scaled by the operations that the type takes. The seconds include measuring the recall of both.
    """
    like = describe_index(table, active.column)
    if like is None or not n_rows:
        return 0.0, 0
    vectors = _some_vectors(dataset(table), active.column, _INDEXED, seed)
    kind, settings = index_settings(like, dims, n_rows)
    n = len(vectors)
    if n < 1 << settings.get("num_bits", 8) and "Pq" in kind:
        return 0.0, 0
    sampled = {
        **settings,
        "num_partitions": max(1, round(_partitions(settings, n_rows) * n / n_rows)),
    }
    sampled.pop("target_partition_size", None)
    full = {**settings, "num_partitions": _partitions(settings, n_rows)}
    seconds, size = _built(np.resize(vectors.T, (dims, n)).T, kind, sampled)
    share = _operations(kind, full, n_rows, dims) / _operations(kind, sampled, n, dims)
    fixed, fixed_of_all = _fixed_bytes(kind, sampled, dims), _fixed_bytes(kind, full, dims)
    n_bytes = max(0.0, size - fixed) / n * n_rows + fixed_of_all
    return seconds * share + 2 * _recall_seconds(table, active.column, vectors, n_rows), int(
        n_bytes
    )


def gate_seconds(
    table: Table,
    gate: Gate,
    active: Generation | None,
    encoder: Encoder,
    id_column: str | None,
) -> float:
    """Ask the present column some test queries; each column that is judged is asked all of them.

    The new model stands in for a raw column's own, where its vectors are as long.
    """
    if active is None or (active.function is None and active.dims != encoder.dims):
        return 0.0
    retrieve = retriever(
        table,
        mode=gate.mode,
        column=active.column,
        encoder=encoder if active.function is None else None,
        id_column=id_column,
        reranker=gate.reranker,
    )
    queries = gate.test.queries
    columns = 2 if any(r.needs_base for r in gate.requirements) else 1
    some = dict(list(queries.items())[: 4 * _SEARCHED])
    retrieve(some, gate.depth)
    seconds = columns * len(queries) / len(some) * _timed(retrieve, some, gate.depth, times=1)
    if any(r.cutoff is None for r in gate.requirements):
        one = dict(list(some.items())[:1])
        n_timed = min(500, max(200, len(queries)))
        seconds += columns * n_timed * _timed(retrieve, one, gate.k or 10, times=_SEARCHED)
    return seconds


def _timed(retrieve: Retriever, queries: Mapping[str, str], k: int, *, times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        retrieve(queries, k)
    return (time.perf_counter() - started) / times


def spill_bytes(ds: lance.LanceDataset, n_rows: int, dims: int) -> int:
    """Return the most that vectors on their way to a commit take on the local disk."""
    each = 4 * dims + HASH_BYTES
    largest = max((f.count_rows() for f in ds.get_fragments()), default=0)
    return min(n_rows, KEPT_BYTES // each + largest) * each


def table_bytes(table: Table) -> int:
    """Return what a table takes: of a local one all files, else its present data and indexes."""
    if "://" not in database_uri(table):
        return folder_bytes(Path(str(table.uri)))
    ds = dataset(table)
    data = [file.file_size_bytes or 0 for f in ds.get_fragments() for file in f.data_files()]
    return sum(data) + sum(index.total_size_bytes or 0 for index in ds.describe_indices())


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below a folder; those that vanish meanwhile count nothing."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:
            continue
    return total


def _some_vectors(ds: lance.LanceDataset, column: str, n: int, seed: int) -> _Floats:
    n_rows = ds.count_rows()
    chosen = np.random.default_rng(seed).choice(n_rows, size=min(n, n_rows), replace=False)
    found = ds.take(np.sort(chosen).tolist(), columns=[column])[column]
    array = pa.concat_arrays(getattr(c, "storage", c) for c in found.chunks).drop_null()
    flat = array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
    return np.asarray(flat.reshape(len(array), array.type.list_size))


def _built(vectors: _Floats, kind: str, settings: Mapping[str, Any]) -> tuple[float, int]:
    import lancedb

    flat = pa.array(np.ascontiguousarray(vectors).reshape(-1))
    column = pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
    with tempfile.TemporaryDirectory() as folder:
        scratch = lancedb.connect(folder).create_table("sample", pa.table({"vector": column}))
        started = time.perf_counter()
        scratch.create_index("vector", config=config_of(kind, settings))
        seconds = time.perf_counter() - started
        return seconds, int(dataset(scratch).describe_indices()[0].total_size_bytes or 0)


def _partitions(settings: Mapping[str, Any], n_rows: int) -> int:
    """Return how many there will be; where nothing is said, by the rule of Lance."""
    if "num_partitions" in settings:
        return int(settings["num_partitions"])
    return min(4096, max(1, n_rows // int(settings.get("target_partition_size", 8192))))


def _operations(kind: str, settings: Mapping[str, Any], n: int, dims: int) -> float:
    """Count multiplications: k-means of the partitions, of the codes, assignment, the graph."""
    partitions, rounds = int(settings["num_partitions"]), int(settings.get("max_iterations", 50))
    trained = min(n, int(settings.get("sample_rate", 256)) * partitions) if partitions > 1 else 0
    operations = float(trained) * partitions * rounds + float(n) * partitions
    if "Pq" in kind:
        codes: int = 1 << int(settings.get("num_bits", 8))
        operations += float(min(n, 256 * codes)) * codes * rounds + float(n) * codes
    if "Hnsw" in kind:
        operations += (
            float(n) * settings.get("ef_construction", 300) * math.log2(max(2.0, n / partitions))
        )
    return float(dims * (operations + n))


def _fixed_bytes(kind: str, settings: Mapping[str, Any], dims: int) -> float:
    """Return the centroids: of the partitions, and of the codes."""
    codes = 1 << int(settings.get("num_bits", 8)) if "Pq" in kind else 0
    return 4.0 * dims * (int(settings["num_partitions"]) + codes)


def _recall_seconds(table: Table, column: str, vectors: _Floats, n_rows: int) -> float:
    dims = int(vectors.shape[1])
    started = time.perf_counter()
    for vector in vectors[:_SEARCHED]:
        table.search(vector, vector_column_name=column, query_type="vector").limit(11).to_arrow()
    each = (time.perf_counter() - started) / max(1, min(_SEARCHED, len(vectors)))
    scan = n_rows * dims * (4 / _READ_PER_S + N_QUERIES / _MULTIPLIED_PER_S)
    return N_QUERIES * each + scan
