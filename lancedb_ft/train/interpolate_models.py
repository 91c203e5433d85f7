"""`interpolate_models`: a version between two models that are there already, without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import InputError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore, ResolvedModel, resolve_model
from lancedb_ft.train.compute import Compute, choose_compute, plain_attention
from lancedb_ft.train.dev import make_measured
from lancedb_ft.train.devset import Measured
from lancedb_ft.train.guards import MAX_REGRESSION, make_guards
from lancedb_ft.train.interpolate import (
    Trial,
    best_trial,
    interpolate,
    require_alphas,
    try_alphas,
    weights_of,
)
from lancedb_ft.train.places import check_name, store_uri
from lancedb_ft.train.probe import ProbeData, Watch
from lancedb_ft.train.queries.under import refuse_query_only
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["interpolate_models"]

#: What the version takes over from the tuned model: it was trained on the same.
_INHERITED = ("table", "data", "split", "training", "seed", "matryoshka_dims")


def interpolate_models(
    base: str | ModelVersion | ResolvedModel,
    tuned: str | ModelVersion | ResolvedModel,
    *,
    dev: Pairs | TrainingSet,
    name: str,
    alphas: Sequence[float] | None = None,
    probe: ProbeData | None = None,
    max_regression: float | None = MAX_REGRESSION,
    metric: str | None = None,
    distractors: Mapping[str, str] | None = None,
    max_tokens: int | None = 128,
    seed: int = 0,
    store: str | None = None,
    device: str | None = None,
    progress: Progress | None = None,
) -> ModelVersion:
    """Save the weights between two models that are best on dev.

    ``(1 - alpha) * base + alpha * tuned`` for each weight (WiSE-FT, arXiv:2109.01903; LM-Cocktail,
    arXiv:2311.13534): a cheap guard against forgetting, since no step is trained.

    Parameters
    ----------
    base
        What the tuned model was trained from.
    tuned
        Such as ``support@2``.
    dev
        What neither was trained on, of any type of training data.
    name
        Of the model in the store.
    alphas
        What to try, each from 0 to 1. None: quarters, then an eighth to either side of the best.
        The base is measured in any case; 1, the tuned model as it is, may win.
    probe, max_regression
        See `lancedb_ft.train.train`; measured against ``base``.
    metric
        What decides on dev; None: ``ndcg@10``, or ``spearman`` for scored pairs.
    distractors
        ``{doc_id: text}`` for the dev corpus.
    max_tokens
        Longer texts are cut for the figures; the saved model keeps the limit of the tuned one.
    seed
        Of the choice of queries and documents.
    store
        URI of the store; None: that of the tuned model, else as for `lancedb_ft.train.train`.
    device
        ``cpu``, ``cuda``, ``mps``; None for the best there is.
    progress
        Called as ``progress(models measured, None)``.

    Returns
    -------
    ModelVersion
        Its manifest has the figures of every alpha.

    Raises
    ------
    NoGainError
        None beats the base on dev. Nothing was saved.
    RegressionError
        Those that do lose more than allowed on a probe. Nothing was saved.
    InputError
        The two are not of one architecture and vocabulary, or an argument cannot be used.
    """
    check_name(name)
    if alphas is not None:
        require_alphas(alphas)
    guards = make_guards(probe, max_regression=max_regression, interpolate=True)
    own = store or getattr(tuned, "store", None)
    models = ModelStore(store_uri(own, dev.source))
    ends = tuple(resolve_model(each, store=models.uri) for each in (base, tuned))
    for what, end in zip(("base", "tuned"), ends, strict=True):
        refuse_query_only(end, what)
    devset = make_measured(dev, [], seed=seed, distractors=distractors)
    compute = choose_compute(device)
    # The last is what is saved: measuring leaves its limits in the tokenizer of the others.
    copies = [_load(each, compute) for each in (ends[0], ends[1], ends[1])]
    _check_vocabulary(copies[0], copies[1], ends)
    weights = weights_of(copies[0]), weights_of(copies[1])
    interpolate(*weights, 0.5)  # whether they fit is said before anything is measured
    for copy in copies[:2]:
        copy.max_seq_length = min(max_tokens or 10**9, copy.max_seq_length or 10**9)
    measured = _Bench(devset, metric or devset.metric, compute)
    with kept_memory(), plain_attention(copies[0], compute), compute.autocast():
        watch = guards.watch(Encoder.of(copies[0]), seed=seed, figures={})
    known = [measured.trial(copies[0], 0.0, watch)]
    done = 1

    def measure(alpha: float) -> Trial:
        nonlocal done
        copies[1].load_state_dict(interpolate(*weights, alpha))
        trial = measured.trial(copies[1], alpha, watch)
        done += 1
        if progress is not None:
            progress(done, None)
        return trial

    trials = try_alphas(measure, alphas=alphas, known=known)
    chosen = best_trial(trials, watch, metric=measured.metric, n_queries=devset.n_queries)
    copies[2].load_state_dict(interpolate(*weights, chosen.alpha))
    return models.save(
        copies[2],
        name=name,
        manifest=_manifest(ends, models, measured, watch, trials, chosen),
        rows=ModelStore(ends[1].store).rows(ends[1].ref) if ends[1].store else None,
    )


class _Bench:
    """Measures one model after the other."""

    def __init__(self, devset: Measured, metric: str, compute: Compute) -> None:
        devset.check_metric(metric)
        self.devset = devset
        self.metric = metric
        self._compute = compute

    def trial(self, model: SentenceTransformer, alpha: float, watch: Watch) -> Trial:
        encoder = Encoder.of(model)
        with kept_memory(), plain_attention(model, self._compute), self._compute.autocast():
            found = self.devset.measure(encoder, self.metric, name=f"alpha {alpha:g}")
            probes = watch.measure(encoder)
        if alpha == 0:
            watch.figures[0] = probes
        value = found.metrics[self.metric].mean
        return Trial(alpha, value, found.to_dict(), probes, watch.within(probes))


def _load(model: ResolvedModel, compute: Compute) -> SentenceTransformer:
    return load_sentence_transformer(model.path, device=compute.device).float()


def _check_vocabulary(
    base: SentenceTransformer, tuned: SentenceTransformer, ends: Sequence[ResolvedModel]
) -> None:
    """Refuse models that read other tokens: their rows of the same shape mean other words."""
    left, right = (_vocabulary(model) for model in (base, tuned))
    if left != right:
        raise InputError(
            f"There is nothing between {ends[0].ref!r} and {ends[1].ref!r}: their tokenizers have "
            "other vocabularies. Name the model that the tuned one was trained from."
        )


def _vocabulary(model: SentenceTransformer) -> Any:
    tokenizer = model.tokenizer
    return tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else None


def _manifest(
    ends: Sequence[ResolvedModel],
    models: ModelStore,
    measured: _Bench,
    watch: Watch,
    trials: Sequence[Trial],
    chosen: Trial,
) -> dict[str, Any]:
    base, tuned = ends
    own = ModelStore(tuned.store).load(tuned.ref).manifest if tuned.store else {}
    dev = {
        "n": measured.devset.n_queries,
        "base": next(dict(trial.dev) for trial in trials if trial.alpha == 0),
        "tuned": dict(chosen.dev),
    }
    probes = watch.report(chosen.probes) if watch.probes else None
    return {
        **{key: own[key] for key in _INHERITED if key in own},
        "base": {"ref": tuned.ref, "fingerprint": tuned.fingerprint},
        "parent": tuned.ref if tuned.store == models.uri else None,
        "interpolation": {
            "with": {"ref": base.ref, "fingerprint": base.fingerprint},
            "alpha": chosen.alpha,
            "metric": measured.metric,
            "max_regression": watch.max_regression,
            "trials": [trial.to_dict() for trial in trials],
        },
        "dev": {
            "fingerprint": measured.devset.fingerprint,
            "n_queries": measured.devset.n_queries,
            "n_documents": measured.devset.n_documents,
            "metric": measured.metric,
        },
        "metrics": {"dev": dev, **({"probe": probes} if probes else {})},
    }
