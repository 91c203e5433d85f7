"""What searches did, for whoever runs them: OpenTelemetry spans and metrics, and structured logs.

Nothing of this runs unless it is asked for, and a query pays nothing until then. Names of tables,
columns and models are told; the text of queries and the content of rows never are.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from lancedb_ft._version import __version__
from lancedb_ft.search.trace import Trace, listen

if TYPE_CHECKING:
    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import TracerProvider

__all__ = ["JsonFormatter", "log_searches", "send_telemetry"]

_log = logging.getLogger("lancedb_ft.telemetry")
_SCOPE = "lancedb_ft"
#: What a logging.LogRecord has by itself: all else was given as ``extra``.
_RECORD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def send_telemetry(
    *,
    tracer_provider: TracerProvider | None = None,
    meter_provider: MeterProvider | None = None,
) -> Callable[[], None]:
    """Send a span for each search and its stages, and metrics, from now on.

    The span ``lancedb_ft.search`` is a child of the span that was current where the search was
    called; its children are ``lancedb_ft.search.embed``, ``.vector``, ``.fts``, ``.fuse``,
    ``.rerank``, ``.take``. Metrics: ``lancedb_ft.search.duration`` and ``.stage.duration``
    (seconds), ``.unindexed`` (rows that were searched one by one), ``.degraded``, and ``.events``
    (what the parts of a search count: cache hits, rows of each tier).

    Parameters
    ----------
    tracer_provider, meter_provider
        Where to send them; by default the global ones of OpenTelemetry, which an application sets
        up. Without an SDK they drop everything.

    Returns
    -------
    function
        Call it to stop. Where OpenTelemetry is not installed (extra ``telemetry``) nothing is sent.

    Examples
    --------
    >>> stop = send_telemetry()                                              # doctest: +SKIP
    """
    if find_spec("opentelemetry") is None:
        _log.info('OpenTelemetry is not installed: pip install "lancedb-ft[telemetry]"')
        return lambda: None
    spans = _Spans(tracer_provider)
    metrics = _Metrics(meter_provider)

    def told(trace: Trace) -> None:
        spans.send(trace)
        metrics.send(trace)

    return listen(told)


def log_searches(
    logger: logging.Logger | None = None, *, level: int = logging.INFO
) -> Callable[[], None]:
    """Log one line for each search from now on, with its figures as fields of the record.

    Parameters
    ----------
    logger
        Where to; by default ``lancedb_ft.searches``. A search that failed or was degraded is
        logged as a warning.
    level
        Of the others.

    Returns
    -------
    function
        Call it to stop.
    """
    to = logger or logging.getLogger("lancedb_ft.searches")

    def told(trace: Trace) -> None:
        wrong = bool(trace.degraded or trace.error)
        rank = logging.WARNING if wrong else level
        if to.isEnabledFor(rank):
            fields = _facts(trace)
            line = " ".join(f"{name}={value}" for name, value in fields.items())
            to.log(rank, "search %s", line, extra={"lancedb_ft": fields})

    return listen(told)


class JsonFormatter(logging.Formatter):
    """Write each log record as one line of JSON, the fields of its ``extra`` included.

    Examples
    --------
    >>> handler = logging.StreamHandler()
    >>> handler.setFormatter(JsonFormatter())
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON."""
        at = datetime.fromtimestamp(record.created, timezone.utc)
        told: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        told |= {name: value for name, value in vars(record).items() if name not in _RECORD}
        if record.exc_info:
            told["exception"] = self.formatException(record.exc_info)
        return json.dumps(told, ensure_ascii=False, default=str)


def _facts(trace: Trace) -> dict[str, Any]:
    """Return what is told of a query, without what is unknown."""
    stages: dict[str, float] = {}
    for stage in trace.stages:
        stages[stage.name] = round(stages.get(stage.name, 0.0) + stage.ms, 3)
    facts: dict[str, Any] = {
        "table": trace.table,
        "version": trace.version,
        "mode": trace.mode,
        "k": trace.k,
        "column": trace.column,
        "model": trace.model,
        "fusion": trace.fusion,
        "reranker": trace.reranker,
        "n_results": len(trace.row_ids),
        "n_unindexed": _unindexed(trace),
        "ms": round(trace.ms, 3),
        "stages_ms": stages,
        "counts": dict(trace.counts),
        "degraded": list(trace.degraded),
        "error": trace.error,
    }
    return {name: value for name, value in facts.items() if value not in (None, [], {}, "")}


def _unindexed(trace: Trace) -> int:
    return sum(index.n_unindexed for index in trace.indexes)


class _Spans:
    """Makes spans of traces, after the fact: a trace has all the times."""

    def __init__(self, provider: TracerProvider | None) -> None:
        from opentelemetry import trace as api

        tracers = provider or api.get_tracer_provider()
        self._tracer = tracers.get_tracer(_SCOPE, __version__)
        self._kind = api.SpanKind.CLIENT
        self._failed = api.StatusCode.ERROR
        self._within = api.set_span_in_context

    def send(self, trace: Trace) -> None:
        from opentelemetry import context

        # What was current where the search was called, which may be another thread.
        around = trace.context.run(context.get_current)
        span = self._tracer.start_span(
            "lancedb_ft.search",
            context=around,
            kind=self._kind,
            start_time=trace.started_ns,
            attributes=_attributes(trace),
        )
        if span.is_recording():
            if trace.error is not None:
                span.set_status(self._failed, trace.error)
            inside = self._within(span, around)
            for stage in trace.stages:
                start_ns = trace.started_ns + _ns(stage.start_ms)
                child = self._tracer.start_span(
                    f"lancedb_ft.search.{stage.name}", context=inside, start_time=start_ns
                )
                child.end(start_ns + _ns(stage.ms))
        span.end(trace.started_ns + _ns(trace.ms))


class _Metrics:
    """Counts and times, with labels of few values only."""

    def __init__(self, provider: MeterProvider | None) -> None:
        from opentelemetry import metrics as api

        meter = (provider or api.get_meter_provider()).get_meter(_SCOPE, __version__)
        self._duration = meter.create_histogram(
            "lancedb_ft.search.duration", unit="s", description="Time of a search."
        )
        self._stage = meter.create_histogram(
            "lancedb_ft.search.stage.duration", unit="s", description="Time of a stage of a search."
        )
        self._unindexed = meter.create_histogram(
            "lancedb_ft.search.unindexed",
            unit="{row}",
            description="Rows in no index, searched one by one.",
        )
        self._degraded = meter.create_counter(
            "lancedb_ft.search.degraded", unit="{search}", description="Searches answered in part."
        )
        self._events = meter.create_counter(
            "lancedb_ft.search.events", description="What the parts of a search count."
        )

    def send(self, trace: Trace) -> None:
        table = {"db.collection.name": trace.table}
        labels: dict[str, Any] = {
            **table,
            "lancedb_ft.mode": trace.mode,
            "lancedb_ft.model": trace.model or "",
        }
        if trace.error is not None:
            labels["error.type"] = trace.error
        self._duration.record(trace.ms / 1000, labels)
        for stage in trace.stages:
            self._stage.record(stage.ms / 1000, {**table, "lancedb_ft.stage": stage.name})
        if trace.indexes:
            self._unindexed.record(_unindexed(trace), table)
        for reason in trace.degraded:
            part = reason.partition(":")[0]  # the rest can be the words of a remote service
            self._degraded.add(1, {**table, "lancedb_ft.part": part})
        for name, n in trace.counts.items():
            self._events.add(n, {**table, "lancedb_ft.event": name})


def _attributes(trace: Trace) -> Mapping[str, Any]:
    """Return the attributes of the span of a search, by OpenTelemetry's names where it has one."""
    attributes: dict[str, Any] = {
        "db.system.name": "lancedb",
        "db.operation.name": "search",
        "db.collection.name": trace.table,
        "db.response.returned_rows": len(trace.row_ids),
        "lancedb_ft.table_version": trace.version,
        "lancedb_ft.mode": trace.mode,
        "lancedb_ft.k": trace.k,
        "lancedb_ft.column": trace.column,
        "lancedb_ft.model": trace.model,
        "lancedb_ft.model_fingerprint": trace.fingerprint,
        "lancedb_ft.fusion": trace.fusion,
        "lancedb_ft.reranker": trace.reranker,
        "lancedb_ft.unindexed": _unindexed(trace),
        "lancedb_ft.degraded": tuple(trace.degraded),
        "error.type": trace.error,
        **{f"lancedb_ft.count.{name}": n for name, n in trace.counts.items()},
        **{f"lancedb_ft.note.{name}": words for name, words in trace.notes.items()},
    }
    return {name: value for name, value in attributes.items() if value not in (None, ())}


def _ns(ms: float) -> int:
    return int(1_000_000 * ms)
