"""What a version keeps of the rows it was trained on: hashes by which they are found again.

A row is told by the hash of its values. Of negatives each entry has a hash of its own: a split
takes out of their lists what it holds out, so the lists are shorter than where they were read.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from lancedb_ft.errors import InputError
from lancedb_ft.store.manifest import to_plain
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["SETTINGS", "parse_rows", "rows_document", "take_recorded"]

#: Documents of format 1, which told a row with negatives by its whole lists, are read as well.
_FORMATS = (1, 2)
_ROW_BYTES, _ENTRY_BYTES = 8, 4
#: Columns of lists that belong together, entry by entry.
_LISTS = ("negatives", "negative_ids", "negative_scores")
#: What a training set has beside its rows.
SETTINGS = ("kind", "loss", "query_prompt", "document_prompt", "name")


def rows_document(data: Sequence[Pairs | TrainingSet], dev: Pairs | TrainingSet | None) -> bytes:
    """Return what finds the rows again: their source and some bytes of hash a row, no text."""
    document = {
        "format": _FORMATS[-1],
        "data": [_described(each) for each in data],
        "dev": _described(dev) if dev is not None else None,
    }
    return json.dumps(document).encode()


def parse_rows(ref: str, rows: bytes, *, cure: str) -> dict[str, Any]:
    """Read what `rows_document` made.

    Raises
    ------
    InputError
        It is of a format that is not known here.
    """
    document: dict[str, Any] = json.loads(rows)
    if document.get("format") not in _FORMATS:
        raise InputError(
            f"{ref} records its rows in the format {document.get('format')!r}, and up to "
            f"{_FORMATS[-1]} is read here. Upgrade lancedb-ft. {cure}"
        )
    return document


def take_recorded(
    part: Mapping[str, Any], whole: Pairs | TrainingSet
) -> tuple[Pairs | TrainingSet, int]:
    """Take the recorded rows, in their order and with the recorded entries of their lists.

    Parameters
    ----------
    part
        One set of a document.
    whole
        All rows of its source.

    Returns
    -------
    tuple
        The rows, and how many of those recorded are not there.
    """
    lists = _lists_of(whole) if "entries" in part else ()
    own = _entry_keys(whole, lists)
    places: dict[bytes, list[int]] = {}
    for place, key in enumerate(_row_keys(whole, without=lists)):
        places.setdefault(key, []).append(place)
    keys = _unpacked(part["rows"], _ROW_BYTES)
    wanted = _by_row(part["entries"]) if "entries" in part else [[]] * len(keys)
    found, entries = [], []
    for key, kept in zip(keys, wanted, strict=True):
        # A pair may stand in several rows, each with other negatives.
        row = next((r for r in places.get(key, ()) if own[r].keys() >= set(kept)), None)
        if row is not None:
            found.append(row)
            entries.append([own[row][entry] for entry in kept])
    taken = whole.take(pa.array(found, pa.int64()))
    return _with_entries(taken, lists, entries), len(keys) - len(found)


# --- parts ---------------------------------------------------------------------------------


def _described(data: Pairs | TrainingSet) -> dict[str, Any]:
    settings = {} if isinstance(data, Pairs) else {name: getattr(data, name) for name in SETTINGS}
    lists = _lists_of(data)
    found = {
        "is_pairs": isinstance(data, Pairs),
        "source": to_plain(data.source),
        "fingerprint": data.fingerprint,
        "n": len(data),
        "rows": _packed(_row_keys(data, without=lists)),
        **settings,
    }
    if lists:
        keys = _entry_lists(data, lists)
        packed = _packed(entry for row in keys for entry in row)
        found["entries"] = {"n": [len(row) for row in keys], "keys": packed}
    return found


def _lists_of(data: Pairs | TrainingSet) -> list[str]:
    return [name for name in _LISTS if name in data.table.column_names]


def _row_keys(data: Pairs | TrainingSet, *, without: Collection[str] = ()) -> list[bytes]:
    names = sorted(set(data.table.column_names) - set(without))
    columns = [data.table[name].to_pylist() for name in names]
    return [_hash(row, _ROW_BYTES) for row in zip(*columns, strict=True)]


def _entry_lists(data: Pairs | TrainingSet, lists: Sequence[str]) -> list[list[bytes]]:
    """Return the hashes of each row's entries: of all columns of lists together."""
    if not lists:
        return [[]] * len(data)
    columns = [data.table[name].to_pylist() for name in lists]
    return [
        [_hash(entry, _ENTRY_BYTES) for entry in zip(*row, strict=True)]
        for row in zip(*columns, strict=True)
    ]


def _entry_keys(data: Pairs | TrainingSet, lists: Sequence[str]) -> list[dict[bytes, int]]:
    """Return for each row where an entry stands in its lists."""
    return [{key: n for n, key in enumerate(row)} for row in _entry_lists(data, lists)]


def _with_entries(
    taken: Pairs | TrainingSet, lists: Sequence[str], entries: Sequence[Sequence[int]]
) -> Pairs | TrainingSet:
    table = taken.table
    for name in lists:
        rows = zip(table[name].to_pylist(), entries, strict=True)
        column = pa.array([[row[n] for n in kept] for row, kept in rows], table[name].type)
        table = table.set_column(table.column_names.index(name), name, column)
    return replace(taken, table=table) if lists else taken


def _hash(values: Iterable[Any], size: int) -> bytes:
    text = "\x1f".join(map(str, values))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=size).digest()


def _packed(keys: Iterable[bytes]) -> str:
    return base64.b64encode(b"".join(keys)).decode()


def _unpacked(text: str, size: int) -> list[bytes]:
    raw = base64.b64decode(text)
    return [raw[start : start + size] for start in range(0, len(raw), size)]


def _by_row(entries: Mapping[str, Any]) -> list[list[bytes]]:
    keys = iter(_unpacked(entries["keys"], _ENTRY_BYTES))
    return [[next(keys) for _ in range(n)] for n in entries["n"]]
