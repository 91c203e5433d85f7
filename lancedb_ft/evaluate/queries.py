"""Check queries and embed them: with an encoder, or as a table's own function does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lancedb_ft.errors import InputError, NoEmbedderError, QueryError, SearchError
from lancedb_ft.generation import STATE_KEY, read_state
from lancedb_ft.table import embedding_entries, vector_columns
from lancedb_ft.types import Progress

__all__ = [
    "RememberedBatch",
    "TextEncoder",
    "check_queries",
    "query_embedder",
    "searched_column",
    "vectors_of",
]

_Embed: TypeAlias = Callable[[list[str]], Sequence[Any]]


class TextEncoder(Protocol):
    """Anything that turns texts into vectors, such as `lancedb_ft.encoder.Encoder`."""

    def encode(
        self,
        texts: Sequence[str],
        *,
        kind: Literal["query", "document"] = "document",
        progress: Progress | None = None,
    ) -> pa.FixedSizeListArray:
        """Return one float vector a text, or null where there is none (a blank text)."""
        ...


def check_queries(queries: Mapping[str, str], k: int) -> None:
    """Check what a retriever is called with.

    Raises
    ------
    QueryError
        ``k`` is below 1, or a query is not text that can be written as UTF-8.
    """
    if k < 1:
        raise QueryError(f"k is {k}; at least one document must be asked for.")
    for query_id, text in queries.items():
        if not isinstance(text, str):
            raise QueryError(f"Query {query_id!r} is a {type(text).__name__}, expected text.")
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise QueryError(
                f"Query {query_id!r} holds half a surrogate pair at character {error.start}, which "
                "is not valid text. It was probably cut in the middle of an emoji."
            ) from error


class RememberedBatch:
    """Embeds texts, and keeps the last batch for whoever asks for the same texts again.

    So a search and the scoring of further documents for the same queries embed them once.
    """

    def __init__(self, embed: Callable[[list[str]], Any]) -> None:
        self._embed = embed
        self._last: tuple[list[str], Any] | None = None

    def __call__(self, texts: list[str]) -> Any:
        """Embed the texts."""
        vectors = self._embed(texts)
        self._last = (list(texts), vectors)
        return vectors

    def again(self, texts: list[str]) -> Any:
        """Return the vectors of the last batch if these are its texts, else embed them."""
        last = self._last
        return last[1] if last is not None and last[0] == texts else self(texts)


def vectors_of(
    vectors: Any, n_expected: int, what: str
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Return which rows have a vector, and those vectors as a matrix.

    Parameters
    ----------
    vectors
        An Arrow array of fixed-size lists (null: no vector) or a matrix of shape (n, dims).
    n_expected
        How many there should be.
    what
        What they are of, for errors.

    Returns
    -------
    tuple
        Row numbers, ascending, and a float32 matrix of as many rows.

    Raises
    ------
    InputError
        Another number or shape of vectors, or some hold NaN or infinity.
    """
    if isinstance(vectors, np.ndarray):
        n_found, rows, matrix = len(vectors), np.arange(len(vectors)), vectors
    else:
        array = vectors.combine_chunks() if isinstance(vectors, pa.ChunkedArray) else vectors
        array = getattr(array, "storage", array)
        if not pa.types.is_fixed_size_list(array.type):
            raise InputError(f"Vectors must be fixed-size lists of floats, found {array.type}.")
        n_found = len(array)
        rows = np.flatnonzero(array.is_valid().to_numpy(zero_copy_only=False))
        # flatten, not values: the array may be a slice, and nulls have values underneath.
        flat = array.drop_null().flatten().to_numpy(zero_copy_only=False)
        matrix = flat.reshape(len(rows), array.type.list_size)
    if n_found != n_expected:
        raise InputError(f"There are {n_expected} {what} and {n_found} vectors.")
    if matrix.ndim != 2:
        raise InputError(f"Vectors must have the shape (n, dims), found {matrix.shape}.")
    matrix = matrix.astype(np.float32, copy=False)
    if n_bad := int((~np.isfinite(matrix)).any(axis=1).sum()):
        raise InputError(f"{n_bad} of {len(matrix)} vectors of the {what} hold NaN or infinity.")
    return rows.astype(np.int64, copy=False), matrix


def searched_column(schema: pa.Schema, table: str, column: str | None) -> str:
    """Return the vector column that is meant: the one named, or the one plain LanceDB searches.

    Raises
    ------
    NoEmbedderError
        The table has no vector column that plain LanceDB would search, and none was named.
    InputError
        There is no vector column of that name, or there are several and none was named.
    """
    columns = vector_columns(schema)
    if column is None:
        # A parked column has an extension type, which LanceDB's inference passes by.
        shown = [c for c in columns if not isinstance(schema.field(c).type, pa.BaseExtensionType)]
        if not shown:
            raise NoEmbedderError(table, columns=columns)
        if len(shown) > 1:
            raise InputError(
                f"Table {table!r} has several vector columns: {shown}. Name one with column=."
            )
        return shown[0]
    if column not in columns:
        raise InputError(
            f"{column!r} is not a vector column of table {table!r}; it has {sorted(columns)}."
        )
    return column


def query_embedder(
    schema: pa.Schema, table: str, column: str, encoder: TextEncoder | None
) -> Callable[[list[str]], dict[str, npt.NDArray[np.float32]]]:
    """Return what embeds query texts for a column: ``{text: vector}``, blank texts left out.

    Parameters
    ----------
    schema
        Of the table, with metadata.
    table
        Its name, for errors.
    column
        The vector column that will be searched.
    encoder
        Used if given; else the embedding function the table has for the column.

    Raises
    ------
    NoEmbedderError
        No encoder was given and the table names no function for the column.
    SearchError
        The function's class is not registered in this process.
    """
    dims = vector_columns(schema)[column]
    embed = _of_encoder(encoder) if encoder is not None else _of_table(schema, table, column)

    def embedded(texts: list[str]) -> dict[str, npt.NDArray[np.float32]]:
        asked = [text for text in texts if text.strip()]
        if not asked:
            return {}
        rows, matrix = _found(embed(asked), len(asked))
        if matrix.shape[1] != dims and len(rows):
            raise InputError(
                f"The queries have {matrix.shape[1]} dims and column {column!r} of table {table!r} "
                f"has {dims}: the model is not the one that filled it."
            )
        return {asked[row]: vector for row, vector in zip(rows, matrix, strict=True)}

    return embedded


def _found(vectors: Any, n_expected: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float32]]:
    """Do as `vectors_of`, and also take a list of vectors and Nones, as functions return it."""
    if isinstance(vectors, (pa.Array, pa.ChunkedArray, np.ndarray)):
        return vectors_of(vectors, n_expected, "queries")
    rows = [row for row, vector in enumerate(vectors) if vector is not None]
    if len(vectors) != n_expected:
        raise InputError(f"There are {n_expected} queries and {len(vectors)} vectors.")
    if not rows:
        return np.empty(0, np.int64), np.empty((0, 0), np.float32)
    try:
        matrix = np.stack([np.asarray(vectors[row], np.float32) for row in rows])
    except ValueError as error:
        raise InputError(f"The query vectors differ in length: {error}") from error
    _, matrix = vectors_of(matrix, len(rows), "queries")
    return np.asarray(rows), matrix


def _of_encoder(encoder: TextEncoder) -> _Embed:
    return lambda texts: encoder.encode(texts, kind="query")


def _of_table(schema: pa.Schema, table: str, column: str) -> _Embed:
    entries = {entry["vector_column"]: entry for entry in embedding_entries(schema)}
    entry: Mapping[str, Any] | None = entries.get(column)
    if entry is None and STATE_KEY.encode() in (schema.metadata or {}):
        # A parked column's function may stand in our state only, until the switch shows it.
        generation = read_state(schema, table=table).of_column(column)
        entry = None if generation is None else generation.function
    if entry is None:
        raise NoEmbedderError(table, columns=[column])
    return _of_function(entry, table)


def _of_function(entry: Mapping[str, Any], table: str) -> _Embed:
    """Make the table's own embedding function, fresh: a handle's cached one can be stale."""
    from lancedb.embeddings import TextEmbeddingFunction, get_registry

    try:
        kind = get_registry().get(entry["name"])
    except KeyError as error:
        raise SearchError(
            f"Table {table!r} embeds with {entry['name']!r}, which no module imported here "
            "registers. Import the one that does, or pass encoder=."
        ) from error
    function = kind.create(**entry["model"])
    # Only the base class and our own function are known to take a list; others, such as
    # instructor models, build a prompt around the one query they get.
    own = kind.compute_query_embeddings is not TextEmbeddingFunction.compute_query_embeddings
    if own and entry["name"] != "ft-embed":
        return lambda texts: [
            function.compute_query_embeddings_with_retry(text)[0] for text in texts
        ]

    def embed(texts: list[str]) -> Sequence[Any]:
        return list(function.compute_query_embeddings_with_retry(texts))

    return embed
