"""What is quiet is embedded, and nothing else is even read."""

import threading
import time
from datetime import datetime, timezone
from importlib import import_module

import pytest

import lancedb_ft as ft
from lancedb_ft.churn import settle_watch
from lancedb_ft.errors import ColumnNotFoundError, InputError
from tests.churn.test_write import VECTOR, stored
from tests.reindex.marked import assert_all_of, reopened
from tests.search.words import words_table

BY_TIME = ft.Tiers(updated_at="updated_at", settle="1h")
HOUR = 3600.0


def at(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc).replace(tzinfo=None)


def changed(table, ids, seconds, text="all new words"):
    rows = [{"id": i, "text": f"{text} {i}", "updated_at": at(seconds)} for i in ids]
    return ft.write(table, rows)


def test_only_what_was_quiet_long_enough(docs, store):
    now = time.time()
    changed(docs, ["1", "2", "n1"], now - 2 * HOUR)
    changed(docs, ["3", "n2"], now)
    first = ft.settle(docs, BY_TIME, store=store.uri)
    assert (first.n_settled, first.n_encoded, first.n_hot) == (3, 3, 2)
    assert stored(docs)["3"][VECTOR] is None
    later = ft.settle(docs, BY_TIME, now_s=now + 2 * HOUR, store=store.uri)
    assert (later.n_settled, later.n_hot) == (2, 0)
    assert_all_of(docs, store, VECTOR, "tiny@2")
    assert ft.settle(docs, BY_TIME, now_s=now + 3 * HOUR, store=store.uri).n_settled == 0


def test_the_work_is_in_proportion_to_what_settled(docs, store):
    now = time.time()
    ft.settle(docs, BY_TIME, store=store.uri)
    changed(docs, [f"n{i}" for i in range(300)], now - 2 * HOUR)
    assert ft.settle(docs, BY_TIME, store=store.uri).n_settled == 300
    ft.settle(docs, BY_TIME, store=store.uri)  # looks once more at what it wrote itself
    changed(docs, ["1", "2"], now - 2 * HOUR)
    report = ft.settle(docs, BY_TIME, store=store.uri)
    assert (report.n_settled, report.n_read) == (2, 2)


def test_a_plain_update_is_found(docs, store):
    ft.settle(docs, BY_TIME, store=store.uri)
    now = time.time()
    told = f"timestamp '{at(now - 2 * HOUR).isoformat(sep=' ')}'"
    reopened(docs).update(
        where="id in ('8', '9')",
        values_sql={"text": "concat('edited ', id)", "updated_at": told},
    )
    assert ft.settle(docs, BY_TIME, store=store.uri).n_settled == 2
    assert_all_of(docs, store, VECTOR, "tiny@2")


def test_rows_that_are_compacted_while_the_model_loads_are_settled_later(docs, store, monkeypatch):
    """Without stable row ids nothing finds them in this round; so it is not remembered."""
    now = time.time()
    new = [f"n{i}" for i in range(300)]  # so many that a round is worth remembering
    changed(docs, new, now - 5 * HOUR)
    ft.settle(docs, BY_TIME, now_s=now - HOUR, store=store.uri)
    told = f"timestamp '{at(now - 1.5 * HOUR).isoformat(sep=' ')}'"
    edit = {"text": "concat('edited ', id)", "updated_at": told}
    reopened(docs).update(where="starts_with(id, 'n')", values_sql=edit)
    settling = import_module("lancedb_ft.churn.settle")
    load = settling.model_of

    def compacted(*given, **options):
        reopened(docs).optimize()
        return load(*given, **options)

    monkeypatch.setattr(settling, "model_of", compacted)
    first = ft.settle(docs, BY_TIME, now_s=now, store=store.uri)
    second = ft.settle(docs, BY_TIME, now_s=now + 1, store=store.uri)
    assert first.n_settled + second.n_settled == 300
    assert_all_of(docs, store, VECTOR, "tiny@2")


def test_a_predicate_says_what_is_hot(docs, store):
    drafts = ft.Tiers(where="views < 0")
    rows = [{"id": "1", "text": "zebra", "views": -1}, {"id": "2", "text": "okapi", "views": 5}]
    ft.write(docs, rows)
    assert ft.settle(docs, drafts, store=store.uri).n_settled == 1
    assert stored(docs)["1"][VECTOR] is None
    ft.write(docs, [{"id": "1", "views": 1}])
    assert ft.settle(docs, drafts, store=store.uri).n_settled == 1
    assert_all_of(docs, store, VECTOR, "tiny@2")


def test_row_versions_say_what_is_hot(docs, store):
    by_version = ft.Tiers(row_versions=True, settle="1h")
    ft.write(docs, [{"id": "1", "text": "zebra"}])
    if not stable(docs):
        with pytest.raises(InputError, match="stable row ids"):
            ft.settle(docs, by_version, store=store.uri)
        return
    hot = ft.settle(docs, by_version, store=store.uri)
    assert (hot.n_settled, hot.n_hot) == (0, 1)  # what is embedded is core, however new
    report = ft.settle(docs, by_version, now_s=time.time() + 2 * HOUR, store=store.uri)
    assert (report.n_settled, report.n_hot) == (1, 0)
    assert_all_of(docs, store, VECTOR, "tiny@2")
    assert tier_of(docs, "zebra", by_version) == "core"  # though settling wrote it a moment ago
    assert ft.index_status(docs, tiers=by_version, measure=False).n_hot == 0
    ft.write(docs, [{"id": "1", "text": "okapi"}])
    assert tier_of(docs, "okapi", by_version) == "hot"


def test_row_versions_of_vectors_without_marks(db):
    table = words_table(db, n_rows=20)
    by_version = ft.Tiers(row_versions=True, settle="1h")
    ft.write(table, [{"id": "d1", "text": "zebra"}])
    assert tier_of(table, "zebra", by_version) == "hot"
    assert ft.settle(table, by_version, now_s=time.time() + 2 * HOUR).n_settled == 1
    assert tier_of(table, "zebra", by_version) == "core"
    assert ft.index_status(table, tiers=by_version, measure=False).n_hot == 0


def tier_of(table, words, tiers):
    options = ft.SearchOptions(tiers=tiers)
    return ft.search(table, words, mode="fts", k=1, options=options)["_tier"][0].as_py()


def stable(table):
    import lance

    return lance.dataset(table.uri).has_stable_row_ids


def test_a_row_that_changes_while_it_settles_stays_right(docs, store, monkeypatch):
    from importlib import import_module

    now = time.time()
    changed(docs, ["1", "2"], now - 2 * HOUR)
    module = import_module("lancedb_ft.churn.settle")
    rewrite, n_calls = module.rewrite_rows, 0

    def raced(*arguments):
        nonlocal n_calls
        n_calls += 1
        if n_calls == 1:
            changed(docs, ["1"], now, text="and once more")
        return rewrite(*arguments)

    monkeypatch.setattr(module, "rewrite_rows", raced)
    ft.settle(docs, BY_TIME, store=store.uri)
    row = stored(docs)["1"]
    assert row["text"] == "and once more 1"
    assert row[VECTOR] is None or row[VECTOR + "_hash"] is None
    ft.settle(docs, BY_TIME, now_s=now + 2 * HOUR, store=store.uri)
    assert_all_of(docs, store, VECTOR, "tiny@2")


def test_one_that_lost_embeds_nothing_again_and_takes_its_turn(docs, store, monkeypatch):
    from importlib import import_module

    now = time.time()
    changed(docs, ["1", "2"], now - 2 * HOUR)
    module = import_module("lancedb_ft.churn.settle")
    rewrite, take_turn, turns, embedded = module.rewrite_rows, module.turn, [], []

    def raced(table, ds, ids, changes):
        def overtaken(rows):
            made = changes(rows)
            if not turns:
                changed(docs, ["1"], now, text="meanwhile")
            return made

        return rewrite(table, ds, ids, overtaken)

    def told(table):
        turns.append(table.name)
        return take_turn(table)

    class Counted(module.Remembering):
        def encode(self, texts, **options):
            found = super().encode(texts, **options)
            embedded.append(self.n_encoded)
            return found

    monkeypatch.setattr(module, "rewrite_rows", raced)
    monkeypatch.setattr(module, "turn", told)
    monkeypatch.setattr(module, "Remembering", Counted)
    assert ft.settle(docs, BY_TIME, store=store.uri).n_settled == 1
    assert (turns, embedded) == (["docs"], [2, 2])
    ft.settle(docs, BY_TIME, now_s=now + 2 * HOUR, store=store.uri)
    assert_all_of(docs, store, VECTOR, "tiny@2")


def test_watching_goes_on_and_ends(docs, store):
    stop = threading.Event()
    changed(docs, ["1"], time.time() - 2 * HOUR)
    rounds = settle_watch(docs, BY_TIME, every_s=0.05, stop=stop, store=store.uri)
    assert next(rounds).n_settled == 1
    changed(docs, ["2"], time.time() - 2 * HOUR)
    assert next(rounds).n_settled == 1
    stop.set()
    assert list(rounds) == []


@pytest.mark.parametrize(
    ("policy", "error"),
    [
        (ft.Tiers(updated_at="nope"), ColumnNotFoundError),
        (ft.Tiers(updated_at="text"), ColumnNotFoundError),
    ],
)
def test_a_policy_that_does_not_fit(docs, store, policy, error):
    with pytest.raises(error):
        ft.settle(docs, policy, store=store.uri)
