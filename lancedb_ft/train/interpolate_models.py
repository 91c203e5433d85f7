"""`interpolate_models`: a version between two models that are there already, without training."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from lancedb_ft._version import __version__
from lancedb_ft.encoder import Encoder, load_sentence_transformer
from lancedb_ft.errors import InputError
from lancedb_ft.memory import kept_memory
from lancedb_ft.store import ModelStore, ResolvedModel, resolve_model
from lancedb_ft.train.checks import (
    check_max_tokens,
    check_seed,
    check_texts_by_id,
    require_dev,
)
from lancedb_ft.train.compute import Compute, choose_compute, plain_attention
from lancedb_ft.train.dev import make_measured
from lancedb_ft.train.devset import Measured
from lancedb_ft.train.guards import MAX_REGRESSION, Guards, make_guards
from lancedb_ft.train.interpolate import (
    Trial,
    best_trial,
    interpolate,
    require_alphas,
    try_alphas,
    weights_of,
)
from lancedb_ft.train.places import check_name, store_uri, trained_before
from lancedb_ft.train.probe import ProbeData, Watch
from lancedb_ft.train.queries.under import refuse_query_only
from lancedb_ft.train.rotation import add_rotation, rotation_beyond
from lancedb_ft.train.runs import identity_hash
from lancedb_ft.train.token_limits import limit_tokens
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import ModelVersion, Pairs, Progress

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

__all__ = ["interpolate_models"]

#: What the version takes over from the tuned model: it was trained on the same.
_INHERITED = ("table", "data", "split", "seed", "matryoshka_dims")
_PACKAGES = ("torch", "transformers", "sentence-transformers")


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
        1, the tuned model as it is, may win. Both ends are measured in any case.
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
        Its manifest has the figures of every alpha. Its base is ``base``, which the figures of that
        name are of; its parent is ``tuned``. The same call again returns the same version.

    Raises
    ------
    NoGainError
        None beats the base on dev. Nothing was saved.
    RegressionError
        Those that do lose more than allowed on a probe. Nothing was saved.
    InputError
        The two are not of one architecture and vocabulary, or an argument cannot be used.
    StoreError
        Nothing can be saved in the store.
    """
    check_name(name)
    require_dev(dev)
    check_seed("seed", seed)
    check_max_tokens("max_tokens", max_tokens)
    check_texts_by_id("distractors", distractors)
    if alphas is not None:
        require_alphas(alphas)
    guards = make_guards(probe, max_regression=max_regression, interpolate=True)
    own = store or getattr(tuned, "store", None)
    models = ModelStore(store_uri(own, dev.source))
    ends = tuple(resolve_model(each, store=models.uri) for each in (base, tuned))
    for what, end in zip(("base", "tuned"), ends, strict=True):
        refuse_query_only(end, what)
    devset = make_measured(dev, [], seed=seed, distractors=distractors)
    measured = _Bench(devset, metric or devset.metric, choose_compute(device))
    identity = {
        "name": name,
        "between": [end.fingerprint for end in ends],
        "alphas": None if alphas is None else [float(alpha) for alpha in alphas],
        "max_tokens": max_tokens,
        "seed": seed,
        **measured.identity,
        **guards.identity,
    }
    run_id = identity_hash(identity)
    if (done := trained_before(models, name, run_id)) is not None:
        return done
    found = _Between(ends, measured, max_tokens)
    watch = found.watched(guards, seed)
    trials = found.try_all(alphas, watch, progress)
    asked = {0.0, *alphas} if alphas is not None else {trial.alpha for trial in trials}
    chosen = best_trial(
        [trial for trial in trials if trial.alpha in asked],
        watch,
        metric=measured.metric,
        n_queries=devset.n_queries,
    )
    return models.save(
        found.at(chosen.alpha),
        name=name,
        manifest={**_manifest(ends, models, measured, watch, trials, chosen), "run": run_id},
        rows=ModelStore(ends[1].store).rows(ends[1].ref) if ends[1].store else None,
    )


class _Between:
    """Two models of one architecture, and what lies between them."""

    def __init__(
        self, ends: Sequence[ResolvedModel], measured: _Bench, max_tokens: int | None
    ) -> None:
        self._measured = measured
        # The last is what is saved: measuring leaves its limits in the tokenizer of the others.
        copies = [_load(each, measured.compute) for each in (ends[0], ends[1], ends[1])]
        _check_vocabulary(copies[0], copies[1], ends)
        if (rotation := rotation_beyond(copies[0], copies[1])) is not None:
            # A version for shorter vectors ends with a rotation, which its base has not: with the
            # same one behind it the base has the same modules, and the cosines it had before.
            add_rotation(copies[0], rotation)
        self._weights = weights_of(copies[0]), weights_of(copies[1])
        interpolate(*self._weights, 0.5)  # whether they fit is said before anything is measured
        for copy in copies[:2]:
            limit_tokens(copy, max_tokens)
        self._base, self._scratch, self._saved = copies

    def watched(self, guards: Guards, seed: int) -> Watch:
        """Make the probes, of the base model."""
        with self._measured.computing(self._base):
            return guards.watch(Encoder.of(self._base), seed=seed, figures={})

    def try_all(
        self, alphas: Sequence[float] | None, watch: Watch, progress: Progress | None
    ) -> list[Trial]:
        """Measure both ends and what lies between; the tuned model too where it is not asked."""
        known = [self._measured.trial(self._base, 0.0, watch)]
        done = 1

        def measure(alpha: float) -> Trial:
            nonlocal done
            self._scratch.load_state_dict(interpolate(*self._weights, alpha))
            trial = self._measured.trial(self._scratch, alpha, watch)
            done += 1
            if progress is not None:
                progress(done, None)
            return trial

        trials = try_alphas(measure, alphas=alphas, known=known)
        return trials if trials[-1].alpha == 1 else [*trials, measure(1.0)]

    def at(self, alpha: float) -> SentenceTransformer:
        """Return the model there, with the limits of the tuned one."""
        self._saved.load_state_dict(interpolate(*self._weights, alpha))
        return self._saved


class _Bench:
    """Measures one model after the other."""

    def __init__(self, devset: Measured, metric: str, compute: Compute) -> None:
        devset.check_metric(metric)
        self.devset = devset
        self.metric = metric
        self.compute = compute

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides the figures."""
        return {
            "dev": self.devset.fingerprint,
            "metric": self.metric,
            "device": self.compute.device,
            "precision": self.compute.precision,
            "packages": {**{p: version(p) for p in _PACKAGES}, "lancedb-ft": __version__},
        }

    @contextlib.contextmanager
    def computing(self, model: SentenceTransformer) -> Iterator[None]:
        """Compute as a training would, within."""
        with kept_memory(), plain_attention(model, self.compute), self.compute.autocast():
            yield

    def trial(self, model: SentenceTransformer, alpha: float, watch: Watch) -> Trial:
        encoder = Encoder.of(model)
        with self.computing(model):
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
        # The model that the figures named "base" are of: alpha 0. The tuned one is the parent.
        "base": {"ref": base.ref, "fingerprint": base.fingerprint},
        "parent": tuned.ref if tuned.store == models.uri else None,
        "training": {**own.get("training", {}), "alpha": chosen.alpha, "tuned_model": tuned.ref},
        "interpolation": {
            "tuned": {"ref": tuned.ref, "fingerprint": tuned.fingerprint},
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
