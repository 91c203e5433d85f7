"""Prove that a split is clean, and say what is wrong with data before it is trained on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from lancedb_ft.data.audits.figures import SetFigures, set_figures
from lancedb_ft.data.audits.labels import SAMPLE_ROWS, label_problems
from lancedb_ft.data.audits.problems import Problem, problem, text_problems
from lancedb_ft.data.audits.view import view_of
from lancedb_ft.data.leaks import Leak, find_leaks
from lancedb_ft.data.shared_texts import find_shared_texts
from lancedb_ft.errors import BadDataError, InputError, LeakError
from lancedb_ft.training_sets import TrainingSet, TrainingSplit
from lancedb_ft.types import Pairs, Split

if TYPE_CHECKING:
    from lancedb_ft.encoder import Encoder
    from lancedb_ft.types import Progress

__all__ = ["AuditReport", "Audited", "audit"]

_MAX_EXAMPLES = 10
_SEVERITIES = ("error", "warning", "note")

#: What can be audited: a split, a set, or several that are to be trained together.
Audited: TypeAlias = Split | TrainingSplit | TrainingSet | Pairs | Sequence[TrainingSet | Pairs]


@dataclass(frozen=True)
class AuditReport:
    """What an audit found.

    Parameters
    ----------
    parts
        Figures by the name of the part; of a single set, by its own name or its type.
    problems
        What is wrong, the worst first.
    n_leaks
        How many leaks of each sort: ``"document near"``, ``"query text"`` and so on.
    examples
        Up to ten leaks of each sort.
    threshold
        Similarity from which texts counted as near-duplicates.
    near_duplicates
        Whether they were looked for.
    model
        The model that counted tokens and judged labels; None if there was none.
    max_tokens
        Longer texts counted as cut; None for the model's own limit.
    """

    parts: Mapping[str, SetFigures]
    problems: tuple[Problem, ...] = ()
    n_leaks: Mapping[str, int] = field(default_factory=dict)
    examples: tuple[Leak, ...] = ()
    threshold: float = 0.8
    near_duplicates: bool = True
    model: str | None = None
    max_tokens: int | None = None

    @property
    def ok(self) -> bool:
        """Whether nothing found is an error."""
        return not self.errors

    @property
    def errors(self) -> tuple[Problem, ...]:
        """The problems that forbid training or testing on the data."""
        return tuple(found for found in self.problems if found.severity == "error")

    def of(self, name: str) -> tuple[Problem, ...]:
        """Return the problems of that name, of every part.

        Examples
        --------
        >>> rows = [(f"q{i}", f"question {i % 5} of many", "d", "the answer") for i in range(6)]
        >>> [(found.n, found.rows) for found in audit(Pairs.of(rows)).of("duplicate rows")]
        [(1, (5,))]
        """
        return tuple(found for found in self.problems if found.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "ok": self.ok,
            "model": self.model,
            "max_tokens": self.max_tokens,
            "threshold": self.threshold,
            "near_duplicates": self.near_duplicates,
            "problems": [found.to_dict() for found in self.problems],
            "parts": {name: figures.to_dict() for name, figures in self.parts.items()},
            "n_leaks": dict(self.n_leaks),
            "examples": [leak.to_dict() for leak in self.examples],
        }

    def check(self) -> AuditReport:
        """Return this report if nothing in it is an error.

        Raises
        ------
        LeakError
            Something stands in two parts; a test on such a split measures memory.
        BadDataError
            Another error was found, such as positives that stand as negatives.
        """
        if self.n_leaks:
            told = ", ".join(f"{n} x {sort}" for sort, n in self.n_leaks.items())
            shown = self.examples[0]
            raise LeakError(
                f"The split leaks: {told}. For example the {shown.kind} {shown.left[:80]!r} of "
                f"{shown.parts[0]} is in {shown.parts[1]} as {shown.right[:80]!r}. Make the split "
                "with split_pairs, or remove the leaking training pairs with drop_leaks(split).",
                n_leaks=sum(self.n_leaks.values()),
                examples=[leak.to_dict() for leak in self.examples],
            )
        if self.errors:
            raise BadDataError(found.to_dict() for found in self.errors)
        return self


def audit(
    data: Audited,
    *,
    encoder: Encoder | None = None,
    max_tokens: int | None = None,
    threshold: float | None = None,
    near_duplicates: bool | None = None,
    sample_rows: int = SAMPLE_ROWS,
    seed: int = 0,
    progress: Progress | None = None,
) -> AuditReport:
    """Look for what makes training data teach the wrong thing, and name it.

    Of a split, every query and every document of each part is compared with those of the other
    parts. Equal ids, equal texts and near-duplicates are all found: the comparison is exact, so a
    split that passes is clean at this threshold.

    Of each part, or of a single set: duplicates and near-duplicates, positives that stand as
    negatives, rows that contradict each other, the spread of lengths, labels and scores.

    With a model also: how many texts are cut, and how many rows are labelled wrongly (see
    `lancedb_ft.data.audits.labels`). It finds pairs that have nothing to do with each other; a
    wrong answer about the right thing it takes for right.

    Parameters
    ----------
    data
        A split, a set, or several sets; they may come from anywhere.
    encoder
        The model that training would start from.
    max_tokens
        Longer texts count as cut; needs ``encoder``. None: the model's own limit.
    threshold
        Jaccard similarity from which two texts are near-duplicates, 0.5 to 1: of their three-word
        runs for documents, of their words for queries. By default what the split was made with,
        or 0.8.
    near_duplicates
        Whether to look for them. By default as the split was made, or True.
    sample_rows
        So many rows of each part are judged by the model, drawn by ``seed``.
    seed
        Of that choice.
    progress
        Called as ``progress(texts encoded, texts)``, anew for each side of each part.

    Raises
    ------
    InputError
        ``max_tokens`` without a model to count them, or a number is out of its range.
    """
    _check(encoder, max_tokens, sample_rows)
    info = data.info if isinstance(data, (Split, TrainingSplit)) else {}
    chosen = float(info.get("threshold", 0.8)) if threshold is None else threshold
    look = info.get("near_duplicates", True) if near_duplicates is None else near_duplicates
    parts: dict[str, SetFigures] = {}
    problems: list[Problem] = []
    sets = _parts(data)
    for name, part in sets.items():
        view = view_of(part)
        parts[name] = set_figures(view, encoder=encoder, max_tokens=max_tokens)
        # A split may leave a part out: how much each must have is for its user to say.
        if not view.n_rows and len(sets) > 1:
            continue
        problems += text_problems(
            view, parts[name], name, threshold=chosen, near_duplicates=bool(look)
        )
        if encoder is not None:
            problems += label_problems(
                view, name, encoder, sample_rows=sample_rows, seed=seed, progress=progress
            )
    if isinstance(data, Split):
        problems += _removed_leaks(data)
    n_leaks, examples = _counted(_leaks(data, chosen, bool(look)))
    if n_leaks:
        problems.insert(0, _leak_problem(n_leaks, examples, parts))
    problems.sort(key=lambda found: _SEVERITIES.index(found.severity))
    return AuditReport(
        parts=parts,
        problems=tuple(problems),
        n_leaks=n_leaks,
        examples=examples,
        threshold=chosen,
        near_duplicates=bool(look),
        model=encoder.ref if encoder is not None else None,
        max_tokens=max_tokens,
    )


def _check(encoder: Encoder | None, max_tokens: int | None, sample_rows: int) -> None:
    if max_tokens is not None and encoder is None:
        raise InputError(
            "max_tokens needs a model to count tokens with: pass encoder=get_encoder(...), or "
            "--model."
        )
    if max_tokens is not None and max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}; it must be 1 or more.")
    if sample_rows < 1:
        raise InputError(f"sample_rows is {sample_rows}; it must be 1 or more.")


def _parts(data: Audited) -> dict[str, TrainingSet]:
    if isinstance(data, Split):
        return {name: TrainingSet.of_pairs(pairs) for name, pairs in data.parts().items()}
    if isinstance(data, TrainingSplit):
        return data.parts()
    parts: dict[str, TrainingSet] = {}
    for each in [data] if isinstance(data, (TrainingSet, Pairs)) else data:
        made = TrainingSet.of_pairs(each) if isinstance(each, Pairs) else each
        name = made.name or made.kind
        parts[f"{name} {len(parts) + 1}" if name in parts else name] = made
    return parts


def _leaks(data: Audited, threshold: float, near_duplicates: bool) -> Iterator[Leak]:
    if isinstance(data, Split):
        yield from find_leaks(data.parts(), threshold=threshold, near_duplicates=near_duplicates)
    if not isinstance(data, TrainingSplit):
        return
    parts = list(data.parts().items())
    for position, (name, trained) in enumerate(parts):
        for other, held_out in parts[position + 1 :]:
            for leak in find_shared_texts(
                trained, held_out, threshold=threshold, near_duplicates=near_duplicates
            ):
                yield replace(leak, parts=(name, other))


def _counted(leaks: Iterator[Leak]) -> tuple[dict[str, int], tuple[Leak, ...]]:
    counts: Counter[str] = Counter()
    examples = []
    for leak in leaks:
        sort = f"{leak.kind} {leak.how}"
        counts[sort] += 1
        if counts[sort] <= _MAX_EXAMPLES:
            examples.append(leak)
    return dict(counts), tuple(examples)


def _removed_leaks(split: Split) -> Iterator[Problem]:
    """Tell what `drop_leaks` took out when the split was read: its source still leaks."""
    dropped = {name: int(n) for name, n in split.info.get("dropped", {}).items() if n}
    for name, n in dropped.items():
        n_all = n + len(split.parts()[name])
        told = (
            f"{n} of {n_all} pairs were removed when the split was read, since later parts have "
            "the same or nearly the same text. This split is clean; its source is not."
        )
        yield problem("leaks removed", name, n, n_all, told)


def _leak_problem(
    n_leaks: Mapping[str, int], examples: tuple[Leak, ...], parts: Mapping[str, SetFigures]
) -> Problem:
    n = sum(n_leaks.values())
    told = ", ".join(f"{count} x {sort}" for sort, count in n_leaks.items())
    held_out = sum(figures.n_rows for name, figures in parts.items() if name != "train")
    return Problem(
        name="leak",
        severity="error",
        where=" and ".join(examples[0].parts),
        n=n,
        share=min(1.0, n / max(1, held_out)),
        told=(
            f"The same or nearly the same text stands in two parts: {told}. A test on it measures "
            "memory. Split again (split_pairs, split_training_set), or remove the leaking training "
            "pairs with drop_leaks."
        ),
    )
