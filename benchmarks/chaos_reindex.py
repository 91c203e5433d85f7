"""Kill what re-indexes a table and what writes to it, again and again, while it is searched.

One table lives with two writers (one with lancedb-ft imported, one without), an optimizer and two
readers (sync, async; vector, full-text and hybrid), and goes round and round through three models:
stage, fill, index, switch, rollback, switch, finish. SIGKILL hits the re-indexer or a writer at
random moments; it is started again and goes on. At the end an independent checker compares the
table with what the writers were told (see tests/reindex/ledger.py), every vector included.

Run: python benchmarks/chaos_reindex.py [--kills 200] [--seconds-limit 3600] [--seed 0] [--rows 600]
"""

from __future__ import annotations

import argparse
import collections
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))  # the processes are those of the tests
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from _common import aim, progress, report

from tests.reindex import actors, ledger

SETTLE_S = 600


class Cast:
    """The processes, each by its name: started, killed, started again."""

    def __init__(self, uri: str, folder: Path, seed: int) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.reindex.preload"])
        self._roles: dict[str, Any] = {
            "reindexer": (actors.reindex_round_and_round, (uri, folder)),
            "writer": (actors.write, (uri, folder, "writer", seed)),
            "optimizer": (actors.optimize, (uri, folder, seed)),
            "sync": (actors.read_sync, (uri, folder)),
            "async": (actors.read_async, (uri, folder)),
        }
        self._plain = actors.plain_writer_command(uri, folder, "plain", seed)
        self._running: dict[str, Any] = {}

    def call(self, function: Any, *args: Any) -> None:
        """Run a function in a process of its own, to its end."""
        process = self._context.Process(target=function, args=args)
        process.start()
        process.join()
        if process.exitcode != 0:
            raise RuntimeError(f"{function.__name__} failed")

    def start(self, name: str) -> None:
        """Start one; the writer without the plugin is a program of its own."""
        if name == "plain":
            self._running[name] = subprocess.Popen(self._plain)
            return
        function, args = self._roles[name]
        self._running[name] = self._context.Process(target=function, args=args)
        self._running[name].start()

    def start_all(self) -> None:
        """Start everybody."""
        for name in (*self._roles, "plain"):
            self.start(name)

    def kill(self, name: str) -> bool:
        """SIGKILL it; False if it had ended by itself, which none should."""
        process = self._running[name]
        alive = process.poll() is None if name == "plain" else process.is_alive()
        try:
            os.kill(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            alive = False
        _wait(process)
        return alive

    def stop(self, folder: Path) -> dict[str, int | None]:
        """Let all end; return the exit codes of those that were not asked to."""
        (folder / "stop").touch()
        codes = {}
        for name, process in self._running.items():
            _wait(process)
            code = process.returncode if name == "plain" else process.exitcode
            if code:
                codes[name] = code
        return codes


def _wait(process: Any) -> None:
    if isinstance(process, subprocess.Popen):
        process.wait(SETTLE_S)
    else:
        process.join(SETTLE_S)


def make_table(uri: str, folder: Path, n_rows: int, seed: int) -> None:
    """Make the table and its models, and the rows that nobody changes."""
    import lancedb
    from lancedb.embeddings import get_registry
    from lancedb.index import FTS, BTree, IvfFlat
    from lancedb.pydantic import LanceModel, Vector

    import lancedb_ft
    from tests.tiny import tiny_model

    store = lancedb_ft.ModelStore(f"{uri}/ft_models")
    for number, _ in enumerate(actors.MODELS, 1):
        model = tiny_model(folder / f"model{number}", seed=number, dims=32)
        store.save(model, name="tiny", manifest={})
    first = get_registry().get("ft-embed").create(name=actors.MODELS[0], store=store.uri)

    class Document(LanceModel):
        id: str
        text: str = first.SourceField()
        vector: Vector(first.ndims()) = first.VectorField()  # type: ignore[valid-type]

    table = lancedb.connect(uri).create_table(actors.TABLE, schema=Document)
    rng = random.Random(seed)
    for start in range(0, n_rows, 100):
        numbers = range(start, min(n_rows, start + 100))
        table.add([{"id": f"s{i}", "text": actors.text_of(rng, f"stable{i}")} for i in numbers])
    begun = {f"plain-{i}": actors.text_of(rng, f"plain{i}") for i in range(200)}
    book = ledger.Ledger(folder / "plain.log")
    book.begin(begun)
    table.add([{"id": key, "text": text} for key, text in begun.items()])
    book.end("done")
    table.create_index("id", config=BTree())
    table.create_index("text", config=FTS())
    table.create_index("vector", config=IvfFlat(num_partitions=1))


def stable_rows(n_rows: int, seed: int) -> dict[str, str]:
    """Return what `make_table` wrote for nobody to change."""
    rng = random.Random(seed)
    return {f"s{i}": actors.text_of(rng, f"stable{i}") for i in range(n_rows)}


def phase_of(uri: str, folder: Path) -> str:
    """Return the step that was killed, and the phase in which it left the table."""
    from lancedb_ft.generation import read_state
    from lancedb_ft.table import connect, dataset, open_table

    step = actors.told(folder, "step")
    state = read_state(dataset(open_table(connect(uri), actors.TABLE)).schema, table=actors.TABLE)
    phases = [g.phase for g in state.generations if g.phase != "active"]
    name = actors.step_of(step.get("number", 0))[0] if step.get("begun") else "between steps"
    return f"{name}: {'+'.join(phases) or 'one generation'}"


def wait_for_steps(folder: Path, n_steps: int, at_most_s: float = 30.0) -> None:
    """Wait until the re-indexer has taken so many more steps, so that all of them are hit."""
    number, until = actors.told(folder, "step").get("number", 0), time.monotonic() + at_most_s
    while actors.told(folder, "step").get("number", 0) < number + n_steps:
        if time.monotonic() > until:
            return
        time.sleep(0.01)


def kill_them(
    cast: Cast, uri: str, folder: Path, n_kills: int, seconds: float, seed: int
) -> dict[str, Any]:
    """Kill at random moments until there are enough; return who, and where."""
    rng = random.Random(seed)
    started = time.monotonic()
    victims: collections.Counter[str] = collections.Counter()
    phases: collections.Counter[str] = collections.Counter()
    ended: collections.Counter[str] = collections.Counter()
    while victims.total() < n_kills and time.monotonic() - started < seconds:
        victim = rng.choices(("reindexer", "writer", "plain"), (7, 2, 1))[0]
        wait_for_steps(folder, rng.choice((0, 0, 1, 1, 2, 3)))
        time.sleep(rng.uniform(0.0, 1.0))
        if not cast.kill(victim):
            ended[victim] += 1
        else:
            victims[victim] += 1
            if victim == "reindexer":
                phases[phase_of(uri, folder)] += 1
        cast.start(victim)
        if victims.total() % 10 == 0:
            progress(f"{victims.total()} kills, step {actors.told(folder, 'step')}")
    return {
        "kills": victims.total(),
        "kills_by_victim": dict(victims),
        "kills_by_phase": dict(sorted(phases.items())),
        "ended_by_themselves": dict(ended),
        "seconds": round(time.monotonic() - started, 1),
    }


def end_it(uri: str, folder: Path) -> None:
    """Run the same command again, and the rest of its round; then mend what `update` left stale."""
    import lancedb

    import lancedb_ft

    step = actors.told(folder, "step")
    number, again = step["number"], step["begun"]
    while again or actors.step_of(number)[0] != "reindex":
        actors.take_step(uri, number, again=again)
        number, again = number + 1, False
    table = lancedb.connect(uri).open_table(actors.TABLE)
    lancedb_ft.reindex(table, ledger.shown(table.schema)[1])


def encode(uri: str) -> Any:
    """Return an encoder by sentence-transformers alone, each model loaded once."""
    import numpy as np
    from sentence_transformers import SentenceTransformer

    import lancedb_ft

    store = lancedb_ft.ModelStore(f"{uri}/ft_models")
    models: dict[str, Any] = {}

    def encode(model: str, texts: list[str]) -> Any:
        if model not in models:
            models[model] = SentenceTransformer(store.load(model).path, device="cpu")
        return np.asarray(models[model].encode(texts), np.float32)

    return encode


def campaign(root: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Set the scene, kill, check; return all figures."""
    uri, folder = str(root / "db"), root / "notes"
    folder.mkdir()
    cast = Cast(uri, folder, options.seed)
    cast.call(make_table, uri, folder, options.rows, options.seed)
    cast.start_all()
    try:
        killed = kill_them(cast, uri, folder, options.kills, options.seconds_limit, options.seed)
    finally:
        codes = cast.stop(folder)
    cast.call(end_it, uri, folder)
    books = [ledger.Ledger(folder / f"{name}.log") for name in ("writer", "plain")]
    expected = stable_rows(options.rows, options.seed)
    for book in books:
        expected |= book.rows
    verdict = ledger.check(actors.table_uri(uri), expected, encode(uri), actors.MODELS)
    errors = folder / "reindexer_errors.log"
    return {
        **killed,
        "steps_done": actors.told(folder, "step").get("number", 0),
        "writes_acknowledged": sum(book.acknowledged for book in books),
        "writes_refused": sum(book.failed for book in books),
        "writes_torn": sum(book.torn for book in books),
        "optimizer": actors.told(folder, "optimizer"),
        "rows_expected": len(expected),
        "rows": verdict.rows,
        "model": verdict.model,
        **verdict.counts(),
        "examples": {kind: ids[:5] for kind, ids in verdict.faults.items()},
        "readers": {name: actors.told(folder, name) for name in ("sync", "async")},
        "reindexer_errors": _told(errors),
        "exit_codes": codes,
        "refused": collections.Counter(
            line.split(":")[0] for line in _lines(folder / "refused.log")
        ),
    }


def _told(path: Path) -> list[str]:
    """Return what the re-indexer noted of its errors, one text each."""
    return [told for told in path.read_text().split("\n\n") if told] if path.exists() else []


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def main() -> None:
    """Run the campaign, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seconds-limit", type=float, default=3600.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, default=600, help="rows that nobody changes")
    parser.add_argument("--keep", type=Path, help="a new folder for the table and the notes")
    options = parser.parse_args()
    if options.keep is not None:
        options.keep.mkdir(parents=True)
        found = campaign(options.keep, options)
    else:
        with tempfile.TemporaryDirectory() as root:
            found = campaign(Path(root), options)
    readers = found["readers"].values()
    zeros = {kind: found[kind] for kind in ("lost", "duplicate", "stale", "null", "foreign")}
    zeros["undead"] = found["undead"]
    zeros["with another text"] = found["other_text"]
    aims = [
        aim("kills", found["kills"], ">=", options.kills),
        *(aim(f"rows {kind}", n, "==", 0) for kind, n in zeros.items()),
        aim("writes torn", found["writes_torn"], "==", 0),
        aim("reader errors", sum(r.get("errors", 0) for r in readers), "==", 0),
        aim("answers of two models", sum(r.get("wrong", 0) for r in readers), "==", 0),
        aim("reader queries", sum(r.get("queries", 0) for r in readers), ">=", options.kills),
        aim("errors of the re-indexer", len(found["reindexer_errors"]), "==", 0),
    ]
    print(json.dumps(found["kills_by_phase"]), file=sys.stderr)
    report("chaos_reindex", aims, options=vars(options) | {"keep": None}, **found)


if __name__ == "__main__":
    main()
