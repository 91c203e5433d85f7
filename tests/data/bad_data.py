"""Data with one thing wrong each, and the same data without it: what an audit must tell apart."""

import random

import pyarrow as pa

from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs, Split


def leaky_split(split, n=3, seed=0):
    """Put documents of the test part, with a word changed, beside other queries into train."""
    dice = random.Random(seed)
    rows = dice.sample(split.test.table.to_pylist(), n)
    leaked = [
        (f"leak{i}", f"another question {i} about it", f"leak{i}", f"Note: {row['document']}")
        for i, row in enumerate(rows)
    ]
    train = pa.concat_tables([split.train.table, Pairs.of(leaked).table])
    return Split(Pairs(train, split.train.source), split.dev, split.test)


def with_wrong_pairs(pairs, share=0.3, seed=0):
    """Exchange the documents of a share of the pairs; return the pairs and the rows changed."""
    n = len(pairs)
    rows = random.Random(seed).sample(range(n), round(share * n))
    table = pairs.table.to_pylist()
    documents = [(table[row]["doc_id"], table[row]["document"]) for row in rows]
    for row, (doc_id, document) in zip(rows, documents[1:] + documents[:1], strict=True):
        table[row] |= {"doc_id": doc_id, "document": document}
    return Pairs(pa.Table.from_pylist(table)), sorted(rows)


def with_wrong_labels(labelled, share=0.3, seed=0):
    """Give a share of the rows another label; return the set and the rows changed."""
    dice = random.Random(seed)
    labels = labelled.table["label"].to_pylist()
    names = sorted(set(labels))
    rows = dice.sample(range(len(labels)), round(share * len(labels)))
    for row in rows:
        labels[row] = dice.choice([name for name in names if name != labels[row]])
    table = labelled.table.set_column(1, "label", pa.array(labels))
    return TrainingSet("labelled", table), sorted(rows)


def with_wrong_scores(scored, share=0.3, seed=0):
    """Exchange the scores of a share of the rows; return the set and the rows drawn."""
    scores = scored.table["score"].to_pylist()
    rows = random.Random(seed).sample(range(len(scores)), round(share * len(scores)))
    drawn = [scores[row] for row in rows]
    random.Random(seed + 1).shuffle(drawn)
    for row, score in zip(rows, drawn, strict=True):
        scores[row] = score
    table = scored.table.set_column(2, "score", pa.array(scores))
    return TrainingSet("scored", table), sorted(rows)


def triplets_of(pairs, seed=0):
    """Give each pair the document of another query as its negative: nothing is wrong with them."""
    rows = pairs.table.to_pylist()
    dice = random.Random(seed)
    negatives = []
    for row in rows:
        other = dice.choice(rows)
        while other["query"] == row["query"] or other["document"] == row["document"]:
            other = dice.choice(rows)
        negatives.append(other["document"])
    columns = {"anchor": "query", "positive": "document"}
    table = {new: [row[old] for row in rows] for new, old in columns.items()}
    return TrainingSet("triplets", pa.table({**table, "negative_1": negatives}))


def with_positives_as_negatives(triplets, n_same=5, n_near=5):
    """Make the positive of some rows their negative: in other case, or with a word before it.

    Returns the set and the rows changed; the first ``n_same`` are equal, the others nearly so.
    """
    positives = triplets.table["positive"].to_pylist()
    negatives = triplets.table["negative_1"].to_pylist()
    long = [row for row, text in enumerate(positives) if len(text.split()) > 30]
    rows = long[: n_same + n_near]
    for row in rows[:n_same]:
        negatives[row] = positives[row].upper()
    for row in rows[n_same:]:
        negatives[row] = f"Note: {positives[row]}"
    table = triplets.table.set_column(2, "negative_1", pa.array(negatives))
    return TrainingSet("triplets", table), rows
