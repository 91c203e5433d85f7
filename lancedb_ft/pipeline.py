"""improve(): the whole loop, from a table and judged queries to a tuned, switched table."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lancedb_ft.data import audit
from lancedb_ft.embedding import store_for
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import StoreNotFoundError
from lancedb_ft.evaluate import compare, evaluate, exact_retriever, retriever
from lancedb_ft.generation import read_state
from lancedb_ft.reindex import reindex
from lancedb_ft.reindex.columns import source_column_of
from lancedb_ft.reindex.stage import refuse_another
from lancedb_ft.search import Searcher
from lancedb_ft.store import ModelStore
from lancedb_ft.table import dataset, id_column_of, read_corpus
from lancedb_ft.train import train
from lancedb_ft.train.devset import choose_queries
from lancedb_ft.types import Comparison, Evaluation, Gate

if TYPE_CHECKING:
    from lancedb.table import Table

    from lancedb_ft.generation import Generation, TableState
    from lancedb_ft.reindex import ReindexReport
    from lancedb_ft.types import ModelVersion, Pairs, Progress, Split

__all__ = ["DEFAULT_BASE", "ImproveReport", "improve", "require_text_index"]

#: Of the modes of search these are measured on dev, by so many queries: ten seconds or so.
_MODES = ("hybrid", "vector")
_QUERIES_FOR_MODE = 500

#: The base model where the table names none.
DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"

#: Opens a progress bar: ``with bar("training") as progress: ...``.
Bar = Callable[[str], AbstractContextManager["Progress"]]


@dataclass(frozen=True)
class ImproveReport:
    """What the loop measured and did."""

    table: str
    model: str
    switched: bool
    n_docs: int
    n_train: int
    n_dev: int
    comparison: Comparison
    hybrid: Evaluation
    on_dev: Mapping[str, Evaluation]
    reindex: ReindexReport
    seconds: float
    stages: Mapping[str, float] = field(default_factory=dict)

    @property
    def mode(self) -> str:
        """How to search: the best on dev, as fusion hurts where words do not match."""
        return max(self.on_dev, key=lambda mode: self.on_dev[mode].metrics["ndcg@10"].mean)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as the demo writes it."""
        figures = self.comparison.to_dict()
        fill = self.reindex.fill.to_dict()
        return {
            "table": self.table,
            "model": self.model,
            "switched": self.switched,
            "n_docs": self.n_docs,
            "n_train": self.n_train,
            "n_dev": self.n_dev,
            "n_test": figures["n"],
            "base": figures["base"],
            "tuned": figures["tuned"],
            "delta": figures["delta"],
            "hybrid": self.hybrid.to_dict(),
            "mode": self.mode,
            "on_dev": {mode: found.to_dict() for mode, found in self.on_dev.items()},
            "reindex": {key: fill[key] for key in ("rows", "seconds", "rows_per_s", "encoded")},
            "seconds": round(self.seconds, 1),
            "stages": {name: round(s, 1) for name, s in self.stages.items()},
        }


def improve(
    table: Table,
    split: Split,
    *,
    name: str,
    base: str | None = None,
    store: str | None = None,
    require: str | list[str] = "ndcg@10 >= base",
    force: bool = False,
    id_column: str | None = None,
    text_column: str | None = None,
    vector_column: str | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    learning_rate: float | None = None,
    max_tokens: int | None = 128,
    seed: int = 0,
    device: str | None = None,
    precision: str = "auto",
    bar: Bar | None = None,
) -> ImproveReport:
    """Train on the table's pairs, compare on the test part, re-index, and switch if it is better.

    Parameters
    ----------
    table
        The table with the documents.
    split
        Training, dev and test pairs whose ``doc_id`` are ids of the table; audited first.
    name
        Name of the model in the store.
    base
        The model to start from; by default the one the table searches with, or `DEFAULT_BASE`.
        Where an earlier call with these data made the table's model, the one that call started
        from: it goes on, and trains nothing twice.
    store
        The model store. None: the one that the table's model is from, else ``ft_models`` inside
        the database, see `lancedb_ft.embedding.store_for`.
    epochs, batch_size, learning_rate
        None: chosen by the data and the machine, see `lancedb_ft.explain_training`.
    require, force
        The gate, see `Gate`; ``force`` switches anyway.
    bar
        Opens a progress bar for each long stage.

    Returns
    -------
    ImproveReport
        Figures on the test part: base and tuned vectors, their paired difference, hybrid search.
        And by up to 500 queries of dev, which `mode` to search with: ``vector`` or ``hybrid``.

    Raises
    ------
    LeakError
        The split leaks: a test figure would be worthless.
    NoGainError
        No checkpoint beats the base model on dev: nothing was saved, the table is as it was.
    GateError
        The tuned vectors do not meet the gate: the table searches as before.
    ReindexStateError
        The table is on its way to another model: nothing was trained.
    """
    started = time.perf_counter()
    clock = _Clock(bar)
    audit(split).check()
    ds = dataset(table)
    id_column = id_column_of(ds.schema, id_column, table=table.name)
    state = read_state(ds.schema, table=table.name, vector_column=vector_column)
    text_column = source_column_of(ds.schema, state, text_column, table=table.name)
    active = state.active
    own = active.function if active is not None and base in (None, active.model) else None
    store = store_for(table, store, of=own)
    made = _made_of(split.train, name, store)
    _require_free(table, state, made)
    base = base or _base_of(active, made) or DEFAULT_BASE
    with clock("train") as progress:
        model = train(
            base,
            split.train,
            dev=split.dev,
            name=name,
            store=store,
            epochs=epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            max_tokens=max_tokens,
            seed=seed,
            device=device,
            split_info=split.info,
            progress=progress,
        )
    with clock("text index"):
        require_text_index(table, text_column)
    before = None
    if active is None or active.function is None:
        with clock("base"):
            before = _measure_exactly(table, split, base, id_column, text_column, store)
    with clock("re-index") as progress:
        report = reindex(
            table,
            model,
            gate=Gate(split.test, require=require),
            force=force,
            text_column=text_column,
            vector_column=vector_column,
            id_column=id_column,
            store=store,
            device=device,
            precision=precision,
            base=before,
            progress=progress,
        )
    with clock("evaluate"):

        def measure_base() -> Evaluation:
            return before or _measure_exactly(table, split, base, id_column, text_column, store)

        now = read_state(dataset(table).schema, table=table.name, vector_column=vector_column)
        comparison = _comparison(table, split, report, now.previous, measure_base, id_column)
        with Searcher(table) as searcher:
            hybrid = _measured(searcher, "hybrid", split.test, id_column)
            dev = choose_queries(split.dev, _QUERIES_FOR_MODE, seed)
            on_dev = {mode: _measured(searcher, mode, dev, id_column) for mode in _MODES}
    return ImproveReport(
        table=table.name,
        model=model.ref,
        switched=report.switched,
        n_docs=ds.count_rows(),
        n_train=len(split.train),
        n_dev=len(split.dev),
        comparison=comparison,
        hybrid=hybrid,
        on_dev=on_dev,
        reindex=report,
        seconds=time.perf_counter() - started,
        stages=clock.seconds,
    )


def require_text_index(table: Table, text_column: str) -> None:
    """Build a full-text index on the column, unless it has one."""
    from lancedb.index import FTS

    table.checkout_latest()
    for index in table.list_indices():
        if index.index_type == "FTS" and list(index.columns) == [text_column]:
            return
    table.create_index(text_column, config=FTS())


def _model_of(active: Generation | None) -> str | None:
    """Return the model the table searches with, where it is one that can be trained further."""
    if active is None or active.function is None:
        return None
    trainable = active.function["name"] in ("ft-embed", "sentence-transformers")
    return active.model if trainable else None


def _made_of(data: Pairs, name: str, store: str) -> dict[str, ModelVersion]:
    """Return the versions of a name that were trained on exactly these data, by reference."""
    try:
        versions = ModelStore(store).list(name)
    except StoreNotFoundError:
        return {}
    found = data.fingerprint
    return {v.ref: v for v in versions if v.manifest.get("data", {}).get("fingerprint") == found}


def _require_free(table: Table, state: TableState, made: Mapping[str, ModelVersion]) -> None:
    """Refuse before hours of training what the re-index would refuse after them."""
    coming = state.coming
    if coming is not None and not coming.rolled_back and coming.model not in made:
        refuse_another(table.name, coming)


def _base_of(active: Generation | None, made: Mapping[str, ModelVersion]) -> str | None:
    """Return what to start from: the table's model, or where these data made that, its own base."""
    model = _model_of(active)
    if model is None or model not in made:
        return model
    base = made[model].manifest.get("base", {}).get("ref")
    return str(base) if base else model


def _measure_exactly(
    table: Table, split: Split, base: str, id_column: str, text_column: str, store: str
) -> Evaluation:
    """Measure the base model on a table that cannot be asked with it, by brute force."""
    corpus = read_corpus(table, id_column, text_column)
    encoder = get_encoder(base, store=store)
    return evaluate(exact_retriever(encoder, corpus), split.test, name="base")


def _comparison(
    table: Table,
    split: Split,
    report: ReindexReport,
    earlier: Generation | None,
    measure_base: Callable[[], Evaluation],
    id_column: str,
) -> Comparison:
    """Return what the gate measured; of a table that was switched earlier, the two generations.

    What served before cannot be asked where the table had no vectors, or raw ones of a model that
    it does not name, or where `finish` removed it: then the base is measured without the table.
    """
    if report.gate is not None and report.gate.comparison is not None:
        return report.gate.comparison

    def measured(column: str, name: str) -> Evaluation:
        retrieve = retriever(table, mode="vector", column=column, id_column=id_column)
        return evaluate(retrieve, split.test, name=name)

    can_be_asked = earlier is not None and earlier.column and earlier.function is not None
    base = measured(earlier.column, "base") if earlier and can_be_asked else measure_base()
    return compare(base, measured(report.column, "tuned"))


def _measured(searcher: Searcher, mode: str, pairs: Pairs, id_column: str) -> Evaluation:
    return evaluate(searcher.retriever(mode=mode, id_column=id_column), pairs, name=mode)


class _Clock:
    """Times named stages, with a progress bar for each where the caller has one."""

    def __init__(self, bar: Bar | None) -> None:
        self._bar = bar
        self.seconds: dict[str, float] = {}

    def __call__(self, stage: str) -> AbstractContextManager[Progress | None]:
        return _Stage(self, stage, self._bar(stage) if self._bar else nullcontext())


class _Stage(AbstractContextManager["Progress | None"]):
    def __init__(self, clock: _Clock, stage: str, shown: AbstractContextManager[Any]) -> None:
        self._clock, self._stage, self._shown = clock, stage, shown

    def __enter__(self) -> Progress | None:
        self._started = time.perf_counter()
        progress: Progress | None = self._shown.__enter__()
        return progress

    def __exit__(self, *error: Any) -> bool | None:
        self._clock.seconds[self._stage] = time.perf_counter() - self._started
        return self._shown.__exit__(*error)
