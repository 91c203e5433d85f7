"""The processes of a living table: writers, an optimizer, readers, and one that re-indexes it.

Each is a function that runs until the file ``stop`` appears, and that may be killed at any moment
and started again. The application's ones use plain LanceDB; ``import lancedb_ft`` registers the
function that the table names. The writer that lacks it runs as a script, for its imports.
"""

import asyncio
import json
import os
import random
import shutil
import sys
import time
import traceback
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import lancedb

if not __package__:  # run as a script, by `plain_writer_command`
    sys.path.insert(0, str(Path(__file__).parents[2]))

from tests.reindex.ledger import Ledger
from tests.tiny import TEXTS

TABLE = "docs"
MODELS = ("tiny@1", "tiny@2", "tiny@3")
WORDS = tuple(sorted({word for text in TEXTS for word in text.lower().split()}))


def text_of(rng, *marks):
    """Return a text that no other row has."""
    return f"{' '.join(rng.choices(WORDS, k=8))} {' '.join(map(str, marks))}"


def table_uri(uri):
    """Return where the Lance data set of the table is."""
    return f"{uri}/{TABLE}.lance"


def stopped(folder):
    """Say whether everybody is to stop."""
    return (folder / "stop").exists()


def note(folder, name, **figures):
    """Keep figures of a process where a kill does not tear them."""
    partial = folder / f"{name}.{os.getpid()}.partial"
    partial.write_text(json.dumps(figures))
    partial.replace(folder / f"{name}.json")


def told(folder, name):
    """Return what a process noted last."""
    path = folder / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else {}


# --- writers -------------------------------------------------------------------------------


def write(uri, folder, name, seed, plugin=True):
    """Append, upsert, update and delete rows of one's own, with pauses of up to 0.2 s."""
    if plugin:
        import lancedb_ft  # noqa: F401
    table = lancedb.connect(uri, read_consistency_interval=timedelta(0)).open_table(TABLE)
    ledger = Ledger(folder / f"{name}.log")
    ledger.settle(table_uri(uri))
    rng = random.Random(f"{seed}-{ledger.count}")
    acts = _PLUGIN_ACTS if plugin else _PLAIN_ACTS
    while not stopped(folder):
        act = rng.choice(acts)
        try:
            act(table, ledger, rng, name)
            ledger.end("done")
        except Exception as error:
            # LanceDB gives up after some lost races; an application then tries again.
            with open(folder / "refused.log", "a") as file:
                file.write(f"{name} {act.__name__}: {str(error)[:200]}\n")
            ledger.settle(table_uri(uri))
        time.sleep(rng.uniform(0, 0.2))
    ledger.settle(table_uri(uri))


def _append(table, ledger, rng, name):
    rows = _new(ledger, rng, name)
    ledger.begin(rows)
    table.add([{"id": key, "text": text} for key, text in rows.items()])


def _upsert(table, ledger, rng, name):
    rows = {**_changed(ledger, rng, name), **_new(ledger, rng, name)}
    ledger.begin(rows)
    merge = table.merge_insert("id").when_matched_update_all().when_not_matched_insert_all()
    merge.execute([{"id": key, "text": text} for key, text in rows.items()])


def _update(table, ledger, rng, name):
    rows = dict(list(_changed(ledger, rng, name).items())[:1])
    ledger.begin(rows)
    for key, text in rows.items():
        table.update(where=f"id = '{key}'", values={"text": text})


def _delete(table, ledger, rng, name):
    kept = 20  # so that a writer that can only delete and update does not run out of rows
    keys = rng.sample(sorted(ledger.rows), min(2, max(0, len(ledger.rows) - kept)))
    ledger.begin(dict.fromkeys(keys))
    if keys:
        table.delete(f"id in ({', '.join(repr(key) for key in keys)})")


def _new(ledger, rng, name):
    keys = [f"{name}-{ledger.count + 1}-{i}" for i in range(rng.randint(1, 6))]
    return {key: text_of(rng, key, "new") for key in keys}


def _changed(ledger, rng, name):
    keys = rng.sample(sorted(ledger.rows), min(4, len(ledger.rows)))
    return {key: text_of(rng, key, "version", ledger.count + 1) for key in keys}


_PLUGIN_ACTS = (_append, _append, _upsert, _upsert, _update, _delete, _delete)
_PLAIN_ACTS = (_update, _update, _delete)


def plain_writer_command(uri, folder, name, seed):
    """Return the command of a writer that never imports lancedb_ft."""
    return [sys.executable, __file__, str(uri), str(folder), name, str(seed)]


def optimize(uri, folder, seed):
    """Compact, index new rows, and remove versions older than a minute; again and again."""
    rng = random.Random(seed)
    table = lancedb.connect(uri, read_consistency_interval=timedelta(0)).open_table(TABLE)
    n_done = n_lost = 0
    while not stopped(folder):
        try:
            table.optimize(cleanup_older_than=timedelta(seconds=60))
            n_done += 1
        except RuntimeError:  # another writer was first: an application tries again
            n_lost += 1
        note(folder, "optimizer", done=n_done, lost=n_lost)
        time.sleep(rng.uniform(0.2, 1.0))


# --- readers -------------------------------------------------------------------------------


class _Answers:
    """Counts right and wrong answers and errors, and keeps the first of each.

    The first wrong answer also keeps a copy of the table, whose versions are cleaned up soon.
    """

    def __init__(self, uri, folder, name):
        self._uri, self._folder, self._name = uri, folder, name
        self._n = {"queries": 0, "errors": 0, "wrong": 0}
        self._first = {}

    def right(self, ok, told):
        """Count an answer."""
        self._n["queries"] += 1
        if not ok:
            self._n["wrong"] += 1
            self._keep_table()
            self._first.setdefault("wrong_answers", []).append(told)
            del self._first["wrong_answers"][20:]
        if self._n["queries"] % 10 == 0:
            self.save()

    def _keep_table(self):
        kept = self._folder / f"{self._name}_wrong.lance"
        if not kept.exists():
            with suppress(OSError, shutil.Error):  # files of others come and go meanwhile
                shutil.copytree(table_uri(self._uri), kept)

    def error(self):
        """Count the error that is being handled."""
        self._n["queries"] += 1
        self._n["errors"] += 1
        self._first.setdefault("first_error", traceback.format_exc()[-2000:])
        self.save()

    def save(self):
        """Note what was counted."""
        note(self._folder, self._name, **self._n, **self._first)

    def nearest(self, hits, row, how, version):
        """A row's own text finds that row at no distance, if one model made both vectors."""
        ok = bool(hits) and hits[0]["id"] == row["id"] and hits[0]["_distance"] < 1e-3
        shown = [(hit["id"], round(hit["_distance"], 4)) for hit in hits[:3]]
        self.right(ok, f"{how} at version {version}: wanted {row['id']}, found {shown}")

    def among(self, hits, row, how, version):
        """A row's own text, or a word that only it has, finds it."""
        ids = [hit["id"] for hit in hits]
        self.right(row["id"] in ids, f"{how} at version {version}: wanted {row['id']}, found {ids}")


def read_sync(uri, folder):
    """Search through one handle that stays open, each text that of a row nobody changes."""
    import lancedb_ft  # noqa: F401

    table = lancedb.connect(uri, read_consistency_interval=timedelta(0)).open_table(TABLE)
    rows = table.search().where("id like 's%'").limit(1000).select(["id", "text"]).to_list()
    answers = _Answers(uri, folder, "sync")
    while not stopped(folder):
        for row in random.sample(rows, 20):
            word, text = row["text"].split()[-1], row["text"]
            try:
                hits = table.search(text, query_type="vector").limit(3).to_list()
                answers.nearest(hits, row, "vector", table.version)
                hits = table.search(text).limit(3).to_list()
                answers.nearest(hits, row, "auto", table.version)
                hits = table.search(word, query_type="fts").limit(3).to_list()
                answers.among(hits, row, "fts", table.version)
                hits = table.search(text, query_type="hybrid").limit(5).to_list()
                answers.among(hits, row, "hybrid", table.version)
            except Exception:
                answers.error()
    answers.save()


def read_async(uri, folder):
    """Do the same through the asynchronous interface."""
    import lancedb_ft  # noqa: F401

    async def search():
        connection = await lancedb.connect_async(uri, read_consistency_interval=timedelta(0))
        table = await connection.open_table(TABLE)
        rows = (await table.query().where("id like 's%'").select(["id", "text"]).to_list())[:1000]
        answers = _Answers(uri, folder, "async")
        while not stopped(folder):
            for row in random.sample(rows, 20):
                word, text = row["text"].split()[-1], row["text"]
                try:
                    version = await table.version()
                    found = await table.search(text, query_type="vector")
                    answers.nearest(await found.limit(3).to_list(), row, "vector", version)
                    found = await table.search(word, query_type="fts")
                    answers.among(await found.limit(3).to_list(), row, "fts", version)
                    found = await table.search(text, query_type="hybrid")
                    answers.among(await found.limit(5).to_list(), row, "hybrid", version)
                except Exception:
                    answers.error()
        answers.save()

    asyncio.run(search())


# --- the one that re-indexes ---------------------------------------------------------------

STEPS = ("reindex", "switch", "rollback", "switch", "finish")


def step_of(number):
    """Return the name of a step, and the model that its round goes to."""
    return STEPS[number % len(STEPS)], MODELS[(1 + number // len(STEPS)) % len(MODELS)]


def reindex_round_and_round(uri, folder):
    """Go through the steps, from the one at which the process before this one was killed."""
    number = told(folder, "step").get("number", 0)
    again = told(folder, "step").get("begun", False)
    while not stopped(folder):
        note(folder, "step", number=number, begun=True)
        try:
            take_step(uri, number, again=again)
        except Exception:
            with open(folder / "reindexer_errors.log", "a") as file:
                file.write(f"{step_of(number)}\n{traceback.format_exc()}\n")
            again = True
            time.sleep(0.2)
            continue
        number, again = number + 1, False
        note(folder, "step", number=number, begun=False)


def take_step(uri, number, *, again=False):
    """Run one step by the public verbs. Run again after a kill, it may be done already."""
    import lancedb_ft
    from lancedb_ft.errors import ReindexStateError

    name, model = step_of(number)
    table = lancedb.connect(uri).open_table(TABLE)
    verbs = {
        "reindex": lambda: lancedb_ft.reindex(table, model),
        "switch": lambda: lancedb_ft.switch(table, force=True),
        "rollback": lambda: lancedb_ft.rollback(table),
        # Long enough for the readers' queries, and short, so that there are many rounds.
        "finish": lambda: lancedb_ft.finish(table, grace_s=4.0),
    }
    try:
        verbs[name]()
    except ReindexStateError:
        if not again or name == "reindex":
            raise


if __name__ == "__main__":
    write(sys.argv[1], Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), plugin=False)
    assert "lancedb_ft" not in sys.modules
