"""Going on from a stored version: its own training data once more, in part, beside the new.

A version keeps no text of what it was trained on. It keeps where the data come from (tables and
their Lance versions) and a hash of each row, beside the manifest and outside the model folder. With
both, the same rows are read again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from lancedb_ft.arguments import is_number
from lancedb_ft.data.qrels import read_qrels
from lancedb_ft.data.read import pairs_from_columns, read_pairs
from lancedb_ft.data.reader import TableReader
from lancedb_ft.data.shared_texts import find_shared_texts, sides_of
from lancedb_ft.data.training.files import read_training_file
from lancedb_ft.data.training.kinds import as_kind, makes
from lancedb_ft.data.training.tables import read_ranking, read_training_set
from lancedb_ft.errors import InputError, LancedbFtError
from lancedb_ft.table import connect, open_table
from lancedb_ft.train.dev import make_measured, without_texts
from lancedb_ft.train.examples import as_training_set
from lancedb_ft.train.probe import KeptDev
from lancedb_ft.train.recorded import SETTINGS, parse_rows, take_recorded
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["Past", "check_replay", "kept_dev", "read_again", "recall", "replayed"]

#: What tells one place from another; of one place the training and the dev rows are read at once.
_PLACE = (
    *("kind", "database", "tables", "columns", "score_range", "where", "limit"),
    *("file", "format", "split"),
)
_CURE = "Pass the data with replay_data=, and what it was measured on with replay_dev=."


@dataclass(frozen=True)
class Past:
    """What a stored version was trained on and measured on.

    Parameters
    ----------
    ref
        ``support@2``.
    data
        One or several sets.
    dev
        What was held out.
    seed
        Of that training.
    read_again
        Whether it was found by the version's own records.
    """

    ref: str
    data: Sequence[Pairs | TrainingSet] = field(repr=False)
    dev: Pairs | TrainingSet = field(repr=False)
    seed: int = 0
    read_again: bool = True


def check_replay(share: float) -> None:
    """Raise `InputError` unless it is a share below 1."""
    if not is_number(share) or not 0 <= share < 1:
        raise InputError(
            f"replay is {share!r}; it is the share of old rows in what is trained on, from 0 to "
            "below 1, such as 0.2 for one in five."
        )


# --- reading it again ----------------------------------------------------------------------


def recall(
    ref: str,
    rows: bytes | None,
    *,
    seed: int,
    data: Sequence[Pairs | TrainingSet] | None = None,
    dev: Pairs | TrainingSet | None = None,
) -> Past:
    """Return what a version was trained on, as the caller gives it or read again.

    Parameters
    ----------
    ref
        The version.
    rows
        What `lancedb_ft.train.recorded.rows_document` made of its data; None where it kept nothing.
    seed
        Of its training.
    data, dev
        What the caller has at hand; the other is read again.

    Raises
    ------
    InputError
        The data cannot be found, or are no longer what they were.
    """
    if data is not None and dev is not None:
        return Past(ref, data, dev, seed, read_again=False)
    document = _parsed(ref, rows)
    wholes: dict[str, Pairs | TrainingSet] = {}

    def found(part: Mapping[str, Any] | None) -> Pairs | TrainingSet:
        if part is None:
            raise InputError(f"{ref} keeps no record of its dev set. {_CURE}")
        key = json.dumps([part.get("kind"), *(part["source"].get(name) for name in _PLACE)])
        if key not in wholes:
            wholes[key] = _read_whole(ref, part)
        return _selected(ref, part, wholes[key])

    read = [found(part) for part in document["data"]] if data is None else data
    return Past(ref, read, found(document["dev"]) if dev is None else dev, seed, data is None)


def _parsed(ref: str, rows: bytes | None) -> dict[str, Any]:
    if rows is None:
        raise InputError(f"{ref} keeps no record of the rows it was trained on. {_CURE}")
    return parse_rows(ref, rows, cure=_CURE)


def _read_whole(ref: str, part: Mapping[str, Any]) -> Pairs | TrainingSet:
    """Read all rows of a source, as the kind that was trained on."""
    try:
        whole = read_again(part["source"])
        kind = part.get("kind")
        plain = as_training_set(whole)
        return as_kind(plain, kind) if kind and makes(plain.kind, kind) else whole
    except (LancedbFtError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise InputError(
            f"What {ref} was trained on cannot be read again: {error} {_CURE}"
        ) from error


def _selected(ref: str, part: Mapping[str, Any], whole: Pairs | TrainingSet) -> Pairs | TrainingSet:
    """Take the recorded rows in their order; the same fingerprint proves them the same."""
    if not part["is_pairs"]:
        settings = {name: part[name] for name in SETTINGS if name != "kind"}
        whole = replace(as_training_set(whole), **settings)
    taken, n_missing = take_recorded(part, whole)
    if not n_missing and taken.fingerprint == part["fingerprint"]:
        return taken
    raise InputError(
        f"What {ref} was trained on was read again, and it is not the same: of {part['n']} rows "
        f"{n_missing} are not found. It was changed after it was read. {_CURE}"
    )


def read_again(source: Mapping[str, Any]) -> Pairs | TrainingSet:
    """Read all rows of a source at the table versions that it names.

    Raises
    ------
    InputError
        The source names no file and no tables that are known here, or a version is gone.
    """
    if source.get("file"):
        return _from_file(source)
    tables = source.get("tables")
    kind = str(source.get("kind"))
    reader = _READERS.get(frozenset(tables or ()))
    if not source.get("database") or not tables or reader is None:
        raise InputError(f"the data ({kind}) come from no table or file that is named.")
    opened = {role: _at(str(source["database"]), table) for role, table in tables.items()}
    whole: Pairs | TrainingSet = reader(opened, source)
    return whole


def _at(database: str, table: Mapping[str, Any]) -> TableReader:
    return TableReader.of(open_table(connect(database), table["name"]), int(table["version"]))


# A reader takes the tables by role and the source. None of them refuses for the sake of rows that
# were rejected the first time, too.


def _from_qrels(tables: Mapping[str, Any], source: Mapping[str, Any]) -> Pairs | TrainingSet:
    read: Callable[..., Any] = read_ranking if source["kind"] == "ranking" else read_qrels
    found: Pairs | TrainingSet = read(
        tables["docs"],
        tables["queries"],
        tables["qrels"],
        id_column=source.get("id_column"),
        text_column=source.get("text_column"),
        max_rejected=1.0,
    )
    return found


def _from_pairs(tables: Mapping[str, Any], source: Mapping[str, Any]) -> Pairs:
    return read_pairs(
        tables["pairs"],
        tables["docs"],
        **source["columns"],
        id_column=source.get("id_column"),
        text_column=source.get("text_column"),
        where=source.get("where"),
        limit=source.get("limit"),
        max_rejected=1.0,
    )


def _from_columns(tables: Mapping[str, Any], source: Mapping[str, Any]) -> Pairs:
    query, document = source["columns"]
    return pairs_from_columns(
        tables["docs"],
        query=query,
        document=document,
        id_column=source.get("id_column"),
        where=source.get("where"),
        limit=source.get("limit"),
        max_rejected=1.0,
    )


def _from_rows(tables: Mapping[str, Any], source: Mapping[str, Any]) -> TrainingSet:
    return read_training_set(
        tables["rows"],
        source["kind"],
        columns=source["columns"],
        score_range=_range_of(source),
        where=source.get("where"),
        limit=source.get("limit"),
        max_rejected=1.0,
    )


def _from_file(source: Mapping[str, Any]) -> TrainingSet:
    """Read a file as it is now; the rows' hashes say whether it is what it was."""
    columns = source.get("columns") or {}
    named = any(role != column for role, column in columns.items())
    return read_training_file(
        str(source["file"]),
        kind=source.get("kind"),
        format=source.get("format"),
        columns=columns if named else None,
        score_range=_range_of(source),
        split=source.get("split"),
        max_rejected=1.0,
    )


def _range_of(source: Mapping[str, Any]) -> tuple[float, float] | None:
    found = source.get("score_range")
    return (float(found[0]), float(found[1])) if found else None


#: By the tables that were read.
_READERS: Mapping[frozenset[str], Callable[[Mapping[str, Any], Mapping[str, Any]], Any]] = {
    frozenset({"docs", "queries", "qrels"}): _from_qrels,
    frozenset({"docs", "pairs"}): _from_pairs,
    frozenset({"docs"}): _from_columns,
    frozenset({"rows"}): _from_rows,
}


# --- training with it ----------------------------------------------------------------------


def replayed(
    past: Past,
    n_new: int,
    share: float,
    held_out: Sequence[Pairs | TrainingSet],
    *,
    seed: int,
) -> tuple[list[Pairs | TrainingSet], dict[str, Any]]:
    """Choose old rows, so that they are a share of all that is trained on.

    Parameters
    ----------
    past
        What the parent was trained on.
    n_new
        Number of new rows.
    share
        From 0 to below 1: of 800 new rows, 0.2 adds 200 old ones, if there are so many.
    held_out
        What is measured; old rows that share a text with it are left out, and counted.
    seed
        Chooses rows, of several sets in proportion.

    Returns
    -------
    tuple
        Sets to train on beside the new ones, and figures for the manifest.
    """
    check_replay(share)
    usable = [_without_texts_of(each, held_out) for each in past.data]
    n_usable, n_past = (sum(map(len, sets)) for sets in (usable, past.data))
    wanted = min(round(n_new * share / (1 - share)), n_usable)
    rng = np.random.default_rng(seed)
    chosen: list[Pairs | TrainingSet] = []
    for each in usable:
        # One text alone has nothing to be told from.
        n = max(round(wanted * len(each) / n_usable), 2) if wanted else 0
        if 2 <= n <= len(each):
            rows = np.sort(rng.permutation(len(each))[:n])
            chosen.append(each.take(pa.array(rows, pa.int64())))
    figures = {
        "share": share,
        "parent": past.ref,
        "n_rows": sum(map(len, chosen)),
        "n_parent_rows": n_past,
        "n_left_out": n_past - n_usable,
        "read_again": past.read_again,
        "fingerprints": [each.fingerprint for each in past.data],
    }
    return chosen, figures


def kept_dev(past: Past, trained: Sequence[Pairs | TrainingSet]) -> tuple[KeptDev, dict[str, Any]]:
    """Make of the parent's dev set what the next training may not lose.

    Parameters
    ----------
    past
        What the parent was trained on and measured on.
    trained
        New and replayed rows: what they share with the old dev set no longer measures anything,
        and is left out of it.

    Raises
    ------
    InputError
        Nothing is left of it.
    """
    left = _without_judged_in(past.dev, trained)
    if not len(left):
        raise InputError(
            f"All {len(past.dev)} rows that {past.ref} was measured on have a text that is trained "
            "on now, so what is forgotten cannot be measured. Give other rows with replay_dev=."
        )
    devset = make_measured(left, past.data, seed=past.seed)
    figures = {
        "n_queries": devset.n_queries,
        "n_left_out": len(past.dev) - len(left),
        "fingerprint": devset.fingerprint,
    }
    return KeptDev(f"{past.ref} dev", devset), figures


def _without_texts_of(
    data: Pairs | TrainingSet, held_out: Sequence[Pairs | TrainingSet]
) -> Pairs | TrainingSet:
    """Leave out rows to train on that have a judged text of held-out data in them."""
    banned = {
        text
        for each in held_out
        for _, texts in sides_of(as_training_set(each))
        for text in texts
        if text is not None
    }
    return without_texts(data, banned)


def _without_judged_in(
    dev: Pairs | TrainingSet, trained: Sequence[Pairs | TrainingSet]
) -> Pairs | TrainingSet:
    """Leave out held-out rows of which a judged text is trained on."""
    shared = {leak.right for each in trained for leak in find_shared_texts(each, dev)}
    rows = zip(*(texts for _, texts in sides_of(as_training_set(dev))), strict=True)
    return dev.take(pa.array([shared.isdisjoint(row) for row in rows], pa.bool_()))
