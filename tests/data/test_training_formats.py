"""Every file format: what is written is read back; bad rows are counted; torn files are told."""

import gzip
import io
import json
import shutil
import sys

import datasets
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lancedb_ft.data import FORMATS, read_training_file, write_training_file
from lancedb_ft.data.training.files import detect_format, parts_of_file
from lancedb_ft.data.training.json_stream import JsonStream
from lancedb_ft.errors import BadRowsError, ColumnNotFoundError, InputError
from lancedb_ft.training_sets import TrainingSet
from tests.data.training_data import drawn, small

FLAT = ("jsonl", "csv", "tsv", "parquet", "arrow", "hf")
QUICK = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def rows(training_set):
    return sorted(map(str, training_set.table.to_pylist()))


def lines(path, *objects):
    path.write_text("".join(json.dumps(value) + "\n" for value in objects))
    return path


# --- round trips ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLAT)
@pytest.mark.parametrize(
    "kind", ["pairs", "triplets", "scored", "nli", "ranking", "negatives", "labelled"]
)
def test_every_kind_goes_through_every_flat_format(kind, name, tmp_path):
    made = small(kind)
    written = write_training_file(made, tmp_path / "x", format=name)
    assert (written.n_rows, written.left_out) == (len(made), {})
    assert detect_format(tmp_path / "x").name == name
    back = read_training_file(tmp_path / "x")
    assert (back.kind, back.table.equals(made.table)) == (kind, True)
    assert (back.source["format"], back.source["rejected"]) == (name, {})


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv", "parquet"])
@given(data=st.data())
@QUICK
def test_any_text_survives(name, tmp_path, data):
    kind = data.draw(st.sampled_from(["pairs", "scored", "negatives", "labelled"]))
    made = data.draw(drawn(kind))
    write_training_file(made, tmp_path / "x", format=name, overwrite=True)
    back = read_training_file(tmp_path / "x", kind=kind, format=name, score_range=(0, 1))
    assert back.table.equals(made.table)


@pytest.mark.parametrize("name", ["jsonl", "bge", "openai", "llamaindex", "csv"])
def test_packed_files_are_read_by_what_they_hold_not_by_their_name(name, tmp_path):
    made = small("pairs")
    write_training_file(made, tmp_path / "x.gz", format=name)
    with gzip.open(tmp_path / "x.gz") as packed:
        assert packed.read(1)
    packed_name = (tmp_path / "x.gz").rename(tmp_path / "y")
    back = read_training_file(packed_name)
    assert (back.source["format"], rows_of_texts(back)) == (name, rows_of_texts(made))


def rows_of_texts(training_set):
    return sorted(training_set.table.select(["anchor", "positive"]).to_pylist(), key=str)


def test_bge_keeps_scores_and_prompt(tmp_path):
    made = TrainingSet("negatives", small("negatives").table, query_prompt="query: ")
    assert write_training_file(made, tmp_path / "x.jsonl", format="bge").left_out == {}
    first = json.loads((tmp_path / "x.jsonl").read_text().splitlines()[0])
    assert first == {
        "query": "cancel",
        "pos": ["Cancel in the settings."],
        "neg": ["Cancel culture", "Account"],
        "pos_scores": [9.5],
        "neg_scores": [1.5, 0.25],
        "prompt": "query: ",
    }
    back = read_training_file(tmp_path / "x.jsonl")
    assert back.table.equals(made.table)
    assert back.query_prompt == "query: "


def test_bge_rows_with_several_positives_become_several_rows(tmp_path):
    found = {"query": "q", "pos": ["a", "b"], "neg": ["n"], "pos_scores": [2, 1], "neg_scores": [0]}
    back = read_training_file(lines(tmp_path / "x", found))
    assert back.table.select(["query", "positive", "positive_score"]).to_pylist() == [
        {"query": "q", "positive": "a", "positive_score": 2.0},
        {"query": "q", "positive": "b", "positive_score": 1.0},
    ]


def test_scores_that_not_every_row_has_are_left_out_and_told(tmp_path):
    path = lines(
        tmp_path / "x",
        {"query": "q", "pos": ["a"], "neg": ["n"], "neg_scores": [1]},
        {"query": "r", "pos": ["b"], "neg": ["m"]},
    )
    back = read_training_file(path)
    assert "negative_scores" not in back.table.column_names
    assert back.source["incomplete_columns"]["negative_scores"] == 1


def test_bge_with_several_prompts_is_refused(tmp_path):
    row = {"query": "q", "pos": ["a"], "neg": ["n"]}
    path = lines(tmp_path / "x", {**row, "prompt": "one"}, {**row, "prompt": "two"})
    with pytest.raises(InputError, match="2 different prompts"):
        read_training_file(path)


@pytest.mark.parametrize("name", ["beir", "trec"])
def test_judged_folders_keep_grades(name, tmp_path):
    made = small("ranking")
    write_training_file(made, tmp_path / "x", format=name)
    assert detect_format(tmp_path / "x").name == name
    back = read_training_file(tmp_path / "x")
    assert rows(back) == rows(made)


@given(made=drawn("ranking"))
@QUICK
def test_any_judgements_survive_llamaindex_as_pairs(tmp_path, made):
    # One text an id, as the format has it.
    table = made.table.to_pylist()
    for row in table:
        row |= {"query": f"q {row['query_id']}", "document": f"d {row['doc_id']}", "grade": 1}
    unique = {(row["query_id"], row["doc_id"]): row for row in table}.values()
    made = TrainingSet("ranking", pa.Table.from_pylist(list(unique), made.table.schema))
    write_training_file(made, tmp_path / "x.json", format="llamaindex", overwrite=True)
    document = json.loads((tmp_path / "x.json").read_text())
    assert set(document) == {"queries", "corpus", "relevant_docs", "mode"}
    back = read_training_file(tmp_path / "x.json")
    assert (back.kind, back.source["format"]) == ("pairs", "llamaindex")
    assert rows(read_training_file(tmp_path / "x.json", kind="ranking")) == rows(made)


def test_what_a_format_has_no_place_for_is_told(tmp_path):
    written = write_training_file(small("ranking"), tmp_path / "x", format="llamaindex")
    assert written.left_out == {"documents of grade 0": 1, "grades above 1": 1}
    prompted = TrainingSet("pairs", small("pairs").table, query_prompt="q: ")
    assert write_training_file(prompted, tmp_path / "y.csv").left_out == {"query_prompt": 1}


# --- files of others -----------------------------------------------------------------------


def test_a_data_set_of_hugging_face_written_by_its_own_library(tmp_path):
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["contradiction", "entailment", "neutral"]),
        }
    )
    columns = {"premise": ["a"] * 4, "hypothesis": list("wxyz"), "label": [0, 1, 2, -1]}
    found = datasets.Dataset.from_dict(columns, features=features)
    datasets.disable_progress_bars()
    both = datasets.DatasetDict({"train": found.shuffle(seed=1), "validation": found.select([0])})
    both.save_to_disk(tmp_path / "x")
    back = read_training_file(tmp_path / "x", max_rejected=0.5)
    labels = {row["hypothesis"]: row["label"] for row in back.table.to_pylist()}
    assert labels == {"w": 2, "x": 0, "y": 1}, "by the names of the labels, not their numbers"
    assert back.source["rejected"] == {"no label": 1}
    assert back.source["split"] == "train"
    assert len(read_training_file(tmp_path / "x", split="dev")) == 1
    with pytest.raises(InputError, match=r"no part 'nowhere'; it has 'train', 'validation'"):
        read_training_file(tmp_path / "x", split="nowhere")


def test_what_we_write_is_loaded_by_the_library_of_hugging_face(tmp_path):
    write_training_file(small("negatives"), tmp_path / "x", format="hf")
    found = datasets.load_from_disk(str(tmp_path / "x"))
    assert found.to_list() == small("negatives").table.to_pylist()
    stream = next((tmp_path / "x").glob("*.arrow"))
    back = read_training_file(stream)
    assert back.source["format"] == "arrow"
    assert back.table.equals(small("negatives").table)


def test_a_beir_folder_as_published(tmp_path):
    lines(
        tmp_path / "corpus.jsonl",
        {"_id": "1", "title": "Cancelling", "text": "In the settings."},
        {"_id": "2", "title": "", "text": "Track it."},
        {"_id": "3", "title": "", "text": " "},
    )
    lines(tmp_path / "queries.jsonl", {"_id": "q", "text": "cancel", "metadata": {}})
    (tmp_path / "qrels").mkdir()
    judged = "query-id\tcorpus-id\tscore\nq\t1\t2\nq\t2\t0\nq\t3\t1\nq\t9\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(judged)
    back = read_training_file(tmp_path, max_rejected=0.5)
    assert [(r["document"], r["grade"]) for r in back.table.to_pylist()] == [
        ("Cancelling In the settings.", 2),
        ("Track it.", 0),
    ]
    assert back.source["rejected"] == {"no document of this id": 2}
    assert back.source["split"] == "test"
    assert back.source["rejected_texts"]["corpus"] == {"blank text": 1}
    pairs = read_training_file(tmp_path, kind="pairs", max_rejected=0.5)
    assert (pairs.kind, len(pairs)) == ("pairs", 1)
    (tmp_path / "qrels" / "dev.tsv").write_text(judged)
    with pytest.raises(InputError, match="several parts; it has 'dev', 'test'"):
        read_training_file(tmp_path)


def test_a_torn_corpus_is_told(tmp_path):
    write_training_file(small("ranking"), tmp_path / "x", format="beir")
    corpus = tmp_path / "x" / "corpus.jsonl"
    corpus.write_text(corpus.read_text()[:-5])
    with pytest.raises(InputError, match=r"corpus.jsonl' ends in the middle of line 3"):
        read_training_file(tmp_path / "x")


def test_a_trec_folder_without_headers(tmp_path):
    (tmp_path / "collection.tsv").write_text('d1\tCancel in the "settings\nd2\tTrack it.\n')
    (tmp_path / "queries.train.tsv").write_text("q1\thow to cancel\n")
    (tmp_path / "qrels.train.tsv").write_text("q1 0 d1 1\nq1\t0\td2\t0\n")
    back = read_training_file(tmp_path)
    assert back.table.to_pylist() == [
        {
            "query_id": "q1",
            "query": "how to cancel",
            "doc_id": f"d{n}",
            "document": text,
            "grade": grade,
        }
        for n, text, grade in ((1, 'Cancel in the "settings', 1), (2, "Track it.", 0))
    ]


def test_a_trec_folder_whose_files_do_not_tell_is_refused(tmp_path):
    write_training_file(small("ranking"), tmp_path / "x", format="trec")
    (tmp_path / "x" / "qrels.b.txt").write_text("q1 0 d2 1\n")
    with pytest.raises(InputError, match=r"that name no part: 'qrels.b.txt' and 'qrels.trec'"):
        read_training_file(tmp_path / "x")
    (tmp_path / "x" / "qrels.b.txt").rename(tmp_path / "x" / "qrels.train.1")
    (tmp_path / "x" / "qrels.trec").rename(tmp_path / "x" / "qrels.train.2")
    with pytest.raises(InputError, match=r"of the part 'train': 'qrels.train.1' and"):
        read_training_file(tmp_path / "x")
    (tmp_path / "x" / "qrels.train.1").unlink()
    (tmp_path / "x" / "corpus.jsonl").unlink()
    (tmp_path / "x" / "corpus").mkdir()
    with pytest.raises(InputError, match="no file of the corpus: none whose name has 'corpus' or"):
        read_training_file(tmp_path / "x")


def test_trec_refuses_ids_that_it_could_not_read_back(tmp_path):
    table = pa.table({**small("ranking").table.to_pydict(), "doc_id": ["a b", "c", "d"]})
    with pytest.raises(InputError, match="'a b' has white space"):
        write_training_file(TrainingSet("ranking", table), tmp_path / "x", format="trec")
    assert list(tmp_path.iterdir()) == [], "nothing half-written stays"


def test_ids_of_llamaindex_are_texts(tmp_path):
    judged = {"q": ["d"] * 9 + [{"id": "d"}, 7]}
    found = {"queries": {"q": "a"}, "corpus": {"d": "b"}, "relevant_docs": judged}
    (tmp_path / "x.json").write_text(json.dumps(found))
    back = read_training_file(tmp_path / "x.json", max_rejected=0.2)
    assert back.source["rejected"] == {"an id of a document is not text": 2}


def test_snli_as_published_and_an_array_of_json(tmp_path):
    row = {"sentence1": "a man eats", "sentence2": "he eats", "gold_label": "entailment"}
    path = lines(tmp_path / "snli.jsonl", row, row, {**row, "gold_label": "-"})
    back = read_training_file(path, max_rejected=0.4)
    assert (back.kind, back.table["label"].to_pylist()) == ("nli", [0, 0])
    assert back.source["rejected"] == {"label is -1 (the annotators did not agree)": 1}
    (tmp_path / "y.json").write_text(json.dumps([row, row], indent=2))
    assert len(read_training_file(tmp_path / "y.json")) == 2


# --- names and kinds -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ({"query": "a", "positive": "b", "negative": "c"}, "triplets"),
        ({"query": "a", "positive": "b", "negative": ["c", "d"]}, "negatives"),
        ({"anchor": "a", "positive": "b", "negative_1": "c", "negative_2": "d"}, "triplets"),
        ({"question": "a", "answer": "b"}, "pairs"),
        ({"input": "a", "output": "b"}, "pairs"),
        ({"sentence1": "a", "sentence2": "b", "score": 3.5}, "scored"),
        ({"sentence1": "a", "sentence2": "b", "label": 1.5}, "scored"),
        ({"sentence1": "a", "sentence2": "b", "label": 4}, "scored"),
        ({"sentence1": "a", "sentence2": "b", "label": "Contradiction"}, "nli"),
        ({"sentence1": "a", "sentence2": "b"}, "pairs"),
        ({"premise": "a", "hypothesis": "b", "label": 1}, "nli"),
        ({"text": "a", "intent": "b"}, "labelled"),
    ],
)
def test_the_kind_is_found_by_the_columns(row, kind, tmp_path):
    path = lines(tmp_path / "x.jsonl", row)
    assert read_training_file(path, score_range=(0, 5) if kind == "scored" else None).kind == kind


@pytest.mark.parametrize(
    ("row", "kind", "told"),
    [
        ({"question": "a", "passage": "b", "label": 0}, "ranking", "'label' beside 'question'"),
        ({"query": "a", "answer": "b", "score": 0.0}, "pairs", "'score' beside 'query'"),
        ({"anchor": "a", "positive": "b", "relevance": "no"}, "pairs", "'relevance' beside"),
        ({"sentence1": "a", "sentence2": "b", "label": 0}, "nli", "classes or scores"),
        ({"sentence1": "a", "sentence2": "b", "label": 2.0}, "scored", "classes or scores"),
        ({"title": "a", "text": "b", "label": "x"}, "labelled", "'label' beside 'title'"),
    ],
)
@pytest.mark.parametrize("name", ["jsonl", "parquet", "arrow", "hf"])
def test_what_a_label_says_is_not_guessed(name, row, kind, told, tmp_path):
    # Otherwise contradictions and wrong passages would be trained as positives.
    table = pa.Table.from_pylist([row])
    if name == "jsonl":
        lines(tmp_path / "x", row)
    elif name == "parquet":
        pq.write_table(table, tmp_path / "x")
    elif name == "arrow":
        with pa.ipc.new_file(tmp_path / "x", table.schema) as file:
            file.write_table(table)
    else:
        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(tmp_path / "x")
    with pytest.raises(InputError, match=rf"{told}.*kind= \(--kind"):
        read_training_file(tmp_path / "x")
    assert read_training_file(tmp_path / "x", kind=kind, score_range=(0, 5)).kind == kind


def test_labels_of_hugging_face_are_their_names_and_tell_the_kind(tmp_path):
    features = datasets.Features(
        {
            "sentence1": datasets.Value("string"),
            "sentence2": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["contradiction", "entailment"]),
        }
    )
    columns = {"sentence1": ["a"] * 2, "sentence2": list("wx"), "label": [0, 1]}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "x")
    back = read_training_file(tmp_path / "x")
    assert (back.kind, back.table["label"].to_pylist()) == ("nli", [2, 0])


def test_pairs_of_judged_rows_are_those_that_are_right(tmp_path):
    row = {"query": "a", "document": "b", "grade": 2}
    path = lines(tmp_path / "x.jsonl", row, {**row, "document": "c", "grade": 0})
    assert read_training_file(path, kind="pairs").table["positive"].to_pylist() == ["b"]
    row = {"sentence1": "a", "sentence2": "b", "label": "entailment"}
    wrong = {**row, "sentence2": "c", "label": "contradiction"}
    path = lines(tmp_path / "y.jsonl", row, wrong)
    assert read_training_file(path, kind="pairs").table["positive"].to_pylist() == ["b"]


def test_columns_of_other_names_are_named_by_the_caller(tmp_path):
    path = lines(tmp_path / "x.jsonl", {"subject": "a", "reply": "b"})
    with pytest.raises(InputError, match="'subject', 'reply', which are those of no kind"):
        read_training_file(path)
    with pytest.raises(ColumnNotFoundError, match=r"anchor.*also known as query"):
        read_training_file(path, kind="pairs")
    columns = {"anchor": "subject", "positive": "reply"}
    assert len(read_training_file(path, columns=columns)) == 1
    with pytest.raises(InputError, match="'pairs' data have no 'doc'; the roles are anchor"):
        read_training_file(path, kind="pairs", columns={"doc": "subject"})
    with pytest.raises(ColumnNotFoundError, match="no column 'nowhere'"):
        read_training_file(path, columns={"anchor": "nowhere"})


@pytest.mark.parametrize("name", ["bge", "llamaindex", "beir", "trec"])
def test_a_format_that_says_the_names_takes_no_others(name, tmp_path):
    write_training_file(small("pairs"), tmp_path / "x", format=name)
    with pytest.raises(InputError, match=f"read as '{name}', whose columns have names of their"):
        read_training_file(tmp_path / "x", columns={"anchor": "nowhere"})


def test_another_kind_is_made_where_it_is_a_matter_of_form(tmp_path):
    write_training_file(small("triplets"), tmp_path / "x.jsonl")
    lists = read_training_file(tmp_path / "x.jsonl", kind="negatives")
    assert lists.table["negatives"].to_pylist() == [
        ["Cancel culture is a term.", "Open an account."],
        ["Order the list.", "Große Liste"],
    ]
    write_training_file(lists, tmp_path / "y.jsonl")
    back = read_training_file(tmp_path / "y.jsonl", kind="triplets")
    assert (len(back), back.negative_columns) == (4, ["negative_1"])
    with pytest.raises(ColumnNotFoundError, match="sentence1"):
        read_training_file(tmp_path / "x.jsonl", kind="scored")


def test_rows_of_one_part_are_told_by_their_column(tmp_path):
    row = {"text": "a", "label": "x"}
    parts = ["train", "validation", "test", "train"]
    path = lines(tmp_path / "x.jsonl", *[{**row, "split": part} for part in parts])
    assert len(read_training_file(path)) == 4
    train, dev = (read_training_file(path, split=part) for part in ("train", "dev"))
    assert (len(train), len(dev)) == (2, 1)
    assert train.source["other_parts"] == {"validation": 1, "test": 1}
    told = "no part 'x' in its column 'split'; it has 'train'.*rename it, or.*convert IN OUT"
    with pytest.raises(InputError, match=told):
        read_training_file(path, split="x")
    assert len(read_training_file(lines(tmp_path / "y.jsonl", row), split="train")) == 1


@pytest.mark.parametrize("name", ["jsonl", "csv", "tsv", "parquet", "arrow", "hf", "bge", "openai"])
def test_every_format_of_rows_has_parts(name, tmp_path):
    rows = [{"input": "a", "output": part, "split": part} for part in ("train", "test", "train")]
    if name == "bge":
        rows = [{**row, "query": "a", "pos": [row["output"]], "neg": []} for row in rows]
    table, path = pa.Table.from_pylist(rows), tmp_path / "x"
    if name in ("csv", "tsv"):
        pacsv.write_csv(table, path, pacsv.WriteOptions(delimiter={"csv": ",", "tsv": "\t"}[name]))
    elif name == "parquet":
        pq.write_table(table, path)
    elif name == "arrow":
        with pa.ipc.new_stream(path, table.schema) as file:
            file.write_table(table)
    elif name == "hf":
        datasets.disable_progress_bars()
        datasets.Dataset(table).save_to_disk(path)
    else:
        lines(path, *rows)
    assert parts_of_file(path, format=name) == ["train", "test"]
    assert [len(read_training_file(path, format=name, split=s)) for s in (None, "train")] == [3, 2]
    write_training_file(small("pairs"), tmp_path / "whole", format=name)
    assert parts_of_file(tmp_path / "whole", format=name) == []


def test_parts_of_folders(tmp_path):
    for name, parts in (("beir", ["train"]), ("trec", [""])):
        write_training_file(small("ranking"), tmp_path / name, format=name)
        assert parts_of_file(tmp_path / name) == parts
        assert len(read_training_file(tmp_path / name, split="train")) == 3
    (tmp_path / "trec" / "qrels.trec").rename(tmp_path / "trec" / "qrels.train")
    for name, part in (("beir/qrels", "{}.tsv"), ("trec", "qrels.{}")):
        shutil.copy(tmp_path / name / part.format("train"), tmp_path / name / part.format("test"))
    assert parts_of_file(tmp_path / "beir") == ["test", "train"]
    assert parts_of_file(tmp_path / "trec") == ["test", "train"]
    one = datasets.Dataset.from_list([{"query": "a", "answer": "b"}])
    datasets.disable_progress_bars()
    datasets.DatasetDict({"train": one, "validation": one}).save_to_disk(tmp_path / "hf")
    assert parts_of_file(tmp_path / "hf") == ["train", "validation"]


# --- bad rows and torn files ---------------------------------------------------------------


def test_bad_rows_are_counted_by_reason_and_refused_above_a_share(tmp_path):
    good = {"query": "a", "positive": "b"}
    path = lines(tmp_path / "x.jsonl", *[good] * 6, {"query": "a"}, {**good, "query": " "})
    with path.open("a") as file:
        file.write('{"query": 7, "positive": "b"}\nnot json\n["a"]\n')
    back = read_training_file(path, max_rejected=0.5)
    assert (len(back), back.source["n_rows"]) == (6, 11)
    assert back.source["rejected"] == {
        "no positive": 1,
        "blank anchor": 1,
        "anchor is not text": 1,
        "not JSON": 1,
        "not a JSON object": 1,
    }
    with pytest.raises(BadRowsError, match="5 of 11 rows rejected: 1 x no positive"):
        read_training_file(path)
    with pytest.raises(InputError, match="max_rejected is 2"):
        read_training_file(path, max_rejected=2)


@pytest.mark.parametrize("name", ["jsonl", "bge", "openai", "llamaindex", "parquet", "arrow", "hf"])
def test_a_torn_file_is_told(name, tmp_path):
    table = {"anchor": [f"question {n}" for n in range(500)], "positive": ["answer"] * 500}
    write_training_file(TrainingSet("pairs", pa.table(table)), tmp_path / "x", format=name)
    found = tmp_path / "x"
    if found.is_dir():
        found = next(found.glob("*.arrow"))
    content = found.read_bytes()
    found.write_bytes(content[: len(content) // 2 + 3])
    with pytest.raises(InputError, match=r"torn|ends in the middle|cannot be read"):
        read_training_file(tmp_path / "x", format=name)


@pytest.mark.parametrize("name", ["jsonl", "csv", "llamaindex"])
def test_a_torn_archive_is_told(name, tmp_path):
    table = {"anchor": [f"question {n}" for n in range(500)], "positive": ["answer"] * 500}
    path = tmp_path / "x.gz"
    write_training_file(TrainingSet("pairs", pa.table(table)), path, format=name)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"torn|cannot be read"):
        read_training_file(path)


def test_what_is_of_no_format_lists_those_there_are(tmp_path):
    (tmp_path / "x.bin").write_bytes(b"\x00\x01\x02 nothing")
    (tmp_path / "empty").mkdir()
    for path in (tmp_path / "x.bin", tmp_path / "empty"):
        with pytest.raises(InputError) as caught:
            read_training_file(path)
        assert all(name in str(caught.value) for name in FORMATS)
    with pytest.raises(InputError, match="no format 'yaml'"):
        read_training_file(tmp_path / "x.bin", format="yaml")
    with pytest.raises(InputError, match="no file or folder"):
        read_training_file(tmp_path / "nowhere")
    with pytest.raises(
        InputError, match=r"cannot hold 'scored'.*Formats that can: hf, parquet, arrow"
    ):
        write_training_file(small("scored"), tmp_path / "y", format="bge")
    with pytest.raises(InputError, match="exists"):
        write_training_file(small("pairs"), tmp_path / "empty", format="hf")


def test_a_number_too_long_to_be_one_is_a_bad_row(tmp_path):
    row = {"sentence1": "a", "sentence2": "b", "score": 0.5}
    path = lines(tmp_path / "x.jsonl", *[row] * 20, {**row, "score": 10**400})
    assert read_training_file(path).source["rejected"] == {"score is not a number": 1}


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_is_no_file(name, tmp_path):
    folders = {"hf", "beir", "trec"}
    (tmp_path / "folder").mkdir()
    lines(tmp_path / "file", {"query": "a", "positive": "b"})
    path = tmp_path / ("file" if name in folders else "folder")
    told = "is a file, and.*are a folder" if name in folders else "is a folder, and.*are a file"
    with pytest.raises(InputError, match=told):
        read_training_file(path, format=name)


@pytest.mark.skipif(sys.version_info < (3, 11), reason="csv of Python 3.10 reads no U+0000")
@pytest.mark.parametrize("name", ["csv", "tsv"])
def test_u0000_in_a_text_is_read_back(name, tmp_path):
    made = TrainingSet("pairs", pa.table({"anchor": ["a\0b", "c"], "positive": ["d", "e"]}))
    write_training_file(made, tmp_path / "x", format=name)
    assert read_training_file(tmp_path / "x").table.equals(made.table)


# --- scores --------------------------------------------------------------------------------


def scored(tmp_path, scores):
    table = pa.table({"sentence1": ["a"] * len(scores), "sentence2": ["b"] * len(scores)})
    pq.write_table(table.append_column("score", pa.array(scores)), tmp_path / "s.parquet")
    return tmp_path / "s.parquet"


@pytest.mark.parametrize(
    ("scores", "given", "expected", "scale"),
    [
        ([0.0, 0.5, 1.0], None, [0.0, 0.5, 1.0], [0.0, 1.0]),
        ([0.0, 2.5, 5.0], None, [0.0, 0.5, 1.0], [0.0, 5.0]),
        ([0.0, 0.5, 1.0], (0, 5), [0.0, 0.1, 0.2], [0, 5]),
        ([-1.0, 0.0, 1.0], (-1, 1), [0.0, 0.5, 1.0], [-1, 1]),
        ([1, 3, 5], (1, 5), [0.0, 0.5, 1.0], [1, 5]),
    ],
)
def test_scores_are_brought_to_one_scale(scores, given, expected, scale, tmp_path):
    back = read_training_file(scored(tmp_path, scores), score_range=given)
    assert back.table["score"].to_pylist() == pytest.approx(expected)
    assert back.source["score_range"] == scale


def test_scores_out_of_range_are_counted_and_a_doubtful_scale_is_not_guessed(tmp_path):
    back = read_training_file(scored(tmp_path, [0.0, 3.0] * 50 + [7.0, -1.0, 99.0]))
    assert back.source["rejected"] == {"score is not from 0 to 5": 3}
    assert (len(back), back.source["score_range"]) == (100, [0.0, 5.0])
    back = read_training_file(scored(tmp_path, [0.5] * 50 + [float("nan"), None]))
    assert back.source["rejected"] == {"score is not a number": 1, "no score": 1}
    with pytest.raises(InputError, match=r"50 are from 0 to 1 and 52 from 0 to 5.*score_range="):
        read_training_file(scored(tmp_path, [0.5] * 50 + [4.0, 3.0]))
    with pytest.raises(InputError, match="from -3 to 80"):
        read_training_file(scored(tmp_path, [-3.0, 80.0]))
    with pytest.raises(BadRowsError, match="2 x score is not from 0 to 1"):
        read_training_file(scored(tmp_path, [-3.0, 80.0, 0.5]), score_range=(0, 1))


# --- the stream of JSON --------------------------------------------------------------------


class Trickle(io.StringIO):
    """Gives three characters at a time, whatever it is asked for."""

    def read(self, size=-1):
        return super().read(3)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(
    document=st.dictionaries(st.text(max_size=9), JSON, max_size=5), indent=st.none() | st.just(1)
)
@settings(max_examples=60, deadline=None)
def test_a_document_is_the_same_however_it_trickles_in(document, indent):
    text = json.dumps(document, indent=indent)
    stream = JsonStream(Trickle(text + " \n"))
    assert dict(stream.each_item()) == document
    stream.end()
    cut = JsonStream(Trickle(text[:-1]))
    with pytest.raises(ValueError, match=r"."):
        dict(cut.each_item())
