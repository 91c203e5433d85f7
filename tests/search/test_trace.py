import logging

from lancedb_ft.search.trace import Trace, listen, new_trace, stage


def test_nobody_listens_and_nothing_is_written():
    assert new_trace() is None
    assert stage(None, "embed") is stage(None, "take")
    with stage(None, "embed"):
        pass


def test_a_listener_gets_each_trace_until_it_stops(caplog):
    seen = []
    stop = listen(seen.append)
    stop_failing = listen(lambda trace: 1 / 0)
    try:
        trace = new_trace()
        with stage(trace, "embed"):
            pass
        trace.ranked("fts", "text", "_score", [7, 8], [2.0, 1.0])
        trace.count("cache_hits")
        trace.count("cache_hits", 2)
        with caplog.at_level(logging.WARNING, "lancedb_ft.search"):
            trace.finish(ValueError("no"))
    finally:
        stop()
        stop_failing()
    assert seen == [trace]
    assert "a listener of searches failed" in caplog.text
    assert new_trace() is None
    told = trace.to_dict()
    assert told["error"] == "ValueError"
    assert told["counts"] == {"cache_hits": 3}
    assert told["stages"][0]["name"] == "embed"
    assert 0 <= trace.ms_of("embed") <= told["ms"]
    assert trace.ms_of("rerank") == 0
    assert told["legs"]["fts"]["row_ids"] == (7, 8)
    assert trace.legs["fts"].rank_of(8) == 2
    assert trace.legs["fts"].rank_of(9) is None


def test_a_stage_is_timed_also_when_it_fails():
    trace = Trace()
    try:
        with stage(trace, "rerank"):
            raise KeyError
    except KeyError:
        pass
    assert [found.name for found in trace.stages] == ["rerank"]
