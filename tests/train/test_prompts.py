"""Which prompts a trained model is served with: none that nothing was trained with."""

import pyarrow as pa
import pytest

from lancedb_ft.errors import InputError
from lancedb_ft.train import train
from lancedb_ft.train.prompts import chosen_prompts
from lancedb_ft.training_sets import TrainingSet
from tests.train.toy import FAST, toy_model, toy_pairs

ROWS = {
    "pairs": {"anchor": ["a", "b"], "positive": ["c", "d"]},
    "scored": {"sentence1": ["e", "f"], "sentence2": ["g", "h"], "score": [0.0, 1.0]},
    "nli": {"premise": ["e", "f"], "hypothesis": ["g", "h"], "label": [0, 2]},
    "labelled": {"text": ["i", "j"], "label": ["x", "y"]},
}


def made(kind, query=None, document=None):
    return TrainingSet(kind, pa.table(ROWS[kind]), query_prompt=query, document_prompt=document)


@pytest.mark.parametrize(
    ("sets", "base", "expected"),
    [
        ([made("pairs")], ("q: ", "d: "), None),
        ([made("pairs", "Q: ")], (None, "d: "), ("Q: ", "d: ")),
        ([made("scored", None, "D: ")], (None, None), (None, "D: ")),
        ([made("scored", "D: ", "D: ")], (None, None), ("D: ", "D: ")),
        ([made("nli", "d: ")], (None, "d: "), ("d: ", "d: ")),
        # The prompt that one of them is trained with may be named for all of them.
        ([made("pairs", "Q: "), made("scored", "Q: ")], (None, None), ("Q: ", None)),
        ([made("scored", "Q: "), made("pairs", "Q: ")], (None, None), ("Q: ", None)),
        ([made("scored", "q: "), made("pairs")], ("q: ", None), ("q: ", None)),
        ([made("pairs", "Q: ", "D: "), made("nli", None, "N: ")], (None, None), ("Q: ", "D: ")),
    ],
)
def test_the_prompts_of_the_first_set_that_names_any(sets, base, expected):
    assert chosen_prompts(sets, base) == expected


@pytest.mark.parametrize("kind", ["scored", "nli", "labelled"])
@pytest.mark.parametrize(
    "others", [[], [made("pairs")], [made("pairs", "other: ")], [made("labelled")]]
)
def test_a_query_prompt_that_nothing_is_trained_with_is_refused(kind, others):
    for own in (made(kind, "Q: "), made(kind, "Q: ", "D: ")):
        with pytest.raises(InputError, match=rf"query_prompt is 'Q: '.* {kind} .*document_prompt"):
            chosen_prompts([own, *others], (None, None))


def test_it_is_refused_before_anything_is_trained(tmp_path):
    rows = toy_pairs(40).table
    columns = {"sentence1": rows["query"], "sentence2": rows["document"], "score": [0.0, 1.0] * 20}
    data = TrainingSet("scored", pa.table(columns), query_prompt="alpha ")
    events = []
    with pytest.raises(InputError, match="--document-prompt"):
        train(
            toy_model(tmp_path / "toy"),
            data,
            dev=toy_pairs(9, seed=1),
            name="x",
            store=str(tmp_path),
            on_event=events.append,
            **FAST,
        )
    assert events == []
