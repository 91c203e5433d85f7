"""BM25 in memory, for tables without a full-text index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lancedb_ft.data.mine.documents import source_of
from lancedb_ft.errors import InputError, MissingExtraError

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.data.mine.documents import DocumentSource

__all__ = ["bm25_retriever"]

#: Words longer than this are hashes and base64; they are left out, as in LanceDB's own index.
_MAX_WORD = 40


def bm25_retriever(corpus: Table | Mapping[str, str] | DocumentSource) -> Bm25Retriever:
    """Index documents in memory with tantivy, and search them by BM25 (k1 = 1.2, b = 0.75).

    Words are split at what is neither letter nor digit and lowercased, not stemmed. A query is the
    set of its words: no character of it is syntax.

    Parameters
    ----------
    corpus
        ``{doc_id: text}``, a LanceDB table, or `TableDocuments`. Rows that share an id (chunks)
        count once, with the best score; rows without a text are never found.

    Returns
    -------
    Bm25Retriever
        A retriever that can also ``score`` named documents; 0 where no word is shared.

    Raises
    ------
    MissingExtraError
        tantivy is not installed.
    InputError
        There is no document with a text.

    Examples
    --------
    >>> search = bm25_retriever({"d1": "a red apple", "d2": "a green apple", "d3": "a red car"})
    >>> list(search({"q": "RED apple?"}, 1)["q"])
    ['d1']
    """
    try:
        import tantivy
    except ImportError as error:
        raise MissingExtraError("tantivy", extra="mine", purpose="BM25 in memory") from error
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("text", tokenizer_name="words", index_option="freq")
    builder.add_integer_field("row", stored=True, indexed=True)
    schema = builder.build()
    words = (
        tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.simple())
        .filter(tantivy.Filter.remove_long(_MAX_WORD))
        .filter(tantivy.Filter.lowercase())
        .build()
    )
    index = tantivy.Index(schema)
    index.register_tokenizer("words", words)
    writer = index.writer(num_threads=1)
    ids: list[str] = []
    for doc_id, text in source_of(corpus).all_texts():
        if isinstance(text, str) and text.strip():
            writer.add_document(tantivy.Document(text=text, row=len(ids)))
            ids.append(doc_id)
    if not ids:
        raise InputError("There is no document with a text to index.")
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    return Bm25Retriever(index.searcher(), schema, words, ids)


class Bm25Retriever:
    """See `bm25_retriever`."""

    def __init__(self, searcher: Any, schema: Any, words: Any, ids: list[str]) -> None:
        self._searcher = searcher
        self._schema = schema
        self._words = words
        self._ids = ids
        self._rows: dict[str, list[int]] = {}
        for row, doc_id in enumerate(ids):
            self._rows.setdefault(doc_id, []).append(row)

    def __repr__(self) -> str:
        return f"bm25_retriever(n_docs={len(self._rows)})"

    def __call__(self, queries: Mapping[str, str], k: int) -> dict[str, dict[str, float]]:
        """Return the best ``k`` documents for each query."""
        n_rows = k if len(self._rows) == len(self._ids) else 4 * k
        found = {}
        for query_id, text in queries.items():
            query = self._query(text)
            hits = self._best(query, n_rows) if query is not None else {}
            ranked = sorted(hits.items(), key=lambda hit: (-hit[1], hit[0]))
            found[query_id] = dict(ranked[:k])
        return found

    def score(
        self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """Return the BM25 score of each named document; unknown ones are left out."""
        import tantivy

        of = tantivy.Query
        run: dict[str, dict[str, float]] = {}
        for query_id, text in queries.items():
            known = [doc_id for doc_id in documents.get(query_id, ()) if doc_id in self._rows]
            run[query_id] = dict.fromkeys(known, 0.0)
            query = self._query(text)
            if query is None or not known:
                continue
            rows = [row for doc_id in known for row in self._rows[doc_id]]
            named = of.const_score_query(of.term_set_query(self._schema, "row", rows), 0.0)
            both = of.boolean_query([(tantivy.Occur.Must, named), (tantivy.Occur.Should, query)])
            run[query_id].update(self._best(both, len(rows)))
        return run

    def _query(self, text: str) -> Any | None:
        import tantivy

        words = dict.fromkeys(self._words.analyze(text))
        of = tantivy.Query
        terms = [of.term_query(self._schema, "text", word, "freq") for word in words]
        return of.boolean_query([(tantivy.Occur.Should, term) for term in terms]) if terms else None

    def _best(self, query: Any, n_rows: int) -> dict[str, float]:
        hits = self._searcher.search(query, n_rows, count=False).hits
        best: dict[str, float] = {}
        for score, address in hits:
            doc_id = self._ids[self._searcher.doc(address)["row"][0]]
            best[doc_id] = max(score, best.get(doc_id, score))
        return best
