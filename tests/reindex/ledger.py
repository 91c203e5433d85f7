"""What writers were told, kept outside the table; and what the table must therefore hold.

A writer notes what it is about to do, does it, and notes what came of it. Killed in between, it
looks the table up when it is back: a write is there whole or not at all, anything else is told as
torn. Each key belongs to one writer, so nobody else can have changed it.

The checker trusts nothing of lancedb-ft: it reads the table with Lance, finds the shown column and
its model in the schema, and encodes with sentence-transformers.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

import lance
import numpy as np
import pyarrow as pa

#: Largest difference of a number in a vector that batches of another shape make.
TOLERANCE = 1e-4


class Ledger:
    """The file of one writer: what its rows are, and what it was doing when it was killed."""

    def __init__(self, path):
        self.rows = {}
        self.doing = None
        self.count = 0
        self.acknowledged = self.failed = self.torn = 0
        self._path = Path(path)
        for line in self._path.read_text().splitlines() if self._path.exists() else ():
            if line.endswith("}"):  # the last line of a killed writer can be torn too
                self._take(json.loads(line))
        self._file = open(self._path, "a")  # noqa: SIM115
        if self._file.tell() and not self._path.read_text().endswith("\n"):
            self._file.write("\n")

    def _take(self, line):
        if "doing" in line:
            self.doing = line["doing"]
            self.count = line["count"]
        elif line["end"] == "done":
            self.rows |= self.doing
            self.rows = {key: text for key, text in self.rows.items() if text is not None}
            self.acknowledged += 1
        elif line["end"] == "failed":
            self.failed += 1
        else:
            self.torn += 1
        if "end" in line:
            self.doing = None

    def _write(self, line):
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        self._take(line)

    def begin(self, rows):
        """Note what is about to be written: ``{key: text, or None to delete it}``."""
        self._write({"doing": rows, "count": self.count + 1})

    def end(self, how):
        """Note that it is ``done``, ``failed`` or ``torn``."""
        self._write({"end": how})

    def settle(self, uri):
        """After a kill or an error: look whether what was being done is there."""
        if self.doing is None:
            return
        found = texts(uri, self.doing)
        there = {key: found.get(key) == [text] for key, text in self.doing.items() if text}
        there |= {key: key not in found for key, text in self.doing.items() if text is None}
        before = {
            key: found.get(key, []) == ([self.rows[key]] if key in self.rows else [])
            for key in self.doing
        }
        if all(there.values()):
            self.end("done")
        else:
            self.end("failed" if all(before.values()) else "torn")


def texts(uri, keys=None):
    """Return ``{id: [text, ...]}`` of the table, or of these keys."""
    where = None if keys is None else f"id in ({', '.join(repr(key) for key in keys)})"
    found = {}
    for row in lance.dataset(uri).to_table(columns=["id", "text"], filter=where).to_pylist():
        found.setdefault(row["id"], []).append(row["text"])
    return found


@dataclass
class Verdict:
    """What is wrong with a table; the examples are ids."""

    rows: int = 0
    model: str = ""
    lost: list = field(default_factory=list)
    duplicate: list = field(default_factory=list)
    undead: list = field(default_factory=list)
    other_text: list = field(default_factory=list)
    null: list = field(default_factory=list)
    stale: list = field(default_factory=list)
    foreign: list = field(default_factory=list)

    @property
    def faults(self):
        """``{kind: ids}`` of the kinds that occurred."""
        return {kind: ids for kind, ids in vars(self).items() if isinstance(ids, list) and ids}

    def counts(self):
        """``{kind: number of rows}``."""
        return {kind: len(ids) for kind, ids in vars(self).items() if isinstance(ids, list)}


def check(uri, expected, encode, models):
    """Compare a table with what it must hold.

    Parameters
    ----------
    uri
        Of the Lance data set.
    expected
        ``{id: text}``.
    encode
        ``encode(model, texts)`` gives an array of one vector a text.
    models
        All that ever wrote to the table, as the schema names them.
    """
    ds = lance.dataset(uri)
    column, model = shown(ds.schema)
    found = ds.to_table(columns=["id", "text", column])
    verdict = Verdict(rows=found.num_rows, model=model)
    ids = found["id"].to_pylist()
    rows = dict(zip(ids, found["text"].to_pylist(), strict=True))
    verdict.duplicate = (
        sorted({key for key in ids if ids.count(key) > 1}) if len(rows) < len(ids) else []
    )
    verdict.lost = sorted(expected.keys() - rows.keys())
    verdict.undead = sorted(rows.keys() - expected.keys())
    both = expected.keys() & rows.keys()
    verdict.other_text = sorted(key for key in both if rows[key] != expected[key])
    _check_vectors(verdict, found, column, encode, models)
    return verdict


def _check_vectors(verdict, found, column, encode, models):
    vectors = found[column].combine_chunks()
    null = vectors.is_null().to_numpy(zero_copy_only=False)
    keys = np.array(found["id"].to_pylist())
    verdict.null = sorted(keys[null].tolist())
    stored = np.stack([np.array(v) for v in vectors.drop_null().to_pylist()])
    present = [text for text, none in zip(found["text"].to_pylist(), null, strict=True) if not none]
    wrong = np.abs(encode(verdict.model, present) - stored).max(axis=1) > TOLERANCE
    others = [model for model in models if model != verdict.model]
    foreign = np.zeros(len(wrong), bool)
    for model in others if wrong.any() else ():
        foreign |= wrong & (np.abs(encode(model, present) - stored).max(axis=1) < TOLERANCE)
    verdict.foreign = sorted(keys[~null][foreign].tolist())
    verdict.stale = sorted(keys[~null][wrong & ~foreign].tolist())


def shown(schema):
    """Return the vector column that plain LanceDB infers, and the model of its function."""
    (column,) = [f.name for f in schema if pa.types.is_fixed_size_list(f.type)]
    entries = json.loads(schema.metadata[b"embedding_functions"])
    (model,) = [e["model"]["name"] for e in entries if e["vector_column"] == column]
    return column, model
