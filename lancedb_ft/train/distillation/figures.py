"""What a student keeps of its teacher, and how much faster it is."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np

from lancedb_ft.encoder import Encoder
from lancedb_ft.errors import InputError
from lancedb_ft.evaluate.compare import bootstrap_means
from lancedb_ft.types import Estimate, Evaluation

__all__ = ["TIMED_STUDENT", "share_kept", "texts_per_s"]

#: Texts the rates are measured on: the student is the faster one.
TIMED_TEACHER, TIMED_STUDENT, ROUNDS = 512, 16_384, 3


def share_kept(
    teacher: Evaluation,
    student: Evaluation,
    metric: str = "ndcg@10",
    *,
    n_resamples: int = 10_000,
    seed: int = 0,
) -> Estimate:
    """Return the student's mean over the teacher's, with a paired bootstrap interval over queries.

    Raises
    ------
    InputError
        They are not of the same queries, or the teacher finds nothing at all.
    """
    ours, theirs = student.per_query[metric], teacher.per_query[metric]
    if ours.keys() != theirs.keys():
        raise InputError("Teacher and student were not asked the same queries.")
    both = np.array([[values[q] for q in theirs] for values in (theirs, ours)])
    if not both[0].any():
        raise InputError(f"The teacher's {metric} is 0 on every query: there is nothing to keep.")
    means = bootstrap_means(both, n_resamples=n_resamples, seed=seed)
    means = means[means[:, 0] > 0]
    low, high = np.quantile(means[:, 1] / means[:, 0], [0.025, 0.975])
    return Estimate(float(both[1].mean() / both[0].mean()), (float(low), float(high)), len(theirs))


def texts_per_s(teacher: Encoder, student: Any, texts: list[str]) -> dict[str, Any]:
    """Time both models on documents, in turns, each new to the texts as when a table is embedded.

    Parameters
    ----------
    student
        A sentence-transformers model.
    texts
        The teacher gets the first 512, the student the first 16,384.

    Returns
    -------
    dict
        ``teacher`` and ``student`` in texts a second (medians of three), ``ratio`` (median of the
        ratios), ``n_teacher``, ``n_student``.
    """
    plan = {"teacher": texts[:TIMED_TEACHER], "student": texts[:TIMED_STUDENT]}
    teacher.encode(plan["teacher"][:16])
    rates: dict[str, list[float]] = {role: [] for role in plan}
    for _ in range(ROUNDS):
        # A new one: a static model remembers pieces of texts it has seen. Made before the clock.
        running = {"teacher": teacher, "student": Encoder.of(student)}
        running["student"].encode(["warm"])
        for role, part in plan.items():
            started = time.perf_counter()
            running[role].encode(part)
            rates[role].append(len(part) / (time.perf_counter() - started))
    ratios = [s / t for s, t in zip(rates["student"], rates["teacher"], strict=True)]
    return {
        **{role: round(statistics.median(found), 1) for role, found in rates.items()},
        "ratio": round(statistics.median(ratios), 2),
        **{f"n_{role}": len(part) for role, part in plan.items()},
    }
