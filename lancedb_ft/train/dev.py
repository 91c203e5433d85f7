"""What to measure on, for each type of data: held out of it, or given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from lancedb_ft.data.shared_texts import check_disjoint, find_shared_texts, not_shared
from lancedb_ft.data.texts import document_id_of, normalise, query_id_of
from lancedb_ft.data.training.kinds import as_kind
from lancedb_ft.data.training.labelled import labelled_queries
from lancedb_ft.data.training.split import split_training_set
from lancedb_ft.errors import InputError
from lancedb_ft.train.checks import check_texts_by_id, require_dev
from lancedb_ft.train.devset import (
    HELD_OUT,
    MAX_QUERIES,
    DevSet,
    Measured,
    check_leaks,
    hold_out,
    make_dev_set,
)
from lancedb_ft.train.examples import as_training_set
from lancedb_ft.train.scored_dev import make_scored_dev_set
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = [
    "Held",
    "hold_out_of",
    "hold_out_of_first",
    "make_measured",
    "retrieval_pairs",
    "without_texts",
]

#: Texts of each label in the corpus that held-out texts are looked up in.
TEXTS_PER_LABEL = 20


class Held(NamedTuple):
    """What is trained on, what is measured on, and how they were divided."""

    data: Pairs | TrainingSet
    dev: Pairs | TrainingSet
    info: Mapping[str, Any]


def hold_out_of(data: Pairs | TrainingSet, *, seed: int) -> Held:
    """Split off a dev set of the same type; nothing in it, nor like it, is left to train on.

    Raises
    ------
    InputError
        The rows are too few, or hang together too much, to be split.
    """
    if isinstance(data, Pairs):
        return Held(*hold_out(data, seed=seed))
    try:
        split = split_training_set(data, seed=seed, shares=(1 - HELD_OUT, HELD_OUT, 0.0))
    except InputError as error:
        raise InputError(
            f"No dev set was given, and {HELD_OUT:.0%} of the {len(data)} rows cannot be held out "
            f"as one: {error} Pass dev=."
        ) from error
    return Held(split.train, split.dev, dict(split.info))


def hold_out_of_first(
    sets: Sequence[Pairs | TrainingSet], *, seed: int
) -> tuple[list[Pairs | TrainingSet], Pairs | TrainingSet, dict[str, Any]]:
    """Split a dev set off the first of several sets, and leave out of the others what it asks for.

    Returns
    -------
    tuple
        What is trained on, the dev set, and how they were divided: with several sets,
        ``left_out_of_others`` counts the rows and negatives that each of the others lost.

    Raises
    ------
    InputError
        The first cannot be split, or nothing is left of another.
    """
    held = hold_out_of(sets[0], seed=seed)
    kept, left_out = [held.data], []
    for number, one in enumerate(sets[1:], 2):
        left, dropped = _without_held_out(one, held.dev)
        if not len(left):
            raise InputError(
                f"No dev set was given, and all {len(one)} rows of set {number} have a text that "
                "was held out of the first as one. Pass dev=."
            )
        kept.append(left)
        left_out.append(dropped)
    info = {"held_out_of_train": True, **held.info}
    return kept, held.dev, {**info, "left_out_of_others": left_out} if left_out else info


def without_texts(data: Pairs | TrainingSet, banned: set[str]) -> Pairs | TrainingSet:
    """Leave out the rows that have one of these texts, as `normalise` gives them, anywhere."""
    columns = [column.to_pylist() for column in as_training_set(data).table.columns]
    keep = [banned.isdisjoint(_texts_of(row)) for row in zip(*columns, strict=True)]
    return data.take(pa.array(keep, pa.bool_()))


def make_measured(
    dev: Pairs | TrainingSet,
    data: Sequence[Pairs | TrainingSet],
    *,
    seed: int,
    distractors: Mapping[str, str] | None = None,
) -> Measured:
    """Make what is measured during training.

    Parameters
    ----------
    dev
        Held-out data of any type.
    data
        All that is trained on; the first gives the corpus around the dev documents.
    distractors
        See `make_dev_set`.

    Raises
    ------
    LeakError
        Held-out texts are trained on.
    InputError
        Nothing can be measured on the dev data, or they are something else.
    """
    require_dev(dev)
    check_texts_by_id("distractors", distractors)
    for one in data:
        if isinstance(dev, Pairs) and isinstance(one, Pairs):
            check_leaks(one, dev)
        else:
            check_disjoint(one, dev)
    training_set = as_training_set(dev)
    if training_set.kind == "scored":
        return make_scored_dev_set(training_set, seed=seed)
    if training_set.kind == "labelled":
        return _labelled(training_set, data, seed)
    pairs = dev if isinstance(dev, Pairs) else retrieval_pairs(dev)
    around = [one if isinstance(one, Pairs) else _documents_of(one) for one in data]
    first = next((one for one in around if one is not None), Pairs.of([]))
    made = make_dev_set(pairs, first, seed=seed, distractors=distractors)
    return DevSet(made.pairs, made.corpus, alike=training_set.kind == "nli")


def retrieval_pairs(training_set: TrainingSet) -> Pairs:
    """Return the queries of a training set with the documents that answer them.

    Entailments: each premise with what follows from it. Rankings keep their grades. Ids that the
    set has not are made from the texts.

    Raises
    ------
    InputError
        Data of this type holds no queries with documents, or none with an answer; or it is no
        training set.
    """
    if not isinstance(training_set, TrainingSet):
        raise InputError(
            f"Queries with their documents are asked for, and what is given is a "
            f"{type(training_set).__name__}. Give Pairs or a TrainingSet; read_training_file() "
            "reads a file of them."
        )
    if training_set.kind not in _RETRIEVAL:
        raise InputError(
            f"Data of the type {training_set.kind!r} has no queries with documents that answer "
            f"them. Give Pairs, or data of the type {', '.join(_RETRIEVAL)}."
        )
    return _RETRIEVAL[training_set.kind](training_set)


def _without_held_out(
    one: Pairs | TrainingSet, dev: Pairs | TrainingSet
) -> tuple[Pairs | TrainingSet, dict[str, int]]:
    left, dropped = one, {"negatives": 0, "rows": 0}
    if isinstance(one, TrainingSet):
        left, dropped = not_shared(one, [as_training_set(dev)])
    # Nearly the same texts, too: of the first set none is left to train on either.
    shared = {leak.left for leak in find_shared_texts(left, dev, near_duplicates=True)}
    left = without_texts(left, shared)
    return left, {**dropped, "rows": len(one) - len(left)}


def _texts_of(row: Sequence[Any]) -> set[str]:
    flat = (part for value in row for part in (value if isinstance(value, list) else [value]))
    return {normalise(part) for part in flat if isinstance(part, str)}


# --- by type -------------------------------------------------------------------------------


def _anchors(training_set: TrainingSet) -> Pairs:
    return _paired(training_set, "anchor", "positive")


def _queries(training_set: TrainingSet) -> Pairs:
    return _paired(training_set, "query", "positive")


def _entailments(training_set: TrainingSet) -> Pairs:
    return _anchors(as_kind(training_set, "pairs"))


def _relevant(training_set: TrainingSet) -> Pairs:
    table = training_set.table.filter(pc.greater(training_set.table["grade"], 0))
    if not table.num_rows:
        raise InputError("No document of the dev set has a grade above 0: nothing can be found.")
    names = ["query_id", "query", "doc_id", "document", "grade"]
    return Pairs(table.select(names), training_set.source)


_RETRIEVAL: Mapping[str, Callable[[TrainingSet], Pairs]] = {
    "pairs": _anchors,
    "triplets": _anchors,
    "negatives": _queries,
    "nli": _entailments,
    "ranking": _relevant,
}


def _paired(training_set: TrainingSet, query: str, document: str) -> Pairs:
    table = training_set.table
    texts = {"query": table[query].to_pylist(), "document": table[document].to_pylist()}
    ids = {"query_id": (query_id_of, texts["query"]), "doc_id": (document_id_of, texts["document"])}
    columns = {
        name: table[name].to_pylist() if name in table.column_names else list(map(made, side))
        for name, (made, side) in ids.items()
    }
    return Pairs(pa.table({**columns, **texts}), training_set.source)


def _documents_of(training_set: TrainingSet) -> Pairs | None:
    if training_set.kind not in _RETRIEVAL:
        return None
    return retrieval_pairs(training_set)


def _labelled(dev: TrainingSet, data: Sequence[Pairs | TrainingSet], seed: int) -> DevSet:
    """Look held-out texts up among those trained on, as a nearest-neighbour classifier would."""
    trained = [one for one in data if isinstance(one, TrainingSet) and one.kind == "labelled"]
    pairs, corpus = labelled_queries(
        dev,
        trained[0] if trained else None,
        seed=seed,
        max_queries=MAX_QUERIES,
        per_label=TEXTS_PER_LABEL,
    )
    return DevSet(pairs, corpus, alike=True)
