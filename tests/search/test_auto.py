"""What is seen of a query, and when a mode is chosen by it."""

import json

import numpy as np
import pytest

from lancedb_ft.errors import InputError, NotBetterError
from lancedb_ft.search.auto import FEATURES, AutoMode, query_features
from lancedb_ft.search.fit_auto import fit_auto_of_runs
from tests.search.judged import leg, pairs_of


def seen(text):
    return dict(zip(FEATURES, query_features(text), strict=True))


@pytest.mark.parametrize(
    ("text", "feature", "value"),
    [
        ("how do I cancel", "question", 1.0),
        ("cancel my order?", "question", 1.0),
        ("cancel my order", "question", 0.0),
        ('the "exact words" here', "quoted", 1.0),
        ("it's what they're for", "quoted", 0.0),
        ("error 404 again", "digits", 1 / 3),
        ("open /etc/hosts now", "symbols", 1 / 3),
        ("grep --ignore-case", "symbols", 1 / 2),
        ("readCsv fails", "symbols", 1 / 2),
        ("don't panic, friends", "symbols", 0.0),
        ("Ada wrote COBOL", "capitals", 2 / 3),
        ("to be or not", "short", 1.0),
        ("one two", "log_words", np.log(3)),
        ("ab abcd", "word_length", 3.0),
    ],
)
def test_features(text, feature, value):
    assert seen(text)[feature] == pytest.approx(value)


@pytest.mark.parametrize("text", ["", "   ", "\n\t"])
def test_a_blank_query_shows_nothing(text):
    assert query_features(text) == (0.0,) * len(FEATURES)


@pytest.mark.parametrize(
    "text", ["x" * 100_000, "🎉 " * 5_000, '"' * 3_000, "'a" * 3_000, "日本語"]
)
def test_no_query_is_too_long_or_too_strange(text):
    assert all(np.isfinite(query_features(text)))


def test_the_best_mode_is_chosen_and_the_default_where_none_gains():
    rule = AutoMode(
        "hybrid",
        {
            "fts": (-0.5, *[0.0] * 7, 1.0),  # quoted
            "vector": (-0.5, *[0.0] * 6, 0.8, 0.0),  # a question
        },
    )
    assert rule.choose("plain words") == "hybrid"
    assert rule.choose('"these words"') == "fts"
    assert rule.choose("how so?") == "vector"
    assert rule.choose('how is "this" written?') == "fts"
    assert AutoMode.from_dict(json.loads(json.dumps(rule.to_dict()))).choose("how?") == "vector"


@pytest.mark.parametrize(
    ("default", "gains"),
    [
        ("fast", {}),
        ("hybrid", {"fast": (0.0,) * 9}),
        ("hybrid", {"fts": (0.0,) * 8}),
        ("hybrid", {"fts": (float("nan"),) * 9}),
    ],
)
def test_a_rule_that_cannot_be_used_is_refused(default, gains):
    with pytest.raises(InputError):
        AutoMode(default, gains)


def test_a_rule_of_other_features_is_refused():
    document = AutoMode("hybrid", {}).to_dict() | {"features": ["colour"]}
    with pytest.raises(InputError, match="Fit it again"):
        AutoMode.from_dict(document)


def runs_by_quotes(n=200):
    """Full text finds what stands in quotes, vectors find the rest."""
    rng = np.random.default_rng(0)
    quotes = ['the "error here" again', '"bad news" about that', 'see "this one"']
    plain = ["trouble with those things", "nothing comes back", "what about bad errors"]
    texts = [(quotes if i % 2 else plain)[i % 3] for i in range(n)]
    pairs = pairs_of(texts)
    quoted = {q: '"' in text for q, text in pairs.queries.items()}
    runs = {
        "fts": leg(pairs, rng, lambda q: 1 if quoted[q] else 8),
        "vector": leg(pairs, rng, lambda q: 8 if quoted[q] else 1),
        "hybrid": leg(pairs, rng, lambda q: 3),
    }
    return runs, pairs


def test_it_wins_where_the_text_tells():
    runs, pairs = runs_by_quotes()
    fit = fit_auto_of_runs(runs, pairs).check()
    assert fit.rule.choose('see "the other one" too') == "fts"
    assert fit.rule.choose("trouble with other things") == "vector"
    assert fit.comparison.tuned.metrics["ndcg@10"].mean > 0.95
    assert fit.shares == {"fts": 0.5, "vector": 0.5, "hybrid": 0.0}
    assert fit.to_dict()["wins"] is True


@pytest.mark.parametrize("seed", range(2))
def test_it_is_refused_where_the_text_does_not_tell(seed):
    rng = np.random.default_rng(seed)
    pairs = pairs_of([f"thing {i}" for i in range(200)])

    def anywhere(query_id):
        return int(rng.integers(1, 20))

    runs = {mode: leg(pairs, rng, anywhere) for mode in ("vector", "fts", "hybrid")}
    with pytest.raises(NotBetterError, match="Search with mode="):
        fit_auto_of_runs(runs, pairs).check()


def test_a_mode_that_is_always_best_is_no_reason_for_auto():
    rng = np.random.default_rng(0)
    pairs = pairs_of([f"thing {i}" for i in range(100)])
    runs = {"vector": leg(pairs, rng, lambda q: 1), "hybrid": leg(pairs, rng, lambda q: 5)}
    fit = fit_auto_of_runs(runs, pairs)
    assert not fit.wins
    assert fit.rule.default == "vector"
    assert fit.shares["vector"] == 1.0


def test_too_few_queries_or_modes_are_refused():
    runs, pairs = runs_by_quotes(n=8)
    with pytest.raises(InputError, match="8 judged queries"):
        fit_auto_of_runs(runs, pairs)
    runs, pairs = runs_by_quotes(n=20)
    with pytest.raises(InputError, match="1 modes"):
        fit_auto_of_runs({"fts": runs["fts"]}, pairs)
