"""Mining from a table as it serves, and in rounds with the model that is being trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.data.mine import MinedNegatives, TableDocuments, bm25_retriever
from lancedb_ft.errors import InputError, NoEmbedderError
from lancedb_ft.evaluate import TextEncoder, retriever, stored_retriever
from lancedb_ft.evaluate.queries import searched_column
from lancedb_ft.search.fusion import RRF_K
from lancedb_ft.table import id_column_of, scan, vector_columns
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import ModelVersion, Retriever, Run

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["MINE_MODES", "MiningRound", "mine_rounds", "table_candidates"]

#: Scores named documents: ``score(queries, {query_id: [doc_id, ...]})``.
Score = Callable[[Mapping[str, str], Mapping[str, Sequence[str]]], Run]


@dataclass(frozen=True)
class _Where:
    """A table and which of its columns are meant."""

    table: Table
    column: str | None
    encoder: TextEncoder | None
    id_column: str | None
    text_column: str | None

    def retriever(self, mode: Any) -> Retriever:
        """Search it as plain LanceDB does."""
        return retriever(
            self.table,
            mode=mode,
            column=self.column,
            encoder=self.encoder,
            id_column=self.id_column,
            text_column=self.text_column,
        )

    def by_vector(self) -> Retriever:
        """Search its index; without one, all vectors by one matrix product."""
        if self._is_indexed() or not self._has_distinct_ids():
            return self.retriever("vector")
        return stored_retriever(
            self.table, column=self.column, encoder=self.encoder, id_column=self.id_column
        )

    def by_text(self) -> Retriever:
        """Search its full-text index."""
        return self.retriever("fts")

    def by_both(self) -> Retriever:
        """Fuse both by rank, as LanceDB's hybrid search does."""
        if self._is_indexed():
            return self.retriever("hybrid")
        return _Fused((self.by_vector(), self.by_text()))

    def in_memory(self) -> Retriever:
        """Index the texts in memory."""
        documents = TableDocuments(
            self.table, id_column=self.id_column, text_column=self.text_column
        )
        return bm25_retriever(documents)

    def score(self) -> Score | None:
        """Return what scores by the stored vectors; None where the table cannot."""
        if not vector_columns(self.table.schema):
            return None
        try:
            return getattr(self.retriever("vector"), "score", None)
        except NoEmbedderError:
            return None

    def _is_indexed(self) -> bool:
        column = searched_column(self.table.schema, self.table.name, self.column)
        return any(list(index.columns) == [column] for index in self.table.list_indices())

    def _has_distinct_ids(self) -> bool:
        key = id_column_of(self.table.schema, self.id_column, table=self.table.name)
        ids = [i for batch in scan(self.table, [key]) for i in batch[key].to_pylist()]
        return len(set(ids)) == len(ids)


#: Where candidates come from, by the name that ``--mode`` takes.
MINE_MODES: Mapping[str, Callable[[_Where], Retriever]] = {
    "vector": _Where.by_vector,
    "fts": _Where.by_text,
    "hybrid": _Where.by_both,
    "bm25": _Where.in_memory,
}


def table_candidates(
    table: Table,
    mode: str = "vector",
    *,
    column: str | None = None,
    encoder: TextEncoder | None = None,
    id_column: str | None = None,
    text_column: str | None = None,
) -> TableCandidates:
    """Return what `mine_negatives` takes as candidates: the table as it is served.

    No document is encoded: candidates come from the table's own vectors and indexes. Whatever
    finds them, they are judged by the cosine of the stored vectors, where the table has some and
    names their model (or ``encoder`` is given); so the margin has one meaning in every mode.

    Parameters
    ----------
    table
        The table.
    mode
        ``vector`` (its index, or all vectors at once where it has none), ``fts`` (its full-text
        index), ``hybrid`` (both, fused by rank) or ``bm25`` (an index made in memory, for a table
        without a full-text index; needs the extra ``mine``).
    column, encoder, id_column, text_column
        As for `lancedb_ft.retriever`.

    Raises
    ------
    InputError
        There is no such mode.
    NoTextIndexError, NoEmbedderError
        The table has not what the mode needs.

    Examples
    --------
    >>> mined = ft.mine_negatives(                                           # doctest: +SKIP
    ...     split.train, ft.table_candidates(docs, "hybrid"), corpus=docs
    ... )
    """
    if mode not in MINE_MODES:
        raise InputError(f"mode is {mode!r}; it must be one of {sorted(MINE_MODES)}.")
    where = _Where(table, column, encoder, id_column, text_column)
    found = MINE_MODES[mode](where)
    score = getattr(found, "score", None) if mode == "vector" else where.score()
    if score is None:
        score = getattr(found, "score", None)
    return TableCandidates(mode, found, score)


@dataclass(frozen=True)
class TableCandidates:
    """See `table_candidates`. ``score`` is None where nothing scores documents not found."""

    mode: str
    retrieve: Retriever = field(repr=False)
    score: Score | None = field(repr=False)

    def __call__(self, queries: Mapping[str, str], k: int) -> Run:
        """Return the best ``k`` documents for each query."""
        return self.retrieve(queries, k)


@dataclass(frozen=True)
class _Fused:
    """Reciprocal rank fusion of several retrievers, each asked for ``k``."""

    retrievers: Sequence[Retriever]

    def __call__(self, queries: Mapping[str, str], k: int) -> Run:
        fused: dict[str, dict[str, float]] = {query_id: {} for query_id in queries}
        for retrieve in self.retrievers:
            for query_id, hits in retrieve(queries, k).items():
                scores = fused[query_id]
                # Equal scores stay in the order in which they were served.
                ranked = sorted(hits, key=lambda doc_id: -hits[doc_id])
                for rank, doc_id in enumerate(ranked, RRF_K + 1):
                    scores[doc_id] = scores.get(doc_id, 0.0) + 1.0 / rank
        return {
            query_id: dict(sorted(scores.items(), key=lambda hit: (-hit[1], hit[0]))[:k])
            for query_id, scores in fused.items()
        }


# --- rounds --------------------------------------------------------------------------------


@dataclass(frozen=True)
class MiningRound:
    """One round: the model that was mined with, what it gave, and the model trained on that."""

    number: int
    mined_with: str
    mined: MinedNegatives
    model: ModelVersion


def mine_rounds(
    base: str,
    n_rounds: int,
    *,
    mine: Callable[[str], MinedNegatives],
    train: Callable[[str, TrainingSet], ModelVersion],
) -> list[MiningRound]:
    """Mine with the model as it is, train on that, mine again with the result.

    What is hard for the base model is soon easy for the tuned one; negatives mined anew are what
    it still takes for answers (ANCE, arXiv:2007.00808). Documents are encoded again each round,
    by ``mine``: the model is another one.

    Parameters
    ----------
    base
        The model that the first round mines with.
    n_rounds
        How many; two are usual.
    mine
        Gives the negatives that a model finds, for instance
        ``lambda model: ft.mine_negatives(pairs, ft.exact_retriever(ft.get_encoder(model), corpus),
        corpus=corpus)``.
    train
        Trains on them and returns the version saved. It is given the model that was mined with: it
        may go on from it, or start from the base each time.

    Returns
    -------
    list of MiningRound
        In order. An error that ``train`` raises (`NoGainError`, for instance) in a later round
        ends the rounds, and what was trained before stays in the store.

    Raises
    ------
    InputError
        ``n_rounds`` is below 1.
    """
    if n_rounds < 1:
        raise InputError(f"n_rounds is {n_rounds}; it must be 1 or more.")
    rounds: list[MiningRound] = []
    model = base
    for number in range(1, n_rounds + 1):
        mined = mine(model)
        trained = train(model, mined.training_set)
        rounds.append(MiningRound(number, model, mined, trained))
        model = trained.path
    return rounds
