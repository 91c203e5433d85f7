"""Malformed and hostile input through the adapters: the right answer or an error of ours."""

import asyncio

import lancedb
import pytest
from llama_index.core.schema import QueryBundle
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters
from pydantic import ValidationError

from lancedb_ft.errors import FilterError, InputError, LancedbFtError, QueryError
from lancedb_ft.integrations import haystack, langchain, llama_index
from tests.search.hostile import HOSTILE, N_ROWS, VECTORS
from tests.search.words import words_table


@pytest.fixture(scope="module")
def docs(tmp_path_factory):
    return words_table(lancedb.connect(str(tmp_path_factory.mktemp("hostile"))), n_rows=N_ROWS)


def haystack_retriever(docs, **asked):
    return haystack.LancedbFtRetriever(str(docs._conn.uri), "docs", **asked)


def by_langchain(docs, query, k, where, **asked):
    """Both at the call."""
    return langchain.LancedbFtRetriever(table=docs, **asked).invoke(query, k=k, where=where)


def by_langchain_async(docs, query, k, where, **asked):
    """Both at first."""
    retriever = langchain.LancedbFtRetriever(table=docs, k=k, where=where, **asked)
    return asyncio.run(retriever.ainvoke(query))


def by_llama_index(docs, query, k, where, vector=None, **asked):
    retriever = llama_index.LancedbFtRetriever(docs, similarity_top_k=k, where=where, **asked)
    return retriever.retrieve(QueryBundle(query, embedding=vector))


def by_llama_index_async(docs, query, k, where, vector=None, **asked):
    retriever = llama_index.LancedbFtRetriever(docs, similarity_top_k=k, where=where, **asked)
    return asyncio.run(retriever.aretrieve(QueryBundle(query, embedding=vector)))


def by_haystack(docs, query, k, where, **asked):
    return haystack_retriever(docs, where=where, **asked).run(query, top_k=k)["documents"]


def by_haystack_async(docs, query, k, where, **asked):
    retriever = haystack_retriever(docs, where=where, top_k=k, **asked)
    return asyncio.run(retriever.run_async(query))["documents"]


#: What each adapter passes on. Queries and vectors of other types are refused by the frameworks.
PASSED = {"query", "k", "where", "mode", "select", "candidates"}
BY_LANGCHAIN = (by_langchain, by_langchain_async)
TAKES = {
    by_langchain: {*PASSED, "reranker", "options"},
    by_langchain_async: {*PASSED, "reranker", "options"},
    by_llama_index: {*PASSED, "reranker", "options", "vector"},
    by_llama_index_async: {*PASSED, "reranker", "options", "vector"},
    by_haystack: PASSED,
    by_haystack_async: PASSED,
}
#: LangChain's models make what they need of these, as pydantic does: 50 of "50".
MADE_FITTING = {"k is a float", "k is a boolean", "candidates are text", "options are a dict"}
ALL = {**HOSTILE, **VECTORS}
CASES = [
    (ask, name)
    for ask, takes in TAKES.items()
    for name, (given, _) in ALL.items()
    if set(given) <= takes and not (ask in BY_LANGCHAIN and name in MADE_FITTING)
]


@pytest.mark.parametrize("ask", TAKES, ids=lambda ask: ask.__name__)
def test_each_adapter_gets_24_of_them_at_least(ask):
    assert sum(case[0] is ask for case in CASES) >= 24


@pytest.mark.parametrize(
    ("ask", "name"), CASES, ids=[f"{ask.__name__}-{name}" for ask, name in CASES]
)
def test_the_right_answer_or_an_error_of_ours(docs, ask, name):
    given, expected = ALL[name]
    asked = {"query": "document", "k": 10, "where": None, **given}
    if isinstance(expected, int):
        assert len(ask(docs, **asked)) == min(expected, asked["k"])
    else:
        # What a framework itself checks by type, it says in its own words.
        with pytest.raises((expected, ValidationError)) as caught:
            ask(docs, **asked)
        assert isinstance(caught.value, (LancedbFtError, ValidationError))


@pytest.mark.parametrize("table", [None, "docs", 5])
def test_what_is_no_table(table):
    with pytest.raises(ValidationError, match="Cannot search"):  # pydantic's, around ours
        langchain.LancedbFtRetriever(table=table)
    with pytest.raises(QueryError, match="Cannot search"):
        llama_index.LancedbFtRetriever(table)


GROUP_1 = MetadataFilters(filters=[MetadataFilter(key="group", value=1)])
UNDOING = ("true) OR (true", "true /*", "true OR 'x", "true; --", "", "id = ?")


@pytest.mark.parametrize("where", UNDOING)
def test_no_filter_undoes_the_one_beside_it(docs, where):
    equal = {"field": "meta.group", "operator": "==", "value": 1}
    tenant = langchain.LancedbFtRetriever(table=docs, k=N_ROWS, where="`group` = 1")
    retriever = haystack_retriever(docs, filters=equal, where=where)
    with pytest.raises(FilterError):
        tenant.invoke("document", where=where)
    with pytest.raises(FilterError):
        asyncio.run(tenant.ainvoke("document", where=where))
    with pytest.raises(FilterError):
        llama_index.LancedbFtRetriever(docs, filters=GROUP_1, where=where).retrieve("document")
    with pytest.raises(FilterError):
        retriever.run("document")
    with pytest.raises(FilterError):
        asyncio.run(retriever.run_async("document"))


@pytest.mark.parametrize("where", ["`group` < 2 -- a note", "`group` = 1 OR `group` = 0", "true"])
def test_filters_hold_together(docs, where):
    equal = {"field": "meta.group", "operator": "==", "value": 1}
    tenant = langchain.LancedbFtRetriever(table=docs, k=N_ROWS, where=where)
    nodes = llama_index.LancedbFtRetriever(
        docs, similarity_top_k=N_ROWS, filters=GROUP_1, where=where
    ).retrieve("document")
    found = haystack_retriever(docs, top_k=N_ROWS, filters=equal, where=where).run("document")
    for rows in (
        [doc.metadata for doc in tenant.invoke("document", where="`group` = 1 -- theirs")],
        [node.metadata for node in nodes],
        [doc.meta for doc in found["documents"]],
    ):
        assert [row["group"] for row in rows] == [1] * 10


@pytest.mark.parametrize(
    "filters",
    [
        {"field": "meta.group", "operator": ["=="], "value": 1},
        {"field": ["meta.group"], "operator": "==", "value": 1},
        {"field": "meta.group", "operator": None, "value": 1},
        {"operator": ["AND"], "conditions": [{"field": "id", "operator": "==", "value": "d1"}]},
        {"operator": "AND", "conditions": 5},
        {"field": "meta.group", "operator": "==", "value": {"a": 1}},
        {"field": "meta.id", "operator": "in", "value": "d1"},
        {"field": "meta.`id` OR true", "operator": "==", "value": 1},
        [1],
        "id = 'd1'",
    ],
)
def test_what_is_no_filter_of_haystack(docs, filters):
    with pytest.raises(InputError):
        haystack_retriever(docs).run("document", filters=filters)
