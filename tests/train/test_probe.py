"""The forgetting check: how probes are made, what they measure, and what they forbid."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import InputError, RegressionError
from lancedb_ft.train import train
from lancedb_ft.train.interpolate import interpolate
from lancedb_ft.train.probe import (
    Probe,
    Watch,
    build_probe,
    check_max_regression,
    name_probes,
    probe_of_documents,
    probes_fingerprint,
)
from lancedb_ft.types import Pairs
from tests.train.toy import FAST, WORDS, toy_model, toy_pairs

DATA = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return toy_model(tmp_path_factory.mktemp("toy"))


@pytest.fixture(scope="module")
def model(base):
    return load_sentence_transformer(base, device="cpu")


@pytest.fixture(scope="module")
def encoder(model):
    return Encoder.of(model)


def documents(n=60):
    """The rest has the words of the opening, so that any model finds it; some have no rest."""
    texts = {}
    for i in range(n):
        words = " ".join(WORDS[(i * 7 + j * (i % 5 + 1)) % len(WORDS)] for j in range(5))
        texts[f"d{i}"] = f"{words} {i}. {words} {words} {i}{i}."
    return {**texts, "blank": " ", "one": "only one sentence stands here", "short": "A b c. d."}


# --- made of documents ---------------------------------------------------------------------


def test_the_opening_asks_for_the_rest_where_the_base_finds_it(encoder):
    probe = probe_of_documents("general", documents(), encoder, seed=0)
    texts = documents()
    for row in probe.pairs.table.to_pylist():
        assert texts[row["doc_id"]] == f"{row['query']} {row['document']}"
    assert 20 <= probe.n_queries <= 60
    assert not {"blank", "one", "short"} & set(probe.corpus)
    # What was left out because the base does not find it is still there to be mistaken for.
    assert len(probe.corpus) == 60
    measured = probe.measure(encoder)
    assert measured.n == probe.n_queries
    assert measured.metrics["ndcg@10"].mean >= 0.5  # each answer is among the first three


def test_what_the_base_does_not_find_is_not_asked(encoder):
    odd = {
        f"x{i}": f"zulu {i} yankee. " + " ".join([WORDS[i % 20]] * 6) + f" {i * 31}"
        for i in range(40)
    }
    probe = probe_of_documents("general", {**documents(), **odd}, encoder, seed=0)
    asked = {query_id for query_id in probe.pairs.qrels if query_id.startswith("x")}
    assert len(asked) < 30
    assert {doc_id for doc_id in probe.corpus if doc_id.startswith("x")} == set(odd)


def test_the_choice_is_the_seeds_not_the_orders(encoder):
    texts = documents()
    turned = dict(reversed(texts.items()))
    first = probe_of_documents("general", texts, encoder, seed=0)
    assert first.fingerprint == probe_of_documents("general", turned, encoder, seed=0).fingerprint


def test_the_same_opening_twice_asks_once(encoder):
    texts = {**documents(), "again": documents()["d0"], "AGAIN": documents()["d1"].upper()}
    probe = probe_of_documents("general", texts, encoder, seed=0)
    assert len(probe.corpus) == 60


def test_too_few_documents_are_refused_with_what_to_do(encoder):
    with pytest.raises(InputError, match=r"Only 5 of 8 documents .* as Pairs"):
        probe_of_documents("general", documents(5), encoder, seed=0)
    rests = (" ".join(WORDS[i * k % 20] for k in range(1, 7)) for i in range(1, 31))
    unlike = {f"u{i}": f"zulu yankee {i} xray. {rest}" for i, rest in enumerate(rests)}
    with pytest.raises(InputError, match="found by their first sentence"):
        probe_of_documents("general", unlike, encoder, seed=0)


# --- named by the user ---------------------------------------------------------------------


def test_pairs_are_asked_among_all_their_documents(encoder):
    pairs = toy_pairs(600)
    probe = build_probe("faq", pairs, encoder, seed=0)
    assert probe.n_queries == 500
    assert probe.corpus == pairs.corpus
    wider = Probe("faq", toy_pairs(10), {"other": "alpha bravo"})
    assert build_probe("renamed", wider, encoder, seed=0).name == "renamed"
    assert len(wider.corpus) == 11


def test_one_or_several_may_be_given():
    pairs, texts = toy_pairs(3), {"d1": "some text"}
    assert name_probes(None) == {}
    assert name_probes(pairs) == {"probe": pairs}
    assert name_probes(texts) == {"probe": texts}
    assert name_probes(Probe("faq", pairs)).keys() == {"faq"}
    assert name_probes({"faq": pairs, "manual": texts}) == {"faq": pairs, "manual": texts}


@pytest.mark.parametrize(
    "given",
    [{}, 5, "text", [1], {"faq": 5}, {"faq": {}}, {"a": "b", "faq": None, "c": toy_pairs(3)}],
)
def test_what_is_no_probe_is_refused(given):
    with pytest.raises(InputError, match="Pairs"):
        name_probes(given)


def test_a_row_without_a_text_is_a_document_of_which_no_query_is_made(encoder):
    """`docs:TABLE` of a table in which some row has no text."""
    texts = documents()
    found = name_probes({**texts, "none": None})
    assert list(found) == ["probe"]
    made = build_probe("probe", found["probe"], encoder, seed=0)
    assert made.corpus == build_probe("probe", texts, encoder, seed=0).corpus
    assert list(name_probes({"a": None})) == ["probe"]
    named = name_probes({"docs": {**texts, "none": None}, "faq": toy_pairs(3)})
    assert list(named) == ["docs", "faq"]
    assert probes_fingerprint(found) != probes_fingerprint({"probe": texts})


def test_empty_pairs_odd_names_and_odd_limits_are_refused(encoder):
    with pytest.raises(InputError, match="no pairs"):
        build_probe("faq", Pairs.of([]), encoder, seed=0)
    with pytest.raises(InputError, match="name of a probe"):
        Probe("how do I?\n", toy_pairs(3))
    for limit in (-0.1, 1.5, float("nan")):
        with pytest.raises(InputError, match="max_regression"):
            check_max_regression(limit)
    check_max_regression(None)


def test_the_fingerprint_is_that_of_names_and_texts():
    texts = {"d1": "some text"}
    same = probes_fingerprint({"a": texts})
    assert same == probes_fingerprint({"a": dict(texts)})
    others = [{"b": texts}, {"a": {"d1": "other"}}, {"a": toy_pairs(3)}, {}]
    assert same not in map(probes_fingerprint, others)


# --- what is allowed -----------------------------------------------------------------------


def figures(*values):
    mean = sum(values) / len(values)
    return {"n": len(values), "mean": mean, "ci95": [0.0, 1.0], "values": list(values)}


def test_each_probe_may_lose_so_much_and_no_more():
    probes = [Probe("faq", toy_pairs(4)), Probe("manual", toy_pairs(4, seed=1))]
    base = {"faq": figures(1, 1, 1, 0), "manual": figures(1, 0, 1, 0)}
    watch = Watch(probes, 0.25, {0: base})
    kept = {"faq": figures(1, 1, 0, 0), "manual": figures(1, 1, 1, 1)}
    assert watch.within(kept)
    assert watch.lost(kept) == {"faq": 0.25, "manual": -0.5}
    worse = {"faq": figures(1, 0, 0, 0), "manual": figures(1, 1, 1, 1)}
    assert not watch.within(worse)
    assert watch.worst(worse) == "faq"
    assert Watch(probes, None, {0: base}).within(worse)
    assert Watch([], 0.0).within({})


def test_the_report_has_n_and_paired_intervals_and_no_values_of_queries():
    probe = Probe("faq", toy_pairs(4))
    base, tuned = {"faq": figures(1, 1, 1, 0)}, {"faq": figures(1, 0.5, 1, 0)}
    watch = Watch([probe], 0.02, {0: base, 8: tuned})
    report = watch.report(tuned)["faq"]
    assert report["n"] == 4
    assert report["delta"]["ndcg@10"]["mean"] == pytest.approx(-0.125)
    low, high = report["delta"]["ndcg@10"]["ci95"]
    assert -0.5 <= low < high <= 0
    assert report["base"] == {"ndcg@10": {"mean": 0.75, "ci95": [0.0, 1.0]}}
    assert watch.curves() == {"faq": {0: 0.75, 8: 0.625}}


# --- in a training -------------------------------------------------------------------------


@pytest.fixture(scope="module")
def arguments(tmp_path_factory):
    store = str(tmp_path_factory.mktemp("store"))
    dev = toy_pairs(30, seed=1, prefix="dev")
    return {"dev": dev, "name": "toy", "store": store, "epochs": 2, **FAST}


@pytest.fixture(scope="module")
def measured(base, arguments):
    """A training that forgets, and may."""
    return train(base, toy_pairs(), probe=documents(), max_regression=None, **arguments)


def test_a_probe_is_measured_at_the_same_steps_and_written_down(measured, base):
    manifest = measured.manifest
    curve = {int(step): mean for step, mean in manifest["probe"]["probe"].items()}
    assert set(curve) == set(map(int, manifest["dev"]["history"]))
    assert manifest["guards"] == {
        "max_regression": None,
        "probes": ["probe"],
        "interpolate": False,
    }
    told = manifest["metrics"]["probe"]["probe"]
    assert told["n"] >= 20
    assert told["base"]["ndcg@10"]["mean"] == curve[0]
    assert told["tuned"]["ndcg@10"]["mean"] == curve[manifest["training"]["best_step"]]
    assert told["delta"]["ndcg@10"]["mean"] == pytest.approx(
        told["tuned"]["ndcg@10"]["mean"] - curve[0]
    )
    assert curve[0] - min(curve.values()) > 0.05  # or the next test would be of nothing


def test_what_loses_more_than_allowed_is_not_saved(measured, base, arguments):
    curve = measured.manifest["probe"]["probe"]
    history = measured.manifest["dev"]["history"]
    lost = {s: curve["0"] - mean for s, mean in curve.items() if s != "0"}
    with pytest.raises(RegressionError, match="Nothing was saved") as caught:
        train(base, toy_pairs(), probe=documents(), max_regression=0.0, **arguments)
    assert caught.value.dev_tuned == max(history.values())
    # A limit between the steps keeps the best of those within it.
    limit = sorted(lost.values())[len(lost) // 2]
    within = [s for s in lost if lost[s] <= limit]
    version = train(base, toy_pairs(), probe=documents(), max_regression=limit, **arguments)
    saved = version.manifest["training"]["best_step"]
    assert str(saved) in within
    assert saved >= int(max(within, key=lambda s: history[s]))  # see test_best_step


def test_a_run_that_was_killed_goes_on_with_its_probes(measured, base, arguments, tmp_path):
    def run(on_event):
        given = {**arguments, "store": str(tmp_path), "on_event": on_event}
        return train(base, toy_pairs(), probe=documents(), max_regression=None, **given)

    def kill(event):
        if event["event"] == "evaluation" and event["step"] == 9:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(kill)
    version = run(lambda event: None)
    assert version.manifest["probe"] == measured.manifest["probe"]
    assert version.fingerprint == measured.fingerprint


def test_the_version_has_its_picture_and_a_card_with_the_figures(measured):
    folder = Path(measured.path)
    with Image.open(folder / "training.png") as image:
        assert image.size == (880, 660)
    card = (folder / "README.md").read_text()
    mean = measured.manifest["metrics"]["probe"]["probe"]["tuned"]["ndcg@10"]["mean"]
    assert f"{mean:.4f} [" in card
    assert "](training.png)" in card
    for text in (*toy_pairs().corpus.values(), *documents().values()):
        assert text.strip()[:12] not in card or not text.strip()


def test_interpolation_finds_weights_that_forget_less(measured, base, arguments):
    curve = measured.manifest["probe"]["probe"]
    history = measured.manifest["dev"]["history"]
    best = str(measured.manifest["training"]["best_step"])
    limit = 0.6 * (curve["0"] - curve[best])
    version = train(
        base, toy_pairs(), probe=documents(), max_regression=limit, interpolate=True, **arguments
    )
    told = version.manifest["interpolation"]
    trials = {trial["alpha"]: trial for trial in told["trials"]}
    assert set(trials) >= {0.0, 0.25, 0.5, 0.75, 1.0}
    assert trials[0.0]["dev"]["ndcg@10"]["mean"] == history["0"]
    assert trials[1.0]["dev"]["ndcg@10"]["mean"] == history[best]
    assert trials[1.0]["allowed"] is False
    assert 0 < told["alpha"] < 1
    chosen = trials[told["alpha"]]
    assert chosen["allowed"] is True
    assert chosen["dev"] == version.manifest["metrics"]["dev"]["tuned"]
    assert version.fingerprint != measured.fingerprint
    # The files have the weights that were measured.
    ends = [
        dict(load_sentence_transformer(path, device="cpu").state_dict())
        for path in (base, measured.path, version.path)
    ]
    for key, weights in interpolate(ends[0], ends[1], told["alpha"]).items():
        assert torch.allclose(weights, ends[2][key], atol=1e-6), key


# --- the real model ------------------------------------------------------------------------


@pytest.mark.data
def test_the_real_model_finds_abstracts_by_their_first_sentence(minilm):
    file = DATA / "scifact" / "corpus.parquet"
    if not file.is_file():
        pytest.skip("needs the data set scifact")
    rows = pq.read_table(file, columns=["id", "text"]).slice(0, 60).to_pylist()
    real = load_sentence_transformer(minilm, device="cpu")
    real.max_seq_length = 32
    probe = probe_of_documents(
        "abstracts", {r["id"]: r["text"] for r in rows}, Encoder.of(real), seed=0
    )
    assert probe.n_queries >= 30
    found = probe.measure(Encoder.of(real)).metrics["ndcg@10"]
    assert found.mean > 0.8, found
