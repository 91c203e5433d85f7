"""Where a table finds what was learned about searching it: beside the model it searches with."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lancedb_ft.embedding import ALIAS
from lancedb_ft.errors import InputError, LancedbFtError
from lancedb_ft.search.embed import function_of
from lancedb_ft.search.fusion import FUSIONS
from lancedb_ft.search.learned import LearnedRanking
from lancedb_ft.search.query import SearchRequest
from lancedb_ft.search.snapshot import Snapshot
from lancedb_ft.search.trace import Trace
from lancedb_ft.store import ModelStore
from lancedb_ft.types import Mode

__all__ = ["chosen", "keep_ranking", "model_place", "ranking_of"]

_log = logging.getLogger("lancedb_ft.search")

#: A ranking that was fitted anew is seen by running processes after that long.
_FRESH_FOR_S = 60.0
_known: dict[tuple[str, str, str], tuple[float, LearnedRanking | None]] = {}
_lock = threading.Lock()


def model_place(entry: Mapping[str, Any] | None, *, table: str) -> tuple[str, str] | None:
    """Return the store and the reference of the model version that an entry names.

    None where the column has no function, or one whose model is in no store of ours.
    """
    if entry is None or entry["name"] != ALIAS:
        return None
    function = function_of(entry, table=table)
    store, reference = getattr(function, "store", None), str(getattr(function, "name", ""))
    return None if store is None or "@" not in reference else (str(store), reference)


def ranking_of(entry: Mapping[str, Any] | None, *, table: str) -> LearnedRanking | None:
    """Return what was learned for a table and the model in its entry; None where nothing was.

    Looked up once a minute, so that a query costs no read of the store. What cannot be read is
    told in the log and counts as nothing: a search is not lost for it.
    """
    place = model_place(entry, table=table)
    if place is None:
        return None
    key = (*place, table)
    now_s = time.monotonic()
    known = _known.get(key)
    if known is not None and now_s < known[0]:
        return known[1]
    with _lock:
        known = _known.get(key)
        if known is not None and now_s < known[0]:
            return known[1]  # another thread was here first
        _known[key] = (now_s + _FRESH_FOR_S, found := _read(*key))
        return found


def keep_ranking(
    entry: Mapping[str, Any] | None, ranking: LearnedRanking, *, table: str
) -> tuple[str, str]:
    """Keep a ranking beside the model of an entry; return its store and reference.

    Raises
    ------
    InputError
        The model is in no store of ours.
    """
    place = model_place(entry, table=table)
    if place is None:
        raise InputError(
            f"Table {table!r} does not search with a model of a store, so there is no version to "
            "keep the result with. Name a file instead: to='ranking.json' (--to ranking.json)."
        )
    ModelStore(place[0]).keep_ranking(place[1], table, ranking.to_json())
    with _lock:
        _known.pop((*place, table), None)
    return place


def chosen(request: SearchRequest, snapshot: Snapshot, trace: Trace | None) -> SearchRequest:
    """Return the request with its mode and its fusion settled: no name and no ``auto`` is left.

    Where nothing was learned for the model that the table searches with now, a query is answered
    as by default: a switch of the model must not break an application.
    """
    fusion = request.options.fusion
    if fusion is None and request.mode != "auto":
        return request
    learned = fusion if isinstance(fusion, LearnedRanking) else None
    if learned is None and (fusion == "learned" or request.mode == "auto"):
        target = snapshot.target(request.column)
        learned = ranking_of(target.function, table=snapshot.table)
    mode = request.mode
    if mode == "auto":
        rule = None if learned is None else learned.auto
        mode = "hybrid" if rule is None else _that_serves(rule.choose(request.text or ""), request)
        if trace is not None:
            trace.notes["auto"] = f"{mode}, " + ("nothing learned" if rule is None else "learned")
    if isinstance(fusion, LearnedRanking) or fusion == "learned":
        fusion = None if learned is None else learned.fusion
    elif isinstance(fusion, str):
        fusion = FUSIONS[fusion]
    return replace(
        request,
        mode=mode,
        options=replace(request.options, fusion=fusion),
        candidates=request.candidates or (fusion.candidates if fusion is not None else None),
    )


def _that_serves(mode: Mode, request: SearchRequest) -> Mode:
    """Return the mode, or hybrid where it would leave out what the request asks for."""
    options = request.options
    drops_match = mode == "vector" and options.match is not None
    drops_distance = mode == "fts" and options.max_distance is not None
    return "hybrid" if drops_match or drops_distance else mode


def _read(store: str, reference: str, table: str) -> LearnedRanking | None:
    try:
        text = ModelStore(store).ranking(reference, table)
        if text is None:
            _log.warning(
                "nothing was learned about searching table %r with %s: hybrid search, fused by "
                "reciprocal rank; learn it with: lancedb-ft fusion fit",
                table,
                reference,
            )
            return None
        return LearnedRanking.from_json(text, where=f"the ranking of {table!r} with {reference}")
    except (LancedbFtError, OSError) as error:
        _log.warning("the ranking of table %r with %s cannot be read: %s", table, reference, error)
        return None
