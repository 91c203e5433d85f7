"""Documents that can become negatives: their texts by id, from a mapping or a pinned table."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from lancedb_ft.data.near import shingles
from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.table import database_uri, dataset, id_column_of, rows_by_id, text_column_of

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["Document", "DocumentSource", "Library", "MappingDocuments", "TableDocuments"]

#: Documents kept from batch to batch of queries. They are forgotten all at once, which is simple,
#: and rare: a table with more documents than this is read anew, at most once a batch.
_MAX_KEPT = 65_536
_SCANNED_ROWS = 8192


class Document:
    """A text with what it is compared by; each is worked out once, when it is first asked for."""

    __slots__ = ("_seen", "_shingles", "_words", "id", "key", "text")

    def __init__(self, doc_id: str, text: str, seen: dict[str, int] | None = None) -> None:
        self.id = doc_id
        self.text = text
        self.key = normalise(text)
        self._seen = seen
        self._shingles: frozenset[int] | None = None
        self._words: frozenset[int] | None = None

    @property
    def shingles(self) -> frozenset[int]:
        """The runs of three words, see `lancedb_ft.data.near`."""
        if self._shingles is None:
            self._shingles = shingles(self.text, seen=self._seen)
        return self._shingles

    @property
    def words(self) -> frozenset[int]:
        """The distinct words."""
        if self._words is None:
            self._words = shingles(self.text, shingle=1, seen=self._seen)
        return self._words

    def __repr__(self) -> str:
        return f"Document({self.id!r})"


@runtime_checkable
class DocumentSource(Protocol):
    """Where documents come from: gives texts by id, and ids by chance."""

    def texts(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Yield ``(id, text)`` of those there are; a text may be null, an id may come twice."""
        ...

    def all_texts(self) -> Iterator[tuple[str, Any]]:
        """Yield ``(id, text)`` of all."""
        ...

    def sample(self, n: int, seed: int) -> list[str]:
        """Return up to ``n`` ids, chosen by the seed."""
        ...

    def to_dict(self) -> dict[str, Any]:
        """Say where they come from, for the lineage."""
        ...


class MappingDocuments:
    """Documents of a ``{doc_id: text}`` mapping."""

    def __init__(self, corpus: Mapping[str, str]) -> None:
        self._corpus = corpus

    def texts(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Yield the named ones."""
        return ((doc_id, self._corpus[doc_id]) for doc_id in ids if doc_id in self._corpus)

    def all_texts(self) -> Iterator[tuple[str, Any]]:
        """Yield all."""
        return iter(self._corpus.items())

    def sample(self, n: int, seed: int) -> list[str]:
        """Choose by a hash, so that the order of the mapping does not matter."""
        return sorted(self._corpus, key=lambda doc_id: stable_key(seed, doc_id))[:n]

    def to_dict(self) -> dict[str, Any]:
        """Only the number: a mapping has no name."""
        return {"n_docs": len(self._corpus)}


class TableDocuments:
    """Documents of a LanceDB table, at the version that is the newest when this is made.

    Parameters
    ----------
    table
        The table.
    id_column, text_column
        Its columns; found by themselves when there is an ``id`` and a ``text``.

    Raises
    ------
    ColumnNotFoundError
        There is no such column.
    """

    def __init__(
        self, table: Table, *, id_column: str | None = None, text_column: str | None = None
    ) -> None:
        self._dataset = dataset(table)
        self._name = str(table.name)
        self._database = database_uri(table)
        schema = self._dataset.schema
        self.id_column = id_column_of(schema, id_column, table=self._name)
        self.text_column = text_column_of(schema, text_column, table=self._name)

    def texts(self, ids: Sequence[str]) -> Iterator[tuple[str, Any]]:
        """Read the named rows."""
        for batch in rows_by_id(self._dataset, self.id_column, ids, [self.text_column]):
            yield from self._named(batch)

    def all_texts(self) -> Iterator[tuple[str, Any]]:
        """Stream all rows."""
        columns = [self.id_column, self.text_column]
        for batch in self._dataset.to_batches(columns=columns, batch_size=_SCANNED_ROWS):
            yield from self._named(batch)

    def sample(self, n: int, seed: int) -> list[str]:
        """Choose rows by their place."""
        n_rows = self._dataset.count_rows()
        chosen = np.random.default_rng(seed).choice(n_rows, min(n, n_rows), replace=False)
        rows = self._dataset.take(np.sort(chosen).tolist(), columns=[self.id_column])
        return list(dict.fromkeys(str(doc_id) for doc_id in rows[self.id_column].to_pylist()))

    def to_dict(self) -> dict[str, Any]:
        """Name database, table and version."""
        version = int(self._dataset.version)
        return {"database": self._database, "name": self._name, "version": version}

    def _named(self, batch: Any) -> Iterator[tuple[str, Any]]:
        ids = (str(doc_id) for doc_id in batch[self.id_column].to_pylist())
        yield from zip(ids, batch[self.text_column].to_pylist(), strict=True)


class Library:
    """Makes `Document` out of a source's rows, and keeps those it made lately."""

    def __init__(self, source: DocumentSource) -> None:
        self.source = source
        self._kept: dict[str, Document | None] = {}
        self._seen: dict[str, int] = {}

    def get(self, ids: Iterable[str]) -> dict[str, Document]:
        """Return the documents of these ids.

        Left out are ids that are unknown, blank, or stand for several texts (chunks): which of
        them was found cannot be told.
        """
        wanted = dict.fromkeys(ids)
        missing = [doc_id for doc_id in wanted if doc_id not in self._kept]
        if missing:
            if len(self._kept) + len(missing) > _MAX_KEPT:
                self._kept, self._seen = {}, {}
                missing = list(wanted)
            self._kept.update(dict.fromkeys(missing))
            self._kept.update(self._read(missing))
        found = ((doc_id, self._kept[doc_id]) for doc_id in wanted)
        return {doc_id: document for doc_id, document in found if document is not None}

    def of_text(self, doc_id: str, text: str) -> Document:
        """Make a document of a text that is at hand."""
        return Document(doc_id, text, self._seen)

    def ids_of(self, keys: set[str]) -> dict[str, str]:
        """Return ``{normalised text: id}`` of the documents with these texts, the first of each."""
        found: dict[str, str] = {}
        if keys:
            for doc_id, text in self.source.all_texts():
                if isinstance(text, str) and (key := normalise(text)) in keys:
                    found.setdefault(key, doc_id)
        return found

    def _read(self, ids: list[str]) -> dict[str, Document | None]:
        read: dict[str, Document | None] = {}
        for doc_id, text in self.source.texts(ids):
            if not isinstance(text, str) or not text.strip():
                continue
            known = read.get(doc_id)
            if doc_id in read and (known is None or known.text != text):
                read[doc_id] = None
            else:
                read[doc_id] = Document(doc_id, text, self._seen)
        return read


def source_of(corpus: Mapping[str, str] | DocumentSource | Table) -> DocumentSource:
    """Return the documents that ``corpus`` means.

    Raises
    ------
    InputError
        It is none of the three.
    """
    if isinstance(corpus, Mapping):
        return MappingDocuments(corpus)
    if isinstance(corpus, DocumentSource):
        return corpus
    if hasattr(corpus, "uri") and hasattr(corpus, "schema"):
        return TableDocuments(corpus)
    raise InputError(
        f"corpus is a {type(corpus).__name__}; it must be a LanceDB table, a {{doc_id: text}} "
        "mapping, or TableDocuments(table, id_column=..., text_column=...)."
    )
