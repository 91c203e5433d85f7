"""Which columns of a file or a table are what: the names under which training data are kept."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lancedb_ft.data.training.kinds import makes
from lancedb_ft.data.training.rows import MADE_IDS, NLI_LABELS, SPLIT_COLUMN
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.training_sets import KINDS, require_kind

__all__ = ["JUDGING", "Columns", "find_roles", "known_roles", "unread_columns"]

_QUERY = ("query", "question", "anchor", "sentence", "input", "title")
_ANCHOR = ("anchor", "query", "question", "sentence", "input", "sentence1", "title")
_POSITIVE = ("positive", "pos", "answer", "document", "passage", "output", "response", "sentence2")
_IDS = {
    "query_id": ("query_id", "query-id", "qid"),
    "doc_id": ("doc_id", "corpus-id", "corpus_id", "pid"),
}
_GROUP = {"group": ("group",)}

#: Names under which the field's data sets keep each column, best first, from the most particular
#: kind to the least: the kind of some columns is the first of which all that it needs are there.
ROLE_NAMES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "negatives": {
        "query": _QUERY,
        "positive": _POSITIVE,
        "negatives": ("negatives", "neg", "negative", "hard_negatives"),
        **_IDS,
        "negative_ids": ("negative_ids",),
        "positive_score": ("positive_score", "pos_score"),
        "negative_scores": ("negative_scores", "neg_scores"),
    },
    "ranking": {
        "query_id": _IDS["query_id"],
        "query": ("query", "question", "query_text"),
        "doc_id": _IDS["doc_id"],
        "document": ("document", "text", "passage", "doc_text"),
        "grade": ("grade", "relevance", "rel", "score", "label"),
    },
    "triplets": {
        "anchor": _ANCHOR,
        "positive": _POSITIVE,
        "negative_1": ("negative_1", "negative", "neg", "hard_negative"),
        **_IDS,
        **_GROUP,
    },
    "nli": {
        "premise": ("premise", "sentence1", "text1"),
        "hypothesis": ("hypothesis", "sentence2", "text2"),
        "label": ("label", "gold_label"),
    },
    "scored": {
        "sentence1": ("sentence1", "sentence_1", "sentence_A", "text1", "premise"),
        "sentence2": ("sentence2", "sentence_2", "sentence_B", "text2", "hypothesis"),
        "score": ("score", "similarity", "similarity_score", "relatedness_score", "label"),
    },
    "pairs": {"anchor": _ANCHOR, "positive": (*_POSITIVE, "body", "text"), **_IDS, **_GROUP},
    "labelled": {
        "text": ("text", "sentence", "utterance", "query", "content"),
        "label": ("label", "intent", "category", "class", "topic", "label_text"),
    },
}
#: Kinds of which some rows say that two texts do not belong together.
_WITH_WRONG_ROWS = ("ranking", "nli")
#: Names, in lower case, of what may say that two texts do not belong together.
JUDGING = frozenset(
    {
        *ROLE_NAMES["nli"]["label"],
        *ROLE_NAMES["scored"]["score"],
        *ROLE_NAMES["ranking"]["grade"],
        *("labels", "label_text", "target", "targets", "class", "classes", "gold", "scores"),
        *("relevant", "is_relevant", "irrelevant", "is_irrelevant", "relevancy", "judgement"),
        *("judgment", "duplicate", "is_duplicate", "match", "is_match", "matched", "paraphrase"),
        *("is_paraphrase", "correct", "is_correct", "is_positive", "is_negative", "is_answer"),
        *("accepted", "is_accepted", "selected", "is_selected", "clicked", "is_clicked"),
        *("entailment", "rating", "feedback", "helpful", "is_helpful"),
    }
)
#: Kinds whose every row is taken to be right, so that a judgement beside it has no place.
_ALL_RIGHT = ("pairs", "triplets", "negatives")
#: Words in the name of a column of numbers that judge nothing, even where all are from 0 to 1.
_NO_JUDGEMENT = frozenset(
    {
        *("id", "ids", "index", "idx", "rank", "position", "offset", "time", "timestamp", "date"),
        *("at", "year", "price", "cost", "amount", "count", "lat", "latitude", "lon", "longitude"),
    }
)
#: Classes as numbers, and what stands where the annotators did not agree.
_CLASSES = {"0", "1", "2", "-1", "-", ""}


@dataclass(frozen=True)
class Columns:
    """The columns there are, and what is known of them before all rows are read.

    Parameters
    ----------
    names
        In their order.
    lists
        Those that hold lists.
    numbers
        Those that hold numbers, as numbers or as text.
    values
        Some of what stands in a column; needed of ``label``, which may hold classes or scores,
        and of any other that may say that a row is wrong.
    """

    names: Sequence[str]
    lists: Collection[str] = field(default=())
    numbers: Collection[str] = field(default=())
    values: Mapping[str, Sequence[Any]] = field(default_factory=dict)


def known_roles(kind: str) -> list[str]:
    """Return the columns that data of a kind may have."""
    found = require_kind(kind)
    return [*found.columns, *found.optional]


def find_roles(
    columns: Columns,
    kind: str | None = None,
    given: Mapping[str, str] | None = None,
    *,
    source: str,
) -> tuple[str, dict[str, str]]:
    """Find what the columns are, ``(kind, {role: column})``.

    Parameters
    ----------
    columns
        Those of the file or the table.
    kind
        What the data are to be; found by the names where it is None. Where the columns are not
        those of this kind, but of one that it can be made from, they are taken for that.
    given
        ``{role: column}`` that the caller says; the others are found by their names.
    source
        The file or table, for errors.

    Raises
    ------
    ColumnNotFoundError
        A column that the kind needs is not there.
    InputError
        The names fit no kind, or ``given`` has a role that the kind, or every kind, has not, or a
        label or score may say that texts do not belong together, and nobody said what it is, or
        two columns that are read have one name.
    """
    given = dict(given or {})
    for column in given.values():
        if column not in columns.names:
            raise ColumnNotFoundError(column, table=source, available=columns.names)
    found_kind, roles = _kind_and_roles(columns, kind, given, source)
    twice = next((name for name in roles.values() if list(columns.names).count(name) > 1), None)
    if twice is not None:
        raise InputError(
            f"{source} has several columns {twice!r}, and which of them is meant cannot be told: "
            "rename or drop the others."
        )
    return found_kind, roles


def unread_columns(columns: Columns, roles: Mapping[str, str]) -> list[str]:
    """Return the columns that no role was found for: what stands in them is left out."""
    return [name for name in columns.names if name not in (*roles.values(), SPLIT_COLUMN)]


def _kind_and_roles(
    columns: Columns, kind: str | None, given: Mapping[str, str], source: str
) -> tuple[str, dict[str, str]]:
    if kind is not None:
        return _roles_for(columns, kind, given, source)
    able = [name for name in ROLE_NAMES if all(_has_role(name, role) for role in given)]
    for candidate in able:
        found = _found(columns, candidate, given)
        if _fits(candidate, found, columns):
            if not set(KINDS[candidate].columns) <= set(given):
                _refuse_doubtful(candidate, found, columns, source)
            return candidate, found
    told = "; ".join(f"{name}: {', '.join(known_roles(name))}" for name in able or ROLE_NAMES)
    if not able:
        raise InputError(
            f"No kind of training data has the roles {', '.join(map(repr, given))} together. "
            f"In columns= (--column) a role is one of these, for one kind: {told}."
        )
    raise InputError(
        f"{source} has the columns {', '.join(map(repr, columns.names))}, which are those of no "
        f"kind of training data. Say what they are with kind= and columns={{role: column}}. The "
        f"roles of each kind are {told}.{_hint_at_clicks(columns)}"
    )


def _hint_at_clicks(columns: Columns) -> str:
    """Say what reads queries with ids of documents, which are none of the kinds."""
    if not all(set(names) & set(columns.names) for names in (_QUERY, _IDS["doc_id"])):
        return ""
    return (
        " Queries with the ids of documents in a table, such as a click log, are made judged "
        "queries by load_clicks (lancedb-ft load-clicks), and pairs by read_pairs."
    )


def _roles_for(
    columns: Columns, kind: str, given: Mapping[str, str], source: str
) -> tuple[str, dict[str, str]]:
    """Find the roles of a kind, or of one that it can be made from."""
    unknown = [role for role in given if not _has_role(kind, role)]
    if unknown:
        raise InputError(
            f"{kind!r} data have no {unknown[0]!r}; the roles are {', '.join(known_roles(kind))}."
        )
    found = _found(columns, kind, given)
    direct = _fits(kind, found, columns)
    # Pairs made of judged rows are those that are right; other data are best taken as they are.
    if direct and kind != "pairs":
        return kind, found
    for other in _WITH_WRONG_ROWS if direct else ROLE_NAMES:
        before = _found(columns, other, {})
        # Pairs are no ranking with a grade that is missing, or misspelled.
        if other == "pairs" or given or not makes(other, kind):
            continue
        if _fits(other, before, columns):
            return other, before
    if direct:
        return kind, found
    for role, data_type in KINDS[kind].columns.items():
        if role not in found and role not in MADE_IDS.get(kind, {}):
            others = [name for name in ROLE_NAMES[kind][role] if name != role]
            raise ColumnNotFoundError(
                role,
                table=source,
                available=columns.names,
                expected=f"{data_type}, also known as {', '.join(others)}",
            )
    return kind, found


def _fits(kind: str, found: Mapping[str, str], columns: Columns) -> bool:
    needed = set(KINDS[kind].columns) - set(MADE_IDS.get(kind, {}))
    return needed <= set(found) and _plausible(kind, found, columns)


def _refuse_doubtful(kind: str, found: Mapping[str, str], columns: Columns, source: str) -> None:
    """Refuse to guess at a label or a score: wrong rows would be trained as right ones."""
    said = "with kind= (--kind; FILE:kind in --data)"
    if kind in _ALL_RIGHT:
        # A list beside a list of negatives holds their scores.
        besides = columns.lists if kind == "negatives" else ()
        unused = (n for n in columns.names if n not in found.values() and n not in besides)
        if (name := next((n for n in unused if _may_judge(n, columns)), None)) is not None:
            texts = f"{found[next(iter(KINDS[kind].columns))]!r} and {found['positive']!r}"
            raise InputError(
                f"{source} has a column {name!r} beside {texts}: rows that it calls wrong would be "
                f"trained as right ones. Say what the data are {said}: 'ranking' if it is a grade "
                f"(0 is wrong), another of {', '.join(KINDS)}, or {kind!r} if every row is right, "
                f"which leaves {name!r} out."
            )
    if kind == "scored" and found["score"] == "label" and _are_classes(columns):
        raise InputError(
            f"{source} has a column 'label' of nothing but 0, 1 and 2 beside "
            f"{found['sentence1']!r} and {found['sentence2']!r}: classes or scores? Say it {said}: "
            "'nli' if 0 is entailment, 1 neutral and 2 contradiction, 'scored' if more is more "
            "alike (with score_range=), or 'pairs' if every row is right, which leaves it out."
        )


def _may_judge(name: str, columns: Columns) -> bool:
    """Say whether a column may call rows wrong, by its name or by what stands in it.

    By content only yes and no, and fractions from 0 to 1 that are not all alike: whole numbers
    count, number and date things more often than they judge.
    """
    words = name.strip().casefold().replace("-", "_").replace(" ", "_")
    if words in JUDGING:
        return True
    # NaN, which is not itself, is how pandas keeps what is missing.
    values = [v for v in columns.values.get(name, ()) if v is not None and v == v]
    if not values or _NO_JUDGEMENT.intersection(words.split("_")):
        return False
    if all(str(value).strip().casefold() in ("true", "false") for value in values):
        return True
    shares = {_share(value) for value in values}
    written = any(isinstance(value, float) or "." in str(value) for value in values)
    return None not in shares and len(shares) > 1 and written


def _share(value: Any) -> float | None:
    """Return a number from 0 to 1, which may be written as text."""
    try:
        number = None if isinstance(value, (bool, list)) else float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number is not None and 0 <= number <= 1 else None


def _are_classes(columns: Columns) -> bool:
    found = {str(value).strip().removesuffix(".0") for value in columns.values.get("label", ())}
    return bool(found) and found <= _CLASSES


def _are_nli_words(values: Sequence[Any]) -> bool:
    """Say whether most are entailment, neutral or contradiction."""
    words = (str(value).strip().casefold() for value in values)
    return 2 * sum(word.isalpha() and word in NLI_LABELS for word in words) > len(values)


def _found(columns: Columns, kind: str, given: Mapping[str, str]) -> dict[str, str]:
    """Give each role the first column of a name it goes by that no other role has."""
    found = dict(given)
    for role, names in ROLE_NAMES[kind].items():
        free = (name for name in names if name in columns.names and name not in found.values())
        if role not in found and (column := next(free, None)) is not None:
            found[role] = column
    for name in columns.names:
        if _numbered(kind, name) and name not in found.values():
            found.setdefault(name, name)
    return found


def _has_role(kind: str, role: str) -> bool:
    return role in known_roles(kind) or _numbered(kind, role)


def _numbered(kind: str, name: str) -> bool:
    """Say whether this is ``negative_2`` or a later one of n-tuples."""
    number = name.removeprefix("negative_")
    return kind == "triplets" and number != name and number.isdecimal()


def _plausible(kind: str, found: Mapping[str, str], columns: Columns) -> bool:
    """Say whether the types fit as well as the names: several kinds share some names."""
    if kind == "negatives":
        return found["negatives"] in columns.lists
    if kind == "triplets":
        return found["negative_1"] not in columns.lists
    if kind == "scored":
        return found["score"] in columns.numbers
    if kind == "nli":
        # A column called label beside sentence1 and sentence2 may be a score as well.
        named = found["premise"] == "premise" or found["label"] == "gold_label"
        return named or _are_nli_words(columns.values.get(found["label"], ()))
    if kind == "ranking":
        # A query, a text and some score or label may be anything; with ids or a grade it is not.
        named = {"query_id", "doc_id"} <= set(found) or found["grade"] not in ("score", "label")
        return found["grade"] in columns.numbers and named
    return True
