"""A model whose documents' vectors the table has already: only its queries are new.

Two models with one document fingerprint (a base model and its query adapters) make the same
vectors of documents. Going from one to the other encodes nothing and writes no data: the new
generation has the column of the one before, and one commit of metadata replaces the function that
embeds queries. A column that LanceDB's own sentence-transformers function filled, or a raw one
whose model the caller names, is taken over in the same way, after a look at a sample of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from lancedb_ft.embedding import store_for
from lancedb_ft.errors import InputError, ReindexStateError, StoreError
from lancedb_ft.generation import Generation, TableState
from lancedb_ft.reindex.commits import Change, now, transition
from lancedb_ft.reindex.stage import refuse_another
from lancedb_ft.reindex.switch import show_prepared
from lancedb_ft.store import resolve_model

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.reindex.target import Target
    from lancedb_ft.store import ResolvedModel

__all__ = ["proposed", "record", "same_documents", "show_queries"]

#: LanceDB's own function for the same models, whose arguments name the model as we do.
_SENTENCE_TRANSFORMERS = "sentence-transformers"

_Prepared = tuple[TableState, int]


def same_documents(
    table: Table,
    state: TableState,
    model: ResolvedModel,
    *,
    text_column: str,
    dims: int | None = None,
    store: str | None = None,
    base_model: str | None = None,
) -> Generation | None:
    """Return the active generation if its vectors are those that ``model`` makes of documents.

    Parameters
    ----------
    table, state
        The table, and its state.
    model
        What is to be served next.
    text_column
        What its vectors are to be made from.
    dims
        Length that is asked for; None: whatever the table has.
    store
        Where the present model is looked up.
    base_model
        The model of a raw vector column.
    """
    active = state.active
    if active is None or active.source_column not in (None, text_column):
        return None
    if active.dims > model.dims or dims not in (None, active.dims):
        return None
    if active.fingerprint == model.fingerprint:
        # The very same model. A column we did not look at may lack vectors: it is made again.
        return active if active.query_only else None
    store = store_for(table, store, of=active.function)
    found = active.document_fingerprint or _looked_up(active, model, store, base_model)
    return active if found == model.document_fingerprint else None


def _looked_up(
    active: Generation, model: ResolvedModel, store: str, base_model: str | None
) -> str | None:
    """Return the document fingerprint of a generation that does not say it; None if unknown."""
    if active.fingerprint == model.document_fingerprint:
        return active.fingerprint
    reference = base_model
    if active.function is not None:
        ours = active.fingerprint is not None
        known = ours or active.function["name"] == _SENTENCE_TRANSFORMERS
        reference = active.model if known else None
    if reference is None:
        return None
    try:
        found = resolve_model(reference, store=store)
    except (StoreError, InputError):
        return None  # gone, or not to be had here: its documents are encoded again
    if active.fingerprint not in (None, found.fingerprint):
        return None
    return found.document_fingerprint


def proposed(state: TableState, served: Generation, target: Target) -> Generation:
    """Return the generation of the target on the column that serves now.

    That is the one which stands ready for it already, or a new one, which no commit holds yet.

    Raises
    ------
    ReindexStateError
        Another model is being staged.
    """
    begun = [g for g in state.waiting if g.query_only and g.fingerprint == target.fingerprint]
    # It serves the shown column alone: one that was rolled back may stand on another.
    begun = [g for g in begun if g.column == served.column]
    if begun:
        return begun[-1]
    coming = state.coming
    if coming is not None and not coming.rolled_back:
        refuse_another(target.table_name, coming)
    details = {
        "query_only": True,
        "document_fingerprint": target.model.document_fingerprint,
        "precision": served.details.get("precision", target.precision),
        "staged_at": now(),
    }
    return Generation(
        number=state.next_number,
        column=served.column,
        dims=served.dims,
        phase="ready",
        source_column=target.text_column,
        function=target.entry(served.column),
        hash_column=served.hash_column,
        details=details,
    )


def record(table: Table, served: Generation, target: Target) -> TableState:
    """Write down the generation as ready, in one commit; nothing that is served changes."""

    def decide(state: TableState, ds: Any) -> Change | None:
        prepared, number = _prepare(table, served, target)(state)
        if number in {g.number for g in state.generations}:
            return None
        return Change(prepared.record(event="ready", generation=number, at=now()))

    return transition(
        table, decide, what="record the new model", vector_column=target.vector_column
    )


def show_queries(
    table: Table, served: Generation, target: Target, details: Mapping[str, Any]
) -> TableState:
    """Embed queries with the target's model from now on, in one commit."""
    return show_prepared(
        table,
        _prepare(table, served, target),
        details=details,
        vector_column=target.vector_column,
    )


def _prepare(table: Table, served: Generation, target: Target) -> Callable[[TableState], _Prepared]:
    def prepare(state: TableState) -> _Prepared:
        active = state.active
        if active is None or (active.number, active.column) != (served.number, served.column):
            raise ReindexStateError(
                f"Table {table.name!r} was switched to another model meanwhile. "
                "Run the same command again.",
                table=table.name,
                state=f"generation {active.number}" if active else "no vectors",
            )
        new = proposed(state, active, target)
        known = {"document_fingerprint": target.model.document_fingerprint}
        return state.put(active.with_(details=known), new), new.number

    return prepare
