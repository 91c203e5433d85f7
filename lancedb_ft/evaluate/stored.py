"""The vectors that stand in a table: searched by brute force, or read to score named documents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.exact import exact_retriever_of
from lancedb_ft.evaluate.queries import (
    RememberedBatch,
    TextEncoder,
    query_embedder,
    searched_column,
    vectors_of,
)
from lancedb_ft.table import dataset, id_column_of, rows_by_id, scan, vector_columns
from lancedb_ft.types import Retriever

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["StoredScorer", "stored_retriever"]

_Floats: TypeAlias = npt.NDArray[Any]


def stored_retriever(
    table: Table,
    *,
    column: str | None = None,
    encoder: TextEncoder | None = None,
    id_column: str | None = None,
    where: str | None = None,
) -> Retriever:
    """Search the stored vectors of a table by brute force: no document is encoded again.

    Without a vector index LanceDB scans all vectors for each query. Here they are read once and
    many queries are answered by one matrix product, which finds the same documents.

    Parameters
    ----------
    table
        The table; its newest version is read, now.
    column, encoder, id_column
        As for `retriever`.
    where
        Only the rows that this SQL filter keeps.

    Returns
    -------
    Retriever
        Scores are cosines. Holds the vectors (4 bytes x rows x dims). It also has ``score``, as
        what `exact_retriever` returns.

    Raises
    ------
    InputError
        Rows share an id (chunks of a document), or an id is null. Use `retriever` then.
    NoEmbedderError
        No encoder was given and the table names no function for the column.
    """
    schema = table.schema
    key = id_column_of(schema, id_column, table=table.name)
    column = searched_column(schema, table.name, column)
    embed = query_embedder(schema, table.name, column, encoder)
    dims = vector_columns(schema)[column]
    ids: list[Any] = []
    # One block for all: a list of blocks would be held twice while it is joined.
    matrix = np.empty((dataset(table).count_rows(where), dims), np.float32)
    for batch in scan(table, [key, column], where=where):
        rows, vectors = vectors_of(batch[column], batch.num_rows, "documents")
        names = batch[key].to_pylist()
        matrix = _room_for(matrix, len(ids) + len(vectors))
        matrix[len(ids) : len(ids) + len(vectors)] = vectors
        ids += [names[row] for row in rows]
    if not ids:
        raise InputError(f"Table {table.name!r} has no vectors in {column!r} to search.")
    matrix = matrix[: len(ids)]

    def encode_queries(texts: list[str]) -> _Floats:
        found = embed(texts)
        # A row of zeros has no direction, so a query without a vector finds nothing.
        return np.stack([found.get(text, np.zeros(dims, np.float32)) for text in texts])

    return exact_retriever_of(ids, matrix, encode_queries)


def _room_for(matrix: _Floats, n_rows: int) -> _Floats:
    """Return a matrix that has so many rows: a table can grow between the count and the scan."""
    if n_rows <= len(matrix):
        return matrix
    return np.concatenate([matrix, np.empty((n_rows, matrix.shape[1]), np.float32)])


class StoredScorer:
    """Scores named documents of a table by the cosine of their stored vectors with a query's.

    Parameters
    ----------
    table
        The table; the version that is the newest now is read, whatever is written later.
    id_column, column
        Its ids and its vectors.
    embed
        Gives ``{text: vector}`` of queries, blank ones left out.
    """

    def __init__(self, table: Table, id_column: str, column: str, embed: RememberedBatch) -> None:
        self._dataset = dataset(table)
        self._id_column = id_column
        self._column = column
        self._embed = embed

    def __call__(
        self, queries: Mapping[str, str], documents: Mapping[str, Sequence[str]]
    ) -> dict[str, dict[str, float]]:
        """Return ``{query_id: {doc_id: cosine}}``; documents without a vector are left out.

        Of an id that several rows share (chunks) the best counts. Memory: the vectors of all
        documents named in one call.
        """
        texts = list(dict.fromkeys(queries.values()))
        vector_of = self._embed.again(texts) if texts else {}
        wanted = {doc_id for ids in documents.values() for doc_id in ids}
        places, matrix = self._vectors(sorted(wanted))
        run: dict[str, dict[str, float]] = {}
        for query_id, text in queries.items():
            query = vector_of.get(text)
            length = 0.0 if query is None else float(np.linalg.norm(query))
            found: dict[str, float] = {}
            if query is not None and length:
                for doc_id in documents.get(query_id, ()):
                    if doc_id in places:
                        cosines = matrix[places[doc_id]] @ (query / length)
                        found[doc_id] = float(cosines.max())
            run[query_id] = found
        return run

    def _vectors(self, ids: list[str]) -> tuple[dict[str, list[int]], _Floats]:
        """Return at which rows of a matrix of unit vectors each document stands."""
        places: dict[str, list[int]] = {}
        blocks: list[_Floats] = []
        n_rows = 0
        for batch in rows_by_id(self._dataset, self._id_column, ids, [self._column]):
            rows, vectors = vectors_of(batch[self._column], batch.num_rows, "documents")
            norms = np.linalg.norm(vectors, axis=1)
            names = batch[self._id_column].to_pylist()
            for offset, row in enumerate(rows):
                if norms[offset] > 0:
                    places.setdefault(str(names[row]), []).append(n_rows + offset)
            blocks.append(vectors / np.maximum(norms, np.finfo(np.float32).tiny)[:, None])
            n_rows += len(vectors)
        return places, np.concatenate(blocks) if blocks else np.empty((0, 0), np.float32)
