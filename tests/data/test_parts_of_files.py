"""Parts, columns and labels that stand where one does not look first are read or refused."""

import gzip
import json

import datasets
import lancedb
import pytest

from lancedb_ft.cli.data import read_data_split
from lancedb_ft.data import load_files, read_training_file
from lancedb_ft.data.training.files import detect_format, parts_of_file
from lancedb_ft.errors import BadRowsError, InputError


def lines(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def pairs(n, **more):
    return [{"query": f"q{i}", "positive": f"p{i}", **more} for i in range(n)]


# --- columns that come late ----------------------------------------------------------------


@pytest.mark.parametrize(
    "late",
    [
        {"negative": "n"},
        {"negative": ["n"]},
        {"label": 0},
        {"grade": 0},
        {"split": "test"},
        {"anchor": "another"},
    ],
)
def test_a_column_that_comes_late_and_matters_is_refused(late, tmp_path):
    path = lines(tmp_path / "x.jsonl", pairs(150) + pairs(150, **late))
    (column,) = late
    told = rf"has a column '{column}' from line 151 on.*'pairs' data.*Give it to every row"
    for split in (None, "train"):
        with pytest.raises(InputError, match=told):
            read_training_file(path, split=split)
    (tmp_path / "x.json").write_text(json.dumps(pairs(150) + pairs(1, **late)))
    with pytest.raises(InputError, match=told):
        read_training_file(tmp_path / "x.json")


def test_a_late_column_that_changes_nothing_is_left_out(tmp_path):
    path = lines(tmp_path / "x.jsonl", pairs(150) + pairs(150, url="u", negative=None, group="g"))
    back = read_training_file(path)
    assert (back.kind, len(back), back.table.column_names) == ("pairs", 300, ["anchor", "positive"])
    assert back.source["late_columns"] == ["group"], "it would be left out if it came early, too"
    path = lines(tmp_path / "y.jsonl", pairs(150) + pairs(150, label=0))
    assert len(read_training_file(path, kind="pairs")) == 300, "the caller says that all are right"
    path = lines(tmp_path / "z.jsonl", pairs(150, negative="m") + pairs(150, negative_2="n"))
    with pytest.raises(InputError, match="'negative_2' from line 151 on"):
        read_training_file(path)


@pytest.mark.parametrize("name", ["jsonl", "bge"])
def test_a_part_that_is_named_late_is_a_part(name, tmp_path):
    rows = pairs(150) + pairs(1, split="test")
    if name == "bge":
        rows = [{**row, "pos": [row["positive"]], "neg": ["n"]} for row in rows]
    path = lines(tmp_path / "x.jsonl", rows)
    assert parts_of_file(path, format=name) == ["None", "test"]
    with pytest.raises(InputError, match="'None' is none of train, dev and test"):
        read_data_split(str(path))


# --- texts that look like lists ------------------------------------------------------------


@pytest.mark.parametrize("text", ["[1] Smith et al. say no", '["a text", "b text"]', "[]"])
def test_a_text_in_brackets_is_a_text(text, tmp_path):
    path = lines(tmp_path / "x.jsonl", pairs(5, negative=text))
    for kind in (None, "triplets"):
        back = read_training_file(path, kind=kind)
        assert (back.kind, back.table["negative_1"].to_pylist()) == ("triplets", [text] * 5)
    lists = read_training_file(path, kind="negatives")
    assert lists.table["negatives"].to_pylist() == [[text]] * 5


def test_a_csv_field_is_a_list_only_where_it_is_one_of_texts(tmp_path):
    def read(field):
        written = field.replace('"', '""')
        rows = "".join(f'q{i},p{i},"{written}"\n' for i in range(5))
        (tmp_path / "x.csv").write_text("query,positive,negative\n" + rows)
        return read_training_file(tmp_path / "x.csv")

    back = read('["a text", "b text"]')
    assert (back.kind, back.table["negatives"][0].as_py()) == ("negatives", ["a text", "b text"])
    for text in ("[1] Smith et al. say no", "[1, 2]", "[" * 5000):
        assert (read(text).kind, read(text).table["negative_1"][0].as_py()) == ("triplets", text)


# --- BEIR ----------------------------------------------------------------------------------


def beir(folder, *files):
    lines(folder / "corpus.jsonl", [{"_id": f"d{i}", "text": f"document {i}"} for i in range(6)])
    lines(folder / "queries.jsonl", [{"_id": f"q{i}", "text": f"query {i}"} for i in range(6)])
    (folder / "qrels").mkdir()
    for i, name in enumerate(files):
        opener = gzip.open if name.endswith(".gz") else open
        with opener(folder / "qrels" / name, "wt") as file:
            file.write(f"query-id\tcorpus-id\tscore\nq{i}\td{i}\t1\n")
    return folder


def test_load_reads_every_file_of_judgements(db, tmp_path):
    names = ("train.tsv.gz", "validation.tsv", "test.tsv", "later.tsv", ".test.tsv", "train.tsv~")
    folder = beir(tmp_path / "set", *names)
    report = load_files(db, beir=folder)
    assert report.tables["docs_qrels"] == 4
    found = [row["split"] for row in db.open_table("docs_queries").to_arrow().to_pylist()]
    assert found == ["train", "dev", "test", "later", None, None]
    assert parts_of_file(folder) == ["later", "test", "train", "validation"]
    assert len(read_training_file(folder, split="train")) == 1
    assert len(read_training_file(folder, split="dev")) == 1


def test_the_plain_file_is_taken_where_it_is_packed_as_well(db, tmp_path):
    folder = beir(tmp_path / "set", "train.tsv", "train.tsv.gz")
    assert parts_of_file(folder) == ["train"]
    report = load_files(db, beir=folder)
    assert [file.path.rsplit("/", 1)[-1] for file in report.files][2:] == ["train.tsv"]


def test_two_files_of_one_part_are_named(db, tmp_path):
    folder = beir(tmp_path / "set", "train.tsv", "dev.tsv", "validation.tsv", "test.tsv")
    with pytest.raises(InputError, match=r"part 'dev': 'dev.tsv' and 'validation.tsv'. Make them"):
        load_files(db, beir=folder)
    assert db.list_tables().tables == []
    with pytest.raises(InputError, match="the parts 'dev' and 'validation', which both mean dev"):
        read_data_split(str(folder))
    (folder / "qrels" / "dev.tsv").unlink()
    parts = read_data_split(str(folder)).parts()
    assert {name: len(part) for name, part in parts.items()} == {"train": 1, "dev": 1, "test": 1}


def test_two_names_of_one_part_in_a_column_are_one_part(tmp_path):
    rows = [row for part in ("train", "dev", "validation", "test") for row in pairs(2, split=part)]
    parts = read_data_split(str(lines(tmp_path / "x.jsonl", rows))).parts()
    assert {name: len(part) for name, part in parts.items()} == {"train": 2, "dev": 4, "test": 2}


def test_load_reads_a_folder_of_judgements_by_itself(tmp_path):
    folder = beir(tmp_path / "set", "valid.tsv")
    db = lancedb.connect(str(tmp_path / "db"))
    files = {name: folder / f"{name}.jsonl" for name in ("corpus", "queries")}
    load_files(db, **files, qrels=folder / "qrels")
    found = db.open_table("docs_queries").to_arrow().to_pylist()
    assert [row["split"] for row in found[:2]] == ["dev", None]


# --- TREC ----------------------------------------------------------------------------------


def trec(folder, files):
    folder.mkdir()
    (folder / "corpus.tsv").write_text("d1\tone\nd2\ttwo\n")
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def test_queries_of_another_part_are_not_taken(tmp_path):
    judged, asked = "q1 0 d1 1\n", {"queries.dev.tsv": "q1\tof dev\n"}
    folder = trec(tmp_path / "x", {"qrels.train.tsv": judged, **asked})
    told = r"judgements of the part 'train', and queries only of others: 'queries.dev.tsv'.*queries"
    with pytest.raises(InputError, match=told):
        read_training_file(folder)
    (folder / "queries.tsv").write_text("q1\tof all\n")
    assert read_training_file(folder).table["query"].to_pylist() == ["of all"]
    (folder / "queries.training.tsv").write_text("q1\tof train\n")
    assert read_training_file(folder).table["query"].to_pylist() == ["of train"]
    (folder / "qrels.train.tsv").rename(folder / "qrels.tsv")
    assert read_training_file(folder).table["query"].to_pylist() == ["of all"]
    (folder / "queries.tsv").unlink()
    with pytest.raises(InputError, match="judgements that name no part, and queries only of"):
        read_training_file(folder)
    (folder / "queries.training.tsv").unlink()
    assert read_training_file(folder).table["query"].to_pylist() == ["of dev"]


def test_the_part_validation_of_trec_can_be_selected(tmp_path):
    files = {f"qrels.{part}.txt": f"q1 0 d{n} 1\n" for n, part in ((1, "train"), (2, "validation"))}
    folder = trec(tmp_path / "x", {**files, "topics.txt": "q1\twhich\n"})
    assert parts_of_file(folder) == ["train", "dev"]
    for name in ("dev", "validation"):
        back = read_training_file(folder, split=name)
        assert (back.table["doc_id"].to_pylist(), back.source["split"]) == (["d2"], "dev")
    (folder / "qrels.dev.txt").write_text("q1 0 d1 1\n")
    with pytest.raises(InputError, match=r"of the part 'dev': 'qrels.dev.txt' and 'qrels.valid"):
        read_training_file(folder)


def test_what_an_editor_leaves_behind_is_no_corpus(tmp_path):
    files = {"qrels.txt": "q1 0 d1 1\n", "topics.txt": "q1\twhich\n"}
    folder = trec(tmp_path / "x", files)
    for name in (".corpus.swp", "corpus.tsv~", ".qrels.txt.swp"):
        (folder / name).write_bytes(b"b0VIM \0\xff")
    assert detect_format(folder).name == "trec"
    assert read_training_file(folder).table["document"].to_pylist() == ["one"]


# --- Hugging Face --------------------------------------------------------------------------


def test_a_row_of_hugging_face_without_a_label_is_counted(tmp_path):
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])}
    )
    columns = {"text": ["a", "b", "c", "d"], "label": [0, -1, 1, -1]}
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(tmp_path / "x")
    back = read_training_file(tmp_path / "x", max_rejected=0.5)
    assert (back.kind, back.table["label"].to_pylist()) == ("labelled", ["neg", "pos"])
    assert back.source["rejected"] == {"no label": 2}
    with pytest.raises(BadRowsError, match="2 of 4 rows rejected: 2 x no label"):
        read_training_file(tmp_path / "x")
