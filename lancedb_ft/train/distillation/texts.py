"""What a student learns from: texts on two sides, and which of them belong together."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.table import database_uri, scan, text_column_of
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["DistillData", "StudentTexts", "read_texts"]

#: What `distill` learns from: a table, training data, texts by id, texts; or several of these.
DistillData: TypeAlias = (
    "Table | Pairs | TrainingSet | Mapping[str, str] | Iterable[str]"
    " | Sequence[Table | Pairs | TrainingSet | Mapping[str, str]]"
)

_Rows: TypeAlias = "Iterator[tuple[str | None, str | None]]"

#: Which columns of training data are queries; every other text of it is a document.
_QUERY_COLUMNS = ("anchor", "query")
_TEXT_COLUMNS = (
    *(*_QUERY_COLUMNS, "positive", "document", "negatives"),
    *("sentence1", "sentence2", "premise", "hypothesis", "text"),
)


@dataclass(frozen=True)
class StudentTexts:
    """Texts to learn the teacher's vectors of.

    Parameters
    ----------
    queries, documents
        Distinct texts of either side: they may have different prompts.
    pairs
        Positions ``(query, document)`` of texts that belong together.
    source
        Where they come from, for the lineage.
    n_left_out
        Texts that are queries of the dev set, and so are not learned.
    """

    queries: Sequence[str]
    documents: Sequence[str]
    pairs: Sequence[tuple[int, int]] = ()
    source: Mapping[str, Any] = field(default_factory=dict)
    n_left_out: int = 0

    def __len__(self) -> int:
        """Return the number of texts."""
        return len(self.queries) + len(self.documents)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the texts and the pairs."""
        digest = hashlib.sha256(repr(list(self.pairs)).encode())
        for side in (self.queries, self.documents):
            for text in side:
                digest.update(text.encode("utf-8", "surrogatepass") + b"\x1f")
            digest.update(b"\x1e")
        return digest.hexdigest()

    @property
    def labelled(self) -> Pairs:
        """The pairs, in the form that leaks are looked for."""
        return Pairs.of(
            [(f"q{q}", self.queries[q], f"d{d}", self.documents[d]) for q, d in self.pairs]
        )


def read_texts(
    data: DistillData,
    *,
    dev: Pairs,
    text_column: str | None = None,
    max_texts: int | None = None,
    seed: int = 0,
) -> StudentTexts:
    """Collect the distinct texts of some data.

    Parameters
    ----------
    data
        See `DistillData`. Of a table the text column is read; of texts by id, or texts alone, all
        are documents.
    dev
        Its queries are left out wherever they stand.
    max_texts
        Keep so many at most, chosen by ``seed``; texts of pairs are kept first.

    Raises
    ------
    InputError
        There are no texts, or something else than texts.
    """
    sides: tuple[dict[str, int], dict[str, int]] = ({}, {})
    pairs: dict[tuple[int, int], None] = {}
    source: dict[str, Any] = {}
    asked = {normalise(text) for text in dev.queries.values()}
    left_out = set()
    for part in _parts(data):
        rows, told = _read(part, text_column)
        source = {**told, **source}
        for row in rows:
            places = []
            for side, text in zip(sides, row, strict=True):
                if text is None or not text.strip():
                    continue
                if normalise(text) in asked:
                    left_out.add(text)
                    continue
                places.append(side.setdefault(text, len(side)))
            if len(places) == 2:
                pairs[places[0], places[1]] = None
    texts = StudentTexts(list(sides[0]), list(sides[1]), list(pairs), source, len(left_out))
    if not len(texts):
        raise InputError("There are no texts to learn from.")
    return texts if max_texts is None else _at_most(texts, max_texts, seed)


def _parts(data: DistillData) -> Iterator[Any]:
    if isinstance(data, (list, tuple)) and not all(_is_text(part) for part in data):
        yield from data
        return
    yield data


def _is_text(part: Any) -> bool:
    return part is None or isinstance(part, str)


def _read(part: Any, text_column: str | None) -> tuple[_Rows, dict[str, Any]]:
    """Return rows of one query and one document, either of which may be missing."""
    if isinstance(part, Pairs):
        part = TrainingSet.of_pairs(part)
    if isinstance(part, TrainingSet):
        return _of_training_set(part), dict(part.source)
    if isinstance(part, Mapping):
        return ((None, text) for text in part.values()), {}
    if hasattr(part, "schema") and hasattr(part, "search"):
        column = text_column_of(part.schema, text_column, table=part.name)
        known = {"name": part.name, "version": part.version}
        told = {"database": database_uri(part), "tables": {"docs": known}}
        return _of_table(part, column), told
    if isinstance(part, str) or not isinstance(part, Iterable):
        raise InputError(
            f"data is a {type(part).__name__}; pass a LanceDB table, Pairs, a TrainingSet, "
            "{id: text}, texts, or a list of several of these."
        )
    return _of_texts(part), {}


def _of_texts(texts: Iterable[Any]) -> _Rows:
    for text in texts.to_pylist() if isinstance(texts, (pa.Array, pa.ChunkedArray)) else texts:
        if text is not None and not isinstance(text, str):
            raise InputError(f"Expected texts, found a {type(text).__name__} among them.")
        yield None, text


def _of_table(table: Table, column: str) -> _Rows:
    for batch in scan(table, [column]):
        yield from ((None, text) for text in batch[column].to_pylist())


def _of_training_set(data: TrainingSet) -> _Rows:
    table = data.table
    if "grade" in table.column_names:  # a judged miss is no pair
        misses = table.filter(pc.less_equal(table["grade"], 0))
        yield from ((None, text) for text in misses["document"].to_pylist())
        table = table.filter(pc.greater(table["grade"], 0))
    # Ids, scores and labels are no texts, but for the column of that name.
    names = [name for name in table.column_names if _holds_texts(name)]
    queries = next((name for name in _QUERY_COLUMNS if name in names), None)
    others = [name for name in names if name != queries]
    if queries is not None and others:
        yield from zip(table[queries].to_pylist(), table[others.pop(0)].to_pylist(), strict=True)
    for name in others:
        column = table[name]
        if pa.types.is_list(column.type):
            column = pc.list_flatten(column)
        yield from ((None, text) for text in column.to_pylist())


def _holds_texts(name: str) -> bool:
    return name in _TEXT_COLUMNS or (name.startswith("negative_") and name[9:].isdecimal())


def _at_most(texts: StudentTexts, limit: int, seed: int) -> StudentTexts:
    if len(texts) <= limit:
        return texts
    paired: tuple[set[int], set[int]] = ({q for q, _ in texts.pairs}, {d for _, d in texts.pairs})
    ranked = sorted(
        (place not in paired[side], stable_key(seed, text), side, place)
        for side, column in enumerate((texts.queries, texts.documents))
        for place, text in enumerate(column)
    )[:limit]
    kept = [sorted(place for _, _, s, place in ranked if s == side) for side in (0, 1)]
    new = [{old: place for place, old in enumerate(places)} for places in kept]
    return StudentTexts(
        [texts.queries[place] for place in kept[0]],
        [texts.documents[place] for place in kept[1]],
        [(new[0][q], new[1][d]) for q, d in texts.pairs if q in new[0] and d in new[1]],
        texts.source,
        texts.n_left_out,
    )
