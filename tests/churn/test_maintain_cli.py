"""``lancedb-ft maintain`` on a table with few rows outside its index."""

import json

import pytest

from tests.search.words import rows, words_table


@pytest.fixture
def place(db):
    """Two of 44 rows are not in the index."""
    table = words_table(db, n_rows=42)
    table.add(rows(42, 44))
    return ("--db", db.uri, "--table", "docs", "--quiet", 3600)


def test_few_rows_stay_out_unless_min_rows_says_otherwise(place, run):
    code, out, _ = run("maintain", *place, "--max-unindexed", 0, "--json")
    assert (code, json.loads(out)["indexes"]) == (0, [])
    code, out, _ = run("maintain", *place, "--max-unindexed", 0, "--min-rows", 0, "--json")
    assert (code, [index["n_unindexed"] for index in json.loads(out)["indexes"]]) == (0, [2])


def test_min_rows_below_zero(place, run):
    code, _, err = run("maintain", *place, "--min-rows", -1)
    assert (code, "min_rows is -1" in err) == (2, True)


def test_the_help_says_that_the_one_needs_the_other(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    _, out, _ = run("maintain", "--help")
    assert "--min-rows may always" in out
    assert "whatever --max-unindexed says" in out
