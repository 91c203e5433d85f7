"""What keeps a training from doing harm: probes, the parent's dev set, interpolation, replay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lancedb_ft.data.shared_texts import check_disjoint
from lancedb_ft.errors import InputError, LeakError
from lancedb_ft.evaluate.queries import TextEncoder
from lancedb_ft.store import ModelStore, ResolvedModel
from lancedb_ft.train.checks import require_dev
from lancedb_ft.train.dev import hold_out_of_first
from lancedb_ft.train.probe import (
    Probed,
    ProbeData,
    Watch,
    build_probe,
    check_max_regression,
    name_probes,
    probes_fingerprint,
)
from lancedb_ft.train.queries.under import refuse_query_only
from lancedb_ft.train.replay import Past, check_replay, kept_dev, recall, replayed
from lancedb_ft.training_sets import TrainingSet
from lancedb_ft.types import Pairs

__all__ = ["MAX_REGRESSION", "UNGUARDED", "Guards", "Learned", "go_on", "make_guards"]

#: How far the figure of a probe may fall where nothing else is said: less than an interval over 300
#: queries tells from chance, more than rounding does.
MAX_REGRESSION = 0.02


@dataclass(frozen=True)
class Guards:
    """What a run is held to.

    Parameters
    ----------
    sources
        What probes are made from, by name.
    kept
        Probes that are made already: the parent's dev set.
    max_regression
        How far the figure of any of them may fall; None: it is only measured.
    interpolate
        Choose the weights between base and tuned model on dev.
    replay
        What is replayed, for the manifest.
    """

    sources: Mapping[str, Any] = field(default_factory=dict, repr=False)
    kept: Sequence[Probed] = ()
    max_regression: float | None = MAX_REGRESSION
    interpolate: bool = False
    replay: Mapping[str, Any] | None = None

    @property
    def identity(self) -> dict[str, Any]:
        """What of it decides the result; empty where there is nothing to hold to."""
        found: dict[str, Any] = {}
        if self.interpolate:
            found["interpolate"] = True
        if self.sources or self.kept:
            found["probes"] = probes_fingerprint(self.sources)
            found["kept"] = [probe.fingerprint for probe in self.kept]
            found["max_regression"] = self.max_regression
        return found

    def watch(self, encoder: TextEncoder, *, seed: int, figures: Mapping[int, Any]) -> Watch:
        """Make the probes, and follow them.

        Parameters
        ----------
        encoder
            Of the base model, before a step was trained.
        seed
            Of the choice of documents and queries.
        figures
            Of steps that an earlier process measured.
        """
        made = [
            build_probe(name, source, encoder, seed=seed) for name, source in self.sources.items()
        ]
        return Watch([*made, *self.kept], self.max_regression, figures)

    def to_dict(self) -> dict[str, Any]:
        """Return what the manifest says: no text."""
        found: dict[str, Any] = {"max_regression": self.max_regression}
        found["probes"] = [*self.sources, *(probe.name for probe in self.kept)]
        found["interpolate"] = self.interpolate
        if self.replay is not None:
            found["replay"] = dict(self.replay)
        return found


def make_guards(
    probe: ProbeData | None, *, max_regression: float | None, interpolate: bool
) -> Guards:
    """Check what the user asked for.

    Raises
    ------
    InputError
        A probe or a limit is none.
    """
    check_max_regression(max_regression)
    return Guards(name_probes(probe), (), max_regression, interpolate)


#: A run that is held to nothing.
UNGUARDED = Guards()


@dataclass(frozen=True)
class Learned:
    """What is trained on and measured on when a stored version goes on."""

    data: list[Pairs | TrainingSet] = field(repr=False)
    dev: Pairs | TrainingSet = field(repr=False)
    split: Mapping[str, Any]
    guards: Guards


def go_on(
    base: ResolvedModel,
    new: Sequence[Pairs | TrainingSet],
    dev: Pairs | TrainingSet | None,
    guards: Guards,
    *,
    share: float,
    seed: int,
    split: Mapping[str, Any] | None = None,
    data: Sequence[Pairs | TrainingSet] | None = None,
    old_dev: Pairs | TrainingSet | None = None,
) -> Learned:
    """Put old rows beside the new, and the old dev set among the probes.

    Parameters
    ----------
    base
        A version of a store.
    new, dev
        As for `lancedb_ft.train.train`.
    guards
        To which the old dev set is added.
    share
        Of old rows in what is trained on, see `replayed`.
    seed
        Chooses them.
    split
        How the new data were divided, as far as that is known.
    data, old_dev
        What the parent was trained on and measured on; read again where they are None.

    Raises
    ------
    LeakError
        ``base`` was trained on what is measured.
    InputError
        ``base`` is not of a store, or its data cannot be found.
    """
    check_replay(share)
    if base.store is None:
        raise InputError(
            f"replay needs a version that was trained before, such as 'support@2', and the base is "
            f"{base.ref!r}. Leave replay out, or name a version of a store."
        )
    refuse_query_only(base, "base")
    store = ModelStore(base.store)
    parent = store.load(base.ref)
    parent_seed = int(parent.manifest.get("seed") or 0)
    past = recall(base.ref, store.rows(base.ref), seed=parent_seed, data=data, dev=old_dev)
    how = dict(split or {})
    sets = list(new)
    if dev is None:
        sets, dev, how["dev"] = hold_out_of_first(sets, seed=seed)
    require_dev(dev)
    _check_unknown(past, dev)
    n_new = sum(map(len, sets))
    old, figures = replayed(past, n_new, share, [dev, past.dev], seed=seed)
    probe, left = kept_dev(past, [*sets, *old])
    kept = (*guards.kept, probe)
    told = {**figures, "n_new_rows": n_new, "dev": left}
    return Learned([*sets, *old], dev, how, replace(guards, kept=kept, replay=told))


def _check_unknown(past: Past, dev: Pairs | TrainingSet) -> None:
    """Refuse a dev set that the parent knows by heart: the figure to beat would be too good."""
    for each in past.data:
        try:
            check_disjoint(each, dev)
        except LeakError as error:
            raise LeakError(
                f"{error.n_leaks} texts of the dev set are what {past.ref} was trained on: it "
                "knows them, and neither its figure nor that of what follows would be one of "
                "texts never seen. Pass dev= rows that it was not trained on, and leave its own "
                "rows out of the new data: replay gives them.",
                n_leaks=error.n_leaks,
                examples=error.examples,
            ) from error
