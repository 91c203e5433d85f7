"""What a run needs, checked and chosen before any work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from lancedb_ft.errors import InputError
from lancedb_ft.store import ResolvedModel, resolve_model
from lancedb_ft.train.checks import check_texts_by_id, require_dev
from lancedb_ft.train.compute import Compute, choose_compute
from lancedb_ft.train.config import SPEARMAN, TrainingConfig
from lancedb_ft.train.defaults import (
    Choice,
    Facts,
    choose,
    device_memory,
    given_arguments,
    read_network,
)
from lancedb_ft.train.dev import hold_out_of_first, make_measured
from lancedb_ft.train.distributed import ALONE, Processes
from lancedb_ft.train.examples import Examples, as_training_set, check_contrast
from lancedb_ft.train.guards import UNGUARDED, Guards
from lancedb_ft.train.job import Job, as_list, examples_of
from lancedb_ft.train.losses import check_matryoshka_dims
from lancedb_ft.train.negatives import can_mine
from lancedb_ft.train.prompts import chosen_prompts, prompts_of
from lancedb_ft.train.queries.under import refuse_query_only
from lancedb_ft.train.stages import check_curriculum
from lancedb_ft.train.static_base import check_static
from lancedb_ft.train.token_limits import read_token_limit
from lancedb_ft.training_sets import TrainingData, TrainingSet
from lancedb_ft.types import ModelVersion, Pairs

__all__ = ["choices_for", "prepare"]


def prepare(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    dev: Pairs | TrainingSet | None,
    asked: Mapping[str, Any],
    *,
    store: str | None,
    device: str | None,
    distractors: Mapping[str, str] | None = None,
    split: Mapping[str, Any] | None = None,
    processes: Processes | None = None,
    guards: Guards | None = None,
) -> Job:
    """Check everything, choose what was left open, and hold out a dev set where none was given.

    Parameters
    ----------
    asked
        Arguments of `TrainingConfig`, see `given_arguments`.
    """
    processes = processes or ALONE
    wanted = TrainingConfig(**given_arguments(asked))
    sets = as_list(data)
    if dev is not None:
        require_dev(dev)
    check_texts_by_id("distractors", distractors)
    _check_sets(sets, wanted)
    how = dict(split or {})
    if dev is None:
        sets, dev, how["dev"] = hold_out_of_first(sets, seed=wanted.seed)
    devset = make_measured(dev, sets, seed=wanted.seed, distractors=distractors)
    if wanted.metric is not None:
        devset.check_metric(wanted.metric)
    found = processes.first(lambda: resolve_model(base, store=store))
    refuse_query_only(found, "base")
    compute = choose_compute(device)
    prompts = prompts_of(found.path)
    config, choices = _complete(asked, sets, found, devset.metric, compute, processes)
    examples = examples_of(sets, config, prompts)
    for each in examples:
        check_contrast(each, config.batch_size)
    check_static([each.loss for each in examples], found)
    return Job(
        base=found,
        data=sets,
        examples=examples,
        devset=devset,
        split=how,
        config=config,
        choices=choices,
        compute=compute,
        dev=dev,
        guards=guards or UNGUARDED,
        prompts=chosen_prompts([as_training_set(each) for each in sets], prompts),
        guide=_guide(examples, config, found, store, processes),
        processes=processes,
    )


def choices_for(
    base: str | ModelVersion | ResolvedModel,
    data: TrainingData,
    asked: Mapping[str, Any],
    *,
    store: str | None,
    device: str | None,
    dev: Pairs | TrainingSet | None = None,
) -> list[Choice]:
    """Return what `prepare` would choose for these data, of which nothing is held out here."""
    wanted = TrainingConfig(**given_arguments(asked))
    sets = as_list(data)
    if dev is not None:
        require_dev(dev)
    _check_sets(sets, wanted)
    found = resolve_model(base, store=store)
    refuse_query_only(found, "base")
    scored = as_training_set(sets[0] if dev is None else dev).kind == "scored"
    metric = SPEARMAN if scored else "ndcg@10"
    return _complete(asked, sets, found, metric, choose_compute(device), ALONE)[1]


# --- parts ---------------------------------------------------------------------------------


def _check_sets(sets: Sequence[Pairs | TrainingSet], config: TrainingConfig) -> None:
    for each in examples_of(sets, config):
        check_contrast(each, config.batch_size)


def _complete(
    asked: Mapping[str, Any],
    sets: Sequence[Pairs | TrainingSet],
    base: ResolvedModel,
    metric: str,
    compute: Compute,
    processes: Processes,
) -> tuple[TrainingConfig, list[Choice]]:
    wanted = TrainingConfig(**given_arguments(asked))
    examples = examples_of(sets, wanted)
    own_limit = read_token_limit(base.path)
    facts = Facts(
        n_rows=sum(map(len, examples)),
        losses=[each.loss.name for each in examples],
        dims=base.dims,
        network=read_network(base.path),
        texts_per_row=max(len(each.texts) for each in examples),
        tokens=min(wanted.max_tokens or own_limit, own_limit),
        memory_bytes=device_memory(compute.device),
        compute=compute,
        metric=metric,
        processes=processes.count,
        minable=all(can_mine(each, wanted.loss) for each in sets),
    )
    given = dict(asked)
    if wanted.matryoshka_dims:
        given["matryoshka_dims"] = check_matryoshka_dims(wanted.matryoshka_dims, base.dims)
    config, choices = choose(given, facts)
    check_curriculum(sets, config.curriculum, epochs=config.epochs, negatives=config.negatives)
    return config, choices


def _guide(
    examples: Sequence[Examples],
    config: TrainingConfig,
    base: ResolvedModel,
    store: str | None,
    processes: Processes,
) -> ResolvedModel | None:
    if not any(each.loss.needs_guide for each in examples):
        if config.guide is not None:
            names = ", ".join(sorted({each.loss.name for each in examples}))
            raise InputError(
                f"guide is {config.guide!r}, and loss {names} asks no guide. Use loss 'gist' or "
                "'cached_gist', or leave guide out."
            )
        return None
    named = config.guide
    if named is None:
        return base
    guide = processes.first(lambda: resolve_model(named, store=store))
    refuse_query_only(guide, "guide")
    check_static([each.loss for each in examples], guide, guides=True)
    return guide
