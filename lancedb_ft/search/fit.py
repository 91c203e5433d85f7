"""`fit_fusion` and `fit_auto`: learn on a table's judged queries how it is searched best."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import parse_metric
from lancedb_ft.generation import read_state
from lancedb_ft.search.fit_auto import AutoFit, fit_auto_of_runs
from lancedb_ft.search.fit_fusion import FusionFit, fit_fusion_of_runs, fused_run
from lancedb_ft.search.fusion import Fusion
from lancedb_ft.search.learned import LearnedRanking
from lancedb_ft.search.options import count_of
from lancedb_ft.search.searcher import Searcher
from lancedb_ft.search.served_ranking import keep_ranking, model_place, ranking_of
from lancedb_ft.store.manifest import now
from lancedb_ft.table import dataset
from lancedb_ft.types import Pairs, Run

if TYPE_CHECKING:
    from lancedb.table import Table

__all__ = ["fit_auto", "fit_fusion"]

#: Rows each leg brings to a fusion that is being learned, unless the caller says.
CANDIDATES = 50


def fit_fusion(
    table: Table,
    pairs: Pairs,
    *,
    metric: str = "ndcg@10",
    candidates: int = CANDIDATES,
    id_column: str | None = None,
    column: str | None = None,
    where: str | None = None,
    to: str | Path | None = None,
    seed: int = 0,
) -> FusionFit:
    """Learn how to fuse the two legs of a hybrid query, and keep it where it wins.

    It is kept with the model version that the table searches with (``ranking.TABLE.json`` beside
    its manifest), where ``SearchOptions(fusion="learned")`` finds it, in place of what was learned
    before. A rule for ``mode="auto"`` goes with it: learn that anew, with `fit_auto`.

    Parameters
    ----------
    table
        The table, with a full-text index and a model for its vectors.
    pairs
        Judged queries on which the model was not trained: the dev part of the split.
    metric
        What is maximised, with a cutoff: as many rows as the application shows.
    candidates
        How many rows each leg brings to the fusion.
    id_column, column, where
        As for `Searcher.retriever`.
    to
        A JSON file to write to instead; then ``fusion=LearnedRanking.load(to)``.
    seed
        Of the folds and of the bootstrap.

    Returns
    -------
    FusionFit
        The fusion and the evidence: its gain on queries that it was not fitted on.

    Raises
    ------
    NotBetterError
        The 95 % interval of the gain over reciprocal rank fusion does not lie above 0. Nothing
        was saved.
    InputError
        There are too few queries, or there is no model version to keep the result with and ``to``
        was not given.

    Examples
    --------
    >>> fit = fit_fusion(docs, split.dev)                                    # doctest: +SKIP
    >>> search(docs, "how do I cancel?", options=SearchOptions(fusion="learned"))  # doctest: +SKIP
    """
    seed = _checked(pairs, seed)
    candidates = count_of(candidates, "candidates")
    home = _Home.of(table, column, to)
    vector, text = _legs(table, pairs, candidates, id_column, column, where)
    fit = fit_fusion_of_runs(vector, text, pairs, metric=metric, seed=seed).check()
    evidence = {**fit.to_dict(), **home.lineage(pairs, where)}
    home.keep(LearnedRanking(fusion=fit.fusion, evidence={"fusion": evidence}))
    return fit


def fit_auto(
    table: Table,
    pairs: Pairs,
    *,
    metric: str = "ndcg@10",
    id_column: str | None = None,
    column: str | None = None,
    where: str | None = None,
    to: str | Path | None = None,
    seed: int = 0,
) -> AutoFit:
    """Learn which mode answers which query best, and keep it where it wins.

    ``mode="auto"`` then picks full text, vectors or both for each query from what can be seen of
    its text. It is kept where `fit_fusion` keeps its result, beside that; hybrid queries are fused
    as was learned there, if anything was.

    Parameters
    ----------
    table, pairs, metric, id_column, column, where, to, seed
        As for `fit_fusion`. The file ``to`` may hold a fusion already.

    Returns
    -------
    AutoFit
        The rule and the evidence: its gain over the best single mode.

    Raises
    ------
    NotBetterError
        The 95 % interval of that gain does not lie above 0. Nothing was saved.
    InputError
        There are too few queries, or nowhere to keep the result.
    """
    seed = _checked(pairs, seed)
    home = _Home.of(table, column, to)
    cutoff = parse_metric(metric).k
    if cutoff is None:
        raise InputError(f"The metric {metric!r} has no cutoff; say how deep: {metric}@10.")
    learned = home.present()
    fusion = learned.fusion or Fusion.rrf()
    depth = max(cutoff, fusion.candidates or cutoff)
    vector, text = _legs(table, pairs, depth, id_column, column, where)
    runs = {
        "vector": _first(vector, cutoff),
        "fts": _first(text, cutoff),
        "hybrid": fused_run(fusion, vector, text, k=cutoff),
    }
    fit = fit_auto_of_runs(runs, pairs, metric=metric, seed=seed).check()
    evidence = {**learned.evidence, "auto": {**fit.to_dict(), **home.lineage(pairs, where)}}
    home.keep(LearnedRanking(fusion=learned.fusion, auto=fit.rule, evidence=evidence))
    return fit


def _checked(pairs: Any, seed: Any) -> int:
    """Refuse what is no set of judged queries, and return the seed as numpy takes it."""
    if not isinstance(pairs, Pairs):
        raise InputError(
            f"pairs is a {type(pairs).__name__}; it must be Pairs, such as the dev part of a split."
        )
    return count_of(seed, "seed", least=0)


def _legs(
    table: Table,
    pairs: Pairs,
    depth: int,
    id_column: str | None,
    column: str | None,
    where: str | None,
) -> tuple[Run, Run]:
    with Searcher(table) as searcher:
        vector, text = (
            searcher.retriever(mode=mode, id_column=id_column, column=column, where=where)
            for mode in ("vector", "fts")
        )
        return vector(pairs.queries, depth), text(pairs.queries, depth)


def _first(run: Run, k: int) -> Run:
    return {query_id: dict(list(hits.items())[:k]) for query_id, hits in run.items()}


@dataclass(frozen=True)
class _Home:
    """Where the result goes; looked for before any work is done."""

    table: str
    version: int
    entry: Mapping[str, Any] | None
    path: Path | None

    @classmethod
    def of(cls, table: Table, column: str | None, to: str | Path | None) -> _Home:
        if to is not None and not isinstance(to, (str, PathLike)):
            raise InputError(f"to is {to!r:.80}; it must be the path of a JSON file, or None.")
        ds = dataset(table)
        state = read_state(ds.schema, table=table.name, vector_column=column)
        generation = state.active if column is None else state.of_column(column)
        entry = None if generation is None else generation.function
        home = cls(table.name, int(ds.version), entry, None if to is None else Path(to))
        if home.path is None and model_place(entry, table=table.name) is None:
            home.keep(LearnedRanking())  # raises, and says what to do
        return home

    def present(self) -> LearnedRanking:
        """Return what was learned before."""
        if self.path is None:
            return ranking_of(self.entry, table=self.table) or LearnedRanking()
        return LearnedRanking.load(self.path) if self.path.exists() else LearnedRanking()

    def lineage(self, pairs: Pairs, where: str | None) -> dict[str, Any]:
        """Return what the evidence was measured on."""
        place = model_place(self.entry, table=self.table)
        return {
            "table": self.table,
            "table_version": self.version,
            "model": None if place is None else place[1],
            "data": pairs.fingerprint,
            "where": where,
            "fitted_at": now(),
        }

    def keep(self, ranking: LearnedRanking) -> None:
        """Write it."""
        if self.path is not None:
            ranking.save(self.path)
            return
        keep_ranking(self.entry, ranking, table=self.table)
