"""`train_reranker`: what it learns from, that it resumes, and that it helps or saves nothing."""

import json
import random
import sysconfig
from pathlib import Path

import pyarrow as pa
import pytest
from lancedb.index import FTS

import lancedb_ft as ft
from lancedb_ft.data import read_api_docs, split_pairs
from lancedb_ft.errors import InputError, LeakError, NoGainError
from lancedb_ft.evaluate import evaluate
from lancedb_ft.reranking import Scorer, load_cross_encoder, new_cross_encoder
from lancedb_ft.store import ModelStore
from lancedb_ft.train import RERANKER_LOSSES, train_reranker
from lancedb_ft.train.rerankers.config import RerankerConfig
from lancedb_ft.train.rerankers.data import check_contrast_of, labelled_texts
from lancedb_ft.train.rerankers.dev import dev_pairs
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.train.toy import WORDS, toy_model, toy_pairs

#: What a short run takes to learn the toy task.
FAST = {"batch_size": 8, "learning_rate": 1e-2, "epochs": 4, "device": "cpu", "max_tokens": 32}


def letters(n, seed, prefix):
    """Queries that name a word; the answer has that word, and the other texts have others."""
    dice = random.Random(seed)
    rows = []
    for i in range(n):
        word = dice.choice(WORDS)
        others = dice.sample([w for w in WORDS if w != word], 3)
        tail = f"{prefix}{i}"
        rows.append(
            {
                "query_id": f"{prefix}{i}",
                "doc_id": f"{prefix}d{i}",
                "query": f"{word} {word} {tail}",
                "positive": f"{word} {word} x{tail}",
                "negatives": [f"{other} {other} y{tail}" for other in others],
            }
        )
    return TrainingSet("negatives", pa.Table.from_pylist(rows))


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"), dims=32)


@pytest.fixture(scope="session")
def task():
    """Data to train on, dev pairs, and dev candidates in an order that knows nothing."""
    trained, held = letters(160, 0, "t"), letters(40, 1, "h")
    dev = Pairs.of(
        [
            (row["query_id"], row["query"], row["doc_id"], row["positive"])
            for row in held.table.to_pylist()
        ]
    )
    documents, candidates = {}, {}
    for place, row in enumerate(held.table.to_pylist()):
        ids = [row["doc_id"], *(f"n{place}.{n}" for n in range(3))]
        documents |= dict(zip(ids, [row["positive"], *row["negatives"]], strict=True))
        random.Random(place).shuffle(ids)
        candidates[row["query_id"]] = {doc_id: -float(n) for n, doc_id in enumerate(ids)}
    return trained, {"dev": dev, "documents": documents, "candidates": candidates}


@pytest.fixture(scope="session")
def trained(toy, task, tmp_path_factory):
    """A run and its events."""
    data, held = task
    events = []
    store = str(tmp_path_factory.mktemp("store"))
    version = train_reranker(
        toy, data, name="toy", store=store, on_event=events.append, **held, **FAST
    )
    return version, events


def test_a_version_with_its_figures(trained, task):
    version, events = trained
    manifest = version.manifest
    assert (version.kind, version.dims) == ("cross-encoder", 0)
    dev = manifest["metrics"]["dev"]
    assert dev["n"] == 40
    assert dev["tuned"]["ndcg@10"]["mean"] > dev["base"]["ndcg@10"]["mean"] + 0.1
    assert dev["tuned"]["ndcg@10"]["mean"] > dev["untrained"]["ndcg@10"]["mean"] + 0.1
    gain, means = (
        dev["tuned"]["ndcg@10"]["gain"],
        [dev[name]["ndcg@10"]["mean"] for name in ("tuned", "base")],
    )
    assert gain["mean"] == pytest.approx(means[0] - means[1])
    assert gain["ci95"][0] > 0
    assert manifest["data"]["kind"] == "negatives"
    assert manifest["data"]["n_pairs"] == 640
    assert manifest["training"]["loss"] == "bce"
    assert manifest["training"]["steps"] == 80
    assert "0" in manifest["dev"]["history"]
    assert not any("golf" in json.dumps(manifest[key]) for key in ("data", "dev", "training"))
    assert not list(Path(version.store).glob(".runs/*"))
    kinds = [event["event"] for event in events]
    assert (kinds[0], kinds[-1]) == ("started", "saved")
    assert kinds.count("loss") == 80
    assert kinds.count("evaluation") == 17
    json.dumps(events)


def test_the_saved_model_reranks_what_was_never_seen(trained, task):
    version, _ = trained
    ours = ft.FineTunedReranker(version, device="cpu", precision="float32")
    right = 0
    for row in letters(30, 7, "z").table.to_pylist():
        texts = [*row["negatives"], row["positive"]]
        found = ours.rerank_vector(row["query"], pa.table({"text": texts}))
        right += found["text"][0].as_py() == row["positive"]
    assert right >= 15  # by chance 7.5


def test_the_same_run_is_not_repeated(trained, toy, task):
    version, _ = trained
    data, held = task
    events = []
    again = train_reranker(
        toy, data, name="toy", store=version.store, on_event=events.append, **held, **FAST
    )
    assert (again.ref, events) == (version.ref, [])


class Killed(Exception):
    pass


def test_a_killed_run_ends_with_the_same_model(trained, toy, task, tmp_path):
    version, _ = trained
    data, held = task

    def kill(event):
        if event["event"] == "loss" and event["step"] == 33:
            raise Killed

    events = []
    run = {"name": "toy", "store": str(tmp_path), **held, **FAST}
    with pytest.raises(Killed):
        train_reranker(toy, data, on_event=kill, **run)
    again = train_reranker(toy, data, on_event=events.append, **run)
    assert events[0] == {"event": "started", "step": 30, "steps": 80, "metric": "ndcg@10"}
    assert again.fingerprint == version.fingerprint
    # The losses before the kill are in the picture, too.
    pictures = [(Path(each.path) / "training.png").read_bytes() for each in (again, version)]
    assert pictures[0] == pictures[1]
    assert "](training.png)" in (Path(version.path) / "README.md").read_text("utf-8")


@pytest.mark.parametrize("loss", ["lambda", "listwise"])
def test_the_other_losses_learn_too(toy, task, tmp_path, loss):
    data, held = task
    version = train_reranker(toy, data, name="toy", store=str(tmp_path), loss=loss, **held, **FAST)
    dev = version.manifest["metrics"]["dev"]
    assert dev["tuned"]["ndcg@10"]["mean"] > dev["base"]["ndcg@10"]["mean"] + 0.1


def test_a_reranker_is_trained_further(trained, task, tmp_path):
    version, _ = trained
    data, held = task
    more = train_reranker(
        version, data, name="toy", store=version.store, **held, **{**FAST, "epochs": 1, "seed": 3}
    )
    assert more.manifest["parent"] == version.ref
    dev = more.manifest["metrics"]["dev"]
    before = version.manifest["metrics"]["dev"]["tuned"]["ndcg@10"]["mean"]
    assert dev["untrained"]["ndcg@10"]["mean"] == pytest.approx(before, abs=1e-6)


def test_no_gain_over_the_first_search_saves_nothing(toy, task, tmp_path):
    data, held = task
    perfect = {q: dict.fromkeys(docs, 1.0) for q, docs in held["dev"].qrels.items()}
    with pytest.raises(NoGainError, match="order of the first search") as caught:
        train_reranker(
            toy,
            data,
            name="toy",
            store=str(tmp_path),
            **{**held, **FAST, "epochs": 1, "candidates": perfect},
        )
    assert caught.value.base == 1.0
    assert ModelStore(tmp_path).list() == []
    assert not list(tmp_path.glob(".runs/*"))


def test_a_gain_that_may_be_chance_saves_nothing(toy, task, tmp_path):
    """One query whose answer the search puts last: any model does better, and nothing is known."""
    data, held = task
    dev = held["dev"].take(pa.array([True] + [False] * (len(held["dev"]) - 1)))
    (query_id,) = dev.qrels
    shown = sorted(held["candidates"][query_id], key=lambda doc_id: doc_id in dev.qrels[query_id])
    candidates = {query_id: {doc_id: -float(n) for n, doc_id in enumerate(shown)}}
    with pytest.raises(NoGainError, match="by more than chance") as caught:
        train_reranker(
            toy,
            data,
            name="toy",
            store=str(tmp_path),
            **{**held, **FAST, "dev": dev, "candidates": candidates},
        )
    assert caught.value.best > caught.value.base
    assert caught.value.ci95 == (-1.0, 1.0)
    assert ModelStore(tmp_path).list() == []


def test_plain_pairs_and_the_base_s_own_search(toy, tmp_path):
    pairs, dev = toy_pairs(60), toy_pairs(30, seed=5, prefix="x")
    events = []
    run = {"name": "toy", "store": str(tmp_path), "on_event": events.append, **FAST, "epochs": 1}
    # A head learned from 60 pairs cannot beat the search, which knows the numbers in the texts.
    with pytest.raises(NoGainError) as caught:
        train_reranker(toy, pairs, dev=dev, **run)
    assert caught.value.n_queries == 30
    assert sum(event["event"] == "loss" for event in events) == 8


def graded(n, seed, prefix):
    """Scored pairs of `letters`: .9 for the answer, .2 for the other texts."""
    rows = [
        {"sentence1": row["query"], "sentence2": text, "score": score}
        for row in letters(n, seed, prefix).table.to_pylist()
        for text, score in [(row["positive"], 0.9), *((t, 0.2) for t in row["negatives"])]
    ]
    return TrainingSet("scored", pa.Table.from_pylist(rows))


def test_scored_pairs_hold_out_their_own_dev_queries(toy, tmp_path):
    """Those that score above a half answer; the queries are parted as any others."""
    events = []

    def stop(event):
        events.append(event)
        if event["event"] == "evaluation":
            raise Killed

    run = {"name": "toy", "store": str(tmp_path), "on_event": stop, **FAST}
    for dev in (None, graded(20, 1, "h")):
        with pytest.raises(Killed):
            train_reranker(toy, graded(100, 0, "t"), dev=dev, **run)
        assert "ndcg@10" in events.pop()["dev"]
    low = graded(20, 1, "h")
    low = low.take(pa.array([score < 0.5 for score in low.table["score"].to_pylist()]))
    with pytest.raises(InputError, match=r"None of the 60 scored pairs .* Pass dev= \(--dev\)"):
        train_reranker(toy, graded(100, 0, "t"), dev=low, **run)
    pairs = dev_pairs(graded(20, 1, "h"))
    assert pairs.table["document"].to_pylist() == [
        row["positive"] for row in letters(20, 1, "h").table.to_pylist()
    ]


def test_mistakes(toy, task, trained, tmp_path):
    data, held = task
    run = {"name": "toy", "store": str(tmp_path), **FAST}
    for settings in (
        {"loss": "mnrl"},
        {"learning_rate": "1e-3"},
        {"seed": 2**70},
        {"dev": "dev.jsonl"},
        {"dev": Pairs.of([])},
        {"documents": ["a text"]},
        {"epochs": 0},
        {"n_negatives": 0},
        {"learning_rate": 2.0},
        {"max_tokens": 4},
        {"metric": "cosine"},
        {"name": "toy@3"},
    ):
        with pytest.raises(InputError):
            train_reranker(toy, data, **{**held, **run, **settings})
    with pytest.raises(InputError, match="warmup"):
        RerankerConfig(warmup="0.1")
    for several in ([data], [], None):
        with pytest.raises(InputError, match=r"data is a .* one Pairs or TrainingSet"):
            train_reranker(toy, several, **{**held, **run})
    with pytest.raises(InputError, match="first_stage="):
        train_reranker(trained[0], data, dev=held["dev"], **run)
    lost = {q: {"nobody": 1.0} for q in held["candidates"]}
    with pytest.raises(InputError, match="have no text"):
        train_reranker(toy, data, **{**held, **run, "candidates": lost})
    wrong = {q: {"n0.0": 1.0} for q in held["candidates"]}
    with pytest.raises(InputError, match="no order"):
        train_reranker(toy, data, **{**held, **run, "candidates": wrong})
    row = data.table.to_pylist()[0]
    leaked = Pairs.of([("q", row["query"], "d", row["positive"])])
    with pytest.raises(LeakError):
        train_reranker(toy, data, **{**held, **run, "dev": leaked})


def test_the_command_line(toy, task, db, tmp_path):
    from typer.testing import CliRunner

    from lancedb_ft.cli.app import build_app

    data, _ = task
    rows = [*data.table.to_pylist(), *letters(40, 1, "h").table.to_pylist()]
    docs = db.create_table("docs", [{"id": r["doc_id"], "text": r["positive"]} for r in rows])
    docs.create_index("text", config=FTS(stem=False, remove_stop_words=False))
    parts = ["train"] * len(data) + ["dev"] * 30 + ["test"] * 10
    asked = [
        {"id": row["query_id"], "text": row["query"], "split": part}
        for row, part in zip(rows, parts, strict=True)
    ]
    judged = [{"query_id": r["query_id"], "doc_id": r["doc_id"], "score": 1} for r in rows]
    db.create_table("asked", asked)
    db.create_table("judged", judged)
    base = ["--db", db.uri, "--table", "docs"]
    learn = ["train-reranker", "--name", "r", "--base", toy, "--device", "cpu", "--json"]
    learn += ["--batch-size", "8", "--learning-rate", "0.01"]
    tables = [*base, "--queries-table", "asked", "--qrels-table", "judged", "--mode", "fts"]
    # Full-text search finds the word; among documents with the same word nothing is to be gained.
    done = CliRunner().invoke(build_app(), [*learn, *tables])
    assert isinstance(done.exception, NoGainError)
    assert done.exception.n_queries == 30
    file = tmp_path / "mined.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    store = str(tmp_path / "store")
    done = CliRunner().invoke(
        build_app(), [*learn, "--data", f"{file}:negatives", "--store", store, "--epochs", "6"]
    )
    assert done.exception is None, done.exception
    found = json.loads(done.stdout)
    assert (found["ref"], found["kind"]) == ("r@1", "cross-encoder")
    held = tmp_path / "dev.jsonl"
    held.write_text(
        "\n".join(
            json.dumps({"query": row["query"], "positive": row["positive"]})
            for row in letters(20, 3, "v").table.to_pylist()
        )
    )
    known = tmp_path / "known.jsonl"
    known.write_text(json.dumps({"query": rows[0]["query"], "positive": rows[0]["positive"]}))
    learn += ["--data", f"{file}:negatives", "--store", store, "--epochs", "6", "--name", "r"]
    again = CliRunner().invoke(build_app(), [*learn, "--dev", str(held)])
    assert again.exception is None, again.exception
    assert json.loads(again.stdout)["metrics"]["dev"]["n"] == 20
    leaked = CliRunner().invoke(build_app(), [*learn, "--dev", str(known)])
    assert isinstance(leaked.exception, LeakError)
    listed = CliRunner().invoke(build_app(), ["models", "list", "--store", store, "--json"])
    assert json.loads(listed.stdout)["models"][0]["kind"] == "cross-encoder"
    search = ["search", rows[-1]["query"], *base, "--mode", "fts", "-k", "3", "--json"]
    search += ["--reranker", "r@1", "--store", store]
    results = json.loads(CliRunner().invoke(build_app(), search).stdout)["results"]
    assert len(results) == 3
    assert all(0 <= row["_relevance_score"] <= 1 for row in results)


def test_of_data_in_parts_the_train_part_is_learned_from(tmp_path):
    from lancedb_ft.cli.rerankers import _read

    rows = [{"query": p, "answer": "b", "split": p} for p in ("train", "test", "train")]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    nothing = {"mode": None, "split_column": None, "max_pairs": None, "seed": 0}
    tables = (None, None, None, None)
    given = _read(tables, str(tmp_path / "x.jsonl"), **nothing, columns=(None, None))
    assert given.data.table["anchor"].to_pylist() == ["train", "train"]


def test_the_usual_names_of_columns_are_found(db):
    from lancedb_ft.cli.rerankers import _read

    db.create_table("docs", [{"_id": f"d{n}", "text": f"text {n}"} for n in range(9)])
    parts = ["train"] * 5 + ["dev"] * 2 + ["test"] * 2
    asked = [{"id": f"q{n}", "text": f"ask {n}", "split": part} for n, part in enumerate(parts)]
    db.create_table("asked", asked)
    judged = [{"query_id": f"q{n}", "doc_id": f"d{n}", "score": 1} for n in range(9)]
    db.create_table("judged", judged)
    settings = {"mode": None, "split_column": None, "max_pairs": None, "seed": 0}
    given = _read((db.uri, "docs", "asked", "judged"), None, **settings, columns=(None, None))
    assert given.documents["d3"] == "text 3"


# --- what is learned from -------------------------------------------------------------------


def lists_of(kind, rows, **settings):
    data = TrainingSet(kind, pa.Table.from_pylist(rows))
    return [
        (one.query, *zip(one.texts, one.labels, strict=True))
        for one in labelled_texts(data, **{"n_negatives": 2, "seed": 0, **settings})
    ]


def test_each_kind_of_data():
    assert lists_of(
        "negatives", [{"query": "q", "positive": "p", "negatives": ["a", "b", "c"]}]
    ) == [("q", ("p", 1), ("a", 0), ("b", 0))]
    row = {"anchor": "q", "positive": "p", "negative_1": "a", "negative_2": "b", "negative_3": "c"}
    assert lists_of("triplets", [row]) == [("q", ("p", 1), ("a", 0), ("b", 0))]
    graded = [
        {"query_id": "1", "query": "q", "doc_id": str(n), "document": text, "grade": grade}
        for n, (text, grade) in enumerate([("x", 0), ("y", 2), ("z", 1)])
    ]
    assert lists_of("ranking", graded) == [("q", ("y", 1.0), ("z", 0.5), ("x", 0.0))]
    scored = [{"sentence1": "q", "sentence2": t, "score": s} for t, s in (("a", 0.9), ("b", 0.2))]
    assert lists_of("scored", scored) == [("q", ("a", 0.9), ("b", 0.2))]


def test_an_answer_of_another_row_is_no_negative():
    rows = [
        {"query": "q", "positive": "p", "negatives": ["Other  P", "n"]},
        {"query": "Q", "positive": "other p", "negatives": ["p", "m"]},
    ]
    assert lists_of("negatives", rows) == [
        ("q", ("p", 1), ("n", 0)),
        ("Q", ("other p", 1), ("m", 0)),
    ]


def test_pairs_get_negatives_by_chance_that_are_no_answers():
    rows = [{"anchor": f"q{n % 5}", "positive": f"p{n}"} for n in range(20)]
    for query, first, *rest in lists_of("pairs", rows, n_negatives=4):
        assert first[1] == 1
        assert len(rest) == 4
        assert all(label == 0 and int(text[1:]) % 5 != int(query[1:]) for text, label in rest)
    assert lists_of("pairs", rows) == lists_of("pairs", rows)


def test_pairs_get_near_negatives_from_a_model(toy):
    encoder = ft.get_encoder(toy, device="cpu")
    texts = [f"{word} {word}" for word in WORDS]
    rows = [{"anchor": f"{text}?", "positive": text} for text in texts]
    found = lists_of("pairs", rows, n_negatives=2, encoder=encoder)
    by_chance = lists_of("pairs", rows, n_negatives=2)
    assert found != by_chance
    assert all(len({text for text, _ in rest}) == 3 for _, *rest in found)


def test_nothing_to_tell_apart():
    lists = labelled_texts(
        TrainingSet("scored", pa.table({"sentence1": ["a"], "sentence2": ["b"], "score": [1.0]})),
        n_negatives=1,
        seed=0,
    )
    for loss in RERANKER_LOSSES.values():
        with pytest.raises(InputError, match="different labels"):
            check_contrast_of(lists, loss)
    with pytest.raises(InputError, match="kind 'nli'"):
        lists_of("nli", [{"premise": "a", "hypothesis": "b", "label": 0}])
    with pytest.raises(InputError, match="no document that is not an answer"):
        lists_of("pairs", [{"anchor": "q", "positive": "p"}])


# --- losses --------------------------------------------------------------------------------


class Given:
    """A cross-encoder whose scores are given, for the losses of sentence-transformers."""

    num_labels = 1
    device = "cpu"

    def __init__(self, scores):
        self.scores = scores

    def preprocess(self, pairs, prompt=None, task=None):
        import torch

        return {"places": torch.tensor([int(document) for _, document in pairs])}

    def __call__(self, tokens):
        return {"scores": self.scores[tokens["places"]][:, None]}


@pytest.mark.parametrize("name", ["bce", "lambda", "listwise"])
def test_losses_are_those_of_sentence_transformers_also_in_parts(name):
    import torch
    from sentence_transformers.cross_encoder.losses import LambdaLoss

    torch.manual_seed(0)
    lengths = [4, 2, 5]
    scores = torch.randn(sum(lengths), dtype=torch.float32)
    labels = [
        torch.tensor([1.0, 0, 0.5, 0]),
        torch.tensor([0.0, 1]),
        torch.tensor([1.0, 1, 0, 0, 0]),
    ]
    matrix, target = torch.zeros(3, 5), torch.zeros(3, 5)
    mask, start = torch.zeros(3, 5, dtype=torch.bool), 0
    for row, n in enumerate(lengths):
        matrix[row, :n], target[row, :n] = scores[start : start + n], labels[row]
        mask[row, :n], start = True, start + n
    loss = RERANKER_LOSSES[name]
    whole = loss.total(matrix, target, mask) / loss.count(matrix, target, mask)
    parts = sum(loss.total(matrix[r : r + 1], target[r : r + 1], mask[r : r + 1]) for r in range(3))
    assert parts / loss.count(matrix, target, mask) == pytest.approx(whole.item(), rel=1e-5)
    if name == "lambda":
        starts = [0, 4, 6]
        documents = [[str(s + i) for i in range(n)] for s, n in zip(starts, lengths, strict=True)]
        theirs = LambdaLoss(Given(scores))([["q"] * 3, documents], labels)
    elif name == "bce":
        theirs = torch.nn.BCEWithLogitsLoss()(scores, torch.cat(labels))
    else:
        rows = [
            -(label / label.sum() * part.log_softmax(0)).sum()
            for label, part in zip(labels, scores.split(lengths), strict=True)
        ]
        theirs = torch.stack(rows).mean()
    assert whole.item() == pytest.approx(theirs.item(), rel=1e-5)


def test_the_schedule_warms_up_and_ends_at_zero():
    config = RerankerConfig(learning_rate=1e-3, warmup=0.1)
    rates = [config.rate_at(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == pytest.approx(1e-3)
    assert rates[-1] < 2e-5
    assert (
        RerankerConfig().for_width(384).learning_rate
        > RerankerConfig().for_width(768).learning_rate
    )


# --- the real model ------------------------------------------------------------------------


@pytest.mark.slow
def test_minilm_learns_to_rerank_the_standard_library_s_help(minilm, tmp_path):
    """120 queries, and candidates in an order by chance: the new head against the trained one."""
    docs = read_api_docs(paths=[sysconfig.get_paths()["stdlib"]])
    split = split_pairs(docs.pairs, seed=0, shares=(0.6, 0.2, 0.2))
    pairs, dev, test = (
        part.take(pa.array(range(n)))
        for part, n in zip(split.parts().values(), (120, 20, 50), strict=True)
    )
    version = train_reranker(
        minilm,
        pairs,
        dev=dev,
        candidates=_by_chance(dev),
        name="stdlib",
        store=str(tmp_path),
        max_tokens=40,
        n_negatives=2,
        eval_steps=100,
        batch_size=8,
        learning_rate=2e-4,
        device="cpu",
    )
    run, texts, queries = _by_chance(test), test.corpus, test.queries
    figures = {}
    for name, model in (
        ("untrained", new_cross_encoder(minilm, device="cpu")),
        ("trained", load_cross_encoder(version.path, device="cpu")),
    ):
        asked = [(q, d) for q, hits in run.items() for d in hits]
        scores = Scorer(model).score([(queries[q], texts[d]) for q, d in asked], max_tokens=40)
        found = {q: {} for q in run}
        for (query_id, doc_id), score in zip(asked, scores.tolist(), strict=True):
            found[query_id][doc_id] = score
        figures[name] = evaluate(found, test, metrics="ndcg@10").metrics["ndcg@10"]
    assert figures["trained"].ci95[0] > figures["untrained"].ci95[1], figures


def _by_chance(pairs, n_others=9):
    """Each query's document among nine others, in an order by chance."""
    run, ids = {}, list(pairs.corpus)
    for query_id, relevant in pairs.qrels.items():
        dice = random.Random(query_id)
        others = dice.sample([i for i in ids if i not in relevant], n_others)
        shown = [*relevant, *others]
        dice.shuffle(shown)
        run[query_id] = {doc_id: -float(rank) for rank, doc_id in enumerate(shown)}
    return run
