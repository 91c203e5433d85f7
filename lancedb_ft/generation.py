"""Which vector columns a table has, of which model, shown or parked.

A *generation* is one vector column together with the one model that filled it. Exactly one is
*shown*: plain LanceDB infers it. Others are *parked*: typed ``arrow.fixed_shape_tensor``, so that
LanceDB's inference passes them by while they are filled, indexed and searched by name. The pairing
of a column with its model never changes, which is what makes a switch safe: whoever holds a column
name and its model gets right answers before and after.

The state lives in the table's schema metadata, so it travels with the table and changes in the
same commit as the columns. This module reads it; ``reindex`` writes it.

Models that differ in their query adapter alone make the same vectors of documents. Their
generations share one column, and a switch between them is a commit of metadata: whoever still
queries with the model of before searches the right documents, by the adapter of before.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

import pyarrow as pa

from lancedb_ft.errors import InputError, ReindexStateError
from lancedb_ft.table import embedding_entries, vector_columns

__all__ = [
    "STATE_KEY",
    "Generation",
    "TableState",
    "parked_metadata",
    "read_state",
]

#: The schema metadata key that holds the state, a JSON object.
STATE_KEY = "lancedb_ft"
_FORMAT = 1
_EXTENSION = "arrow.fixed_shape_tensor"

Phase = Literal["staging", "ready", "active", "previous", "removing"]


@dataclass(frozen=True)
class Generation:
    """One vector column and the model that filled it.

    Parameters
    ----------
    number
        1 for what the table had before its first re-index, then 2, 3, ...
    column
        Name of the vector column; empty when the table had none.
    dims
        Length of the vectors.
    phase
        ``staging`` (being filled), ``ready`` (filled, indexed and verified, never shown),
        ``active`` (the shown one), ``previous`` (was shown, kept for rollback) or ``removing``
        (its columns are being dropped).
    source_column
        The text column the vectors are made from.
    function
        LanceDB's entry for it (``name``, ``model``, ``source_column``, ``vector_column``), or
        None for raw vectors that no function is known for.
    hash_column
        Column with a hash of the text each vector was made from, or None.
    details
        Figures kept for the lineage: precision, rows, index, gate report, times.
    """

    number: int
    column: str
    dims: int
    phase: Phase
    source_column: str | None = None
    function: Mapping[str, Any] | None = None
    hash_column: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def model(self) -> str | None:
        """The reference of the model, such as ``support@3``, when a function names one."""
        if self.function is None:
            return None
        arguments = self.function.get("model", {})
        name = arguments.get("name")
        return str(name) if name is not None else str(self.function["name"])

    @property
    def fingerprint(self) -> str | None:
        """The fingerprint of the model, when it is one of ours."""
        if self.function is None:
            return None
        found = self.function.get("model", {}).get("fingerprint")
        return str(found) if found else None

    @property
    def document_fingerprint(self) -> str | None:
        """The fingerprint of what made the vectors, where it was written down."""
        found = self.details.get("document_fingerprint")
        return str(found) if found else None

    @property
    def query_only(self) -> bool:
        """Whether its column is that of an earlier generation, and only its queries are new."""
        return bool(self.details.get("query_only", False))

    @property
    def rolled_back(self) -> bool:
        """Whether it is ready because a rollback hid it, and not because it waits to be shown."""
        was_shown = "switch_at" in self.details or "rollback_at" in self.details
        return self.phase == "ready" and was_shown

    def with_(self, **changes: Any) -> Generation:
        """Return a copy with some fields changed; ``details`` are merged."""
        if "details" in changes:
            changes["details"] = {**self.details, **changes["details"]}
        return replace(self, **changes)


@dataclass(frozen=True)
class TableState:
    """All generations of a table and what happened to them."""

    generations: tuple[Generation, ...]
    history: tuple[Mapping[str, Any], ...] = ()

    @property
    def active(self) -> Generation | None:
        """The generation that plain LanceDB searches; None for a table without vectors."""
        return next((g for g in self.generations if g.phase == "active" and g.column), None)

    @property
    def coming(self) -> Generation | None:
        """The generation that is being filled, or is filled and waits for its switch.

        One that a rollback hid is meant only where no other one is on its way.
        """
        return min(self.waiting, key=lambda g: (g.rolled_back, g.number), default=None)

    @property
    def waiting(self) -> tuple[Generation, ...]:
        """All that are being filled or are ready, those too that a rollback hid."""
        return tuple(g for g in self.generations if g.phase in ("staging", "ready"))

    @property
    def previous(self) -> Generation | None:
        """The generation shown before the active one, if `finish` has not removed it.

        One without a column, as a table without vectors begins, is nothing to go back to.
        """
        switches = {
            int(event.get("generation", 0)): place
            for place, event in enumerate(self.history)
            if event.get("event") == "switch"
        }

        def when(g: Generation) -> tuple[int, int]:
            return switches.get(g.number, -1), g.number

        before = [
            g
            for g in self.generations
            if g.phase == "previous"
            and g.column
            and (self.active is None or when(g) < when(self.active))
        ]
        return max(before, key=when, default=None)

    def of_column(self, column: str) -> Generation | None:
        """Return whose model embeds queries for a column: of several, the one shown now or last."""
        found = [g for g in self.generations if g.column == column]
        rank = {"active": 2, "previous": 1}
        return max(found, key=lambda g: (rank.get(g.phase, 0), g.number), default=None)

    @property
    def next_number(self) -> int:
        """A generation number that this table never used."""
        used = [g.number for g in self.generations]
        used += [int(event.get("generation", 0)) for event in self.history]
        return max(used, default=0) + 1

    def of(self, number: int) -> Generation:
        """Return the generation of that number."""
        for generation in self.generations:
            if generation.number == number:
                return generation
        have = [g.number for g in self.generations]
        raise InputError(f"There is no generation {number}; the table has {have}.")

    def put(self, *changed: Generation) -> TableState:
        """Return the state with these generations replaced or added, by number."""
        by_number = {g.number: g for g in (*self.generations, *changed)}
        return replace(self, generations=tuple(by_number[n] for n in sorted(by_number)))

    def drop(self, number: int) -> TableState:
        """Return the state without that generation."""
        kept = tuple(g for g in self.generations if g.number != number)
        return replace(self, generations=kept)

    def record(self, **event: Any) -> TableState:
        """Return the state with one more line of history (the last 50 are kept)."""
        return replace(self, history=(*self.history, event)[-50:])

    def to_json(self) -> str:
        """Serialize for the schema metadata."""
        return json.dumps(
            {
                "format": _FORMAT,
                "generations": [asdict(g) for g in self.generations],
                "history": [dict(event) for event in self.history],
            },
            separators=(",", ":"),
        )


def read_state(schema: pa.Schema, *, table: str, vector_column: str | None = None) -> TableState:
    """Read the state of a table from its schema.

    A table that lancedb-ft never touched has no state of ours: its one vector column is
    generation 1, with the function LanceDB has for it, if any.

    Parameters
    ----------
    schema
        The Arrow schema of the table, with metadata.
    table
        Its name, for errors.
    vector_column
        Which vector column is meant, for an untouched table that has several. Afterwards it must
        be the column of one of the generations.

    Raises
    ------
    InputError
        The table has several vector columns and none was named, or another than it keeps was.
    ReindexStateError
        The state was written by a newer lancedb-ft.
    """
    raw = (schema.metadata or {}).get(STATE_KEY.encode())
    if raw is None:
        return TableState((_first_generation(schema, table, vector_column),))
    state = _parsed(raw, table)
    kept = sorted({g.column for g in state.generations if g.column})
    if vector_column is not None and vector_column not in kept:
        raise InputError(
            f"{vector_column!r} is not a column that lancedb-ft made or replaced in table "
            f"{table!r}; those are {kept}. Of one table it re-indexes one vector column: leave "
            "vector_column= out, or move the other vectors to a table of their own."
        )
    return state


def _parsed(raw: bytes, table: str) -> TableState:
    try:
        document = json.loads(raw)
        if document["format"] == _FORMAT:
            return TableState(
                tuple(Generation(**g) for g in document["generations"]),
                tuple(document.get("history", ())),
            )
        found = f"has format {document['format']}"
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        found = f"cannot be read ({type(error).__name__}: {str(error)[:100]})"
    raise ReindexStateError(
        f"The state of table {table!r}, in the metadata {STATE_KEY!r} of its schema, {found}, and "
        f"this version of lancedb-ft reads format {_FORMAT}. Use the newer version that wrote it, "
        "or restore a version of the table from before it was written.",
        table=table,
        state="unreadable",
    )


def _first_generation(schema: pa.Schema, table: str, vector_column: str | None) -> Generation:
    columns = vector_columns(schema)
    entries = {entry["vector_column"]: entry for entry in embedding_entries(schema)}
    if vector_column is not None:
        if vector_column not in columns:
            raise InputError(
                f"{vector_column!r} is not a vector column of table {table!r}; "
                f"its vector columns are {sorted(columns)}."
            )
        column = vector_column
    elif len(columns) > 1:
        raise InputError(
            f"Table {table!r} has several vector columns: {sorted(columns)}. "
            "Name the one that is meant with vector_column=."
        )
    else:
        column = next(iter(columns), "")
    entry = entries.get(column)
    return Generation(
        number=1,
        column=column,
        dims=columns.get(column, 0),
        phase="active",
        source_column=entry["source_column"] if entry else None,
        function=entry,
    )


def parked_metadata(dims: int) -> dict[str, str]:
    """Return the field metadata that parks a vector column.

    Byte for byte what pyarrow itself serializes; with a space after the colon, appends fail with
    "field does not match the file schema".
    """
    return {
        "ARROW:extension:name": _EXTENSION,
        "ARROW:extension:metadata": f'{{"shape":[{dims}]}}',
    }
