"""Plan: what a re-index would do and cost, estimated from a sample; nothing is changed."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lancedb_ft.encoder import get_encoder
from lancedb_ft.generation import read_state
from lancedb_ft.reindex.query_only import same_documents
from lancedb_ft.reindex.vector_index import describe_index
from lancedb_ft.store import default_store_uri, resolve_model
from lancedb_ft.table import (
    database_uri,
    dataset,
    embedding_entries,
    stable_row_ids,
    text_column_of,
)

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation, TableState
    from lancedb_ft.types import ModelVersion

__all__ = ["ReindexPlan", "plan_reindex"]

#: Rows whose tokens are counted, and those of them that are encoded to find the rate.
_COUNTED_ROWS = 1000
_TIMED_ROWS = 96


@dataclass(frozen=True)
class ReindexPlan:
    """What a re-index would cost.

    ``tokens_per_row`` is the mean over the sample with its 95 % interval; ``seconds`` covers
    encoding, which is nearly all of it; ``bytes`` is what the new columns add on disk until
    `finish` removes the old ones. ``query_only``: the vectors are those of the new model already,
    and nothing is encoded. ``notes`` are what a user must know before starting.
    """

    table: str
    model: str
    present_model: str | None
    text_column: str
    column: str
    rows: int
    rows_to_encode: int
    fragments: int
    tokens_per_row: float
    tokens_per_row_ci95: tuple[float, float]
    truncated_share: float
    n_sampled: int
    rows_per_s: float
    seconds: float
    bytes: int
    precision: str
    device: str
    index: dict[str, Any] | None
    notes: tuple[str, ...]
    query_only: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self)


def plan_reindex(
    table: Table,
    model: str | ModelVersion,
    *,
    text_column: str | None = None,
    vector_column: str | None = None,
    store: str | None = None,
    dims: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    base_model: str | None = None,
    re_embed: bool = False,
    seed: int = 0,
) -> ReindexPlan:
    """Estimate rows, tokens, seconds and bytes of a re-index.

    The rate is measured here and now by encoding a few dozen sampled rows; on a machine that
    is busy with other things, so will the estimate be. Where the table's vectors are those of the
    new model already, there are no rows to encode. Arguments are those of `reindex`.
    """
    ds = dataset(table)
    text = text_column_of(ds.schema, text_column, table=table.name)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    resolved = resolve_model(model, store=store or default_store_uri(database_uri(table)))
    served = (
        None
        if re_embed
        else same_documents(
            table,
            state,
            resolved,
            text_column=text,
            dims=dims,
            store=store,
            base_model=base_model,
        )
    )
    dims = dims if served is None else served.dims
    encoder = get_encoder(resolved, device=device, precision=precision, dims=dims)
    rows = ds.count_rows()
    coming = state.coming
    same = coming is not None and coming.fingerprint == resolved.fingerprint
    if served is not None:
        rows_to_encode = 0
    elif coming is not None and same and coming.column in ds.schema.names:
        rows_to_encode = ds.count_rows(f"{coming.hash_column} is null")
    else:
        rows_to_encode = rows
    texts = _sample(ds, text, rows, seed)
    tokens = np.asarray(encoder.token_counts(texts), dtype=np.float64)
    seconds_per_token = _seconds_per_token(encoder, texts, tokens) if rows_to_encode else 0.0
    mean = float(tokens.mean()) if len(tokens) else 0.0
    half = 1.96 * float(tokens.std(ddof=1)) / len(tokens) ** 0.5 if len(tokens) > 1 else 0.0
    seconds = rows_to_encode * mean * seconds_per_token
    active = state.active
    return ReindexPlan(
        table=table.name,
        model=resolved.ref,
        present_model=active.model if active is not None else None,
        text_column=text,
        column=_column(state, served, resolved.fingerprint),
        rows=rows,
        rows_to_encode=rows_to_encode,
        fragments=len(ds.get_fragments()),
        tokens_per_row=round(mean, 1),
        tokens_per_row_ci95=(round(max(0.0, mean - half), 1), round(mean + half, 1)),
        truncated_share=_truncated_share(tokens, encoder.max_tokens),
        n_sampled=len(tokens),
        rows_per_s=round(rows_to_encode / seconds, 1) if seconds else 0.0,
        seconds=round(seconds, 1),
        bytes=rows_to_encode * (4 * encoder.dims + 8),
        precision=encoder.precision,
        device=encoder.device,
        index=describe_index(table, active.column) if active is not None else None,
        notes=_notes(table, ds, state, query_only=served is not None),
        query_only=served is not None,
    )


def _column(state: TableState, served: Generation | None, fingerprint: str) -> str:
    """Return the column that the model has already; empty where one is yet to be made."""
    if served is not None:
        return served.column
    coming = state.coming
    return coming.column if coming is not None and coming.fingerprint == fingerprint else ""


def _sample(ds: Any, text: str, rows: int, seed: int) -> pa.Array:
    if rows == 0:
        return pa.array([], pa.string())
    rng = np.random.default_rng(seed)
    chosen = np.sort(rng.choice(rows, size=min(rows, _COUNTED_ROWS), replace=False))
    texts = ds.take(chosen.tolist(), columns=[text])[text].combine_chunks()
    return texts.chunk(0) if isinstance(texts, pa.ChunkedArray) else texts


def _truncated_share(tokens: Any, max_tokens: int | None) -> float:
    if max_tokens is None or not len(tokens):
        return 0.0
    return round(float((tokens >= max_tokens).mean()), 4)


def _seconds_per_token(encoder: Encoder, texts: pa.Array, tokens: Any) -> float:
    """Time the encoder on a part of the sample, after one call that warms it up."""
    timed = texts.slice(0, _TIMED_ROWS)
    n_tokens = float(tokens[: len(timed)].sum())
    if not n_tokens:
        return 0.0
    encoder.encode(timed.slice(0, 8), kind="document")
    started = time.perf_counter()
    encoder.encode(timed, kind="document")
    return (time.perf_counter() - started) / n_tokens


def _notes(table: Table, ds: Any, state: TableState, *, query_only: bool) -> tuple[str, ...]:
    notes = []
    active = state.active
    if query_only:
        notes.append(
            "The present vectors are those that the new model makes of the documents: they stay, "
            "with their index, and one commit of metadata changes how queries are embedded."
        )
    elif active is not None:
        notes.append(
            "From staging to finish two vector columns exist. Python text queries and sync vector "
            "queries do not notice; callers that send a vector without naming its column through "
            f"the core (async nearest_to, TypeScript, Rust) get an error: let them name "
            f"{active.column!r}. They cannot be seen from here."
        )
    entries = embedding_entries(ds.schema)
    if not any(entry["name"] == "ft-embed" for entry in entries):
        notes.append(
            "After the switch every process that writes to this table, or searches it with text, "
            "must import lancedb_ft (or have lancedb-ft autoload installed); without it LanceDB "
            "raises KeyError: 'ft-embed'. Rows written before the switch are swept."
        )
    if not stable_row_ids(ds) and not query_only:
        notes.append(
            "The table was created without stable row ids, so LanceDB cannot say which rows "
            "changed: stale vectors are found by comparing text hashes, a scan of the text column."
        )
    return tuple(notes)
