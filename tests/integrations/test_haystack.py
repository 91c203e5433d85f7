"""The adapters of Haystack, in Haystack's own pipelines."""

import copy

import pytest
from haystack import Document, Pipeline

import lancedb_ft as ft
from lancedb_ft.errors import ColumnNotFoundError, InputError
from lancedb_ft.integrations.haystack import (
    LancedbFtDocumentEmbedder,
    LancedbFtRetriever,
    LancedbFtTextEmbedder,
)


@pytest.fixture(scope="module")
def retriever(kb):
    return LancedbFtRetriever(str(kb._conn.uri), "docs", top_k=3)


def condition(field, operator, value):
    return {"field": field, "operator": operator, "value": value}


def test_it_finds_what_the_search_finds(kb, retriever):
    found = retriever.run("cancel order")["documents"]
    expected = ft.search(kb, "cancel order", k=3).to_pylist()
    assert [doc.id for doc in found] == [row["id"] for row in expected]
    assert [doc.content for doc in found] == [row["text"] for row in expected]
    assert found[0].score == pytest.approx(expected[0]["_relevance_score"])
    assert found[0].meta["year"] == expected[0]["year"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        (condition("meta.lang", "==", "de"), {"d3"}),
        (condition("lang", "!=", "en"), {"d3", "d4"}),
        (condition("meta.year", "in", [2021, 2022]), {"d2", "d4"}),
        (condition("meta.lang", "not in", ["en"]), {"d3", "d4"}),
        (condition("meta.lang", "==", None), {"d4"}),
        (
            {
                "operator": "AND",
                "conditions": [condition("meta.lang", "==", "en"), condition("year", ">", 2022)],
            },
            {"d0", "d1"},
        ),
        ({"operator": "NOT", "conditions": [condition("meta.lang", "==", "en")]}, {"d3", "d4"}),
    ],
)
def test_filters(retriever, filters, expected):
    given = copy.deepcopy(filters)
    found = retriever.run("order", filters=filters, top_k=10)["documents"]
    assert {doc.id for doc in found} == expected
    assert filters == given


@pytest.mark.parametrize(
    "filters",
    [
        {"operator": "XOR", "conditions": [condition("year", "==", 1)]},
        {"field": "year", "value": 1},
        condition("year", "like", 1),
        condition("year", ">", None),
        {"conditions": []},
    ],
)
def test_filters_that_cannot_be_used(retriever, filters):
    with pytest.raises(InputError):
        retriever.run("order", filters=filters)
    with pytest.raises(ColumnNotFoundError):
        retriever.run("order", filters=condition("meta.colour", "==", "red"))


async def test_async(retriever):
    plain = retriever.run("cancel order", top_k=2)
    assert await retriever.run_async("cancel order", top_k=2) == plain
    assert len(plain["documents"]) == 2


def test_a_pipeline_is_written_down_and_read_back(retriever, store):
    pipeline = Pipeline()
    pipeline.add_component("retriever", retriever)
    pipeline.add_component("embedder", LancedbFtDocumentEmbedder("tiny@1", store=store))
    pipeline.connect("retriever.documents", "embedder.documents")
    from haystack.core.serialization import allow_deserialization_module

    allow_deserialization_module("lancedb_ft.integrations.*")
    again = Pipeline.loads(pipeline.dumps())
    found = again.run({"retriever": {"query": "new password", "top_k": 1}})["embedder"]
    assert [doc.id for doc in found["documents"]] == ["d2"]
    assert len(found["documents"][0].embedding) == 16


async def test_embeddings_are_those_of_the_model(store, encoder):
    texts = ["choose a new password", "the quick brown fox"]
    documents = [Document(content=text, meta={"n": n}) for n, text in enumerate(texts)]
    given = copy.deepcopy(documents)
    embedder = LancedbFtDocumentEmbedder("tiny@1", store=store)
    found = embedder.run(documents)["documents"]
    assert [doc.embedding for doc in found] == encoder.encode(texts, kind="document").to_pylist()
    assert [(doc.id, doc.meta) for doc in found] == [(doc.id, doc.meta) for doc in documents]
    assert documents == given
    assert documents[0].embedding is None
    assert await embedder.run_async(documents) == {"documents": found}
    query = LancedbFtTextEmbedder("tiny@1", store=store)
    expected = encoder.encode(["fox"], kind="query")[0].as_py()
    assert query.run("fox") == {"embedding": expected}
    assert await query.run_async("fox") == {"embedding": expected}


def test_what_is_no_document_is_refused(store):
    with pytest.raises(InputError, match="list of Documents"):
        LancedbFtDocumentEmbedder("tiny@1", store=store).run(["text"])
