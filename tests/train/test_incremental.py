"""Going on from a version: its data are found again, replayed, and may not be forgotten."""

import json
import random
from base64 import b64encode
from dataclasses import replace
from hashlib import blake2b
from pathlib import Path

import lancedb
import pyarrow as pa
import pytest

from lancedb_ft.data import pairs_from_columns, read_pairs, read_qrels, split_pairs
from lancedb_ft.data.training.files import read_training_file
from lancedb_ft.data.training.split import split_training_set
from lancedb_ft.data.training.tables import read_training_set
from lancedb_ft.errors import InputError, LeakError, RegressionError
from lancedb_ft.store import ModelStore
from lancedb_ft.train import train
from lancedb_ft.train.dev import hold_out_of
from lancedb_ft.train.devset import choose_queries
from lancedb_ft.train.recorded import rows_document
from lancedb_ft.train.replay import Past, kept_dev, read_again, recall, replayed
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.train.toy import FAST, WORDS, toy_model, toy_pairs


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A database with the toy pairs as tables, which change after they were read."""
    db = lancedb.connect(str(tmp_path_factory.mktemp("kb")))
    rows = toy_pairs(300).table.to_pylist()
    docs = [{"id": r["doc_id"], "text": r["document"]} for r in rows]
    db.create_table("docs", docs)
    db.create_table("clicks", [{"query": r["query"], "doc_id": r["doc_id"]} for r in rows])
    db.create_table("queries", [{"id": r["query_id"], "text": r["query"]} for r in rows])
    judged = [{"query_id": r["query_id"], "doc_id": r["doc_id"], "score": 1} for r in rows]
    db.create_table("qrels", judged)
    titled = [{"id": r["doc_id"], "title": r["query"], "text": r["document"]} for r in rows]
    db.create_table("titled", titled)
    return db


def read(home, how):
    docs = home.open_table("docs")
    if how == "pairs":
        return read_pairs(home.open_table("clicks"), docs, where="doc_id != 'd3'")
    if how == "qrels":
        return read_qrels(docs, home.open_table("queries"), home.open_table("qrels"))
    return pairs_from_columns(home.open_table("titled"))


# --- finding the data again ----------------------------------------------------------------


@pytest.mark.parametrize("how", ["pairs", "qrels", "columns"])
def test_the_rows_of_a_split_are_read_again_at_their_table_versions(home, how):
    split = split_pairs(read(home, how), seed=0)
    document = rows_document([split.train], split.dev)
    for name in ("docs", "titled"):  # a later version says something else
        table = home.open_table(name)
        before = table.version
        table.update(where="id = 'd7'", values={"text": "changed since"})
        assert table.version > before
    past = recall("support@2", document, seed=0)
    assert past.data[0].fingerprint == split.train.fingerprint
    assert past.dev.fingerprint == split.dev.fingerprint
    assert past.read_again
    assert isinstance(past.data[0], Pairs)


def test_a_training_set_is_found_with_its_prompts(home):
    made = TrainingSet.of_pairs(read(home, "qrels"))
    made = TrainingSet(made.kind, made.table, made.source, query_prompt="query: ")
    past = recall("support@2", rows_document([made], made.take([0, 2])), seed=0)
    assert past.data[0].query_prompt == "query: "
    assert past.data[0].fingerprint == made.fingerprint
    assert past.dev.fingerprint == made.take([0, 2]).fingerprint


def test_a_file_is_read_again_and_not_believed_when_it_changed(tmp_path):
    rows = [{"anchor": f"query {i}", "positive": f"document {i}"} for i in range(12)]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    made = read_training_file(file)
    document = rows_document([made.take(list(range(10)))], made.take([10, 11]))
    past = recall("support@2", document, seed=0)
    assert past.data[0].table["anchor"].to_pylist() == [f"query {i}" for i in range(10)]
    file.write_text("\n".join(map(json.dumps, rows[3:])))
    with pytest.raises(InputError, match="of 10 rows 3 are not found"):
        recall("support@2", document, seed=0)


def written(file, rows):
    file.write_text("\n".join(map(json.dumps, rows)))
    return file


def linked(n=40):
    """Pairs whose negatives are the answers of other queries, as those mined from a table are."""
    rows = toy_pairs(n).table.to_pylist()
    others = [[rows[(i + far) % n]["document"] for far in (1, 7)] for i in range(n)]
    return [
        {"query": row["query"], "positive": row["document"], "negatives": [*wrong, f"no {i}"]}
        for i, (row, wrong) in enumerate(zip(rows, others, strict=True))
    ]


@pytest.mark.parametrize("divide", ["hold_out_of", "split_training_set"])
def test_rows_are_found_whose_held_out_negatives_were_taken_out(tmp_path, divide):
    made = read_training_file(written(tmp_path / "negatives.jsonl", linked()))
    held = hold_out_of(made, seed=0) if divide == "hold_out_of" else split_training_set(made)
    data = held.data if divide == "hold_out_of" else held.train
    assert held.info["dropped"]["train"]["negatives"] > 0
    document = rows_document([data], held.dev)
    past = recall("support@2", document, seed=0)
    assert past.data[0].fingerprint == data.fingerprint
    assert past.dev.fingerprint == held.dev.fingerprint
    rows = linked()
    rows[0]["negatives"][2] = "another one"
    written(tmp_path / "negatives.jsonl", rows)
    with pytest.raises(InputError, match=r"of \d+ rows 1 are not found"):
        recall("support@2", document, seed=0)


def test_one_pair_in_several_rows_keeps_the_negatives_of_each(tmp_path):
    rows = [{"query": "q", "positive": "p", "negatives": [f"n{i}", f"m{i}"]} for i in range(3)]
    made = read_training_file(written(tmp_path / "negatives.jsonl", rows))
    fewer = pa.array([["m0"], ["n1"], ["m2"]])
    less = replace(made, table=made.table.set_column(2, "negatives", fewer))
    past = recall("support@2", rows_document([less], made), seed=0)
    assert past.data[0].table["negatives"].to_pylist() == [["m0"], ["n1"], ["m2"]]


def test_the_record_of_an_earlier_release_is_read(tmp_path):
    made = read_training_file(written(tmp_path / "negatives.jsonl", linked(9)))
    document = json.loads(rows_document([made], made.take([0])))
    document["format"] = 1
    for part in (document["data"][0], document["dev"]):
        del part["entries"]
        taken = made if part is not document["dev"] else made.take([0])
        columns = [taken.table[name].to_pylist() for name in sorted(taken.table.column_names)]
        texts = ["\x1f".join(map(str, row)).encode() for row in zip(*columns, strict=True)]
        keys = b"".join(blake2b(text, digest_size=8).digest() for text in texts)
        part["rows"] = b64encode(keys).decode()
    past = recall("support@2", json.dumps(document).encode(), seed=0)
    assert past.data[0].fingerprint == made.fingerprint
    document["format"] = 9
    with pytest.raises(InputError, match=r"the format 9.*Upgrade"):
        recall("support@2", json.dumps(document).encode(), seed=0)


@pytest.mark.parametrize(
    ("row", "how"),
    [
        (
            lambda q, d, i: {"subject": q, "reply": d},
            {"kind": "pairs", "columns": {"anchor": "subject", "positive": "reply"}},
        ),
        (
            lambda q, d, i: {"sentence1": q, "sentence2": d, "score": i % 11},
            {"score_range": (0, 10)},
        ),
        (
            lambda q, d, i: {"premise": q, "hypothesis": d, "label": i % 3},
            {"kind": "triplets"},
        ),
        (lambda q, d, i: {"query": q, "pos": [d], "neg": [f"n{i}"]}, {"kind": "triplets"}),
        (lambda q, d, i: {"text": q, "label": str(i % 4)}, {"kind": "pairs"}),
    ],
)
def test_a_file_is_read_again_as_it_was_read_before(tmp_path, row, how):
    texts = [(r["query"], r["document"]) for r in toy_pairs(60).table.to_pylist()]
    rows = [row(query, document, i) for i, (query, document) in enumerate(texts)]
    made = read_training_file(written(tmp_path / "rows.jsonl", rows), **how)
    past = recall("support@2", rows_document([made], made.take([1, 0])), seed=0)
    assert past.data[0].fingerprint == made.fingerprint
    assert past.dev.fingerprint == made.take([1, 0]).fingerprint


def test_a_table_of_another_kind_is_read_again(tmp_path):
    db = lancedb.connect(str(tmp_path))
    texts = [(r["query"], r["document"]) for r in toy_pairs(30).table.to_pylist()]
    rows = [{"premise": q, "hypothesis": d, "label": i % 3} for i, (q, d) in enumerate(texts)]
    made = read_training_set(db.create_table("nli", rows), "triplets")
    past = recall("support@2", rows_document([made], made.take([0])), seed=0)
    assert past.data[0].fingerprint == made.fingerprint


def test_the_record_holds_no_text(home):
    pairs = read(home, "qrels")
    document = rows_document([pairs], pairs.take([0]))
    for row in pairs.table.to_pylist():
        assert row["query"].encode() not in document
        assert row["document"].encode() not in document
    part = json.loads(document)["data"][0]
    assert (part["n"], len(part["rows"])) == (300, 3200)  # 8 bytes a row


def test_what_cannot_be_found_is_told_with_what_to_do(home, tmp_path):
    pairs = read(home, "qrels")
    document = rows_document([pairs], pairs.take([0]))
    cure = "replay_data=.* replay_dev="
    with pytest.raises(InputError, match=rf"support@2 keeps no record .*{cure}"):
        recall("support@2", None, seed=0)
    with pytest.raises(InputError, match=rf"come from no table or file.*{cure}"):
        recall("support@2", rows_document([toy_pairs(9)], toy_pairs(3)), seed=0)
    with pytest.raises(InputError, match=rf"no record of its dev set.*{cure}"):
        recall("support@2", rows_document([pairs], None), seed=0)
    changed = pairs.table.set_column(1, "query", pa.array([f"{i} other" for i in range(300)]))
    altered = rows_document([Pairs(changed, pairs.source)], pairs.take([0]))
    with pytest.raises(InputError, match=rf"of 300 rows 300 are not found.*{cure}"):
        recall("support@2", altered, seed=0)
    gone = json.loads(document)
    gone["data"][0]["source"]["tables"]["docs"]["version"] = 99
    with pytest.raises(InputError, match=rf"no version 99.*{cure}"):
        recall("support@2", json.dumps(gone).encode(), seed=0)
    gone["data"][0]["source"]["database"] = str(tmp_path / "nowhere")
    with pytest.raises(InputError, match=rf"no LanceDB database.*{cure}"):
        recall("support@2", json.dumps(gone).encode(), seed=0)
    with pytest.raises(InputError, match="come from no table"):
        read_again({})


# --- choosing old rows ---------------------------------------------------------------------


def test_a_fifth_of_what_is_trained_on_is_old():
    past = Past("support@2", [toy_pairs(300), toy_pairs(100, seed=3, prefix="x")], toy_pairs(5))
    chosen, figures = replayed(past, 160, 0.2, [toy_pairs(9, seed=4)], seed=0)
    assert [len(each) for each in chosen] == [30, 10]
    assert (figures["n_rows"], figures["n_parent_rows"], figures["n_left_out"]) == (40, 400, 0)
    same, _ = replayed(past, 160, 0.2, [toy_pairs(9, seed=4)], seed=0)
    other, _ = replayed(past, 160, 0.2, [toy_pairs(9, seed=4)], seed=1)
    assert [e.fingerprint for e in same] == [e.fingerprint for e in chosen]
    assert [e.fingerprint for e in other] != [e.fingerprint for e in chosen]
    assert replayed(past, 160, 0.0, [], seed=0)[0] == []
    every, _ = replayed(past, 10_000, 0.5, [], seed=0)
    assert [len(each) for each in every] == [300, 100]


def test_old_rows_with_held_out_texts_are_left_out_both_ways():
    old = toy_pairs(50)
    past = Past("support@2", [old], old.take(list(range(40, 50))))
    chosen, figures = replayed(past, 1_000, 0.5, [old.take([0, 1]), past.dev], seed=0)
    assert figures["n_left_out"] == 12
    held_out = set(old.table["query"].to_pylist()[:2] + old.table["query"].to_pylist()[40:])
    assert held_out.isdisjoint(chosen[0].table["query"].to_pylist())
    probe, left = kept_dev(Past("support@2", [old.take([5])], past.dev), [old.take([41, 42])])
    assert (left["n_queries"], left["n_left_out"]) == (8, 2)
    assert probe.name == "support@2 dev"
    with pytest.raises(InputError, match="All 10 rows"):
        kept_dev(past, [old])


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_odd_shares_are_refused(share):
    with pytest.raises(InputError, match="replay"):
        replayed(Past("support@2", [toy_pairs(9)], toy_pairs(3)), 9, share, [], seed=0)


# --- training ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def first(home, tmp_path_factory):
    """support@1, trained on the tables."""
    split = split_pairs(read(home, "qrels"), seed=0)
    return train(
        toy_model(tmp_path_factory.mktemp("toy")),
        split.train,
        dev=split.dev,
        name="support",
        epochs=2,
        **FAST,
    )


def other_task(n, seed, prefix):
    """The same words with other answers: learning it overwrites what was learned."""
    dice = random.Random(seed)
    rows = []
    for i in range(n):
        words = dice.sample(range(len(WORDS)), 3)
        query, document = (" ".join(WORDS[(w + far) % 26] for w in words) for far in (0, 9))
        rows.append((f"{prefix}q{i}", f"{query} ?", f"{prefix}d{i}", f"{document}!"))
    return Pairs.of(rows)


def test_a_version_goes_on_with_its_own_data_and_keeps_what_it_knew(first):
    version = train(
        "support@1",
        toy_pairs(120, seed=5, prefix="new"),
        dev=toy_pairs(30, seed=6, prefix="newdev"),
        name="support",
        store=first.store,
        replay=0.2,
        max_regression=0.5,
        **{**FAST, "learning_rate": 2e-3},
    )
    manifest = version.manifest
    assert version.ref == "support@2"
    assert manifest["parent"] == "support@1"
    replay = manifest["guards"]["replay"]
    assert (replay["share"], replay["n_rows"], replay["n_new_rows"]) == (0.2, 30, 120)
    assert replay["read_again"] is True
    assert replay["fingerprints"] == [first.manifest["data"]["fingerprint"]]
    assert manifest["data"]["n_pairs"] == 150
    kept = manifest["metrics"]["probe"]["support@1 dev"]
    assert kept["n"] == replay["dev"]["n_queries"] == 30
    # What the parent's own manifest says of its dev set is what the next training starts from.
    before = first.manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"]
    assert kept["base"]["ndcg@10"]["mean"] == pytest.approx(before, abs=0.02)
    assert set(manifest["probe"]["support@1 dev"]) == set(manifest["dev"]["history"])
    assert ModelStore(first.store).rows("support@2") is not None


def test_a_version_of_a_file_of_negatives_goes_on(tmp_path):
    data = read_training_file(written(tmp_path / "negatives.jsonl", linked(120)))
    store = str(tmp_path / "models")
    train(toy_model(tmp_path / "m"), data, name="s", store=store, epochs=2, **FAST)
    new = toy_pairs(40, seed=9, prefix="n")
    version = train(
        "s@1", new, name="s", store=store, epochs=2, replay=0.2, max_regression=0.5, **FAST
    )
    replay = version.manifest["guards"]["replay"]
    assert (replay["read_again"], replay["parent"]) == (True, "s@1")
    assert replay["n_rows"] == 9


def test_a_dev_set_that_the_parent_was_trained_on_is_refused(first):
    """The parent knows these rows by heart, and what follows would be compared with that."""
    given = {"replay_data": toy_pairs(60, seed=8, prefix="given")}
    given["replay_dev"] = toy_pairs(20, seed=9, prefix="olddev")
    run = {"name": "support", "store": first.store, **given, **FAST}
    new = toy_pairs(40, seed=7, prefix="more")
    known = [given["replay_data"].take([3, 4]), TrainingSet.of_pairs(given["replay_data"])]
    for share in (0.0, 0.2):
        for dev in known:
            with pytest.raises(LeakError, match="are what support@1 was trained on") as caught:
                train("support@1", new, dev=dev, replay=share, **run)
            assert caught.value.n_leaks == 2 * len(dev)
    with pytest.raises(LeakError, match=r"leave its own rows out of the new data"):
        train("support@1", given["replay_data"], replay=0.0, **run)
    with pytest.raises(InputError, match="dev is a str"):
        train("support@1", new, dev="dev.jsonl", replay=0.0, **run)


def test_what_forgets_the_old_dev_set_is_refused(first):
    arguments = {
        "dev": other_task(30, 6, "newdev"),
        "name": "support",
        "store": first.store,
        "replay": 0.0,
        "epochs": 2,
        "eval_steps": 10,
        **{**FAST, "learning_rate": 5e-2},
    }
    with pytest.raises(RegressionError) as caught:
        train("support@1", other_task(160, 5, "new"), **arguments)
    error = caught.value
    assert error.probe == "support@1 dev"
    assert error.base - error.tuned > error.max_regression == 0.02
    assert error.dev_tuned > error.dev_base
    assert not list((Path(first.store) / ".runs").iterdir())


def test_given_data_are_taken_as_they_are_and_a_plain_base_is_refused(first, tmp_path):
    base = first.path
    with pytest.raises(InputError, match="version of a store"):
        train(base, toy_pairs(20), name="toy", store=str(tmp_path), replay=0.2, **FAST)
    events = []

    def stop(event):
        events.append(event)
        if event["event"] == "evaluation" and event["step"] > 0:
            raise KeyboardInterrupt

    given = toy_pairs(60, seed=8, prefix="given")
    with pytest.raises(KeyboardInterrupt):
        train(
            "support@1",
            toy_pairs(60, seed=7, prefix="more"),
            name="support",
            store=first.store,
            replay=0.5,
            replay_data=given,
            replay_dev=choose_queries(toy_pairs(20, seed=9, prefix="olddev"), 10, 0),
            on_event=stop,
            run_dir=tmp_path / "run",
            **FAST,
        )
    told = events[-1]["probe"]["support@1 dev"]
    assert set(told) == {"mean", "ci95"}
    assert (
        json.loads((tmp_path / "run" / "probes.json").read_text())["0"]["support@1 dev"]["n"] == 10
    )
