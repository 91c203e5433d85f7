"""The forgetting check: queries the base model answers well, asked again at every evaluation.

A probe is built from documents alone, or from queries that the user names. What fine-tuning costs
there is bounded: a checkpoint that loses more is never the best.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeAlias

from lancedb_ft.arguments import is_number
from lancedb_ft.data.texts import normalise, stable_key
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate import compare, evaluate, exact_retriever
from lancedb_ft.evaluate.queries import TextEncoder
from lancedb_ft.train.devset import DevSet, Measured, choose_queries
from lancedb_ft.types import Estimate, Evaluation, Pairs

__all__ = [
    "PROBE_METRIC",
    "KeptDev",
    "Probe",
    "ProbeData",
    "Probed",
    "Watch",
    "build_probe",
    "check_max_regression",
    "name_probes",
    "probe_of_documents",
    "probes_fingerprint",
]

#: What a probe is measured by, whatever the dev set is measured by: a limit needs one meaning.
PROBE_METRIC = "ndcg@10"
#: What one probe is called, and the queries the user gives without a name.
DEFAULT_NAME = "probe"
#: Of documents: how many are looked at, and how many of them become queries.
CANDIDATES, MAX_OPENINGS = 600, 300
#: Of a probe that the user names: queries that are asked, by the seed.
MAX_QUERIES = 500
#: With fewer openings the figures say nothing.
MIN_OPENINGS = 20
#: The base model finds the document of an opening among so many.
FOUND_WITHIN = 3
_OPENING_WORDS = range(3, 41)
_REST_WORDS = 5
_BOUNDARY = re.compile(r"(?<=[.!?])\s+|\s*\n+\s*")
_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.@/ -]{0,79}$")


class Probed(Protocol):
    """What a model is asked at every evaluation, and may not lose."""

    @property
    def name(self) -> str:
        """Shown in errors, manifest and model card."""
        ...

    @property
    def metric(self) -> str:
        """What it is measured by."""
        ...

    @property
    def fingerprint(self) -> str:
        """SHA-256 over everything that decides its figures."""
        ...

    def measure(self, encoder: TextEncoder) -> Evaluation:
        """Measure a model as it is now."""
        ...


@dataclass(frozen=True)
class KeptDev:
    """The dev set of an earlier training, which the next one may not lose."""

    name: str
    devset: Measured

    @property
    def metric(self) -> str:
        """The metric of its type."""
        return self.devset.metric

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what is measured."""
        return self.devset.fingerprint

    def measure(self, encoder: TextEncoder) -> Evaluation:
        """Measure a model as it is now."""
        return self.devset.measure(encoder, self.metric, name=self.name)


@dataclass(frozen=True)
class Probe:
    """Queries with answers that a model must go on finding.

    Parameters
    ----------
    name
        Shown in errors, manifest and model card: letters, digits, ``_ . @ / -`` and spaces.
    pairs
        The queries with their documents.
    corpus
        ``{doc_id: text}`` they are looked up in; the documents of the pairs are added.

    Raises
    ------
    InputError
        There are no pairs, or the name cannot be used.
    """

    name: str
    pairs: Pairs
    corpus: Mapping[str, str] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Reject what could not be measured or named."""
        if not _NAME.fullmatch(self.name):
            raise InputError(
                f"{self.name!r} cannot be the name of a probe; use letters and digits."
            )
        if not len(self.pairs):
            raise InputError(f"The probe {self.name!r} has no pairs: there is nothing to ask.")
        object.__setattr__(self, "corpus", {**self.corpus, **self.pairs.corpus})

    @property
    def metric(self) -> str:
        """What it is measured by."""
        return PROBE_METRIC

    @property
    def n_queries(self) -> int:
        """Number of queries."""
        return len(self.pairs.qrels)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the pairs and the corpus."""
        return DevSet(self.pairs, self.corpus).fingerprint

    def measure(self, encoder: TextEncoder) -> Evaluation:
        """Encode the corpus, ask every query, and measure the answers by `PROBE_METRIC`."""
        retriever = exact_retriever(encoder, self.corpus)
        return evaluate(retriever, self.pairs, metrics=PROBE_METRIC, name=self.name)


#: What ``probe=`` takes: documents ``{doc_id: text}``, queries with their documents, a finished
#: probe, or several of these by name.
ProbeData: TypeAlias = "Pairs | Probe | Mapping[str, str] | Mapping[str, Any]"
_Source: TypeAlias = "Pairs | Probe | Mapping[str, str]"


def name_probes(given: ProbeData | None) -> dict[str, _Source]:
    """Return what to probe with, by name; one without a name is called ``probe``.

    Raises
    ------
    InputError
        It is something else than documents, pairs, a probe, or several of these by name.
    """
    if given is None:
        return {}
    if isinstance(given, Probe):
        return {given.name: given}
    if isinstance(given, Pairs):
        return {DEFAULT_NAME: given}
    if not isinstance(given, Mapping) or not given:
        raise InputError(
            f"probe is a {type(given).__name__}, or empty; it must be documents {{doc_id: text}}, "
            "Pairs, a Probe, or several of these by name: {'faq': pairs, 'manual': texts}."
        )
    if _are_documents(given):
        return {DEFAULT_NAME: given}
    named: Mapping[str, Any] = given
    for name, value in named.items():
        if not isinstance(value, (Pairs, Probe)) and not (value and _are_documents(value)):
            raise InputError(
                f"probe has a {type(value).__name__} under {str(name)!r}; among several probes by "
                "name each must be documents {doc_id: text}, Pairs or a Probe, and among documents "
                "each must be a text, or None where a row has none."
            )
    return {str(name): value for name, value in named.items()}


def _are_documents(value: Any) -> bool:
    """Say whether it is texts by id; a row without a text has None, and no query is made of it."""
    texts = value.values() if isinstance(value, Mapping) else (value,)
    return isinstance(value, Mapping) and all(t is None or isinstance(t, str) for t in texts)


def probes_fingerprint(sources: Mapping[str, _Source]) -> str:
    """Return the SHA-256 over what the probes are made from: known before a model is loaded."""
    digest = hashlib.sha256()
    for name, source in sources.items():
        digest.update(f"\x1d{name}\x1e".encode())
        if isinstance(source, (Pairs, Probe)):
            digest.update(source.fingerprint.encode())
            continue
        for doc_id, text in source.items():
            digest.update(f"{doc_id}\x1f{text}\x1e".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def build_probe(name: str, source: _Source, encoder: TextEncoder, *, seed: int) -> Probe:
    """Make one probe.

    Parameters
    ----------
    name
        Its name.
    source
        Documents: see `probe_of_documents`. Pairs: up to 500 queries of them, chosen by ``seed``,
        among all their documents.
    encoder
        Of the base model.
    """
    if isinstance(source, Probe):
        return Probe(name, source.pairs, source.corpus)
    if isinstance(source, Pairs):
        if not len(source):
            raise InputError(f"The probe {name!r} has no pairs: there is nothing to ask.")
        return Probe(name, choose_queries(source, MAX_QUERIES, seed), source.corpus)
    return probe_of_documents(name, source, encoder, seed=seed)


def probe_of_documents(
    name: str, documents: Mapping[str, str], encoder: TextEncoder, *, seed: int
) -> Probe:
    """Make queries of documents: the opening sentence or title asks for the rest.

    Of up to 600 documents, chosen by ``seed``, those count whose rest the base model finds among
    the first 3 by their opening; up to 300 of them are asked. They are chosen because the base
    finds them, so another model that is as good is a little lower on them.

    Parameters
    ----------
    name
        Of the probe.
    documents
        ``{doc_id: text}``, such as general documents of the table, in no need of queries.
    encoder
        Of the base model.
    seed
        Chooses documents.

    Raises
    ------
    InputError
        Fewer than 20 documents make a query that the base model can answer.
    """
    openings: dict[str, str] = {}
    rests: dict[str, str] = {}
    seen: set[str] = set()
    for doc_id in sorted(documents, key=lambda doc_id: stable_key(seed, str(doc_id))):
        parts = _opening_and_rest(documents[doc_id])
        if parts is None or not seen.isdisjoint(map(normalise, parts)):
            continue
        seen.update(map(normalise, parts))
        openings[str(doc_id)], rests[str(doc_id)] = parts
        if len(rests) == CANDIDATES:
            break
    if len(rests) < MIN_OPENINGS:
        raise InputError(_too_few(name, len(rests), len(documents), "have a sentence and more"))
    found = exact_retriever(encoder, rests)(openings, FOUND_WITHIN)
    kept = [doc_id for doc_id in rests if doc_id in found.get(doc_id, {})][:MAX_OPENINGS]
    if len(kept) < MIN_OPENINGS:
        raise InputError(_too_few(name, len(kept), len(rests), "are found by their first sentence"))
    rows = [(doc_id, openings[doc_id], doc_id, rests[doc_id]) for doc_id in kept]
    return Probe(name, Pairs.of(rows), rests)


def _opening_and_rest(text: str | None) -> tuple[str, str] | None:
    parts = _BOUNDARY.split((text or "").strip(), maxsplit=1)
    if len(parts) < 2 or len(parts[0].split()) not in _OPENING_WORDS:
        return None
    return (parts[0], parts[1]) if len(parts[1].split()) >= _REST_WORDS else None


def _too_few(name: str, n_found: int, n_documents: int, what: str) -> str:
    return (
        f"Only {n_found} of {n_documents} documents of the probe {name!r} {what}; {MIN_OPENINGS} "
        "are needed. Give more documents, or queries with their documents as Pairs."
    )


def check_max_regression(value: float | None) -> None:
    """Raise `InputError` unless it is None or a share."""
    if value is not None and (not is_number(value) or not 0 <= value <= 1):
        raise InputError(
            f"max_regression is {value!r}; it is how far the figure of a probe may fall, 0 to 1, "
            "or None to measure only."
        )


# --- during a run --------------------------------------------------------------------------


class Watch:
    """Follows the probes of one run, step by step.

    Parameters
    ----------
    probes
        What is asked at each evaluation; may be none.
    max_regression
        How far the figure of any of them may fall below the base. None: it is only measured.
    figures
        Of the steps measured before: see `figures`.
    """

    def __init__(
        self,
        probes: Sequence[Probed],
        max_regression: float | None,
        figures: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> None:
        self.probes = list(probes)
        self.max_regression = max_regression
        #: ``{step: {probe: {"n", "mean", "ci95", "values"}}}``, one value a query where there are
        #: such. Step 0 is the base.
        self.figures: dict[int, Mapping[str, Any]] = dict(figures or {})

    def measure(self, encoder: TextEncoder) -> dict[str, Any]:
        """Return the figures of a model as it is now, by probe."""
        return {p.name: _to_dict(p.measure(encoder), p.metric) for p in self.probes}

    def lost(self, figures: Mapping[str, Any]) -> dict[str, float]:
        """Return how much lower than the base a model is on each probe; negative where higher."""
        base = self.figures.get(0, {})
        return {name: float(base[name]["mean"] - figures[name]["mean"]) for name in figures}

    def within(self, figures: Mapping[str, Any]) -> bool:
        """Say whether a model with these figures lost no more than it may."""
        if self.max_regression is None:
            return True
        # Figures are means of few values; a limit of 0.02 is not missed by the rounding of a sum.
        return all(lost <= self.max_regression + 1e-9 for lost in self.lost(figures).values())

    def worst(self, figures: Mapping[str, Any]) -> str:
        """Return the name of the probe that lost most."""
        lost = self.lost(figures)
        return max(lost, key=lambda name: lost[name])

    def told(self, step: int) -> dict[str, Any] | None:
        """Return the figures of a step, ``{probe: {"mean", "ci95"}}``; None without probes."""
        return {
            name: {"mean": figures["mean"], "ci95": figures["ci95"]}
            for name, figures in self.figures.get(step, {}).items()
        } or None

    def curves(self) -> dict[str, dict[int, float]]:
        """Return ``{probe: {step: mean}}``."""
        return {
            probe.name: {step: float(f[probe.name]["mean"]) for step, f in self.figures.items()}
            for probe in self.probes
        }

    def report(self, tuned: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a manifest says of the probes, ``tuned`` being the figures of what is saved.

        ``{probe: {"n", "base", "tuned", "delta"}}``, the differences paired by query.
        """
        return {
            p.name: _report(self.figures[0][p.name], tuned[p.name], p.metric) for p in self.probes
        }


def _to_dict(evaluation: Evaluation, metric: str) -> dict[str, Any]:
    values = list(evaluation.per_query.get(metric, {}).values())
    return {"n": evaluation.n, **evaluation.metrics[metric].to_dict(), "values": values}


def _report(base: Mapping[str, Any], tuned: Mapping[str, Any], metric: str) -> dict[str, Any]:
    if base["values"]:
        both = (_evaluation(figures, metric) for figures in (base, tuned))
        return compare(*both).to_dict()
    found = {
        which: {metric: {"mean": figures["mean"], "ci95": figures["ci95"]}}
        for which, figures in (("base", base), ("tuned", tuned))
    }
    return {"n": base["n"], **found, "delta": {metric: {"mean": tuned["mean"] - base["mean"]}}}


def _evaluation(figures: Mapping[str, Any], metric: str) -> Evaluation:
    low, high = figures["ci95"]
    estimate = Estimate(figures["mean"], (low, high), figures["n"])
    per_query = {str(n): float(value) for n, value in enumerate(figures["values"])}
    return Evaluation("", figures["n"], {metric: estimate}, {metric: per_query})
