"""``settle``, ``maintain`` and ``status`` on the command line."""

import json
import time

import lancedb_ft as ft
from tests.churn.test_settle import HOUR, changed


def test_settle_maintain_and_status(docs, store, run):
    place = ("--db", docs._conn.uri, "--table", "docs")
    policy = ("--updated-at", "updated_at", "--settle", "1h")
    changed(docs, ["1", "n1"], time.time() - 2 * HOUR)
    changed(docs, ["2"], time.time())
    code, out, _ = run("status", *place, *policy, "--no-measure", "--json")
    told = json.loads(out)
    assert (code, told["n_hot"], told["n_waiting"], told["n_rows"]) == (0, 1, 1, 121)
    assert told["indexes"][0]["n_unindexed"] == 3
    code, out, _ = run("settle", *place, *policy, "--store", store.uri, "--json")
    assert (code, json.loads(out)["n_settled"]) == (0, 2)
    code, out, _ = run("settle", *place, *policy, "--store", store.uri)
    assert (code, "0 rows embedded" in out, "1 still" in out) == (0, True, True)
    code, out, _ = run("maintain", *place, "--quiet", 0, "--max-unindexed", 0, "--json")
    assert (code, json.loads(out)["quiet"]) == (0, True)
    code, out, _ = run("status", *place)
    assert (code, "text_idx" in out) == (0, True)


def test_wrong_usage_is_told(docs, run):
    place = ("--db", docs._conn.uri, "--table", "docs")
    for words in (
        ("settle", *place),
        ("settle", *place, "--updated-at", "nope"),
        ("settle", *place, "--updated-at", "updated_at", "--settle", "soon"),
        ("settle", *place, "--updated-at", "updated_at", "--watch", "--every", "0"),
        ("calibrate", *place, "--to", "c.json"),
        ("calibrate", *place, "--to", "c.json", "--hot-where", "views < 0", "--queries", "nope"),
        ("search", "zebra", *place, "--calibration", "c.json"),
        ("search", "zebra", *place, "--hot-where", "views < 0", "--calibration", "nope.json"),
        ("search", "zebra", *place, "--hot-where", "views < 0", "--row-versions"),
        ("maintain", *place, "--max-unindexed", 7),
        ("maintain", *place, "--keep-versions", "long"),
        ("maintain", *place, "--watch", "--every", "99999999d"),
        ("settle", *place, "--hot-where", "nope = 1"),
        ("settle", *place, "--hot-where", "false) OR (true"),
        ("status", *place, "--hot-where", "nope = 1"),
        ("calibrate", *place, "--to", "c.json", "--hot-where", "nope = 1"),
        ("search", "zebra", *place, "--hot-where", "nope = 1"),
    ):
        code, out, err = run(*words, "--json")
        assert code == 2, words
        assert json.loads(out)["message"] in err


def test_times_longer_than_time(docs, store, run):
    place = ("--db", docs._conn.uri, "--table", "docs")
    long = ("--updated-at", "updated_at", "--settle", "999999d")
    for words in (
        ("maintain", *place, "--keep-versions", "999999999999999d"),
        ("settle", *place, *long, "--store", store.uri),
        ("status", *place, *long),
        ("search", "zebra", *place, *long, "--store", store.uri),
    ):
        code, _, err = run(*words, "--json")
        assert code == 0, f"{words}: {err}"


def test_the_policy_of_the_command_is_that_of_python(docs, store, run):
    rows = [{"id": "1", "text": "zebra", "views": -1}, {"id": "2", "text": "okapi", "views": 0}]
    ft.write(docs, rows)
    place = ("--db", docs._conn.uri, "--table", "docs", "--store", store.uri)
    code, out, _ = run("settle", *place, "--hot-where", "views < 0", "--json")
    told = json.loads(out)
    assert (code, told["n_settled"], told["n_hot"]) == (0, 1, 1)


def test_a_search_by_tiers_with_a_calibration_of_the_command(docs, store, run, tmp_path):
    place = ("--db", docs._conn.uri, "--table", "docs")
    policy = ("--updated-at", "updated_at", "--settle", "1h")
    asked, kept = tmp_path / "asked.txt", tmp_path / "made" / "calibration.json"
    asked.write_text("\n".join(docs.to_arrow()["text"].to_pylist()[:5]))
    code, out, _ = run("calibrate", *place, *policy, "--queries", asked, "--to", kept, "--json")
    told = json.loads(out)
    assert (code, told["n_queries"], told["file"]) == (0, 5, str(kept))
    assert told["shares"] == sorted(told["shares"], reverse=True)
    assert ft.Calibration.from_json(kept.read_text()).n_queries == 5
    code, out, _ = run("calibrate", *place, *policy, "--n", 3, "--to", kept)
    assert (code, "3 queries" in out) == (0, True)

    changed(docs, ["n1"], time.time(), text="zebra crossing")
    words = ("search", "zebra crossing", *place, *policy, "--calibration", kept, "--json")
    code, out, _ = run(*words)
    first = json.loads(out)["results"][0]
    assert (code, first["id"], first["_tier"], first["_legs"]) == (0, "n1", "hot", ["fts"])
