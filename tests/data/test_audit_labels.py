"""The real model on real text: wrong labels are found, estimated and named, right ones are not."""

import sysconfig
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lancedb_ft.data import audit, read_api_docs
from lancedb_ft.data.audits.labels import _confident_errors
from lancedb_ft.data.texts import stable_key
from lancedb_ft.encoder import get_encoder
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.data import bad_data

N = 180
BANKING = Path(__file__).parents[3] / "shared" / "data" / "banking77" / "data.parquet"


def short(text, n_words=12):
    """The first words: encoding them takes a fifth of the time."""
    return " ".join(text.split()[:n_words])


@pytest.fixture(scope="session")
def api_docs():
    """Summary and start of the body of functions of the standard library, with their module."""
    docs = read_api_docs(limit=1_500, paths=[sysconfig.get_paths()["stdlib"]])
    rows = sorted(docs.pairs.table.to_pylist(), key=lambda row: stable_key(0, row["query_id"]))
    return [
        {**row, "document": short(row["document"]), "module": docs.modules[row["doc_id"]]}
        for row in rows
        if len(row["query"].split()) > 3 and len(row["document"].split()) > 5
    ]


@pytest.fixture(scope="session")
def pairs(api_docs):
    return pairs_of(api_docs[:N])


def pairs_of(rows):
    columns = ("query_id", "query", "doc_id", "document")
    return Pairs(pa.Table.from_pylist([{c: row[c] for c in columns} for row in rows]))


@pytest.fixture(scope="session")
def scored(api_docs):
    """A text with the same text shortened (1), one of its module (0.5), and any other (0)."""
    rows = []
    for i, row in enumerate(api_docs[:N]):
        same = [r for r in api_docs if r["module"] == row["module"] and r is not row]
        other = api_docs[-1 - i]["document"]
        partner = [short(row["document"], 8), same[i % len(same)]["document"] if same else other]
        kind = i % 3 if same else i % 2 * 2
        texts = {0: (partner[0], 1.0), 1: (partner[1], 0.5), 2: (other, 0.0)}[kind]
        rows.append({"sentence1": row["document"], "sentence2": texts[0], "score": texts[1]})
    return TrainingSet("scored", pa.Table.from_pylist(rows))


class Remembering:
    """The real encoder, which encodes each text once for all these tests."""

    def __init__(self, encoder):
        self.encoder = encoder
        self.ref = encoder.ref
        self.max_tokens = encoder.max_tokens
        self.token_counts = encoder.token_counts
        self.known = {}

    def encode(self, texts, *, kind="document", progress=None):
        new = sorted({text for text in texts if (kind, text) not in self.known})
        if new:
            vectors = self.encoder.encode(new, kind=kind, progress=progress)
            self.known |= {
                (kind, text): v for text, v in zip(new, vectors.to_pylist(), strict=True)
            }
        found = [self.known[kind, text] for text in texts]
        return pa.array(found, pa.list_(pa.float32(), self.encoder.dims))


@pytest.fixture(scope="session")
def encoder(minilm):
    return Remembering(get_encoder(minilm, device="cpu"))


def found_in(report, name):
    return next(iter(report.of(name)), None)


def named_well(found, wrong, *, precision, recall):
    """Say whether the rows named are those that were made wrong."""
    hits = len(set(found.rows) & set(wrong))
    return hits >= precision * len(found.rows) and hits >= recall * len(wrong)


def test_a_third_of_wrong_pairs_is_estimated_and_named_and_right_ones_are_not(pairs, encoder):
    clean = audit(pairs, encoder=encoder)
    assert clean.ok
    assert not clean.of("wrong pairs")
    bad, wrong = bad_data.with_wrong_pairs(pairs, 0.3)
    report = audit(bad, encoder=encoder)
    found = found_in(report, "wrong pairs")
    assert found.severity == "error"
    # The text is the standard library of this Python, so the figures differ a little between them.
    assert found.share == pytest.approx(0.3, abs=0.1)
    assert found.n == round(found.share * N)
    assert "no better than chance" in found.told
    assert named_well(found, wrong, precision=0.8, recall=0.4)


def test_wrong_scores_are_found_by_their_ranks(scored, encoder):
    clean = audit(scored, encoder=encoder)
    assert not clean.of("wrong scores")
    bad, _ = bad_data.with_wrong_scores(scored, 0.4)
    changed = np.asarray(bad.table["score"]) != np.asarray(scored.table["score"])
    found = found_in(audit(bad, encoder=encoder), "wrong scores")
    assert found.severity == "error"
    assert found.share == pytest.approx(0.4, abs=0.12)
    assert named_well(found, np.flatnonzero(changed).tolist(), precision=0.85, recall=0.6)


@pytest.mark.data
def test_wrong_labels_are_found_by_their_neighbours(encoder):
    if not BANKING.exists():
        pytest.skip("needs the data set banking77")
    table = pq.read_table(BANKING)
    rows = sorted(table.to_pylist(), key=lambda row: stable_key(0, row["text"]))
    labels = sorted({row["label"] for row in rows})[::7]
    rows = [row for row in rows if row["label"] in labels][:400]
    data = TrainingSet(
        "labelled",
        pa.table({"text": [r["text"] for r in rows], "label": [r["label"] for r in rows]}),
    )
    clean = found_in(audit(data, encoder=encoder), "wrong labels")
    assert clean is None
    bad, wrong = bad_data.with_wrong_labels(data, 0.3)
    found = found_in(audit(bad, encoder=encoder), "wrong labels")
    assert found.severity == "error"
    assert found.share == pytest.approx(0.3, abs=0.08)
    assert named_well(found, wrong, precision=0.85, recall=0.6)


class Chance(Remembering):
    """To this model every text is as near to any other: its vectors are drawn at random."""

    def encode(self, texts, *, kind="document", progress=None):
        seeds = [int.from_bytes(stable_key(0, kind + text), "big") for text in texts]
        rows = [np.random.default_rng(seed).normal(size=32) for seed in seeds]
        return pa.array(rows, pa.list_(pa.float32(), 32))


def test_pairs_that_are_all_chance_are_told_as_such(api_docs, encoder):
    report = audit(pairs_of(api_docs), encoder=Chance(encoder.encoder))
    found = found_in(report, "wrong pairs")
    assert found.severity == "error"
    assert found.rows == ()
    assert "another model" in found.told


def test_a_few_rows_say_nothing(pairs, encoder):
    few = pairs.take(pa.array(range(20)))
    bad, _ = bad_data.with_wrong_pairs(few, 0.5)
    assert not audit(bad, encoder=encoder).of("wrong pairs")


def test_a_sample_is_judged_and_the_share_is_of_all(pairs, encoder):
    bad, wrong = bad_data.with_wrong_pairs(pairs, 0.5)
    found = found_in(audit(bad, encoder=encoder, sample_rows=120), "wrong pairs")
    assert "of 120 judged" in found.told
    assert found.n == round(found.share * N)
    assert len(found.rows) < 100
    assert named_well(found, wrong, precision=0.85, recall=0.3)


def test_confident_learning_by_hand():
    """Two labels; row 4 is given 0, and its neighbours say 1 as often as those of label 1."""
    votes = np.array([[1.0, 0.0], [0.8, 0.2], [0.0, 1.0], [0.2, 0.8], [0.1, 0.9]])
    wrong, better = _confident_errors(votes, np.array([0, 0, 1, 1, 0]))
    assert wrong.tolist() == [False, False, False, False, True]
    assert better[4] == 1
