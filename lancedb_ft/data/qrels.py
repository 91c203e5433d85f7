"""Read pairs from tables of documents, queries and relevance judgements (qrels)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from lancedb_ft.data.leaks import drop_leaks
from lancedb_ft.data.pair_rows import PairCollector
from lancedb_ft.data.reader import TableReader, read_texts, unique_texts
from lancedb_ft.data.split import split_pairs
from lancedb_ft.data.texts import stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.table import id_column_of, text_column_of
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs, Split

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["JudgedTables", "read_qrels", "read_qrels_split", "sample_queries", "value_of_part"]

#: What the parts are called by those who publish data sets.
_SPLIT_NAMES = {
    "train": ("train", "training"),
    "dev": ("dev", "validation", "val", "valid", "development"),
    "test": ("test",),
}


def read_qrels(
    docs: Table,
    queries_table: Table,
    qrels_table: Table,
    *,
    split: str | None = None,
    split_column: str = "split",
    max_pairs: int | None = None,
    seed: int = 0,
    id_column: str | None = None,
    text_column: str | None = None,
    max_rejected: float = 0.1,
) -> Pairs:
    """Read the relevant pairs of three tables in the layout that `load_files` writes.

    Parameters
    ----------
    docs
        The documents.
    queries_table
        The queries: ``id``, ``text``, and ``split_column`` if ``split`` is given.
    qrels_table
        The judgements: ``query_id``, ``doc_id``, ``score``. A score above 0 makes a pair of that
        grade; 0 is skipped and counted.
    split
        Only queries of this part: ``train``, ``dev`` (also called ``validation``, ``val``,
        ``valid``) or ``test``, or any other value of ``split_column``.
    split_column
        Column of ``queries_table`` with the part.
    max_pairs
        Keep whole queries, chosen at random by ``seed``, up to that many pairs.
    seed
        See ``max_pairs``.
    id_column, text_column
        Columns of ``docs``.
    max_rejected
        As for `read_pairs`.

    Raises
    ------
    BadRowsError
        More judgements than allowed name unknown queries or documents, or no pair is left.
    ColumnNotFoundError
        A column does not exist.
    InputError
        No query has that value of ``split_column``.
    """
    tables = JudgedTables(docs, queries_table, qrels_table, id_column, text_column, max_rejected)
    column = split_column if split is not None else None
    pairs = tables.pairs(column, split)
    return pairs if max_pairs is None else sample_queries(pairs, max_pairs, seed=seed)


def read_qrels_split(
    docs: Table,
    queries_table: Table,
    qrels_table: Table,
    *,
    split_column: str | None = None,
    max_pairs: int | None = None,
    seed: int = 0,
    dev_share: float = 0.1,
    threshold: float = 0.8,
    id_column: str | None = None,
    text_column: str | None = None,
    max_rejected: float = 0.1,
) -> Split:
    """Read pairs in three parts: as published, if the queries say so, else split here.

    With a split column, the published parts are used. Published splits often leak: pairs of dev
    that are in test, and pairs of train that are in either, are removed (`drop_leaks`) and counted
    in ``info["dropped"]``. Without a dev part a tenth of train becomes it, grouped as by
    `split_pairs`. Without a split column, `split_pairs` makes all three.

    Parameters
    ----------
    docs, queries_table, qrels_table, id_column, text_column, max_rejected
        As for `read_qrels`.
    split_column
        Column of ``queries_table`` with the part. By default ``split``, if there is one.
    max_pairs
        Keep whole queries of train, chosen at random by ``seed``, up to that many pairs.
    seed
        Chooses the pairs and makes the split.
    dev_share
        Share of train that becomes dev when there is none, above 0 and below 1.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1.

    Raises
    ------
    InputError
        There is no train or no test part, or the pairs cannot be divided.
    BadRowsError, ColumnNotFoundError
        As for `read_qrels`.
    """
    tables = JudgedTables(docs, queries_table, qrels_table, id_column, text_column, max_rejected)
    column = split_column
    if column is None and "split" in tables.queries.schema.names:
        column = "split"
    if column is None:
        pairs = tables.pairs(None, None)
        return _capped(split_pairs(pairs, seed=seed, threshold=threshold), max_pairs, seed)
    present = tables.split_values(column)
    for part in ("train", "test"):
        if value_of_part(part, present) is None:
            raise InputError(
                f"The column {column!r} of table {tables.queries.name!r} has no part {part!r}; it "
                f"has {sorted(present)}. Use read_qrels and split_pairs to make one."
            )
    train = tables.pairs(column, "train")
    test = tables.pairs(column, "test")
    if value_of_part("dev", present) is None:
        info: dict[str, Any] = {"method": "published", "dev": f"{dev_share:g} of train"}
        clean = drop_leaks(
            Split(train, train.take(pa.array([], pa.int64())), test), threshold=threshold
        )
        carved = split_pairs(
            clean.train, seed=seed, shares=(1 - dev_share, dev_share, 0), threshold=threshold
        )
        split = Split(carved.train, carved.dev, test, {**clean.info, **info})
    else:
        dev = tables.pairs(column, "dev")
        split = drop_leaks(Split(train, dev, test, {"method": "published"}), threshold=threshold)
    info = {**split.info, "split_column": column, "seed": seed}
    return _capped(replace(split, info=info), max_pairs, seed)


def sample_queries(pairs: Pairs, max_pairs: int, *, seed: int = 0) -> Pairs:
    """Keep whole queries, chosen at random by ``seed``, up to ``max_pairs`` pairs.

    The choice does not depend on the order of the pairs, and more pairs keep what fewer had.
    """
    if max_pairs < 1:
        raise InputError(f"max_pairs is {max_pairs}; it must be 1 or more.")
    if len(pairs) <= max_pairs:
        return pairs
    of_query: dict[str, list[int]] = {}
    for position, query_id in enumerate(pairs.table["query_id"].to_pylist()):
        of_query.setdefault(query_id, []).append(position)
    kept: list[int] = []
    for query_id in sorted(of_query, key=lambda query_id: stable_key(seed, query_id)):
        if len(kept) + len(of_query[query_id]) > max_pairs:
            break
        kept.extend(of_query[query_id])
    if not kept:
        raise InputError(
            f"max_pairs is {max_pairs}, and the first query chosen has more pairs; allow more."
        )
    return pairs.take(pa.array(sorted(kept), pa.int64()))


def _capped(split: Split, max_pairs: int | None, seed: int) -> Split:
    if max_pairs is None:
        return split
    train = sample_queries(split.train, max_pairs, seed=seed)
    return replace(split, train=train, info={**split.info, "max_pairs": max_pairs})


def value_of_part(part: str, present: Sequence[str]) -> str | None:
    """Return the name that means this part, such as ``validation`` for ``dev``; None if none."""
    if part in present:
        return part
    names = next((names for names in _SPLIT_NAMES.values() if part in names), (part,))
    return next((value for value in present if value.lower() in names), None)


class JudgedTables:
    """The three tables, each read once, at one version."""

    def __init__(
        self,
        docs: Table,
        queries: Table,
        qrels: Table,
        id_column: str | None,
        text_column: str | None,
        max_rejected: float,
    ) -> None:
        self.docs, self.queries, self.qrels = (
            TableReader.of(table) for table in (docs, queries, qrels)
        )
        self._named = {"id_column": id_column, "text_column": text_column}
        self._max_rejected = max_rejected
        columns = {"query_id": "query_id", "doc_id": "doc_id", "score": "score"}
        self._judged = list(self.qrels.rows(columns))
        wanted = {str(row["doc_id"]) for row in self._judged}
        self._texts = read_texts(
            self.docs, id_column=id_column, text_column=text_column, wanted=wanted
        )
        schema, name = self.queries.schema, self.queries.name
        self._query_columns = {
            "id": id_column_of(schema, "id" if "id" in schema.names else None, table=name),
            "text": text_column_of(schema, table=name),
        }

    def split_values(self, column: str) -> list[str]:
        """Return the distinct values of the split column, nulls left out."""
        rows = self.queries.rows({"split": column})
        return sorted({str(row["split"]) for row in rows if row["split"] is not None})

    def pairs(self, column: str | None, part: str | None) -> Pairs:
        """Return the pairs of one part, or of all queries."""
        collector = self._collected(column, part, with_misses=False)
        return collector.pairs(
            self._source("qrels", part), name=self._name(part), max_rejected=self._max_rejected
        )

    def ranking(self, column: str | None, part: str | None) -> TrainingSet:
        """Return the judgements of one part, or of all queries, with those of grade 0."""
        collector = self._collected(column, part, with_misses=True)
        return collector.ranking(
            self._source("ranking", part), name=self._name(part), max_rejected=self._max_rejected
        )

    def _collected(self, column: str | None, part: str | None, with_misses: bool) -> PairCollector:
        roles = {**self._query_columns, **({"split": column} if column else {})}
        rows = list(self.queries.rows(roles))
        kept = unique_texts((row["id"], row["text"]) for row in rows)
        others: set[str] = set()
        if column is not None and part is not None:
            present = sorted({str(row["split"]) for row in rows if row["split"] is not None})
            value = value_of_part(part, present)
            if value is None:
                raise InputError(
                    f"No query of table {self.queries.name!r} has {column} = {part!r}; the values "
                    f"are {present}."
                )
            of_part = [row for row in rows if str(row["split"]) == value]
            others = kept.keys() - {str(row["id"]) for row in of_part}
            kept = unique_texts((row["id"], row["text"]) for row in of_part)
        collector = PairCollector(self._texts, with_misses=with_misses)
        for row in self._judged:
            query_id = str(row["query_id"])
            if query_id not in others:
                collector.add(
                    query=kept.get(query_id),
                    doc_id=row["doc_id"],
                    query_id=query_id,
                    grade=row["score"],
                )
        return collector

    def _name(self, part: str | None) -> str:
        return f"Table {self.qrels.name!r}" + (f", part {part!r}" if part else "")

    def _source(self, kind: str, part: str | None) -> dict[str, Any]:
        readers = {"docs": self.docs, "queries": self.queries, "qrels": self.qrels}
        return {
            "kind": kind,
            "database": self.docs.database,
            "tables": {role: reader.to_dict() for role, reader in readers.items()},
            **self._named,
            "split": part,
        }
