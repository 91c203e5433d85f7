"""Turning the text of a query into the vector its column is searched with."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import NoEmbedderError, QueryError
from lancedb_ft.search.options import count_of
from lancedb_ft.search.query import as_vector
from lancedb_ft.search.trace import Trace

if TYPE_CHECKING:
    from lancedb.embeddings import EmbeddingFunction

    from lancedb_ft.search.snapshot import Target

__all__ = ["QueryVectors", "check_dims", "embed_queries", "function_of"]

_ALIAS = "ft-embed"
#: Longer texts are not kept: they are not asked twice, and would fill the cache.
_MAX_CHARS = 4_096

# One function object per distinct entry, for the life of the process: LanceDB makes a new one per
# async search, and functions that hold their model in themselves load it anew each time.
_functions: dict[tuple[Any, ...], EmbeddingFunction] = {}
_lock = threading.Lock()


def function_of(entry: Mapping[str, Any], *, table: str) -> EmbeddingFunction:
    """Return the embedding function that LanceDB's entry names, made once per process.

    Parameters
    ----------
    entry
        One entry of the table's ``embedding_functions``: ``name``, ``model``, ``vector_column``.
    table
        Name of the table, for errors.

    Raises
    ------
    NoEmbedderError
        No class is registered under the entry's alias in this process.
    """
    from lancedb.embeddings import get_registry

    registry, alias, arguments = get_registry(), entry["name"], entry["model"]
    try:
        found = registry.get(alias)
    except KeyError:
        if alias != _ALIAS:
            columns = [str(entry.get("vector_column", ""))]
            raise NoEmbedderError(table, columns=columns, alias=alias) from None
        from lancedb_ft.embedding import register

        register()  # somebody reset the registry
        found = registry.get(alias)
    key = (found, json.dumps(arguments, sort_keys=True), *_variables(arguments))
    if key not in _functions:
        with _lock:  # queries that come first at once would each load the model
            if key not in _functions:
                _functions[key] = found.create(**arguments)
    return _functions[key]


def _variables(arguments: Mapping[str, Any]) -> list[str | None]:
    """Return the present values of the ``$var:name:default`` arguments, which ``create`` reads."""
    from lancedb.embeddings import get_registry

    values: list[str | None] = []
    for value in arguments.values():
        if isinstance(value, str) and value.startswith("$var:"):
            try:
                values.append(get_registry().get_var(value.split(":")[1]))
            except KeyError:
                values.append(None)
    return values


class QueryVectors:
    """Embeds the queries of one table, and keeps the vectors of the last ones.

    A vector is kept under its text and the embedding function that made it, which stands for one
    set of arguments, the model's fingerprint among them: a switch to another model asks for other
    vectors by itself.

    Parameters
    ----------
    embedder
        What embeds the queries; None for the function of the column that is searched.
    capacity
        How many vectors are kept; 0 for none.

    Raises
    ------
    QueryError
        ``capacity`` is no such number.
    """

    def __init__(self, embedder: Any = None, *, capacity: int = 1024) -> None:
        self._embedder = embedder
        self._capacity = count_of(capacity, "n_kept_vectors", least=0)
        self._kept: OrderedDict[tuple[int, str], npt.NDArray[np.float32]] = OrderedDict()
        self._makers: dict[int, Any] = {}
        self._lock = threading.Lock()

    def of(
        self,
        texts: Sequence[str],
        target: Target,
        *,
        table: str,
        embedder: Any = None,
        trace: Trace | None = None,
    ) -> list[npt.NDArray[np.float32]]:
        """Return the vector of each text; those not kept are embedded in one batch.

        Parameters
        ----------
        texts
            The queries.
        target
            The column to search, and its function.
        table
            Name of the table, for errors.
        embedder
            What embeds these queries only; its vectors are not kept.
        trace
            Told how many were kept and how many embedded.

        Raises
        ------
        NoEmbedderError
            No embedder was given and the column names no function.
        QueryError
            The embedder gave no vector for a text, or one of another length.
        """
        keep = embedder is None and self._capacity > 0
        if embedder is None:
            embedder = self._embedder
        if embedder is None:
            if target.function is None:
                raise NoEmbedderError(table, columns=[target.column])
            embedder = function_of(target.function, table=table)
        if not keep:
            once = list(dict.fromkeys(texts))
            made = embed_queries(embedder, once, dims=target.dims, column=target.column)
            by_text = dict(zip(once, made, strict=True))
            return [by_text[text] for text in texts]
        maker = id(embedder)
        self._makers[maker] = embedder  # an id is another object's only after the first one's death
        found = self._find(maker, texts)
        missing = [text for text in dict.fromkeys(texts) if text not in found]
        if missing:
            made = embed_queries(embedder, missing, dims=target.dims, column=target.column)
            found.update(zip(missing, made, strict=True))
            self._keep(maker, missing, made)
        if trace is not None:
            trace.count("query_vectors_kept", len(texts) - len(missing))
            trace.count("query_vectors_embedded", len(missing))
        return [check_dims(found[text], dims=target.dims, column=target.column) for text in texts]

    def _find(self, maker: int, texts: Sequence[str]) -> dict[str, npt.NDArray[np.float32]]:
        found = {}
        with self._lock:
            for text in texts:
                vector = self._kept.get((maker, text))
                if vector is not None:
                    self._kept.move_to_end((maker, text))
                    found[text] = vector
        return found

    def _keep(
        self, maker: int, texts: Sequence[str], vectors: Sequence[npt.NDArray[np.float32]]
    ) -> None:
        with self._lock:
            for text, vector in zip(texts, vectors, strict=True):
                if len(text) <= _MAX_CHARS:
                    kept = vector.copy()  # not a row of a matrix that would stay in memory
                    kept.flags.writeable = False
                    self._kept[maker, text] = kept
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)


def embed_queries(
    embedder: Any, texts: Sequence[str], *, dims: int, column: str
) -> list[npt.NDArray[np.float32]]:
    """Embed queries, in one batch where the embedder takes one.

    Parameters
    ----------
    embedder
        A LanceDB embedding function, an `Encoder` of lancedb-ft, a SentenceTransformer, or any
        function from a text to a vector.
    texts
        The queries.
    dims
        Length of the vectors in the column.
    column
        Name of the column, for errors.

    Returns
    -------
    list of arrays of float32, each of shape (dims,)

    Raises
    ------
    QueryError
        The embedder gave no vector for a text, or one of another length.
    """
    found = _run(embedder, list(texts))
    if len(found) != len(texts):
        raise QueryError(f"The embedder gave {len(found)} vectors for {len(texts)} queries.")
    vectors = []
    for text, vector in zip(texts, found, strict=True):
        if vector is None:
            raise QueryError(f"The embedding function gave no vector for the query {text[:80]!r}.")
        checked = as_vector(vector, what="The query's embedding")
        vectors.append(check_dims(checked, dims=dims, column=column))
    return vectors


def check_dims(
    vector: npt.NDArray[np.float32], *, dims: int, column: str
) -> npt.NDArray[np.float32]:
    """Return the vector if it fits the column.

    Raises
    ------
    QueryError
        Its length is not that of the column.
    """
    if len(vector) != dims:
        raise QueryError(
            f"The query vector has {len(vector)} dimensions and the column {column!r} has {dims}. "
            "Embed the query with the model that the column was made with."
        )
    return vector


def _run(embedder: Any, texts: list[str]) -> Sequence[Any]:
    from lancedb.embeddings import EmbeddingFunction

    if isinstance(embedder, EmbeddingFunction):
        if len(texts) > 1 and _takes_many(embedder):
            return list(embedder.compute_query_embeddings_with_retry(texts))
        return [embedder.compute_query_embeddings_with_retry(text)[0] for text in texts]
    if hasattr(embedder, "encode_query"):  # a SentenceTransformer, which calls itself otherwise
        return list(embedder.encode_query(texts))
    if hasattr(embedder, "encode") and not isinstance(embedder, str):
        return list(embedder.encode(texts, kind="query").to_pylist())
    if callable(embedder):
        return [embedder(text) for text in texts]
    raise QueryError(
        f"embedder is a {type(embedder).__name__}; it must be a LanceDB embedding function, an "
        "Encoder, or a function from a text to a vector."
    )


def _takes_many(function: EmbeddingFunction) -> bool:
    # Only the base class and our own function are known to take a list; others, such as
    # instructor models, build a prompt around the one query they get.
    from lancedb.embeddings import TextEmbeddingFunction

    from lancedb_ft.embedding import FineTunedEmbeddings

    own = type(function).compute_query_embeddings
    return own in (
        TextEmbeddingFunction.compute_query_embeddings,
        FineTunedEmbeddings.compute_query_embeddings,
    )
