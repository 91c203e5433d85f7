"""What decides whether new vectors are shown: a gate, or the user's word."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from lancedb_ft.embedding import store_for
from lancedb_ft.errors import InputError
from lancedb_ft.reindex.gates.gate import GateReport, check_gate, prepared_gate
from lancedb_ft.types import Gate

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.generation import Generation
    from lancedb_ft.types import Evaluation

__all__ = ["Approval", "require_gate"]


@dataclass(frozen=True)
class Approval:
    """A gate with what it needs to be asked, or the user's ``force``.

    Parameters are those of `lancedb_ft.reindex.job.reindex`.
    """

    gate: Gate | None = None
    force: bool = False
    id_column: str | None = None
    base: Evaluation | None = None
    base_model: str | None = None
    store: str | None = None

    def __post_init__(self) -> None:
        """Refuse what is no gate before any work."""
        require_gate(self.gate)

    @property
    def asked_for(self) -> bool:
        """Whether there is anything that could say yes."""
        return self.gate is not None or self.force

    def prepared(
        self, table: Table, old: Generation | None, *, text_column: str | None
    ) -> Approval:
        """Find out before hours of work what the gate would stumble over after them."""
        if self.gate is None:
            return self
        gate = prepared_gate(
            table,
            self.gate,
            old=_with_text(old, text_column),
            text_column=text_column,
            id_column=self.id_column,
            base=self.base,
            base_model=self.base_model,
            store=self._store(table, old),
        )
        return replace(self, gate=gate)

    def verdict(
        self, table: Table, *, new: Generation, old: Generation | None, encoder: Encoder
    ) -> GateReport | None:
        """Measure what the gate asks; None without one."""
        if self.gate is None:
            return None
        table.checkout_latest()
        return check_gate(
            table,
            self.gate,
            new=new,
            old=_with_text(old, new.source_column),
            encoder=encoder,
            id_column=self.id_column,
            base=self.base,
            base_model=self.base_model,
            store=self._store(table, old),
        )

    def _store(self, table: Table, old: Generation | None) -> str:
        return store_for(table, self.store, beside=old.function if old is not None else None)


def require_gate(gate: Gate | None) -> None:
    """Refuse what is no gate.

    Raises
    ------
    InputError
        It is something else, such as a requirement without the queries to measure it with.
    """
    if gate is not None and not isinstance(gate, Gate):
        raise InputError(
            f"gate is {gate!r:.80}; it must be a Gate with the queries that measure it: "
            "Gate(split.test, require='ndcg@10 >= base')."
        )


def _with_text(generation: Generation | None, text_column: str | None) -> Generation | None:
    """Say which text the vectors of a column are of, where the table does not."""
    if generation is None or generation.source_column is not None:
        return generation
    return generation.with_(source_column=text_column)
