"""BM25 in memory, the curriculum, the cross-encoder as teacher."""

import lancedb
import pyarrow as pa
import pytest

from lancedb_ft.data.mine import bm25_retriever, cross_encoder_teacher, curriculum
from lancedb_ft.errors import InputError
from lancedb_ft.training_sets import TrainingSet

DOCS = {
    "d1": 'open "the" door AND run',
    "d2": "open the window",
    "d3": "shut the door, shut it",
    "d4": "日本 語",
    "d5": "",
}


def test_bm25_ranks_and_scores():
    search = bm25_retriever(DOCS)
    found = search({"q": "the DOOR!", "none": "?!", "cjk": "日本"}, 3)
    assert set(found["q"]) == {"d1", "d2", "d3"}
    assert list(found["q"])[-1] == "d2"
    assert found["none"] == {}
    assert list(found["cjk"]) == ["d4"]
    scored = search.score({"q": "the DOOR!"}, {"q": ["d3", "d4", "nope"]})
    assert scored["q"] == {"d3": pytest.approx(found["q"]["d3"]), "d4": 0.0}


def test_bm25_takes_syntax_for_text():
    search = bm25_retriever(DOCS)
    assert list(search({"q": 'text:"window" AND -NOT (*'}, 2)["q"]) == ["d2", "d1"]


def test_bm25_matches_lancedb(tmp_path):
    """The same ranking as a LanceDB index that neither stems nor drops stop words."""
    from lancedb.index import FTS
    from lancedb.query import MatchQuery

    texts = {f"d{i}": f"alpha{i % 3} beta{i % 5} gamma{i % 7} " * (1 + i % 4) for i in range(60)}
    table = lancedb.connect(tmp_path).create_table(
        "docs", [{"id": i, "text": text} for i, text in texts.items()]
    )
    table.create_index("text", config=FTS(stem=False, remove_stop_words=False))
    search = bm25_retriever(table)
    for query in ("alpha1 gamma3", "beta2", "alpha0 beta4 gamma6"):
        ours = search({"q": query}, 60)["q"]
        hits = table.search(MatchQuery(query, "text"), query_type="fts")
        hits = hits.select(["id", "_score"]).limit(60).to_list()
        theirs = {hit["id"]: hit["_score"] for hit in hits}
        assert set(ours) == set(theirs)
        # Both store lengths rounded, and not alike: the order may differ where scores nearly tie.
        for doc_id, score in ours.items():
            assert score == pytest.approx(theirs[doc_id], rel=0.1)


def test_bm25_of_chunks_counts_the_best():
    class Chunks:
        def all_texts(self):
            return iter([("a", "red"), ("a", "red red blue"), ("b", "red green")])

        def texts(self, ids):
            return self.all_texts()

        def sample(self, n, seed):
            return []

        def to_dict(self):
            return {}

    search = bm25_retriever(Chunks())
    found = search({"q": "red"}, 2)["q"]
    assert set(found) == {"a", "b"}
    assert search.score({"q": "red"}, {"q": ["a"]})["q"]["a"] == pytest.approx(found["a"])


def test_bm25_needs_a_text():
    with pytest.raises(InputError, match="no document"):
        bm25_retriever({"d": " "})


def negatives(lists, scores=None):
    columns = {
        "query": [f"q{i}" for i in range(len(lists))],
        "positive": [f"p{i}" for i in range(len(lists))],
        "negatives": lists,
        "negative_ids": lists,
    }
    if scores is not None:
        columns |= {"positive_score": [9.0] * len(lists), "negative_scores": scores}
    return TrainingSet("negatives", pa.table(columns), {"kind": "mined"}, loss="mnrl")


def test_a_curriculum_goes_from_easy_to_hard():
    by_order = curriculum(negatives([["n1", "n2", "n3", "n4"], ["m1", "m2", "m3", "m4"]]), 2)
    assert [s.table["negatives"].to_pylist()[0] for s in by_order] == [["n4", "n3"], ["n2", "n1"]]
    by_score = curriculum(negatives([["n1", "n2", "n3"]], [[0.2, 0.9, 0.1]]), 3)
    assert [s.table["negative_ids"].to_pylist() for s in by_score] == [[["n3"]], [["n1"]], [["n2"]]]
    assert [s.table["negative_scores"].to_pylist()[0] for s in by_score] == [[0.1], [0.2], [0.9]]
    assert by_score[2].source["curriculum"] == {"stage": 3, "n_stages": 3}
    assert by_score[0].loss == "mnrl"


def test_a_short_row_stands_in_every_stage():
    stages = curriculum(negatives([["hard", "easy"]]), 4)
    found = [s.table["negatives"].to_pylist()[0][0] for s in stages]
    assert found == ["easy", "easy", "hard", "hard"]


def test_a_curriculum_needs_negatives():
    with pytest.raises(InputError, match="1 of 2 rows"):
        curriculum(negatives([["a"], []]), 2)
    with pytest.raises(InputError, match="n_stages"):
        curriculum(negatives([["a"]]), 0)
    pairs = TrainingSet("pairs", pa.table({"anchor": ["a"], "positive": ["b"]}))
    with pytest.raises(InputError, match="'pairs'"):
        curriculum(pairs, 2)


@pytest.fixture(scope="module")
def cross_encoder(tmp_path_factory):
    """A real, tiny, random cross-encoder in a folder."""
    from sentence_transformers import CrossEncoder
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    folder = tmp_path_factory.mktemp("cross") / "model"
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters]
    tokens += [f"##{letter}" for letter in letters]
    config = BertConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        initializer_range=0.5,
        num_labels=1,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    BertTokenizerFast(vocab={t: i for i, t in enumerate(tokens)}).save_pretrained(folder)
    return folder, CrossEncoder(str(folder), device="cpu", max_length=64)


def test_a_cross_encoder_teaches_by_folder_or_loaded(cross_encoder):
    folder, loaded = cross_encoder
    documents = ["a door", "the window of a house", "x"]
    by_folder = cross_encoder_teacher(folder, device="cpu", precision="float32")
    by_object = cross_encoder_teacher(loaded)
    assert by_folder.scale == "logit"
    scores = by_folder("open the door", documents)
    assert scores == pytest.approx(by_object("open the door", documents), abs=1e-4)
    assert len(set(scores)) == 3
    assert by_object.score_pairs([]) == []
