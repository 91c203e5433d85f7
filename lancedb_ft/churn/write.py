"""Write: put rows into a table by their ids; embed what changed now, or when it has settled.

One commit takes the old rows out and puts the new ones in, so a reader sees either. (Very many rows
are written in several.) A row whose
text is the one its vector was made from keeps the vector: the mark beside it, a hash of the text,
says so. One whose text changed is found by full text as soon as the call returns.

Each row that changes gets a new row id, also in tables with stable row ids. LanceDB's own `update`
and `merge_insert` keep the id there, and the full-text index of pylance 14.0 then goes on finding
the row by words of its earlier text, from the first `optimize` on until the index is built anew.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.churn.rows import changed, filled_up, given_rows, literals
from lancedb_ft.churn.turn import turn
from lancedb_ft.churn.vectors import (
    Remembering,
    deferred_vectors,
    has_text,
    in_one_batch,
    made_of_text,
    replaced,
    valid,
    vectors_owed,
    with_vectors,
    wrong_vectors,
)
from lancedb_ft.errors import InputError
from lancedb_ft.generation import Generation, read_state
from lancedb_ft.reindex.checks.models_of import model_of
from lancedb_ft.reindex.commits import retrying
from lancedb_ft.reindex.filling.moved_rows import movable
from lancedb_ft.reindex.sweeping.mend import Mender
from lancedb_ft.reindex.sweeping.wrong_rows import has_marks
from lancedb_ft.table import dataset, id_column_of, require_table, storage_options

if TYPE_CHECKING:
    import lance
    from lancedb.table import Table

__all__ = ["Embed", "WriteReport", "write"]

Embed = Literal["defer", "now"]

#: Rows that are written in one commit: bounds memory.
_WINDOW = 8192


@dataclass(frozen=True)
class WriteReport:
    """What a write did, in rows.

    ``n_unchanged`` rows were as they are already, and were not written. ``n_encoded`` texts were
    embedded, ``n_deferred`` rows wait for it. After ``version`` every search finds the new texts.
    """

    table: str
    version: int = 0
    n_inserted: int = 0
    n_updated: int = 0
    n_unchanged: int = 0
    n_deleted: int = 0
    n_encoded: int = 0
    n_deferred: int = 0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON-ready values."""
        return asdict(self) | {"seconds": round(self.seconds, 3)}

    def __add__(self, other: WriteReport) -> WriteReport:
        """Return both as one."""
        sums = {
            name: getattr(self, name) + getattr(other, name)
            for name in self.__dataclass_fields__
            if name not in ("table", "version")
        }
        return WriteReport(self.table, max(self.version, other.version), **sums)


def write(
    table: Table,
    rows: Any,
    *,
    embed: Embed = "defer",
    delete: Sequence[Any] = (),
    id_column: str | None = None,
    vector_column: str | None = None,
    store: str | None = None,
    device: str | None = None,
) -> WriteReport:
    """Insert rows, or replace those with the same ids; an upsert.

    Parameters
    ----------
    table
        The table.
    rows
        A list of mappings, an Arrow table or batch, or a data frame; the key in each, no value
        twice. Columns that are left out stay as they are, and are null in new rows. Vectors that a
        model makes are left out always.
    embed
        ``defer``: texts that changed are not embedded now; they are found by full text at once, and
        `lancedb_ft.settle` embeds them when they have been quiet. Where the vectors have marks
        (after a re-index by lancedb-ft), a text that shares half of its words with the one before
        keeps that one's vector so long, where it is that one's. ``now``: they are embedded with the
        active model. Either way a text that did not change is not embedded again. Vectors of no
        known model are passed with the rows: a changed text without one is refused.
    delete
        Ids of rows to take out, in the same commit (the first, of several).
    id_column
        The key, by default ``id``, ``_id`` or ``doc_id``.
    vector_column
        Which is meant, in a table of several that lancedb-ft never touched.
    store, device
        Where our models are, and run.

    Raises
    ------
    InputError, ColumnNotFoundError
        The rows do not fit the table.
    ReindexConflictError
        Other writers committed first each time; nothing of that commit was written.
    StoreError
        The model is gone, or gives what is no vector (``now`` only).

    Notes
    -----
    More than 8,192 rows are written in several commits, one after the other, with ``delete`` in the
    first. Where a later one fails, the rows of those before it are written, whole; the same call
    again finds these unchanged and goes on.

    Two processes of one machine that insert the same new id take turns. Between machines, as with
    LanceDB's own `merge_insert`, both rows can come to stand in the table; the next write of that
    id makes them one again.

    Examples
    --------
    >>> write(docs, [{"id": "7", "text": "How to cancel"}], embed="defer")   # doctest: +SKIP
    """
    started = time.perf_counter()
    require_table(table)
    if embed not in get_args(Embed):
        raise InputError(f"embed is {embed!r}; it must be 'defer' or 'now'.")
    ds = dataset(table)
    key = id_column_of(ds.schema, id_column, table=table.name)
    if not movable(ds):
        raise InputError(f"Table {table.name!r} has blob columns, which cannot be written back.")
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    given = given_rows(rows, ds.schema, id_column=key, state=state, table=table.name)
    gone = _gone(delete, given, ds.schema.field(key))
    run = _Write(table, key, embed, vector_column, store, device)
    report = WriteReport(table.name, int(ds.version))
    for start in range(0, max(len(given), 1), _WINDOW):
        window = given.slice(start, _WINDOW)
        report = report + run(window, gone if not start else gone[:0])
    return report + WriteReport(table.name, seconds=time.perf_counter() - started)


def _gone(delete: Sequence[Any], given: pa.Table, key: pa.Field) -> pa.Array:
    if isinstance(delete, (str, bytes)):
        raise InputError(f"delete is the text {delete!r}; it must be a list of ids.")
    try:
        ids = pa.array(list(delete), key.type)
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise InputError(f"delete must be a list of ids ({key.type}): {error}") from error
    if ids.null_count:
        raise InputError("delete has null among its ids.")
    both = pc.is_in(ids, value_set=given[key.name].combine_chunks())
    if pc.any(both).as_py():
        raise InputError(f"To be written and deleted: {ids.filter(both)[:5].to_pylist()}.")
    return ids


@dataclass(frozen=True)
class _Plan:
    """One commit: rows to put in, row ids to take out by fragment, and what to tell."""

    rows: pa.Table
    old_ids: list[int]
    fragments: list[int]
    report: WriteReport


class _Write:
    def __init__(
        self,
        table: Table,
        key: str,
        embed: Embed,
        vector_column: str | None,
        store: str | None,
        device: str | None,
    ) -> None:
        self._table, self._key, self._embed = table, key, embed
        self._vector_column, self._store, self._device = vector_column, store, device
        self._models: dict[int, Remembering] = {}

    def __call__(self, given: pa.Table, gone: pa.Array) -> WriteReport:
        """Write some rows in one commit."""
        if self._embed == "now":
            self._plan(dataset(self._table), given, gone)  # embeds, while nobody has to wait

        def attempt() -> WriteReport:
            ds = dataset(self._table)
            plan = self._plan(ds, given, gone)
            version = _commit(self._table, ds, plan)
            return WriteReport(**{**plan.report.__dict__, "version": version})

        with turn(self._table):
            report = retrying(attempt, what="write the rows")
        encoded = sum(model.n_encoded for model in self._models.values())
        self._models.clear()
        return WriteReport(**{**report.__dict__, "n_encoded": encoded})

    def _plan(self, ds: lance.LanceDataset, given: pa.Table, gone: pa.Array) -> _Plan:
        there = self._there(ds, given, gone)
        whole, places = filled_up(given, there, ds.schema, id_column=self._key)
        differs = changed(whole, there, places, given.column_names).to_numpy(zero_copy_only=False)
        differs = differs | _stands_twice(whole[self._key], there[self._key])
        deferred = np.zeros(len(whole), dtype=bool)
        state = read_state(ds.schema, table=self._table.name, vector_column=self._vector_column)
        active = state.active
        for g in {g.column: g for g in state.generations}.values():
            shown = active is not None and g.column == active.column
            if not made_of_text(ds, g):
                if shown:
                    deferred |= self._owed(g, given, whole, there, places)
                continue
            wrong = wrong_vectors(ds, g, whole, there, places)
            if not wrong.any():
                continue
            if self._embed == "now" and shown:
                whole = self._embedded(ds, active or g, whole, wrong)
                differs |= wrong
            else:
                whole = deferred_vectors(ds, g, whole, there, places, wrong)
                deferred |= wrong & shown & has_text(whole, g)
        return self._told(ds, whole, there, places, differs, deferred, gone)

    def _owed(
        self,
        g: Generation,
        given: pa.Table,
        whole: pa.Table,
        there: pa.Table,
        places: pa.Array,
    ) -> npt.NDArray[np.bool_]:
        """Return which rows wait for a vector that only the caller can bring."""
        stale, missing = vectors_owed(g, given, whole, there, places, key=self._key)
        wanted = stale | missing if self._embed == "now" else stale
        if wanted.any():
            ids = whole[self._key].filter(pa.array(wanted))[:5].to_pylist()
            raise InputError(
                f"Nothing says which model made column {g.column!r} of table "
                f"{self._table.name!r}, so no text can be embedded, and {int(wanted.sum())} rows "
                f"need another vector: {ids}. Pass {g.column!r} with the rows (with embed='defer', "
                "null where there is no vector yet), or re-index the table with a model first."
            )
        return missing

    def _there(self, ds: lance.LanceDataset, given: pa.Table, gone: pa.Array) -> pa.Table:
        named = [*literals(given[self._key]), *literals(gone)]
        one_of = f"`{self._key}` IN ({','.join(named)})" if named else "false"
        return ds.scanner(filter=one_of, with_row_id=True, with_row_address=True).to_table()

    def _embedded(
        self, ds: lance.LanceDataset, g: Generation, whole: pa.Table, wrong: npt.NDArray[np.bool_]
    ) -> pa.Table:
        if g.number not in self._models:
            model = model_of(self._table, g, store=self._store, device=self._device)
            self._models[g.number] = Remembering(model)
        marked = has_marks(ds, g)
        if not marked:
            whole = with_vectors(whole, g, ~wrong & valid(whole[g.column]))
        mended = Mender(g, self._models[g.number], marked)(in_one_batch(whole), None)
        return replaced(whole, mended.columns)

    def _told(
        self,
        ds: lance.LanceDataset,
        whole: pa.Table,
        there: pa.Table,
        places: pa.Array,
        differs: npt.NDArray[np.bool_],
        deferred: npt.NDArray[np.bool_],
        gone: pa.Array,
    ) -> _Plan:
        new = places.is_null().to_numpy(zero_copy_only=False)
        rows = whole.filter(pa.array(differs))
        leaving = pa.concat_arrays([rows[self._key].combine_chunks().cast(gone.type), gone])
        old = there.filter(pc.is_in(there[self._key], value_set=leaving))
        removed = pc.count_distinct(old[self._key].filter(pc.is_in(old[self._key], value_set=gone)))
        report = WriteReport(
            self._table.name,
            int(ds.version),
            n_inserted=int(new.sum()),
            n_updated=int((differs & ~new).sum()),
            n_unchanged=int((~differs).sum()),
            n_deleted=removed.as_py(),
            n_deferred=int((deferred & differs).sum()),
        )
        fragments = sorted({address >> 32 for address in old["_rowaddr"].to_pylist()})
        return _Plan(rows, old["_rowid"].to_pylist(), fragments, report)


def _stands_twice(ids: pa.ChunkedArray, there: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Say which ids the table has more than once: all rows but one have to go."""
    counts = pc.value_counts(there)
    twice = counts.field("values").filter(pc.greater(counts.field("counts"), 1))
    found: npt.NDArray[np.bool_] = pc.is_in(ids, value_set=twice).to_numpy(zero_copy_only=False)
    return found


def _commit(table: Table, ds: lance.LanceDataset, plan: _Plan) -> int:
    """Take the old rows out and put the new ones in; no retries. Returns the version."""
    import lance
    from lance import LanceOperation
    from lance.fragment import write_fragments

    if not plan.old_ids and not plan.rows.num_rows:
        return int(ds.version)
    new: list[Any] = []
    if plan.rows.num_rows:
        new = list(
            write_fragments(
                plan.rows,
                ds,
                schema=ds.schema,
                mode="append",
                data_storage_version=ds.data_storage_version,
                storage_options=storage_options(table),
            )
        )
    if not plan.old_ids:
        done = lance.LanceDataset.commit(ds, LanceOperation.Append(new), read_version=ds.version)
        return int(done.version)
    one_of = f"_rowid IN ({','.join(map(str, plan.old_ids))})"
    kept = [ds.get_fragment(number).delete(one_of) for number in plan.fragments]
    pairs = list(zip(plan.fragments, kept, strict=True))
    operation = LanceOperation.Update(
        removed_fragment_ids=[number for number, left in pairs if left is None],
        updated_fragments=[left for left in kept if left is not None],
        new_fragments=new,
        fields_modified=[],
        # Despite its name: the fields that changed. Without it the new rows would count as
        # indexed in tables with stable row ids, and be found by nothing.
        fields_for_preserving_frag_bitmap=[f.id() for f in ds.lance_schema.fields()],
        update_mode="rewrite_rows",
    )
    done = lance.LanceDataset.commit(ds, operation, read_version=ds.version, max_retries=0)
    return int(done.version)
