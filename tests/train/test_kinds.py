"""Each type of data trains the real model on real text, and what was held out is done better.

The text is the standard library's own help: summaries, the documentation they are of, and the
modules both are in. Each run is measured twice only, before and after, so nothing is selected on
the held-out part.
"""

import sysconfig
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lancedb_ft.data import read_api_docs, split_pairs
from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.train import train
from lancedb_ft.training_sets import TrainingSet

DATA = Path(__file__).parents[3] / "shared" / "data"
N_TRAIN, N_DEV = 160, 100


@pytest.fixture(scope="module")
def parts():
    """Rows to train on and held-out ones: ``{"train": [row, ...], "dev": [...]}``.

    A row has a summary, the first words of its documentation without the line that names it,
    those of a neighbour in the same module and those of a stranger in another; no text is in both
    parts.
    """
    docs = read_api_docs(paths=[sysconfig.get_paths()["stdlib"]])
    split = split_pairs(docs.pairs, seed=0, shares=(0.6, 0.4, 0.0))
    seen = set()
    return {
        "train": rows_of(split.train, N_TRAIN, seen),
        "dev": rows_of(split.dev, N_DEV, seen),
    }


def rows_of(pairs, n, seen):
    found = {}
    for row in pairs.table.to_pylist():
        text = " ".join(row["document"].partition("\n")[2].split()[:20])
        module = row["doc_id"].split(".")[0]
        if len(text) > 40 and normalise(text) not in seen:
            seen.add(normalise(text))
            name = row["document"].partition("\n")[0].partition("(")[0]
            found.setdefault(normalise(row["query"]), (row["query"], text, module, name))
    rows = sorted(found.values(), key=lambda row: stable_key(0, row[0]))
    by_module = {}
    for row in rows:
        by_module.setdefault(row[2], []).append(row)
    made = []
    for position, row in enumerate(rows):
        group = by_module[row[2]]
        if len(group) < 2:
            continue
        near = group[(group.index(row) + 1) % len(group)]
        far = next(r for r in rows[position + 1 :] + rows if r[2] != row[2])
        made.append(
            {"query": row[0], "doc": row[1], "module": row[2], "name": row[3]}
            | {"near": near, "far": far}
        )
    return made[:n]


def columns(rows, **of_a_row):
    return pa.table({name: [get(row) for row in rows] for name, get in of_a_row.items()})


def pairs_of(rows):
    return TrainingSet(
        "pairs", columns(rows, anchor=lambda r: r["query"], positive=lambda r: r["doc"])
    )


def triplets_of(rows):
    return TrainingSet(
        "triplets",
        columns(
            rows,
            anchor=lambda r: r["query"],
            positive=lambda r: r["doc"],
            negative_1=lambda r: r["near"][1],
        ),
    )


def table_of(names, rows):
    return pa.table(dict(zip(names, zip(*rows, strict=True), strict=True)))


def scored_of(rows):
    """A summary with the name of what it is of, and with that of a neighbour and a stranger."""
    found = [
        (row["query"], name, score)
        for row in rows
        for name, score in ((row["name"], 1.0), (row["near"][3], 0.0), (row["far"][3], 0.0))
    ]
    return TrainingSet("scored", table_of(("sentence1", "sentence2", "score"), found))


def nli_of(rows):
    """From its documentation a summary follows; a neighbour's does not."""
    found = [
        (row["doc"], text, label)
        for row in rows
        for text, label in ((row["query"], 0), (row["near"][0], 2), (row["far"][0], 1))
    ]
    return TrainingSet("nli", table_of(("premise", "hypothesis", "label"), found))


def ranking_of(rows):
    found = [
        (row["query"], row["query"], text, text, grade)
        for row in rows
        for text, grade in ((row["doc"], 2), (row["near"][1], 0))
    ]
    names = ("query_id", "query", "doc_id", "document", "grade")
    return TrainingSet("ranking", table_of(names, found))


def negatives_of(rows):
    """The order of own, neighbour and stranger, as a teacher would score it."""
    return TrainingSet(
        "negatives",
        columns(
            rows,
            query=lambda r: r["query"],
            positive=lambda r: r["doc"],
            negatives=lambda r: [r["near"][1], r["far"][1]],
            positive_score=lambda r: 1.0,
            negative_scores=lambda r: [0.4, 0.0],
        ),
    )


def labelled_of(rows):
    """Summaries by module."""
    return TrainingSet(
        "labelled", columns(rows, text=lambda r: r["query"], label=lambda r: r["module"])
    )


MAKERS = {
    "pairs": pairs_of,
    "triplets": triplets_of,
    "scored": scored_of,
    "nli": nli_of,
    "ranking": ranking_of,
    "negatives": negatives_of,
    "labelled": labelled_of,
}


@pytest.mark.parametrize("kind", MAKERS)
def test_what_is_held_out_is_done_better_after_training(kind, parts, minilm, tmp_path):
    make = MAKERS[kind]
    version = train(
        minilm,
        make(parts["train"]),
        dev=make(parts["dev"]),
        name=kind,
        store=str(tmp_path),
        max_tokens=32,
        eval_steps=10_000,  # once, at the end
        distractors={},
        device="cpu",
    )
    metric = "spearman" if kind == "scored" else "ndcg@10"
    assert version.manifest["dev"]["metric"] == metric
    assert len(version.manifest["dev"]["history"]) == 2
    base, final = (version.manifest["metrics"]["dev"][w][metric]["mean"] for w in ("base", "final"))
    assert final > base + 0.005


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.timeout(1800)
def test_intents_of_banking77_are_told_apart_better(minilm, tmp_path):
    """3,000 customer questions with 77 intents; held-out ones find questions of their intent."""
    file = DATA / "banking77" / "data.parquet"
    if not file.is_file():
        pytest.skip("needs the data set banking77")
    rows = pq.read_table(file).to_pylist()
    sets = {
        part: TrainingSet(
            "labelled",
            pa.table(
                {
                    "text": [row["text"] for row in chosen],
                    "label": [str(row["label"]) for row in chosen],
                }
            ),
        )
        for part in ("train", "dev")
        for chosen in [
            sorted(
                (row for row in rows if row["split"] == part),
                key=lambda row: stable_key(0, row["text"]),
            )[:3_000]
        ]
    }
    version = train(
        minilm, sets["train"], dev=sets["dev"], name="intents", store=str(tmp_path), device="cpu"
    )
    dev = version.manifest["metrics"]["dev"]
    assert dev["tuned"]["ndcg@10"]["ci95"][0] > dev["base"]["ndcg@10"]["ci95"][1]
