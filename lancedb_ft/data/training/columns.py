"""Which columns the rows of a file have, by the first of them; later ones may have others."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from lancedb_ft.arguments import is_number
from lancedb_ft.data.formats import Row
from lancedb_ft.data.training.formats import Wanted
from lancedb_ft.data.training.roles import Columns, find_roles
from lancedb_ft.data.training.rows import SPLIT_COLUMN
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import KINDS

__all__ = ["LOOKED_AT", "LateColumns", "columns_of_rows", "columns_of_schema", "looked_at"]

#: Rows that are looked at to find out which columns there are and what they hold.
LOOKED_AT = 100


def looked_at(rows: Iterator[Row]) -> tuple[list[Row], Iterator[Row]]:
    """Return the first rows, and all of them."""
    first = list(itertools.islice(rows, LOOKED_AT))
    return first, itertools.chain(first, rows)


def columns_of_rows(rows: Iterable[Row], *, lists_as_json: bool = False) -> Columns:
    """Find the columns by the first rows.

    With ``lists_as_json`` a text is a list where it is one of texts as JSON: CSV has no others.
    Elsewhere a text that begins with a bracket, such as "[1] Smith et al.", is a text.
    """
    names: dict[str, None] = {}
    values: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in (row.values or {}).items():
            names[name] = None
            if value is not None:
                values.setdefault(name, []).append(value)
    is_list = _is_json_list if lists_as_json else _is_list
    return Columns(
        list(names),
        lists={name for name, found in values.items() if _mostly(found, is_list)},
        numbers={name for name, found in values.items() if _mostly(found, _is_number)},
        values=values,
    )


def columns_of_schema(schema: pa.Schema, rows: Iterable[Row]) -> Columns:
    """Find the columns of Arrow data; their first rows tell what a label is."""
    types = pa.types
    return Columns(
        schema.names,
        lists={f.name for f in schema if types.is_list(f.type) or types.is_large_list(f.type)},
        numbers={f.name for f in schema if types.is_integer(f.type) or types.is_floating(f.type)},
        values=columns_of_rows(rows).values,
    )


@dataclass
class LateColumns:
    """Watches for columns that only later rows have, as objects of JSON may.

    What the data are was found without them, so the rows before would be something else with
    them: a grade of 0 or a part "test" must not be passed over for coming late.

    Parameters
    ----------
    columns
        Those of the first rows.
    wanted
        What the caller said.
    name
        The file, for errors.
    kind, roles
        What was found by the first rows.
    left_out
        Late columns that the kind can do without.
    """

    columns: Columns
    wanted: Wanted
    name: str
    kind: str
    roles: Mapping[str, str]
    left_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Remember the names, and those that are judged later."""
        self._known = set(self.columns.names)

    def check(self, row: Row) -> None:
        """Look at a row.

        Raises
        ------
        InputError
            It has a column that makes something else of the data.
        """
        if row.values is None or self._known.issuperset(row.values):
            return
        for column, value in row.values.items():
            if value is None or column in self._known:
                continue
            self._known.add(column)
            if column == SPLIT_COLUMN or self._changes(column, value):
                raise InputError(
                    f"{self.name} has a column {column!r} from line {row.line} on, and the rows "
                    f"before, by which it is found that these are {self.kind!r} data, have none. "
                    "Give it to every row (null where it has nothing to say), take it out, or make "
                    "two files of them."
                )

    def told(self) -> dict[str, Any]:
        """Return what the source records."""
        return {"late_columns": self.left_out} if self.left_out else {}

    def _changes(self, column: str, value: Any) -> bool:
        """Say whether with this column the data would be found to be something else."""
        found = columns_of_rows([Row(0, {column: value})])
        more = replace(
            self.columns,
            names=[*self.columns.names, column],
            lists={*self.columns.lists, *found.lists},
            numbers={*self.columns.numbers, *found.numbers},
            values={**self.columns.values, **found.values},
        )
        try:
            kind, roles = find_roles(more, self.wanted.kind, self.wanted.columns, source=self.name)
        except InputError:  # it is doubtful what they are
            return True
        new = {role for role, name in roles.items() if self.roles.get(role) != name}
        if kind == self.kind and new and new <= set(KINDS[kind].optional):
            self.left_out.append(column)
            return False
        return kind != self.kind or bool(new)


def _mostly(values: list[Any], holds: Callable[[Any], bool]) -> bool:
    return 2 * sum(map(holds, values)) > len(values)


def _is_list(value: Any) -> bool:
    return isinstance(value, list)


def _is_json_list(text: Any) -> bool:
    """Say whether a text is a list of texts as JSON."""
    try:
        found = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return False
    # A null is a mistake in a list, and found as such row by row.
    return isinstance(found, list) and all(isinstance(n, (str, type(None))) for n in found)


def _is_number(value: Any) -> bool:
    if isinstance(value, str):
        try:
            float(value)
        except ValueError:
            return False
        return True
    return is_number(value)
