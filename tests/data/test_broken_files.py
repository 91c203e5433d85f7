"""Files with a quote astray, with more in them than is right, or less: nothing is lost unsaid."""

import gc
import gzip
import json

import pytest

from lancedb_ft.data import load_files, read_training_file
from lancedb_ft.data.formats import CUT_OFF, read_rows
from lancedb_ft.errors import BadRowsError, InputError

NAMES = ["query", "positive"]


def written(path, rows, delimiter, end="\n"):
    lines = [delimiter.join(NAMES), *(delimiter.join(row) for row in rows)]
    path.write_text("\n".join(lines) + end)
    return path


def numbered(n):
    return [[f"how to do {i}", f"answer {i}"] for i in range(n)]


@pytest.fixture(params=[("csv", ","), ("tsv", "\t")], ids=["csv", "tsv"])
def kind(request):
    return request.param


# --- a quote astray ------------------------------------------------------------------------


def test_a_stray_quote_costs_its_own_line_and_no_other(kind, tmp_path):
    name, delimiter = kind
    rows = numbered(200)
    rows[19] = ['"unclosed start', "answer"]
    path = written(tmp_path / f"s.{name}", rows, delimiter)
    back = read_training_file(path)
    assert (len(back), back.source["n_rows"]) == (199, 200)
    (reason,) = back.source["rejected"]
    assert "a quote is not closed" in reason
    bad = [row.line for row in read_rows(path) if row.values is None]
    assert bad == [21], "and the lines after it are numbered as in the file"


@pytest.mark.parametrize(
    "second",
    [
        ['"another quote" and more', "answer"],  # text after the closing quote
        ["how to", 'the end"'],  # closes, and makes one field of all
        ['"another unclosed', "answer"],
    ],
)
@pytest.mark.parametrize("first", [['"unclosed', "answer"], ["how to", '"unclosed answer']])
def test_two_stray_quotes_do_not_make_one_text_of_the_rows_between(kind, first, second, tmp_path):
    name, delimiter = kind
    rows = numbered(200)
    rows[19], rows[59] = first, second
    back = read_training_file(written(tmp_path / f"s.{name}", rows, delimiter))
    # A quote at the end of a field that does not begin with one is text.
    n_bad = 1 if second[1].endswith('"') else 2
    assert (len(back), back.source["n_rows"]) == (200 - n_bad, 200)
    assert sum(back.source["rejected"].values()) == n_bad
    assert max(map(len, back.table["positive"].to_pylist())) < 20


def test_many_stray_quotes_are_read_in_one_go(kind, tmp_path):
    name, delimiter = kind
    rows = [['"open', "a"] if i % 10 == 0 else ["q", "a"] for i in range(20_000)]
    path = written(tmp_path / f"s.{name}", rows, delimiter)
    assert sum(row.values is None for row in read_rows(path)) == 2_000


def test_a_text_of_several_lines_stays_one(kind, tmp_path):
    name, delimiter = kind
    texts = [
        "one\ntwo, and three\n\nfour",
        'she said ""no""\n, then, left',
        "\n".join(f"line {i}{delimiter} with one" for i in range(9)),
        "\n".join([f"a table{delimiter}of rows"] * 30),
    ]
    rows = [["q", f'"{text}"'] for text in texts]
    back = read_training_file(written(tmp_path / f"s.{name}", rows, delimiter))
    assert back.table["positive"].to_pylist() == [text.replace('""', '"') for text in texts]
    assert back.source["rejected"] == {}


def test_the_text_of_a_bad_record_becomes_no_rows(kind, tmp_path):
    name, delimiter = kind
    rows = numbered(40)
    text = f"first\nsecond{delimiter} as a row\nthird\nfourth\nfifth"
    rows[9] = ["q", f'"{text}" and more']
    rows[19] = ["q", f'"{text}"', "too many"]
    rows[29] = ["q", '"a text\nof two lines"']
    back = read_training_file(written(tmp_path / f"s.{name}", rows, delimiter), max_rejected=0.3)
    assert len(back) == 38
    assert not any("as a row" in text for text in back.table["positive"].to_pylist())
    assert sum(back.source["rejected"].values()) == 10, "each of its lines counts"
    assert "a text\nof two lines" in back.table["positive"].to_pylist()


def test_what_a_stray_quote_takes_from_a_table_of_documents_is_loaded(db, tmp_path):
    lines = ["id,text", *(f"{i},doc {i}" for i in range(30))]
    lines[4] = '3,"oops'
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    report = load_files(db, corpus=tmp_path / "c.csv")
    assert (report.tables["docs"], report.files[0].n_rows) == (29, 30)
    (found,) = report.files[0].lines.values()
    assert found == (5,)


# --- cut off -------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ['g,"h', 'g,"two\nlines and mo', "g", 'g,"h\ni"\nj'])
def test_a_csv_file_that_ends_in_the_middle_of_a_row_is_refused(db, end, tmp_path):
    rows = "".join(f"q{i},a{i}\n" for i in range(50))
    (tmp_path / "cut.csv").write_text("query,positive\n" + rows + end)
    with pytest.raises(InputError, match=r"ends in the middle of line 5\d: it was not written"):
        read_training_file(tmp_path / "cut.csv")
    (tmp_path / "docs.csv").write_text("id,text\n" + rows + end)
    with pytest.raises(InputError, match=r"docs.csv' ends in the middle of line 5\d"):
        load_files(db, corpus=tmp_path / "docs.csv")
    assert db.list_tables().tables == []


def test_a_csv_file_needs_no_line_end_at_its_end(tmp_path):
    (tmp_path / "x.csv").write_text('query,positive\na,b\nc,"d\ne"')
    assert len(read_training_file(tmp_path / "x.csv")) == 2
    (tmp_path / "x.csv").write_text("query,positive\na,b\n  ")
    back = read_training_file(tmp_path / "x.csv", max_rejected=0.5)
    assert back.source["rejected"] == {"not as many fields as the header": 1}


def test_load_refuses_json_lines_that_end_in_the_middle_of_a_row(db, tmp_path):
    rows = [json.dumps({"_id": f"d{i}", "text": f"document number {i}"}) for i in range(100)]
    whole = "\n".join(rows)
    path = tmp_path / "c.jsonl"
    path.write_text(whole[:-10])
    with pytest.raises(InputError, match=r"c.jsonl' ends in the middle of line 100"):
        load_files(db, corpus=path, max_rejected=1)
    assert db.list_tables().tables == []
    path.write_text(whole)
    queries = tmp_path / "q.jsonl"
    queries.write_text(whole)
    (tmp_path / "qrels.tsv").write_text("query-id\tcorpus-id\tscore\nd1\td2\t1\nd3\td")
    with pytest.raises(InputError, match=r"qrels.tsv' ends in the middle of line 3"):
        load_files(db, corpus=path, queries=queries, qrels=tmp_path / "qrels.tsv", max_rejected=1)
    assert load_files(db, corpus=path).tables == {"docs": 100}


def test_judgements_that_end_in_the_middle_of_a_row_are_refused(tmp_path):
    (tmp_path / "corpus.tsv").write_text("d1\tone\nd2\ttwo\n")
    (tmp_path / "queries.tsv").write_text("q1\twhich\n")
    for end in ("q1 0 d", '"q1'):
        (tmp_path / "qrels.txt").write_text("q1 0 d1 1\n" * 20 + end)
        with pytest.raises(InputError, match=r"qrels.txt' ends in the middle of line 21"):
            read_training_file(tmp_path)
    (tmp_path / "qrels.txt").write_text("q1 0 d1 1\n")
    (tmp_path / "queries.tsv").write_text("q1\twhich\nq")
    with pytest.raises(InputError, match=r"queries.tsv' ends in the middle of line 2"):
        read_training_file(tmp_path)


# --- more than there should be, and nothing ------------------------------------------------


def test_what_follows_an_array_of_json_is_not_dropped(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('[{"query":"a b","positive":"c d"}]\n[{"query":"e","positive":"f"}]')
    with pytest.raises(
        InputError, match=r"goes on with '\[' after the end of its JSON array.*JSON"
    ):
        read_training_file(path)
    path.write_text('[{"query":"a b","positive":"c d"}]\n \n')
    assert len(read_training_file(path)) == 1


@pytest.mark.parametrize(
    "text",
    [
        '[{"query":"a","positive":"b"},{"query":' + "[" * 100_000,
        '{"corpus": {"d": ' + "[" * 100_000 + '}, "queries": {}}',
    ],
)
def test_json_that_is_nested_too_deeply_is_told(text, tmp_path):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match="nested too deeply"):
        read_training_file(tmp_path / "x.json")


@pytest.mark.parametrize("text", ["", "\n\n", "\ufeff", "[]\n"])
@pytest.mark.parametrize("named", [None, "jsonl", "csv"])
def test_an_empty_file_is_called_empty(text, named, tmp_path):
    (tmp_path / "x").write_text(text)
    with pytest.raises(InputError, match="is empty: there is no row"):
        read_training_file(tmp_path / "x", format=named)
    with gzip.open(tmp_path / "x.gz", "wt") as packed:
        packed.write(text)
    with pytest.raises(InputError, match="is empty: there is no row"):
        read_training_file(tmp_path / "x.gz", format=named)


def test_a_header_alone_is_empty_and_bad_rows_alone_are_bad_rows(tmp_path):
    (tmp_path / "x.csv").write_text("query,positive\n")
    with pytest.raises(InputError, match="is empty: there is no row"):
        read_training_file(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("query,positive\na,b,c\nd\n")
    with pytest.raises(BadRowsError, match="2 of 2 rows rejected: 2 x not as many fields"):
        read_training_file(tmp_path / "x.csv")


def test_two_columns_of_one_name_are_refused(tmp_path):
    (tmp_path / "x.csv").write_text("query,positive,query,,\na,b,c,,\n")
    with pytest.raises(InputError, match="has 2 columns 'query', and which of them is meant"):
        read_training_file(tmp_path / "x.csv")
    (tmp_path / "x.csv").write_text("query,positive,,\na,b,,\n")
    assert len(read_training_file(tmp_path / "x.csv")) == 1, "columns without a name are no matter"


# --- judgements without a header -----------------------------------------------------------


@pytest.mark.parametrize(("grade", "n_good"), [("1.0", 1), ("+2", 1), ("0.5", 0), ("-1", 0)])
def test_a_grade_with_a_point_makes_no_header_of_the_first_row(grade, n_good, db, tmp_path):
    (tmp_path / "corpus.tsv").write_text("d\tone\ne\ttwo\n")
    (tmp_path / "topics.tsv").write_text("q\twhich\n")
    (tmp_path / "qrels.txt").write_text(f"q 0 d {grade}\n")
    if n_good:
        assert read_training_file(tmp_path).table["grade"].to_pylist() == [int(float(grade))]
    else:
        with pytest.raises(BadRowsError, match="1 of 1 rows rejected: 1 x score is"):
            read_training_file(tmp_path)


def test_an_error_between_two_rows_leaves_no_second_one_behind(tmp_path, capsys):
    (tmp_path / "x.tsv").write_text("a\tb\n" * 3)
    rows = read_rows(tmp_path / "x.tsv")
    next(rows)
    # As at the end of a failing program: what is read is closed before who reads it.
    text = rows.gi_yieldfrom.gi_frame.f_locals["text"]
    text.buffer.close()
    rows.close()
    del rows, text
    gc.collect()
    assert capsys.readouterr().err == ""


def test_the_rest_of_a_file_is_still_numbered_after_blank_lines(tmp_path):
    (tmp_path / "x.csv").write_text("\n\nquery,positive\n\na,b\nc\nd,e\n")
    found = [(row.line, row.reason) for row in read_rows(tmp_path / "x.csv")]
    assert found == [(5, ""), (6, "not as many fields as the header"), (7, "")]
    assert CUT_OFF not in dict(found).values()
