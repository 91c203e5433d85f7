"""Rows as they were passed, checked, and put together with the rows that are there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.table import is_text

if TYPE_CHECKING:
    from lancedb_ft.generation import TableState

__all__ = ["changed", "filled_up", "given_rows", "literals"]

#: The least of Lance's whole numbers.
_LEAST = -(2**63)


def given_rows(
    rows: Any, schema: pa.Schema, *, id_column: str, state: TableState, table: str
) -> pa.Table:
    """Return what was passed as Arrow rows of the table's types, ids checked.

    Parameters
    ----------
    rows
        A pyarrow table, batch or reader, a pandas or polars frame, or mappings by column.
    schema
        That of the table.
    id_column
        The key: in each row, not null, no value twice.
    state
        Says which columns hold vectors that a model makes; these are not passed.
    table
        Its name, for errors.

    Raises
    ------
    InputError, ColumnNotFoundError
        The rows cannot be used.
    """
    found = _as_arrow(rows, schema)
    twice = sorted({str(n) for n in found.column_names if found.column_names.count(n) > 1})
    if twice:
        raise InputError(f"The rows have several columns of the same name: {twice}.")
    if not found.num_rows:
        return schema.empty_table().select([id_column])
    made = {
        name: g.model
        for g in state.generations
        if g.function is not None or g.hash_column is not None
        for name in (g.column, g.hash_column)
        if name
    }
    for name in found.column_names:
        if name not in schema.names:
            raise ColumnNotFoundError(name, table=table, available=schema.names)
        if name in made:
            raise InputError(
                f"Column {name!r} of table {table!r} is made by the model {made[name]}: leave it "
                "out of the rows."
            )
    if id_column not in found.column_names:
        raise ColumnNotFoundError(
            id_column, table="the rows", available=found.column_names, expected="the key"
        )
    found = _of_type(found, schema)
    _check_ids(found[id_column], id_column)
    return found


def _as_arrow(rows: Any, schema: pa.Schema) -> pa.Table:
    """Return what was passed as a table, of whatever types it has."""
    if isinstance(rows, pa.RecordBatch):
        return pa.Table.from_batches([rows])
    if isinstance(rows, pa.Table):
        return rows
    if isinstance(rows, (Mapping, str, bytes)) or not _is_iterable(rows):
        raise InputError(f"rows is a {type(rows).__name__}; pass a list of rows, or a table.")
    try:
        if hasattr(rows, "read_all"):
            return pa.table(rows.read_all())
        if hasattr(rows, "to_arrow"):
            return pa.table(rows.to_arrow())
        if type(rows).__name__ == "DataFrame":
            return pa.Table.from_pandas(rows, preserve_index=False)
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"The rows are no table: {error}") from error
    return _from_mappings(rows, schema)


def _is_iterable(rows: Any) -> bool:
    return hasattr(rows, "__iter__") or hasattr(rows, "to_arrow") or hasattr(rows, "read_all")


def _from_mappings(rows: Iterable[Any], schema: pa.Schema) -> pa.Table:
    listed = list(rows)
    names: dict[str, None] = {}
    for row in listed:
        if not isinstance(row, Mapping):
            raise InputError(f"A row is a {type(row).__name__}; each must be a mapping by column.")
        names.update(dict.fromkeys(row))
    missing = {name for row in listed for name in names if name not in row}
    if missing:
        raise InputError(
            f"Some rows have no {sorted(missing)}: give all rows the same columns. What is left "
            "out of all of them stays as it is."
        )
    columns = {}
    for name in names:
        kind = schema.field(name).type if name in schema.names else None
        storage = getattr(kind, "storage_type", kind)
        try:
            columns[str(name)] = pa.array([row[name] for row in listed], storage)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise InputError(f"Column {name!r} cannot hold these values: {error}") from error
    return pa.table(columns)


def _of_type(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    arrays = []
    for name in rows.column_names:
        wanted = schema.field(name)
        storage = getattr(wanted.type, "storage_type", wanted.type)
        found = rows[name].type
        try:
            # Arrow would write numbers out as text, which nobody means: 1.0 is not the id "1".
            if _of_text(found) != _of_text(storage) and not pa.types.is_null(found):
                raise TypeError("text is not made of other values, nor they of text")
            values = rows[name].combine_chunks().cast(storage)
        except (pa.ArrowException, TypeError) as error:
            raise InputError(
                f"Column {name!r} holds {found} and must be {wanted.type}: {error}"
            ) from error
        if values.null_count and not wanted.nullable:
            raise InputError(
                f"Column {name!r} may not be null, and is in {values.null_count} rows."
            )
        if isinstance(wanted.type, pa.BaseExtensionType):
            values = wanted.type.wrap_array(values)
        if is_text(storage):
            _check_unicode(values, name)
        if pa.types.is_fixed_size_list(storage):
            _check_finite(values, name)
        arrays.append(values)
    return pa.table(arrays, names=rows.column_names)


def _of_text(kind: pa.DataType) -> bool:
    """Say whether values of the type are text; those of a data frame can be categories or views."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return is_text(kind) or bool(pa.types.is_string_view(kind))


def _check_finite(values: pa.Array, name: str) -> None:
    """Refuse vectors that no search can find."""
    numbers = getattr(values, "storage", values).flatten()
    if not pa.types.is_floating(numbers.type):
        return
    finite = pc.fill_null(pc.is_finite(numbers), False)
    if not pc.all(finite, min_count=0).as_py():
        raise InputError(
            f"Column {name!r} holds vectors with NaN, infinite or missing numbers, which no search "
            "finds. Pass null where there is no vector."
        )


def _check_unicode(values: pa.Array, name: str) -> None:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid as error:
        raise InputError(
            f"Column {name!r} holds text that is not valid Unicode: {error}"
        ) from error


def _check_ids(ids: pa.ChunkedArray, id_column: str) -> None:
    if ids.null_count:
        raise InputError(f"{ids.null_count} rows have no {id_column!r}; each needs one.")
    counts = pc.value_counts(ids.combine_chunks())
    twice = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(twice):
        listed = twice.field("values")[:5].to_pylist()
        raise InputError(f"Several rows have the same {id_column!r}: {listed}. Pass the last only.")


def literals(ids: pa.ChunkedArray | pa.Array) -> list[str]:
    """Return ids as SQL literals.

    Raises
    ------
    InputError
        They are neither text nor whole numbers.
    """
    kind = ids.type
    if pa.types.is_integer(kind):
        return [_whole(value) for value in ids.to_pylist()]
    if is_text(kind):
        return ["'" + value.replace("'", "''") + "'" for value in ids.to_pylist()]
    raise InputError(f"The key holds {kind}; it must be text or whole numbers.")


def _whole(value: int) -> str:
    # The planner reads the digits without their sign, and the least number's are one too many.
    return str(value) if value != _LEAST else f"({_LEAST + 1} - 1)"


def filled_up(
    given: pa.Table, there: pa.Table, schema: pa.Schema, *, id_column: str
) -> tuple[pa.Table, pa.Array]:
    """Return whole rows: what was given, and for the other columns what is there.

    Returns
    -------
    tuple
        The rows with all columns of the schema, in the order given, and for each the position in
        ``there`` of the row that it replaces, null for a new one.
    """
    places = pc.index_in(
        given[id_column].combine_chunks(), value_set=there[id_column].combine_chunks()
    )
    columns: list[Any] = []
    for wanted in schema:
        if wanted.name in given.column_names:
            columns.append(given[wanted.name])
            continue
        storage = getattr(wanted.type, "storage_type", wanted.type)
        values = there[wanted.name].combine_chunks()
        taken = getattr(values, "storage", values).take(places)
        taken = taken.cast(storage)
        if taken.null_count and not wanted.nullable:
            raise InputError(
                f"Column {wanted.name!r} may not be null, and new rows were passed without it."
            )
        if isinstance(wanted.type, pa.BaseExtensionType):
            taken = wanted.type.wrap_array(taken)
        columns.append(taken)
    return pa.table(columns, schema=schema), places


def changed(whole: pa.Table, there: pa.Table, places: pa.Array, names: Sequence[str]) -> pa.Array:
    """Say for each row whether one of these columns differs from what is there, or it is new."""
    differs = pc.is_null(places)
    for name in names:
        old = there[name].combine_chunks().take(places)
        new = whole[name].combine_chunks()
        old, new = getattr(old, "storage", old), getattr(new, "storage", new)
        differs = pc.or_(differs, _unlike(old, new))
    return differs


def _unlike(old: pa.Array, new: pa.Array) -> pa.Array:
    if pa.types.is_nested(old.type):
        pairs = zip(old.to_pylist(), new.to_pylist(), strict=True)
        # NaN differs from itself, and reads the same.
        differ = [one != other and repr(one) != repr(other) for one, other in pairs]
        return pa.array(differ, pa.bool_())
    if pa.types.is_null(old.type):  # which Arrow cannot compare, and is alike everywhere
        return pa.array([False] * len(old), pa.bool_())
    if pa.types.is_float16(old.type):  # which Arrow cannot compare
        old, new = old.cast(pa.float32()), new.cast(pa.float32())
    same = pc.fill_null(pc.equal(old, new), False)
    if pa.types.is_floating(old.type):
        # NaN is not equal to itself, and rows that hold one are no changed rows.
        nan = pc.and_(pc.is_nan(old), pc.is_nan(new))
        same = pc.or_(same, pc.fill_null(nan, False))
    both_null = pc.and_(pc.is_null(old), pc.is_null(new))
    return pc.invert(pc.or_(same, both_null))
