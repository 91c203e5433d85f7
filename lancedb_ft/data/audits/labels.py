"""Wrong labels, found by asking a model whether the rows are better than chance.

Each check compares what a model finds with what it would find if labels and texts were put
together at random, and so says how many rows look like chance, not how good the model is:

* pairs: the share of other documents that are nearer to the query than its own. Of wrong pairs
  that share is uniform between 0 and 1, as the p-value of a true null hypothesis is, so the share
  of wrong pairs is that of Storey, "A direct approach to false discovery rates", J. R. Statist.
  Soc. B 64 (2002), 479-498: ``#{share > 1/2} / (n / 2)``.
* labelled texts: what the nearest neighbours say, and confident learning (Northcutt et al.,
  arXiv:1911.00068) over their votes.
* scored pairs: how far apart the ranks of score and cosine are, again against chance.

With all-MiniLM-L6-v2 and 400 pairs each of API docs, tldr, medquad, scifact and squad_part, as
they are and with 10 % and 30 % of the documents exchanged, the share of wrong pairs was estimated
as .005 to .040, .100 to .155 and .290 to .335. Named are so many rows as are wrong at least, the
most suspect: of 240 API docs with 30 % exchanged, 58 rows, 56 of them wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from lancedb_ft.data.audits.problems import Problem, Severity
from lancedb_ft.data.audits.view import Ints, Judged, View
from lancedb_ft.data.texts import normalise

if TYPE_CHECKING:
    from lancedb_ft.encoder import Encoder
    from lancedb_ft.types import Progress

__all__ = ["SAMPLE_ROWS", "label_problems"]

#: Rows that are judged; the interval of a share of 30 % is then +- 3 %.
SAMPLE_ROWS = 2_000

#: Fewer rows, or fewer distinct texts on a side, say nothing.
_MIN_ROWS, _MIN_TEXTS = 50, 10
#: From which share on, with 97.5 % confidence, wrong labels are a warning, and an error.
_WARNING, _ERROR = 0.03, 0.10
#: And from which it must be asked whether the model knows the language of these texts at all.
_HOPELESS = 0.8
#: Above this, a row looks like chance: half of those that are chance lie there.
_HALF = 0.5
_BLOCK = 1_024

Floats = npt.NDArray[np.float64]
Vectors = npt.NDArray[np.float32]


def label_problems(
    view: View,
    where: str,
    encoder: Encoder,
    *,
    sample_rows: int = SAMPLE_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[Problem]:
    """Estimate how many rows are labelled wrongly, and name those that most likely are.

    Parameters
    ----------
    view
        The set.
    where
        What to call it.
    encoder
        A model that knows the language of the texts: the one the training starts from.
    sample_rows
        Of more rows, so many are drawn at random and judged.
    seed
        Of that choice.
    progress
        Called as ``progress(texts encoded, texts)``, anew for each side.
    """
    model = _Model(encoder, progress)
    dice = np.random.default_rng(seed)
    found: list[Problem] = []
    if len(view.positives):
        found += _wrong_pairs(_sample(view.positives, sample_rows, dice), view, where, model)
    if view.kind == "labelled":
        found += _wrong_labels(view, _places(view.n_rows, sample_rows, dice), where, model)
    if view.scores is not None:
        found += _wrong_scores(view, _places(view.n_rows, sample_rows, dice), where, model)
    return found


@dataclass(frozen=True)
class _Model:
    encoder: Encoder
    progress: Progress | None

    def vectors(self, texts: Sequence[str], *, query: bool = False) -> Vectors:
        """Return unit vectors, shape ``(n, dims)``."""
        array = self.encoder.encode(
            texts, kind="query" if query else "document", progress=self.progress
        )
        vectors = np.asarray(array.values, np.float32).reshape(len(texts), -1)
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        unit: Vectors = (vectors / np.maximum(norms, 1e-12)).astype(np.float32)
        return unit


def _places(n: int, n_wanted: int, dice: np.random.Generator) -> Ints:
    if n <= n_wanted:
        return np.arange(n, dtype=np.int64)
    return np.sort(dice.choice(n, n_wanted, replace=False)).astype(np.int64)


def _sample(judged: Judged, n_wanted: int, dice: np.random.Generator) -> Judged:
    return judged.take(_places(len(judged), n_wanted, dice))


# --- the share of chance --------------------------------------------------------------------


class _Share(NamedTuple):
    """An estimated share of wrong rows, and the lower end of its 95 % interval."""

    mean: float
    low: float


def _share_of_chance(n_above: int, n: int, chance: float) -> _Share:
    """Return the share of rows that are chance, if a chance row lies above with ``chance``."""
    z = 1.96  # Wilson's interval
    p, spread = n_above / n, 1 + z * z / n
    half = z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / spread
    low = max(0.0, (p + z * z / (2 * n)) / spread - half)
    return _Share(min(1.0, p / chance), min(1.0, float(low) / chance))


def _suspects(values: Floats, share: float) -> Ints:
    """Return the places of the highest values, as many as are chance, the most likely first.

    Parameters
    ----------
    values
        Shape ``(n,)``: how much like chance each row looks.
    share
        Share of the rows that is chance.
    """
    named: Ints = np.argsort(-values, kind="stable")[: round(share * len(values))]
    return named


def _severity(low: float) -> Severity:
    if low >= _ERROR:
        return "error"
    return "warning" if low >= _WARNING else "note"


def _found(
    name: str, where: str, share: _Share, n_all: int, rows: Sequence[int], told: str
) -> Iterator[Problem]:
    """Yield the problem, unless it is too small to be told from none."""
    if share.low >= _HOPELESS:
        told = (
            f"{share.mean:.0%} of the rows look like texts and labels put together at random. "
            "Either they are (columns of different orders?), or this model does not know the "
            "language of these texts: read some rows, and try another model."
        )
        rows = ()
    elif share.low < _WARNING:
        return
    n_wrong = round(share.mean * n_all)
    yield Problem(name, _severity(share.low), where, n_wrong, share.mean, told, tuple(rows))


# --- pairs ----------------------------------------------------------------------------------


def _wrong_pairs(judged: Judged, view: View, where: str, model: _Model) -> Iterator[Problem]:
    texts = list(dict.fromkeys(normalise(text) for text in judged.documents))
    if len(judged) < _MIN_ROWS or len(texts) < _MIN_TEXTS:
        return
    nearer = _share_nearer(judged, view, texts, model)
    n_above = int((nearer > _HALF).sum())
    share = _share_of_chance(n_above, len(judged), 1 - _HALF)
    suspects = judged.rows[_suspects(nearer, share.low)]
    told = (
        f"About {share.mean:.0%} of the pairs are no better than chance (at least {share.low:.0%}, "
        f"of {len(judged)} judged): for {n_above} of them most other documents are nearer to the "
        f"query than its own. Read the {len(suspects)} most suspect rows, leave out what is wrong, "
        "and look for the cause (shifted columns, wrong join, clicks without interest)."
    )
    yield from _found("wrong pairs", where, share, len(view.positives), suspects.tolist(), told)


def _share_nearer(judged: Judged, view: View, texts: Sequence[str], model: _Model) -> Floats:
    """Return for each pair the share of other documents that are nearer to its query."""
    place_of = {text: place for place, text in enumerate(texts)}
    answers: dict[str, set[int]] = {}
    everyone = view.positives
    for query, document in zip(everyone.queries, everyone.documents, strict=True):
        if (text := normalise(document)) in place_of:
            answers.setdefault(normalise(query), set()).add(place_of[text])
    queries = model.vectors(judged.queries, query=True)
    documents = model.vectors(texts)
    own = np.array([place_of[normalise(text)] for text in judged.documents], np.int64)
    nearer = np.empty(len(judged), np.float64)
    for start in range(0, len(judged), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(judged)))
        cosines = queries[rows] @ documents.T
        mine = cosines[np.arange(len(rows)), own[rows]][:, None]
        counted = (cosines > mine) + _HALF * (cosines == mine)
        for line, row in enumerate(rows.tolist()):
            right = sorted(answers[normalise(judged.queries[row])])
            counted[line, right] = 0.0
            nearer[row] = counted[line].sum() / max(1, len(texts) - len(right))
    return nearer


# --- labels ---------------------------------------------------------------------------------

#: Neighbours that vote on the label of a text.
_NEIGHBOURS = 10


def _wrong_labels(view: View, places: Ints, where: str, model: _Model) -> Iterator[Problem]:
    given = np.asarray(view.labels, object)[places]
    names, labels, counts = np.unique(given.astype(str), return_inverse=True, return_counts=True)
    # A label of few rows has no neighbours of its own to speak for it.
    judged = np.flatnonzero(counts[labels] > _MIN_OF_LABEL)
    if len(judged) < _MIN_ROWS or len(np.unique(labels[judged])) < 2:
        return
    texts = [view.sides[0].texts[place] for place in places[judged].tolist()]
    votes = _neighbour_votes(model.vectors(texts), labels[judged], len(names))
    suspect, better = _confident_errors(votes, labels[judged])
    n = len(judged)
    share = _share_of_chance(int(suspect.sum()), n, 1.0)
    doubt = votes[np.arange(n), labels[judged]] - votes[np.arange(n), better]
    order = [place for place in np.argsort(doubt, kind="stable").tolist() if suspect[place]]
    rows = places[judged][order]
    shown = f"row {rows[0]} is {given[judged][order[0]]!r}" if len(rows) else ""
    other = f", its neighbours are {names[better[order[0]]]!r}" if len(rows) else ""
    told = (
        f"About {share.mean:.0%} of the labels contradict those of similar texts (at least "
        f"{share.low:.0%}, of {n} judged): {shown}{other}. Read the {len(rows)} rows named, mend "
        "or leave out what is wrong, and merge labels that nobody can tell apart."
    )
    yield from _found("wrong labels", where, share, view.n_rows, rows.tolist(), told)


_MIN_OF_LABEL = 3


def _neighbour_votes(vectors: Vectors, labels: Ints, n_labels: int) -> Floats:
    """Return ``(n, labels)``: the share of the nearest other texts that have each label."""
    k = min(_NEIGHBOURS, len(vectors) - 1)
    votes = np.zeros((len(vectors), n_labels), np.float64)
    for start in range(0, len(vectors), _BLOCK):
        rows = np.arange(start, min(start + _BLOCK, len(vectors)))
        cosines = vectors[rows] @ vectors.T
        cosines[np.arange(len(rows)), rows] = -np.inf
        nearest = np.argpartition(-cosines, k - 1, axis=1)[:, :k]
        np.add.at(votes, (np.repeat(rows, k), labels[nearest].ravel()), 1 / k)
    return votes


def _confident_errors(votes: Floats, labels: Ints) -> tuple[npt.NDArray[np.bool_], Ints]:
    """Return which rows confidently belong to another label, and to which.

    The confident joint of Northcutt et al. (2021), section 3.1: a row counts as label ``j`` if its
    probability of ``j`` is at least the mean of that probability among the rows given ``j``; of
    several, the most probable.

    Parameters
    ----------
    votes
        Shape ``(n, labels)``: probabilities from other rows only.
    labels
        Shape ``(n,)``: the labels as given.
    """
    n_labels = votes.shape[1]
    threshold = np.full(n_labels, np.inf)
    for label in np.unique(labels):
        threshold[label] = votes[labels == label, label].mean()
    confident = np.where(votes >= np.maximum(threshold, 1e-9), votes, -1.0)
    best = np.asarray(confident.argmax(axis=1), np.int64)
    is_confident = confident[np.arange(len(labels)), best] > 0
    # A tie is no contradiction.
    more = votes[np.arange(len(labels)), best] > votes[np.arange(len(labels)), labels]
    wrong: npt.NDArray[np.bool_] = is_confident & (best != labels) & more
    return wrong, best


# --- scores ---------------------------------------------------------------------------------


def _wrong_scores(view: View, places: Ints, where: str, model: _Model) -> Iterator[Problem]:
    if view.scores is None or len(places) < _MIN_ROWS:
        return
    scores = _ranks(view.scores[places])
    if len(np.unique(scores)) < 2:
        return  # told as "scores all alike"
    sides = [[side.texts[place] for place in places.tolist()] for side in view.sides]
    left, right = (model.vectors(texts) for texts in sides)
    cosines = _ranks(np.einsum("nd,nd->n", left, right))
    apart = np.abs(scores - cosines)
    # How far apart each cosine is from a score drawn at random: ties of the scores are in it.
    chance = np.abs(cosines[:, None] - scores[None, :])
    n_above, chance_half = int((apart > _HALF).sum()), float((chance > _HALF).mean())
    share = _share_of_chance(n_above, len(places), max(chance_half, 1e-9))
    rows = places[_suspects(apart, share.low)]
    correlation = float(np.corrcoef(scores, cosines)[0, 1])
    told = (
        f"About {share.mean:.0%} of the scores are no better than chance (at least "
        f"{share.low:.0%}, of {len(places)} judged; rank correlation with the model "
        f"{correlation:.2f}). Read the {len(rows)} most suspect rows, mend or leave out what is "
        "wrong, and check that a high score means alike."
    )
    yield from _found("wrong scores", where, share, view.n_rows, rows.tolist(), told)


def _ranks(values: npt.NDArray[Any]) -> Floats:
    """Return ranks from 0 to 1, the mean rank for ties."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    middles = ends - (counts + 1) / 2
    ranks: Floats = middles[inverse] / max(1, len(values) - 1)
    return ranks
