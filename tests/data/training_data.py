"""One small set of each kind of training data, and how hypothesis draws others."""

import pyarrow as pa
from hypothesis import strategies as st

from lancedb_ft.training_sets import KINDS, TrainingSet

SMALL = {
    "pairs": {
        "anchor": ["how do I cancel?", "where is my order", "change\nmy password"],
        "positive": ["Cancel in the settings.", "Track it, online", 'Use "forgot"\tlink'],
    },
    "triplets": {
        "anchor": ["how do I cancel?", "where is my order"],
        "positive": ["Cancel in the settings.", "Track it online."],
        "negative_1": ["Cancel culture is a term.", "Order the list."],
        "negative_2": ["Open an account.", "Große Liste"],
    },
    "scored": {
        "sentence1": ["a man plays", "a dog runs"],
        "sentence2": ["a man is playing", "a cat sleeps"],
        "score": [0.96, 0.1],
    },
    "nli": {
        "premise": ["a man eats", "a man eats", "a dog runs"],
        "hypothesis": ["someone eats", "nobody eats", "it is sunny"],
        "label": [0, 2, 1],
    },
    "ranking": {
        "query_id": ["q1", "q1", "q2"],
        "query": ["cancel", "cancel", "order"],
        "doc_id": ["d1", "d2", "d3"],
        "document": ["Cancel in the settings.", "Cancel culture", "Track it."],
        "grade": [3, 0, 1],
    },
    "negatives": {
        "query": ["cancel", "order"],
        "positive": ["Cancel in the settings.", "Track it."],
        "negatives": [["Cancel culture", "Account"], ["List"]],
        "positive_score": [9.5, 7.0],
        "negative_scores": [[1.5, 0.25], [-2.0]],
    },
    "labelled": {"text": ["refund, please", "open an account"], "label": ["refund", "7"]},
}


def small(kind):
    return TrainingSet(kind, pa.table(SMALL[kind]))


_TEXTS = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\0"), min_size=1)
_TEXTS = _TEXTS.filter(lambda text: text.strip())
_IDS = st.text(st.sampled_from("abcXYZ0189-_.:/é"), min_size=1, max_size=8)
_VALUES = {
    "score": st.floats(0, 1),
    "label": st.integers(0, 2),
    "grade": st.integers(0, 3),
    "negatives": st.lists(_TEXTS, min_size=1, max_size=3),
    "query_id": _IDS,
    "doc_id": _IDS,
}


def drawn(kind, min_size=1):
    """Draw sets of a kind: any texts that can stand in a table."""
    values = dict(_VALUES)
    if kind == "labelled":
        values["label"] = _TEXTS
    rows = st.lists(
        st.fixed_dictionaries({n: values.get(n, _TEXTS) for n in KINDS[kind].columns}),
        min_size=min_size,
        max_size=6,
    )
    schema = pa.schema(list(KINDS[kind].columns.items()))
    return rows.map(lambda found: TrainingSet(kind, pa.Table.from_pylist(found, schema)))
