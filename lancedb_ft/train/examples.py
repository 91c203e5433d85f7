"""Training sets as sentence-transformers wants them: columns by position, in a loss's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from lancedb_ft.data.texts import normalise
from lancedb_ft.data.training.examples import labelled_pairs, nli_triplets, ranking_pairs
from lancedb_ft.errors import InputError
from lancedb_ft.train.losses import CACHED_FORMS, Loss, check_shape, require_loss
from lancedb_ft.train.stages import cycled, staged, usual_length
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "ALIKE",
    "Examples",
    "as_training_set",
    "check_contrast",
    "default_loss",
    "make_examples",
    "usable_batch_size",
]

#: With fewer labels than this, a batch that holds each label once teaches little: each text then
#: gets a negative of its own, and `triplet` reads batches of any size.
FEW_LABELS = 16

#: A teacher's scores are divided so that they differ by so much within a row (standard deviation).
#: At 1 the best of three candidates would get 3 quarters of the probability at most, which asks a
#: model that tells them apart well to do it less well.
TEACHER_SHARPNESS = 3.0

#: Types of data whose two sides are alike: both get the prompt of documents.
ALIKE = ("scored", "nli", "labelled")

#: The column that is no text: what the loss compares with.
LABEL_COLUMN = "label"


@dataclass(frozen=True)
class Examples:
    """One set of training examples.

    Parameters
    ----------
    name
        Tells it from others that are trained together.
    kind
        The type of the data it was made from, a key of `lancedb_ft.training_sets.KINDS`.
    shape
        A key of `lancedb_ft.train.losses.SHAPES`.
    columns
        Texts by column, in the order the loss reads them, then ``label`` where it reads numbers.
    loss
        What it is trained with.
    groups
        One value a row: rows of one group are no negatives of each other. None if all may be.
    query_prompt, document_prompt
        What stands before the texts of the first column and of the others.
    teacher_temperature
        See `lancedb_ft.train.losses.LossSettings`.
    n_stages
        Of a curriculum: the columns have the rows of each stage, one stage after the other.
    """

    name: str
    kind: str
    shape: str
    columns: Mapping[str, list[Any]] = field(repr=False)
    loss: Loss
    groups: list[str] | None = field(default=None, repr=False)
    query_prompt: str | None = None
    document_prompt: str | None = None
    teacher_temperature: float = 1.0
    n_stages: int = 1

    def __len__(self) -> int:
        """Return the number of rows of an epoch."""
        return len(next(iter(self.columns.values()))) // self.n_stages

    @property
    def texts(self) -> dict[str, list[str]]:
        """The columns of texts."""
        return {n: column for n, column in self.columns.items() if n != LABEL_COLUMN}

    @property
    def has_negatives(self) -> bool:
        """Whether rows have negatives of their own."""
        return self.shape in ("triplets", "tuples", "teacher")

    @property
    def prompts(self) -> dict[str, str]:
        """The prompt of each column of texts, where it has one."""
        first, *others = self.texts
        first_prompt = self.document_prompt if self.kind in ALIKE else self.query_prompt
        found = {first: first_prompt, **dict.fromkeys(others, self.document_prompt)}
        return {column: prompt for column, prompt in found.items() if prompt}

    def dataset(self, *, with_groups: bool = False) -> Dataset:
        """Return the columns as the data set that the trainer takes.

        Parameters
        ----------
        with_groups
            One more column that no text can stand in, for the sampler alone.
        """
        from datasets import Dataset

        columns = dict(self.columns)
        if with_groups and self.groups is not None:
            columns["group"] = [f"\0{group}" for group in self.groups]
        made = Dataset.from_dict(columns).select_columns(list(columns))
        made.info.dataset_name = self.name
        return made


def as_training_set(data: Pairs | TrainingSet) -> TrainingSet:
    """Return data of either noun as a training set."""
    return TrainingSet.of_pairs(data) if isinstance(data, Pairs) else data


def default_loss(training_set: TrainingSet) -> str:
    """Return the name of the usual loss for data of this type.

    Examples
    --------
    >>> default_loss(TrainingSet.of_pairs(Pairs.of([("q", "hi", "d", "hello")])))
    'mnrl'
    """
    if training_set.kind == "scored":
        return "cosent"
    if training_set.kind == "labelled":
        return "triplet" if _n_labels(training_set) < FEW_LABELS else "mnrl"
    return "distill_kl" if _has_teacher(training_set) else "mnrl"


def make_examples(
    training_set: TrainingSet,
    *,
    loss: str | None = None,
    name: str = "set0",
    seed: int = 0,
    prompts: tuple[str | None, str | None] = (None, None),
    cached: bool = False,
    curriculum: int | None = None,
) -> list[Examples]:
    """Bring a training set into the shape that its loss reads.

    Texts that are the same but for case and white space get one spelling, the first one seen: the
    sampler that keeps a text from being its own negative compares strings.

    Parameters
    ----------
    loss
        A key of `LOSSES`; None for that of the set, or `default_loss`.
    seed
        Of what is drawn, such as the partners of labelled texts.
    prompts
        Of queries and of documents, where the set names none of its own.
    cached
        Take the cached form of the loss, if it has one.
    curriculum
        Number of stages that the negatives of data with negatives are divided into.

    Returns
    -------
    list of Examples
        One, or two where some rows have negatives and others have none.

    Raises
    ------
    InputError
        The loss cannot be trained on data of this type, or nothing can be learned from it.
    """
    wanted = loss or training_set.loss or default_loss(training_set)
    chosen = require_loss(CACHED_FORMS.get(wanted, wanted) if cached else wanted)
    if not len(training_set):
        raise InputError("There are no pairs to train on: the data to train on is empty.")
    n_stages = curriculum if curriculum and training_set.kind == "negatives" else 1
    if n_stages > 1:
        training_set = staged(training_set, n_stages)
    shape = check_shape(chosen, _shapes_of(training_set), kind=training_set.kind)
    tables = _CONVERSIONS[training_set.kind](training_set, shape, seed)
    for made in tables:
        check_shape(chosen, [made.shape], kind=training_set.kind)
    query_prompt, document_prompt = (
        own if own is not None else usual
        for own, usual in zip(
            (training_set.query_prompt, training_set.document_prompt), prompts, strict=True
        )
    )
    return [
        Examples(
            name=f"{name}{chr(ord('a') + position) if len(tables) > 1 else ''}",
            kind=training_set.kind,
            shape=made.shape,
            columns=_spelled_alike(made.columns),
            loss=chosen,
            groups=made.groups,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            teacher_temperature=made.teacher_temperature,
            n_stages=n_stages,
        )
        for position, made in enumerate(tables)
    ]


def usable_batch_size(examples: Examples, batch_size: int, *, n_processes: int = 1) -> int:
    """Return the batch size that the texts can fill.

    Where a batch holds a text once, a larger size would not make larger batches, it would end the
    epoch before all rows were seen, since the number of steps is counted from it.
    """
    sizes = [len(examples) // n_processes] if n_processes > 1 else [len(examples)]
    if examples.loss.in_batch_negatives:
        columns = list(examples.texts.values())[:2]
        if examples.groups is not None:
            columns.append(examples.groups)
        sizes += [len(set(column)) for column in columns]
    return max(1, min(batch_size, *sizes))


def check_contrast(examples: Examples, batch_size: int) -> None:
    """Refuse to train where no query has any document to be told from.

    Raises
    ------
    InputError
        A batch could only ever hold one row, and the rows have no negatives.
    """
    loss = examples.loss
    if not loss.in_batch_negatives or examples.has_negatives:
        return
    if batch_size < 2:
        raise InputError(
            f"batch_size is {batch_size}, and loss {loss.name!r} takes the other documents of a "
            "batch as negatives: there are none. Use a batch size of 2 or more (64 is usual), or "
            "give pairs with a column 'negative'."
        )
    n_queries, n_documents = (len(set(c)) for c in list(examples.texts.values())[:2])
    if min(n_queries, n_documents) < 2:
        raise InputError(
            f"The {len(examples)} pairs to train on have {n_queries} distinct queries and "
            f"{n_documents} distinct documents: there is nothing to tell apart. Give pairs of at "
            "least two queries and two documents, or with a column 'negative'."
        )


# --- shapes --------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Made:
    """Columns in one shape."""

    shape: str
    columns: dict[str, list[Any]]
    groups: list[str] | None = None
    teacher_temperature: float = 1.0


def _shapes_of(training_set: TrainingSet) -> list[str]:
    """Return the shapes that data of this type can be brought into."""
    table = training_set.table
    shapes = {
        "pairs": ["pairs"],
        "triplets": ["tuples", "triplets"],
        "scored": ["scored"],
        "nli": ["triplets", "pairs"],
        "ranking": ["tuples", "triplets", "pairs"],
        "negatives": ["tuples", "triplets"],
        "labelled": ["pairs", "triplets"],
    }[training_set.kind]
    return [*shapes, "teacher"] if _has_teacher(training_set) and len(table) else shapes


def _of_rows(training_set: TrainingSet, shape: str, seed: int) -> list[_Made]:
    """Pairs, triplets and tuples, as they stand; of several negatives one a row for triplets."""
    table = training_set.table
    groups = table["group"].to_pylist() if "group" in table.column_names else None
    columns = {name: table[name].to_pylist() for name in ("anchor", "positive")}
    negatives = {n: table[n].to_pylist() for n in training_set.negative_columns}
    if not negatives:
        return [_Made("pairs", columns, groups)]
    if shape != "triplets" or len(negatives) == 1:
        found = "triplets" if len(negatives) == 1 else "tuples"
        return [_Made(found, {**columns, **negatives}, groups)]
    n = len(negatives)
    repeated = {name: values * n for name, values in columns.items()}
    repeated["negative_1"] = [text for column in negatives.values() for text in column]
    return [_Made("triplets", repeated, groups * n if groups is not None else None)]


def _of_scored(training_set: TrainingSet, shape: str, seed: int) -> list[_Made]:
    table = training_set.table
    columns = {name: table[name].to_pylist() for name in ("sentence1", "sentence2")}
    return [_Made("scored", {**columns, LABEL_COLUMN: table["score"].to_pylist()})]


def _of_nli(training_set: TrainingSet, shape: str, seed: int) -> list[_Made]:
    return _of_rows(nli_triplets(training_set, seed=seed), shape, seed)


def _of_ranking(training_set: TrainingSet, shape: str, seed: int) -> list[_Made]:
    return _of_rows(ranking_pairs(training_set, seed=seed), shape, seed)


def _of_labelled(training_set: TrainingSet, shape: str, seed: int) -> list[_Made]:
    made = labelled_pairs(training_set, seed=seed, negatives=int(shape == "triplets"))
    return _of_rows(made, shape, seed)


def _of_negatives(training_set: TrainingSet, shape: str, seed: int) -> list[_Made]:
    """Rows with lists of negatives; all rows of one table get as many as most of them have."""
    rows = training_set.table.to_pylist()
    bare = [row for row in rows if not row["negatives"]]
    full = [row for row in rows if row["negatives"]]
    if shape == "teacher":
        return [_of_teacher(full)] if full else _no_negatives(training_set)
    made = []
    if full:
        n = 1 if shape == "triplets" else usual_length([row["negatives"] for row in full])
        if shape == "triplets":
            full = [{**row, "negatives": [text]} for row in full for text in row["negatives"]]
        made.append(_Made("triplets" if n == 1 else "tuples", _filled(full, n)))
    if bare:
        made.append(_Made("pairs", _filled(bare, 0)))
    return made


def _of_teacher(rows: Sequence[Mapping[str, Any]]) -> _Made:
    n = usual_length([row["negatives"] for row in rows])
    scores = [[row["positive_score"], *cycled(row["negative_scores"], n)] for row in rows]
    # A softmax over scores from 0 to 1 is nearly flat, one over logits nearly all or nothing:
    # divided by how much they differ within a row, both say the same.
    spread = float(np.mean([np.std(row) for row in scores])) / TEACHER_SHARPNESS
    return _Made(
        "teacher",
        {**_filled(rows, n), LABEL_COLUMN: scores},
        teacher_temperature=spread if spread > 0 else 1.0,
    )


def _no_negatives(training_set: TrainingSet) -> list[_Made]:
    raise InputError(
        f"None of the {len(training_set)} rows has a negative, and a teacher's scores compare a "
        "positive with negatives. Mine negatives first, or use loss 'mnrl'."
    )


def _filled(rows: Sequence[Mapping[str, Any]], n: int) -> dict[str, list[Any]]:
    columns = {name: [row[name] for row in rows] for name in ("query", "positive")}
    lists = [cycled(row["negatives"], n) for row in rows]
    return columns | {f"negative_{i + 1}": [texts[i] for texts in lists] for i in range(n)}


def _has_teacher(training_set: TrainingSet) -> bool:
    return {"positive_score", "negative_scores"} <= set(training_set.table.column_names)


def _n_labels(training_set: TrainingSet) -> int:
    return len(training_set.table["label"].unique())


def _spelled_alike(columns: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    spelling: dict[str, str] = {}
    return {
        name: values
        if name == LABEL_COLUMN
        else [spelling.setdefault(normalise(text), text.strip()) for text in values]
        for name, values in columns.items()
    }


_CONVERSIONS: Mapping[str, Callable[[TrainingSet, str, int], list[_Made]]] = {
    "pairs": _of_rows,
    "triplets": _of_rows,
    "scored": _of_scored,
    "nli": _of_nli,
    "ranking": _of_ranking,
    "negatives": _of_negatives,
    "labelled": _of_labelled,
}
