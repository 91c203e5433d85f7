"""Documents whose vectors do not change: encoded once, or read from the table that serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.texts import normalise
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.queries import vectors_of
from lancedb_ft.generation import STATE_KEY, read_state
from lancedb_ft.table import dataset, embedding_entries, id_column_of, text_column_of
from lancedb_ft.train.checks import check_texts_by_id
from lancedb_ft.train.corpus import ids_by_text, named_as_in

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.encoder import Encoder
    from lancedb_ft.types import Pairs, Progress

__all__ = ["Corpus", "FixedDocuments", "fixed_documents"]

#: What the documents of a query adapter can be taken from.
Corpus: TypeAlias = "Mapping[str, str] | Table"


@dataclass(frozen=True)
class FixedDocuments:
    """Documents with their vectors.

    Parameters
    ----------
    texts
        ``{doc_id: text}``, in the order of the vectors.
    vectors
        Of length 1, shape (n, dims).
    by_text
        Of each text, as `normalise` gives it, the id of the first document that has it.
    n_read
        How many of the vectors were read from the table; the others were encoded.
    """

    texts: Mapping[str, str] = field(repr=False)
    vectors: npt.NDArray[np.float32] = field(repr=False)
    by_text: Mapping[str, str] = field(repr=False)
    n_read: int = 0

    @property
    def ids(self) -> list[str]:
        """The ids, in the order of the vectors."""
        return list(self.texts)

    def distinct(self) -> npt.NDArray[np.float32]:
        """Return the vector of each distinct text, in the order of ``by_text``."""
        place = {doc_id: row for row, doc_id in enumerate(self.texts)}
        return self.vectors[[place[doc_id] for doc_id in self.by_text.values()]]

    def numbers(self, texts: Sequence[str]) -> list[int]:
        """Return for each text of a document which of the distinct ones it is."""
        number = {text: n for n, text in enumerate(self.by_text)}
        return [number[normalise(text)] for text in texts]

    def named(self, pairs: Pairs) -> Pairs:
        """Return the pairs with the ids of these documents."""
        return named_as_in(pairs, self.texts, self.by_text)


def fixed_documents(
    corpus: Corpus | None,
    pairs: Pairs,
    encoder: Encoder,
    *,
    id_column: str | None = None,
    text_column: str | None = None,
    progress: Progress | None = None,
) -> FixedDocuments:
    """Return the vectors of a corpus, and of the documents of pairs that it lacks.

    Parameters
    ----------
    corpus
        ``{doc_id: text}``; a LanceDB table, whose stored vectors are read where this very model
        made them; None for the documents of the pairs alone.
    pairs
        Their documents are there in any case. Which of the corpus they are is told by their texts:
        pairs from elsewhere have other ids for the same documents, or the same for others.
    encoder
        Encodes what has no vector.
    id_column, text_column
        Of the table.
    progress
        Handed to the encoder.

    Raises
    ------
    ColumnNotFoundError
        The table has no such column.
    InputError
        A null or repeated id, or a corpus that is neither texts by id nor a table.
    """
    texts: dict[str, str] = {}
    stored = None
    if corpus is not None and not isinstance(corpus, Mapping):
        texts, stored = _read(corpus, encoder, id_column, text_column)
    elif corpus is not None:
        check_texts_by_id("corpus", corpus)
        texts = {str(doc_id): text for doc_id, text in corpus.items() if text and text.strip()}
    n_read = len(texts) if stored is not None else 0
    texts |= _lacking(pairs, texts)
    if stored is not None:
        encoder = encoder.with_dims(stored.shape[1])
    wanted = list(texts.values())[n_read:]
    made = encoder.encode(wanted, kind="document", progress=progress)
    vectors = made.flatten().to_numpy().reshape(len(wanted), encoder.dims)
    if stored is not None:
        vectors = np.concatenate([stored, vectors])
    norms = np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    unit = (vectors / norms).astype(np.float32, copy=False)
    return FixedDocuments(texts, unit, ids_by_text(texts), n_read)


def _lacking(pairs: Pairs, texts: Mapping[str, str]) -> dict[str, str]:
    named = named_as_in(pairs, texts)
    return {doc_id: text for doc_id, text in named.corpus.items() if doc_id not in texts}


def _read(
    table: Table, encoder: Encoder, id_column: str | None, text_column: str | None
) -> tuple[dict[str, str], npt.NDArray[np.float32] | None]:
    """Return the texts of a table, and their vectors if they are of this model, in that order."""
    ds = dataset(table)
    key = id_column_of(ds.schema, id_column, table=table.name)
    text = text_column_of(ds.schema, text_column, table=table.name)
    served = _served(table, ds.schema, encoder, text)
    rows = ds.to_table(columns=list(dict.fromkeys([key, text, *([served] if served else [])])))
    has_text = pc.not_equal(pc.utf8_trim_whitespace(pc.fill_null(rows[text], "")), "")
    rows = rows.filter(pc.and_(has_text, rows[served].is_valid()) if served else has_text)
    ids = [str(value) for value in rows[key].to_pylist()]
    if rows[key].null_count or len(set(ids)) != len(ids):
        raise InputError(
            f"Column {key!r} of table {table.name!r} has null or repeated ids, so that a pair "
            "could not say which document it means. Name another key with id_column=."
        )
    texts = dict(zip(ids, rows[text].to_pylist(), strict=True))
    return texts, vectors_of(rows[served], len(ids), "documents")[1] if served else None


def _served(table: Table, schema: pa.Schema, encoder: Encoder, text: str) -> str | None:
    """Return the vector column that this model filled from that text, if the table has one."""
    entries = embedding_entries(schema)
    if not entries:
        return None
    # Named for a table with several vector columns that lancedb-ft never touched.
    untouched = STATE_KEY.encode() not in schema.metadata
    named = entries[0]["vector_column"] if untouched else None
    active = read_state(schema, table=table.name, vector_column=named).active
    if active is None or active.source_column != text:
        return None
    known = (active.document_fingerprint, active.fingerprint)
    return active.column if encoder.document_fingerprint in known else None
