"""What becomes of the vectors when texts change: kept, made, or taken off."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.churn.rows import changed
from lancedb_ft.errors import InputError
from lancedb_ft.reindex.filling.fragments import Columns
from lancedb_ft.reindex.sweeping.mend import matrix_of
from lancedb_ft.reindex.sweeping.wrong_rows import has_marks
from lancedb_ft.table import is_text

if TYPE_CHECKING:
    import lance

    from lancedb_ft.generation import Generation
    from lancedb_ft.reindex.checks.models_of import Embeds
    from lancedb_ft.types import Progress

__all__ = [
    "Remembering",
    "deferred_vectors",
    "has_text",
    "in_one_batch",
    "made_of_text",
    "replaced",
    "valid",
    "vectors_owed",
    "with_vectors",
    "wrong_vectors",
]

#: Share of their words that two texts have in common, from which the vector of the one is kept for
#: the other until it is embedded.
_ALIKE = 0.5
_WORD = re.compile(r"\w+")


def made_of_text(ds: lance.LanceDataset, g: Generation) -> bool:
    """Say whether a model makes this generation's vectors of a column of the table."""
    known = g.function is not None or has_marks(ds, g)
    return bool(known and g.column in ds.schema.names and g.source_column in ds.schema.names)


def wrong_vectors(
    ds: lance.LanceDataset, g: Generation, whole: pa.Table, there: pa.Table, places: pa.Array
) -> npt.NDArray[np.bool_]:
    """Say for each row whether its vector is not that of its text, as far as can be told."""
    if has_marks(ds, g):
        return Columns.of(g).wrong(in_one_batch(whole))
    differs = changed(whole, there, places, [str(g.source_column)])
    missing = ~valid(whole[g.column])
    return np.asarray(differs.to_numpy(zero_copy_only=False) | missing)


def deferred_vectors(
    ds: lance.LanceDataset,
    g: Generation,
    whole: pa.Table,
    there: pa.Table,
    places: pa.Array,
    wrong: npt.NDArray[np.bool_],
) -> pa.Table:
    """Take the marks off wrong rows, and the vectors that a new text has little to do with."""
    if not has_marks(ds, g):
        return with_vectors(whole, g, ~wrong)
    kept = ~wrong | _near_enough(g, whole, there, places)
    marks = whole[str(g.hash_column)].combine_chunks()
    marks = pc.if_else(pa.array(wrong), pa.scalar(None, marks.type), marks)
    return with_vectors(replaced(whole, {str(g.hash_column): marks}), g, kept)


def _near_enough(
    g: Generation, whole: pa.Table, there: pa.Table, places: pa.Array
) -> npt.NDArray[np.bool_]:
    """Say for each row whether the vector that is there does until the new text is embedded.

    The text that is there must be the one its vector was made from, as its mark says. A row that
    waits already has lost its mark: compared with the text of the last edit, ten small edits would
    lead to the vector of a text that has no word of the present one.
    """
    source = str(g.source_column)
    right = pa.array(~Columns.of(g).wrong(in_one_batch(there.select(Columns.of(g).names))))
    waits = there[str(g.hash_column)].combine_chunks().is_null()
    right, waits = (pc.fill_null(one.take(places), False).to_pylist() for one in (right, waits))
    old = there[source].combine_chunks().take(places).to_pylist()
    pairs = zip(old, whole[source].to_pylist(), right, waits, strict=True)
    near = [(r and _alike(o, n)) or (w and o == n) for o, n, r, w in pairs]
    return np.asarray(near, dtype=bool)


def vectors_owed(
    g: Generation, given: pa.Table, whole: pa.Table, there: pa.Table, places: pa.Array, *, key: str
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Say of a column that no model is known for which rows' vectors nobody can make.

    Returns
    -------
    tuple
        Whether a row would keep the vector of another text, and whether it has a text and no
        vector.
    """
    source = _likely_source(whole.schema, g, key)
    there_is_none = ~valid(whole[g.column])
    if source is None:
        return np.zeros(len(whole), dtype=bool), there_is_none
    stale = np.zeros(len(whole), dtype=bool)
    if g.column not in given.column_names:
        differs = changed(whole, there, places, [source]).to_numpy(zero_copy_only=False)
        stale = differs & ~there_is_none
    return stale, there_is_none & _not_blank(whole[source])


def _likely_source(schema: pa.Schema, g: Generation, key: str) -> str | None:
    """Return the text that vectors of an unknown model stand for, None where that is open."""
    if g.source_column in schema.names:
        return g.source_column
    texts = [field.name for field in schema if is_text(field.type) and field.name != key]
    return "text" if "text" in texts else texts[0] if len(texts) == 1 else None


def _alike(old: str | None, new: str | None) -> bool:
    """Say whether two texts have enough words in common that one's vector does for the other."""
    one, other = (set(_WORD.findall((text or "").lower())) for text in (old, new))
    return bool(one and other) and len(one & other) >= _ALIKE * len(one | other)


def with_vectors(whole: pa.Table, g: Generation, kept: npt.NDArray[np.bool_]) -> pa.Table:
    """Return the rows with only these vectors of the generation."""
    stored = in_one_batch(whole)[g.column]
    if not (valid(whole[g.column]) & ~kept).any():
        return whole
    matrix = matrix_of(stored, g.dims)
    values = pa.array(matrix.reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(values, g.dims, mask=pa.array(~kept))
    return replaced(whole, {g.column: vectors})


def replaced(whole: pa.Table, columns: Mapping[str, pa.Array]) -> pa.Table:
    """Return the rows with other values in these columns."""
    for name, values in columns.items():
        position = whole.schema.get_field_index(name)
        wanted = whole.schema.field(position)
        storage = getattr(wanted.type, "storage_type", wanted.type)
        values = values.cast(storage)
        if values.null_count and not wanted.nullable:
            raise InputError(
                f"Column {name!r} may not be null, so no text can wait for its vector: write with "
                "embed='now'."
            )
        if isinstance(wanted.type, pa.BaseExtensionType):
            values = wanted.type.wrap_array(values)
        whole = whole.set_column(position, wanted, values)
    return whole


def in_one_batch(rows: pa.Table) -> pa.RecordBatch:
    """Return the rows as one batch."""
    found = rows.combine_chunks().to_batches()
    return found[0] if found else pa.RecordBatch.from_pylist([], schema=rows.schema)


def valid(column: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    """Say for each row whether there is a value."""
    return np.asarray(column.is_valid().combine_chunks().to_numpy(zero_copy_only=False))


def has_text(whole: pa.Table, g: Generation) -> npt.NDArray[np.bool_]:
    """Say for each row whether there is something to embed."""
    return _not_blank(whole[str(g.source_column)])


def _not_blank(texts: pa.ChunkedArray) -> npt.NDArray[np.bool_]:
    return np.asarray([bool(text and text.strip()) for text in texts.to_pylist()], dtype=bool)


class Remembering:
    """A model that makes each vector once: a write that lost a race asks for the same again."""

    def __init__(self, model: Embeds) -> None:
        self._model = model
        self._made: dict[str, Any] = {}
        self.n_encoded = 0

    def forget(self) -> None:
        """Free what was made."""
        self._made.clear()

    def encode(
        self, texts: pa.Array, *, kind: Any = "document", progress: Progress | None = None
    ) -> pa.FixedSizeListArray:
        """Return one vector a text."""
        asked = texts.to_pylist()
        new = [text for text in dict.fromkeys(asked) if text not in self._made]
        if new:
            made = self._model.encode(pa.array(new, texts.type), kind=kind, progress=progress)
            self.n_encoded += len(new)
            self._made.update(zip(new, made, strict=True))
            self._type = made.type
        storage = [self._made[text].values for text in asked]
        if all(values is not None for values in storage):
            flat = pa.concat_arrays(storage)
            return pa.FixedSizeListArray.from_arrays(flat, self._type.list_size)
        return pa.array([self._made[text].as_py() for text in asked], self._type)
