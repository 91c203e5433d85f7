"""Audit: does each vector column hold the vectors of one model only, and if not, where not.

A search compares distances, and distances between vectors of two models mean nothing: rows of
another model are never found, or always. So rows are drawn from all over the table, encoded again
and compared. Beside its marks, a column of ours also tells which vectors somebody else overwrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.arguments import is_whole
from lancedb_ft.errors import InputError, LancedbFtError
from lancedb_ft.generation import Generation, TableState, read_state
from lancedb_ft.marks import hash_values, same_text, text_hashes
from lancedb_ft.reindex.checks.models_of import Embeds, model_of
from lancedb_ft.reindex.checks.verify import MIN_COSINE
from lancedb_ft.reindex.filling.fragments import WINDOW_ROWS, Columns
from lancedb_ft.reindex.sweeping.mend import cosines, matrix_of
from lancedb_ft.reindex.sweeping.wrong_rows import has_marks
from lancedb_ft.table import STREAMED, dataset, text_column_of

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

    from lancedb_ft.types import Progress

__all__ = ["Audit", "ColumnAudit", "ForeignRow", "audit_size", "detection", "verify"]

#: The share of foreign vectors that the default sample finds, and how surely.
_SHARE = 0.01
_MISS = 0.001
#: Rows read and encoded at a time, and foreign rows that are listed one by one for each column.
_WINDOW = 1024
_LISTED = 1000

Verdict = Literal["one model", "mixed", "unknown"]
_Ids = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class ForeignRow:
    """A row whose vector the column's model does not make of its text.

    ``id`` and ``address`` are LanceDB's ``_rowid`` and ``_rowaddr``, ``made_by`` is the known model
    that does make it, or None.
    """

    id: int
    address: int
    fragment: int
    cosine: float | None
    made_by: str | None = None


@dataclass(frozen=True)
class ColumnAudit:
    """What was found in one vector column.

    ``n_checked`` rows were encoded again; ``detection`` is the probability that this would have
    shown 1 % of foreign vectors. ``n_foreign`` counts those found, ``fragments`` by fragment, and
    ``rows`` lists the first of them. ``n_stale`` (None: unknown) are vectors of another text.
    """

    column: str
    generation: int
    phase: str
    model: str | None
    verdict: Verdict
    n_rows: int = 0
    n_checked: int = 0
    n_foreign: int = 0
    n_stale: int | None = None
    min_cosine: float | None = None
    detection: float = 0.0
    fragments: Mapping[int, int] = field(default_factory=dict)
    made_by: Mapping[str, int] = field(default_factory=dict)
    rows: tuple[ForeignRow, ...] = ()
    note: str = ""


@dataclass(frozen=True)
class Audit:
    """What `verify` found in all vector columns, and what to do."""

    table: str
    version: int
    columns: tuple[ColumnAudit, ...]
    advice: str

    @property
    def passed(self) -> bool:
        """Whether every column was looked at, and holds one model only."""
        return all(column.verdict == "one model" for column in self.columns)

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return {**asdict(self), "passed": self.passed}


def audit_size(n_rows: int) -> int:
    """Return how many rows find a planted 1 % of foreign vectors with probability over 0.999.

    See `detection`. 688 rows are enough for a table of any size; of 1,000 rows 499 are needed, and
    of 100 rows all.

    Examples
    --------
    >>> audit_size(100), audit_size(1_000), audit_size(100_000_000)
    (100, 499, 688)
    """
    low, high = 0, min(n_rows, math.ceil(math.log(_MISS) / math.log(1 - _SHARE)))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if detection(n_rows, middle) > 1 - _MISS else (middle + 1, high)
    return low


def detection(n_rows: int, n_checked: int, share: float = _SHARE) -> float:
    """Return the probability that so many drawn rows show at least one foreign vector.

    One row is drawn from each of ``n_checked`` equal parts of the table. The worst case is that the
    foreign rows are spread over the parts evenly: the chance to miss them all is then
    ``(1 - n/N)^K`` for K of them in as many parts, and ``(1 - K/N)^n`` where there are more of them
    than parts. Foreign rows that lie together, as a writer's do, are found more surely.

    Examples
    --------
    >>> round(detection(1_000_000, 688), 4)
    0.999
    """
    if n_rows == 0:
        return 1.0
    n_checked = min(n_checked, n_rows)
    n_foreign = math.ceil(share * n_rows)
    if n_foreign <= n_checked:
        return float(1 - (1 - n_checked / n_rows) ** n_foreign)
    return float(1 - (1 - n_foreign / n_rows) ** n_checked)


def verify(
    table: Table,
    *,
    n: int | Literal["all"] | None = None,
    store: str | None = None,
    device: str | None = None,
    base_model: str | None = None,
    models: Sequence[str] = (),
    vector_column: str | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Prove on a sample, or on all rows, that each vector column holds one model only.

    Parameters
    ----------
    table
        The table; nothing is changed.
    n
        Rows to encode again for each column: by default as many as find 1 % of foreign vectors with
        probability over 0.999 (at most 688), or ``"all"``.
    store, device
        Where our models are, and run.
    base_model
        The model of a raw column.
    models
        Further models, beside those of the table's other generations, that may have made what is
        foreign.
    vector_column
        Which column is meant, for an untouched table with several.
    seed
        Seed of the sample.
    progress
        Called with rows encoded again and rows to encode, of one column after the other.

    Raises
    ------
    InputError
        ``n`` is neither ``"all"`` nor a number of rows, 1 or more.
    StoreError
        The shown generation's model is gone.
    """
    if not (n is None or n == "all" or is_whole(n, 1)):
        raise InputError(f"n is {n!r}; it must be a number of rows, 1 or more, or 'all'.")
    ds = dataset(table)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    looks = _Models(table, state, store, device, base_model, models)
    columns: list[ColumnAudit] = []
    for g in state.generations:
        # A query-only generation is looked at with the one that made its column's vectors.
        there = g.column in ds.schema.names or g.phase != "staging"
        if g.phase == "removing" or not g.column or not there:
            continue
        if not any(c.column == g.column for c in columns):
            columns.append(_audited(ds, g, looks, n, seed, progress))
    return Audit(table.name, ds.version, tuple(columns), _advice(table.name, columns))


class _Models:
    """The models of a table's generations, and others that may have written into it."""

    def __init__(
        self,
        table: Table,
        state: TableState,
        store: str | None,
        device: str | None,
        base_model: str | None,
        more: Sequence[str],
    ) -> None:
        self.table, self._state, self._more = table, state, more
        self._store, self._device, self._base = store, device, base_model

    def of(self, generation: Generation) -> Embeds:
        return model_of(
            self.table,
            generation,
            store=self._store,
            device=self._device,
            base_model=self._base,
        )

    def others(self, generation: Generation) -> Iterator[tuple[str, Embeds]]:
        """Yield the other known models that can be had here."""
        raw = replace(generation, function=None)
        for g in self._state.generations:
            if g.column != generation.column and g.model is not None:
                try:
                    yield g.model, self.of(g)
                except LancedbFtError:
                    continue
        for reference in self._more:
            found = model_of(
                self.table,
                replace(raw, dims=raw.dims),
                store=self._store,
                device=self._device,
                base_model=reference,
            )
            yield reference, found


def _audited(
    ds: lance.LanceDataset,
    g: Generation,
    looks: _Models,
    n: int | Literal["all"] | None,
    seed: int,
    progress: Progress | None,
) -> ColumnAudit:
    found = ColumnAudit(g.column, g.number, g.phase, g.model, "unknown", n_rows=ds.count_rows())
    if g.column not in ds.schema.names:
        return replace(found, note="the table has no such column any more")
    try:
        text = text_column_of(ds.schema, g.source_column, table=looks.table.name)
        g = replace(g, source_column=text)
        model = looks.of(g)
    except LancedbFtError as error:
        return replace(found, note=str(error))
    rows = _rows(ds, g)
    chosen = _chosen(rows, n, seed)
    compared = list(_compared(ds, g, model, rows, chosen, progress))
    if len(compared) < len(chosen) < len(rows.ids):  # rows without text or vector were drawn too
        rows = _with_vectors(ds, g)
        chosen = _chosen(rows, n, seed)
        compared = list(_compared(ds, g, model, rows, chosen, progress))
    if not compared and rows.n_there:
        note = "every vector is of an earlier text, so nothing could be compared: lancedb-ft sweep"
        return replace(found, n_stale=rows.n_stale, note=note)
    n_rows = len(rows.ids) if len(chosen) < len(rows.ids) else len(compared)
    foreign = tuple(row for row in compared if row.cosine is None or row.cosine < MIN_COSINE)
    n_drawn = max(0, len(compared) - len(rows.overwritten))
    listed = _attributed(ds, g, looks, foreign[:_LISTED])
    return replace(
        found,
        verdict="mixed" if foreign else "one model",
        n_checked=len(compared),
        n_foreign=len(foreign),
        n_stale=rows.n_stale,
        min_cosine=min((row.cosine for row in compared if row.cosine is not None), default=None),
        detection=round(detection(n_rows, n_drawn), 6),
        fragments=_counts(row.fragment for row in foreign),
        made_by=_counts(row.made_by or "unknown" for row in listed),
        rows=listed,
        note="" if has_marks(ds, g) else "no marks: a stale vector looks like a foreign one",
    )


def _counts(values: Iterator[Any]) -> dict[Any, int]:
    counted: dict[Any, int] = {}
    for value in values:
        counted[value] = counted.get(value, 0) + 1
    return counted


@dataclass(frozen=True)
class _Rows:
    """Rows whose vectors can be compared; ``overwritten`` are places of marks that do not fit.

    ``n_there`` counts, where marks tell, all rows with a text and a vector: stale ones too.
    """

    ids: _Ids
    overwritten: npt.NDArray[np.int64]
    n_stale: int | None
    n_there: int = 0


def _rows(ds: lance.LanceDataset, g: Generation) -> _Rows:
    """Return the rows with a text and its vector, where marks tell; otherwise all rows."""
    if not has_marks(ds, g):
        rows = ds.scanner(columns=[], with_row_id=True).to_table()
        return _Rows(rows["_rowid"].to_numpy(), np.zeros(0, np.int64), None)
    columns = Columns.of(g)
    ids: list[_Ids] = []
    overwritten: list[npt.NDArray[np.bool_]] = []
    n_stale = n_there = 0
    for batch in ds.scanner(
        columns=columns.names, with_row_id=True, batch_size=WINDOW_ROWS, **STREAMED
    ).to_batches():
        hashes = text_hashes(batch[columns.text])
        wrong = columns.wrong(batch)
        blank = hash_values(hashes)[1]
        there = np.asarray(batch[columns.vector].is_valid())
        # A row that was appended has a vector and no mark: it is compared too.
        its_text = same_text(batch[columns.hash], hashes).fill_null(True)
        good = ~blank & there & np.asarray(its_text)
        n_stale += int((wrong & ~good).sum())
        n_there += int((~blank & there).sum())
        ids.append(batch["_rowid"].to_numpy()[good])
        overwritten.append((wrong & np.asarray(batch[columns.hash].is_valid()))[good])
    all_ids = np.concatenate(ids) if ids else np.zeros(0, np.uint64)
    flags = np.concatenate(overwritten) if overwritten else np.zeros(0, bool)
    return _Rows(all_ids, np.flatnonzero(flags), n_stale, n_there)


def _with_vectors(ds: lance.LanceDataset, g: Generation) -> _Rows:
    """Return the rows with a text and a vector, where no marks tell: all vectors are read."""
    text, where = str(g.source_column), f"`{g.column}` IS NOT NULL"
    ids = [np.zeros(0, np.uint64)]
    scanner = ds.scanner(columns=[text], filter=where, with_row_id=True, **STREAMED)
    for batch in scanner.to_batches():
        ids.append(batch["_rowid"].to_numpy()[np.asarray(text_hashes(batch[text]).is_valid())])
    return _Rows(np.concatenate(ids), np.zeros(0, np.int64), None)


def _chosen(rows: _Rows, n: int | Literal["all"] | None, seed: int) -> npt.NDArray[np.int64]:
    """Draw as many places as are asked for; those of marks that do not fit are always chosen."""
    n_rows = len(rows.ids)
    wanted = audit_size(n_rows) if n is None else n_rows if n == "all" else min(n, n_rows)
    return np.union1d(_drawn(n_rows, wanted, seed), rows.overwritten)


def _drawn(n_rows: int, n: int, seed: int) -> npt.NDArray[np.int64]:
    """Draw one place from each of ``n`` equal parts."""
    edges = np.linspace(0, n_rows, n + 1).astype(np.int64)
    if not n:
        return edges[:0]
    widths = np.maximum(1, np.diff(edges))
    drawn = edges[:-1] + np.random.default_rng(seed).integers(0, widths)
    return np.asarray(drawn, dtype=np.int64)


def _compared(
    ds: lance.LanceDataset,
    g: Generation,
    model: Embeds,
    rows: _Rows,
    chosen: npt.NDArray[np.int64],
    progress: Progress | None,
) -> Iterator[ForeignRow]:
    """Yield each chosen row with the cosine of its vector to that made again."""
    ids = rows.ids[chosen]
    for start in range(0, len(ids), _WINDOW):
        batch = _read(ds, g, ids[start : start + _WINDOW])
        made = model.encode(batch[str(g.source_column)], kind="document")
        same = cosines(matrix_of(batch[g.column], g.dims), matrix_of(made, g.dims))
        there = np.asarray(made.is_valid()) & np.asarray(batch[g.column].is_valid())
        names = (batch["_rowid"].to_pylist(), batch["_rowaddr"].to_pylist())
        for row_id, address, cosine, ok in zip(*names, same.tolist(), there, strict=True):
            if ok:
                told = None if math.isnan(cosine) else round(cosine, 6)
                yield ForeignRow(row_id, address, address >> 32, told)
        if progress is not None:
            progress(min(start + _WINDOW, len(ids)), len(ids))


def _read(ds: lance.LanceDataset, g: Generation, ids: Any) -> pa.RecordBatch:
    rows = ds.scanner(
        columns=[str(g.source_column), g.column],
        filter=f"_rowid IN ({','.join(str(int(n)) for n in ids)})",
        with_row_id=True,
        with_row_address=True,
    ).to_table()
    return rows.combine_chunks().to_batches()[0]


def _attributed(
    ds: lance.LanceDataset, g: Generation, looks: _Models, foreign: tuple[ForeignRow, ...]
) -> tuple[ForeignRow, ...]:
    """Say of each foreign row which known model makes its vector."""
    if not foreign:
        return ()
    batch = _read(ds, g, [row.id for row in foreign])
    stored = matrix_of(batch[g.column], g.dims)
    made_by: dict[int, str] = {}
    for name, model in looks.others(g):
        made = model.encode(batch[str(g.source_column)], kind="document")
        if made.type.list_size < g.dims:
            continue
        cut = matrix_of(made, made.type.list_size)[:, : g.dims]
        for row_id, cosine in zip(
            batch["_rowid"].to_pylist(), cosines(stored, cut).tolist(), strict=True
        ):
            if cosine >= MIN_COSINE:
                made_by.setdefault(row_id, name)
    return tuple(replace(row, made_by=made_by.get(row.id)) for row in foreign)


def _advice(table: str, columns: list[ColumnAudit]) -> str:
    if not columns:
        return f"Table {table} has no vector column: there is nothing to verify."
    mixed = [c for c in columns if c.verdict == "mixed"]
    unknown = [c for c in columns if c.verdict == "unknown"]
    if mixed:
        fragments = sorted({n for c in mixed for n in c.fragments})
        few = (
            [f"--re-encode {n}" for n in fragments] if len(fragments) <= 20 else ["--re-encode all"]
        )
        or_stale = " or earlier texts" if any(c.n_stale is None for c in mixed) else ""
        return (
            f"Vectors of other models{or_stale} stand in fragments {fragments[:20]}. Find the "
            f"writer first; then mend: lancedb-ft sweep --table {table} {' '.join(few)}. Then "
            "verify again."
        )
    if unknown:
        return f"Not all could be checked: {'; '.join(f'{c.column}: {c.note}' for c in unknown)}"
    stale = sum(c.n_stale or 0 for c in columns)
    if stale:
        return f"One model a column. {stale} vectors are of earlier texts: lancedb-ft sweep."
    return "One model a column; nothing to do."
