"""Spans, metrics and logs of searches, received by the real OpenTelemetry SDK."""

import io
import json
import logging

import lancedb
import pytest
from opentelemetry import trace as api
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from lancedb_ft import telemetry
from lancedb_ft.errors import ColumnNotFoundError, FilterError
from lancedb_ft.search import Searcher, SearchOptions
from lancedb_ft.search.trace import new_trace
from lancedb_ft.telemetry import JsonFormatter, log_searches, send_telemetry
from tests.search.words import rows, words_table


@pytest.fixture(scope="module")
def searcher(tmp_path_factory):
    table = words_table(lancedb.connect(tmp_path_factory.mktemp("telemetry")), n_rows=40)
    table.add(rows(40, 43))  # in no index yet
    with Searcher(table) as searcher:
        yield searcher


@pytest.fixture
def received():
    """What the SDK exports: a function for the spans, one for the metrics, and the provider."""
    exporter, reader = InMemorySpanExporter(), InMemoryMetricReader()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    meters = MeterProvider([reader])
    stop = send_telemetry(tracer_provider=tracers, meter_provider=meters)

    def points():
        found = {}
        data = reader.get_metrics_data()
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    found[metric.name] = list(metric.data.data_points)
        return found

    yield exporter.get_finished_spans, points, tracers
    stop()
    tracers.shutdown()
    meters.shutdown()


def root_of(spans):
    (root,) = [span for span in spans if span.name == "lancedb_ft.search"]
    return root


def test_a_search_is_a_span_and_its_stages_are_its_children(searcher, received):
    spans, _, _ = received
    found = searcher.search("document number 7", k=5)
    root = root_of(spans())
    stages = [span for span in spans() if span is not root]
    assert {span.name.rpartition(".")[2] for span in stages} >= {"embed", "vector", "fts", "fuse"}
    for span in stages:
        assert span.parent.span_id == root.context.span_id
        assert root.start_time <= span.start_time <= span.end_time <= root.end_time
    told = dict(root.attributes)
    assert told["db.system.name"] == "lancedb"
    assert told["db.collection.name"] == "docs"
    assert told["db.response.returned_rows"] == found.num_rows == 5
    assert told["lancedb_ft.mode"] == "hybrid"
    assert told["lancedb_ft.fusion"] == "rrf"
    assert told["lancedb_ft.column"] == "vector"
    assert told["lancedb_ft.model"] == "search-words"
    assert told["lancedb_ft.unindexed"] >= 3
    assert "lancedb_ft.degraded" not in told


async def test_it_is_within_the_span_around_the_call(searcher, received):
    spans, _, tracers = received
    tracer = tracers.get_tracer("application")
    with tracer.start_as_current_span("request") as request:
        await searcher.search_async("document number 8", k=1)
    assert root_of(spans()).parent.span_id == request.get_span_context().span_id


def test_metrics(searcher, received):
    _, points, _ = received
    for number in (1, 2, 1):
        searcher.search(f"document number {number}", k=2)
    found = points()
    (duration,) = found["lancedb_ft.search.duration"]
    assert duration.count == 3
    assert 0 < duration.sum < 60
    assert duration.attributes["lancedb_ft.model"] == "search-words"
    stages = {p.attributes["lancedb_ft.stage"]: p.count for p in found[DURATIONS]}
    assert stages["fts"] == stages["vector"] == 3
    events = {p.attributes["lancedb_ft.event"]: p.value for p in found["lancedb_ft.search.events"]}
    assert events["query_vectors_kept"] + events["query_vectors_embedded"] == 3
    assert events["query_vectors_kept"] >= 1
    (unindexed,) = found["lancedb_ft.search.unindexed"]
    assert unindexed.min >= 3


DURATIONS = "lancedb_ft.search.stage.duration"


def test_a_search_that_fails_is_told_with_its_class(searcher, received):
    spans, points, _ = received
    with pytest.raises(FilterError):
        searcher.search("document", where="no such column")
    root = root_of(spans())
    assert root.status.status_code is api.StatusCode.ERROR
    assert root.attributes["error.type"] == "FilterError"
    (duration,) = points()["lancedb_ft.search.duration"]
    assert duration.attributes["error.type"] == "FilterError"


def test_a_degraded_search_is_counted_by_its_part(searcher, received):
    spans, points, _ = received
    from lancedb.rerankers import Reranker

    class Slow(Reranker):
        def rerank_hybrid(self, query, vector_results, fts_results):
            import time

            time.sleep(0.5)
            return self.merge_results(vector_results, fts_results)

    options = SearchOptions(budget_ms=300)
    searcher.search("document number 3", k=2)  # so that only the reranker can be late
    found = searcher.search("document number 3", k=2, reranker=Slow(), options=options)
    assert found.num_rows == 2
    degraded = [s.attributes.get("lancedb_ft.degraded") for s in spans() if s.parent is None]
    assert ("rerank: late",) in degraded
    counted = points()["lancedb_ft.search.degraded"]
    assert [(p.attributes["lancedb_ft.part"], p.value) for p in counted] == [("rerank", 1)]


def test_the_words_of_a_query_are_never_told(searcher, received):
    spans, points, _ = received
    searcher.search("unmistakable words", k=2, where="text != 'unmistakable'")
    told = "".join(span.to_json() for span in spans()) + repr(points())
    assert "unmistakable" not in told
    assert "document number" not in told


def test_it_stops_and_then_queries_carry_nothing(searcher):
    exporter = InMemorySpanExporter()
    tracers = TracerProvider()
    tracers.add_span_processor(SimpleSpanProcessor(exporter))
    stop = send_telemetry(tracer_provider=tracers)
    stop()
    assert new_trace() is None
    searcher.search("document number 1", k=1)
    assert exporter.get_finished_spans() == ()
    tracers.shutdown()


def test_without_opentelemetry_nothing_is_sent(monkeypatch):
    monkeypatch.setattr(telemetry, "find_spec", lambda name: None)
    stop = send_telemetry()
    assert new_trace() is None
    stop()


@pytest.fixture
def lines():
    """A logger that writes JSON lines; what it wrote."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter())
    logger = logging.getLogger("tests.searches")
    logger.propagate = False
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield logger, lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logger.removeHandler(handler)


def test_logs_are_lines_of_json(searcher, lines):
    logger, written = lines
    stop = log_searches(logger)
    try:
        searcher.search("document number 2", k=3)
        with pytest.raises(ColumnNotFoundError):
            searcher.search("document", select=["no"])
    finally:
        stop()
    searcher.search("document number 2", k=3)
    good, bad = written()
    assert good["level"] == "INFO"
    assert good["lancedb_ft"]["table"] == "docs"
    assert good["lancedb_ft"]["n_results"] == 3
    assert good["lancedb_ft"]["ms"] > 0
    assert good["lancedb_ft"]["stages_ms"]["fts"] > 0
    assert "mode=hybrid" in good["message"]
    assert (bad["level"], bad["lancedb_ft"]["error"]) == ("WARNING", "ColumnNotFoundError")


def test_any_record_can_be_written(lines):
    logger, written = lines
    try:
        raise ValueError("no")
    except ValueError:
        logger.exception("failed: %s", "é\n", extra={"thing": object})
    (line,) = written()
    assert line["message"] == "failed: é\n"
    assert "ValueError: no" in line["exception"]
    assert "object" in line["thing"]
