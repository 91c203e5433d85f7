"""Errors carry fields, survive pickling, and say what to do."""

import inspect
import pickle

import pytest

from lancedb_ft import errors

EXAMPLES = [
    errors.TableNotFoundError("x", uri="db", available=["docs"]),
    errors.ColumnNotFoundError("x", table="docs", available=["id"], expected="text"),
    errors.BadRowsError("f.jsonl", n_rows=3, reasons={"no id": 2}),
    errors.BadDataError([{"name": "wrong pairs", "where": "train", "told": "Read them."}]),
    errors.LeakError("leak", n_leaks=1, examples=[("a", "b")]),
    errors.FilterError("x = ", reason="ends early."),
    errors.QueryError("no"),
    errors.MissingExtraError("torch", extra="train", purpose="Training"),
    errors.StoreNotFoundError("uri", reference="a@1"),
    errors.ModelNotFoundError("a@1", store="s", available=["a@2"]),
    errors.ModelInUseError("a@1", tables=["docs"]),
    errors.ManifestError("p", reason="torn"),
    errors.FingerprintError("a@1", expected="e" * 64, found="f" * 64),
    errors.ModelKindError("a@1", found="cross-encoder", expected="embedder"),
    errors.UnsafeModelError("p", reason="It has pickles."),
    errors.AliasTakenError("ft-embed", holder="m.C"),
    errors.NoGainError(metric="ndcg@10", base=0.5, best=0.4, n_queries=9),
    errors.RegressionError(
        probe="faq",
        base=0.9,
        tuned=0.8,
        n_queries=300,
        max_regression=0.02,
        metric="ndcg@10",
        dev_base=0.4,
        dev_tuned=0.5,
    ),
    errors.ReindexStateError("no", table="docs", state="staging"),
    errors.ReindexRunningError("docs", owner="process 1"),
    errors.ReindexConflictError("fill fragment 3", attempts=60, last="preempted"),
    errors.VerifyError("no", table="docs", report={"n_stale": 1}),
    errors.EngineError("cannot open the table", node="node-7"),
    errors.GateError(["ndcg@10 >= base"], report={"passed": False}),
    errors.StorageError("docs", reason="full", told="No space left on device (os error 28)"),
    errors.TornManifestError("docs", path="docs.lance/_versions/1", n_bytes=5, version=7),
    errors.NoTextIndexError("docs", column="text"),
    errors.NoPositionsError("docs", column="text"),
    errors.PageExpiredError("docs", version=7, reason="It was cleaned up."),
    errors.SearchTimeoutError("docs", budget_ms=50.0, late=["vector", "fts"]),
    errors.NotBetterError(
        "The learned fusion",
        than="reciprocal rank fusion",
        metric="ndcg@10",
        evidence={"n": 300, "delta": {"ndcg@10": {"mean": 0.001, "ci95": [-0.002, 0.004]}}},
        cure="Leave it out.",
    ),
    errors.RerankError("CohereReranker(m)", reason="HTTP 503", retry_after_s=2.0),
    errors.NoEmbedderError("docs", columns=["vector"]),
]


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
def test_pickling_keeps_everything(error):
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)
    assert vars(copy) == vars(error)


def test_every_error_has_an_example_and_is_public():
    classes = {
        c
        for _, c in inspect.getmembers(errors, inspect.isclass)
        if issubclass(c, errors.LancedbFtError)
    }
    assert {c.__name__ for c in classes} == set(errors.__all__)
    leaves = {c for c in classes if not any(d is not c and issubclass(d, c) for d in classes)}
    assert leaves == {type(e) for e in EXAMPLES}


def test_the_tree_in_the_docstring_is_the_tree():
    for name in errors.__all__:
        assert name in errors.__doc__, name


def test_verdicts_exit_with_3_and_bad_input_with_2():
    codes = {type(e).__name__: e.exit_code for e in EXAMPLES}
    assert {n for n, c in codes.items() if c == 3} == {
        "BadDataError",
        "LeakError",
        "ModelInUseError",
        "NoGainError",
        "NotBetterError",
        "RegressionError",
        "GateError",
    }
    assert codes["ColumnNotFoundError"] == codes["QueryError"] == 2
    assert codes["FingerprintError"] == 1
