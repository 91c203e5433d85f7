"""Turning the text of a query into the vector its column is searched with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import NoEmbedderError, QueryError
from lancedb_ft.search.query import as_vector

if TYPE_CHECKING:
    from lancedb.embeddings import EmbeddingFunction

__all__ = ["embed_query", "function_of"]

_ALIAS = "ft-embed"

# One function object per distinct entry, for the life of the process: LanceDB makes a new one per
# async search, and functions that hold their model in themselves load it anew each time.
_functions: dict[tuple[Any, ...], EmbeddingFunction] = {}


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


def embed_query(embedder: Any, text: str, *, dims: int, column: str) -> npt.NDArray[np.float32]:
    """Embed one query.

    Parameters
    ----------
    embedder
        A LanceDB embedding function, an `Encoder` of lancedb-ft, a SentenceTransformer, or any
        function from a text to a vector.
    text
        The query.
    dims
        Length of the vectors in the column.
    column
        Name of the column, for errors.

    Returns
    -------
    array of float32, shape (dims,)

    Raises
    ------
    QueryError
        The embedder gave no vector, or one of another length.
    """
    vector = _run(embedder, text)
    if vector is None:
        raise QueryError(f"The embedding function gave no vector for the query {text[:80]!r}.")
    return check_dims(as_vector(vector, what="The query's embedding"), dims=dims, column=column)


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


def _run(embedder: Any, text: str) -> Any:
    from lancedb.embeddings import EmbeddingFunction

    if isinstance(embedder, EmbeddingFunction):
        return embedder.compute_query_embeddings_with_retry(text)[0]
    if hasattr(embedder, "encode_query"):  # a SentenceTransformer, which calls itself otherwise
        return embedder.encode_query(text)
    if hasattr(embedder, "encode") and not isinstance(embedder, str):
        vectors = embedder.encode([text], kind="query")
        return vectors[0].as_py()
    if callable(embedder):
        return embedder(text)
    raise QueryError(
        f"embedder is a {type(embedder).__name__}; it must be a LanceDB embedding function, an "
        "Encoder, or a function from a text to a vector."
    )
