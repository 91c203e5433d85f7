"""Hot rows beside the core: who is hot, and where each stands in one ranking."""

import time
from dataclasses import replace
from datetime import date, datetime, timedelta, timezone

import lance
import numpy as np
import pyarrow as pa
import pytest
from lancedb.index import FTS
from lancedb.rerankers import Reranker

import lancedb_ft as ft
from lancedb_ft.errors import InputError, QueryError
from lancedb_ft.search import Searcher
from lancedb_ft.search.calibration import Calibration, falling
from lancedb_ft.search.tiered import Labels, rank, reranked, to_read
from lancedb_ft.search.tiers import seconds_of
from tests.search.words import DIMS, unit, words_table

HOT = ft.Tiers(updated_at="at", settle="1h")


def entry(vector):
    return None if vector is None else list(map(float, vector))


@pytest.fixture
def docs(db):
    """Sixty old rows with vectors; five new ones, of which the last three have none."""
    now = time.time()
    rows = [
        {
            "id": f"d{i}",
            "text": f"document number {i}",
            "at": datetime.fromtimestamp(now - (7200 if i < 60 else 60), timezone.utc),
            "s": int(now - (7200 if i < 60 else 60)),
            "draft": i >= 60,
            "vector": entry(unit(f"document number {i}") if i < 62 else None),
        }
        for i in range(65)
    ]
    schema = pa.schema(
        [
            ("id", pa.string()),
            ("text", pa.string()),
            ("at", pa.timestamp("us", tz="UTC")),
            ("s", pa.int64()),
            ("draft", pa.bool_()),
            ("vector", pa.list_(pa.float32(), DIMS)),
        ]
    )
    uri = f"{db.uri}/docs.lance"
    lance.write_dataset(pa.Table.from_pylist(rows, schema), uri, enable_stable_row_ids=True)
    table = db.open_table("docs")
    table.create_index("text", config=FTS())
    return table


def asked(table, number, tiers=HOT, k=5, **options):
    text = f"document number {number}"
    with Searcher(table, embedder=unit) as searcher:
        return searcher.search(text, k=k, options=ft.SearchOptions(tiers=tiers), **options)


def by_id(found):
    return {row["id"]: row for row in found.to_pylist()}


# --- which rows are hot ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "tiers",
    [
        HOT,
        ft.Tiers(updated_at="s", settle=3600),
        ft.Tiers(where="draft"),
        ft.Tiers(where="s > 0 -- x"),
    ],
)
def test_each_row_says_its_tier_and_who_found_it(docs, tiers):
    old, new = by_id(asked(docs, 7, tiers)), by_id(asked(docs, 63, tiers))
    assert old["d7"]["_legs"] == ["vector", "fts"]
    assert old["d7"]["_tier"] == ("hot" if tiers.where and "--" in tiers.where else "core")
    assert (new["d63"]["_tier"], new["d63"]["_legs"]) == ("hot", ["fts"])


def test_row_versions(docs):
    docs.update(where="id = 'd5'", values={"draft": True})
    tiers = ft.Tiers(row_versions=True, settle="1h")
    assert by_id(asked(docs, 7, tiers))["d7"]["_tier"] == "hot"  # all were written just now
    quick = ft.Tiers(row_versions=True, settle=0.0)
    assert by_id(asked(docs, 7, quick))["d7"]["_tier"] == "core"


@pytest.mark.parametrize("mode", ["fts", "vector"])
def test_one_leg_is_labelled_too(docs, mode):
    found = asked(docs, 61, mode=mode)
    assert (found["id"][0].as_py(), found["_tier"][0].as_py()) == ("d61", "hot")
    assert set(map(tuple, found["_legs"].to_pylist())) == {(mode,)}


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("s"),
        pa.timestamp("ns"),
        pa.timestamp("ms", tz="UTC"),
        pa.date32(),
        pa.float64(),
        pa.int32(),
        pa.uint64(),
    ],
)
def test_any_type_of_time(db, kind):
    now = datetime.now(timezone.utc)
    times = [now - timedelta(days=9), now - timedelta(days=1), None]
    if kind == pa.float64():
        values = [moment and moment.timestamp() for moment in times]
    elif pa.types.is_integer(kind):
        values = [moment and int(moment.timestamp()) for moment in times]
    elif kind == pa.date32():
        values = [moment and date.fromordinal(moment.toordinal()) for moment in times]
    else:
        values = [
            moment and (moment if kind.tz else moment.replace(tzinfo=None)) for moment in times
        ]
    table = db.create_table("t", pa.table({"id": [1, 2, 3], "at": pa.array(values, kind)}))
    ds = table.to_lance()
    tiers = ft.Tiers(updated_at="at", settle="7d")
    hot = ds.to_table(filter=tiers.hot(ds, table="t"))["id"].to_pylist()
    quiet = ds.to_table(filter=tiers.quiet(ds, table="t"))["id"].to_pylist()
    assert (hot, quiet) == ([2], [1, 3])
    assert tiers.hot_mask(ds.to_table()["at"]).tolist() == [False, True, False]
    ever = ft.Tiers(updated_at="at", settle="999999d")  # since before there were dates
    assert ds.count_rows(ever.hot(ds, table="t")) == 2
    assert ever.hot_mask(ds.to_table()["at"]).tolist() == [True, True, False]


@pytest.mark.parametrize(
    "arguments",
    [
        {},
        {"updated_at": "a", "where": "b"},
        {"where": " "},
        {"where": 3},
        {"updated_at": "a", "settle": "soon"},
        {"updated_at": "a", "settle": -1},
        {"updated_at": "a", "settle": float("nan")},
        {"updated_at": "a", "near": -1},
        {"updated_at": "a", "near": True},
    ],
)
def test_a_policy_that_is_none(arguments):
    with pytest.raises(InputError):
        ft.Tiers(**arguments)


def test_durations():
    assert [seconds_of(d) for d in ("30s", "5m", "12h", "7d", "2w", 3)] == [
        30.0, 300.0, 43200.0, 604800.0, 1209600.0, 3.0,
    ]  # fmt: skip


# --- one scale -------------------------------------------------------------------------------


def test_a_row_without_a_vector_is_not_held_back(docs):
    plain = [row["id"] for row in asked(docs, 64, None, k=3).to_pylist()]
    tiered = asked(docs, 64, k=3)
    assert tiered["id"][0].as_py() == "d64"
    assert tiered["_relevance_score"][0].as_py() == pytest.approx(2 / 61)
    assert "d64" in plain


@pytest.mark.parametrize(
    "quiet",
    [
        ft.Tiers(where="false"),
        ft.Tiers(updated_at="at", settle=1),
        ft.Tiers(row_versions=True, settle=0),
    ],
)
def test_a_quiet_row_that_is_not_settled_yet_keeps_its_place(docs, quiet):
    found = asked(docs, 64, quiet, k=3)
    row = found.to_pylist()[0]
    assert (row["id"], row["_tier"], row["_legs"]) == ("d64", "core", ["fts"])
    assert row["_relevance_score"] == pytest.approx(2 / 61)


def test_a_row_without_a_text_waits_for_nothing(db):
    table = words_table(db, n_rows=20, fts=False)
    table.add_columns({"title": "cast(NULL as string)"})
    ft.write(table, [{"id": "d1", "text": " ", "title": "zebra"}])
    for column in ("text", "title"):
        table.create_index(column, config=FTS())
    found = ft.search(table, "zebra", options=ft.SearchOptions(tiers=ft.Tiers(where="false")))
    assert by_id(found)["d1"]["_relevance_score"] == pytest.approx(1 / 61)
    ft.write(table, [{"id": "d1", "text": "okapi"}])
    found = ft.search(table, "zebra", options=ft.SearchOptions(tiers=ft.Tiers(where="false")))
    assert by_id(found)["d1"]["_relevance_score"] == pytest.approx(2 / 61)


def test_core_rows_keep_their_scores(docs):
    plain, tiered = by_id(asked(docs, 7, None)), by_id(asked(docs, 7))
    for name in plain.keys() & tiered.keys():
        if tiered[name]["_tier"] == "core":
            assert tiered[name]["_relevance_score"] == plain[name]["_relevance_score"]


def test_the_expected_share_is_the_mean_of_the_sample_and_falls():
    ranks = np.array([[1, 0, 3], [2, 0, -1], [0, 5, -1]])
    shares = Calibration(ranks).shares(10)
    first, second, third = (1 / 61 + 1 / 62) / 3, (1 / 65) / 3, 1 / 63
    assert shares[1] == shares[2] == pytest.approx((3 * second + 1 * third) / 4)
    assert shares[0] == pytest.approx(first)
    assert Calibration(ranks).shares(2)[1:] == (0.0, 0.0)  # deeper ranks are not brought
    again = Calibration.from_json(Calibration(ranks, {"at": 1}).to_json())
    assert again.shares(10) == shares
    assert falling([1, 2, 3], [1, 1, 1]) == [2.0, 2.0, 2.0]


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"vector_ranks": [], "source": {}}'])
def test_what_is_no_calibration(text):
    with pytest.raises(InputError):
        Calibration.from_json(text)


def test_calibrated_scores_stand_where_full_ones_would():
    """Drop the vectors of some rows: with the sample's shares, their places hardly change."""
    rng = np.random.default_rng(0)
    n_queries, n_rows, depth = 300, 60, 20
    errors = {"none": [], "calibrated": []}
    legs = []
    for _ in range(n_queries):
        worth = rng.normal(size=n_rows)
        by_text = np.argsort(-(worth + rng.normal(size=n_rows)))[:depth].tolist()
        by_vector = np.argsort(-(worth + 0.5 * rng.normal(size=n_rows)))[:depth].tolist()
        legs.append((by_vector, by_text))
    ranks = np.array(
        [[v.index(row) + 1 if row in v else 0 for row in t] for v, t in legs[: n_queries // 2]]
    )
    tiers = replace(HOT, calibration=Calibration(ranks))
    flat = replace(HOT, calibration=Calibration(np.zeros((1, depth), int)))
    nothing = Labels(frozenset(), frozenset())
    for by_vector, by_text in legs[n_queries // 2 :]:
        full = rank(by_vector, by_text, nothing, HOT, depth=depth).scores
        dropped = frozenset(rng.choice(by_text, 4, replace=False).tolist())
        rest = [row for row in by_vector if row not in dropped]
        for name, policy in (("none", flat), ("calibrated", tiers)):
            found = rank(rest, by_text, Labels(dropped, dropped), policy, depth=depth).scores
            errors[name] += [found[row] - full[row] for row in dropped]
    assert abs(np.mean(errors["calibrated"])) < 0.15 * abs(np.mean(errors["none"]))
    assert np.abs(errors["calibrated"]).mean() < 0.8 * np.abs(errors["none"]).mean()


def test_calibrate_samples_core_rows_of_the_table(docs):
    calibration = ft.calibrate(docs, HOT, n=10, depth=20, embedder=unit)
    assert calibration.vector_ranks.shape == (10, 20)
    assert calibration.source["source"] == "pieces of core texts"
    assert (calibration.vector_ranks == -1).any() or calibration.n_queries == 10
    no_vector = ft.calibrate(docs, ft.Tiers(where="false"), ["document number 64"], embedder=unit)
    assert no_vector.vector_ranks[0, 0] == -1  # it waits for a vector, so its rank is not known
    asked_for = ft.calibrate(docs, HOT, ["document number 7"], n=10, depth=5, embedder=unit)
    assert asked_for.vector_ranks[0, 0] == 1
    with pytest.raises(InputError, match="Nothing to calibrate"):
        ft.calibrate(docs, HOT, [], embedder=unit)


# --- the reranker ----------------------------------------------------------------------------


class Counting(Reranker):
    """Likes the rows of its list, in that order; says how many it was given."""

    def __init__(self, best=(), fail=False):
        super().__init__()
        self.best, self.fail, self.read = list(best), fail, []

    def rerank_hybrid(self, query, vector_results, fts_results):
        raise AssertionError("tiers give it one list")

    def rerank_vector(self, query, rows):
        return self.rerank_fts(query, rows)

    def rerank_fts(self, query, rows):
        texts = rows["text"].to_pylist()
        self.read += texts
        scores = [len(self.best) - self.best.index(t) if t in self.best else 0.0 for t in texts]
        rows = rows.append_column("_relevance_score", pa.array(scores, pa.float32()))
        rows = rows.sort_by([("_relevance_score", "descending")])
        if self.fail:
            return rows.replace_schema_metadata({b"lancedb_ft.degraded": b"late"})
        return rows


def test_it_reads_the_hot_rows_and_a_few_of_the_core(docs):
    reranker = Counting()
    asked(docs, 63, k=20, reranker=reranker)
    hot = [text for text in reranker.read if int(text.split()[-1]) >= 60]
    core = [text for text in reranker.read if text not in hot]
    assert len(hot) >= 3
    assert len(core) <= 1 + HOT.near
    none = Counting()
    asked(docs, 7, ft.Tiers(where="false"), reranker=none)
    assert none.read == []


@pytest.mark.parametrize(("mode", "fusion"), [("vector", None), ("fts", None), ("hybrid", "rrf")])
def test_explain_names_a_fusion_only_where_two_legs_are_fused(docs, mode, fusion):
    options = ft.SearchOptions(tiers=HOT)
    with Searcher(docs, embedder=unit) as searcher:
        told = searcher.explain(
            "document number 63", k=20, mode=mode, options=options, reranker=Counting()
        )
    assert told.trace.fusion == fusion


def test_core_rows_keep_their_order_and_hot_ones_move(docs):
    plain = asked(docs, 63, k=20).to_pylist()
    last = [row for row in plain if row["_tier"] == "hot"][-1]
    found = asked(docs, 63, k=20, reranker=Counting([last["text"]]))
    order = [row["id"] for row in found.to_pylist()]
    without = [row["id"] for row in plain if row["_tier"] == "core" and row["id"] in order]
    core = [row["id"] for row in found.to_pylist() if row["_tier"] == "core"]
    assert order[0] == last["id"]
    assert [name for name in core if name in without] == without
    scores = found["_relevance_score"].to_pylist()
    assert scores == sorted(scores, reverse=True)


def test_one_that_is_late_moves_nothing_and_says_so(docs):
    plain = asked(docs, 63, k=10)
    found = asked(docs, 63, k=10, reranker=Counting(["document number 62"], fail=True))
    assert found["id"].to_pylist() == plain["id"].to_pylist()
    assert "late" in str(ft.SearchInfo.of(found).degraded)


def test_one_that_only_merges_is_refused(docs):
    from lancedb.rerankers import RRFReranker

    with pytest.raises(QueryError, match="merges two legs"):
        asked(docs, 63, reranker=RRFReranker())


def test_scores_of_the_reranker_become_scores_of_the_fusion():
    labels = Labels(frozenset({9, 8, 7}), frozenset())
    ranking = rank([1, 2, 3, 4, 9, 8, 7], [1, 2, 3, 4, 9, 8, 7], labels, HOT, depth=7)
    before = dict(ranking.scores)
    # Between the core rows that were read, beyond the best of them, and below the worst.
    found = {1: 5.0, 3: 3.0, 9: 4.0, 8: 8.0, 7: -2.0}
    after = reranked(ranking, found)
    assert {row: after.scores[row] for row in (1, 2, 3, 4)} == {r: before[r] for r in (1, 2, 3, 4)}
    assert after.scores[9] == pytest.approx((before[1] + before[3]) / 2)
    assert after.order()[0] in (8, 1)
    assert after.scores[8] >= before[1]
    assert 0 < after.scores[7] < before[3]
    assert len(to_read(ranking, 3, 2)) == 3 + 3
    alone = reranked(rank([], [8, 9], labels, HOT, depth=2), {8: 1.0, 9: 2.0})
    assert alone.order()[:2] == [9, 8]
