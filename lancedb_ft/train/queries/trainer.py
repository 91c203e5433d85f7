"""`train_query_adapter`: better queries for documents that stay as they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from lancedb_ft.data.shared_texts import check_disjoint
from lancedb_ft.encoder import get_encoder
from lancedb_ft.errors import InputError, NoGainError
from lancedb_ft.store import ModelStore, ResolvedModel, resolve_model
from lancedb_ft.train.checks import require_dev
from lancedb_ft.train.corpus import ids_beside, named_as_in
from lancedb_ft.train.defaults import Choice
from lancedb_ft.train.dev import hold_out_of_first, retrieval_pairs
from lancedb_ft.train.devset import MAX_QUERIES, check_leaks, choose_queries
from lancedb_ft.train.job import as_list
from lancedb_ft.train.picture import require_matplotlib
from lancedb_ft.train.places import check_name, store_uri, trained_before
from lancedb_ft.train.prompts import prompts_of
from lancedb_ft.train.queries.documents import Corpus, fixed_documents
from lancedb_ft.train.queries.fit import AdapterConfig
from lancedb_ft.train.queries.run import AdapterRun, run_adapter, tell
from lancedb_ft.train.runs import identity_hash
from lancedb_ft.train.steps import OnEvent
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

__all__ = ["asked_of_queries", "explain_query_adapter", "train_query_adapter"]

#: Arguments of `train` that mean the same for a query adapter.
_SHARED = ("epochs", "batch_size", "learning_rate", "seed", "metric", "temperature")
#: Those that every call of `train` has, and that are not for it.
_IDLE = ("max_tokens",)


def train_query_adapter(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    *,
    dev: Pairs | TrainingSet | None = None,
    name: str,
    store: str | None = None,
    corpus: Corpus | None = None,
    id_column: str | None = None,
    text_column: str | None = None,
    rank: int | None = None,
    epochs: int = 8,
    batch_size: int = 128,
    learning_rate: float | None = None,
    temperature: float = 0.05,
    negatives: int = 1024,
    identity: float = 0.0,
    seed: int = 0,
    metric: str = "ndcg@10",
    device: str | None = None,
    split_info: Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    on_event: OnEvent | None = None,
) -> ModelVersion:
    """Train a small map of query vectors, and save it with the model if it helps on dev.

    Documents stay as they are: a table that has the vectors of ``base`` serves the new version
    after one commit of metadata, see `reindex`. The gain is smaller than that of fine-tuning the
    model, and costs seconds: texts are encoded once, and not at all where the table that is named
    as ``corpus`` has their vectors.

    Parameters
    ----------
    base
        The model whose documents' vectors stay. If it has a query adapter itself, the new one is
        trained from the beginning, and must beat it.
    data
        Queries with documents that answer them: pairs, triplets, negatives, rankings or
        entailments; documents that do not answer are told from by being in the corpus.
    dev
        The same, not trained on. None: 10 % of ``data`` are held out. Of many queries 1,000 are
        chosen by ``seed``.
    name
        Of the model in the store; the store counts the versions.
    store
        URI of the store; see `train`.
    corpus
        What is searched: the table, or ``{doc_id: text}``. Training tells the right documents from
        all of these, and dev is measured in all of these. None: the documents of the pairs. Those
        that ``data`` and ``dev`` name are found in it by their texts, and added where it has none.
    id_column, text_column
        Of the table.
    rank, epochs, batch_size, learning_rate, temperature, negatives, identity, seed, metric
        See `AdapterConfig`.
    device
        Where texts are encoded; the adapter itself is trained on the CPU.
    split_info
        How the data was split, for the manifest.
    progress
        Called as ``progress(steps done, steps)``.
    on_event
        Called with plain JSON: ``started``, ``loss``, ``evaluation`` and ``saved``, as by `train`.

    Returns
    -------
    ModelVersion
        Its ``document_fingerprint`` is that of ``base``. The same call again returns the same
        version.

    Raises
    ------
    NoGainError
        No epoch beats the base model on dev. Nothing was saved.
    LeakError
        Dev shares a query or a document with the training data.
    InputError
        The data has no queries with documents, or wants other prompts than the model has.
    MissingExtraError
        matplotlib is missing.
    """
    config = AdapterConfig(
        rank=rank,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        temperature=temperature,
        negatives=negatives,
        identity=identity,
        seed=seed,
        metric=metric,
    )
    require_matplotlib()
    check_name(name)
    sets = as_list(data)
    pairs, held, split = _divided(sets, dev, seed, dict(split_info or {}))
    models = ModelStore(store_uri(store, pairs.source))
    found = resolve_model(base, store=models.uri)
    _check_prompts(sets, found)
    encoder = get_encoder(found, device=device)
    documents = fixed_documents(
        corpus, _joined([pairs, held]), encoder, id_column=id_column, text_column=text_column
    )
    run = AdapterRun(config, found, encoder, pairs, held, documents, split)
    run_id = identity_hash(run.identity(name))
    if (done := trained_before(models, name, run_id)) is not None:
        return done
    course = run_adapter(run, progress, on_event)
    best = course.best
    if best is None:
        raise NoGainError(
            metric=metric,
            base=course.base.metrics[metric].mean,
            best=max(value for epoch, value in course.history.items() if epoch),
            n_queries=course.base.n,
        )
    manifest = {**run.manifest(course, models.uri), "run": run_id}
    saved = models.save(
        found.path,
        name=name,
        manifest=manifest,
        query_adapter=best.adapter,
        picture=course.picture(name, metric),
    )
    tell(on_event, event="saved", ref=saved.ref)
    return saved


def explain_query_adapter(asked: Mapping[str, Any]) -> list[Choice]:
    """Say what `train_query_adapter` takes where nothing is said, and why.

    Parameters
    ----------
    asked
        Arguments that are given, as `asked_of_queries` returns them.
    """
    config = AdapterConfig(**asked).to_dict()
    return [
        Choice(name, config[name], "given" if name in asked else why) for name, why in _WHY.items()
    ]


_WHY = {
    "rank": "a full matrix; a lower rank is smaller and no better",
    "epochs": "each is seconds, and the best of them on dev is kept",
    "batch_size": "usual for a query adapter",
    "learning_rate": "usual for a full matrix, falling to 0",
    "temperature": "usual for a query adapter",
    "negatives": "documents drawn at each step; more are slower and no better",
    "identity": "keeping the best epoch is what guards it",
    "metric": "what decides which epoch is kept",
}


# --- the data ------------------------------------------------------------------------------


def _divided(
    sets: Sequence[Pairs | TrainingSet],
    dev: Pairs | TrainingSet | None,
    seed: int,
    split: dict[str, Any],
) -> tuple[Pairs, Pairs, dict[str, Any]]:
    """Return pairs to train on, pairs to measure on, and how they were divided."""
    if dev is None:
        sets, dev, split["dev"] = hold_out_of_first(sets, seed=seed)
    require_dev(dev)
    for one in sets:
        if isinstance(one, Pairs) and isinstance(dev, Pairs):
            check_leaks(one, dev)
        else:
            check_disjoint(one, dev)
    pairs = _joined([_as_pairs(one) for one in sets])
    return pairs, choose_queries(_as_pairs(dev), MAX_QUERIES, seed), split


def _as_pairs(one: Pairs | TrainingSet) -> Pairs:
    return one if isinstance(one, Pairs) else retrieval_pairs(one)


def _joined(parts: Sequence[Pairs]) -> Pairs:
    """Put pairs under each other, with ids that mean one query and one document in all of them."""
    names = ["query_id", "query", "doc_id", "document", "grade"]
    joined = Pairs(parts[0].table.select(names), parts[0].source)
    for part in parts[1:]:
        named = named_as_in(part, joined.corpus).table.select(names)
        asked = (named["query_id"].to_pylist(), named["query"].to_pylist())
        ids = pa.array(ids_beside(*asked, joined.queries), pa.string())
        named = named.set_column(0, "query_id", ids)
        joined = Pairs(pa.concat_tables([joined.table, named]), joined.source)
    if not len(joined):
        raise InputError("There are no pairs to train on.")
    return joined


def _check_prompts(sets: Sequence[Pairs | TrainingSet], found: ResolvedModel) -> None:
    """Refuse data with other prompts: with another one, documents would not stay as they are."""
    own = prompts_of(found.path)
    for one in sets:
        asked = (None, None) if isinstance(one, Pairs) else (one.query_prompt, one.document_prompt)
        for side, wanted, has in zip(("query", "document"), asked, own, strict=True):
            if wanted is not None and wanted != (has or ""):
                raise InputError(
                    f"The data wants the {side} prompt {wanted!r}, and {found.ref} has {has!r}. A "
                    "query adapter leaves the model as it is: leave the prompt out, or fine-tune."
                )


def asked_of_queries(asked: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of `train` that are for a query adapter, those that were given.

    Raises
    ------
    InputError
        One was given that only a fine-tune of the model can heed.
    """
    given = {name: value for name, value in asked.items() if value not in (None, (), [])}
    strange = sorted(set(given) - {*_SHARED, *_IDLE})
    if strange:
        raise InputError(
            f"{strange[0]} is for fine-tuning the model, and query_only (--query-only) leaves the "
            f"model as it is. Leave it out; what counts is {', '.join(_SHARED)}."
        )
    return {name: value for name, value in given.items() if name in _SHARED}
