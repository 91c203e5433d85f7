"""Plan: what a re-index would do and cost, estimated from a sample; nothing is changed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lancedb_ft.encoder import get_encoder
from lancedb_ft.generation import read_state
from lancedb_ft.reindex.checks.verify import sample_size
from lancedb_ft.reindex.columns import require_columns, source_column_of
from lancedb_ft.reindex.gates.approval import require_gate
from lancedb_ft.reindex.gates.gate import prepared_gate
from lancedb_ft.reindex.indexes.vector_index import describe_index
from lancedb_ft.reindex.plans.estimate import (
    HASH_BYTES,
    encode_seconds_per_row,
    gate_seconds,
    index_cost,
    overhead_seconds_per_row,
    spill_bytes,
    table_bytes,
)
from lancedb_ft.reindex.plans.plan_check import save_plan
from lancedb_ft.reindex.query_only import same_documents
from lancedb_ft.reindex.stage import require_stable_format
from lancedb_ft.reindex.target import store_of_model
from lancedb_ft.store import resolve_model
from lancedb_ft.table import (
    dataset,
    embedding_entries,
    stable_row_ids,
)

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.generation import Generation, TableState
    from lancedb_ft.types import Gate, ModelVersion

__all__ = ["ReindexPlan", "plan_reindex"]

#: Rows whose tokens are counted; those that are encoded to find the rate are among them.
_COUNTED_ROWS = 2000

#: What the report compares.
_COMPARED = ("rows_to_encode", "seconds", "stages", "bytes", "peak_disk_bytes")


@dataclass(frozen=True)
class ReindexPlan:
    """What a re-index would cost.

    ``tokens_per_row`` is the mean over the sample with its 95 % interval; ``rows_per_s`` is the
    encoder's rate; ``seconds`` is the sum of ``stages`` (``fill``, ``verify``, ``index``, and
    ``gate`` where one was given), from a model that is loaded. ``bytes`` is what the new columns
    and their index (``index_bytes``) add on disk until `finish` removes the old ones;
    ``peak_disk_bytes`` what table and job take at most: all versions of the table that are there
    now, what is added, and vectors on their way to a commit. ``query_only``: the vectors are those
    of the new model already, and nothing is encoded. ``notes`` are what a user must know before
    starting.
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
    stages: Mapping[str, float]
    bytes: int
    index_bytes: int
    peak_disk_bytes: int
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
    gate: Gate | None = None,
    id_column: str | None = None,
    seed: int = 0,
) -> ReindexPlan:
    """Estimate rows, tokens, seconds, bytes and peak disk of a re-index.

    What things take is measured here and now, on a sample: batches of texts of all lengths are
    encoded, an index like the present one is built of 2,048 vectors, test queries are asked. On a
    machine that is busy with other things, the estimate will be that of a busy machine. Texts that
    stand in many rows are encoded once, and the estimate counts each row. Where the table's
    vectors are those of the new model already, there are no rows to encode.

    The table is not changed. The figures are kept beside the job on the local disk, so that the
    report of the re-index can compare them with what came of it. Arguments are those of `reindex`.

    Raises
    ------
    InputError, ReindexStateError
        `reindex` would refuse the table as it is.
    """
    require_gate(gate)
    ds = dataset(table)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    text = source_column_of(ds.schema, state, text_column, table=table.name)
    place = store_of_model(table, state, model, store)
    resolved = resolve_model(model, store=place)
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
    coming = _begun(state, resolved.fingerprint, encoder.dims, text)
    if served is None:
        _require_possible(ds, state, coming, table=table.name, re_embed=re_embed)
    if served is not None:
        rows_to_encode = 0
    elif coming is not None and coming.column in ds.schema.names:
        rows_to_encode = ds.count_rows(f"`{coming.hash_column}` is null")
    else:
        rows_to_encode = rows
    texts = _sample(ds, text, rows, seed)
    tokens = np.asarray(encoder.token_counts(texts), dtype=np.float64)
    mean = float(tokens.mean()) if len(tokens) else 0.0
    half = 1.96 * float(tokens.std(ddof=1)) / len(tokens) ** 0.5 if len(tokens) > 1 else 0.0
    active = state.active
    per_row = encode_seconds_per_row(encoder, texts, tokens) if rows_to_encode else 0.0
    index_s, index_bytes = 0.0, 0
    if served is None and active is not None:
        index_s, index_bytes = index_cost(table, active, encoder.dims, rows, seed=seed)
    stages = _stages(texts, encoder.dims, rows, rows_to_encode, per_row, index_s)
    if gate is not None:
        old = active.with_(source_column=text) if active is not None else None
        gate = prepared_gate(
            table,
            gate,
            old=old,
            text_column=text,
            id_column=id_column,
            base_model=base_model,
            store=place,
        )
        stages["gate"] = gate_seconds(table, gate, active, encoder, id_column)
    added = rows_to_encode * (4 * encoder.dims + HASH_BYTES) + index_bytes
    seconds = sum(stages.values())
    plan = ReindexPlan(
        table=table.name,
        model=resolved.ref,
        present_model=active.model if active is not None else None,
        text_column=text,
        column=_column(coming, served),
        rows=rows,
        rows_to_encode=rows_to_encode,
        fragments=len(ds.get_fragments()),
        tokens_per_row=round(mean, 1),
        tokens_per_row_ci95=(round(max(0.0, mean - half), 1), round(mean + half, 1)),
        truncated_share=_truncated_share(tokens, encoder.max_tokens),
        n_sampled=len(tokens),
        rows_per_s=round(1.0 / per_row, 1) if per_row else 0.0,
        seconds=round(seconds, 3),
        stages={name: round(value, 3) for name, value in stages.items()},
        bytes=added,
        index_bytes=index_bytes,
        peak_disk_bytes=table_bytes(table) + added + spill_bytes(ds, rows_to_encode, encoder.dims),
        precision=encoder.precision,
        device=encoder.device,
        index=describe_index(table, active.column) if active is not None else None,
        notes=_notes(table, ds, state, dims=encoder.dims, query_only=served is not None),
        query_only=served is not None,
    )
    if not plan.query_only:
        # On the local disk, beside the job's lock, and not in the table: nothing of it changes.
        figures = {key: getattr(plan, key) for key in _COMPARED}
        save_plan(table, fingerprint=encoder.fingerprint, dims=encoder.dims, figures=figures)
    return plan


def _require_possible(
    ds: Any, state: TableState, coming: Generation | None, *, table: str, re_embed: bool
) -> None:
    """Refuse what a run would refuse after it loaded the model."""
    require_stable_format(table, ds)
    active = state.active
    # Its text need not be there where another one is embedded from now on.
    shown = None if active is None or re_embed else active.with_(source_column=None)
    for generation in (shown, coming):
        if generation is not None:
            require_columns(ds.schema, state, generation, table=table)


def _begun(state: TableState, fingerprint: str, dims: int, text: str) -> Generation | None:
    """Return the generation that a run would go on with."""
    wanted = (fingerprint, dims, text)
    begun = [g for g in state.waiting if (g.fingerprint, g.dims, g.source_column) == wanted]
    return begun[-1] if begun else None


def _column(coming: Generation | None, served: Generation | None) -> str:
    """Return the column that the model has already; empty where one is yet to be made."""
    there = served or coming
    return there.column if there is not None else ""


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


def _stages(
    texts: pa.Array, dims: int, rows: int, rows_to_encode: int, per_row: float, index_s: float
) -> dict[str, float]:
    """Return seconds by stage: everything but what commits take, a few hundredths each."""
    if not rows_to_encode:
        return {"fill": 0.0, "verify": 0.0, "index": index_s}
    overhead = overhead_seconds_per_row(texts, dims)
    checked = min(rows, sample_size(rows))
    return {
        "fill": rows_to_encode * (per_row + overhead),
        "verify": checked * per_row + rows * overhead / 2,
        "index": index_s,
    }


def _notes(
    table: Table, ds: Any, state: TableState, *, dims: int, query_only: bool
) -> tuple[str, ...]:
    notes = []
    active = state.active
    if query_only:
        notes.append(
            "The present vectors are those that the new model makes of the documents: they stay, "
            "with their index, and one commit of metadata changes how queries are embedded."
        )
    elif active is not None:
        notes.append(_vectors_note(active, dims))
        notes.extend(_required_note(ds, active))
    else:
        notes.extend(_other_vectors_note(ds))
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


def _other_vectors_note(ds: Any) -> list[str]:
    """Say that plain searches name no column now, and must where LanceDB comes to see two."""
    from lancedb.util import is_vector_column

    others = [field.name for field in ds.schema if is_vector_column(field.type)]
    if not others:
        return []
    return [
        f"LanceDB takes {', '.join(map(repr, others))} for vectors, too (bytes, or several a row): "
        "after the switch a plain search has two columns to choose from, and fails unless it names "
        "one: vector_column_name=, or the column that is shown by then."
    ]


def _required_note(ds: Any, active: Generation) -> list[str]:
    """Say that rows must bring the parked vector as well, where nothing makes it for them."""
    field = ds.schema.field(active.column) if active.column in ds.schema.names else None
    if field is None or field.nullable or active.function is not None:
        return []
    return [
        f"Column {active.column!r} is NOT NULL and no function fills it: after the switch, too, no "
        "row can be added without a vector for it, until finish removes the column. Run finish "
        "before writers leave that vector out."
    ]


def _vectors_note(active: Generation, dims: int) -> str:
    """Say what callers notice that send vectors of their own: the core goes by their length."""
    who = "Callers that send a vector through the core (async nearest_to, TypeScript, Rust)"
    if dims != active.dims:
        return (
            f"{who} and name no column find that of the vector's length: those with "
            f"{active.dims} dimensions go on with {active.column!r}, before and after the switch, "
            f"until finish removes it; the new model's have {dims}. They cannot be seen from here."
        )
    return (
        f"From staging to finish two columns have {dims} dimensions. Python text queries and sync "
        f"vector queries do not notice. {who} must name the column, {active.column!r} now and the "
        "new one after the switch, or get an error: the core tells columns apart by their length "
        "only. They cannot be seen from here."
    )
