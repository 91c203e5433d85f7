"""TREC files."""

import gzip
import math
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import read_run, read_trec_qrels, write_run, write_trec_qrels
from lancedb_ft.evaluate.metrics import per_query

RUN = {"q2": {"d1": 0.25, "d10": 0.25, "d2": 1 / 3}, "q1": {"Ω": -1e-300}}
TORN = gzip.compress("".join(f"q1 Q0 d{i} 1 0.5 t\n" for i in range(99)).encode())[:-9]
QRELS = {"q1": {"d1": 2, "d2": 0}, "q2": {"d1": -1}}


@pytest.mark.parametrize("name", ["run.txt", "run.txt.gz"])
def test_a_run_comes_back_as_it_was(tmp_path, name):
    write_run(RUN, tmp_path / name, tag="bm25")
    assert read_run(tmp_path / name) == RUN
    packed = (tmp_path / name).read_bytes()
    text = gzip.decompress(packed) if name.endswith("gz") else packed
    assert text.decode().splitlines()[:3] == [
        "q2 Q0 d2 1 0.3333333333333333 bm25",
        "q2 Q0 d1 2 0.25 bm25",
        "q2 Q0 d10 3 0.25 bm25",
    ]
    write_run(RUN, tmp_path / f"again-{name}", tag="bm25")
    assert (tmp_path / f"again-{name}").read_bytes() == packed


@pytest.mark.parametrize("name", ["qrels.txt", "qrels.gz"])
def test_judgments_come_back_as_they_were(tmp_path, name):
    write_trec_qrels(QRELS, tmp_path / name)
    assert read_trec_qrels(tmp_path / name) == QRELS


_IDS = st.text(st.characters(codec="utf-8", exclude_categories=("Z", "C")), min_size=1, max_size=4)
_SCORES = st.floats(allow_nan=False)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(_IDS, st.dictionaries(_IDS, _SCORES, min_size=1), min_size=1))
def test_any_run_keeps_its_scores(tmp_path_factory, run):
    path = tmp_path_factory.mktemp("runs") / "run.txt"
    write_run(run, path)
    assert read_run(path) == run


def test_files_of_others_are_read(tmp_path):
    path = tmp_path / "run"
    path.write_bytes("\ufeffq1\tQ0\td1\t1\t12\tbm25\r\n\r\nq1  Q0  d2  2  -1e3  bm25\r\n".encode())
    assert read_run(path) == {"q1": {"d1": 12.0, "d2": -1000.0}}
    assert per_query(read_run(path), {"q1": {"d2": 1}}, "mrr")["mrr"]["q1"] == 0.5


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 Q0 d2 2 0.5", r"run:2: 5 columns, expected 6: query_id Q0 doc_id rank score tag"),
        ("q1 Q0 d 2 2 0.5 tag", "run:2: 7 columns"),
        ("q1 Q0 d2 2 high tag", "run:2: the score is 'high'"),
        ("q1 Q0 d2 2 nan tag", "run:2: the score is 'nan'"),
        ("q1 Q0 d1 2 0.5 tag", "run:2: document 'd1' is already ranked for 'q1'"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "run"
    path.write_text(f"q1 Q0 d1 1 0.9 tag\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_run(path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q1 0 d2", "qrels:2: 3 columns"),
        ("q1 0 d2 1.5", "qrels:2: the grade is '1.5'"),
        ("q1 0 d1 0", "qrels:2: document 'd1' is already judged"),
    ],
)
def test_a_bad_judgment_is_named(tmp_path, line, message):
    path = tmp_path / "qrels"
    path.write_text(f"q1 0 d1 1\n{line}\n")
    with pytest.raises(InputError, match=message):
        read_trec_qrels(path)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("missing", None, "cannot be read"),
        ("empty", b"", "is empty"),
        ("blank", b"\n \n", "is empty"),
        ("latin1", b"q1 Q0 d\xe9 1 0.5 t\n", "not UTF-8"),
        ("plain.gz", b"q1 Q0 d 1 0.5 t\n", "cannot be read"),
        ("torn.gz", TORN, "cannot be read"),
    ],
)
def test_a_file_that_is_none_says_so(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_run(tmp_path / name)


@pytest.mark.parametrize(
    ("run", "tag", "message"),
    [
        ({"q 1": {"d": 1.0}}, "t", "query id 'q 1'"),
        ({"q": {"d\t1": 1.0}}, "t", "document id"),
        ({"q": {"": 1.0}}, "t", "document id ''"),
        ({"q": {"d": math.nan}}, "t", "NaN"),
        ({"q": {"d": 1.0}}, "my tag", "tag 'my tag'"),
    ],
)
def test_what_could_not_be_read_back_is_not_written(tmp_path, run, tag, message):
    path = tmp_path / "run"
    path.write_text("before")
    with pytest.raises(InputError, match=message):
        write_run(run, path, tag=tag)
    assert path.read_text() == "before"
    assert os.listdir(tmp_path) == ["run"]


def test_a_place_that_is_none_says_so(tmp_path):
    with pytest.raises(InputError, match="cannot be written"):
        write_run(RUN, tmp_path / "nowhere" / "run")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_run(RUN, tmp_path / "folder")
    assert os.listdir(tmp_path) == ["folder"]
    with pytest.raises(InputError, match="grade"):
        write_trec_qrels({"q": {"d": 0.5}}, tmp_path / "qrels")
