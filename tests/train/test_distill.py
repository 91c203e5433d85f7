"""Students: what they keep of the teacher, how they are saved, and that they serve."""

import json
from functools import partial
from importlib import import_module
from pathlib import Path

import lancedb
import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

import lancedb_ft as ft
from lancedb_ft.encoder import Encoder, get_encoder, load_sentence_transformer
from lancedb_ft.encoder.bags import BagTokenizer
from lancedb_ft.errors import InputError, LeakError
from lancedb_ft.evaluate import evaluate
from lancedb_ft.store import ModelStore
from lancedb_ft.train.distillation.config import DistillConfig
from lancedb_ft.train.distillation.distill import distill
from lancedb_ft.train.distillation.figures import share_kept, texts_per_s
from lancedb_ft.train.distillation.layers import even_layers, keep_layers, side_batches
from lancedb_ft.train.distillation.static import (
    TokenTable,
    bags_of,
    input_vectors,
    regress,
    static_model,
)
from lancedb_ft.train.distillation.students import _shortened
from lancedb_ft.train.distillation.texts import read_texts
from lancedb_ft.train.runs import RunFolder
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs
from tests.tiny import tiny_model
from tests.train.toy import WORDS, toy_pairs

#: What only training on pairs can find; and what any model finds: the document, but for its end.
SYNONYMS = toy_pairs(60, seed=9, prefix="dev-")
DEV = Pairs.of(
    [
        (row["query_id"], row["document"].rsplit(" ", 1)[0], row["doc_id"], row["document"])
        for row in SYNONYMS.table.to_pylist()
    ]
)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """Three layers that change little and look little at the order of words, as trained ones."""
    place = tmp_path_factory.mktemp("teacher")
    model = load_sentence_transformer(
        tiny_model(place, texts=[" ".join(WORDS)], n_layers=3), device="cpu"
    )
    network = model[0].auto_model
    for matrix in (network.embeddings.position_embeddings.weight, *network.encoder.parameters()):
        if matrix.ndim == 2:
            matrix.data *= 0.2
    model.save_pretrained(str(place / "calm"), create_model_card=False)
    return str(place / "calm")


@pytest.fixture(scope="module")
def texts():
    return toy_pairs(300, seed=1).table["document"].to_pylist()


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return str(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def static(teacher, texts, store):
    return distill(teacher, texts, name="static", dev=DEV, store=store, device="cpu")


def matrix(encoder, texts):
    made = encoder.encode(texts)
    return np.asarray(made.values).reshape(len(texts), -1)


def cosine(model, teacher, texts):
    """Mean cosine with the teacher on texts."""
    ours, theirs = (matrix(get_encoder(m, device="cpu"), texts) for m in (model, teacher))
    norms = np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1)
    return float(((ours * theirs).sum(1) / norms).mean())


# --- a static student --------------------------------------------------------------------------


def test_a_static_student_comes_near_its_teacher_on_texts_it_never_saw(static, teacher):
    unseen = toy_pairs(80, seed=5).table["document"].to_pylist()
    model = load_sentence_transformer(static.path, device="cpu")
    assert [type(module).__name__ for module in model] == ["StaticEmbedding", "Normalize"]
    ours, theirs = (matrix(get_encoder(m, device="cpu"), unseen) for m in (static, teacher))
    # Without what all texts have in common, which makes any two of them look alike.
    ours, theirs = ours - ours.mean(axis=0), theirs - theirs.mean(axis=0)
    assert (ours * theirs).sum() / (np.linalg.norm(ours) * np.linalg.norm(theirs)) > 0.9


def test_the_regression_is_the_least_squares_solution(teacher, texts):
    live = get_encoder(teacher, device="cpu", precision="float32")
    model = static_model(load_sentence_transformer(teacher, device="cpu"), 16)
    bags = bags_of(BagTokenizer(model[0].tokenizer), texts, model[0].num_embeddings)
    targets = matrix(live, texts)
    inputs = input_vectors(load_sentence_transformer(teacher, device="cpu"))
    table = TokenTable(model, live, inputs, lambda vectors: vectors, bags)
    error = ((bags @ table.vectors - targets) ** 2).sum()
    before = table.vectors
    regress(table, targets)
    after = table.vectors
    # Where tokens were seen the ridge gradient is 0 but for what 20 iterations leave.
    seen = np.flatnonzero(np.diff(bags.tocsc().indptr))
    residual = bags @ after - targets
    assert (residual**2).sum() < 0.2 * error
    best = np.linalg.lstsq(bags.toarray()[:, seen], targets, rcond=None)[0]
    least = ((bags[:, seen] @ best - targets) ** 2).sum()
    assert (residual**2).sum() <= 1.1 * least + 0.01 * error
    unseen = np.setdiff1d(np.arange(len(before)), seen)
    assert np.abs(before[unseen]).sum() > 0
    assert not np.allclose(before[unseen], after[unseen]), "the map moves them along"


def test_the_manifest_tells_teacher_texts_figures_and_rates(static, teacher, texts):
    told = static.manifest
    assert told["teacher"]["fingerprint"] == ft.resolve_model(teacher).fingerprint
    assert told["data"]["n_documents"] == len(set(texts))
    kept = told["distillation"]["share_kept"]
    dev = told["metrics"]["dev"]
    share = dev["tuned"]["ndcg@10"]["mean"] / dev["base"]["ndcg@10"]["mean"]
    assert kept["mean"] == pytest.approx(share)
    assert kept["ci95"][0] <= kept["mean"] <= kept["ci95"][1]
    rates = told["distillation"]["texts_per_s"]
    assert rates["student"] > rates["teacher"] > 0
    card = (Path(static.path) / "README.md").read_text("utf-8")
    assert f"| share_kept | {kept['mean']:.4f}".rstrip("0") in card
    assert f"| texts_per_s | {rates['student']} |" in card
    assert f"| texts_per_s_of_teacher | {rates['teacher']} |" in card
    assert "](training.png)" in card
    with Image.open(Path(static.path) / "training.png") as picture:
        assert picture.size == (880, 660)
    history = told["dev"]["history"]
    assert set(history) == {"0", "1", "2", "3", "4", "5", "6"}
    assert dev["tuned"]["ndcg@10"]["mean"] == pytest.approx(max(history.values()))
    assert texts[0] not in json.dumps(told)


def test_the_same_call_gives_the_version_that_is_there(static, teacher, texts, store):
    again = distill(teacher, texts, name="static", dev=DEV, store=store, device="cpu")
    assert again.ref == static.ref == "static@1"


def test_pairs_teach_what_the_teacher_does_not_know(teacher, store):
    """A random teacher finds nothing; the pairs say that each word means the next one."""
    pairs = toy_pairs(400, seed=2)
    version = distill(
        teacher,
        pairs,
        name="paired",
        dev=SYNONYMS,
        store=store,
        batch_size=64,
        epochs=8,
        learning_rate=0.2,
        device="cpu",
    )
    assert version.manifest["training"]["trained_on_pairs"] is True
    kept = version.manifest["distillation"]["share_kept"]
    assert kept["ci95"][0] > 1.5, kept
    untaught = distill(teacher, pairs, pairs=False, name="x", dev=DEV, store=store, device="cpu")
    assert untaught.manifest["training"]["trained_on_pairs"] is False


def test_a_killed_run_takes_the_teachers_vectors_from_where_they_lie(
    teacher, texts, tmp_path, monkeypatch
):
    call = {"name": "cut", "dev": DEV, "store": str(tmp_path / "s"), "device": "cpu"}
    folder = tmp_path / "run"
    with monkeypatch.context() as patched:
        patched.setattr(
            import_module("lancedb_ft.train.distillation.students"), "regress", _interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, texts, run_dir=folder, **call)
    block = folder / "document-0.npy"
    np.save(block, -np.load(block))  # were the teacher asked again, this would not matter
    version = distill(teacher, texts, run_dir=folder, **call)
    assert cosine(version, teacher, texts[:50]) < -0.5
    assert not folder.exists()


def _interrupt(*arguments):
    raise KeyboardInterrupt


def test_shorter_vectors_keep_the_dot_products():
    dice = np.random.default_rng(0)
    low = dice.normal(size=(200, 4)) @ dice.normal(size=(4, 12)) + 0.01 * dice.normal(
        size=(200, 12)
    )
    full = (low / np.linalg.norm(low, axis=1, keepdims=True)).astype(np.float32)
    short, projection = _shortened(full, 4)
    assert (short.shape, projection.shape) == ((200, 4), (12, 4))
    assert np.abs(short @ short.T - full @ full.T).max() < 0.01


# --- a network student -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "precision"), [("layers:1", "bfloat16"), ("static", "float32")]
)
def test_a_student_is_timed_as_it_runs_where_its_teacher_does(
    student, precision, teacher, texts, tmp_path, monkeypatch
):
    module = import_module("lancedb_ft.train.distillation.distill")
    monkeypatch.setattr(module, "get_encoder", partial(get_encoder, precision="bfloat16"))
    timed = []

    def seen(encoder, model, texts):
        timed.append((encoder.precision, Encoder.of(model).precision))
        return texts_per_s(encoder, model, texts)

    monkeypatch.setattr(module, "texts_per_s", seen)
    version = distill(
        teacher, texts, student=student, name="x", dev=DEV, store=str(tmp_path), epochs=1
    )
    assert timed == [("bfloat16", precision)]
    saved = load_sentence_transformer(version.path, device="cpu")
    assert {str(p.dtype) for p in saved.parameters()} == {"torch.float32"}


def test_two_layers_of_three_learn_the_teachers_vectors(teacher, texts, store):
    unseen = toy_pairs(80, seed=5).table["document"].to_pylist()
    plain = load_sentence_transformer(teacher, device="cpu")
    assert keep_layers(plain, 2) == [1, 2]
    untrained = matrix(Encoder.of(plain), unseen)
    before = float((untrained * matrix(get_encoder(teacher, device="cpu"), unseen)).sum(1).mean())
    version = distill(
        teacher,
        [texts, DEV.corpus],
        student="layers:2",
        name="half",
        dev=DEV,
        store=store,
        epochs=4,
        batch_size=32,
        learning_rate=3e-3,
        device="cpu",
    )
    assert 1 - cosine(version, teacher, unseen) < 0.3 * (1 - before)
    model = load_sentence_transformer(version.path, device="cpu")
    assert len(model[0].auto_model.encoder.layer) == 2
    assert version.manifest["training"]["kept_layers"] == [1, 2]


@pytest.mark.slow  # another kill of a distillation runs by default
def test_a_run_killed_after_an_epoch_ends_with_the_same_weights(
    teacher, texts, tmp_path, monkeypatch
):
    call = {
        "student": "layers:1",
        "name": "cut",
        "dev": DEV,
        "epochs": 2,
        "batch_size": 64,
        "device": "cpu",
    }
    whole = distill(teacher, texts, store=str(tmp_path / "a"), **call)
    with monkeypatch.context() as patched:
        patched.setattr(
            import_module("lancedb_ft.train.distillation.distill"), "texts_per_s", _interrupt
        )
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, texts, store=str(tmp_path / "b"), run_dir=tmp_path / "r", **call)
    second = tmp_path / "r" / "checkpoint-2"
    assert second.is_dir()
    cut = distill(teacher, texts, store=str(tmp_path / "b"), run_dir=tmp_path / "r", **call)
    assert cut.fingerprint == whole.fingerprint
    first_epoch = tmp_path / "r1"
    seal = RunFolder.seal

    def seal_and_stop(run, step):
        seal(run, step)
        _interrupt()

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "seal", seal_and_stop)
        with pytest.raises(KeyboardInterrupt):
            distill(teacher, texts, store=str(tmp_path / "c"), run_dir=first_epoch, **call)
    assert (first_epoch / "checkpoint-1").is_dir()
    cut = distill(teacher, texts, store=str(tmp_path / "c"), run_dir=first_epoch, **call)
    assert cut.fingerprint == whole.fingerprint


def test_another_model_gets_a_map_to_the_teachers_dims(teacher, texts, store, tmp_path):
    other = tiny_model(tmp_path, dims=8, seed=4, texts=[" ".join(WORDS)])
    version = distill(
        teacher,
        texts,
        student=other,
        name="other",
        dev=DEV,
        store=store,
        epochs=1,
        device="cpu",
    )
    model = load_sentence_transformer(version.path, device="cpu")
    assert version.dims == 16
    assert [type(module).__name__ for module in model][-2:] == ["Dense", "Normalize"]
    assert cosine(version, teacher, texts[:50]) > 0.8


def test_a_student_may_be_a_version_of_the_store(teacher, texts, tmp_path, monkeypatch):
    monkeypatch.delenv("LANCEDB_FT_STORE", raising=False)
    other = tiny_model(tmp_path / "m", dims=8, seed=4, texts=[" ".join(WORDS)])
    store = str(tmp_path / "models")
    small = ModelStore(store).save(other, name="small")
    call = {"dev": DEV, "store": store, "epochs": 1, "device": "cpu"}
    version = distill(teacher, texts[:40], student="small@1", name="other", **call)
    assert version.manifest["training"]["student_model"]["fingerprint"] == small.fingerprint


def test_layers_are_evenly_spaced_and_end_with_the_last():
    assert even_layers(6, 3) == [1, 3, 5]
    assert even_layers(12, 6) == [1, 3, 5, 7, 9, 11]
    assert all(even_layers(n, k)[-1] == n - 1 for n in range(2, 9) for k in range(1, n))
    assert all(len(set(even_layers(n, k))) == k for n in range(2, 9) for k in range(1, n))


def test_batches_are_of_one_side_and_hold_each_text_once():
    batches = side_batches(10, 25, batch_size=4, seed=0, epoch=1)
    assert sorted(np.concatenate([rows for _, rows in batches]).tolist()) == list(range(35))
    assert all(
        (rows < 10).all() if side == "query" else (rows >= 10).all() for side, rows in batches
    )
    assert all(len(rows) <= 4 for _, rows in batches)


# --- what it learns from -----------------------------------------------------------------------


def test_texts_of_every_source_and_never_a_query_of_dev(db):
    table = db.create_table("docs", [{"id": "1", "text": "one"}, {"id": "2", "text": "two"}])
    pairs = Pairs.of([("q1", "first?", "1", "one"), ("q2", "held out", "2", "two")])
    dev = Pairs.of([("d", "Held  OUT", "9", "nine")])
    ranking = TrainingSet(
        "ranking",
        pa.table(
            {
                "query_id": ["q", "q"],
                "query": ["rank", "rank"],
                "doc_id": ["a", "b"],
                "document": ["good", "bad"],
                "grade": [2, 0],
            }
        ),
    )
    found = read_texts([table, pairs, ranking, {"x": "three", "y": " "}], dev=dev)
    assert list(found.queries) == ["first?", "rank"]
    assert list(found.documents) == ["one", "two", "bad", "good", "three"]
    assert list(found.pairs) == [(0, 0), (1, 3)]
    assert found.n_left_out == 1
    assert found.source["tables"]["docs"]["name"] == "docs"
    few = read_texts([table, pairs], dev=dev, max_texts=2)
    assert (list(few.queries), list(few.documents), list(few.pairs)) == (
        ["first?"],
        ["one"],
        [(0, 0)],
    )


@pytest.mark.parametrize(
    ("kind", "columns", "sides"),
    [
        (
            "triplets",
            {"anchor": ["a"], "positive": ["p"], "negative_1": ["n"]},
            (["a"], ["p", "n"]),
        ),
        (
            "negatives",
            {"query": ["a"], "positive": ["p"], "negatives": [["n"]]},
            (["a"], ["p", "n"]),
        ),
        ("scored", {"sentence1": ["a"], "sentence2": ["b"], "score": [0.5]}, ([], ["a", "b"])),
        ("nli", {"premise": ["a"], "hypothesis": ["b"], "label": [1]}, ([], ["a", "b"])),
        ("labelled", {"text": ["a"], "label": ["l"]}, ([], ["a"])),
    ],
)
def test_texts_of_every_kind_of_training_data(kind, columns, sides):
    found = read_texts(TrainingSet(kind, pa.table(columns)), dev=DEV)
    assert (list(found.queries), list(found.documents)) == sides


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"student": "layers:0"}, "how many"),
        ({"student": "layers:"}, "how many"),
        ({"epochs": 0}, "epochs"),
        ({"batch_size": 1}, "batch_size"),
        ({"learning_rate": 2.0}, "learning_rate"),
        ({"metric": "ndcg@ten"}, "ndcg@ten"),
    ],
)
def test_arguments_that_mean_nothing_are_refused_at_once(settings, told):
    with pytest.raises(InputError, match=told):
        DistillConfig(**settings)


def test_what_cannot_be_distilled_is_refused(teacher, texts, store, tmp_path):
    call = {"name": "no", "dev": DEV, "store": store, "device": "cpu"}
    with pytest.raises(InputError, match="3 layers"):
        distill(teacher, texts, student="layers:3", **call)
    with pytest.raises(InputError, match="has one layer, of which none can be taken out"):
        keep_layers(load_sentence_transformer(tiny_model(tmp_path), device="cpu"), 9)
    with pytest.raises(InputError, match="dims is 32"):
        distill(teacher, texts, dims=32, **call)
    with pytest.raises(InputError, match="no texts"):
        distill(teacher, [" ", None], **call)
    with pytest.raises(InputError, match="found a int"):
        distill(teacher, iter([1, 2]), **call)
    with pytest.raises(InputError, match="pass a LanceDB table"):
        distill(teacher, 7, **call)
    document = DEV.table["document"][0].as_py()
    with pytest.raises(LeakError):
        distill(teacher, Pairs.of([("q", "a query of its own", "d", document)]), **call)


def test_the_share_kept_is_a_ratio_of_means_over_the_same_queries():
    qrels = {f"q{n}": {"d": 1} for n in range(40)}
    teacher = evaluate({q: {"d": 1.0} for q in qrels}, qrels=qrels)
    student = evaluate({q: {"d": 1.0} for q in list(qrels)[:30]}, qrels=qrels)
    kept = share_kept(teacher, student)
    assert kept.mean == 0.75
    assert 0.55 < kept.ci95[0] < 0.75 < kept.ci95[1] < 0.92
    assert share_kept(teacher, teacher).ci95 == (1.0, 1.0)
    with pytest.raises(InputError, match="nothing to keep"):
        share_kept(evaluate({}, qrels=qrels), student)


# --- serving -----------------------------------------------------------------------------------


def test_a_table_re_indexed_with_the_student_searches_by_text_in_plain_lancedb(teacher, tmp_path):
    db = lancedb.connect(str(tmp_path / "db"))
    documents = toy_pairs(80, seed=3).corpus
    table = db.create_table("docs", [{"id": i, "text": t} for i, t in documents.items()])
    model = distill(teacher, table, name="served", dev=DEV, epochs=1, device="cpu")
    assert model.manifest["table"]["name"] == "docs"
    assert ft.reindex(table, model, force=True).switched
    wanted = documents["d7"]
    hit = lancedb.connect(str(tmp_path / "db")).open_table("docs").search(wanted).limit(1).to_list()
    assert hit[0]["id"] == "d7"
