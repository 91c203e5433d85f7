"""What all rerankers share, without any model: order, scores, chains, time, other rerankers."""

import math
import pickle
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from lancedb.rerankers import CrossEncoderReranker, LinearCombinationReranker, Reranker, RRFReranker

import lancedb_ft as ft
from lancedb_ft.errors import ColumnNotFoundError, InputError, QueryError, RerankError
from lancedb_ft.reranking import DEGRADED_KEY, TextReranker, answer_within, degraded_reason
from lancedb_ft.reranking.base import Reading
from lancedb_ft.reranking.guard import Deadline
from lancedb_ft.reranking.waves import WAVE, Pace, keys_in_time, within_budget


class ByLength(TextReranker):
    """Longest text first, or shortest; fails when told to."""

    def __init__(self, *, sign=1, fails="", pause_s=0.0, **settings):
        settings.setdefault("guard", ft.RerankGuard(deadline_s=None))
        super().__init__(**settings)
        self.sign, self.fails, self.pause_s = sign, fails, pause_s
        self.seen = []

    def read(self, query, texts, deadline):
        self.seen.append((query, list(texts), deadline.left_s()))
        time.sleep(self.pause_s)
        if self.fails:
            raise RerankError(str(self), reason=self.fails)
        lengths = np.array([float(len(text)) for text in texts])
        scores = lengths if self.sign > 0 else 100 - lengths
        return Reading(self.sign * lengths, (scores / 100).astype(np.float32))


def rows_of(*lengths):
    texts = [None if n is None else "x" * n for n in lengths]
    return pa.table({"text": pa.array(texts, pa.string()), "n": list(range(len(texts)))})


def legs(*, k=4):
    dice = np.random.default_rng(3)
    made = []
    for ids, column in (([1, 2, 3, 4], "_distance"), ([5, 3, 6, 1], "_score")):
        made.append(
            pa.table(
                {
                    "text": ["x" * (7 * i % 11 + 1) for i in ids[:k]],
                    "_rowid": pa.array(ids[:k], pa.uint64()),
                    column: pa.array(np.sort(dice.random(k)), pa.float32()),
                }
            )
        )
    return made


# --- the order of the search ---------------------------------------------------------------


def test_a_failed_hybrid_query_is_lancedb_s_fused_one():
    vector, text = legs()
    broken = ByLength(fails="HTTP 500")
    found = broken.rerank_hybrid("q", vector, text)
    fused = RRFReranker().rerank_hybrid("q", vector, text)
    scores = dict(
        zip(fused["_rowid"].to_pylist(), fused["_relevance_score"].to_pylist(), strict=True)
    )
    for row, score in zip(
        found["_rowid"].to_pylist(), found["_relevance_score"].to_pylist(), strict=True
    ):
        assert score == pytest.approx(scores.pop(row))
    assert not scores
    assert found["_relevance_score"].to_pylist() == sorted(
        found["_relevance_score"].to_pylist(), reverse=True
    )
    assert found.schema.metadata[DEGRADED_KEY] == b"ByLength: HTTP 500"


def test_what_stood_in_the_schema_s_metadata_stays():
    rows = rows_of(1, 2).replace_schema_metadata({b"mine": b"1"})
    found = ByLength(fails="no").rerank_fts("q", rows)
    assert found.schema.metadata[b"mine"] == b"1"
    assert rows.schema.metadata == {b"mine": b"1"}
    assert degraded_reason(rows) == ""


@pytest.mark.parametrize("k", [0, 1])
def test_few_rows(k):
    vector, text = legs(k=k)
    for reranker in (ByLength(), ByLength(fails="no")):
        assert reranker.rerank_hybrid("q", vector, text).num_rows == 2 * k
        assert reranker.rerank_vector("q", vector).num_rows == k
    assert not [call for call in ByLength().seen if not call[1]]


def test_mistakes_of_the_caller_are_raised_and_open_no_circuit():
    reranker = ByLength()
    with pytest.raises(ColumnNotFoundError):
        reranker.rerank_fts("q", pa.table({"body": ["a"]}))
    for query in (None, " ", 7):
        with pytest.raises(QueryError):
            reranker.rerank_fts(query, rows_of(1))
    assert reranker.usage.queries == 0


# --- chains --------------------------------------------------------------------------------


def test_a_chain_reads_many_and_then_few():
    first, second = ByLength(top_k=6), ByLength(sign=-1, top_k=3)
    chain = ft.RerankerChain(first, second)
    found = chain.rerank_fts("q", rows_of(10, 50, 30, 40, 20, None, 60, 99))
    # The first reads the 6 best of the search (one has no text), the second the 3 longest of them.
    assert [text.count("x") for text in first.seen[0][1]] == [10, 50, 30, 40, 20]
    assert [text.count("x") for text in second.seen[0][1]] == [50, 40, 30]
    assert found["n"].to_pylist() == [2, 3, 1, 4, 0, 5, 6, 7]
    scores = found["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert scores[:3] == pytest.approx([0.7, 0.6, 0.5])
    assert scores[3:5] == pytest.approx([0.2 * 0.5, 0.1 * 0.5])
    assert scores[5:] == [0, 0, 0]
    assert str(chain) == "RerankerChain(ByLength > ByLength)"


def test_a_stage_that_fails_leaves_the_order_of_the_one_before():
    rows = rows_of(10, 50, 30)
    chain = ft.RerankerChain(ByLength(), ByLength(sign=-1, fails="HTTP 503"))
    found = chain.rerank_fts("q", rows)
    assert found["n"].to_pylist() == [1, 2, 0]
    assert degraded_reason(found) == "ByLength: HTTP 503"
    assert (chain.usage.degraded, chain.usage.failures) == (1, 0)
    both = ft.RerankerChain(ByLength(fails="a"), ByLength(fails="b"))
    lost = both.rerank_fts("q", rows)
    assert lost["n"].to_pylist() == [0, 1, 2]
    assert lost["_relevance_score"].to_pylist()[2] > 0
    assert degraded_reason(lost) == "ByLength: a; ByLength: b"
    strict = ft.RerankerChain(
        ByLength(), ByLength(fails="no"), guard=ft.RerankGuard(on_failure="raise")
    )
    with pytest.raises(RerankError, match="no"):
        strict.rerank_fts("q", rows)


def test_the_time_of_a_chain_is_for_all_stages():
    guard = ft.RerankGuard(deadline_s=0.3)
    slow, last = ByLength(pause_s=0.35), ByLength(sign=-1)
    found = ft.RerankerChain(slow, last, guard=guard).rerank_fts("q", rows_of(10, 50, 30))
    assert found["n"].to_pylist() == [1, 2, 0]
    assert last.seen == []
    assert "no time was left" in degraded_reason(found)


def test_chains_of_nothing_or_of_others():
    with pytest.raises(InputError, match="at least"):
        ft.RerankerChain()
    with pytest.raises(InputError, match="GuardedReranker"):
        ft.RerankerChain(RRFReranker())
    with pytest.raises(InputError, match=r"\['a', 'text'\]"):
        ft.RerankerChain(ByLength(), ByLength(column="a"))


def test_a_chain_survives_pickling():
    chain = pickle.loads(pickle.dumps(ft.RerankerChain(ByLength(), ByLength(sign=-1))))
    assert chain.rerank_fts("q", rows_of(3, 2, 1))["n"].to_pylist() == [2, 1, 0]


# --- other rerankers -----------------------------------------------------------------------


class Other(Reranker):
    """A reranker as LanceDB's users write them."""

    column = "text"

    def __init__(self, do=None):
        super().__init__()
        self.do = do or (lambda: None)

    def rerank_hybrid(self, query, vector_results, fts_results):
        raise NotImplementedError

    def rerank_vector(self, query, vector_results):
        self.do()
        scores = pa.array([float(len(t)) for t in vector_results["text"].to_pylist()], pa.float32())
        found = vector_results.append_column("_relevance_score", scores)
        return found.sort_by([("_relevance_score", "descending")]).slice(0, 3)


def test_any_reranker_of_lancedb_can_be_guarded():
    reranker = ft.GuardedReranker(Other())
    found = reranker.rerank_hybrid("q", *legs())
    lengths = [len(text) for text in found["text"].to_pylist()]
    assert lengths[:3] == sorted(lengths, reverse=True)[:3]
    scores = found["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)
    assert max(scores) <= 1
    assert scores[3:] == [0] * 3
    assert str(reranker) == "GuardedReranker(Other)"
    chain = ft.RerankerChain(ByLength(sign=-1, top_k=2), reranker)
    assert chain.rerank_fts("q", rows_of(1, 2, 3))["n"].to_pylist()[0] == 1


def test_what_it_raises_or_gives_does_not_lose_the_query():
    def fail():
        raise RuntimeError("key sk-secret was refused")

    guard = ft.RerankGuard(failures=2)
    reranker = ft.GuardedReranker(Other(fail), guard=guard)
    reasons = [degraded_reason(reranker.rerank_fts("q", rows_of(1, 2))) for _ in range(3)]
    assert "it raised RuntimeError" in reasons[0]
    assert "sk-secret" not in "".join(reasons)
    assert "not asked" in reasons[2]
    merging = ft.GuardedReranker(LinearCombinationReranker(), column="text")
    assert "NotImplementedError" in degraded_reason(merging.rerank_fts("q", rows_of(1, 2)))


def test_calls_that_hang_are_left_behind_until_there_are_too_many():
    end = threading.Event()
    guard = ft.RerankGuard(deadline_s=0.02, failures=100)
    reranker = ft.GuardedReranker(Other(lambda: end.wait(20)), guard=guard)
    try:
        reasons = [degraded_reason(reranker.rerank_fts("q", rows_of(1, 2))) for _ in range(10)]
    finally:
        end.set()
    assert all("no answer in time" in reason for reason in reasons[:8])
    assert "8 earlier calls still hang" in reasons[8]
    for _ in range(200):  # the threads end, and all is well again
        time.sleep(0.01)
        if not degraded_reason(reranker.rerank_fts("q", rows_of(1, 2))):
            break
    assert reranker.rerank_fts("q", rows_of(1, 2))["n"].to_pylist() == [1, 0]


def test_calls_that_answer_are_not_counted():
    at_once = threading.Barrier(12)

    class Together(Reranker):
        column = "text"

        def rerank_hybrid(self, query, vector_results, fts_results):
            raise NotImplementedError

        def rerank_vector(self, query, rows):
            at_once.wait(30)
            scores = pa.array(np.linspace(1, 0, len(rows)), pa.float32())
            return rows.append_column("_relevance_score", scores)

    reranker = ft.GuardedReranker(Together(), guard=ft.RerankGuard(deadline_s=60))
    found = []

    def ask():
        found.append(degraded_reason(reranker.rerank_fts("q", rows_of(1, 2))))

    threads = [threading.Thread(target=ask) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not any(found)
    assert len(found) == 12


def test_only_others_are_wrapped():
    assert ft.GuardedReranker(CrossEncoderReranker.__new__(CrossEncoderReranker)).column == "text"
    for wrong in (ByLength(), "cohere", None):
        with pytest.raises(InputError, match="wrap one of"):
            ft.GuardedReranker(wrong)


# --- time and tokens -----------------------------------------------------------------------


def test_without_a_deadline_all_texts_are_read_at_once():
    calls = []

    def keys_of(texts):
        calls.append(len(texts))
        return np.ones(len(texts), np.float32)

    keys, degraded = keys_in_time(keys_of, ["a"] * 100, Deadline(), Pace())
    assert (calls, degraded, keys.sum()) == ([100], "", 100)


def test_a_pace_that_is_known_is_kept_to():
    def keys_of(texts):
        time.sleep(0.02)
        return np.ones(len(texts), np.float32)

    pace = Pace()
    start = time.monotonic()
    deadline = Deadline(start + 0.2)
    keys, degraded = keys_in_time(keys_of, ["a"] * 20 * WAVE, deadline, pace)
    assert time.monotonic() - start < 0.4
    n_read = int(np.isfinite(keys).sum())
    assert WAVE <= n_read < 20 * WAVE
    assert np.isfinite(keys[:n_read]).all()
    assert f"{n_read} of {20 * WAVE}" in degraded
    pace.s_per_char = 1.0
    keys, degraded = keys_in_time(keys_of, ["a"] * 20, Deadline(time.monotonic() + 1), pace)
    assert np.isnan(keys).all()
    assert "0 of 20" in degraded


def test_budgets_of_tokens():
    assert within_budget([5, 5, 5], None) == 3
    assert within_budget([5, 5, 5], 15) == 3
    assert within_budget([5, 5, 5], 14) == 2
    assert within_budget([50, 5], 1) == 1


def test_deadlines_meet():
    assert math.isinf(Deadline.after(None).left_s())
    assert Deadline(time.monotonic() - 5).left_s() == 0
    with answer_within(5):
        assert Deadline.after(60).left_s() <= 5
        with answer_within(60):
            assert Deadline.after(None).left_s() <= 5
        assert Deadline().or_in(1).left_s() <= 1
    assert Deadline.after(60).left_s() > 50
